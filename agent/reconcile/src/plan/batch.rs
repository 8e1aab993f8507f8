//! The queue of changes that the agent makes together: file changes in one batch, changes by tools in one transaction.

use std::{collections::BTreeSet, iter::successors, sync::Arc};

use super::{
    assess::Admission,
    instance::{BatchKey, Facts},
};
use crate::names::{Instance, InstanceId};

/// The maximum number of file changes in one batch.
const MAX_FILES: usize = 2000;

/// A set of rendered tasks whose changes the agent makes together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChangeSet {
    /// File changes that the agent writes as one batch.
    Files(Vec<InstanceId>),
    /// Changes that a tool or daemon makes in one transaction.
    Direct(Vec<InstanceId>),
}

impl ChangeSet {
    /// Returns the rendered tasks that need the changes in the set.
    pub fn instances(&self) -> &[InstanceId] {
        match self {
            Self::Files(all) | Self::Direct(all) => all,
        }
    }
}

/// A change that is queued until its batch or transaction runs.
#[derive(Debug, Clone)]
pub struct Queued {
    /// The rendered task that needs the change.
    pub instance: Arc<Instance>,
    /// The index of the task's report in the list of reports.
    pub report: usize,
    /// The permission that the change needs before it begins.
    pub admission: Admission,
    /// The paths that the change writes.
    pub writes: Vec<String>,
    /// The key of the transaction that the change can join. Changes with equal `batch` values can share a transaction.
    /// `batch` is `None` if the change cannot share a transaction.
    pub batch: Option<BatchKey>,
}

/// The changes that one lane of tasks has not made yet. The queue never contains file changes and direct changes by
/// tools or daemons at the same time.
#[derive(Debug, Clone, Default)]
pub struct Queue {
    files: Vec<Queued>,
    /// The paths that the queued file changes write.
    written: BTreeSet<String>,
    direct: Vec<Queued>,
    held: Vec<String>,
}

impl Queue {
    /// Returns true if the queue is empty.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty() && self.direct.is_empty()
    }

    /// Returns true if a queued change can affect the result of a check of the given path. A change affects the checks
    /// of the changed path, and of all paths above or below the changed path.
    pub fn affects(&self, path: &str) -> bool {
        let path = path.trim_end_matches('/');
        let below = format!("{path}/");
        let mut later = self.written.range(below.clone()..);
        let mut above = successors(Some(path), |path| path.rfind('/').and_then(|at| path.get(..at)));
        later.next().is_some_and(|other| other.starts_with(&below)) || above.any(|other| self.written.contains(other))
    }

    /// Records the paths of a held change.
    pub fn hold(&mut self, change: &Queued) {
        self.held.extend(change.writes.iter().cloned());
    }

    /// Returns true if one of the given paths overlaps a path of a held change.
    pub fn depends_on_held(&self, writes: &[String]) -> bool {
        self.held.iter().any(|held| writes.iter().any(|path| overlaps(held, path)))
    }

    /// Returns true if a direct change by a tool or daemon can join the queued changes.
    pub fn accepts(&self, batch: Option<&BatchKey>) -> bool {
        self.direct.iter().all(|waiting| waiting.batch.is_some() && waiting.batch.as_ref() == batch)
    }

    /// Adds a file change to the queue. Returns true if the batch is full after the change is added.
    pub fn push_files(&mut self, change: Queued) -> bool {
        self.written.extend(change.writes.iter().map(|path| path.trim_end_matches('/').to_owned()));
        self.files.push(change);
        self.files.len() >= MAX_FILES
    }

    /// Adds a direct change by a tool or daemon to the queue.
    pub fn push_direct(&mut self, change: Queued) {
        self.direct.push(change);
    }

    /// Removes all file changes from the queue, and returns these changes.
    pub fn take_files(&mut self) -> Vec<Queued> {
        self.written.clear();
        std::mem::take(&mut self.files)
    }

    /// Removes all direct changes by tools or daemons from the queue, and returns these changes.
    pub fn take_direct(&mut self) -> Vec<Queued> {
        std::mem::take(&mut self.direct)
    }
}

/// Converts queued file changes into a set of changes.
pub fn files(changes: &[Queued]) -> ChangeSet {
    ChangeSet::Files(changes.iter().map(|change| change.instance.id).collect())
}

/// Converts queued direct changes by tools or daemons into a set of changes.
pub fn direct(changes: &[Queued]) -> ChangeSet {
    ChangeSet::Direct(changes.iter().map(|change| change.instance.id).collect())
}

/// Returns `Free` if no change in the list needs admission, and `SlotAndWindow` in all other cases.
pub fn admission(changes: &[Queued]) -> Admission {
    let is_free = changes.iter().all(|change| change.admission == Admission::Free);
    if is_free { Admission::Free } else { Admission::SlotAndWindow }
}

/// Splits file changes into changes that may begin without admission, and changes that must wait. A change must wait if
/// it needs admission, or if an earlier change of an overlapping path must wait.
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

/// Returns true if a task's change can wait until its transaction runs. A change cannot wait if its task registers the
/// result, or evaluates the result with an expression.
pub fn can_wait(task: &towpath_render::objects::task::Task, facts: &Facts) -> bool {
    let judged = task.success.is_some() || task.changed.is_some() || task.until.is_some();
    facts.batch.is_some() && !judged && task.register.is_none() && task.elect.is_none()
}

/// Returns true if two paths are equal, or if one path is below the other path.
fn overlaps(one: &str, other: &str) -> bool {
    let (one, other) = (one.trim_end_matches('/'), other.trim_end_matches('/'));
    let below = |path: &str, folder: &str| path.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'));
    one == other || below(one, other) || below(other, one)
}

#[cfg(test)]
mod tests;
