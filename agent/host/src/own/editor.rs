//! Opens a person's editor for a text that must not reach a disk.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _},
    path::{Path, PathBuf},
    process::Command,
};

use nix::sys::signal::{SigSet, Signal};
use zeroize::Zeroizing;

use super::files;
use crate::process::environment;

/// The magic numbers of the file systems tmpfs and ramfs, which keep their files in memory.
const IN_MEMORY: [i64; 2] = [0x0102_1994, 0x8584_58f6];

/// The maximum number of bytes of an edited text.
const MAX_TEXT: u64 = 16 << 20;

/// A private file in memory that a person edits. The folder of the file is wiped when the `PrivateText` is dropped.
#[derive(Debug)]
pub struct PrivateText {
    folder: PathBuf,
    file: PathBuf,
}

impl PrivateText {
    /// Creates a folder with the mode 0700 in a file system in memory. The file in the folder gets the mode 0600.
    ///
    /// # Errors
    /// Returns an error if no file system in memory is writable.
    pub fn new(name: &str) -> io::Result<Self> {
        let runtime = environment("XDG_RUNTIME_DIR").filter(|folder| !folder.is_empty()).map(PathBuf::from);
        let places = runtime.into_iter().chain(["/dev/shm", "/run"].map(PathBuf::from));
        for place in places.filter(|place| is_in_memory(place)) {
            let folder = place.join(format!("towpath-edit-{}", uuid::Uuid::new_v4().simple()));
            if fs::DirBuilder::new().mode(0o700).create(&folder).is_ok() {
                let file = folder.join(name);
                return Ok(Self { folder, file });
            }
        }
        Err(io::Error::other("no file system in memory is writable ($XDG_RUNTIME_DIR, /dev/shm, /run)"))
    }

    /// Writes a text to the file, opens the file in the person's editor, and returns the text that the editor saved.
    ///
    /// The editor is the command in `$VISUAL` or `$EDITOR`, or `vi` by default, and uses the terminal of this process.
    /// Until the editor has ended, the signals of the terminal do not end this process, so that the folder is always
    /// wiped.
    ///
    /// # Errors
    /// Returns an error if the editor fails, or if the file cannot be written or read.
    pub fn edit(&self, text: &str) -> io::Result<Zeroizing<String>> {
        wipe(&self.file)?;
        files::write_private(&self.file, text.as_bytes())?;
        let named = |name: &str| environment(name).filter(|command| !command.trim().is_empty());
        let editor = named("VISUAL").or_else(|| named("EDITOR")).unwrap_or_else(|| "vi".into());
        // As git does it: the command may have arguments.
        let status =
            Command::new("sh").arg("-c").arg(format!("{editor} \"$@\"")).arg(&editor).arg(&self.file).status()?;
        if !status.success() {
            return Err(io::Error::other(format!("the editor ({editor}) failed: {status}")));
        }
        let size = fs::metadata(&self.file)?.len();
        if size > MAX_TEXT {
            return Err(io::Error::other(format!(
                "the text has {size} bytes, but the limit is {MAX_TEXT} bytes; shorten the text"
            )));
        }
        fs::read_to_string(&self.file).map(Zeroizing::new)
    }
}

impl Drop for PrivateText {
    fn drop(&mut self) {
        // An editor may have left a backup or a swap file.
        for entry in files::list(&self.folder).unwrap_or_default() {
            if let Err(error) = wipe(&entry.path) {
                tracing::error!(file = %entry.path.display(), %error, "cannot wipe a file with secret values");
            }
        }
        if let Err(error) = fs::remove_dir_all(&self.folder) {
            tracing::error!(folder = %self.folder.display(), %error, "cannot remove a folder with secret values");
        }
    }
}

/// Overwrites a file with zeros, and removes the file. A missing file is not an error.
fn wipe(file: &Path) -> io::Result<()> {
    let found = match fs::symlink_metadata(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        found => found?,
    };
    if found.is_dir() {
        return fs::remove_dir_all(file);
    }
    if found.is_file() && found.nlink() == 1 {
        let zeros = vec![0; usize::try_from(found.len()).unwrap_or_default()];
        fs::OpenOptions::new().write(true).open(file).and_then(|mut file| io::Write::write_all(&mut file, &zeros))?;
    }
    fs::remove_file(file)
}

/// Returns true if a folder is in a file system that keeps its files in memory.
fn is_in_memory(folder: &Path) -> bool {
    rustix::fs::statfs(folder).is_ok_and(|found| IN_MEMORY.contains(&found.f_type))
}

/// Runs an action during which the signals of a terminal and of a service manager do not end this process. A signal
/// that arrives during the action takes effect after the action. The process must not have other threads.
///
/// # Errors
/// Returns an error if the signals cannot be blocked.
pub fn uninterrupted<T>(action: impl FnOnce() -> T) -> io::Result<T> {
    let signals: SigSet = [Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTERM, Signal::SIGHUP].into_iter().collect();
    signals.thread_block()?;
    let done = action();
    signals.thread_unblock()?;
    Ok(done)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn folder_is_private_in_memory_and_wiped() {
        let text = PrivateText::new("secret.yaml").unwrap();
        let folder = text.folder.clone();
        assert!(is_in_memory(&folder));
        assert_eq!(fs::metadata(&folder).unwrap().permissions().mode() & 0o777, 0o700);
        files::write_private(&text.file, b"hunter2").unwrap();
        fs::write(folder.join("secret.yaml~"), "hunter2").unwrap();
        let kept = fs::File::open(folder.join("secret.yaml~")).unwrap();
        drop(text);
        assert!(!folder.exists());
        let left = io::read_to_string(kept).unwrap();
        assert_eq!(left, "\0".repeat(7));
    }

    #[test]
    fn signal_waits_until_the_action_is_done() {
        let blocked = uninterrupted(|| SigSet::thread_get_mask().unwrap().contains(Signal::SIGINT)).unwrap();
        assert!(blocked);
        assert!(!SigSet::thread_get_mask().unwrap().contains(Signal::SIGINT));
    }
}
