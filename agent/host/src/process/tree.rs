//! Ends the whole process tree of a command.
//!
//! The agent first stops the supervisor with SIGSTOP, so that ended processes remain visible as zombies. While the
//! supervisor is stopped, every orphaned process of the command becomes a child of the supervisor, and stays visible.
//! The process tree has ended when all children of the supervisor are zombies.

use std::{collections::HashSet, fs, time::Duration};

use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open, pidfd_send_signal};

use crate::{Clock as _, SystemClock};

/// The time between SIGTERM and SIGKILL for the processes of a command.
const TERMINATE: Duration = Duration::from_secs(5);
/// The maximum time for which the agent tries to kill processes. The kernel cannot end a process while the process
/// waits for a device.
const KILL: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(20);

/// The maximum number of attempts to stop all processes of a tree with SIGSTOP, before the agent kills the processes.
const SWEEPS: usize = 200;

/// The maximum depth in a process tree at which the agent looks for processes. When all ancestors of a process have
/// ended, the process becomes a child of the supervisor.
const DEPTH: usize = 4096;

/// The state of a process from /proc/PID/stat (proc(5)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stat {
    state: char,
    parent: i32,
}

/// The processes below a supervisor. The supervisor stays stopped until the `Tree` is dropped.
#[derive(Debug)]
pub(super) struct Tree {
    supervisor: Pid,
}

impl Tree {
    /// Stops the supervisor, so that the supervisor neither exits nor reaps processes.
    pub(super) fn hold(supervisor: Pid) -> Self {
        // An error is ignored, because the supervisor may have ended already.
        let _ = kill_process(supervisor, Signal::STOP);
        Self { supervisor }
    }

    /// Sends SIGTERM to all processes of the tree. The agent kills the processes that do not end in time.
    ///
    /// Returns true if all processes of the tree have ended.
    pub(super) fn end(&self) -> bool {
        let begin = SystemClock.monotonic();
        self.sweep(&mut |process, _| {
            send(process, Signal::TERM);
            // A stopped process handles SIGTERM only after SIGCONT.
            send(process, Signal::CONT);
        });
        while !self.has_ended() && begin.elapsed() < TERMINATE {
            std::thread::sleep(PAUSE);
        }
        let begin = SystemClock.monotonic();
        while !self.has_ended() {
            if begin.elapsed() >= KILL {
                return false;
            }
            self.stop_all();
            self.sweep(&mut |process, _| send(process, Signal::KILL));
            if !self.has_ended() {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        true
    }

    /// Stops all processes of the tree, until no new process appears. A stopped process cannot fork, so the agent can
    /// then kill all processes.
    fn stop_all(&self) {
        for _ in 0..SWEEPS {
            let mut running = 0_usize;
            self.sweep(&mut |process, stat| {
                if !matches!(stat.state, 'T' | 't') {
                    running += 1;
                    send(process, Signal::STOP);
                }
            });
            if running == 0 {
                return;
            }
        }
    }

    /// Calls a function for each living process of the tree. A parent process comes before its children.
    ///
    /// The processes are listed before the first call of `visit`, because the call may end a process. The children of
    /// an ended process become children of the supervisor, so a later search could miss these children.
    fn sweep(&self, visit: &mut dyn FnMut(Process, Stat)) {
        let mut listed: Vec<Pid> = Vec::new();
        let mut tree: HashSet<i32> = HashSet::from([self.supervisor.as_raw_pid()]);
        let mut level = vec![self.supervisor];
        for _ in 0..DEPTH {
            let below = level.into_iter().flat_map(children);
            level = below.filter(|child| tree.insert(child.as_raw_pid())).collect();
            if level.is_empty() {
                break;
            }
            listed.extend(&level);
        }
        for process in listed {
            let Ok(handle) = pidfd_open(process, PidfdFlags::empty()) else { continue };
            // The process id may belong to a new process by now, so the parent of the process must be in the tree.
            let Some(stat) = stat(process).filter(|stat| stat.state != 'Z' && tree.contains(&stat.parent)) else {
                continue;
            };
            visit(Process(&handle), stat);
        }
    }

    fn has_ended(&self) -> bool {
        children(self.supervisor)
            .into_iter()
            .all(|child| stat(child).is_none_or(|stat| matches!(stat.state, 'Z' | 'X')))
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        let _ = kill_process(self.supervisor, Signal::CONT);
    }
}

/// A handle of a process (pidfd). The handle of a process never refers to another process, even if the kernel reuses
/// the process id.
#[derive(Clone, Copy)]
struct Process<'a>(&'a std::os::fd::OwnedFd);

fn send(process: Process<'_>, signal: Signal) {
    // An error is ignored: the process may have ended, or the agent may lack the permission for a set-user-ID program.
    let _ = pidfd_send_signal(process.0, signal);
}

/// Returns the children of all threads of a process.
fn children(parent: Pid) -> Vec<Pid> {
    let folder = format!("/proc/{}/task", parent.as_raw_pid());
    let mut found = Vec::new();
    for thread in fs::read_dir(folder).into_iter().flatten().flatten() {
        match fs::read_to_string(thread.path().join("children")) {
            Ok(text) => found.extend(text.split_ascii_whitespace().filter_map(pid)),
            // The kernel may be built without lists of children (CONFIG_PROC_CHILDREN), or the thread may have ended.
            Err(_) => return children_by_parent(parent),
        }
    }
    found
}

/// Returns the children of a process. The function searches all processes of the machine.
fn children_by_parent(parent: Pid) -> Vec<Pid> {
    let all = fs::read_dir("/proc").into_iter().flatten().flatten();
    let all = all.filter_map(|entry| pid(entry.file_name().to_str()?));
    all.filter(|child| stat(*child).is_some_and(|stat| stat.parent == parent.as_raw_pid())).collect()
}

fn pid(text: &str) -> Option<Pid> {
    text.parse().ok().and_then(Pid::from_raw)
}

fn stat(process: Pid) -> Option<Stat> {
    parse(&fs::read_to_string(format!("/proc/{}/stat", process.as_raw_pid())).ok()?)
}

/// Parses the state and the parent of a process from /proc/PID/stat. The process name in /proc/PID/stat may contain
/// blanks and brackets.
fn parse(text: &str) -> Option<Stat> {
    let mut fields = text.rsplit_once(')')?.1.split_ascii_whitespace();
    Some(Stat { state: fields.next()?.chars().next()?, parent: fields.next()?.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_of_a_process_with_an_odd_name_is_read() {
        assert_eq!(parse("12 (a) R (b) S 7 12 12 0"), Some(Stat { state: 'S', parent: 7 }));
        assert_eq!(parse("12 (a"), None);
    }

    #[test]
    fn both_methods_find_the_same_children() {
        let own = rustix::process::getpid();
        let mut child = std::process::Command::new("sleep").arg("30").spawn().unwrap();
        let wanted = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
        assert!(children(own).contains(&wanted) && children_by_parent(own).contains(&wanted));
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
