//! After a check without drift, the agent stores the state that each managed path must have. A later pass compares the
//! files with the stored states, and needs neither the source nor the templates.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use towpath_host::{FileKind, FsReader, keyed_digest, process};

/// The state that a managed path must have. The agent does not store the content of a file, but only a keyed hash of
/// the content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expectation {
    pub(crate) path: String,
    /// The target folder, if the path belongs to a copied folder (a tree); `None` for any other path. On the node, the
    /// agent does not follow links below the target folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) plain_below: Option<String>,
    pub(crate) what: Expected,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) mode: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) owner: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) group: Option<String>,
}

/// The kind of file, and the content, that a managed path must have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Expected {
    /// The managed path must be a file whose content has the given keyed hash.
    Content(String),
    /// The path must be a file. The content is not checked.
    Any,
    /// The path must be a directory.
    Directory,
    /// The managed path must be a link with the given target.
    Link(String),
    /// The path must not exist.
    Absent,
}

/// Compares the files of the machine with stored states. The inspector looks up the id of each user and group only
/// once.
#[derive(Debug)]
pub struct Inspector<'a> {
    reader: &'a FsReader,
    key: &'a [u8; 32],
    trees: BTreeMap<String, FsReader>,
    users: BTreeMap<String, Option<u32>>,
    groups: BTreeMap<String, Option<u32>>,
}

impl<'a> Inspector<'a> {
    /// Creates an inspector for the files below a root. The inspector uses `key` to compute the keyed hashes of file
    /// contents.
    pub fn new(reader: &'a FsReader, key: &'a [u8; 32]) -> Self {
        Self { reader, key, trees: BTreeMap::new(), users: BTreeMap::new(), groups: BTreeMap::new() }
    }

    /// Returns true if a path has the stored state. Returns false if the path cannot be read.
    pub fn holds(&mut self, expected: &Expectation) -> bool {
        let path = expected.path.as_str();
        let reader = match &expected.plain_below {
            Some(folder) => {
                let all = self.reader;
                &*self.trees.entry(folder.clone()).or_insert_with(|| all.plain_below(folder))
            }
            None => self.reader,
        };
        let meta = match &expected.what {
            Expected::Absent => return matches!(reader.meta(path), Ok(None)),
            Expected::Link(target) => {
                return matches!(reader.link(path), Ok(Some(found)) if found == *target);
            }
            // A link to a directory counts as the directory, as in the full check.
            Expected::Directory => match reader.target(path) {
                Ok(Some(meta)) if meta.kind == FileKind::Directory => meta,
                _ => return false,
            },
            Expected::Any => match reader.read(path) {
                Ok(Some((_, meta))) => meta,
                _ => return false,
            },
            Expected::Content(digest) => match reader.read(path) {
                Ok(Some((bytes, meta))) if keyed_digest(self.key, &bytes) == *digest => meta,
                _ => return false,
            },
        };
        expected.mode.is_none_or(|mode| mode == meta.mode)
            && expected.owner.as_ref().is_none_or(|name| {
                *self.users.entry(name.clone()).or_insert_with(|| process::user(name).map(|user| user.0))
                    == Some(meta.uid)
            })
            && expected.group.as_ref().is_none_or(|name| {
                *self.groups.entry(name.clone()).or_insert_with(|| process::group(name)) == Some(meta.gid)
            })
    }
}
