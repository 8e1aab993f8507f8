//! Reads and writes the agent's own files and folders by their full path. Links are followed.

use std::{
    fs::{self, File},
    io::{self, Read as _, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use crate::files::FileKind;

/// Reads a file.
///
/// # Errors
/// Returns an error if the file cannot be read.
pub fn read(file: &Path) -> io::Result<Vec<u8>> {
    fs::read(file)
}

/// Reads a file as text.
///
/// # Errors
/// Returns an error if the file cannot be read, or is not UTF-8.
pub fn read_text(file: &Path) -> io::Result<String> {
    fs::read_to_string(file)
}

/// Writes a text file. The function creates missing folders, and overwrites an existing file.
///
/// # Errors
/// Returns an error if the file or a folder cannot be written.
pub fn write_text(file: &Path, text: &str) -> io::Result<()> {
    if let Some(folder) = file.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(file, text)
}

/// Writes a new file that only its owner can read. The bytes are on disk when the call returns.
///
/// # Errors
/// Returns an error if the file exists, or cannot be written.
pub fn write_private(file: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut made = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(file)?;
    made.write_all(bytes).and_then(|()| made.sync_all())
}

/// Reads a file that has at most `limit` bytes.
///
/// # Errors
/// When the file cannot be read, or has more bytes.
pub fn read_at_most(file: &Path, limit: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(limit.saturating_add(1));
    let most = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    File::open(file)?.take(most).read_to_end(&mut bytes)?;
    if bytes.len() > limit {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("it has more than {limit} bytes")));
    }
    Ok(bytes)
}

/// An entry of a folder. A link is not followed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FolderEntry {
    /// The name of the entry. Bytes that are not UTF-8 are replaced by U+FFFD.
    pub name: String,
    /// The full path of the entry.
    pub path: PathBuf,
    /// The kind of the entry.
    pub kind: FileKind,
    /// The permission bits of the entry.
    pub mode: u32,
    /// The size of the entry in bytes.
    pub size: u64,
}

/// Lists the entries of a folder. The entries are not sorted.
///
/// # Errors
/// Returns an error if the folder or the metadata of an entry cannot be read.
pub fn list(folder: &Path) -> io::Result<Vec<FolderEntry>> {
    let entry = |found: io::Result<fs::DirEntry>| {
        let found = found?;
        let meta = fs::symlink_metadata(found.path())?;
        let kind = match meta.file_type() {
            kind if kind.is_dir() => FileKind::Directory,
            kind if kind.is_symlink() => FileKind::Link,
            kind if kind.is_file() => FileKind::File,
            _ => FileKind::Other,
        };
        let name = found.file_name().to_string_lossy().into_owned();
        Ok(FolderEntry { name, path: found.path(), kind, mode: meta.permissions().mode() & 0o7777, size: meta.len() })
    };
    fs::read_dir(folder)?.map(entry).collect()
}

/// Reads the target of a link.
///
/// # Errors
/// Returns an error if the path is not a symbolic link, or if the link cannot be read.
pub fn read_link(file: &Path) -> io::Result<String> {
    Ok(fs::read_link(file)?.to_string_lossy().into_owned())
}

/// Returns the path of a folder without links.
///
/// # Errors
/// Returns an error if the folder does not exist or cannot be reached.
pub fn real_folder(folder: &Path) -> io::Result<PathBuf> {
    fs::canonicalize(folder)
}

/// Returns true if there is an entry at a path. A link is not followed.
pub fn exists(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok()
}

/// Creates an empty file and opens the file for writing. An existing file is emptied.
///
/// # Errors
/// Returns an error if the file cannot be created or opened.
pub fn create(file: &Path) -> io::Result<File> {
    File::create(file)
}

/// Creates a folder, and the folders above it. An existing folder is kept.
///
/// # Errors
/// Returns an error if a folder cannot be created.
pub fn create_folder(folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)
}

/// Removes a folder with its contents.
///
/// # Errors
/// Returns an error if the folder or a file in the folder cannot be removed.
pub fn remove_folder(folder: &Path) -> io::Result<()> {
    fs::remove_dir_all(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_above_the_limit_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("value");
        fs::write(&file, "12345").unwrap();
        assert_eq!(read_at_most(&file, 5).unwrap(), b"12345");
        assert_eq!(read_at_most(&file, 4).unwrap_err().to_string(), "it has more than 4 bytes");
        assert!(read_at_most(Path::new("/dev/zero"), 4).is_err());
    }

    #[test]
    fn private_file_is_new_and_unreadable_for_others() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("key");
        write_private(&file, b"x").unwrap();
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(write_private(&file, b"y").is_err());
        assert_eq!(fs::read(&file).unwrap(), b"x");
    }
}
