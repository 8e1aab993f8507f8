//! Envelopes: single values, each encrypted to the recipients of its Secret.
//!
//! An envelope is an age file in ASCII armor, so the program `age` can decrypt it. The plaintext begins with a header
//! (`HEADER`): a version byte, and the [`ValueName`] of the value, whose parts end with a zero byte. The value follows.
//! [`open`] compares the name in the header with the name under which the envelope was found. So an envelope that was
//! copied to another key, name or namespace does not open there. Because each value is an envelope of its own, two
//! branches that change different values merge in git.
//!
//! The header cannot be seen without a key. The header of the age file therefore has a stanza of its own kind, the
//! `Marker`, with the name of the value and the fingerprints of the recipients. age ignores stanzas of unknown kinds.
//! The marker serves checks without a key ([`inspect`]); it proves nothing by itself. The one proof of the name is the
//! header in the plaintext.
//!
//! An envelope that the program `age` made has neither marker nor header. It is accepted as unbound.

mod armor;
mod marker;
mod name;

use thiserror::Error;
use zeroize::Zeroizing;

pub use armor::{ARMOR, MAX_ARMOR, OpenError};
pub(crate) use armor::{decrypt, encrypt};
use marker::Marker;
pub use marker::{Inspection, inspect};
pub use name::ValueName;

use name::VERSION;

use crate::{Identities, Plaintext, Recipients};

/// The first bytes of the plaintext of a bound envelope. A text cannot begin with them. The version byte follows.
const HEADER: &[u8] = b"\0towpath secret\0";

/// The maximum number of bytes of a value.
pub const MAX_VALUE: usize = 512 << 10;

/// The reason why a value cannot be encrypted.
#[derive(Debug, Error)]
pub enum SealError {
    /// The error that the name of the value has a zero byte.
    #[error("cannot encrypt a value: the name of its key contains a zero byte")]
    Name,
    /// The error that the value is too long.
    #[error("cannot encrypt {name}: it has {size} bytes, and at most {MAX_VALUE} are allowed")]
    Size {
        /// The name of the value.
        name: ValueName,
        /// The number of bytes of the value.
        size: usize,
    },
    /// The error that the encryption failed.
    #[error("cannot encrypt {name}: {why}")]
    Failed {
        /// The name of the value.
        name: ValueName,
        /// The cause.
        why: String,
    },
}

/// An opened envelope.
#[derive(Debug)]
pub struct Opened {
    /// The value.
    pub value: Plaintext,
    /// True if the envelope is bound to the name of the value.
    pub is_bound: bool,
}

/// Encrypts a value to recipients, and binds the envelope to the name of the value.
///
/// Each call uses a new data key. Returns the armor, which ends with a newline.
///
/// # Errors
/// When the value is too long, or when its name cannot be written.
pub fn seal(value: &Plaintext, name: &ValueName, recipients: &Recipients) -> Result<String, SealError> {
    let parts = [&name.kind, &name.namespace, &name.name, &name.key];
    if parts.into_iter().any(|part| part.contains('\0')) {
        return Err(SealError::Name);
    }
    let size = value.expose().len();
    if size > MAX_VALUE {
        return Err(SealError::Size { name: name.clone(), size });
    }
    let named = name.bytes();
    let mut plain = Zeroizing::new(Vec::with_capacity(HEADER.len() + 1 + named.len() + size));
    plain.extend_from_slice(HEADER);
    plain.push(VERSION);
    plain.extend_from_slice(&named);
    plain.extend_from_slice(value.expose());
    let marker = Marker::new(name, recipients);
    let all = recipients.iter().map(|recipient| recipient.age() as _).chain([&marker as _]);
    encrypt(&plain, all).map_err(|why| SealError::Failed { name: name.clone(), why })
}

/// Opens an envelope that was found under a name.
///
/// # Errors
/// When no identity opens it, when it belongs to another name, or when it is damaged.
pub fn open(armor: &str, name: &ValueName, identities: &Identities) -> Result<Opened, OpenError> {
    let plain = decrypt(armor, identities)?;
    let Some(rest) = plain.strip_prefix(HEADER) else {
        return Ok(Opened { value: plain.into(), is_bound: false });
    };
    let (version, rest) = rest.split_first().ok_or_else(|| OpenError::Damaged("its header is cut off".into()))?;
    if *version != VERSION {
        return Err(OpenError::Version(*version));
    }
    let (belongs, value) = ValueName::read(rest).ok_or_else(|| OpenError::Damaged("its header is cut off".into()))?;
    if belongs != *name {
        return Err(OpenError::Elsewhere { belongs });
    }
    Ok(Opened { value: Plaintext::copied(value), is_bound: true })
}

#[cfg(test)]
pub(crate) mod tests {
    use towpath_host::identity::Identity;

    use super::*;
    use crate::{NewIdentity, Recipient};

    /// Creates an identity, and the set with its recipient.
    pub(crate) fn reader() -> (Identities, Recipient) {
        let made = NewIdentity::generate().unwrap();
        let mut identities = Identities::default();
        identities.add_file(&made.file("now")).unwrap();
        (identities, made.recipient().clone())
    }

    pub(crate) fn set(recipients: &[&Recipient]) -> Recipients {
        Recipients::new(recipients.iter().copied().cloned()).unwrap()
    }

    fn password() -> ValueName {
        ValueName::of_secret("shop", "db", "password")
    }

    /// Encrypts as the program age does: without header and marker.
    pub(crate) fn plain_age(value: &[u8], recipient: &Recipient) -> String {
        encrypt(value, [recipient.age() as _].into_iter()).unwrap()
    }

    #[test]
    fn envelope_opens_for_each_recipient_and_for_no_other_identity() {
        let ((one, for_one), (two, for_two), (other, _)) = (reader(), reader(), reader());
        let armor = seal(&Plaintext::copied(b"hunter2"), &password(), &set(&[&for_one, &for_two])).unwrap();
        assert!(armor.starts_with(ARMOR) && armor.ends_with("-----END AGE ENCRYPTED FILE-----\n"));
        for identities in [&one, &two] {
            let opened = open(&armor, &password(), identities).unwrap();
            assert_eq!((opened.value.text(), opened.is_bound), (Some("hunter2"), true));
        }
        assert_eq!(open(&armor, &password(), &other).unwrap_err(), OpenError::NoIdentity);
        assert_eq!(open(&armor, &password(), &Identities::default()).unwrap_err(), OpenError::NoIdentity);
    }

    #[test]
    fn envelope_under_another_name_is_refused_with_its_own_name() {
        let (identities, recipient) = reader();
        let armor = seal(&Plaintext::copied(b"x"), &password(), &set(&[&recipient])).unwrap();
        for other in [
            ValueName::of_secret("shop", "db", "user"),
            ValueName::of_secret("shop", "cache", "password"),
            ValueName::of_secret("blog", "db", "password"),
            ValueName { kind: "SharedValue".into(), ..password() },
        ] {
            let error = open(&armor, &other, &identities).unwrap_err();
            assert_eq!(error, OpenError::Elsewhere { belongs: password() });
            assert!(error.to_string().contains("the key password of the Secret shop/db"), "{error}");
        }
    }

    #[test]
    fn names_with_the_same_letters_are_different() {
        let one = ValueName::of_secret("a", "b", "c");
        for other in [ValueName::of_secret("ab", "", "c"), ValueName::of_secret("a", "bc", "")] {
            assert_ne!(one.bytes(), other.bytes());
        }
        assert_eq!(ValueName::read(&one.bytes()), Some((one.clone(), &b""[..])));
        let (_, recipient) = reader();
        let name = ValueName::of_secret("a", "b", "c\0d");
        assert!(matches!(seal(&Plaintext::copied(b""), &name, &set(&[&recipient])), Err(SealError::Name)));
    }

    #[test]
    fn armor_of_plain_age_is_accepted_as_unbound() {
        let (identities, recipient) = reader();
        let opened = open(&plain_age(b"hunter2\n", &recipient), &password(), &identities).unwrap();
        assert_eq!((opened.value.expose(), opened.is_bound), (&b"hunter2\n"[..], false));
    }

    #[test]
    fn value_may_be_empty_binary_or_up_to_the_limit() {
        let (identities, recipient) = reader();
        for value in [vec![], vec![0, 255, 10], vec![7; MAX_VALUE]] {
            let armor = seal(&Plaintext::copied(&value), &password(), &set(&[&recipient])).unwrap();
            assert_eq!(open(&armor, &password(), &identities).unwrap().value.expose(), value);
        }
        let long = Plaintext::new(vec![7; MAX_VALUE + 1]);
        assert!(matches!(seal(&long, &password(), &set(&[&recipient])), Err(SealError::Size { .. })));
    }

    #[test]
    fn same_value_has_another_data_key_in_each_envelope() {
        let (_, recipient) = reader();
        let sealed = || seal(&Plaintext::copied(b"x"), &password(), &set(&[&recipient])).unwrap();
        assert_ne!(sealed(), sealed());
    }

    #[test]
    fn damaged_envelope_is_an_error_at_every_byte() {
        let (identities, recipient) = reader();
        let armor = seal(&Plaintext::copied(b"hunter2"), &password(), &set(&[&recipient])).unwrap();
        for at in (0..armor.trim_end().len()).step_by(7) {
            let mut bytes = armor.clone().into_bytes();
            bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
            let damaged = String::from_utf8(bytes).unwrap();
            assert!(open(&damaged, &password(), &identities).is_err(), "{at}");
            let _ = open(&armor[..at], &password(), &identities).unwrap_err();
            let _ = inspect(&damaged);
        }
        for text in ["", "hunter2", ARMOR, "age-encryption.org/v1\n"] {
            assert!(open(text, &password(), &identities).is_err(), "{text}");
        }
    }

    #[test]
    fn envelope_of_a_newer_version_is_named() {
        let (identities, recipient) = reader();
        let armor = plain_age(&[HEADER, &[9], &password().bytes()[..], b"x"].concat(), &recipient);
        let error = open(&armor, &password(), &identities).unwrap_err();
        assert_eq!(error, OpenError::Version(9));
        for cut in [HEADER.to_vec(), [HEADER, &[VERSION]].concat(), [HEADER, &[VERSION], b"Secret\0shop\0d"].concat()] {
            let error = open(&plain_age(&cut, &recipient), &password(), &identities).unwrap_err();
            assert!(matches!(error, OpenError::Damaged(_)), "{error}");
        }
    }

    #[test]
    fn identity_of_a_node_opens_values_for_its_public_keys() {
        let node = Identity::make().unwrap();
        let recipient = Recipient::of_node(&node.keys().texts()).unwrap().unwrap();
        let armor = seal(&Plaintext::copied(b"hunter2"), &password(), &set(&[&recipient])).unwrap();
        let mut identities = Identities::default();
        identities.add_node(&node);
        assert_eq!(open(&armor, &password(), &identities).unwrap().value.text(), Some("hunter2"));
    }
}
