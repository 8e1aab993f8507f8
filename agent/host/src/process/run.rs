//! Runs commands with a deadline. At the deadline of a command, the agent ends all processes that the command has
//! started.

use std::{
    collections::BTreeMap,
    io::{self, Read, Write as _},
    os::unix::process::ExitStatusExt as _,
    path::PathBuf,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open},
};

use super::{account::Account, environment, launch, tree::Tree};
use crate::{Clock as _, SystemClock};

/// The agent keeps at least this number of bytes from the end of a command's output, and at most twice this number.
const OUTPUT_KEPT: usize = 1 << 20;

/// The agent looks for the last line of an output only in this number of bytes at the end of the output.
const LINE: usize = 1 << 10;

/// A flag that asks a running task to stop. When the flag is set, the agent ends the command of the task.
#[derive(Debug, Clone, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// Asks the task to stop.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    /// Returns true if [`Cancel::cancel`] has asked the task to stop.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

/// A command to run.
#[derive(Debug, Clone, Default)]
pub struct Invocation {
    /// The program and its arguments.
    pub argv: Vec<String>,
    /// The bytes that the command reads from stdin; `None` for an empty stdin.
    pub stdin: Option<Vec<u8>>,
    /// The additional environment variables of the command. A variable replaces a variable of the same name in the
    /// account.
    ///
    /// A command gets the agent's variables for language and time zone. A command of the agent's user also gets PATH
    /// and the proxies of the agent.
    pub env: BTreeMap<String, String>,
    /// The working directory. A command with a `user` starts by default in the user's home directory, or in `/` if the
    /// user cannot enter the home directory. A command without a `user` starts by default in the agent's working
    /// directory.
    pub cwd: Option<PathBuf>,
    /// The account that runs the command; `None` for the agent's own account.
    pub user: Option<Account>,
    /// The time limit of the command; `None` for no limit.
    pub timeout: Option<Duration>,
}

/// The result of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// The exit status. If a signal ended the command, the status is 128 plus the signal's number, as in a shell.
    pub rc: i32,
    /// The command's stdout. If stdout is long, the field contains only the end of stdout.
    pub stdout: String,
    /// The command's stderr. If stderr is long, the field contains only the end of stderr.
    pub stderr: String,
    /// True if the agent ended the command at its deadline.
    pub timed_out: bool,
    /// True if the agent ended the command because the agent itself was stopping.
    pub cancelled: bool,
}

/// Runs a command until the command exits, the deadline of the command passes, or the agent stops.
///
/// # Errors
/// Returns an error if the command cannot be started, or if waiting for its end fails.
pub fn run(invocation: &Invocation, cancel: &Cancel) -> io::Result<Output> {
    run_watched(invocation, cancel, &mut |_| {})
}

/// Runs a command. While the command runs, the function calls `report` with the newest complete line of the command's
/// stdout.
///
/// # Errors
/// Returns an error if the command cannot be started, or if waiting for its end fails.
pub fn run_watched(invocation: &Invocation, cancel: &Cancel, report: &mut dyn FnMut(&str)) -> io::Result<Output> {
    if cancel.is_cancelled() {
        return Ok(Output { rc: -1, stdout: String::new(), stderr: String::new(), timed_out: false, cancelled: true });
    }
    let mut argv = invocation.argv.iter();
    let program = argv.next().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the command is empty"))?;
    let mut command = Command::new(program);
    command.args(argv).env_clear().envs(environment::of_command(&invocation.env, invocation.user.as_ref())?);
    command.stdin(if invocation.stdin.is_some() { Stdio::piped() } else { Stdio::null() });
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = launch::spawn(&mut command, invocation.user.as_ref(), invocation.cwd.as_deref())?;
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| io::Error::other("the process has no id"))?;
    let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
    let stdout = keep(child.stdout.take());
    let stderr = keep(child.stderr.take());
    if let (Some(bytes), Some(mut pipe)) = (invocation.stdin.clone(), child.stdin.take()) {
        // A write error is ignored, because a command may exit before it has read all of its stdin.
        thread::spawn(move || drop(pipe.write_all(&bytes)));
    }
    let mut heard = String::new();
    let (timed_out, cancelled) = wait(&pidfd, invocation.timeout, cancel, &mut || {
        if let Some(line) = stdout.last_line().filter(|line| *line != heard) {
            report(&line);
            heard = line;
        }
    })?;
    if timed_out || cancelled {
        end(pid, program);
    }
    let status = child.wait()?;
    let rc = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(-1);
    // A background process of the command may hold the pipes open, so the wait for the end of the pipes is limited.
    let limit = Duration::from_millis(if timed_out || cancelled { 200 } else { 2000 });
    Ok(Output { rc, stdout: stdout.take(limit), stderr: stderr.take(limit), timed_out, cancelled })
}

/// Ends the process tree of a command.
fn end(supervisor: Pid, program: &str) {
    if !Tree::hold(supervisor).end() {
        tracing::warn!(program, "cannot kill processes of the command: they wait for a device or a file system");
        // The agent does not wait for the processes that cannot be killed.
        let _ = kill_process(supervisor, Signal::KILL);
    }
}

/// Waits for the end of a process. The first result is true if the deadline passed before the process ended. The second
/// result is true if the agent stopped before the process ended.
fn wait(
    pidfd: &impl std::os::fd::AsFd,
    timeout: Option<Duration>,
    cancel: &Cancel,
    meanwhile: &mut dyn FnMut(),
) -> io::Result<(bool, bool)> {
    let slice = Duration::from_millis(100);
    let begin = SystemClock.monotonic();
    loop {
        let left = timeout.map(|timeout| timeout.saturating_sub(begin.elapsed()));
        let limit = left.map_or(slice, |left| left.min(slice));
        let spec = rustix::time::Timespec::try_from(limit)
            .map_err(|_| io::Error::other("the timeout is too long; set a shorter timeout"))?;
        match poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&spec)) {
            Ok(0) => {}
            Ok(_) => return Ok((false, false)),
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        }
        meanwhile();
        if cancel.is_cancelled() {
            return Ok((false, true));
        }
        if timeout.is_some_and(|timeout| begin.elapsed() >= timeout) {
            return Ok((true, false));
        }
    }
}

struct KeptOutput {
    receiver: std::sync::mpsc::Receiver<()>,
    bytes: Arc<std::sync::Mutex<Vec<u8>>>,
}

impl KeptOutput {
    /// Returns the last complete line of the output that is not blank.
    fn last_line(&self) -> Option<String> {
        let bytes = self.bytes.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let end = bytes.iter().rposition(|byte| *byte == b'\n')?;
        let lines = bytes[end.saturating_sub(LINE)..end].rsplit(|byte| matches!(byte, b'\n' | b'\r'));
        let mut lines = lines.map(|line| String::from_utf8_lossy(line).trim().to_owned());
        lines.find(|line| !line.is_empty())
    }

    fn take(self, limit: Duration) -> String {
        let _ = self.receiver.recv_timeout(limit);
        let bytes = std::mem::take(&mut *self.bytes.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

/// Reads a pipe to its end. The function keeps at least the last `OUTPUT_KEPT` bytes from the pipe.
fn keep(pipe: Option<impl Read + Send + 'static>) -> KeptOutput {
    let (sender, receiver) = std::sync::mpsc::channel();
    let bytes = Arc::new(std::sync::Mutex::new(Vec::new()));
    let shared = Arc::clone(&bytes);
    thread::spawn(move || {
        let mut buffer = [0; 16 << 10];
        let Some(mut pipe) = pipe else { return };
        loop {
            match pipe.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => {
                    let mut bytes = shared.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                    bytes.extend_from_slice(&buffer[..read]);
                    if bytes.len() > 2 * OUTPUT_KEPT {
                        let cut = bytes.len() - OUTPUT_KEPT;
                        bytes.drain(..cut);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        let _ = sender.send(());
    });
    KeptOutput { receiver, bytes }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(line: &str) -> Invocation {
        Invocation { argv: vec!["/bin/sh".into(), "-c".into(), line.into()], ..Invocation::default() }
    }

    #[test]
    fn command_returns_output_and_status() {
        let output =
            run(&Invocation { stdin: Some(b"in".to_vec()), ..shell("cat; echo err >&2; exit 3") }, &Cancel::default())
                .unwrap();
        assert_eq!((output.rc, output.stdout.as_str(), output.stderr.as_str()), (3, "in", "err\n"));
    }

    /// A shell line in which `LATE` is a process that waits for the file `go` and then writes the file `mark`. The test
    /// creates `go` after the end of the command, so only a process that is still alive writes `mark`.
    struct Late {
        folder: tempfile::TempDir,
        line: String,
    }

    impl Late {
        fn new(line: &str) -> Self {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().display();
            let late = format!("until [ -e {path}/go ]; do sleep 0.05; done; touch {path}/mark");
            let line = line.replace("LATE", &late);
            Self { folder, line }
        }

        /// Returns true if a process of the shell line is still alive.
        fn is_alive(&self) -> bool {
            std::fs::write(self.folder.path().join("go"), "").unwrap();
            thread::sleep(Duration::from_secs(1));
            self.folder.path().join("mark").exists()
        }
    }

    /// Runs a shell line until its deadline. Returns true if a process of the shell line is alive after the deadline.
    fn outlives_its_deadline(line: &str) -> bool {
        let late = Late::new(line);
        let invocation = Invocation { timeout: Some(Duration::from_millis(300)), ..shell(&late.line) };
        assert!(run(&invocation, &Cancel::default()).unwrap().timed_out);
        late.is_alive()
    }

    #[test]
    fn deadline_ends_children_in_the_background() {
        assert!(!outlives_its_deadline("(LATE) & sleep 30"));
    }

    #[test]
    fn deadline_ends_children_in_sessions_of_their_own_after_a_double_fork() {
        assert!(!outlives_its_deadline("setsid sh -c '(LATE) & exit' & setsid sh -c 'LATE' & sleep 30"));
    }

    #[test]
    fn deadline_ends_an_orphan_that_ignores_signals() {
        assert!(!outlives_its_deadline("setsid sh -c \"trap '' TERM HUP INT; sh -c 'LATE'\" & exec sleep 30"));
    }

    #[test]
    fn deadline_ends_processes_that_fork_and_exit_without_pause() {
        let line = "sh -c 'f() { f & }; f' & while :; do (setsid sh -c 'sleep 0.2; LATE' &) ; sleep 0.01; done";
        let line = line.replace("f() { f & }; f", "i=0; while [ $i -lt 300 ]; do setsid sh -c : & i=$((i+1)); done");
        assert!(!outlives_its_deadline(&line));
    }

    #[test]
    fn cancel_ends_the_whole_tree() {
        let late = Late::new("setsid sh -c 'LATE' & sleep 30");
        let cancel = Cancel::default();
        let other = cancel.clone();
        let canceller = thread::spawn(move || {
            thread::sleep(Duration::from_millis(300));
            other.cancel();
        });
        assert!(run(&shell(&late.line), &cancel).unwrap().cancelled);
        canceller.join().unwrap();
        assert!(!late.is_alive());
    }

    #[test]
    fn daemon_of_a_command_that_ended_in_time_continues() {
        let late = Late::new("setsid sh -c 'LATE' >/dev/null 2>&1 & exit 0");
        let invocation = Invocation { timeout: Some(Duration::from_secs(20)), ..shell(&late.line) };
        assert_eq!(run(&invocation, &Cancel::default()).unwrap().rc, 0);
        assert!(late.is_alive());
    }

    #[test]
    fn command_inherits_no_files_no_terminal_and_no_wide_umask() {
        let line = "ls /proc/self/fd | wc -l; cut -d' ' -f6,7 /proc/self/stat | tr ' ' '\n'; echo $$; umask";
        // A file descriptor that is inherited across exec, as in systemd's socket activation.
        let pipe = rustix::pipe::pipe().unwrap();
        rustix::io::fcntl_setfd(&pipe.0, rustix::io::FdFlags::empty()).unwrap();
        // The agent may run with a wide umask.
        let before = rustix::process::umask(rustix::fs::Mode::empty());
        let output = run(&shell(line), &Cancel::default());
        rustix::process::umask(before);
        let output = output.unwrap().stdout;
        let words: Vec<&str> = output.split_whitespace().collect();
        // The four files are stdin, stdout, stderr, and the folder that ls reads. The command has its own session,
        // without a terminal.
        assert_eq!((words[0], words[2], words[4]), ("4", "0", "0022"), "{output}");
        assert_eq!(words[1], words[3], "{output}");
    }

    #[test]
    fn command_that_is_not_there_cannot_be_started() {
        let invocation = Invocation { argv: vec!["/no/such/program".into()], ..Invocation::default() };
        assert_eq!(run(&invocation, &Cancel::default()).unwrap_err().kind(), io::ErrorKind::NotFound);
        let killed = run(&shell("kill -KILL $$"), &Cancel::default()).unwrap();
        assert_eq!(killed.rc, 137);
    }

    #[test]
    fn command_of_another_user_gets_ids_groups_home_and_environment() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let mut user = Account::find("nobody").unwrap().unwrap();
        user.groups = vec![user.gid, 4, 27];
        let invocation =
            Invocation { user: Some(user.clone()), ..shell("id -u; id -g; id -G; pwd; cat /proc/$PPID/comm; env") };
        let output = run(&invocation, &Cancel::default()).unwrap();
        let lines: Vec<&str> = output.stdout.lines().collect();
        assert_eq!(lines[0], user.uid.to_string(), "{output:?}");
        assert_eq!(lines[1], user.gid.to_string());
        assert_eq!(lines[2], format!("{} 4 27", user.gid));
        // Most systems have no home directory for the account `nobody`.
        assert!(lines[3] == "/" || lines[3] == user.home.display().to_string());
        assert!(!output.stdout.contains("CARGO"), "{output:?}");
        assert!(lines.contains(&"USER=nobody"));
    }

    #[test]
    fn large_output_is_cut_at_the_front() {
        let output = run(&shell("head -c 5000000 /dev/zero | tr '\\0' x; echo end"), &Cancel::default()).unwrap();
        assert!(output.stdout.len() <= 2 * OUTPUT_KEPT + (16 << 10) && output.stdout.ends_with("end\n"));
    }
}
