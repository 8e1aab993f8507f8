//! Changes that wait to be carried out together: files in one batch, direct changes in one transaction.

use std::{collections::BTreeSet, iter::successors, sync::Arc};

use super::{
    assess::Admission,
    instance::{BatchKey, Facts},
};
use crate::names::{Instance, InstanceId};

/// Maximum number of file changes in one batch.
const MAX_FILES: usize = 2000;

/// Changes that are carried out together, by their instances.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChangeSet {
    /// Changes of files: one batch.
    Files(Vec<InstanceId>),
    /// Changes made by a tool or daemon: one transaction if there are several.
    Direct(Vec<InstanceId>),
}

impl ChangeSet {
    /// Returns the instances.
    pub fn instances(&self) -> &[InstanceId] {
        match self {
            Self::Files(all) | Self::Direct(all) => all,
        }
    }
}

/// A change that waits.
#[derive(Debug, Clone)]
pub struct Queued {
    /// The rendered task.
    pub instance: Arc<Instance>,
    /// The position of its report.
    pub report: usize,
    /// The condition under which it may begin.
    pub admission: Admission,
    /// The paths that it writes.
    pub writes: Vec<String>,
    /// The key of its transaction.
    pub batch: Option<BatchKey>,
}

/// The changes that wait. Only one kind waits at a time.
#[derive(Debug, Clone, Default)]
pub struct Queue {
    files: Vec<Queued>,
    /// The paths that the waiting changes of files write.
    written: BTreeSet<String>,
    direct: Vec<Queued>,
    held: Vec<String>,
}

impl Queue {
    /// Returns whether no change waits.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty() && self.direct.is_empty()
    }

    /// Returns whether a waiting change affects the check of a path: it writes the path, something below it, or a folder
    /// above it.
    pub fn affects(&self, path: &str) -> bool {
        let path = path.trim_end_matches('/');
        let below = format!("{path}/");
        let mut later = self.written.range(below.clone()..);
        let mut above = successors(Some(path), |path| path.rfind('/').and_then(|at| path.get(..at)));
        later.next().is_some_and(|other| other.starts_with(&below)) || above.any(|other| self.written.contains(other))
    }

    /// Notes that a change is held, with the paths that it would write.
    pub fn hold(&mut self, change: &Queued) {
        self.held.extend(change.writes.iter().cloned());
    }

    /// Returns whether a change depends on one that is held.
    pub fn depends_on_held(&self, writes: &[String]) -> bool {
        self.held.iter().any(|held| writes.iter().any(|path| overlaps(held, path)))
    }

    /// Returns whether a direct change can join the waiting ones.
    pub fn accepts(&self, batch: Option<&BatchKey>) -> bool {
        self.direct.iter().all(|waiting| waiting.batch.is_some() && waiting.batch.as_ref() == batch)
    }

    /// Queues a change of files. Returns whether the batch is full.
    pub fn push_files(&mut self, change: Queued) -> bool {
        self.written.extend(change.writes.iter().map(|path| path.trim_end_matches('/').to_owned()));
        self.files.push(change);
        self.files.len() >= MAX_FILES
    }

    /// Queues a direct change.
    pub fn push_direct(&mut self, change: Queued) {
        self.direct.push(change);
    }

    /// Takes the changes of files.
    pub fn take_files(&mut self) -> Vec<Queued> {
        self.written.clear();
        std::mem::take(&mut self.files)
    }

    /// Takes the direct changes.
    pub fn take_direct(&mut self) -> Vec<Queued> {
        std::mem::take(&mut self.direct)
    }
}

/// Returns the change set of files.
pub fn files(changes: &[Queued]) -> ChangeSet {
    ChangeSet::Files(changes.iter().map(|change| change.instance.id).collect())
}

/// Returns the change set of direct changes.
pub fn direct(changes: &[Queued]) -> ChangeSet {
    ChangeSet::Direct(changes.iter().map(|change| change.instance.id).collect())
}

/// Splits changes of files into those that need no admission, and the others. A change that depends on a path of an
/// earlier one of the others stays with it.
pub fn split_free(changes: Vec<Queued>) -> (Vec<Queued>, Vec<Queued>) {
    let (mut free, mut others): (Vec<Queued>, Vec<Queued>) = (Vec::new(), Vec::new());
    for change in changes {
        let depends = |other: &Queued| {
            other.writes.iter().any(|path| change.writes.iter().any(|written| overlaps(path, written)))
        };
        if change.admission == Admission::Free && !others.iter().any(depends) {
            free.push(change);
        } else {
            others.push(change);
        }
    }
    (free, others)
}

/// Returns whether a task can wait with others for one transaction: it neither evaluates nor publishes its own result.
pub fn can_wait(task: &towpath_render::objects::task::Task, facts: &Facts) -> bool {
    let judged = task.success.is_some() || task.changed.is_some() || task.until.is_some();
    facts.batch.is_some() && !judged && task.register.is_none() && task.elect.is_none()
}

/// Returns whether one path is the other, or is above or below it.
fn overlaps(one: &str, other: &str) -> bool {
    let (one, other) = (one.trim_end_matches('/'), other.trim_end_matches('/'));
    let below = |path: &str, folder: &str| path.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'));
    one == other || below(one, other) || below(other, one)
}

#[cfg(test)]
mod tests;
