//! Replaces the texts of files that people and other processes may change at the same time.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use rustix::fs::{FlockOperation, flock};
use thiserror::Error;

use super::files;

/// A new text for a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replacement {
    /// The full path of the file.
    pub file: PathBuf,
    /// The text that the file must still have.
    pub old: String,
    /// The new text.
    pub new: String,
}

/// The reason why a file was not replaced.
#[derive(Debug, Error)]
pub enum ReplaceError {
    /// The error that another process has changed the file. No file was replaced.
    #[error("{} was changed by another process", .0.display())]
    Changed(PathBuf),
    /// The error that the file is a link or another special file. No file was replaced.
    #[error("cannot write {}: it is not a regular file", .0.display())]
    NotRegular(PathBuf),
    /// An I/O error. Files that come before this file may be replaced.
    #[error("cannot write {}: {why}", .file.display())]
    Io {
        /// The file.
        file: PathBuf,
        /// The cause.
        why: io::Error,
    },
}

/// Replaces the texts of existing files, and keeps their modes. A reader of a file sees its old or its new text.
///
/// No file is replaced if one of them no longer has its old text. The folders of the files are locked for that check
/// and for the replacement, so that two processes of Towpath never overwrite the change of each other. A link is not
/// followed.
///
/// # Errors
/// When a file has another text than its old text, is not a regular file, or cannot be replaced.
pub fn replace_texts(replacements: &[Replacement]) -> Result<(), ReplaceError> {
    let _locks = lock_folders(replacements)?;
    let failed = |file: &Path| {
        let file = file.to_owned();
        move |why| ReplaceError::Io { file, why }
    };
    let mut modes = Vec::new();
    for Replacement { file, old, .. } in replacements {
        let found = fs::symlink_metadata(file).map_err(failed(file))?;
        if !found.is_file() {
            return Err(ReplaceError::NotRegular(file.clone()));
        }
        if files::read(file).map_err(failed(file))? != old.as_bytes() {
            return Err(ReplaceError::Changed(file.clone()));
        }
        modes.push(found.permissions());
    }
    for (Replacement { file, new, .. }, mode) in replacements.iter().zip(modes) {
        replace(file, new, mode).map_err(failed(file))?;
    }
    Ok(())
}

fn replace(file: &Path, text: &str, mode: fs::Permissions) -> io::Result<()> {
    let (folder, name) = (folder_of(file), file.file_name().unwrap_or_default().to_string_lossy());
    let temporary = folder.join(format!(".{name}.{}", uuid::Uuid::new_v4().simple()));
    let written = files::write_private(&temporary, text.as_bytes())
        .and_then(|()| fs::set_permissions(&temporary, mode))
        .and_then(|()| fs::rename(&temporary, file))
        .and_then(|()| File::open(folder)?.sync_all());
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written
}

/// Locks the folders of files, each once and in the order of their inodes, so that two processes never wait for each
/// other. The locks end when the files are closed.
fn lock_folders(replacements: &[Replacement]) -> Result<Vec<File>, ReplaceError> {
    let mut folders = BTreeMap::new();
    for Replacement { file, .. } in replacements {
        let failed = |why| ReplaceError::Io { file: file.clone(), why };
        let folder = File::open(folder_of(file)).map_err(failed)?;
        let found = folder.metadata().map_err(failed)?;
        folders.entry((found.dev(), found.ino())).or_insert((folder, file));
    }
    let mut locks = Vec::new();
    for (folder, file) in folders.into_values() {
        let locked = rustix::io::retry_on_intr(|| flock(&folder, FlockOperation::LockExclusive));
        locked.map_err(|error| ReplaceError::Io { file: file.clone(), why: error.into() })?;
        locks.push(folder);
    }
    Ok(locks)
}

fn folder_of(file: &Path) -> &Path {
    match file.parent() {
        Some(folder) if folder.as_os_str().is_empty() => Path::new("."),
        Some(folder) => folder,
        None => Path::new("/"),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn replacement(file: &Path, old: &str, new: &str) -> Replacement {
        Replacement { file: file.to_owned(), old: old.into(), new: new.into() }
    }

    #[test]
    fn replaced_file_keeps_its_mode_and_leaves_no_temporary_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.yaml");
        fs::write(&file, "old").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
        replace_texts(&[replacement(&file, "old", "new")]).unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "new");
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o7777, 0o640);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "a temporary file is left");
        assert!(replace_texts(&[replacement(&folder.path().join("missing"), "old", "x")]).is_err());
    }

    #[test]
    fn link_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let (file, link) = (folder.path().join("a.yaml"), folder.path().join("link"));
        fs::write(&file, "old").unwrap();
        std::os::unix::fs::symlink("a.yaml", &link).unwrap();
        let refused = replace_texts(&[replacement(&link, "old", "new")]);
        assert!(matches!(refused, Err(ReplaceError::NotRegular(found)) if found == link));
        assert_eq!(fs::read_to_string(&file).unwrap(), "old");
    }

    #[test]
    fn no_file_is_replaced_if_one_has_changed() {
        let folder = tempfile::tempdir().unwrap();
        let (one, two) = (folder.path().join("one"), folder.path().join("two"));
        fs::write(&one, "old").unwrap();
        fs::write(&two, "changed").unwrap();
        let refused = replace_texts(&[replacement(&one, "old", "new"), replacement(&two, "old", "new")]);
        assert!(matches!(refused, Err(ReplaceError::Changed(found)) if found == two));
        assert_eq!(fs::read_to_string(&one).unwrap(), "old");
    }

    #[test]
    fn parallel_changes_are_never_lost() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.yaml");
        fs::write(&file, "").unwrap();
        let add = |line: String| loop {
            let old = fs::read_to_string(&file).unwrap();
            let new = format!("{old}{line}\n");
            match replace_texts(&[replacement(&file, &old, &new)]) {
                Ok(()) => break,
                Err(ReplaceError::Changed(_)) => {}
                Err(error) => panic!("{error}"),
            }
        };
        let add = &add;
        std::thread::scope(|scope| {
            for thread in 0..8 {
                scope.spawn(move || (0..8).for_each(|line| add(format!("{thread}.{line}"))));
            }
        });
        assert_eq!(fs::read_to_string(&file).unwrap().lines().count(), 64);
    }
}
