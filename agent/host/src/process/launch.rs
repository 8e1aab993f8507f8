//! Starts a command as the child of a supervisor process. The supervisor enables the agent to end all processes of the
//! command at the deadline.
//!
//!     agent ── supervisor ── command ── …
//!
//! The supervisor is a fork of the agent, and only waits for its child processes (reaps the processes). The supervisor
//! is a child subreaper (prctl(2)). Every orphaned process of the command becomes a child of the supervisor, even after
//! setsid(2). The supervisor exits when the command exits. After the exit of the supervisor, the remaining processes of
//! the command become children of `init`. The supervisor runs as the agent's user, so a command that runs as another
//! user cannot kill the supervisor.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{OwnedFd, RawFd},
        unix::{ffi::OsStrExt as _, process::CommandExt as _},
    },
    path::Path,
    process::{Child, Command},
};

use nix::unistd::{Gid, Uid};
use rustix::fs::{Mode, OFlags};

use super::account::Account;
use crate::FsReader;

/// The lowest file descriptor after stdin, stdout and stderr.
const FIRST_FILE: RawFd = 3;

/// The highest file descriptor that is closed on kernels before 5.11. Kernels before 5.11 cannot close a whole range of
/// file descriptors.
const LAST_FILE: RawFd = 1 << 16;

/// The data that a child process needs after the fork. A forked child must not allocate memory, so the data is
/// allocated before the fork.
struct Plan {
    identity: Option<(Uid, Gid, Vec<Gid>)>,
    cwd: Option<Folder>,
    /// The home directory of the user, for a command without the parameter `cwd`. If the command cannot enter the home
    /// directory, the command runs in `/`.
    home: Option<CString>,
}

/// The working directory of a command.
enum Folder {
    /// The path of the working directory. The command enters the directory with the rights of the command's user.
    Path(CString),
    /// The open working directory of a command of root. The path resolver has opened the directory, so a user cannot
    /// redirect the command by a link.
    Open(OwnedFd),
}

/// Starts a new supervisor, which starts the command. Returns the supervisor process. The supervisor exits with the
/// status of the command.
///
/// # Errors
/// Returns an error if the command cannot be started.
pub(super) fn spawn(command: &mut Command, user: Option<&Account>, cwd: Option<&Path>) -> io::Result<Child> {
    let text = |path: &Path| CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other);
    // An agent without privileges runs commands of its own user without a change of the user id.
    let other = user.filter(|user| rustix::process::geteuid().is_root() || user.uid != own_user());
    let identity = other.map(|user| {
        let groups = user.groups.iter().copied().map(Gid::from_raw).collect();
        (Uid::from_raw(user.uid), Gid::from_raw(user.gid), groups)
    });
    let home = user.map(|user| text(&user.home)).transpose()?;
    let as_root = user.map_or_else(own_user, |user| user.uid) == 0;
    let cwd = cwd.map(|path| if as_root { walked(path).map(Folder::Open) } else { text(path).map(Folder::Path) });
    start(command, Plan { identity, cwd: cwd.transpose()?, home })
}

/// Opens the working directory for a command that runs as root.
fn walked(path: &Path) -> io::Result<OwnedFd> {
    let path = path.to_str().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "cwd is not UTF-8"))?;
    FsReader::at(Path::new("/"))?.open(path, OFlags::PATH | OFlags::DIRECTORY, Mode::empty())
}

fn own_user() -> u32 {
    rustix::process::geteuid().as_raw()
}

#[expect(unsafe_code, reason = "the standard library has no other way to run code between fork and exec")]
fn start(command: &mut Command, plan: Plan) -> io::Result<Child> {
    // SAFETY: the closure runs in the forked child, which has one thread. The closure allocates nothing and takes no
    // lock.
    unsafe { command.pre_exec(move || enter(&plan)) };
    command.spawn()
}

/// Forks the new process. The parent process becomes the supervisor. The function returns only in the child process,
/// which becomes the command.
fn enter(plan: &Plan) -> io::Result<()> {
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    rustix::process::setsid()?;
    if let Some(command) = fork()? {
        supervise(command);
    }
    // A new session has no controlling terminal, so the command cannot insert input into the agent's terminal
    // (TIOCSTI).
    rustix::process::setsid()?;
    rustix::process::umask(Mode::WGRP | Mode::WOTH);
    close_files(FIRST_FILE, true);
    if let Some((uid, gid, groups)) = &plan.identity {
        nix::unistd::setgroups(groups)?;
        nix::unistd::setresgid(*gid, *gid, *gid)?;
        nix::unistd::setresuid(*uid, *uid, *uid)?;
    }
    // The user id has changed before, so the directory is entered with the rights of the command's user.
    match (&plan.cwd, &plan.home) {
        (Some(Folder::Path(cwd)), _) => rustix::process::chdir(cwd.as_c_str())?,
        (Some(Folder::Open(cwd)), _) => rustix::process::fchdir(cwd)?,
        (None, Some(home)) => {
            if rustix::process::chdir(home.as_c_str()).is_err() {
                rustix::process::chdir(c"/")?;
            }
        }
        (None, None) => {}
    }
    Ok(())
}

/// Forks the process. Returns the child's process id in the parent, and `None` in the child.
#[expect(unsafe_code, reason = "there is no safe fork")]
fn fork() -> io::Result<Option<libc::pid_t>> {
    // SAFETY: the process has one thread, because it was just forked.
    match unsafe { libc::fork() } {
        0 => Ok(None),
        child if child > 0 => Ok(Some(child)),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Waits for child processes until the command has ended, and exits with the status of the command. If a signal ended
/// the command, the status is 128 plus the signal's number, as in a shell.
#[expect(unsafe_code, reason = "system calls in a forked process, which must not allocate")]
fn supervise(command: libc::pid_t) -> ! {
    close_files(0, false);
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT, libc::SIGPIPE] {
        // SAFETY: only the disposition of a signal changes. A signal for the agent must not end the supervisor, because
        // the agent could then no longer find the command's processes.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
    loop {
        let mut status = 0;
        // SAFETY: `status` is valid during the call.
        let ended = unsafe { libc::waitpid(-1, &raw mut status, 0) };
        if ended == command {
            let code = if libc::WIFSIGNALED(status) { 128 + libc::WTERMSIG(status) } else { libc::WEXITSTATUS(status) };
            // SAFETY: the call ends the process at once, without the exit handlers of the agent.
            unsafe { libc::_exit(code) };
        }
        if ended < 0 && io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
            // SAFETY: the call ends the process at once; no child remains.
            unsafe { libc::_exit(255) };
        }
    }
}

/// Closes the file descriptor `first` and all higher file descriptors, either at once or at exec.
#[expect(unsafe_code, reason = "the files belong to the agent's copy, which is left behind")]
fn close_files(first: RawFd, at_exec: bool) {
    let flags = if at_exec { libc::CLOSE_RANGE_CLOEXEC } else { 0 };
    // SAFETY: this process no longer uses these files, except the standard library's pipe, which is closed at exec.
    if unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, flags) } == 0 {
        return;
    }
    for file in first..LAST_FILE {
        // SAFETY: this process no longer uses these files.
        unsafe {
            if at_exec {
                libc::fcntl(file, libc::F_SETFD, libc::FD_CLOEXEC);
            } else {
                libc::close(file);
            }
        }
    }
}
