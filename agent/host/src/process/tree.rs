//! Termination of a command's whole process tree.
//!
//! The supervisor is stopped first, so it reaps nothing. The kernel hands it every orphan of the tree, which remains
//! its child, in the end as a zombie. So lists of children reach every process of the tree. The tree has ended when the
//! supervisor has only zombies.

use std::{collections::HashSet, fs, time::Duration};

use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open, pidfd_send_signal};

use crate::{Clock as _, SystemClock};

/// The time that processes get to end after SIGTERM.
const TERMINATE: Duration = Duration::from_secs(5);
/// The longest time of attempts to kill processes. A process that waits for a device cannot be killed.
const KILL: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(20);

/// The most rounds of stopping new processes before the stopped ones are killed.
const SWEEPS: usize = 200;

/// The greatest depth of a visited tree. Deeper processes reach the supervisor when their ancestors end.
const DEPTH: usize = 4096;

/// The state of a process from /proc/PID/stat (proc(5)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stat {
    state: char,
    parent: i32,
}

/// The process tree below a supervisor. The supervisor is stopped until the value is dropped.
#[derive(Debug)]
pub(super) struct Tree {
    supervisor: Pid,
}

impl Tree {
    /// Stops the supervisor, so that it neither exits nor reaps.
    pub(super) fn hold(supervisor: Pid) -> Self {
        // The supervisor may have ended already, and is then a zombie.
        let _ = kill_process(supervisor, Signal::STOP);
        Self { supervisor }
    }

    /// Asks all processes to end, then kills those that remain. Returns true if all have ended.
    pub(super) fn end(&self) -> bool {
        let begin = SystemClock.monotonic();
        self.sweep(&mut |process, _| {
            send(process, Signal::TERM);
            // A stopped process does not handle SIGTERM until it continues.
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

    /// Stops processes until no new ones appear. Otherwise, processes that fork faster than they are killed would never
    /// end.
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

    /// Visits each living process of the tree. Processes near the supervisor are visited first.
    ///
    /// The whole tree is listed before the first visit. A visit may end a process. Its children then move to the
    /// supervisor, and a later listing would miss them.
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
            // The number may belong to another process by now. A process of the tree has its parent in the tree.
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

/// A handle of a process that stays valid when its number is reused.
#[derive(Clone, Copy)]
struct Process<'a>(&'a std::os::fd::OwnedFd);

fn send(process: Process<'_>, signal: Signal) {
    // The process may have ended, or an agent without root may lack the permission for a set-user-ID program.
    let _ = pidfd_send_signal(process.0, signal);
}

/// Returns the children of all threads of a process.
fn children(parent: Pid) -> Vec<Pid> {
    let folder = format!("/proc/{}/task", parent.as_raw_pid());
    let mut found = Vec::new();
    for thread in fs::read_dir(folder).into_iter().flatten().flatten() {
        match fs::read_to_string(thread.path().join("children")) {
            Ok(text) => found.extend(text.split_ascii_whitespace().filter_map(pid)),
            // The kernel lacks this list (CONFIG_PROC_CHILDREN), or the thread has ended.
            Err(_) => return children_by_parent(parent),
        }
    }
    found
}

/// Returns the children of a process. It reads the parent of every process on the machine.
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

/// Parses state and parent. The process name before them may contain blanks and brackets.
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
    fn both_ways_to_find_children_agree() {
        let own = rustix::process::getpid();
        let mut child = std::process::Command::new("sleep").arg("30").spawn().unwrap();
        let wanted = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
        assert!(children(own).contains(&wanted) && children_by_parent(own).contains(&wanted));
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
