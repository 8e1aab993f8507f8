//! Files of SOPS with keys of age: read, edited value by value, and encrypted to other recipients.
//!
//! The format is described in the README of SOPS (github.com/getsops/sops, "Encryption Protocol"); its source code is the
//! reference for details. A file is YAML or JSON. Every value is encrypted under the data key of the file (`cipher`), and
//! the map `sops` has the data key for each recipient, the rules for values that stay readable (`rules`), and the MAC: a
//! hash over all values in their order, encrypted under the data key. The comments of a file are encrypted, too, and do
//! not count for the MAC.
//!
//! An edit changes the text of the changed values, of the MAC and of the time. It keeps all other text, so it keeps
//! the encrypted comments.
//!
//! Not supported, and refused: other keys than those of age, Shamir's key groups, rules about comments, several documents
//! in one file, and the formats dotenv, INI and binary. A readable value that YAML libraries read differently, such as a
//! date without quotes, makes the MAC wrong.

mod cipher;
mod error;
mod rekey;
mod rules;
mod tree;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use serde_json::{Map, Value, json};
use towpath_render::document::{Limits, Path, parse, to_yaml};
use zeroize::Zeroizing;

use crate::{
    Identities, Plaintext, Recipient, Recipients,
    envelope::{self, OpenError},
    splice::{self, SpliceError},
};
use cipher::{DataKey, Encrypted};
pub use error::SopsError;
use rules::{METADATA, Metadata};
use tree::{Change, Leaf, changes, decrypted_value, encrypted, leaves, readable_bytes};

/// A SOPS file, as written.
#[derive(Debug)]
pub struct SopsFile {
    text: String,
    document: usize,
    root: Map<String, Value>,
    metadata: Metadata,
}

/// A SOPS file whose values were decrypted, and whose MAC is right.
pub struct OpenFile {
    file: SopsFile,
    key: DataKey,
    plain: Plain,
    is_mislabelled: bool,
}

/// The decrypted values of a file. They are zeroed on drop.
struct Plain(Value);

impl Drop for Plain {
    fn drop(&mut self) {
        crate::editing::wipe(&mut self.0);
    }
}

impl fmt::Debug for OpenFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenFile").field("metadata", &self.file.metadata).finish_non_exhaustive()
    }
}

/// The maximum number of values of a file.
const MAX_VALUES: usize = 10_000;

/// An edited file.
#[derive(Debug)]
pub struct EditedFile {
    /// The text of the file.
    pub text: String,
    /// The paths of the changed and added values that are encrypted.
    pub encrypted: Vec<String>,
    /// The paths of the changed and added values that are written in plain text.
    pub plain: Vec<String>,
    /// The paths of the removed values.
    pub removed: Vec<String>,
}

/// The values of a file that are not encrypted. None of the lists contains a value.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PlainValues {
    /// The paths of the values that the rule of the file requires to be encrypted, and that are readable.
    pub wrong: Vec<String>,
    /// The paths of the values that the rule of the file leaves readable.
    pub readable: Vec<String>,
}

/// The difference between the recipients of a file and the wanted recipients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Difference {
    /// The number of wanted recipients that the file lacks.
    pub added: usize,
    /// The number of recipients of the file that are not wanted.
    pub removed: usize,
}

impl SopsFile {
    /// Reads a file without decrypting it.
    ///
    /// # Errors
    /// When the file is not a SOPS file with a key of age, or when it uses an unsupported feature.
    pub fn read(text: &str) -> Result<Self, SopsError> {
        let (documents, problems) = parse("", "", text.as_bytes(), Limits::default());
        if let Some(problem) = problems.into_iter().next() {
            return Err(SpliceError::NotYaml { line: problem.line, message: problem.message }.into());
        }
        let mut documents = documents.into_iter();
        match (documents.next().map(|document| (document.index, document.value)), documents.next()) {
            (Some((document, Value::Object(root))), None) => {
                let metadata = Metadata::read(&root)?;
                let count = leaves(&root).len();
                if count > MAX_VALUES {
                    return Err(SopsError::TooMany { count, what: "values", limit: MAX_VALUES });
                }
                Ok(Self { text: text.to_owned(), document, root, metadata })
            }
            _ => Err(SopsError::NoMap),
        }
    }

    /// Compares the recipients of the file with the wanted recipients. Needs no key.
    pub fn difference(&self, wanted: &Recipients) -> Difference {
        let wanted: BTreeSet<String> = wanted.iter().map(ToString::to_string).collect();
        let found: BTreeSet<String> = self.metadata.age.iter().map(|key| key.recipient.clone()).collect();
        Difference { added: wanted.difference(&found).count(), removed: found.difference(&wanted).count() }
    }

    /// Returns true if the list of recipients in the file contains a recipient. Needs no key.
    pub fn is_for(&self, recipient: &Recipient) -> bool {
        let recipient = recipient.to_string();
        self.metadata.age.iter().any(|key| key.recipient == recipient)
    }

    /// Returns the values that are not encrypted. Needs no key.
    pub fn plain_values(&self) -> PlainValues {
        let mut found = PlainValues::default();
        for Leaf { path, keys, value } in leaves(&self.root) {
            if !self.metadata.encrypts(&keys) {
                found.readable.push(path.to_string());
            } else if !tree::is_sealed(value) {
                found.wrong.push(path.to_string());
            }
        }
        found
    }

    /// Returns true if an identity does not open the data key that is labelled with its recipient. The labels are not
    /// proved, so such a data key is encrypted to an unknown recipient.
    pub fn is_mislabelled(&self, identities: &Identities) -> bool {
        let own = identities.recipients();
        let labelled = self.metadata.age.iter().filter(|age| own.contains(&age.recipient));
        labelled.into_iter().any(|age| envelope::decrypt(&age.armor, identities).is_err())
    }

    /// Decrypts the file, and checks its MAC.
    ///
    /// # Errors
    /// When no identity opens the data key, or when the file was changed without SOPS.
    pub fn open(self, identities: &Identities) -> Result<OpenFile, SopsError> {
        let is_mislabelled = self.is_mislabelled(identities);
        let mut refused = OpenError::NoIdentity;
        for age in &self.metadata.age {
            match envelope::decrypt(&age.armor, identities) {
                Ok(key) => {
                    let damaged = || SopsError::Key(OpenError::Damaged("it does not have 32 bytes".into()));
                    let key = DataKey::read(&key).ok_or_else(damaged)?;
                    return Ok(OpenFile { is_mislabelled, ..self.open_with(key)? });
                }
                Err(OpenError::NoIdentity) => {}
                // The key of another recipient may be of a kind that age in Rust does not know.
                Err(error) => refused = error,
            }
        }
        Err(SopsError::Key(refused))
    }

    fn open_with(self, key: DataKey) -> Result<OpenFile, SopsError> {
        let (hash, plain) = self.decrypted(&key)?;
        let mac = Encrypted::read(&self.metadata.mac);
        let mac = mac.and_then(|mac| key.decrypt(&mac, &self.metadata.last_modified)).ok_or(SopsError::Mac)?;
        if mac.text() != Some(hash.as_str()) {
            return Err(SopsError::Mac);
        }
        Ok(OpenFile { file: self, key, plain, is_mislabelled: false })
    }

    /// Decrypts all values. Returns the hash over them, and the map of the decrypted values.
    fn decrypted(&self, key: &DataKey) -> Result<(String, Plain), SopsError> {
        // The values that were decrypted before an error are zeroed, too.
        let mut plain = Plain(Value::Object(self.root.clone()));
        let mut hash = tree::MacHash::new(self.metadata.mac_only_encrypted);
        for Leaf { path, keys, value } in leaves(&self.root) {
            let is_encrypted = self.metadata.encrypts(&keys);
            let bytes = if is_encrypted {
                let (bytes, shown) = decrypted_value(key, &keys, value)?;
                tree::put(&mut plain.0, &path, shown);
                bytes
            } else {
                readable_bytes(value)
            };
            hash.add(&bytes, is_encrypted);
        }
        if let Some(root) = plain.0.as_object_mut() {
            root.shift_remove(METADATA);
        }
        Ok((hash.text(), plain))
    }
}

impl OpenFile {
    /// Returns the decrypted values as YAML, for an editor.
    pub fn shown(&self) -> Zeroizing<String> {
        Zeroizing::new(to_yaml(&self.plain.0))
    }

    /// Returns the decrypted values at the top level of the file. A value that is not text is in YAML.
    pub fn values(&self) -> BTreeMap<String, Plaintext> {
        let root = self.plain.0.as_object().into_iter().flatten();
        let text = |value: &Value| match value {
            Value::String(text) => text.clone(),
            Value::Object(_) | Value::Array(_) => to_yaml(value),
            scalar => scalar.to_string(),
        };
        root.map(|(key, value)| (key.clone(), Plaintext::new(text(value).into_bytes()))).collect()
    }

    /// Returns the file with the values of an edited text. Values that did not change keep their ciphertext. `now` is the
    /// time of the change in RFC 3339. `allow_plain` allows new values that the rule of the file leaves readable.
    ///
    /// # Errors
    /// When the text is not a map, when it has a new readable value, or when the layout of the file is not supported.
    pub fn edit(&self, edited: &str, now: &str, allow_plain: bool) -> Result<EditedFile, SopsError> {
        // Both sides are read from YAML, so that a value that is written in another way is not a change.
        let before = Plain(edited_value(&self.shown())?);
        let after = Plain(edited_value(edited)?);
        if after.0.get(METADATA).is_some() {
            return Err(SopsError::Edited(format!("the key {METADATA} belongs to sops")));
        }
        let readable = tree::new_readable(&before.0, &after.0, &self.file.metadata);
        if !allow_plain && !readable.is_empty() {
            return Err(SopsError::Readable(readable.join(", ")));
        }
        let mut text = self.file.text.clone();
        let (mut sealed, mut plain, mut removed) = (Vec::new(), Vec::new(), Vec::new());
        for change in changes(&before.0, &after.0) {
            match change {
                Change::Set(path, value) => {
                    let written = tree::written(value, &path, &self.file.metadata);
                    let value = encrypted(value, &mut tree::keys(&path), &self.file.metadata, &self.key)?;
                    text = splice::set(&text, self.file.document, &path, &value)?;
                    if written.has_encrypted {
                        sealed.push(path.to_string());
                    }
                    plain.extend(written.plain.iter().map(Path::to_string));
                }
                Change::Remove(path) => {
                    text = splice::remove(&text, self.file.document, &path)?;
                    removed.push(path.to_string());
                }
            }
        }
        if !sealed.is_empty() || !plain.is_empty() || !removed.is_empty() {
            text = with_mac(&text, &self.key, now)?;
        }
        Ok(EditedFile { text, encrypted: sealed, plain, removed })
    }

    /// Returns the file, encrypted to the wanted recipients. A removed recipient means a new data key for all values, and
    /// so does a data key that its recipient cannot open. The data key is encrypted again to all recipients, because their
    /// labels in the file are not proved. `now` is the time of the change in RFC 3339.
    ///
    /// # Errors
    /// When the file has further keys that a new data key would make useless, or when its layout is not supported.
    pub fn rewrap(&self, wanted: &Recipients, now: &str) -> Result<String, SopsError> {
        let difference = self.file.difference(wanted);
        let is_new = difference.removed > 0 || self.is_mislabelled;
        if is_new && !self.file.metadata.others.is_empty() {
            return Err(SopsError::Unsupported(
                "other keys than those of age, so that only sops can change the data key",
            ));
        }
        let key = if is_new { DataKey::generate().map_err(SopsError::Encrypt)? } else { self.key.clone() };
        let mut text = self.file.text.clone();
        if is_new {
            text = rekey::rekeyed(&text, &self.file.root, &self.file.metadata, (&self.key, &key))?;
        }
        let mut entries = Vec::new();
        for recipient in wanted.iter() {
            let name = recipient.to_string();
            let armor = envelope::encrypt(key.bytes(), [recipient.age() as _].into_iter());
            let armor = armor.map_err(SopsError::Encrypt)?;
            entries.push(json!({ "recipient": name, "enc": armor }));
        }
        let path = Path::default().key(METADATA).key("age");
        text = splice::set(&text, self.file.document, &path, &Value::Array(entries))?;
        if is_new { with_mac(&text, &key, now) } else { Ok(text) }
    }
}

/// Returns the text with the MAC of its values and a new time. The result is checked as a whole.
fn with_mac(text: &str, key: &DataKey, now: &str) -> Result<String, SopsError> {
    let file = SopsFile::read(text)?;
    let (hash, plain) = file.decrypted(key)?;
    drop(plain);
    let mac = key.encrypt(&Plaintext::copied(hash.as_bytes()), "str", now).map_err(SopsError::Encrypt)?;
    let metadata = Path::default().key(METADATA);
    let text = splice::set(text, file.document, &metadata.key("mac"), &Value::String(mac))?;
    let text = splice::set(&text, file.document, &metadata.key("lastmodified"), &Value::String(now.to_owned()))?;
    SopsFile::read(&text)?.open_with(key.clone())?;
    Ok(text)
}

/// Reads the text of an editor.
fn edited_value(text: &str) -> Result<Value, SopsError> {
    let (documents, problems) = parse("", "", text.as_bytes(), Limits::default());
    if let Some(problem) = problems.into_iter().next() {
        return Err(SopsError::Edited(format!("line {}: {}", problem.line, problem.message)));
    }
    let mut documents = documents.into_iter();
    match (documents.next().map(|document| document.value), documents.next()) {
        (Some(value @ Value::Object(_)), None) => Ok(value),
        _ => Err(SopsError::Edited("it is not one map with at least one key".into())),
    }
}

#[cfg(test)]
mod tests;
