//! The name of a rendered task, and the properties that a run uses for its decisions.

use serde_json::Value;
use towpath_render::{objects::task::Task, rendering::Item};

use crate::names::Managed;

/// The maximum number of characters of a loop item in the name of a task.
const ITEM_CHARACTERS: usize = 80;

/// The kind of work that a task does with its module.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ModuleKind {
    /// A desired state. For a desired state, the agent checks the node and corrects drift.
    State,
    /// A probe, which reads the node and changes nothing.
    Probe,
    /// An action without conditions, which runs again only if its definition changes.
    Action,
    /// An action with conditions, for example with the condition `unless`. The agent checks the conditions on the node,
    /// and runs the action only if the conditions require a run.
    ConditionalAction,
    /// An action that runs in every pass (`run: always`).
    UnconditionalAction,
    /// A reboot of the node.
    Reboot,
}

/// The key of a transaction. Changes with equal `BatchKey` values can share a transaction.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct BatchKey(pub String);

/// The properties of a rendered task, as input for the decisions of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// The kind of work that the task does.
    pub kind: ModuleKind,
    /// True if a tool or daemon makes the change, false if the agent writes files.
    pub applies_directly: bool,
    /// True if a change interrupts a service or its users.
    pub interrupts: bool,
    /// The items that the task manages.
    pub managed: Vec<Managed>,
    /// The path that the task manages. `path` is `None` if the task manages several paths, or no path.
    pub path: Option<String>,
    /// The key of the transaction that the change can join. Changes with equal `batch` values can share a transaction.
    /// `batch` is `None` if the change cannot share a transaction.
    pub batch: Option<BatchKey>,
}

/// Returns the name of a task, followed by the loop item.
pub fn name(task: &Task, item: Option<&Item>) -> String {
    let Some(item) = item else { return task.id.clone() };
    let shown = match &item.value {
        Value::String(text) => text.clone(),
        Value::Object(map) => ["name", "key", "path"]
            .iter()
            .find_map(|key| map.get(*key)?.as_str())
            .map_or_else(|| item.value.to_string(), str::to_owned),
        other => other.to_string(),
    };
    let shown: String = shown.chars().take(ITEM_CHARACTERS).collect();
    format!("{} [{shown}]", task.id)
}

/// Returns the module name that reports show for a task. A task without a module is a `sync` task.
pub fn module(task: &Task) -> &'static str {
    task.module.as_ref().map_or("sync", |module| module.name)
}

#[cfg(test)]
mod tests;
