//! The outcomes of tasks and TaskBooks in a pass.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use towpath_proto::v1alpha as pb;
use towpath_reconcile::{Origin, Outcome};
use towpath_state::{Record, kinds};

/// The outcome of a task. If a task has a loop, each loop item has a separate outcome.
#[derive(Debug, Clone)]
pub struct TaskOutcome {
    /// The name of the task and, for a task with a loop, the loop item.
    pub name: String,
    /// The module of the task.
    pub module: String,
    /// The outcome of the task, such as `Changed` or `Failed`.
    pub outcome: Outcome,
    /// The duration of the task.
    pub took: Duration,
    /// The message of the task, such as the cause of a failure.
    pub message: Option<String>,
    /// The action that a plan shows: `none`, `create`, `update`, `remove`, `run` or `unknown`.
    pub action: &'static str,
    /// The change that the task makes, as a readable diff.
    pub diff: Option<String>,
    /// The origin of the outcome, such as a task, a handler or a removal.
    pub origin: Origin,
}

impl TaskOutcome {
    /// Creates an outcome without message or diff.
    pub fn new(name: String, module: &str, outcome: Outcome) -> Self {
        let action = if outcome == Outcome::Unknown { "unknown" } else { "none" };
        Self {
            name,
            module: module.to_owned(),
            outcome,
            took: Duration::ZERO,
            message: None,
            action,
            diff: None,
            origin: Origin::Task,
        }
    }

    /// Sets the message of the outcome.
    #[must_use]
    pub fn with_message(mut self, message: impl Into<String>) -> Self {
        let message = message.into();
        // The message of a failure may contain a URL with credentials.
        let failed = self.outcome == Outcome::Failed;
        self.message = Some(if failed { towpath_git::without_secrets(&message) } else { message });
        self
    }

    /// Converts the outcome of the task into the form that the status shows.
    pub fn status(&self) -> pb::TaskStatus {
        pb::TaskStatus {
            name: self.name.clone(),
            module: self.module.clone(),
            outcome: self.outcome.as_str().to_owned(),
            changed: self.outcome == Outcome::Changed,
            took: towpath_host::clock::seconds(self.took),
            message: self.message.clone(),
        }
    }
}

/// The outcome of a TaskBook in a pass.
#[derive(Debug, Clone, Default)]
pub struct BookOutcome {
    /// The namespace of the TaskBook.
    pub namespace: String,
    /// The name of the TaskBook.
    pub name: String,
    /// The outcomes of the tasks, in the order in which the tasks ran.
    pub tasks: Vec<TaskOutcome>,
    /// The closed gates of the TaskBook.
    pub held: Vec<towpath_coordination::Gate>,
    /// The start of the run, in milliseconds since 1970.
    pub started: i64,
    /// The duration of the run.
    pub took: Duration,
    /// True if the run of the TaskBook was preempted.
    pub interrupted: bool,
    /// True if the TaskBook asks for slots, waves or barriers, but the data store is local.
    pub uncoordinated: bool,
}

impl BookOutcome {
    /// Returns the worst outcome of the tasks and gates of the TaskBook.
    pub fn worst(&self) -> Outcome {
        let tasks =
            self.tasks.iter().map(|task| task.outcome).max().unwrap_or(Outcome::Unchanged).max(Outcome::Unchanged);
        if self.held.is_empty() { tasks } else { tasks.max(Outcome::Held) }
    }

    /// Converts the outcome of the TaskBook into the form that the status shows.
    pub fn status(&self) -> pb::TaskBookStatus {
        pb::TaskBookStatus {
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            outcome: self.worst().as_str().to_owned(),
            tasks: self.tasks.iter().map(TaskOutcome::status).collect(),
        }
    }
}

/// The status of each TaskBook after the most recent pass.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BookStatuses(pub Vec<pb::TaskBookStatus>);

impl Record for BookStatuses {
    type Kind = kinds::BookStatuses;
}
