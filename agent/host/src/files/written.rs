//! The versions of managed files. The agent compares file versions to distinguish its own changes from changes by other
//! programs.
//!
//! The kernel updates the change time of a file only at each clock tick, about every 10 ms. Two changes of a file
//! within one clock tick can lead to the same file version. If a file has just changed, the agent compares the content
//! of the file, because the version of the file is not reliable.

use std::{
    collections::BTreeMap,
    os::fd::AsFd,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use sha2::{Digest as _, Sha256};

use super::reader::{FileKind, FsReader, Meta, meta};

/// The time for which the version of a changed file is unreliable, because a second change can lead to the same
/// version.
const TICK: Duration = Duration::from_millis(20);

/// The version of a managed path. The agent records the version before a check and after a change by the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    meta: Option<Meta>,
    /// True if the version is unreliable because the file changed just before the agent recorded the version.
    recent: bool,
}

impl Seen {
    /// Records the version of a path before a check of the path.
    pub fn before_check(reader: &FsReader, path: &str) -> Self {
        let meta = reader.meta(path).ok().flatten();
        Self { meta, recent: meta.is_some_and(is_recent) }
    }

    /// Records the version of a path that the agent has just changed or removed.
    pub fn after_own_change(reader: &FsReader, path: &str) -> Self {
        let meta = reader.meta(path).ok().flatten();
        Self { meta, recent: meta.is_some_and(|meta| meta.kind == FileKind::File && is_recent(meta)) }
    }

    /// Returns true if the path may have changed after its version was recorded.
    pub fn may_differ(&self, reader: &FsReader, path: &str) -> bool {
        self.recent || reader.meta(path).ok().flatten() != self.meta
    }
}

fn is_recent(meta: Meta) -> bool {
    let (seconds, nanoseconds) = (meta.version.2, meta.version.3);
    let since = u64::try_from(seconds).ok().zip(u32::try_from(nanoseconds).ok());
    let changed = since.and_then(|(seconds, rest)| SystemTime::UNIX_EPOCH.checked_add(Duration::new(seconds, rest)));
    // A file with a change time in the future counts as recently changed.
    !changed.is_some_and(|changed| changed.elapsed().is_ok_and(|age| age >= TICK))
}

/// A file that the agent has written: its inode, its permissions and the digest of its content.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Written {
    /// The metadata of the file. The record does not contain the change time, because a rename updates the change time.
    meta: Meta,
    digest: [u8; 32],
}

/// Records of the files that the agent has written, by the path of each file without links.
#[derive(Debug, Default)]
pub struct WrittenFiles(Mutex<BTreeMap<PathBuf, Written>>);

impl WrittenFiles {
    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<PathBuf, Written>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records a written file before the rename to its final path.
    pub(crate) fn note(&self, path: PathBuf, file: impl AsFd, digest: [u8; 32]) {
        match meta(file) {
            Ok(meta) => drop(self.lock().insert(path, Written { meta: timeless(meta), digest })),
            Err(_) => drop(self.lock().remove(&path)),
        }
    }

    /// Removes the record of a file that the agent has written.
    pub fn forget(&self, path: &Path) {
        self.lock().remove(path);
    }

    /// Removes the records of all files that are no longer managed.
    pub fn retain(&self, is_managed: impl Fn(&Path) -> bool) {
        self.lock().retain(|path, _| is_managed(path));
    }

    /// Returns true if a file still has the content and the permissions that the agent gave the file. Returns `None` if
    /// no record of the file exists.
    pub fn is_intact(&self, reader: &FsReader, real: &Path, path: &str) -> Option<bool> {
        let written = self.lock().get(real).cloned()?;
        let found = reader.read(path).ok().flatten();
        Some(found.is_some_and(|(bytes, meta)| timeless(meta) == written.meta && digest(&bytes) == written.digest))
    }
}

/// Returns the digest of a file's content, for [`WrittenFiles`].
pub(crate) fn digest(content: &[u8]) -> [u8; 32] {
    Sha256::digest(content).into()
}

fn timeless(meta: Meta) -> Meta {
    Meta { version: (meta.version.0, meta.version.1, 0, 0), ..meta }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::writer::{Access, Host};
    use super::*;

    const ACCESS: Access = Access { mode: 0o644, uid: None, gid: None };

    fn root() -> (tempfile::TempDir, FsReader) {
        let folder = tempfile::tempdir().unwrap();
        let reader = FsReader::at(folder.path()).unwrap();
        (folder, reader)
    }

    #[test]
    fn old_file_differs_after_each_change_and_not_before() {
        let (folder, reader) = root();
        let file = folder.path().join("a");
        fs::write(&file, "one").unwrap();
        std::thread::sleep(TICK * 2);
        let seen = Seen::before_check(&reader, "/a");
        assert!(!seen.may_differ(&reader, "/a"));
        fs::write(&file, "two").unwrap();
        assert!(seen.may_differ(&reader, "/a"));
        fs::remove_file(&file).unwrap();
        assert!(seen.may_differ(&reader, "/a"));
    }

    #[test]
    fn file_that_has_just_changed_may_always_differ() {
        let (folder, reader) = root();
        fs::write(folder.path().join("a"), "one").unwrap();
        assert!(Seen::before_check(&reader, "/a").may_differ(&reader, "/a"));
        assert!(Seen::after_own_change(&reader, "/a").may_differ(&reader, "/a"));
    }

    #[test]
    fn own_directory_differs_only_after_a_change() {
        let (folder, reader) = root();
        let directory = folder.path().join("d");
        fs::create_dir(&directory).unwrap();
        let seen = Seen::after_own_change(&reader, "/d");
        assert!(!seen.may_differ(&reader, "/d"));
        fs::set_permissions(&directory, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
        assert!(seen.may_differ(&reader, "/d"));
        let missing = Seen::after_own_change(&reader, "/e");
        assert!(!missing.may_differ(&reader, "/e"));
        fs::write(folder.path().join("e"), "").unwrap();
        assert!(missing.may_differ(&reader, "/e"));
    }

    /// Tests changes within the same tick, such as an overwrite with the same length.
    #[test]
    fn own_file_is_intact_until_its_content_or_its_mode_changes() {
        let folder = tempfile::tempdir().unwrap();
        let (reader, writer) = Host::at(folder.path()).unwrap().split();
        let written = writer.written();
        let file = folder.path().join("a");
        let intact = || written.is_intact(&reader, &file, "/a");
        assert_eq!(intact(), None);
        for change in ["overwrite", "mode", "replace", "remove", "link"] {
            writer.replace("/a", b"ours", ACCESS).unwrap();
            assert_eq!(intact(), Some(true), "{change}");
            match change {
                "overwrite" => fs::write(&file, "else").unwrap(),
                "mode" => fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap(),
                "replace" => {
                    fs::write(folder.path().join("b"), "ours").unwrap();
                    fs::rename(folder.path().join("b"), &file).unwrap();
                }
                "remove" => fs::remove_file(&file).unwrap(),
                _ => {
                    fs::remove_file(&file).unwrap();
                    std::os::unix::fs::symlink("b", &file).unwrap();
                }
            }
            assert_eq!(intact(), Some(false), "{change}");
            let _ = fs::remove_file(&file);
        }
        written.forget(&file);
        assert_eq!(intact(), None);
    }

    #[test]
    fn tree_below_a_folder_is_noted_by_its_real_paths() {
        let folder = tempfile::tempdir().unwrap();
        let (reader, writer) = Host::at(folder.path()).unwrap().split();
        let written = writer.written();
        fs::create_dir(folder.path().join("d")).unwrap();
        let writer = writer.plain_below("/d");
        writer.replace("/d/a", b"ours", ACCESS).unwrap();
        assert_eq!(written.is_intact(&reader, &folder.path().join("d/a"), "/d/a"), Some(true));
    }
}
