//! What came of tasks and books.

use std::time::Duration;

use serde_json::{Value, json};
use towpath_proto::v1alpha as pb;

/// What came of a task; later ones are worse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// It did not have to run.
    Skipped,
    /// Everything was as it should be.
    Unchanged,
    /// Something was put right.
    Changed,
    /// It can't be known yet.
    Unknown,
    /// Something holds it back.
    Held,
    /// It went wrong.
    Failed,
}

impl Outcome {
    /// The word that status shows.
    pub fn word(self) -> &'static str {
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

/// What came of a task, or of one member of its loop.
#[derive(Debug, Clone)]
pub struct TaskOutcome {
    /// Its name, with its item.
    pub name: String,
    /// Its module.
    pub module: String,
    /// What came of it.
    pub outcome: Outcome,
    /// How long it took.
    pub took: Duration,
    /// What there is to say.
    pub message: Option<String>,
    /// What it would come to: none, create, update, remove, run, unknown.
    pub action: &'static str,
    /// The change, for people.
    pub diff: Option<String>,
    /// Whether the change put right what nobody asked for.
    pub drift: bool,
}

impl TaskOutcome {
    /// An outcome without anything further.
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
            drift: false,
        }
    }

    /// Adds what there is to say.
    #[must_use]
    pub fn say(mut self, message: impl Into<String>) -> Self {
        let message = message.into();
        // What failed may name the URL that it asked.
        let failed = self.outcome == Outcome::Failed;
        self.message = Some(if failed { towpath_git::without_secrets(&message) } else { message });
        self
    }

    /// As status has it.
    pub fn status(&self) -> pb::TaskStatus {
        pb::TaskStatus {
            name: self.name.clone(),
            module: self.module.clone(),
            outcome: self.outcome.word().to_owned(),
            changed: self.outcome == Outcome::Changed,
            took: towpath_host::clock::seconds(self.took),
            message: self.message.clone(),
        }
    }

    /// As a registered result has it, with what the module gave.
    pub fn result(&self, fields: impl IntoIterator<Item = (String, Value)>) -> Value {
        let mut result = json!({ "changed": self.outcome == Outcome::Changed, "outcome": self.outcome.word() });
        if let Some(map) = result.as_object_mut() {
            map.extend(fields);
        }
        result
    }
}

/// What came of a book.
#[derive(Debug, Clone)]
pub struct BookOutcome {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its tasks, in the order in which they ran.
    pub tasks: Vec<TaskOutcome>,
    /// The gates that hold it back.
    pub held: Vec<towpath_coordination::Gate>,
    /// When it began (milliseconds since 1970).
    pub started: i64,
    /// How long it took.
    pub took: Duration,
    /// Whether it made way before it was done.
    pub interrupted: bool,
    /// Whether it asks for more agreement than the data store gives.
    pub uncoordinated: bool,
}

impl BookOutcome {
    /// The worst outcome of its tasks.
    pub fn worst(&self) -> Outcome {
        let tasks =
            self.tasks.iter().map(|task| task.outcome).max().unwrap_or(Outcome::Unchanged).max(Outcome::Unchanged);
        if self.held.is_empty() { tasks } else { tasks.max(Outcome::Held) }
    }

    /// As status has it.
    pub fn status(&self) -> pb::TaskBookStatus {
        pb::TaskBookStatus {
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            outcome: self.worst().word().to_owned(),
            tasks: self.tasks.iter().map(TaskOutcome::status).collect(),
        }
    }
}
