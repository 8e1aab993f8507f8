//! Outcomes of tasks and books.

use std::{collections::BTreeSet, sync::Arc};

use serde_json::{Value, json};
use towpath_coordination::Gate;

use crate::names::{InstanceId, Managed};

/// The outcome of a task. Later variants are worse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Outcome {
    /// The task did not have to run.
    Skipped,
    /// The state was in sync.
    Unchanged,
    /// Something was changed.
    Changed,
    /// The outcome cannot be known yet.
    Unknown,
    /// A gate or a missing input holds the task.
    Held,
    /// The task failed.
    Failed,
}

impl Outcome {
    /// Returns the word that status shows.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Skipped => "skipped",
            Self::Unchanged => "unchanged",
            Self::Changed => "changed",
            Self::Unknown => "unknown",
            Self::Held => "held",
            Self::Failed => "failed",
        }
    }
}

/// The origin of a report.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Origin {
    /// A task of a book.
    #[default]
    Task,
    /// A task of a book that has drifted. If it has changed nothing, its drift is left.
    Drift,
    /// A handler.
    Handler,
    /// The removal of an item that is no longer in git.
    Removal,
    /// A task of a book that the pass did not reach.
    NotRun,
}

/// The report of a task, or of one item of its loop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskReport {
    /// The name, with the item.
    pub name: String,
    /// The module.
    pub module: String,
    /// The outcome.
    pub outcome: Outcome,
    /// The message.
    pub message: Option<String>,
    /// The planned action: none, create, update, remove, run, unknown.
    pub action: &'static str,
    /// The change, as a readable diff.
    pub diff: Option<String>,
    /// The origin.
    pub origin: Origin,
    /// The rendered task that the report belongs to. `None` for handlers and for tasks that were not rendered.
    pub instance: Option<InstanceId>,
}

impl TaskReport {
    /// Creates a report without a message or diff.
    pub fn new(name: impl Into<String>, module: impl Into<String>, outcome: Outcome) -> Self {
        let action = if outcome == Outcome::Unknown { "unknown" } else { "none" };
        Self {
            name: name.into(),
            module: module.into(),
            outcome,
            message: None,
            action,
            diff: None,
            origin: Origin::Task,
            instance: None,
        }
    }

    /// Sets the message.
    #[must_use]
    pub fn with_message(mut self, message: impl Into<Option<String>>) -> Self {
        self.message = message.into();
        self
    }

    /// Sets the origin.
    #[must_use]
    pub fn with_origin(self, origin: Origin) -> Self {
        Self { origin, ..self }
    }

    /// Returns the registered result, with the fields of the module.
    pub fn result(&self, fields: impl IntoIterator<Item = (String, Value)>) -> Value {
        result_of(self.outcome, fields)
    }
}

/// Returns the registered result of a task with an outcome, with the fields of the module.
pub fn result_of(outcome: Outcome, fields: impl IntoIterator<Item = (String, Value)>) -> Value {
    let mut result = json!({ "changed": outcome == Outcome::Changed, "outcome": outcome.as_str() });
    if let Some(map) = result.as_object_mut() {
        map.extend(fields);
    }
    result
}

/// The report of a book run.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct BookReport {
    /// The tasks, in the order in which they ran.
    pub tasks: Vec<TaskReport>,
    /// The closed gates.
    pub gates: Vec<Gate>,
    /// True if the run was preempted.
    pub preempted: bool,
    /// All managed items. `None` if not all of them are known.
    pub managed: Option<Arc<BTreeSet<Managed>>>,
    /// True if checks alone can confirm that nothing has to be done.
    pub steady: bool,
}

impl BookReport {
    /// Returns the worst outcome of the tasks and gates.
    pub fn worst(&self) -> Outcome {
        let tasks = self.tasks.iter().map(|task| task.outcome).max().unwrap_or(Outcome::Unchanged);
        let tasks = tasks.max(Outcome::Unchanged);
        if self.gates.is_empty() { tasks } else { tasks.max(Outcome::Held) }
    }
}
