//! Ends the whole process tree of a command.
//!
//! The supervisor is stopped first, and so reaps nothing: each process of the tree is a child of another one, or was
//! handed to the supervisor and stays in its list, at last as a zombie. The tree has ended when that list holds zombies
//! alone.

use std::{collections::HashSet, fs, time::Duration};

use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open, pidfd_send_signal};

use crate::{Clock as _, SystemClock};

/// How long the processes may take to end after they were asked to.
const TERMINATE: Duration = Duration::from_secs(5);
/// How long they are killed at most: one that waits for a device cannot be.
const KILL: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(20);

/// How often new processes are looked for in a row before those that are stopped are killed.
const SWEEPS: usize = 200;

/// How deep a tree is followed. Deeper processes are handed to the supervisor as those above them end.
const DEPTH: usize = 4096;

/// The state of a process, as /proc/PID/stat has it (proc(5)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stat {
    state: char,
    parent: i32,
}

/// The processes below a supervisor, which is stopped for as long as this lives.
#[derive(Debug)]
pub(super) struct Tree {
    supervisor: Pid,
}

impl Tree {
    /// Stops the supervisor, so that it neither exits nor reaps.
    pub(super) fn hold(supervisor: Pid) -> Self {
        // It may have ended already, and is a zombie then.
        let _ = kill_process(supervisor, Signal::STOP);
        Self { supervisor }
    }

    /// Asks all processes to end, then kills those that remain. Returns whether all have ended.
    pub(super) fn end(&self) -> bool {
        let begin = SystemClock.monotonic();
        self.sweep(&mut |process, _| {
            send(process, Signal::TERM);
            // One that is stopped would not hear of it.
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

    /// Stops processes until no new ones appear: those that fork faster than they are killed would not end otherwise.
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

    /// Visits every process of the tree that has not ended, those nearest to the supervisor first.
    ///
    /// The whole tree is listed before the first visit: a process that ends by its visit hands its children to the
    /// supervisor, and they would be found nowhere below it.
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
            // The number may belong to another process by now: one of the tree has its parent in the tree.
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

/// A process that stays the same one, whatever its number is given to after its end.
#[derive(Clone, Copy)]
struct Process<'a>(&'a std::os::fd::OwnedFd);

fn send(process: Process<'_>, signal: Signal) {
    // It may have ended by itself, or a set-user-ID program does not listen to an agent that is not root.
    let _ = pidfd_send_signal(process.0, signal);
}

/// The children of all threads of a process.
fn children(parent: Pid) -> Vec<Pid> {
    let folder = format!("/proc/{}/task", parent.as_raw_pid());
    let mut found = Vec::new();
    for thread in fs::read_dir(folder).into_iter().flatten().flatten() {
        match fs::read_to_string(thread.path().join("children")) {
            Ok(text) => found.extend(text.split_ascii_whitespace().filter_map(pid)),
            // The kernel keeps no such list (CONFIG_PROC_CHILDREN), or the thread has ended.
            Err(_) => return children_by_parent(parent),
        }
    }
    found
}

/// The children of a process, found by asking every process of the machine for its parent.
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

/// Reads state and parent. The name before them may hold blanks and brackets of its own.
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
