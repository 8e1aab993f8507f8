//! Snapshots. A snapshot contains the files of one commit of one source. The agent reads the files from the git objects
//! of the mirror, without a checkout.

use std::{collections::BTreeMap, fmt, path::PathBuf, sync::Arc};

use gix::{ObjectId, Repository, ThreadSafeRepository, objs::tree::EntryKind};

use super::tree::{Budget, TreeError, Trees};
use crate::{SourceError, repo::BareRepo};

/// One commit of one source, with the files in the folder that the source reads.
#[derive(Clone)]
pub struct Snapshot {
    /// The name of the source.
    pub source: String,
    /// The full id of the snapshot's commit.
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

/// One entry of a snapshot: a file, a link or a submodule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Blob {
    /// The kind of the snapshot's entry, such as a file or a link.
    pub kind: BlobKind,
    id: ObjectId,
}

/// The kind of a snapshot's entry, such as a file or a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlobKind {
    /// A file.
    File,
    /// An executable file.
    Executable,
    /// A symbolic link.
    Link,
    /// A submodule.
    Submodule,
}

impl Blob {
    /// Returns the id of the entry's git object. Equal contents have equal ids.
    pub fn id(&self) -> String {
        self.id.to_string()
    }
}

impl Snapshot {
    /// Reads the tree of a commit, and returns the snapshot of a folder in the tree.
    pub(crate) fn read(repo: &BareRepo, commit: ObjectId, folder: &str) -> Result<Self, SourceError> {
        Self::of(repo, repo.open()?, commit, folder)
    }

    fn of(repo: &BareRepo, local: Repository, commit: ObjectId, folder: &str) -> Result<Self, SourceError> {
        let source = &repo.options.name;
        let failed = |error: TreeError| match error {
            TreeError::Unreadable(message) => repo.corrupt(message),
            TreeError::Refused(message) => SourceError::Refused { commit: commit.to_string(), message },
        };
        let unreadable = |error: gix::Error| failed(TreeError::Unreadable(error.to_string()));
        let root = local.find_commit(commit).map_err(unreadable)?.tree_id().map_err(unreadable)?.detach();
        let files = Trees::read(&local, root, Budget::SOURCE).and_then(|trees| trees.files(folder)).map_err(failed)?;
        let Some(files) = files.filter(|files| !files.is_empty() || folder.trim_matches(['/', '.']).is_empty()) else {
            return Err(SourceError::Settings {
                message: format!("the source {source} has no folder {folder} at the commit {commit}"),
            });
        };
        let entries = files.into_iter().filter_map(|(path, (kind, id))| {
            let kind = match kind {
                EntryKind::Blob => BlobKind::File,
                EntryKind::BlobExecutable => BlobKind::Executable,
                EntryKind::Link => BlobKind::Link,
                EntryKind::Commit => BlobKind::Submodule,
                EntryKind::Tree => return None,
            };
            Some((path, Blob { kind, id }))
        });
        let entries = entries.collect();
        Ok(Self {
            source: source.clone(),
            commit: commit.to_string(),
            repository: local.into_sync(),
            mirror: repo.path.clone(),
            entries: Arc::new(entries),
        })
    }

    /// Checks that a mirror has a commit and all its files. Git objects can be missing, because a hostile remote may
    /// omit objects.
    pub(crate) fn check_complete(repo: &BareRepo, commit: ObjectId) -> Result<(), SourceError> {
        // The remote is the cause of all errors after the mirror was opened.
        let local = repo.open()?;
        let incomplete = |what: String| repo.unreachable(format!("the remote did not send {what}"));
        match Self::of(repo, local, commit, "") {
            Ok(snapshot) => snapshot.missing_object().map_or(Ok(()), |missing| Err(incomplete(missing))),
            Err(error @ SourceError::Refused { .. }) => Err(error),
            Err(error) => Err(incomplete(error.to_string())),
        }
    }

    /// Returns all entries of the snapshot, by path.
    pub fn entries(&self) -> &BTreeMap<String, Blob> {
        &self.entries
    }

    /// Returns the content of an entry; `None` for a missing entry or a submodule.
    ///
    /// # Errors
    /// Returns an error if the mirror is damaged.
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

    /// Returns the path of a file whose git object is missing in the mirror. Git objects can be missing, because a
    /// hostile remote may omit objects.
    ///
    /// Returns `None` if the mirror has the object of every file.
    pub fn missing_object(&self) -> Option<String> {
        let local = self.repository.to_thread_local();
        self.entries
            .iter()
            .find(|(_, blob)| blob.kind != BlobKind::Submodule && !local.has_object(blob.id))
            .map(|(path, _)| path.clone())
    }

    /// Returns the snapshot, if the mirror has the object of every file.
    ///
    /// # Errors
    /// Returns an error if the object of a file is missing.
    pub fn whole(self) -> Result<Self, SourceError> {
        match self.missing_object() {
            Some(path) => {
                let message = format!("the file {path} of the commit {} is missing", self.commit);
                Err(SourceError::Corrupt { path: self.mirror, message })
            }
            None => Ok(self),
        }
    }
}
