//! The editor of a person, for a text that should not reach a disk.
//!
//! The text is in a private folder in memory, the editor leaves no core file, and an editor that is vim leaves no further
//! files. Three ways to a disk are left: swap space ([`has_swap`]), a copy that the person saves elsewhere, and an editor
//! that keeps a history of its own.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _},
    path::{Path, PathBuf},
    process::Command,
};

use nix::sys::{
    signal::{SigSet, Signal},
    signalfd::{SfdFlags, SignalFd},
};
use rustix::{
    fs::{FlockOperation, Mode, OFlags},
    process::{Resource, Rlimit},
};
use zeroize::Zeroizing;

use super::files;
use crate::process::environment;

/// The magic numbers of the file systems tmpfs and ramfs, which keep their files in memory.
const IN_MEMORY: [i64; 2] = [0x0102_1994, 0x8584_58f6];

/// The maximum number of bytes of an edited text.
const MAX_TEXT: u64 = 16 << 20;

/// The begin of the name of a folder with an edited text.
const FOLDER: &str = "towpath-edit-";

/// The maximum size of core files of the editor. It is too small for a core file. Unlike with zero, the kernel starts no
/// program of `core_pattern` either.
const CORE: u64 = 1;

/// The arguments for vim: no swap file, no viminfo or shada file, no undo file, and no backup.
const VIM: [&str; 5] = ["-n", "-i", "NONE", "-c", "set noundofile nobackup nowritebackup"];

/// A private file in memory that a person edits. Its folder is wiped on drop.
#[derive(Debug)]
pub struct PrivateText {
    folder: PathBuf,
    file: PathBuf,
    /// The locked folder. A folder without a lock is of a process that has ended.
    _lock: fs::File,
}

impl PrivateText {
    /// Creates a folder with the mode 0700 in a file system in memory. The file in it gets the mode 0600. Folders that
    /// killed processes of the same user left are wiped.
    ///
    /// # Errors
    /// Returns an error if no file system in memory is writable.
    pub fn new(name: &str) -> io::Result<Self> {
        let runtime = environment("XDG_RUNTIME_DIR").filter(|folder| !folder.is_empty()).map(PathBuf::from);
        let places = runtime.into_iter().chain(["/dev/shm", "/run"].map(PathBuf::from));
        let made = places.filter(|place| is_in_memory(place)).find_map(|place| Self::below(&place, name));
        made.ok_or_else(|| io::Error::other("no file system in memory is writable ($XDG_RUNTIME_DIR, /dev/shm, /run)"))
    }

    /// Wipes the folders of killed processes below a folder, and creates a new one. `None` if that fails.
    fn below(place: &Path, name: &str) -> Option<Self> {
        wipe_leftovers(place);
        let folder = place.join(format!("{FOLDER}{}", uuid::Uuid::new_v4().simple()));
        fs::DirBuilder::new().mode(0o700).create(&folder).ok()?;
        let lock = lock(&folder)?;
        let file = folder.join(name);
        Some(Self { folder, file, _lock: lock })
    }

    /// Writes a text to the file, opens the file in the person's editor, and returns the text that the editor saved.
    ///
    /// The command is `$VISUAL`, `$EDITOR` or `vi`, with the terminal of this process. The signals of the terminal, such as
    /// that of Ctrl-C, are only for the editor: this process ignores them until the editor has ended. Call it within
    /// [`uninterrupted`].
    ///
    /// # Errors
    /// Returns an error if the editor fails, or if the file cannot be written or read.
    pub fn edit(&self, text: &str) -> io::Result<Zeroizing<String>> {
        wipe(&self.file)?;
        files::write_private(&self.file, text.as_bytes())?;
        let named = |name: &str| environment(name).filter(|command| !command.trim().is_empty());
        let editor = named("VISUAL").or_else(|| named("EDITOR")).unwrap_or_else(|| "vi".into());
        // As git does it: the command may have arguments. The trap is not for the editor: it keeps the shell waiting for
        // the editor when both get the signal of Ctrl-C.
        let limit = Rlimit { current: Some(CORE), maximum: Some(CORE) };
        rustix::process::setrlimit(Resource::Core, limit)?;
        let further: &[&str] = if is_vim(&editor) { &VIM } else { &[] };
        let mut command = Command::new("sh");
        command.arg("-c").arg(format!("trap : INT QUIT; {editor} \"$@\"")).arg(&editor).args(further).arg(&self.file);
        // The signals are unblocked in the child process.
        let status = ignoring_terminal(|| command.status())??;
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
        wipe_folder(&self.folder);
    }
}

/// Wipes a folder with its files. An editor may have left a backup or a swap file.
fn wipe_folder(folder: &Path) {
    for entry in files::list(folder).unwrap_or_default() {
        if let Err(error) = wipe(&entry.path) {
            tracing::error!(file = %entry.path.display(), %error, "cannot wipe a file with secret values");
        }
    }
    if let Err(error) = fs::remove_dir_all(folder) {
        tracing::error!(folder = %folder.display(), %error, "cannot remove a folder with secret values");
    }
}

/// Locks a folder of this user. `None` if a running process holds the lock, or if the path is not such a folder. The
/// kernel releases the lock when the process ends.
fn lock(folder: &Path) -> Option<fs::File> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = fs::File::from(rustix::fs::open(folder, flags, Mode::empty()).ok()?);
    let is_own = opened.metadata().ok()?.uid() == rustix::process::geteuid().as_raw();
    (is_own && rustix::fs::flock(&opened, FlockOperation::NonBlockingLockExclusive).is_ok()).then_some(opened)
}

/// Wipes the folders in which killed processes of this user left texts.
fn wipe_leftovers(place: &Path) {
    let entries = files::list(place).unwrap_or_default();
    for entry in entries.into_iter().filter(|entry| entry.name.starts_with(FOLDER)) {
        if let Some(_lock) = lock(&entry.path) {
            wipe_folder(&entry.path);
        }
    }
}

/// Returns true if the program of an editor is vim or nvim. A command that is more than a program with arguments is not.
fn is_vim(editor: &str) -> bool {
    let program = editor.split_whitespace().next().unwrap_or_default();
    if editor.contains([';', '&', '|', '<', '>', '(', ')', '$', '`', '\n']) {
        return false;
    }
    let named = |path: &Path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name == "nvim" || name == "vim" || name.starts_with("vim.")
    };
    if named(Path::new(program)) {
        return true;
    }
    // The program vi is often a link to vim, and else does not know these arguments.
    let folders = if program.contains('/') { String::new() } else { environment("PATH").unwrap_or_default() };
    let found = folders.split(':').map(|folder| Path::new(folder).join(program)).find(|file| file.is_file());
    Path::new(program).file_name().is_some_and(|name| name == "vi")
        && found.and_then(|file| fs::canonicalize(file).ok()).is_some_and(|file| named(&file))
}

/// Returns true if this machine has swap space, through which a text in memory can reach a disk.
pub fn has_swap() -> bool {
    files::read_text(Path::new("/proc/swaps")).is_ok_and(|text| is_swap(&text))
}

/// Returns true if a text in the format of /proc/swaps has an entry.
fn is_swap(text: &str) -> bool {
    text.lines().skip(1).any(|line| !line.trim().is_empty())
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

/// Runs an action during which this process ignores the signals of a terminal: a signal that arrives meanwhile has no
/// effect, also not afterwards. Children of the process get the signals.
fn ignoring_terminal<T>(action: impl FnOnce() -> T) -> io::Result<T> {
    let signals: SigSet = [Signal::SIGINT, Signal::SIGQUIT].into_iter().collect();
    let old = SigSet::thread_get_mask()?;
    signals.thread_block()?;
    let done = action();
    let pending = SignalFd::with_flags(&signals, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
    while pending.read_signal()?.is_some() {}
    old.thread_set_mask()?;
    Ok(done)
}

/// Runs an action during which the signals of a terminal and of a service manager do not end this process. A signal that
/// arrives meanwhile takes effect afterwards. The process must not have other threads.
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
    fn folder_of_a_killed_process_is_wiped() {
        let place = tempfile::tempdir_in("/dev/shm").unwrap();
        let text = || PrivateText::below(place.path(), "a").unwrap();
        let (running, killed) = (text(), text());
        files::write_private(&killed.file, b"hunter2").unwrap();
        let (kept, folder) = (fs::File::open(&killed.file).unwrap(), killed.folder.clone());
        // The kernel releases the lock of a killed process, and no destructor runs.
        killed._lock.unlock().unwrap();
        std::mem::forget(killed);
        drop(text());
        assert!(!folder.exists());
        assert_eq!(io::read_to_string(kept).unwrap(), "\0".repeat(7));
        assert!(running.folder.exists());
    }

    #[test]
    fn only_vim_gets_the_arguments_of_vim() {
        let folder = tempfile::tempdir().unwrap();
        let vi = |target: &str| {
            let path = folder.path().join(target).join("vi");
            fs::create_dir(path.parent().unwrap()).unwrap();
            fs::write(folder.path().join(target).join(target), "").unwrap();
            std::os::unix::fs::symlink(target, &path).unwrap();
            path.display().to_string()
        };
        for (editor, expected) in [
            ("vim", true),
            ("/usr/bin/nvim -R", true),
            ("vim.tiny", true),
            ("nano", false),
            ("vimdiff-like", false),
            ("echo vim", false),
            ("vim; cat", false),
            ("vim -c 'set spell'", true),
            ("'vim'", false),
            ("", false),
            (&vi("vim.basic"), true),
            (&vi("busybox"), false),
            ("/missing/vi", false),
        ] {
            assert_eq!(is_vim(editor), expected, "{editor}");
        }
    }

    #[test]
    fn swap_space_is_found_in_the_list_of_the_kernel() {
        let header = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n";
        assert!(!is_swap("") && !is_swap(header));
        assert!(is_swap(&format!("{header}/dev/dm-1  partition\t999420\t\t0\t\t-2\n")));
    }

    #[test]
    fn signal_of_the_terminal_is_ignored_while_the_editor_runs() {
        let sent = || nix::sys::signal::raise(Signal::SIGINT);
        // If the signal were only delayed, it would end the tests here.
        ignoring_terminal(sent).unwrap().unwrap();
        assert!(!SigSet::thread_get_mask().unwrap().contains(Signal::SIGINT));
        uninterrupted(|| ignoring_terminal(sent).unwrap().unwrap()).unwrap();
    }

    #[test]
    fn signal_waits_until_the_action_is_done() {
        let blocked = uninterrupted(|| SigSet::thread_get_mask().unwrap().contains(Signal::SIGINT)).unwrap();
        assert!(blocked);
        assert!(!SigSet::thread_get_mask().unwrap().contains(Signal::SIGINT));
    }
}
