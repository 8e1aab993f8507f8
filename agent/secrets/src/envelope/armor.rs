//! Age files in ASCII armor.

use std::io::{Read as _, Write as _};

use thiserror::Error;
use zeroize::Zeroizing;

use super::name::{VERSION, ValueName};
use crate::Identities;

/// The maximum number of bytes of an envelope's armor.
pub const MAX_ARMOR: usize = 2 << 20;

/// The first line of the armor.
pub const ARMOR: &str = "-----BEGIN AGE ENCRYPTED FILE-----";

/// The reason why an envelope does not open.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum OpenError {
    /// The error that a text is not an envelope.
    #[error("the value is not encrypted with age: {0}")]
    NotAge(String),
    /// The error that the envelope is encrypted to other recipients.
    #[error("none of the identities is a recipient of the value")]
    NoIdentity,
    /// The error that the envelope belongs to another value.
    #[error("the envelope was copied: it belongs to {belongs}, and opens only there")]
    Elsewhere {
        /// The name of the value for which the envelope was made.
        belongs: ValueName,
    },
    /// The error that a newer version of Towpath made the envelope.
    #[error("the envelope has version {0}, and this towpath reads version {VERSION}; upgrade towpath")]
    Version(u8),
    /// The error that the envelope is damaged.
    #[error("the envelope is damaged: {0}")]
    Damaged(String),
}

/// Encrypts bytes to recipients of age, and returns the armor.
pub(crate) fn encrypt<'a>(
    plain: &[u8],
    recipients: impl Iterator<Item = &'a dyn age::Recipient>,
) -> Result<String, String> {
    let encryptor = age::Encryptor::with_recipients(recipients).map_err(|error| error.to_string())?;
    let mut armor = Vec::new();
    let armored = age::armor::ArmoredWriter::wrap_output(&mut armor, age::armor::Format::AsciiArmor);
    let written = armored.and_then(|armored| encryptor.wrap_output(armored)).and_then(|mut writer| {
        writer.write_all(plain)?;
        writer.finish()?.finish()
    });
    written.map_err(|error| error.to_string())?;
    String::from_utf8(armor).map_err(|error| error.to_string())
}

/// Decrypts the armor of an age file.
pub(crate) fn decrypt(armor: &str, identities: &Identities) -> Result<Zeroizing<Vec<u8>>, OpenError> {
    let bytes = binary(armor)?;
    let decryptor = age::Decryptor::new(&bytes[..]).map_err(not_opened)?;
    let mut reader = decryptor.decrypt(identities.age()).map_err(not_opened)?;
    // The plaintext is never longer than the ciphertext, so the buffer does not grow and leaves no copies.
    let mut plain = Zeroizing::new(Vec::with_capacity(bytes.len()));
    reader.read_to_end(&mut plain).map_err(|error| OpenError::Damaged(error.to_string()))?;
    Ok(plain)
}

/// Returns the binary age file in an armor.
pub(super) fn binary(armor: &str) -> Result<Vec<u8>, OpenError> {
    if armor.len() > MAX_ARMOR {
        return Err(OpenError::NotAge(format!("it has {} bytes, and at most {MAX_ARMOR} are read", armor.len())));
    }
    let armor = armor.trim();
    if !armor.starts_with(ARMOR) {
        return Err(OpenError::NotAge(format!("it does not begin with {ARMOR}")));
    }
    let mut bytes = Vec::with_capacity(armor.len());
    let mut reader = age::armor::ArmoredReader::new(armor.as_bytes());
    reader.read_to_end(&mut bytes).map_err(|error| OpenError::Damaged(error.to_string()))?;
    Ok(bytes)
}

pub(super) fn not_opened(error: age::DecryptError) -> OpenError {
    match error {
        age::DecryptError::NoMatchingKeys => OpenError::NoIdentity,
        age::DecryptError::UnknownFormat => OpenError::NotAge("it is not a file of age v1".into()),
        other => OpenError::Damaged(other.to_string()),
    }
}
