//! The port through which render reads files: filled from a git snapshot, or from a folder.

use std::{collections::BTreeMap, fmt, io};

/// A tree of files, as one commit (or one folder) has them. Paths are `/`-separated and relative.
pub trait Tree: Send + Sync {
    /// All entries below a folder (`""` for all), sorted by path.
    ///
    /// # Errors
    /// When the tree can't be read.
    fn list(&self, folder: &str) -> io::Result<Vec<Entry>>;

    /// The bytes of a file; None where there is none.
    ///
    /// # Errors
    /// When the tree can't be read, or what stands there is no file.
    fn read(&self, path: &str) -> io::Result<Option<Vec<u8>>>;

    /// What is at a path; None where there is nothing.
    ///
    /// # Errors
    /// When the tree can't be read.
    fn entry(&self, path: &str) -> io::Result<Option<Entry>>;
}

impl fmt::Debug for dyn Tree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tree")
    }
}

/// One entry of a tree.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// Its path.
    pub path: String,
    /// What it is.
    pub kind: EntryKind,
    /// Identifies the content, where the tree knows it without reading (a git object id).
    pub id: Option<String>,
    /// The size in bytes, where it is known without reading.
    pub size: Option<u64>,
}

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum EntryKind {
    /// A file.
    File,
    /// A file that may be executed.
    Executable,
    /// A symbolic link; its content is the target.
    Link,
    /// A folder.
    Folder,
    /// A git submodule, which Towpath refuses.
    Submodule,
}

/// A tree in memory, for tests.
#[derive(Debug, Default, Clone)]
pub struct MemoryTree {
    files: BTreeMap<String, Vec<u8>>,
}

impl<P: Into<String>, C: Into<Vec<u8>>> FromIterator<(P, C)> for MemoryTree {
    fn from_iter<I: IntoIterator<Item = (P, C)>>(files: I) -> Self {
        Self { files: files.into_iter().map(|(path, content)| (path.into(), content.into())).collect() }
    }
}

impl Tree for MemoryTree {
    fn list(&self, folder: &str) -> io::Result<Vec<Entry>> {
        let below =
            |path: &str| folder.is_empty() || path.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'));
        Ok(self.files.iter().filter(|(path, _)| below(path)).map(|(path, content)| file(path, content)).collect())
    }

    fn read(&self, path: &str) -> io::Result<Option<Vec<u8>>> {
        Ok(self.files.get(path).cloned())
    }

    fn entry(&self, path: &str) -> io::Result<Option<Entry>> {
        if let Some(content) = self.files.get(path) {
            return Ok(Some(file(path, content)));
        }
        let folder = !self.list(path)?.is_empty();
        Ok(folder.then(|| Entry { path: path.to_owned(), kind: EntryKind::Folder, id: None, size: None }))
    }
}

fn file(path: &str, content: &[u8]) -> Entry {
    Entry { path: path.to_owned(), kind: EntryKind::File, id: None, size: Some(content.len() as u64) }
}

/// Joins a relative path to a folder, without `..`, absolute paths or NUL.
///
/// # Errors
/// What is wrong with the path.
pub fn join(folder: &str, path: &str) -> Result<String, String> {
    if path.is_empty() {
        return Err("the path is empty".into());
    }
    if path.starts_with('/') {
        return Err(format!("{path:?} is absolute, but paths of a source are relative to it"));
    }
    if path.contains('\0') {
        return Err("the path has a NUL character".into());
    }
    let mut parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => return Err(format!("{path:?} has \"..\", which would leave the source")),
            part => parts.push(part),
        }
    }
    Ok(parts.join("/"))
}
