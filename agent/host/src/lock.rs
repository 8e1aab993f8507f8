//! The lock on the state directory. Only one agent at a time can use a state directory.

pub mod private_files;

use std::{
    fs::{self, File, OpenOptions},
    io::{Read as _, Seek as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::fs::{FlockOperation, Mode, OFlags, flock};
use thiserror::Error;

use crate::FsReader;

/// The maximum number of retries for the lock on the state directory. The child process of a killed agent can hold the
/// lock for a moment, between fork and exec.
pub const TRIES: usize = 20;
/// The pause between two attempts to lock the state directory.
pub const PAUSE: Duration = Duration::from_millis(50);

/// A locked state directory. The lock is released when the `StateDir` is dropped.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    lock: File,
}

/// The error that a state directory cannot be used or locked.
#[derive(Debug, Error)]
pub enum LockError {
    /// The error that another agent has locked the state directory.
    #[error("the state directory {path} belongs to another agent: {holder}", path = path.display())]
    Taken {
        /// The path of the state directory.
        path: PathBuf,
        /// The owner of the lock: the text of the lock file, with the name of a node and the id of a process.
        holder: String,
    },
    /// The error that another user can change the state directory.
    #[error(
        "cannot use the state directory {path}: {folder} {cause}; \
         make root its owner and its only writer, or set another stateDir",
        path = path.display()
    )]
    Untrusted {
        /// The path of the state directory.
        path: PathBuf,
        /// The unsafe directory: the state directory or one of its parents.
        folder: String,
        /// The owner or the mode with which the directory gives another user write access.
        cause: String,
    },
    /// The error that an I/O operation on the state directory failed.
    #[error("cannot use the state directory {path}", path = path.display())]
    Unusable {
        /// The path of the state directory.
        path: PathBuf,
        /// The I/O error.
        source: std::io::Error,
    },
}

impl StateDir {
    /// Locks a state directory. The function creates a missing state directory.
    ///
    /// # Errors
    /// Returns an error if another agent holds the lock, or if the directory cannot be used. Returns an error if
    /// another user can change the state directory or one of its parents.
    pub fn take(path: &Path, node: &str) -> Result<Self, LockError> {
        let unusable = |source| LockError::Unusable { path: path.to_owned(), source };
        make_private(path)?;
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
            .open(path.join("lock"))
            .map_err(unusable)?;
        let mut tries = 0;
        let free = loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => break true,
                Err(_) if tries < TRIES => {
                    tries += 1;
                    std::thread::sleep(PAUSE);
                }
                Err(_) => break false,
            }
        };
        if !free {
            let mut holder = String::new();
            let _ = file.read_to_string(&mut holder);
            return Err(LockError::Taken { path: path.to_owned(), holder: holder.trim().to_owned() });
        }
        let holder = format!("node {node}, process {}\n", std::process::id());
        let write = file.set_len(0).and_then(|()| file.rewind()).and_then(|()| file.write_all(holder.as_bytes()));
        // On a full disk, the lock is still valid. The lock file then does not name the holder of the lock.
        drop(write);
        Ok(Self { path: path.to_owned(), lock: file })
    }

    /// Returns true if the locked state directory is still at its path, and still contains the journal.
    ///
    /// If the state directory was deleted, the agent must not continue, because the agent has lost its records.
    pub fn is_there(&self) -> bool {
        let same = |own: fs::Metadata, now: fs::Metadata| (own.dev(), own.ino()) == (now.dev(), now.ino());
        let now = fs::metadata(self.path.join("lock"));
        self.lock.metadata().is_ok_and(|own| now.is_ok_and(|now| same(own, now)))
            && self.path.join("journal.redb").exists()
    }

    /// Returns the path of the state directory.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Creates a missing state directory, and sets the mode 0700. Returns an error if another user can change the
/// directory.
fn make_private(path: &Path) -> Result<(), LockError> {
    let unusable = |source| LockError::Unusable { path: path.to_owned(), source };
    let whole = std::path::absolute(path).map_err(unusable)?;
    let reader = FsReader::at(Path::new("/")).map_err(unusable)?;
    let real = reader.resolved(&whole.to_string_lossy(), true).map_err(unusable)?;
    let ends = real.match_indices('/').map(|(at, _)| at.max(1)).chain([real.len()]);
    for folder in ends.map(|at| &real[..at]) {
        let Some(meta) = reader.meta(folder).map_err(unusable)? else { break };
        // The mode of the state directory itself is corrected below.
        let mode = if folder == real { 0 } else { meta.mode };
        if let Some(cause) = changeable(meta.uid, meta.gid, mode) {
            return Err(LockError::Untrusted { path: path.to_owned(), folder: folder.to_owned(), cause });
        }
    }
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&real).map_err(unusable)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = rustix::fs::open(&real, flags, Mode::empty()).map_err(|error| unusable(error.into()))?;
    let stat = rustix::fs::fstat(&opened).map_err(|error| unusable(error.into()))?;
    if let Some(cause) = changeable(stat.st_uid, stat.st_gid, 0) {
        return Err(LockError::Untrusted { path: path.to_owned(), folder: real, cause });
    }
    if stat.st_mode & 0o077 != 0 {
        let mode = format!("{:04o}", stat.st_mode & 0o7777);
        tracing::warn!(path = %path.display(), mode, "set the mode of the state directory to 0700");
        rustix::fs::fchmod(&opened, Mode::from_raw_mode(0o700)).map_err(|error| unusable(error.into()))?;
    }
    Ok(())
}

/// Returns the owner or the mode that gives another user write access to a directory. Returns `None` if only root and
/// the agent's user can write.
///
/// A directory with the sticky bit is safe, because users cannot rename or remove files of other users in the
/// directory.
fn changeable(uid: u32, gid: u32, mode: u32) -> Option<String> {
    let own = rustix::process::geteuid().as_raw();
    if uid != 0 && uid != own {
        return Some(format!("belongs to uid {uid}"));
    }
    // Only root is in the group of root. Only the agent's user is in the user's private group.
    let own_group = gid == 0 || own != 0 && gid == rustix::process::getegid().as_raw();
    let others = mode & 0o002 != 0 || mode & 0o020 != 0 && !own_group;
    (others && mode & 0o1000 == 0).then(|| format!("is writable for others (mode {:04o})", mode & 0o7777))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, chown, symlink};

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn wide_modes_of_an_earlier_version_are_narrowed() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("a/b");
        fs::create_dir_all(&state).unwrap();
        fs::write(state.join("journal.redb"), "").unwrap();
        set_mode(&state, 0o777);
        set_mode(&state.join("journal.redb"), 0o644);
        let taken = StateDir::take(&state, "n").unwrap();
        private_files::open(&taken.path().join("journal.redb")).unwrap();
        assert_eq!((mode(&state), mode(&state.join("journal.redb"))), (0o700, 0o600));
        let fresh = StateDir::take(&folder.path().join("c/d"), "n").unwrap();
        private_files::open(&fresh.path().join("journal.redb")).unwrap();
        assert_eq!((mode(fresh.path()), mode(&fresh.path().join("journal.redb"))), (0o700, 0o600));
    }

    #[test]
    fn directory_that_another_user_can_change_is_refused() {
        type Spoil = fn(&Path);
        let cases: [(&str, &str, Spoil); 5] = [
            ("own", "a/b", |base| chown(base.join("a/b"), Some(65534), None).unwrap()),
            ("parent", "a/b", |base| chown(base.join("a"), Some(65534), None).unwrap()),
            ("writable parent", "a/new", |base| set_mode(&base.join("a"), 0o777)),
            ("group", "a/b", |base| {
                chown(base.join("a"), None, Some(65534)).unwrap();
                set_mode(&base.join("a"), 0o775);
            }),
            ("link", "link/b", |base| {
                symlink(base.join("a"), base.join("link")).unwrap();
                std::os::unix::fs::lchown(base.join("link"), Some(65534), None).unwrap();
            }),
        ];
        for (what, path, spoil) in cases {
            let folder = tempfile::tempdir().unwrap();
            fs::create_dir_all(folder.path().join("a/b")).unwrap();
            spoil(folder.path());
            let error = StateDir::take(&folder.path().join(path), "n").unwrap_err();
            let refused = match &error {
                LockError::Untrusted { .. } => what != "link",
                LockError::Unusable { .. } => what == "link",
                LockError::Taken { .. } => false,
            };
            assert!(refused, "{what}: {error:?}");
            assert!(!folder.path().join("a/b/lock").exists());
        }
    }

    #[test]
    fn links_of_root_and_sticky_parents_are_used() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("a")).unwrap();
        set_mode(&folder.path().join("a"), 0o1777);
        symlink("a", folder.path().join("link")).unwrap();
        drop(StateDir::take(&folder.path().join("link/b"), "n").unwrap());
        assert_eq!(mode(&folder.path().join("a/b")), 0o700);
    }

    #[test]
    fn lock_and_private_files_follow_no_link_in_the_directory() {
        let folder = tempfile::tempdir().unwrap();
        let outside = folder.path().join("outside");
        fs::write(&outside, "kept").unwrap();
        for name in ["lock", "journal.redb"] {
            let state = folder.path().join(format!("of-{name}"));
            fs::create_dir(&state).unwrap();
            symlink(&outside, state.join(name)).unwrap();
            let opened = StateDir::take(&state, "n").map_err(drop);
            let opened = opened
                .and_then(|taken| private_files::open(&taken.path().join("journal.redb")).map_err(drop).map(drop));
            assert!(opened.is_err(), "{name}");
            assert_eq!(fs::read_to_string(&outside).unwrap(), "kept");
        }
    }
}
