//! Opens, creates and removes the bare git repository of a source on disk.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    str::FromStr as _,
};

use gix::{ObjectId, Repository, ThreadSafeRepository};
use serde::{Deserialize, Serialize};

use crate::{Options, SourceError};

/// The path of a bare repository on disk, with the options of its source.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct BareRepo {
    /// The path of the repository.
    pub(crate) path: PathBuf,
    /// The options of the source.
    pub(crate) options: Options,
}

impl BareRepo {
    /// Returns a repository of the same source at another path.
    pub(crate) fn at(&self, path: PathBuf) -> Self {
        Self { path, options: self.options.clone() }
    }

    /// Opens the repository, and ignores the git settings of the machine and of the user.
    pub(crate) fn open(&self) -> Result<Repository, SourceError> {
        // To read one object, gix also needs memory for the object's base and deltas.
        self.open_limited(self.options.limits.object.saturating_mul(4))
    }

    /// Opens the repository with a limit for each allocation of memory by gix.
    pub(crate) fn open_limited(&self, bytes: u64) -> Result<Repository, SourceError> {
        let mut overrides = overrides(&self.options);
        overrides.push(format!("gitoxide.objects.allocLimit={bytes}"));
        let isolated = gix::open::Options::isolated().config_overrides(overrides).open_path_as_is(true);
        ThreadSafeRepository::open_opts(&self.path, isolated)
            .map(|repository| repository.to_thread_local())
            .map_err(|error| self.corrupt(error.to_string()))
    }

    /// Creates the repository, if it does not exist.
    pub(crate) fn create(&self) -> Result<(), SourceError> {
        let path = &self.path;
        if path.join("HEAD").exists() {
            return Ok(());
        }
        // The repository is created under a temporary name, so that a crash leaves no incomplete repository.
        let half = path.with_extension("git.half");
        let make = || -> io::Result<()> {
            remove(&half)?;
            remove(path)?;
            if let Some(parent) = path.parent() {
                fs::create_dir_all(parent)?;
            }
            gix::init_bare(&half).map_err(|error| io::Error::other(error.to_string()))?;
            fs::rename(&half, path)
        };
        make().map_err(|error| self.disk(error))
    }

    /// Removes the lock files that a killed agent has left in the repository. No other agent can hold a lock of the
    /// repository, because only one agent can lock the state directory.
    pub(crate) fn unlock(&self) -> Result<(), SourceError> {
        unlock(&self.path).map_err(|error| self.disk(error))
    }

    /// Returns the path of the folder with the packs of the repository.
    pub(crate) fn pack_folder(&self) -> PathBuf {
        self.path.join("objects/pack")
    }

    /// Returns the paths of all files in the folder of packs.
    pub(crate) fn pack_files(&self) -> BTreeSet<PathBuf> {
        let found = fs::read_dir(self.pack_folder()).into_iter().flatten().flatten();
        found.map(|entry| entry.path()).collect()
    }

    /// Converts an I/O error to the error for a repository that cannot be written.
    pub(crate) fn disk(&self, source: io::Error) -> SourceError {
        SourceError::Disk { path: self.path.clone(), source }
    }

    /// Creates the error for a damaged repository.
    pub(crate) fn corrupt(&self, message: impl Into<String>) -> SourceError {
        SourceError::Corrupt { path: self.path.clone(), message: message.into() }
    }

    /// Creates the error for a remote that sent more data than a limit allows.
    pub(crate) fn too_much(&self, limit: String) -> SourceError {
        SourceError::TooMuch { url: self.options.display_url(), limit }
    }

    /// Creates the error for a remote that cannot be reached.
    pub(crate) fn unreachable(&self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> SourceError {
        SourceError::Unreachable { url: self.options.display_url(), source: source.into() }
    }
}

/// Parses the full id of a commit, with all its hexadecimal digits.
pub(crate) fn commit_id(commit: &str) -> Result<ObjectId, SourceError> {
    ObjectId::from_str(commit)
        .map_err(|_| SourceError::Settings { message: format!("{commit:?} is not a full commit id") })
}

/// Removes a folder with its files. If the folder does not exist, the function does nothing.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn unlock(path: &Path) -> io::Result<()> {
    let mut folders = vec![path.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries = match fs::read_dir(&folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            let below = folder != path || entry.file_name() == "refs";
            if entry.file_type()?.is_dir() && below {
                folders.push(entry.path());
            } else if entry.path().extension().is_some_and(|end| end == "lock") {
                fs::remove_file(entry.path())?;
            }
        }
    }
    Ok(())
}

/// Returns the git settings with which a mirror is opened, including the ssh command.
///
/// The git settings of the machine and of the user are ignored.
fn overrides(options: &Options) -> Vec<String> {
    let mut overrides = vec!["protocol.version=2".to_owned(), "gc.auto=0".to_owned(), "pack.threads=1".to_owned()];
    let mut ssh =
        "timeout -k 5 900 ssh -F none -o BatchMode=yes -o ConnectTimeout=15 -o ServerAliveInterval=10 -o ServerAliveCountMax=3"
            .to_owned();
    if let Some(key) = &options.auth.ssh_key_file {
        ssh.push_str(&format!(" -o IdentitiesOnly=yes -o IdentityAgent=none -i {}", shell_word(key)));
    }
    match &options.auth.known_hosts_file {
        Some(file) => ssh.push_str(&format!(
            " -o StrictHostKeyChecking=yes -o GlobalKnownHostsFile=/dev/null -o UserKnownHostsFile={}",
            shell_word(file)
        )),
        None => ssh.push_str(" -o StrictHostKeyChecking=yes"),
    }
    overrides.push(format!("core.sshCommand={ssh}"));
    overrides.push("ssh.variant=ssh".to_owned());
    overrides
}

fn shell_word(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', "'\\''"))
}
