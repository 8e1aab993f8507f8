//! Tasks that run concurrently, each in its own part of the book's run.

use std::{collections::BTreeSet, sync::Arc, thread};

use towpath_render::objects::task::Task;

use super::book::BookRun;

/// Maximum number of concurrent tasks of a parallel book.
const AT_ONCE: usize = 16;

impl BookRun<'_, '_> {
    /// Runs the tasks of a wave concurrently. In a coordinated book, or one with tasks before or after it, they run one
    /// by one. There, the first change of any task acquires the slot and runs the `before` tasks for all.
    pub(super) fn wave(&mut self, tasks: &[&Task]) {
        let framed =
            !self.book.rollout.before.is_empty() || !self.book.rollout.after.is_empty() || self.in_segment.is_some();
        if tasks.len() == 1 || self.pass.plan || framed {
            for task in tasks {
                if self.stopped {
                    break;
                }
                self.task(task);
            }
            return;
        }
        // Changes that these tasks require may wait in the batch.
        self.flush();
        if self.stopped() {
            return;
        }
        for some in tasks.chunks(AT_ONCE) {
            let parts: Vec<BookRun<'_, '_>> = some.iter().map(|_| self.part()).collect();
            let done: Vec<_> = thread::scope(|scope| {
                let run = |(mut part, task): (Self, &Task)| {
                    part.task(task);
                    part.flush();
                    part
                };
                let threads: Vec<_> =
                    parts.into_iter().zip(some).map(|(part, task)| scope.spawn(move || run((part, task)))).collect();
                threads.into_iter().map(|thread| thread.join()).collect()
            });
            for (part, task) in done.into_iter().zip(some) {
                match part {
                    Ok(part) => self.merge(part),
                    Err(_) => self.failed(
                        task,
                        None,
                        "internal error: the task panicked; please report it with the log of this run".into(),
                    ),
                }
            }
        }
    }

    fn part(&self) -> Self {
        let mut part = Self::new(self.pass, self.book, Arc::clone(&self.renderer), self.permit, self.owners);
        part.begun = self.begun;
        part.in_window = self.in_window;
        part.probes = self.probes;
        part.reached.clone_from(&self.reached);
        part
    }

    fn merge(&mut self, part: Self) {
        self.tasks.extend(part.tasks);
        for (path, seen) in part.watched {
            self.watched.entry(path).or_insert(seen);
        }
        self.managed.extend(part.managed);
        for (task, unmet) in part.reached {
            *self.reached.entry(task).or_default() |= unmet;
        }
        self.gate = self.gate.take().or(part.gate);
        self.in_window |= part.in_window;
        self.adopted.append(part.adopted);
        self.complete &= part.complete;
        self.stopped |= part.stopped;
        self.interrupted |= part.interrupted;
        self.moved |= part.moved;
        self.disk = self.disk.take().or(part.disk);
        self.settled = self.settled.take().zip(part.settled).map(|(mut all, more)| {
            all.extend(more);
            all
        });
    }
}

/// Returns the tasks in the order in which they run: one by one as written, or in waves without mutual requirements.
pub(super) fn waves<'t>(tasks: &[&'t Task], parallel: bool) -> Vec<Vec<&'t Task>> {
    if !parallel {
        return tasks.iter().map(|task| vec![*task]).collect();
    }
    // A required task of an earlier segment is done.
    let here: BTreeSet<&str> = tasks.iter().map(|task| task.id.as_str()).collect();
    let mut done: BTreeSet<&str> = BTreeSet::new();
    let mut waves = Vec::new();
    let mut left: Vec<&Task> = tasks.to_vec();
    while !left.is_empty() {
        let ready = |task: &&Task| {
            task.requires.iter().all(|name| done.contains(name.as_str()) || !here.contains(name.as_str()))
        };
        let (mut wave, mut rest): (Vec<&Task>, Vec<&Task>) = left.into_iter().partition(ready);
        if wave.is_empty() {
            // Cycles are rejected when the book is loaded.
            std::mem::swap(&mut wave, &mut rest);
        }
        done.extend(wave.iter().map(|task| task.id.as_str()));
        waves.push(wave);
        left = rest;
    }
    waves
}
