//! The identity of a node: an ed25519 key for signatures, and an X25519 key for sealed values.
//!
//! Guarantees:
//! - The identity is created on the node and does not change.
//! - The secret key is in one file that only the owner of the file can read.
//! - The X25519 key is derived from the ed25519 key, so a node has only one secret to protect.
//! - No output of this module contains a secret.

mod certificate;
mod credentials;
mod digest;
mod issue;
mod revoked;
mod seal;
mod signing_identity;

use std::{
    fmt, fs,
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use ed25519_dalek::{
    Signature, Signer as _, SigningKey, Verifier as _, VerifyingKey,
    pkcs8::{DecodePrivateKey as _, EncodePrivateKey as _, KeypairBytes, spki::der::pem::LineEnding},
};
use thiserror::Error;
use x25519_dalek::StaticSecret;

pub use certificate::{CertificateTerm, Role, Subject, Trust, valid_until};
pub use credentials::{Credentials, Loaded, TlsFiles};
pub use digest::keyed_digest;
pub use issue::{Authority, Request, may_be_named, write_certificate};
pub use revoked::{Revoked, RevokedUse, serial, serial_of_pem};
pub use seal::{SealKey, seal};
pub use signing_identity::{PresentedKey, SigningIdentity, has_signed};

/// An error of a key file or a certificate.
#[derive(Debug, Error)]
pub enum IdentityError {
    /// The error that a file cannot be read or written.
    #[error("cannot use the file {file}", file = .file.display())]
    File {
        /// The path of the file.
        file: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// The error that a file does not contain an ed25519 key.
    #[error("cannot read an ed25519 key in PEM (PKCS#8) from {file}: {why}", file = .file.display())]
    NoKey {
        /// The path of the file.
        file: PathBuf,
        /// The cause.
        why: String,
    },
    /// The error that a certificate cannot be used or issued.
    #[error("{what}: {why}")]
    Certificate {
        /// The name or the path of the certificate.
        what: String,
        /// The reason why the certificate cannot be used or issued.
        why: String,
    },
}

pub(crate) fn unusable(file: &Path) -> impl FnOnce(std::io::Error) -> IdentityError {
    let file = file.to_owned();
    move |source| IdentityError::File { file, source }
}

/// The secret keys of a node. The secret keys sign records and decrypt values.
pub struct Identity {
    signing: SigningKey,
    reading: StaticSecret,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("keys", &self.keys()).finish_non_exhaustive()
    }
}

impl Identity {
    fn of(seed: &[u8; 32]) -> Self {
        let signing = SigningKey::from_bytes(seed);
        let mut reading = [0_u8; 32];
        let derived = hkdf::Hkdf::<sha2::Sha256>::new(None, seed).expand(b"towpath identity x25519", &mut reading);
        // HKDF fails only for outputs that are much longer than 32 bytes.
        debug_assert!(derived.is_ok());
        Self { signing, reading: StaticSecret::from(reading) }
    }

    /// Creates a new identity.
    ///
    /// # Errors
    /// Returns an error if the kernel does not provide random bytes.
    pub fn make() -> Result<Self, std::io::Error> {
        let mut seed = [0_u8; 32];
        let got = rustix::rand::getrandom(&mut seed, rustix::rand::GetRandomFlags::empty())?;
        if got != seed.len() {
            return Err(std::io::Error::other("the kernel provided too few random bytes"));
        }
        Ok(Self::of(&seed))
    }

    /// Reads the identity from a file. If the file is missing, a new identity is created and written to the file.
    ///
    /// # Errors
    /// Returns an error if the file cannot be read or written, or does not contain an ed25519 key.
    pub fn open(file: &Path) -> Result<Self, IdentityError> {
        match fs::read_to_string(file) {
            Ok(text) => Self::from_pem(&text, file),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let made = Self::make().map_err(unusable(file))?;
                made.write(file)?;
                Ok(made)
            }
            Err(error) => Err(unusable(file)(error)),
        }
    }

    /// Reads an identity from PEM. Error messages show `file` as the path of the key file.
    ///
    /// # Errors
    /// Returns an error if the text does not contain an ed25519 key.
    pub fn from_pem(text: &str, file: &Path) -> Result<Self, IdentityError> {
        let keys = KeypairBytes::from_pkcs8_pem(text)
            .map_err(|error| IdentityError::NoKey { file: file.to_owned(), why: error.to_string() })?;
        Ok(Self::of(&keys.secret_key))
    }

    /// Writes the identity to a new file that only its owner can read.
    ///
    /// # Errors
    /// Returns an error if the file exists, or cannot be written.
    pub fn write(&self, file: &Path) -> Result<(), IdentityError> {
        // The public half is omitted, because openssl before version 3 cannot read a key file with a public half.
        let keys = KeypairBytes { secret_key: self.signing.to_bytes(), public_key: None };
        let pem = keys
            .to_pkcs8_pem(LineEnding::LF)
            .map_err(|error| IdentityError::NoKey { file: file.to_owned(), why: error.to_string() })?;
        let mut made =
            fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(file).map_err(unusable(file))?;
        made.write_all(pem.as_bytes()).and_then(|()| made.sync_all()).map_err(unusable(file))
    }

    /// Returns the public keys that belong to the secret keys.
    pub fn keys(&self) -> PublicKeys {
        PublicKeys {
            sign: self.signing.verifying_key().to_bytes(),
            read: x25519_dalek::PublicKey::from(&self.reading).to_bytes(),
        }
    }

    /// Returns the secret X25519 key, which decrypts values. The `age` identity of the node is made from the secret
    /// X25519 key.
    pub fn reading_key(&self) -> zeroize::Zeroizing<[u8; 32]> {
        zeroize::Zeroizing::new(self.reading.to_bytes())
    }

    /// Signs bytes with the secret ed25519 key.
    pub fn sign(&self, bytes: &[u8]) -> [u8; 64] {
        self.signing.sign(bytes).to_bytes()
    }
}

/// The public keys of a node. Other nodes use the public keys to verify the node's signatures and to encrypt values for
/// the node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKeys {
    /// The ed25519 key that verifies signatures.
    pub sign: [u8; 32],
    /// The X25519 key with which other nodes encrypt values for this node.
    pub read: [u8; 32],
}

impl fmt::Debug for PublicKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.texts().join(" "))
    }
}

impl PublicKeys {
    /// Returns the keys as texts, in the form of the field `publicKeys` of a Node.
    pub fn texts(&self) -> [String; 2] {
        [
            format!("ed25519:{}", STANDARD_NO_PAD.encode(self.sign)),
            format!("x25519:{}", STANDARD_NO_PAD.encode(self.read)),
        ]
    }

    /// Parses the keys in the field `publicKeys` of a Node; `None` if a key is missing or not valid.
    pub fn read(texts: &[String]) -> Option<Self> {
        let key = |kind: &str| {
            let text = texts.iter().find_map(|text| text.trim().strip_prefix(kind)?.strip_prefix(':'))?;
            <[u8; 32]>::try_from(STANDARD_NO_PAD.decode(text.trim_end_matches('=')).ok()?).ok()
        };
        Some(Self { sign: key("ed25519")?, read: key("x25519")? })
    }

    /// Returns true if the signature over the bytes matches the public ed25519 key.
    pub fn signed(&self, bytes: &[u8], signature: &[u8]) -> bool {
        let Ok(key) = VerifyingKey::from_bytes(&self.sign) else { return false };
        Signature::from_slice(signature).is_ok_and(|signature| key.verify(bytes, &signature).is_ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identity_is_made_once_and_kept() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("identity.key");
        let made = Identity::open(&file).unwrap();
        assert_eq!(Identity::open(&file).unwrap().keys(), made.keys());
        let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&file).unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600);
        assert_ne!(Identity::make().unwrap().keys(), made.keys());
        assert!(!format!("{made:?}").contains("PRIVATE"));
        assert_eq!(PublicKeys::read(&made.keys().texts()), Some(made.keys()));
        let signature = made.sign(b"x");
        assert!(made.keys().signed(b"x", &signature) && !made.keys().signed(b"y", &signature));
        assert!(!made.keys().signed(b"x", b"short"));
        fs::write(&file, "nothing").unwrap();
        assert!(Identity::open(&file).unwrap_err().to_string().contains("cannot read an ed25519 key"));
    }
}
