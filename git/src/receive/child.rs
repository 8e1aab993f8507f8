//! Runs a job on untrusted data, such as a fetch, in a child process.

use std::{
    io::{self, Read as _, Write as _},
    os::unix::process::CommandExt as _,
    process::{Child, Command, ExitCode, Stdio},
    sync::{OnceLock, mpsc},
    thread,
    time::Duration,
};

use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process_group, setrlimit};

use super::{job::Job, leftovers, report::Reported};
use crate::SourceError;

/// The command-line arguments with which the agent's program starts as a worker process.
static WORKER: OnceLock<Vec<String>> = OnceLock::new();

/// Isolates all later jobs on untrusted data: each job runs in a child process.
///
/// The child process runs the agent's own program with `arguments`. A program that starts with `arguments` must call
/// [`worker`].
pub fn isolate(arguments: &[&str]) {
    let _ = WORKER.set(arguments.iter().map(|&argument| argument.to_owned()).collect());
}

/// Runs a job on untrusted data within the limits of its source, and removes the temporary files of the job.
pub(crate) fn run(job: Job) -> Result<(), SourceError> {
    let repo = job.repo.clone();
    let done = match WORKER.get() {
        Some(arguments) => in_child(&job, arguments),
        None => job.in_process(),
    };
    leftovers::remove(&repo.path).map_err(|error| repo.disk(error))?;
    done
}

/// Runs a job on untrusted data in a child process.
fn in_child(job: &Job, arguments: &[String]) -> Result<(), SourceError> {
    let options = &job.repo.options;
    let broken = |error: io::Error| job.repo.unreachable(error);
    let line = serde_json::to_vec(job).map_err(|error| broken(error.into()))?;
    let mut command = Command::new("/proc/self/exe");
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).process_group(0);
    let mut child = Running(command.spawn().map_err(broken)?);
    // The pipe stays open. If the agent ends, the pipe closes, and the child exits.
    let mut input = child.0.stdin.take();
    if let Some(input) = input.as_mut() {
        input.write_all(&line).and_then(|()| input.write_all(b"\n")).map_err(broken)?;
    }
    // The child enforces the deadline itself. The agent waits ten seconds longer, in case the child hangs.
    let time = options.limits.fetch.saturating_add(Duration::from_secs(10));
    let Some(answer) = child.answer(time) else {
        return Err(SourceError::TimedOut { url: options.display_url(), seconds: options.limits.fetch.as_secs() });
    };
    drop(input);
    match serde_json::from_slice::<Result<(), Reported>>(&answer) {
        Ok(done) => done.map_err(SourceError::from),
        // The child was killed, or the child aborted because its memory limit was exhausted.
        Err(_) => {
            let limit = format!("can be read with {} MiB of memory", options.limits.memory >> 20);
            Err(job.repo.too_much(limit))
        }
    }
}

/// A running child process. When this guard is dropped, the whole process group of the child process is killed.
struct Running(Child);

impl Running {
    /// Returns the output of the child process, up to 1 MiB, or `None` if the time limit is exceeded.
    fn answer(&mut self, time: Duration) -> Option<Vec<u8>> {
        let mut output = self.0.stdout.take()?;
        let (sender, receiver) = mpsc::channel();
        thread::spawn(move || {
            let mut answer = Vec::new();
            let _ = output.by_ref().take(1 << 20).read_to_end(&mut answer);
            let _ = sender.send(answer);
        });
        receiver.recv_timeout(time).ok()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(group) = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process_group(group, Signal::KILL);
        }
        let _ = self.0.wait();
    }
}

/// Runs the worker process: reads one job from stdin, runs the job, and prints the result.
pub fn worker() -> ExitCode {
    let mut line = Vec::new();
    let mut byte = [0];
    let mut input = io::stdin();
    while input.read_exact(&mut byte).is_ok() && byte != *b"\n" {
        line.push(byte[0]);
    }
    let Ok(job) = serde_json::from_slice::<Job>(&line) else { return ExitCode::FAILURE };
    limit(job.repo.options.limits.memory);
    // The agent holds the other end of the pipe. If the pipe closes, the agent has ended and needs no result.
    thread::spawn(move || {
        while input.read(&mut byte).is_ok_and(|read| read > 0) {}
        end();
    });
    let done = job.in_process().map_err(|error| Reported::of(&error));
    let answer = serde_json::to_vec(&done).unwrap_or_default();
    let mut output = io::stdout();
    match output.write_all(&answer).and_then(|()| output.flush()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// Kills all processes in the process group of this process, including this process.
fn end() {
    let _ = kill_process_group(rustix::process::getpgrp(), Signal::KILL);
}

/// Limits the memory of this process. The memory limit does not count files that are mapped for reading.
fn limit(memory: u64) {
    let both = |limit| Rlimit { current: Some(limit), maximum: Some(limit) };
    let _ = setrlimit(Resource::Data, both(memory));
    // No core file is written, because an attacker could choose the content of a core file.
    let _ = setrlimit(Resource::Core, both(0));
}
