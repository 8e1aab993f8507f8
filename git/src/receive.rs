//! Jobs on untrusted data: a fetch from a remote, and the indexing of a pack from another node.
//!
//! A job runs in a child process with a memory limit, so that a hostile pack can only make the fetch fail. Without a
//! call of [`isolate`], a job runs on a thread of this process. In both cases, a meter counts bytes and objects.

use std::{
    fs::File,
    io::{self, BufReader, Read as _, Write as _},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
    sync::{Arc, OnceLock, atomic::AtomicBool, mpsc},
    thread,
    time::Duration,
};

use gix_pack as pack;
use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process_group, setrlimit};
use serde::{Deserialize, Serialize};

use crate::{
    Limits, Options, SourceError, audit, connection,
    deadline::{self, Ended},
    meter::Meter,
    pack::check_history,
    report::Reported,
};

/// The command-line arguments with which this program starts as a worker.
static WORKER: OnceLock<Vec<String>> = OnceLock::new();

/// Makes all further jobs run in child processes.
///
/// A child process is this program with these arguments. With these arguments, the program must call [`worker`].
pub fn isolate(arguments: &[&str]) {
    let _ = WORKER.set(arguments.iter().map(|&argument| argument.to_owned()).collect());
}

/// One job on untrusted data.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Job {
    /// A fetch of a refspec into a mirror.
    Fetch { mirror: PathBuf, options: Box<Options>, spec: String },
    /// The indexing of a pack file into a mirror, and the check of the new commit's history.
    Index { mirror: PathBuf, options: Box<Options>, file: PathBuf, commit: String },
}

impl Job {
    fn options(&self) -> &Options {
        match self {
            Self::Fetch { options, .. } | Self::Index { options, .. } => options,
        }
    }

    /// Runs the job within the limits of its source.
    pub(crate) fn run(self) -> Result<(), SourceError> {
        match WORKER.get() {
            Some(arguments) => self.in_child(arguments),
            None => self.in_process(),
        }
    }

    /// Runs the job on a thread.
    fn in_process(self) -> Result<(), SourceError> {
        let options = self.options().clone();
        let Limits { fetch: time, objects, inflated, .. } = options.limits;
        let meter = Meter::new(objects, inflated);
        let inner = meter.clone();
        let ended = deadline::run_metered(time, &meter, move |stop| self.perform(inner, &stop));
        let url = options.shown_url();
        match (meter.exceeded(), ended) {
            (Some(limit), _) => Err(SourceError::TooMuch { url, limit }),
            (None, Ended::Done(done)) => done,
            (None, Ended::TimedOut) => Err(SourceError::TimedOut { url, seconds: time.as_secs() }),
            (None, Ended::Panicked) => Err(SourceError::Unreachable { url, source: "cannot parse the data".into() }),
        }
    }

    fn perform(self, meter: Meter, stop: &Arc<AtomicBool>) -> Result<(), SourceError> {
        match self {
            Self::Fetch { mirror, options, spec } => {
                let audit = audit::Audit::begin(&mirror, &options, &spec)?;
                connection::fetch(&mirror, &options, &spec, meter, stop).and_then(|()| audit.check())
            }
            Self::Index { mirror, options, file, commit } => {
                let audit = audit::Audit::begin(&mirror, &options, "")?;
                index(&mirror, &options, &file, meter, stop)
                    .and_then(|()| audit.check())
                    .and_then(|()| check_history(&mirror, &options, &commit, stop))
            }
        }
    }

    /// Runs the job in a child process.
    fn in_child(self, arguments: &[String]) -> Result<(), SourceError> {
        let options = self.options().clone();
        let url = options.shown_url();
        let broken = |error: io::Error| SourceError::Unreachable { url: url.clone(), source: error.into() };
        let job = serde_json::to_vec(&self).map_err(|error| broken(error.into()))?;
        let mut command = Command::new("/proc/self/exe");
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).process_group(0);
        let mut child = Running(command.spawn().map_err(broken)?);
        // The pipe stays open. If the agent ends, the pipe closes, and the child exits.
        let mut input = child.0.stdin.take();
        if let Some(input) = input.as_mut() {
            input.write_all(&job).and_then(|()| input.write_all(b"\n")).map_err(broken)?;
        }
        // The child enforces the deadline itself. The agent waits ten seconds longer, in case the child hangs.
        let time = options.limits.fetch.saturating_add(Duration::from_secs(10));
        let Some(answer) = child.answer(time) else {
            return Err(SourceError::TimedOut { url, seconds: options.limits.fetch.as_secs() });
        };
        drop(input);
        match serde_json::from_slice::<Result<(), Reported>>(&answer) {
            Ok(done) => done.map_err(SourceError::from),
            // The child was killed, or the child aborted because its memory limit was exhausted.
            Err(_) => {
                let limit = format!("can be read with {} MiB of memory", options.limits.memory >> 20);
                Err(SourceError::TooMuch { url, limit })
            }
        }
    }
}

/// A child process. When the value is dropped, its whole process group is killed.
struct Running(Child);

impl Running {
    /// Returns the output of the child, up to 1 MiB; `None` at the deadline.
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
    let limits = job.options().limits;
    limit(limits.memory);
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

/// Kills all processes of this process's group, including this process.
fn end() {
    let _ = kill_process_group(rustix::process::getpgrp(), Signal::KILL);
}

/// Limits the memory of this process. Files that are mapped for reading do not count as memory.
fn limit(memory: u64) {
    let both = |limit| Rlimit { current: Some(limit), maximum: Some(limit) };
    let _ = setrlimit(Resource::Data, both(memory));
    // No core file is written, because an attacker could choose the content of a core file.
    let _ = setrlimit(Resource::Core, both(0));
}

/// Indexes a pack file into a mirror.
fn index(
    mirror: &Path,
    options: &Options,
    file: &Path,
    mut meter: Meter,
    stop: &AtomicBool,
) -> Result<(), SourceError> {
    let disk = |source: io::Error| SourceError::Disk { path: mirror.to_owned(), source };
    let folder = mirror.join("objects/pack");
    std::fs::create_dir_all(&folder).map_err(disk)?;
    let mut input = BufReader::new(File::open(file).map_err(disk)?);
    let write = pack::bundle::write::Options {
        thread_limit: Some(1),
        iteration_mode: pack::data::input::Mode::Verify,
        alloc_limit_bytes: usize::try_from(options.limits.object).ok(),
        ..Default::default()
    };
    let written = pack::Bundle::write_to_directory(
        &mut input,
        Some(&folder),
        &mut meter,
        stop,
        None::<gix::odb::Handle>,
        gix::hash::Kind::Sha1,
        write,
    )
    .map_err(|error| SourceError::Pack { message: error.to_string() })?;
    // The pack needs no keep file, because a ref will name the commit.
    written.keep_path.map_or(Ok(()), std::fs::remove_file).map_err(disk)
}
