//! Outcomes of tasks and books.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use towpath_proto::v1alpha as pb;
use towpath_reconcile::{Origin, Outcome};
use towpath_state::{Record, kinds};

/// The outcome of a task, or of one item of its loop.
#[derive(Debug, Clone)]
pub struct TaskOutcome {
    /// The name, with the item.
    pub name: String,
    /// The module.
    pub module: String,
    /// The outcome.
    pub outcome: Outcome,
    /// The duration.
    pub took: Duration,
    /// The message.
    pub message: Option<String>,
    /// The planned action: none, create, update, remove, run, unknown.
    pub action: &'static str,
    /// The change, as a readable diff.
    pub diff: Option<String>,
    /// The origin.
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

    /// Sets the message.
    #[must_use]
    pub fn say(mut self, message: impl Into<String>) -> Self {
        let message = message.into();
        // The message of a failure may contain a URL with credentials.
        let failed = self.outcome == Outcome::Failed;
        self.message = Some(if failed { towpath_git::without_secrets(&message) } else { message });
        self
    }

    /// Returns the outcome as status shows it.
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

/// The outcome of a book.
#[derive(Debug, Clone, Default)]
pub struct BookOutcome {
    /// The namespace.
    pub namespace: String,
    /// The name.
    pub name: String,
    /// The tasks, in the order in which they ran.
    pub tasks: Vec<TaskOutcome>,
    /// The closed gates.
    pub held: Vec<towpath_coordination::Gate>,
    /// The start, in milliseconds since 1970.
    pub started: i64,
    /// The duration.
    pub took: Duration,
    /// True if the book was preempted.
    pub interrupted: bool,
    /// True if the book asks for more coordination than the data store provides.
    pub uncoordinated: bool,
}

impl BookOutcome {
    /// Returns the worst outcome of the tasks and gates.
    pub fn worst(&self) -> Outcome {
        let tasks =
            self.tasks.iter().map(|task| task.outcome).max().unwrap_or(Outcome::Unchanged).max(Outcome::Unchanged);
        if self.held.is_empty() { tasks } else { tasks.max(Outcome::Held) }
    }

    /// Returns the outcome as status shows it.
    pub fn status(&self) -> pb::TaskBookStatus {
        pb::TaskBookStatus {
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            outcome: self.worst().as_str().to_owned(),
            tasks: self.tasks.iter().map(TaskOutcome::status).collect(),
        }
    }
}

/// The status of each book after the last pass.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BookStatuses(pub Vec<pb::TaskBookStatus>);

impl Record for BookStatuses {
    type Kind = kinds::BookStatuses;
}
