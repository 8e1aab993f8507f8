//! A task and its item: the name, and the facts that rendering has found.

use serde_json::Value;
use towpath_render::{objects::task::Task, rendering::Item};

use crate::names::Managed;

/// Maximum number of characters of an item in the name of a task.
const ITEM_CHARACTERS: usize = 80;

/// The kind of a module use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ModuleKind {
    /// A desired state. It is checked, and drift is corrected.
    State,
    /// A question to the node, which changes nothing.
    Probe,
    /// An action. It runs once for each definition.
    Action,
    /// An action with conditions of its own, which are checked like a state.
    ConditionalAction,
    /// An action that runs in every pass.
    UnconditionalAction,
    /// A reboot of the node.
    Reboot,
}

/// The key of changes that one transaction can carry out.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct BatchKey(pub String);

/// The facts about a rendered task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// The kind.
    pub kind: ModuleKind,
    /// True if a tool or daemon makes the change. It is not a write of files.
    pub applies_directly: bool,
    /// True if a change interrupts a service or its users.
    pub interrupts: bool,
    /// The managed items.
    pub managed: Vec<Managed>,
    /// The managed path.
    pub path: Option<String>,
    /// The key of the transaction that the change can join.
    pub batch: Option<BatchKey>,
}

/// Returns the name of a task with its item.
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

/// Returns the name of a task's module, for reports.
pub fn module(task: &Task) -> &'static str {
    task.module.as_ref().map_or("sync", |module| module.name)
}

#[cfg(test)]
mod tests;
