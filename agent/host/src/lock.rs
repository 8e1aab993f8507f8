//! One agent a state directory.

use std::{
    fs::{self, File, OpenOptions},
    io::{Read as _, Seek as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::fs::{FlockOperation, flock};
use thiserror::Error;

/// How often a lock is tried: a child of an agent that was killed holds it for the instant between fork and exec.
pub(crate) const TRIES: usize = 20;
/// The pause between two tries.
pub(crate) const PAUSE: Duration = Duration::from_millis(50);

/// A state directory that is ours until this is dropped.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    _lock: File,
}

/// A state directory that can't be taken.
#[derive(Debug, Error)]
pub enum LockError {
    /// Another agent has it.
    #[error("the state directory {path} belongs to another agent: {holder}", path = path.display())]
    Taken {
        /// The directory.
        path: PathBuf,
        /// Whose it is.
        holder: String,
    },
    /// It can't be used.
    #[error("the state directory {path} can't be used", path = path.display())]
    Unusable {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

impl StateDir {
    /// Takes a state directory, which is made where it is missing.
    ///
    /// # Errors
    /// When another agent has it, or it can't be used.
    pub fn take(path: &Path, node: &str) -> Result<Self, LockError> {
        let unusable = |source| LockError::Unusable { path: path.to_owned(), source };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(unusable)?;
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
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
        // On a full disk the lock still counts, only without a name.
        drop(write);
        Ok(Self { path: path.to_owned(), _lock: file })
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }
}
