//! TaskBooks and their tasks as resolved: includes expanded, words and durations read, names made unique.

use std::{sync::Arc, time::Duration};

use serde_json::{Map, Value};
use towpath_proto::{Message, v1alpha as pb};

use super::Targets;
use crate::{
    document::Place,
    words::{Count, duration},
};

/// A TaskBook.
#[derive(Debug, Clone)]
pub struct Book {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The nodes; None: only CronJobs and Triggers run it.
    pub targets: Option<Targets>,
    /// The books that come first.
    pub depends_on: Vec<Dependency>,
    /// How it goes through the fleet.
    pub rollout: Rollout,
    /// Whether the tasks run all at once, respecting requires.
    pub parallel: bool,
    /// Whether what it no longer mentions is removed.
    pub prune: bool,
    /// How much may be removed in one pass: a count or a percentage of what the book manages.
    pub prune_budget: Option<String>,
    /// Its variables.
    pub vars: Map<String, Value>,
    /// Its tasks, includes expanded.
    pub tasks: Vec<Task>,
    /// Its handlers, in order.
    pub handlers: Vec<Task>,
    /// Whether, and why, it is paused.
    pub suspend: Option<pb::Suspend>,
    /// Where it was written.
    pub place: Place,
}

impl Book {
    /// `namespace/name`.
    pub fn id(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// Whether the book asks for something that needs other nodes to agree.
    pub fn coordinated(&self) -> bool {
        let tasks = || self.tasks.iter().chain(&self.handlers);
        self.rollout.serialize.is_some()
            || !self.rollout.waves.is_empty()
            || self.depends_on.iter().any(|dependency| dependency.fleet)
            || tasks().any(|task| task.sync || task.elect.is_some() || task.serialize.is_some())
    }
}

/// A book that must be applied before another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dependency {
    /// The book's name, in the same namespace.
    pub book: String,
    /// Whether its whole run is waited for.
    pub fleet: bool,
}

/// How a book goes through the fleet.
#[derive(Debug, Clone, Default)]
pub struct Rollout {
    /// How many nodes change at one time.
    pub serialize: Option<pb::Serialize>,
    /// Cumulative steps.
    pub waves: Vec<Value>,
    /// How long a wave must hold.
    pub soak: Duration,
    /// How many failures do not halt the run.
    pub max_failures: Option<Count>,
    /// Whether all targets run before failures count.
    pub after_all: bool,
    /// What is done when a node is lost: hold, skip or fail.
    pub on_lost: String,
    /// Tasks before the first change.
    pub before: Vec<Task>,
    /// Tasks behind the last handler.
    pub after: Vec<Task>,
}

/// One task.
#[derive(Debug, Clone)]
pub struct Task {
    /// `[include/]name`: unique in its list.
    pub id: String,
    /// What it does; None for sync and flushHandlers alone.
    pub module: Option<ModuleUse>,
    /// Expressions that must all hold, each with the include that it was written in.
    pub when: Vec<Condition>,
    /// Runs once for each member.
    pub looped: Option<Value>,
    /// Its variables.
    pub vars: Map<String, Value>,
    /// The name of its result.
    pub register: Option<String>,
    /// Whether it succeeded.
    pub success: Option<String>,
    /// Whether it changed something.
    pub changed: Option<String>,
    /// How it is repeated.
    pub until: Option<Until>,
    /// Whether the book goes on after its failure.
    pub go_on: bool,
    /// How long it may take.
    pub timeout: Duration,
    /// The ids of tasks that must be done first.
    pub requires: Vec<String>,
    /// The ids of handlers that it notifies.
    pub notify: Vec<String>,
    /// What is done about drift; None: as the Config says.
    pub drift: Option<Drift>,
    /// Whether it waits for every node.
    pub sync: bool,
    /// Whether it runs the notified handlers.
    pub flush_handlers: bool,
    /// How many nodes may be in it.
    pub serialize: Option<pb::Serialize>,
    /// Which nodes run it.
    pub elect: Option<pb::Elect>,
    /// The include, or the book itself, that it belongs to.
    pub within: Arc<Within>,
    /// Where it was written.
    pub place: Place,
}

/// The handler that restarts the service of a task under `autoNotify`.
pub fn auto_handler(task: &str) -> String {
    format!("restart {task} (autoNotify)")
}

/// The module that a task uses.
#[derive(Debug, Clone)]
pub struct ModuleUse {
    /// The task's key, such as `file`.
    pub name: &'static str,
    /// The message of its parameters.
    pub message: &'static Message,
    /// The parameters as written.
    pub params: Value,
}

/// A condition and where it was written.
#[derive(Debug, Clone)]
pub struct Condition {
    /// The expression.
    pub expression: String,
    /// The include, or the book itself.
    pub within: Arc<Within>,
}

/// How a task is repeated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Until {
    /// What must hold.
    pub condition: String,
    /// The pause between attempts.
    pub interval: Duration,
    /// How many attempts.
    pub limit: u64,
}

/// What is done about a change that nobody asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Drift {
    /// It is put right.
    #[default]
    Correct,
    /// It is told.
    Report,
    /// Nothing.
    Ignore,
}

impl Drift {
    /// The word as written, which the schema has checked.
    pub fn read(word: &str) -> Self {
        match word {
            "report" => Self::Report,
            "ignore" => Self::Ignore,
            _ => Self::Correct,
        }
    }
}

/// What tasks belong to: the book itself, or one include.
#[derive(Debug, Default)]
pub struct Within {
    /// The source whose files templates and scripts are read from.
    pub source: String,
    /// Their folder in it.
    pub folder: String,
    /// What stands before the names of its tasks, results and handlers: empty, or `NAME/`.
    pub prefix: String,
    /// The include's variables.
    pub vars: Map<String, Value>,
    /// The include or book around it.
    pub outer: Option<Arc<Within>>,
}

/// A string that the schema has checked to be there.
pub(super) fn text(value: &Value, key: &str) -> Option<String> {
    match value.get(key)? {
        Value::String(text) => Some(text.clone()),
        Value::Bool(bool) => Some(bool.to_string()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

pub(super) fn flag(value: &Value, key: &str) -> bool {
    value.get(key).and_then(Value::as_bool).unwrap_or(false)
}

/// The members of a list, where there is one.
pub(super) fn members<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value.get(key).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

pub(super) fn list(value: &Value, key: &str) -> Vec<Value> {
    value.get(key).and_then(Value::as_array).cloned().unwrap_or_default()
}

pub(super) fn map(value: &Value, key: &str) -> Map<String, Value> {
    value.get(key).and_then(Value::as_object).cloned().unwrap_or_default()
}

pub(super) fn message<T: serde::de::DeserializeOwned>(value: &Value, key: &str) -> Option<T> {
    let value = value.get(key).filter(|value| !value.is_null())?;
    let mut value = value.clone();
    numbers_to_counts(&mut value);
    serde_json::from_value(value).ok()
}

/// A count may be written as a number; its message holds a string.
fn numbers_to_counts(value: &mut Value) {
    if let Some(count) = value.get_mut("count").filter(|count| count.is_number()) {
        *count = Value::String(count.to_string());
    }
}

/// A duration that the schema has checked; the default where it is left out.
pub(super) fn time(value: &Value, key: &str, otherwise: Duration) -> Duration {
    text(value, key).and_then(|text| duration(&text).ok()).unwrap_or(otherwise)
}
