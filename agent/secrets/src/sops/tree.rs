//! The values of a SOPS file: their paths, their types, and the hash over them.

use std::collections::BTreeSet;

use serde_json::{Map, Value};
use sha2::{Digest as _, Sha512};
use towpath_render::document::{Path, Step};

use super::{
    cipher::{COMMENT, DataKey, Encrypted},
    error::SopsError,
    rules::{METADATA, Metadata},
};
use crate::Plaintext;

/// The hash of a file whose MAC covers only encrypted values begins with these bytes (the SHA-256 of `sops`).
const ONLY_ENCRYPTED: [u8; 32] = [
    0x8a, 0x3f, 0xd2, 0xad, 0x54, 0xce, 0x66, 0x52, 0x7b, 0x10, 0x34, 0xf3, 0xd1, 0x47, 0xbe, 0x0b, 0x0b, 0x97, 0x5b,
    0x3b, 0xf4, 0x4f, 0x72, 0xc6, 0xfd, 0xad, 0xec, 0x81, 0x76, 0xf2, 0x7d, 0x69,
];

/// A value that is not a map, a list or null.
pub(super) struct Leaf<'a> {
    pub(super) path: Path,
    /// The keys on the path. Indexes of lists do not count.
    pub(super) keys: Vec<String>,
    pub(super) value: &'a Value,
}

/// Returns the values of a file in their order, without the metadata.
pub(super) fn leaves(root: &Map<String, Value>) -> Vec<Leaf<'_>> {
    let mut found = Vec::new();
    for (key, value) in root.iter().filter(|(key, _)| *key != METADATA) {
        walk(value, Path::default().key(key), &mut found);
    }
    found
}

fn walk<'a>(value: &'a Value, path: Path, found: &mut Vec<Leaf<'a>>) {
    match value {
        Value::Null => {}
        Value::Object(map) => map.iter().for_each(|(key, value)| walk(value, path.key(key), found)),
        Value::Array(list) => list.iter().enumerate().for_each(|(index, value)| walk(value, path.index(index), found)),
        value => found.push(Leaf { keys: keys(&path), path, value }),
    }
}

/// Returns the keys on a path.
pub(super) fn keys(path: &Path) -> Vec<String> {
    let key = |step: &Step| match step {
        Step::Key(key) => Some(key.to_string()),
        Step::Index(_) => None,
    };
    path.0.iter().filter_map(key).collect()
}

/// Returns the additional data of a value.
pub(super) fn path_text(keys: &[String]) -> String {
    format!("{}:", keys.join(":"))
}

/// Returns the additional data of all comments that a file can have: the paths of its maps and lists.
pub(super) fn container_paths(root: &Map<String, Value>) -> BTreeSet<String> {
    let mut found = BTreeSet::from([path_text(&[])]);
    for (key, value) in root.iter().filter(|(key, _)| *key != METADATA) {
        containers(value, &mut vec![key.clone()], &mut found);
    }
    found
}

fn containers(value: &Value, keys: &mut Vec<String>, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) => {
            found.insert(path_text(keys));
            for (key, value) in map {
                keys.push(key.clone());
                containers(value, keys, found);
                keys.pop();
            }
        }
        Value::Array(list) => {
            found.insert(path_text(keys));
            list.iter().for_each(|value| containers(value, keys, found));
        }
        _ => {}
    }
}

/// Decrypts a value. Returns its bytes, and the value of its type.
pub(super) fn decrypted_value(key: &DataKey, keys: &[String], value: &Value) -> Result<(Plaintext, Value), SopsError> {
    let damaged = || SopsError::Value(keys.join("."));
    let text = value.as_str().ok_or_else(damaged)?;
    if text.is_empty() {
        return Ok((Plaintext::copied(b""), Value::String(String::new())));
    }
    let encrypted = Encrypted::read(text).ok_or_else(damaged)?;
    let bytes = key.decrypt(&encrypted, &path_text(keys)).ok_or_else(damaged)?;
    let shown = plain_value(&encrypted.kind, &bytes).ok_or_else(damaged)?;
    Ok((bytes, shown))
}

/// Returns true if a value is empty or encrypted, as a rule demands it. Needs no key.
pub(super) fn is_sealed(value: &Value) -> bool {
    let sealed = |text: &str| text.is_empty() || Encrypted::read(text).is_some_and(|found| found.kind != COMMENT);
    value.as_str().is_some_and(sealed)
}

/// The values of a new part of a file, by the way in which they are written.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Written {
    /// True if a value is encrypted.
    pub(super) has_encrypted: bool,
    /// The paths of the values that are written in plain text.
    pub(super) plain: Vec<Path>,
}

/// Divides the values at a path and below it.
pub(super) fn written(value: &Value, path: &Path, metadata: &Metadata) -> Written {
    let mut found = Vec::new();
    walk(value, path.clone(), &mut found);
    let mut written = Written::default();
    for leaf in found {
        if metadata.encrypts(&leaf.keys) {
            written.has_encrypted = true;
        } else {
            written.plain.push(leaf.path);
        }
    }
    if !written.has_encrypted && written.plain.is_empty() {
        // A null, an empty map or an empty list.
        written.plain.push(path.clone());
    }
    written
}

/// Returns the readable values of `after` whose keys have no readable value in `before`. An empty value does not count as
/// one, because a rule that was changed without SOPS leaves it valid.
pub(super) fn new_readable(before: &Value, after: &Value, metadata: &Metadata) -> Vec<String> {
    let readable = |root: &'_ Value| -> Vec<(Vec<String>, Path, bool)> {
        let found = root.as_object().map(leaves).unwrap_or_default();
        let found = found.into_iter().filter(|leaf| !metadata.encrypts(&leaf.keys));
        found.map(|leaf| (leaf.keys, leaf.path, leaf.value.as_str() == Some(""))).collect()
    };
    let known: BTreeSet<Vec<String>> =
        readable(before).into_iter().filter(|(_, _, is_empty)| !is_empty).map(|(keys, ..)| keys).collect();
    let found = readable(after).into_iter().filter(|(keys, _, is_empty)| !is_empty && !known.contains(keys));
    found.map(|(_, path, _)| path.to_string()).collect()
}

/// Replaces the value at an existing path.
pub(super) fn put(root: &mut Value, path: &Path, value: Value) {
    let found = path.0.iter().try_fold(root, |value, step| match step {
        Step::Key(key) => value.get_mut(&**key),
        Step::Index(index) => value.get_mut(index),
    });
    if let Some(found) = found {
        *found = value;
    }
}

/// The hash over the values of a file.
pub(super) struct MacHash {
    hash: Sha512,
    only_encrypted: bool,
}

impl MacHash {
    pub(super) fn new(only_encrypted: bool) -> Self {
        let mut hash = Sha512::new();
        if only_encrypted {
            hash.update(ONLY_ENCRYPTED);
        }
        Self { hash, only_encrypted }
    }

    pub(super) fn add(&mut self, bytes: &Plaintext, is_encrypted: bool) {
        if is_encrypted || !self.only_encrypted {
            self.hash.update(bytes.expose());
        }
    }

    /// Returns the hash in upper-case hexadecimal digits.
    pub(super) fn text(self) -> String {
        self.hash.finalize().iter().map(|byte| format!("{byte:02X}")).collect()
    }
}

/// Returns the bytes of a readable value, as the hash counts them.
pub(super) fn readable_bytes(value: &Value) -> Plaintext {
    let (_, text) = typed(value);
    Plaintext::new(text.into_bytes())
}

/// Returns the type and the text of a value.
fn typed(value: &Value) -> (&'static str, String) {
    match value {
        Value::Bool(true) => ("bool", "True".into()),
        Value::Bool(false) => ("bool", "False".into()),
        Value::Number(number) if number.is_f64() => {
            ("float", number.as_f64().map(|number| number.to_string()).unwrap_or_default())
        }
        Value::Number(number) => ("int", number.to_string()),
        Value::String(text) => ("str", text.clone()),
        other => ("str", other.to_string()),
    }
}

/// Returns a decrypted value of a type; `None` if it is not of this type.
pub(super) fn plain_value(kind: &str, bytes: &Plaintext) -> Option<Value> {
    let text = bytes.text()?;
    Some(match kind {
        "int" => text.parse::<i64>().map_or_else(|_| Value::String(text.to_owned()), Value::from),
        // SOPS reads all numbers of JSON as floats.
        "float" => match text.parse::<i64>() {
            Ok(number) => number.into(),
            Err(_) => serde_json::Number::from_f64(text.parse().ok()?)?.into(),
        },
        "bool" => match text {
            "True" | "true" => Value::Bool(true),
            "False" | "false" => Value::Bool(false),
            _ => return None,
        },
        "str" | "bytes" | "time" => Value::String(text.to_owned()),
        _ => return None,
    })
}

/// Returns a value with all its parts encrypted that the rules encrypt. `keys` is the path of the value.
pub(super) fn encrypted(
    value: &Value,
    keys: &mut Vec<String>,
    metadata: &Metadata,
    key: &DataKey,
) -> Result<Value, SopsError> {
    Ok(match value {
        Value::Null => Value::Null,
        Value::Object(map) => {
            let mut members = Map::new();
            for (name, member) in map {
                keys.push(name.clone());
                members.insert(name.clone(), encrypted(member, keys, metadata, key)?);
                keys.pop();
            }
            Value::Object(members)
        }
        Value::Array(list) => {
            let members = list.iter().map(|member| encrypted(member, keys, metadata, key));
            Value::Array(members.collect::<Result<_, _>>()?)
        }
        scalar if !metadata.encrypts(keys) => scalar.clone(),
        scalar => {
            let (kind, text) = typed(scalar);
            let text = Plaintext::new(text.into_bytes());
            Value::String(key.encrypt(&text, kind, &path_text(keys)).map_err(SopsError::Encrypt)?)
        }
    })
}

/// One difference between two maps.
#[derive(Debug, PartialEq)]
pub(super) enum Change<'a> {
    /// The value at the path is new or different.
    Set(Path, &'a Value),
    /// The value at the path is gone.
    Remove(Path),
}

/// Returns the differences between two values, as small as possible. A list with another length is one difference.
pub(super) fn changes<'a>(before: &Value, after: &'a Value) -> Vec<Change<'a>> {
    let mut found = Vec::new();
    compare(before, after, &Path::default(), &mut found);
    found
}

fn compare<'a>(before: &Value, after: &'a Value, path: &Path, found: &mut Vec<Change<'a>>) {
    match (before, after) {
        (Value::Object(old), Value::Object(new)) if !new.is_empty() || old.is_empty() => {
            for (key, value) in new {
                match old.get(key) {
                    Some(old) => compare(old, value, &path.key(key), found),
                    None => found.push(Change::Set(path.key(key), value)),
                }
            }
            // A map that loses its last old key must not be empty in between, so keys are added first.
            let gone = old.keys().filter(|key| !new.contains_key(*key));
            found.extend(gone.map(|key| Change::Remove(path.key(key))));
        }
        (Value::Array(old), Value::Array(new)) if old.len() == new.len() => {
            for (index, (old, new)) in old.iter().zip(new).enumerate() {
                compare(old, new, &path.index(index), found);
            }
        }
        (old, new) if old == new => {}
        (_, new) => found.push(Change::Set(path.clone(), new)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn changes_are_as_small_as_possible() {
        let before = json!({"a": 1, "b": {"c": "x", "d": "y"}, "e": [1, 2], "f": [1], "g": {"h": 1}});
        let after = json!({"a": 1, "b": {"c": "z", "n": 1}, "e": [1, 3], "f": [1, 2], "g": {}});
        let found = changes(&before, &after);
        let path = |text: &str| text.split('.').fold(Path::default(), |path, step| path.key(step));
        assert_eq!(
            found,
            [
                Change::Set(path("b.c"), &json!("z")),
                Change::Set(path("b.n"), &json!(1)),
                Change::Remove(path("b.d")),
                Change::Set(path("e").index(1), &json!(3)),
                Change::Set(path("f"), &json!([1, 2])),
                Change::Set(path("g"), &json!({})),
            ]
        );
        assert!(changes(&after, &after).is_empty());
    }

    #[test]
    fn values_of_every_type_are_read_back() {
        for value in [json!("x"), json!(12), json!(-1), json!(1.5), json!(true), json!(false), json!(1e30)] {
            let (kind, text) = typed(&value);
            assert_eq!(plain_value(kind, &Plaintext::new(text.into_bytes())), Some(value));
        }
        for (kind, text) in [("bool", "maybe"), ("float", "x"), ("comment", "x")] {
            assert_eq!(plain_value(kind, &Plaintext::copied(text.as_bytes())), None, "{kind}");
        }
    }

    #[test]
    fn hash_over_encrypted_values_differs_from_the_hash_over_all() {
        let hash = |only: bool| {
            let mut hash = MacHash::new(only);
            hash.add(&Plaintext::copied(b"a"), true);
            hash.add(&Plaintext::copied(b"b"), false);
            hash.text()
        };
        assert_ne!(hash(true), hash(false));
        assert_eq!(hash(false).len(), 128);
    }
}
