//! The marker of an envelope: the part that checks can read without a key.

use std::collections::{BTreeSet, HashSet};

use age_core::format::{FileKey, Stanza};
use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};

use super::{
    armor::{OpenError, binary, not_opened},
    name::{VERSION, ValueName},
};
use crate::{Fingerprint, Recipients};

/// The kind of the marker's stanza in the header of an age file.
const STANZA: &str = "towpath";

/// The length of the tag at the end of the encrypted value.
const TAG: usize = 16;

/// The stanza in the header of an age file that names the value and its recipients.
///
/// The first argument is the version, and the fingerprints of the recipients follow. The body is the name of the value.
/// The header of an age file is authenticated with its data key, so a reader of the value notices a changed marker.
pub(super) struct Marker {
    name: Vec<u8>,
    recipients: BTreeSet<Fingerprint>,
}

impl Marker {
    pub(super) fn new(name: &ValueName, recipients: &Recipients) -> Self {
        Self { name: name.bytes(), recipients: recipients.fingerprints() }
    }
}

impl age::Recipient for Marker {
    /// Writes the marker. It wraps no key.
    fn wrap_file_key(&self, _: &FileKey) -> Result<(Vec<Stanza>, HashSet<String>), age::EncryptError> {
        let mut args = vec![VERSION.to_string()];
        args.extend(self.recipients.iter().map(Fingerprint::to_string));
        Ok((vec![Stanza { tag: STANZA.into(), args, body: self.name.clone() }], HashSet::new()))
    }
}

/// The knowledge about an envelope that needs no key. A committer can write anything into it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Inspection {
    /// The envelope has no marker. The program `age` made it, and it opens under every name.
    Unbound,
    /// The envelope has a marker.
    Bound {
        /// The value to which the envelope is bound.
        belongs: ValueName,
        /// The fingerprints of the recipients. `None` if their number is not that of the keys in the envelope.
        recipients: Option<BTreeSet<Fingerprint>>,
    },
}

/// Reads the marker of an envelope.
///
/// # Errors
/// When the text is not an age file in ASCII armor, or when its marker is damaged or of a newer version.
pub fn inspect(armor: &str) -> Result<Inspection, OpenError> {
    let bytes = binary(armor)?;
    let damaged = |why: &str| OpenError::Damaged(why.into());
    // Only a whole header of age counts: a text between other lines could be a value in plain text.
    let mut payload = &bytes[..];
    age::Decryptor::new(&mut payload).map_err(not_opened)?;
    if payload.len() < TAG {
        return Err(damaged("it has no value"));
    }
    let end = bytes.windows(5).position(|window| window == b"\n--- ").ok_or_else(|| damaged("it has no header"))?;
    let header = bytes.get(..end).and_then(|header| std::str::from_utf8(header).ok());
    let mut lines = header.ok_or_else(|| damaged("its header is not text"))?.lines().peekable();
    if lines.next() != Some("age-encryption.org/v1") {
        return Err(OpenError::NotAge("it is not a file of age v1".into()));
    }
    let (mut keys, mut marker) = (0_usize, None);
    while let Some(line) = lines.next() {
        let Some(line) = line.strip_prefix("-> ") else { continue };
        let (kind, args) = line.split_once(' ').unwrap_or((line, ""));
        let mut body = String::new();
        while let Some(line) = lines.next_if(|line| !line.starts_with("-> ")) {
            body.push_str(line);
        }
        match kind {
            "X25519" => keys = keys.saturating_add(1),
            STANZA if marker.is_some() => return Err(damaged("it has two markers")),
            STANZA => marker = Some((args, body)),
            _ => {}
        }
    }
    let Some((args, body)) = marker else { return Ok(Inspection::Unbound) };
    let mut args = args.split(' ');
    let version = args.next().and_then(|version| version.parse::<u8>().ok());
    match version {
        Some(VERSION) => {}
        Some(other) => return Err(OpenError::Version(other)),
        None => return Err(damaged("its marker has no version")),
    }
    let name = STANDARD_NO_PAD.decode(body).ok().and_then(|name| match ValueName::read(&name)? {
        (name, []) => Some(name),
        _ => None,
    });
    let belongs = name.ok_or_else(|| damaged("its marker has no name"))?;
    let recipients: Option<BTreeSet<Fingerprint>> = args.map(Fingerprint::read).collect();
    let recipients = recipients.filter(|recipients| recipients.len() == keys);
    Ok(Inspection::Bound { belongs, recipients })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Plaintext,
        envelope::{
            encrypt, seal,
            tests::{plain_age, reader, set},
        },
    };

    #[test]
    fn marker_shows_name_and_recipients_without_a_key() {
        let ((_, one), (_, two)) = (reader(), reader());
        let name = ValueName::of_secret("shop", "db", "a key of more than forty-eight bytes, in two lines of base64");
        let recipients = set(&[&one, &two]);
        let armor = seal(&Plaintext::copied(b"hunter2"), &name, &recipients).unwrap();
        let wanted = Inspection::Bound { belongs: name, recipients: Some(recipients.fingerprints()) };
        assert_eq!(inspect(&armor), Ok(wanted));
        assert_eq!(inspect(&plain_age(b"x", &one)), Ok(Inspection::Unbound));
    }

    #[test]
    fn marker_with_another_number_of_recipients_is_not_believed() {
        let ((_, one), (_, two)) = (reader(), reader());
        let name = ValueName::of_secret("shop", "db", "password");
        let marker = Marker::new(&name, &set(&[&one, &two]));
        let armor = encrypt(b"x", [one.age() as _, &marker as _].into_iter()).unwrap();
        assert_eq!(inspect(&armor), Ok(Inspection::Bound { belongs: name, recipients: None }));
    }

    #[test]
    fn armor_around_plain_text_is_refused() {
        use age::armor::{ArmoredWriter, Format};
        use std::io::Write as _;
        let mac = "A".repeat(43);
        for text in [
            "age-encryption.org/v1\n-> hunter2\n\n--- hunter2".to_owned(),
            format!("age-encryption.org/v1\nhunter2\n--- {mac}\n{}", "x".repeat(40)),
            format!("age-encryption.org/v1\n-> X25519 a\n\n--- {mac}\nhunter2"),
            format!("hunter2\n--- {mac}\n"),
        ] {
            let mut armor = Vec::new();
            let mut writer = ArmoredWriter::wrap_output(&mut armor, Format::AsciiArmor).unwrap();
            writer.write_all(text.as_bytes()).unwrap();
            writer.finish().unwrap();
            let found = inspect(&String::from_utf8(armor).unwrap());
            assert!(found.is_err(), "{text}: {found:?}");
        }
    }

    #[test]
    fn envelope_with_two_markers_is_refused() {
        let (_, one) = reader();
        let marker = Marker::new(&ValueName::of_secret("shop", "db", "password"), &set(&[&one]));
        let armor = encrypt(b"x", [one.age() as _, &marker as _, &marker as _].into_iter()).unwrap();
        assert!(matches!(inspect(&armor), Err(OpenError::Damaged(_))));
    }
}
