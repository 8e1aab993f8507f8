//! One commit of one source: reads blobs straight from the mirror's objects, without a checkout.

use std::{collections::BTreeMap, fmt, path::PathBuf, sync::Arc};

use gix::{ObjectId, ThreadSafeRepository, objs::tree::EntryKind};

use crate::SourceError;

/// One commit of one source.
#[derive(Clone)]
pub struct Snapshot {
    /// The source's name.
    pub source: String,
    /// The commit's full id.
    pub commit: String,
    repository: ThreadSafeRepository,
    mirror: PathBuf,
    entries: Arc<BTreeMap<String, Blob>>,
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Snapshot({} {})", self.source, self.commit)
    }
}

/// One entry of a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Blob {
    /// What it is.
    pub kind: BlobKind,
    id: ObjectId,
}

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlobKind {
    /// A file.
    File,
    /// A file that may be executed.
    Executable,
    /// A symbolic link.
    Link,
    /// A submodule.
    Submodule,
}

impl Blob {
    /// The object's id: the same content has the same id.
    pub fn id(&self) -> String {
        self.id.to_string()
    }
}

/// How many entries a snapshot may have.
const ENTRIES: usize = 1 << 20;

impl Snapshot {
    /// Reads the tree of a commit below a folder.
    pub(crate) fn read(
        source: &str,
        repository: &ThreadSafeRepository,
        mirror: PathBuf,
        commit: ObjectId,
        folder: &str,
    ) -> Result<Self, SourceError> {
        let corrupt = |message: String| SourceError::Corrupt { path: mirror.clone(), message };
        let local = repository.to_thread_local();
        let tree = local
            .find_commit(commit)
            .map_err(|error| corrupt(error.to_string()))?
            .tree()
            .map_err(|error| corrupt(error.to_string()))?;
        let files = tree.traverse().breadthfirst.files().map_err(|error| corrupt(error.to_string()))?;
        if files.len() > ENTRIES {
            return Err(SourceError::Settings {
                message: format!("the source {source} has more than {ENTRIES} files"),
            });
        }
        let prefix = folder.trim_matches('/');
        let prefix = if prefix.is_empty() || prefix == "." { String::new() } else { format!("{prefix}/") };
        let mut entries = BTreeMap::new();
        for file in files {
            let Ok(path) = std::str::from_utf8(&file.filepath) else { continue };
            let Some(path) = path.strip_prefix(&prefix) else { continue };
            let kind = match file.mode.kind() {
                EntryKind::Blob => BlobKind::File,
                EntryKind::BlobExecutable => BlobKind::Executable,
                EntryKind::Link => BlobKind::Link,
                EntryKind::Commit => BlobKind::Submodule,
                EntryKind::Tree => continue,
            };
            entries.insert(path.to_owned(), Blob { kind, id: file.oid });
        }
        if entries.is_empty() && !prefix.is_empty() {
            return Err(SourceError::Settings {
                message: format!("the source {source} has no folder {folder} at {commit}"),
            });
        }
        Ok(Self {
            source: source.to_owned(),
            commit: commit.to_string(),
            repository: repository.clone(),
            mirror,
            entries: Arc::new(entries),
        })
    }

    /// All entries by path.
    pub fn entries(&self) -> &BTreeMap<String, Blob> {
        &self.entries
    }

    /// The bytes of an entry; None where there is none.
    ///
    /// # Errors
    /// When the mirror is damaged.
    pub fn content(&self, path: &str) -> Result<Option<Vec<u8>>, SourceError> {
        let Some(blob) = self.entries.get(path).filter(|blob| blob.kind != BlobKind::Submodule) else {
            return Ok(None);
        };
        let local = self.repository.to_thread_local();
        let object = local
            .find_object(blob.id)
            .map_err(|error| SourceError::Corrupt { path: self.mirror.clone(), message: error.to_string() })?;
        Ok(Some(object.detach().data))
    }

    /// Whether every file of the snapshot is in the mirror. A remote may leave some out.
    pub fn missing_object(&self) -> Option<String> {
        let local = self.repository.to_thread_local();
        self.entries
            .iter()
            .find(|(_, blob)| blob.kind != BlobKind::Submodule && !local.has_object(blob.id))
            .map(|(path, _)| path.clone())
    }
}
