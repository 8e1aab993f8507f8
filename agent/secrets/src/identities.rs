//! Identities: the private keys that open values.

use std::{collections::BTreeSet, fmt};

use secrecy::{ExposeSecret as _, SecretString};
use thiserror::Error;
use towpath_host::identity::Identity;
use zeroize::Zeroizing;

use crate::recipients::{Recipient, RecipientError, encode};

/// The prefix of an identity.
const IDENTITY: &str = "age-secret-key-";

/// The reason why an identity file cannot be used. No error contains a part of a key.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum IdentityFileError {
    /// The error that the file has no identity.
    #[error("the file has no age identity (a line that begins with AGE-SECRET-KEY-1)")]
    Empty,
    /// The error that an identity is mistyped.
    #[error("line {0} is not an age identity: a character is missing or mistyped")]
    Mistyped(usize),
    /// The error that an identity is of an unsupported kind.
    #[error(
        "line {0} is an identity of a kind that Towpath does not support; use an X25519 identity (AGE-SECRET-KEY-1…)"
    )]
    Kind(usize),
}

/// The private keys that are tried to open a value. They are zeroed on drop.
#[derive(Default)]
pub struct Identities(Vec<age::x25519::Identity>);

impl fmt::Debug for Identities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let public = self.0.iter().map(|identity| identity.to_public().to_string());
        f.debug_list().entries(public).finish()
    }
}

impl Identities {
    /// Adds the identities of a file in the format of age: one identity a line, empty lines, and comments with `#`.
    ///
    /// # Errors
    /// When a line is not an X25519 identity, or when the file has none.
    pub fn add_file(&mut self, text: &str) -> Result<(), IdentityFileError> {
        let lines = text.lines().enumerate().map(|(index, line)| (index + 1, line.trim()));
        let mut found = Vec::new();
        for (number, line) in lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#')) {
            if !line.starts_with("AGE-SECRET-KEY-1") {
                let is_other = line.starts_with("AGE-") || line.starts_with("-----BEGIN");
                return Err(if is_other {
                    IdentityFileError::Kind(number)
                } else {
                    IdentityFileError::Mistyped(number)
                });
            }
            found.push(line.parse().map_err(|_| IdentityFileError::Mistyped(number))?);
        }
        if found.is_empty() {
            return Err(IdentityFileError::Empty);
        }
        self.0.append(&mut found);
        Ok(())
    }

    /// Adds the identity of a node: its reading key.
    pub fn add_node(&mut self, identity: &Identity) {
        let text = encode(IDENTITY, &identity.reading_key()).map(|text| Zeroizing::new(text.to_uppercase()));
        self.0.extend(text.and_then(|text| text.parse::<age::x25519::Identity>().ok()));
    }

    /// Returns true if there are no identities.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the recipients of the identities, as text.
    pub(crate) fn recipients(&self) -> BTreeSet<String> {
        self.0.iter().map(|identity| identity.to_public().to_string()).collect()
    }

    pub(crate) fn age(&self) -> impl Iterator<Item = &dyn age::Identity> {
        self.0.iter().map(|identity| identity as _)
    }
}

/// A new identity, and its recipient.
pub struct NewIdentity {
    secret: SecretString,
    recipient: Recipient,
}

impl fmt::Debug for NewIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NewIdentity({})", self.recipient)
    }
}

impl NewIdentity {
    /// Creates an identity from random bytes of the kernel.
    ///
    /// # Errors
    /// When the random key is not usable, which does not happen with a sound random generator.
    pub fn generate() -> Result<Self, RecipientError> {
        let identity = age::x25519::Identity::generate();
        let recipient = Recipient::parse(&identity.to_public().to_string())?;
        Ok(Self { secret: identity.to_string(), recipient })
    }

    /// Returns the recipient of the identity.
    pub fn recipient(&self) -> &Recipient {
        &self.recipient
    }

    /// Returns the content of an identity file, in the format of age-keygen. `created` is a time.
    pub fn file(&self, created: &str) -> Zeroizing<String> {
        let secret = self.secret.expose_secret();
        Zeroizing::new(format!("# created: {created}\n# public key: {}\n{secret}\n", self.recipient))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identity_file_is_read_like_age_does() {
        let made = NewIdentity::generate().unwrap();
        let file = made.file("2026-11-30T00:00:00Z");
        let mut identities = Identities::default();
        identities.add_file(&format!("\n{}\r\n# more\n", &*file)).unwrap();
        assert_eq!(format!("{identities:?}"), format!("[{:?}]", made.recipient().to_string()));
        assert!(!format!("{identities:?} {made:?}").contains("SECRET"));
    }

    #[test]
    fn unusable_identity_file_is_refused_without_its_content() {
        for (text, error) in [
            ("", IdentityFileError::Empty),
            ("# only a comment\n", IdentityFileError::Empty),
            ("\nAGE-SECRET-KEY-1QQQ", IdentityFileError::Mistyped(2)),
            ("hunter2", IdentityFileError::Mistyped(1)),
            ("AGE-SECRET-KEY-PQ-1QQQ", IdentityFileError::Kind(1)),
            ("AGE-PLUGIN-YUBIKEY-1QQQ", IdentityFileError::Kind(1)),
            ("-----BEGIN OPENSSH PRIVATE KEY-----", IdentityFileError::Kind(1)),
        ] {
            let refused = Identities::default().add_file(text).unwrap_err();
            assert_eq!(refused, error, "{text}");
            assert!(
                text.is_empty() || !refused.to_string().contains("QQQ") && !refused.to_string().contains("hunter2")
            );
        }
    }
}
