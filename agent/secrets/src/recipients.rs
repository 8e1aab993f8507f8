//! Recipients: the public keys to which values are encrypted.
//!
//! A recipient is an X25519 key in the notation of age (`age1…`). The reading key of a node (`x25519:…` in
//! `Node.publicKeys`) is a key of the same curve, so it is a recipient, too. A node also uses this key for sealed values
//! of the fleet. Both uses derive their keys with HKDF under labels of their own, so neither can open the other.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use bech32::{Bech32, Hrp};
use sha2::{Digest as _, Sha256};
use thiserror::Error;
use towpath_host::identity::PublicKeys;

/// The prefix of a recipient.
pub(crate) const RECIPIENT: &str = "age";

/// The reason why a text is not a recipient.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum RecipientError {
    /// The error that a recipient is of a post-quantum kind.
    #[error(
        "the recipient {0} is post-quantum, which Towpath does not support yet; use an X25519 recipient (age1…), as `towpath secrets keygen` makes it"
    )]
    PostQuantum(String),
    /// The error that a recipient is of an unsupported kind, such as a plugin or an SSH key.
    #[error(
        "the recipient {0} is not an X25519 recipient; use one that begins with age1, as `towpath secrets keygen` makes it"
    )]
    Kind(String),
    /// The error that a recipient is mistyped.
    #[error("the recipient {0} is not valid: a character is missing or mistyped")]
    Mistyped(String),
    /// The error that a key would make every value readable.
    #[error("the recipient {0} is not a usable key: it takes no part in the encryption")]
    Weak(String),
}

/// The first bytes of the hash of a recipient. An envelope lists fingerprints, so that its recipients can be compared
/// with the readers without a key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fingerprint(String);

/// The number of characters of a fingerprint.
const FINGERPRINT: usize = 12;

impl Fingerprint {
    /// Reads a fingerprint; `None` if the text is not one.
    pub(crate) fn read(text: &str) -> Option<Self> {
        let letters = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'+' || byte == b'/';
        (text.len() == FINGERPRINT && text.bytes().all(letters)).then(|| Self(text.to_owned()))
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A public key to which values are encrypted.
#[derive(Clone, PartialEq, Eq)]
pub struct Recipient {
    key: [u8; 32],
    age: age::x25519::Recipient,
}

impl fmt::Debug for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Display for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.age)
    }
}

impl Recipient {
    /// Parses a recipient in the notation of age.
    ///
    /// # Errors
    /// When the text is not an X25519 recipient, or when its key is not usable.
    pub fn parse(text: &str) -> Result<Self, RecipientError> {
        let text = text.trim();
        let shown = || text.chars().take(80).collect::<String>();
        if !text.starts_with("age1") {
            return Err(RecipientError::Kind(shown()));
        }
        // The last 1 of a Bech32 text ends its prefix. Further kinds of age have prefixes like age1pq.
        match text.rsplit_once('1').map(|(prefix, _)| prefix) {
            Some("age") => {}
            Some(prefix) if prefix.starts_with("age1pq") || prefix.starts_with("age1tagpq") => {
                return Err(RecipientError::PostQuantum(shown()));
            }
            _ => return Err(RecipientError::Kind(shown())),
        }
        let age: age::x25519::Recipient = text.parse().map_err(|_| RecipientError::Mistyped(shown()))?;
        let (_, bytes) = bech32::decode(text).map_err(|_| RecipientError::Mistyped(shown()))?;
        let key = <[u8; 32]>::try_from(bytes).map_err(|_| RecipientError::Mistyped(shown()))?;
        if is_weak(key) {
            return Err(RecipientError::Weak(shown()));
        }
        Ok(Self { key, age })
    }

    /// Returns the recipient of a node, from the `publicKeys` of its Node object.
    ///
    /// # Errors
    /// When the X25519 key of the node is not usable. `Ok(None)` if a key is missing.
    pub fn of_node(public_keys: &[String]) -> Result<Option<Self>, RecipientError> {
        let Some(keys) = PublicKeys::read(public_keys) else { return Ok(None) };
        let text = encode(RECIPIENT, &keys.read).ok_or_else(|| RecipientError::Mistyped(public_keys.join(" ")))?;
        Self::parse(&text).map(Some)
    }

    /// Returns the fingerprint of the recipient.
    pub fn fingerprint(&self) -> Fingerprint {
        let hash = Sha256::new_with_prefix("towpath recipient ").chain_update(self.key).finalize();
        Fingerprint(STANDARD_NO_PAD.encode(&hash[..FINGERPRINT / 4 * 3]))
    }

    pub(crate) fn age(&self) -> &age::x25519::Recipient {
        &self.age
    }
}

/// Returns true if every exchange with a key has the same result, so that the key protects nothing.
fn is_weak(key: [u8; 32]) -> bool {
    // The scalar is a multiple of the cofactor, so every point of low order becomes zero.
    x25519_dalek::x25519([8; 32], key) == [0; 32]
}

/// Returns a key in Bech32 with a prefix. `None` only for a prefix that is not valid.
pub(crate) fn encode(prefix: &str, key: &[u8; 32]) -> Option<String> {
    bech32::encode::<Bech32>(Hrp::parse(prefix).ok()?, key).ok()
}

/// The recipients of one value, each once. They are never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipients(Vec<Recipient>);

impl Recipients {
    /// Creates the set of the given recipients. `None` if there are none.
    pub fn new(recipients: impl IntoIterator<Item = Recipient>) -> Option<Self> {
        let unique: BTreeMap<[u8; 32], Recipient> =
            recipients.into_iter().map(|recipient| (recipient.key, recipient)).collect();
        (!unique.is_empty()).then(|| Self(unique.into_values().collect()))
    }

    /// Returns the recipients, sorted by key.
    pub fn iter(&self) -> impl Iterator<Item = &Recipient> {
        self.0.iter()
    }

    /// Returns the fingerprints of the recipients.
    pub fn fingerprints(&self) -> BTreeSet<Fingerprint> {
        self.0.iter().map(Recipient::fingerprint).collect()
    }
}

#[cfg(test)]
mod tests {
    use towpath_host::identity::Identity;

    use super::*;

    const AGE: &str = "age1t7rxyev2z3rw82stdlrrepyc39nvn86l5078zqkf5uasdy86jp6svpy7pa";

    #[test]
    fn recipient_of_age_is_read_and_written() {
        let recipient = Recipient::parse(&format!(" {AGE}\n")).unwrap();
        assert_eq!(recipient.to_string(), AGE);
        let fingerprint = recipient.fingerprint();
        assert_eq!(Fingerprint::read(&fingerprint.to_string()), Some(fingerprint));
        assert!(Fingerprint::read("short").is_none() && Fingerprint::read("with space..").is_none());
    }

    #[test]
    fn unsupported_recipient_is_refused_with_its_kind() {
        let pq = "age1pq1xyz0pqr";
        assert!(matches!(Recipient::parse(pq), Err(RecipientError::PostQuantum(_))));
        let message = Recipient::parse(pq).unwrap_err().to_string();
        assert!(message.contains("post-quantum") && message.contains("towpath secrets keygen"), "{message}");
        assert!(matches!(Recipient::parse("age1tagpq1xyz0pqr"), Err(RecipientError::PostQuantum(_))));
        for text in ["age1yubikey1qdef", "age1tag1qdef", "ssh-ed25519 AAAA", "", "AGE1QQ"] {
            assert!(matches!(Recipient::parse(text), Err(RecipientError::Kind(_))), "{text}");
        }
        for text in [AGE.replace("t7", "7t"), format!("{AGE}q"), "age1".into(), "age1é".into()] {
            assert!(matches!(Recipient::parse(&text), Err(RecipientError::Mistyped(_))), "{text}");
        }
    }

    #[test]
    fn key_of_low_order_is_refused() {
        let mut one = [0; 32];
        one[0] = 1;
        for key in [[0; 32], one] {
            let text = encode(RECIPIENT, &key).unwrap();
            assert_eq!(Recipient::parse(&text), Err(RecipientError::Weak(text)));
        }
    }

    #[test]
    fn node_key_is_a_recipient() {
        let texts = Identity::make().unwrap().keys().texts();
        let recipient = Recipient::of_node(&texts).unwrap().unwrap();
        assert!(recipient.to_string().starts_with("age1"));
        assert_eq!(Recipient::of_node(&texts[..1]), Ok(None));
        let weak = [texts[0].clone(), format!("x25519:{}", STANDARD_NO_PAD.encode([0_u8; 32]))];
        assert!(matches!(Recipient::of_node(&weak), Err(RecipientError::Weak(_))));
    }

    #[test]
    fn recipients_are_a_set() {
        let (one, other) = (Recipient::parse(AGE).unwrap(), Identity::make().unwrap().keys().texts());
        let other = Recipient::of_node(&other).unwrap().unwrap();
        let set = Recipients::new([one.clone(), other.clone(), one.clone()]).unwrap();
        assert_eq!(set.iter().count(), 2);
        assert_eq!(set, Recipients::new([other, one]).unwrap());
        assert_eq!(Recipients::new([]), None);
    }
}
