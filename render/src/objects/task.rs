//! Resolved TaskBooks and tasks: includes are expanded, scalars are parsed, and names are unique.

use std::{sync::Arc, time::Duration};

use serde_json::{Map, Value};
use towpath_proto::{ModuleSchema, v1alpha as pb};

use super::Targets;
use crate::{
    document::{Place, typed},
    words::{Count, duration},
};

/// A TaskBook.
#[derive(Debug, Clone)]
pub struct Book {
    /// The namespace.
    pub namespace: String,
    /// The name.
    pub name: String,
    /// The targeted nodes. `None` if only CronJobs and Triggers run the book.
    pub targets: Option<Targets>,
    /// The books that it depends on.
    pub depends_on: Vec<Dependency>,
    /// The rollout settings.
    pub rollout: Rollout,
    /// True if tasks run concurrently, within their requirements.
    pub parallel: bool,
    /// True if items that the book no longer mentions are removed.
    pub prune: bool,
    /// Maximum number of removals in one pass: a count, or a percentage of the managed items.
    pub prune_budget: Option<String>,
    /// The variables.
    pub vars: Map<String, Value>,
    /// The tasks, includes expanded.
    pub tasks: Vec<Task>,
    /// The handlers, in order.
    pub handlers: Vec<Task>,
    /// The suspension, if any.
    pub suspend: Option<pb::Suspend>,
    /// The location.
    pub place: Place,
}

impl Book {
    /// Returns `namespace/name`.
    pub fn id(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// Returns whether the book needs coordination with other nodes.
    pub fn coordinated(&self) -> bool {
        let tasks = || self.tasks.iter().chain(&self.handlers);
        self.rollout.serialize.is_some()
            || !self.rollout.waves.is_empty()
            || self.depends_on.iter().any(|dependency| dependency.fleet)
            || tasks().any(|task| task.sync || task.elect.is_some() || task.serialize.is_some())
    }
}

/// A dependency on another book.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dependency {
    /// The name of the other book, in the same namespace.
    pub book: String,
    /// True if its whole run must be complete on all nodes.
    pub fleet: bool,
}

/// The rollout settings of a book.
#[derive(Debug, Clone, Default)]
pub struct Rollout {
    /// The budget of nodes that change at the same time.
    pub serialize: Option<pb::Serialize>,
    /// The waves, cumulative.
    pub waves: Vec<Value>,
    /// The soak time of a wave.
    pub soak: Duration,
    /// Maximum number of failures that do not halt the run.
    pub max_failures: Option<Count>,
    /// True if failures count only after all targets have run.
    pub after_all: bool,
    /// The reaction to a lost node: hold, skip or fail.
    pub on_lost: String,
    /// Tasks before the first change.
    pub before: Vec<Task>,
    /// Tasks after the last handler.
    pub after: Vec<Task>,
}

/// A task.
#[derive(Debug, Clone)]
pub struct Task {
    /// The id `[include/]name`, unique in its list.
    pub id: String,
    /// The module. `None` for a task with only sync or flushHandlers.
    pub module: Option<ModuleUse>,
    /// Expressions that must all hold, each with the include that it was written in.
    pub when: Vec<Condition>,
    /// The loop: the task runs once for each member.
    pub looped: Option<Value>,
    /// The variables.
    pub vars: Map<String, Value>,
    /// The name of the registered result.
    pub register: Option<String>,
    /// Expression for success.
    pub success: Option<String>,
    /// Expression for a change.
    pub changed: Option<String>,
    /// The repetition.
    pub until: Option<Until>,
    /// True if the book continues after a failure of the task.
    pub go_on: bool,
    /// The time limit.
    pub timeout: Duration,
    /// The ids of required tasks.
    pub requires: Vec<String>,
    /// The ids of notified handlers.
    pub notify: Vec<String>,
    /// The drift policy. `None` for the policy of the Config.
    pub drift: Option<Drift>,
    /// True if the task waits for all nodes.
    pub sync: bool,
    /// True if it runs the notified handlers.
    pub flush_handlers: bool,
    /// The budget of nodes that run the task at the same time.
    pub serialize: Option<pb::Serialize>,
    /// The election of the nodes that run it.
    pub elect: Option<pb::Elect>,
    /// The include or the book that contains it.
    pub within: Arc<Within>,
    /// The location.
    pub place: Place,
}

/// Returns the id of the handler that restarts the service of a task under `autoNotify`.
pub fn auto_handler(task: &str) -> String {
    format!("restart {task} (autoNotify)")
}

/// The module that a task uses.
#[derive(Debug, Clone)]
pub struct ModuleUse {
    /// The key in the task, such as `file`.
    pub name: &'static str,
    /// The module's schema.
    pub schema: &'static ModuleSchema,
    /// The parameters as written.
    pub params: Value,
}

/// A condition, with the include that it was written in.
#[derive(Debug, Clone)]
pub struct Condition {
    /// The expression.
    pub expression: String,
    /// The include, or the book itself.
    pub within: Arc<Within>,
}

/// The repetition of a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Until {
    /// The condition that ends it.
    pub condition: String,
    /// The pause between attempts.
    pub interval: Duration,
    /// Maximum number of attempts.
    pub limit: u64,
}

/// The reaction to drift.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Drift {
    /// Correct it.
    #[default]
    Correct,
    /// Report it.
    Report,
    /// Ignore it.
    Ignore,
}

impl Drift {
    /// Reads a word that the schema has checked.
    pub fn read(word: &str) -> Self {
        match word {
            "report" => Self::Report,
            "ignore" => Self::Ignore,
            _ => Self::Correct,
        }
    }
}

/// The container of tasks: the book itself, or one include.
#[derive(Debug, Default)]
pub struct Within {
    /// The source of templates and scripts.
    pub source: String,
    /// The folder in the source.
    pub folder: String,
    /// The prefix of the names of its tasks, results and handlers: empty, or `NAME/`.
    pub prefix: String,
    /// The variables of the include.
    pub vars: Map<String, Value>,
    /// The include or the book that contains it.
    pub outer: Option<Arc<Within>>,
}

/// Returns the scalar of a key as a string. `None` if it is missing or not a scalar.
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

/// Returns the members of a list. Empty if there is none.
pub(super) fn members<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value.get(key).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

pub(super) fn list(value: &Value, key: &str) -> Vec<Value> {
    value.get(key).and_then(Value::as_array).cloned().unwrap_or_default()
}

pub(super) fn map(value: &Value, key: &str) -> Map<String, Value> {
    value.get(key).and_then(Value::as_object).cloned().unwrap_or_default()
}

/// Returns the message of a key. `None` if it is missing.
pub(super) fn message<T: serde::de::DeserializeOwned>(value: &Value, key: &str, name: &'static str) -> Option<T> {
    let value = value.get(key).filter(|value| !value.is_null())?;
    typed(name, value).ok()
}

/// Returns a duration that the schema has checked, or `otherwise` if it is omitted.
pub(super) fn time(value: &Value, key: &str, otherwise: Duration) -> Duration {
    text(value, key).and_then(|text| duration(&text).ok()).unwrap_or(otherwise)
}
