//! Implementations of the trait `Tree` for a git snapshot and for a folder.

use std::{collections::BTreeMap, io, path::Path, path::PathBuf};

use towpath_git::{Blob, BlobKind, Snapshot};
use towpath_host::{FileKind, own};
use towpath_render::tree::{Entry, EntryKind, Tree};

/// A git snapshot, read as a tree of files.
#[derive(Debug)]
pub(super) struct SnapshotTree(pub(super) Snapshot);

fn entry(path: &str, blob: &Blob) -> Entry {
    let kind = match blob.kind {
        BlobKind::File => EntryKind::File,
        BlobKind::Executable => EntryKind::Executable,
        BlobKind::Link => EntryKind::Link,
        BlobKind::Submodule => EntryKind::Submodule,
    };
    Entry { path: path.to_owned(), kind, id: Some(blob.id()), size: None }
}

fn below(folder: &str) -> String {
    if folder.is_empty() { String::new() } else { format!("{folder}/") }
}

impl Tree for SnapshotTree {
    fn list(&self, folder: &str) -> io::Result<Vec<Entry>> {
        let prefix = below(folder);
        let found = self.0.entries().range(prefix.clone()..).take_while(|(path, _)| path.starts_with(&prefix));
        Ok(found.map(|(path, blob)| entry(path, blob)).collect())
    }

    fn read(&self, path: &str) -> io::Result<Option<Vec<u8>>> {
        self.0.content(path).map_err(|error| io::Error::other(error.to_string()))
    }

    fn entry(&self, path: &str) -> io::Result<Option<Entry>> {
        if let Some(blob) = self.0.entries().get(path) {
            return Ok(Some(entry(path, blob)));
        }
        let prefix = below(path);
        let folder =
            self.0.entries().range(prefix.clone()..).next().is_some_and(|(found, _)| found.starts_with(&prefix));
        Ok(folder.then(|| Entry { path: path.to_owned(), kind: EntryKind::Folder, id: None, size: None }))
    }
}

/// A folder, read as a tree of files, such as a working copy with uncommitted changes.
#[derive(Debug)]
pub struct FolderTree {
    root: PathBuf,
    entries: BTreeMap<String, Entry>,
}

impl FolderTree {
    /// Lists a folder and its subfolders, except `.git`.
    ///
    /// # Errors
    /// Fails if the folder or one of its subfolders cannot be read.
    pub fn open(root: &Path) -> io::Result<Self> {
        let mut entries = BTreeMap::new();
        collect(root, "", &mut entries)?;
        Ok(Self { root: root.to_owned(), entries })
    }
}

fn collect(folder: &Path, prefix: &str, entries: &mut BTreeMap<String, Entry>) -> io::Result<()> {
    for found in own::files::list(folder)? {
        if found.name == ".git" {
            continue;
        }
        let path = format!("{prefix}{}", found.name);
        let kind = match (found.kind, found.mode & 0o111) {
            (FileKind::Directory, _) => {
                collect(&found.path, &format!("{path}/"), entries)?;
                continue;
            }
            // A pipe or a socket, which no commit can contain.
            (FileKind::Other, _) => continue,
            (FileKind::Link, _) => EntryKind::Link,
            (_, 0) => EntryKind::File,
            (..) => EntryKind::Executable,
        };
        entries.insert(path.clone(), Entry { path, kind, id: None, size: Some(found.size) });
    }
    Ok(())
}

impl Tree for FolderTree {
    fn list(&self, folder: &str) -> io::Result<Vec<Entry>> {
        let prefix = below(folder);
        Ok(self
            .entries
            .range(prefix.clone()..)
            .take_while(|(path, _)| path.starts_with(&prefix))
            .map(|(_, entry)| entry.clone())
            .collect())
    }

    fn read(&self, path: &str) -> io::Result<Option<Vec<u8>>> {
        match self.entries.get(path) {
            Some(entry) if entry.kind == EntryKind::Link => {
                own::files::read_link(&self.root.join(path)).map(|target| Some(target.into_bytes()))
            }
            Some(_) => own::files::read(&self.root.join(path)).map(Some),
            None => Ok(None),
        }
    }

    fn entry(&self, path: &str) -> io::Result<Option<Entry>> {
        if let Some(entry) = self.entries.get(path) {
            return Ok(Some(entry.clone()));
        }
        let folder = !self.list(path)?.is_empty();
        Ok(folder.then(|| Entry { path: path.to_owned(), kind: EntryKind::Folder, id: None, size: None }))
    }
}
