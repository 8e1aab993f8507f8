//! A trait with which this crate reads the files of a source. Git snapshots and folders implement the trait.

use std::{collections::BTreeMap, fmt, io};

/// A file tree: the files of one commit or folder. Paths in the tree are relative, with `/` between their parts.
pub trait Tree: Send + Sync {
    /// Returns all entries below a folder, sorted by path. The empty folder name `""` means the whole tree.
    ///
    /// # Errors
    /// Returns an error if the tree cannot be read.
    fn list(&self, folder: &str) -> io::Result<Vec<Entry>>;

    /// Returns the bytes of a file, or `None` if the file does not exist.
    ///
    /// # Errors
    /// Returns an error if the tree cannot be read, or if the entry is not a file.
    fn read(&self, path: &str) -> io::Result<Option<Vec<u8>>>;

    /// Returns the entry at a path, or `None` if the path does not exist.
    ///
    /// # Errors
    /// Returns an error if the tree cannot be read.
    fn entry(&self, path: &str) -> io::Result<Option<Entry>>;
}

impl fmt::Debug for dyn Tree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tree")
    }
}

/// An entry of a tree: a file, a link, a folder or a submodule.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// The path of the entry in the tree.
    pub path: String,
    /// The kind of the entry.
    pub kind: EntryKind,
    /// The id of the content, such as a git object id; `None` if the tree must read the content to compute an id.
    pub id: Option<String>,
    /// The size of the file in bytes; `None` if the tree must read the content to find the size.
    pub size: Option<u64>,
}

/// The kind of an entry in a file tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum EntryKind {
    /// A regular file that is not executable.
    File,
    /// An executable file.
    Executable,
    /// A symbolic link. The content of the entry is the target of the link.
    Link,
    /// A folder.
    Folder,
    /// A git submodule, which Towpath rejects.
    Submodule,
}

/// A file tree in memory, for tests.
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

/// Joins a folder and a relative path. The function rejects `..`, absolute paths and NUL characters.
///
/// # Errors
/// Returns the reason why the path is invalid.
pub fn join(folder: &str, path: &str) -> Result<String, String> {
    if path.is_empty() {
        return Err("the path is empty".into());
    }
    if path.starts_with('/') {
        return Err(format!("{path:?} is absolute; write a path that is relative to the source"));
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
