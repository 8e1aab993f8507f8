//! Names of secret values.

use std::fmt;

/// The version of the header and of the marker.
pub(super) const VERSION: u8 = 1;

/// The name of one value of an object: the kind, the namespace and the name of the object, and the key of the value.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ValueName {
    /// The kind of the object, such as `Secret`.
    pub kind: String,
    /// The namespace of the object.
    pub namespace: String,
    /// The name of the object.
    pub name: String,
    /// The key of the value in the object.
    pub key: String,
}

impl fmt::Display for ValueName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the key {} of the {} {}/{}", self.key, self.kind, self.namespace, self.name)
    }
}

impl ValueName {
    /// Returns the name of a value of a Secret.
    pub fn of_secret(namespace: &str, name: &str, key: &str) -> Self {
        Self { kind: "Secret".into(), namespace: namespace.into(), name: name.into(), key: key.into() }
    }

    /// Returns the parts, each followed by a zero byte.
    pub(super) fn bytes(&self) -> Vec<u8> {
        let parts = [&self.kind, &self.namespace, &self.name, &self.key];
        parts.into_iter().flat_map(|part| part.bytes().chain([0])).collect()
    }

    /// Reads the parts of a name. Returns the name and the bytes after it.
    pub(super) fn read(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let mut rest = bytes;
        let mut part = || {
            let end = rest.iter().position(|byte| *byte == 0)?;
            let text = std::str::from_utf8(rest.get(..end)?).ok()?.to_owned();
            rest = rest.get(end.checked_add(1)?..)?;
            Some(text)
        };
        let name = Self { kind: part()?, namespace: part()?, name: part()?, key: part()? };
        Some((name, rest))
    }
}
