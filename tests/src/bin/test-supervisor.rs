//! Runs a command for a test, and ends its whole process tree when the test ends.
//!
//!     test ── supervisor ── command ── …
//!
//! The supervisor is a child subreaper (prctl(2)), so the kernel hands it every orphan of the command, after a second
//! fork or setsid(2) too. Its stdin is a socket, whose other end only the test has. The supervisor writes `started PID`
//! and `ended STATUS` there, the status as wait(2) gives it. When the test closes its end, or dies, the supervisor
//! kills its children until it has none.

use std::{
    ffi::OsString,
    fs,
    io::{self, Read as _, Write as _},
    os::{fd::AsFd as _, unix::net::UnixStream, unix::process::CommandExt as _},
    process::{Command, ExitCode, Stdio},
    thread,
    time::Duration,
};

use rustix::{
    io::Errno,
    process::{Pid, Signal, WaitOptions},
};

/// The first argument of a supervisor whose command runs.
const SUPERVISE: &str = "--supervise";

fn main() -> ExitCode {
    let control = UnixStream::from(io::stdin().as_fd().try_clone_to_owned().unwrap());
    let mut words = std::env::args_os().skip(1);
    let program = words.next().expect("usage: test-supervisor PROGRAM [ARGUMENT]...");
    if program == SUPERVISE {
        let command = words.next().and_then(|id| id.to_str()?.parse().ok()).expect("a process id");
        supervise(command, control)
    } else {
        start(program, words, control)
    }
}

/// Starts the command, and executes this program again without its streams: they end with the command.
fn start(program: OsString, words: impl Iterator<Item = OsString>, mut control: UnixStream) -> ExitCode {
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).unwrap();
    let started = Command::new(program).args(words).stdin(Stdio::null()).spawn().and_then(|child| {
        writeln!(control, "started {}", child.id())?;
        let mut again = Command::new("/proc/self/exe");
        Err(again.arg(SUPERVISE).arg(child.id().to_string()).stdout(Stdio::null()).stderr(Stdio::null()).exec())
    });
    let error = started.map_or_else(|error: io::Error| error.to_string(), |()| String::new());
    let _ = writeln!(control, "failed: {error}");
    ExitCode::FAILURE
}

fn supervise(command: i32, mut control: UnixStream) -> ExitCode {
    let mut test = control.try_clone().unwrap();
    thread::spawn(move || {
        let _ = test.read(&mut [0]);
        loop {
            for child in children() {
                let _ = rustix::process::kill_process(child, Signal::KILL);
            }
            thread::sleep(Duration::from_millis(5));
        }
    });
    loop {
        match rustix::process::wait(WaitOptions::empty()) {
            Ok(Some((ended, status))) if ended.as_raw_nonzero().get() == command => {
                let _ = writeln!(control, "ended {}", status.as_raw());
            }
            Ok(_) | Err(Errno::INTR) => {}
            // No child is left, so none can come.
            Err(_) => return ExitCode::SUCCESS,
        }
    }
}

/// The children of this process, those of its other threads included.
fn children() -> Vec<Pid> {
    let threads = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let lists = threads.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    let ids = lists.flat_map(|list| list.split_whitespace().filter_map(|id| id.parse().ok()).collect::<Vec<i32>>());
    ids.filter_map(Pid::from_raw).collect()
}
