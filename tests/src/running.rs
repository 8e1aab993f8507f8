//! The one owner of the processes that a test starts.

use std::{
    io::{BufRead as _, BufReader},
    net::Shutdown,
    os::{
        fd::OwnedFd,
        unix::{
            net::UnixStream,
            process::{CommandExt as _, ExitStatusExt as _},
        },
    },
    path::PathBuf,
    process::{Child, ChildStderr, ChildStdout, Command, ExitStatus, Output, Stdio},
    sync::{
        Mutex, PoisonError,
        mpsc::{self, Receiver},
    },
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use crate::package;

/// The longest time for which a process may take to end.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Commands whose output was read. Processes that they left run until the test ends.
static LEFT: Mutex<Vec<Running>> = Mutex::new(Vec::new());

/// A command and all processes that it starts.
///
/// # Guarantees
/// No process of the tree is left when this is dropped, which a panic does too. Where the test is killed, the supervisor
/// (`test-supervisor.rs`) ends the tree: it runs in a process group of its own, so that it outlives a kill of the test's group.
#[derive(Debug)]
pub struct Running {
    supervisor: Child,
    /// The supervisor ends the tree when this is shut down.
    control: UnixStream,
    /// The lines of the supervisor.
    lines: Receiver<String>,
    id: u32,
    ended: Option<ExitStatus>,
}

impl Running {
    /// Starts a command. Its stdin is empty; stdout and stderr go where the arguments say, whatever the command has set.
    pub fn start(command: &Command, stdout: impl Into<Stdio>, stderr: impl Into<Stdio>) -> Self {
        let (control, other) = UnixStream::pair().unwrap();
        let mut supervisor = Command::new(program());
        supervisor.arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => supervisor.env(name, value),
                None => supervisor.env_remove(name),
            };
        }
        if let Some(folder) = command.get_current_dir() {
            supervisor.current_dir(folder);
        }
        supervisor.process_group(0).stdin(OwnedFd::from(other)).stdout(stdout).stderr(stderr);
        let child = supervisor.spawn().unwrap_or_else(|error| panic!("cannot start {supervisor:?}: {error}"));
        // It has a copy of the supervisor's end.
        drop(supervisor);
        let (sender, lines) = mpsc::channel();
        let reader = BufReader::new(control.try_clone().unwrap());
        thread::spawn(move || reader.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        let mut running = Self { supervisor: child, control, lines, id: 0, ended: None };
        let line = running.lines.recv().unwrap_or_default();
        let Some(id) = line.strip_prefix("started ").and_then(|id| id.parse().ok()) else {
            let program = command.get_program().to_string_lossy();
            panic!("cannot start {program}: {line}; install the package {}", package(&program));
        };
        running.id = id;
        running
    }

    /// The process id of the command.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Takes the streams that were given as pipes.
    pub fn streams(&mut self) -> (Option<ChildStdout>, Option<ChildStderr>) {
        (self.supervisor.stdout.take(), self.supervisor.stderr.take())
    }

    /// Returns how the command ended; `None` while it runs.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            self.ended = self.lines.try_recv().ok().map(|line| status(&line));
        }
        self.ended
    }

    /// Waits until the command has ended.
    pub fn wait(&mut self) -> ExitStatus {
        match self.ended {
            Some(ended) => ended,
            None => *self.ended.insert(status(&self.lines.recv().unwrap_or_default())),
        }
    }

    /// Sends a signal to the command alone.
    pub fn signal(&self, signal: Signal) {
        let process = i32::try_from(self.id).ok().and_then(Pid::from_raw).expect("a process id is positive");
        kill_process(process, signal).unwrap_or_else(|error| panic!("cannot signal {}: {error}", self.id));
    }

    /// Kills the command alone, as a crash does. What it started lives on until this is dropped.
    pub fn kill(&mut self) {
        if self.ended().is_none() {
            let _ = i32::try_from(self.id).ok().and_then(Pid::from_raw).map(|id| kill_process(id, Signal::KILL));
            self.wait();
        }
    }

    /// Asks the command to end, as systemd would, and returns its exit status.
    pub fn terminate(&mut self) -> i32 {
        if self.ended().is_none() {
            // It may have ended since.
            let _ = i32::try_from(self.id).ok().and_then(Pid::from_raw).map(|id| kill_process(id, Signal::TERM));
        }
        let begin = Instant::now();
        while self.ended().is_none() {
            assert!(begin.elapsed() < TIMEOUT, "{} does not end when it is asked to", self.id);
            thread::sleep(Duration::from_millis(20));
        }
        self.wait().code().unwrap_or(-1)
    }

    /// Waits until the command has ended and its streams are closed. What it leaves running lives on until the test
    /// ends, so that a test can look for it.
    pub fn output(mut self) -> Output {
        let (stdout, stderr) = self.streams();
        let errors = thread::spawn(move || read(stderr));
        let (stdout, stderr) = (read(stdout), errors.join().unwrap());
        let status = self.wait();
        let mut left = LEFT.lock().unwrap_or_else(PoisonError::into_inner);
        left.retain_mut(|running| matches!(running.supervisor.try_wait(), Ok(None)));
        left.push(self);
        Output { status, stdout, stderr }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.control.shutdown(Shutdown::Both);
        let begin = Instant::now();
        while matches!(self.supervisor.try_wait(), Ok(None)) {
            if begin.elapsed() > TIMEOUT {
                eprintln!("processes of {} cannot be ended", self.id);
                return;
            }
            thread::sleep(Duration::from_millis(1));
        }
    }
}

/// The program of the supervisor, which cargo builds beside the tests.
fn program() -> PathBuf {
    let own = std::env::current_exe().unwrap();
    let found =
        own.ancestors().skip(1).take(2).map(|folder| folder.join("test-supervisor")).find(|program| program.exists());
    found.unwrap_or_else(|| {
        panic!("test-supervisor is not beside {}: build with --workspace --all-targets", own.display())
    })
}

fn status(line: &str) -> ExitStatus {
    let status = line.strip_prefix("ended ").and_then(|status| status.parse().ok());
    ExitStatus::from_raw(status.unwrap_or_else(|| panic!("the supervisor has gone: {line:?}")))
}

fn read(stream: Option<impl std::io::Read>) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Some(mut stream) = stream {
        stream.read_to_end(&mut bytes).unwrap();
    }
    bytes
}
