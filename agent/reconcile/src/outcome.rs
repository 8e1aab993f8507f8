//! The outcomes and reports of tasks and books.

use std::{collections::BTreeSet, sync::Arc};

use serde_json::{Value, json};
use towpath_coordination::Gate;

use crate::names::{InstanceId, Managed};

/// The outcome of a task. `Skipped` is the best outcome, and `Failed` is the worst outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Outcome {
    /// The task did not have to run.
    Skipped,
    /// The task changed nothing, because the node was in sync.
    Unchanged,
    /// The task changed the node.
    Changed,
    /// The outcome of the task is not known yet, because the task depends on the result of an earlier task.
    Unknown,
    /// The task waits until a gate opens, or until a missing input is available.
    Held,
    /// The task failed.
    Failed,
}

impl Outcome {
    /// Returns the name that `towpath status` shows for the outcome.
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

/// The origin of a task report.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Origin {
    /// The report is about a task of a book.
    #[default]
    Task,
    /// The report is about drift. If the outcome is `Unchanged`, the agent did not correct the drift.
    Drift,
    /// The report is about a handler.
    Handler,
    /// The report is about the removal of an item that is no longer in git.
    Removal,
    /// The report is about a task that did not run, because the run ended early.
    NotRun,
}

/// The report of a task. If a task has a loop, each loop item has a separate report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskReport {
    /// The name of the task and, for a task with a loop, the loop item.
    pub name: String,
    /// The module that the task uses.
    pub module: String,
    /// The outcome of the task.
    pub outcome: Outcome,
    /// The message of the task, if the task has a message.
    pub message: Option<String>,
    /// The planned action: `none`, `create`, `update`, `remove`, `run` or `unknown`.
    pub action: &'static str,
    /// The change that the task makes, as a readable diff.
    pub diff: Option<String>,
    /// The origin of the report.
    pub origin: Origin,
    /// The number of the rendered task that the report belongs to. `instance` is `None` for handlers and for tasks that
    /// were not rendered.
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

    /// Sets the message of the report.
    #[must_use]
    pub fn with_message(mut self, message: impl Into<Option<String>>) -> Self {
        self.message = message.into();
        self
    }

    /// Sets the origin of the report.
    #[must_use]
    pub fn with_origin(self, origin: Origin) -> Self {
        Self { origin, ..self }
    }

    /// Returns the result that the task registers, including the given result fields of the module.
    pub fn result(&self, fields: impl IntoIterator<Item = (String, Value)>) -> Value {
        result_of(self.outcome, fields)
    }
}

/// Builds the result that a task registers: the outcome of the task and the result fields of the module.
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
    /// The reports of the tasks, in the order in which the tasks ran.
    pub tasks: Vec<TaskReport>,
    /// The closed gates that must open before the book can continue.
    pub gates: Vec<Gate>,
    /// True if a newer revision preempted the run.
    pub preempted: bool,
    /// All items that the book manages. `managed` is `None` if some managed items are not known.
    pub managed: Option<Arc<BTreeSet<Managed>>>,
    /// True if the book is in a steady state, so the next pass only checks the tasks of the book.
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
