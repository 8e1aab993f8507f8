//! Finds the variables of a node that objects in git set. If several objects set a variable, the value with the highest
//! precedence applies.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use serde_json::{Map, Value};

use super::{
    object::Key,
    targets::{Selected, Targets},
    task::Task,
};
use crate::{document::Place, work};

/// A Variables or ClusterVariables object.
#[derive(Debug, Clone)]
pub struct VariablesObject {
    /// The identity of the object.
    pub key: Key,
    /// The nodes for which the object sets variables.
    pub targets: Targets,
    /// The priority of the object. If objects of the same level set the same variable, the value of the highest
    /// priority applies.
    pub priority: i64,
    /// The values of the variables; each key of the map is the name of a variable.
    pub values: Map<String, Value>,
    /// The variables for single nodes; each key of the map is the name of a node.
    pub by_node: Map<String, Value>,
    /// The variables whose values each node computes.
    pub computed: Vec<ComputedValue>,
    /// The location of the object's spec.
    pub place: Place,
}

impl VariablesObject {
    /// Returns the precedence level of the object's values on a node.
    fn level(&self, selected: Selected) -> Level {
        match (self.key.kind, selected) {
            ("ClusterVariables", Selected::Group) => Level::ClusterGroup,
            ("ClusterVariables", Selected::Node) => Level::ClusterNode,
            (_, Selected::Group) => Level::Group,
            (_, Selected::Node) => Level::Node,
        }
    }
}

/// A variable whose value each node computes, from an expression or from the result of a task.
#[derive(Debug, Clone)]
pub struct ComputedValue {
    /// The name of the variable.
    pub name: String,
    /// The expression that computes the value; `None` if a task computes the value.
    pub expression: Option<String>,
    /// The task whose result contains the value; `None` if an expression computes the value.
    pub task: Option<Box<Task>>,
    /// The expression that computes the value from the result of the task.
    pub value: String,
    /// The time after which the task runs again to compute a new value.
    pub refresh: Duration,
    /// The location of the computed variable.
    pub place: Place,
}

/// The precedence level of a variable's value. The variants are in the order of increasing precedence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// The value is from ClusterVariables for all nodes or for NodeGroups.
    ClusterGroup,
    /// The value is from ClusterVariables for this node.
    ClusterNode,
    /// The value is from Variables for all nodes or for NodeGroups.
    Group,
    /// The value is from Variables for this node.
    Node,
    /// The value is from the field `vars` of a TaskBook.
    TaskBook,
}

impl Level {
    /// Returns the name of the precedence level that `towpath vars --explain` prints.
    pub fn name(self) -> &'static str {
        match self {
            Self::ClusterGroup => "ClusterVariables (group)",
            Self::ClusterNode => "ClusterVariables (node)",
            Self::Group => "Variables (group)",
            Self::Node => "Variables (node)",
            Self::TaskBook => "TaskBook",
        }
    }
}

/// A value that an object sets for a variable. If several objects set the variable, the value with the highest
/// precedence applies.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// The level of the value.
    pub level: Level,
    /// The priority of the object that sets the value.
    pub priority: i64,
    /// The object that sets the value, as `Kind namespace/name`.
    pub object: String,
    /// The value as written, or the definition of a computed value.
    pub value: Winner,
    /// The location of the value.
    pub place: Place,
}

/// The value of a variable as written, or the definition of a computed value.
#[derive(Debug, Clone)]
pub enum Winner {
    /// A value as written in an object.
    Static(Value),
    /// A value that is computed on the node.
    Computed(Box<ComputedValue>),
}

/// The values that objects set for each variable, highest precedence first. The first value applies.
pub type Merged = BTreeMap<String, Vec<Candidate>>;

/// Two objects that set the same variable with the same level and priority.
#[derive(Debug)]
pub(crate) struct Conflict {
    pub(crate) name: String,
    pub(crate) first: Place,
    pub(crate) second: Place,
}

/// Returns the variables that the given objects set for a node.
pub(crate) fn merge<'a>(
    objects: impl IntoIterator<Item = &'a VariablesObject>,
    node: &str,
    groups: &BTreeSet<String>,
) -> Merged {
    let mut merged: Merged = BTreeMap::new();
    for object in objects {
        work::count(1);
        let shown = if object.key.kind == "ClusterVariables" {
            format!("ClusterVariables {}", object.key.name)
        } else {
            format!("Variables {}/{}", object.key.namespace, object.key.name)
        };
        let mut add = |name: &str, selected: Selected, value: Winner, place: Place| {
            let candidate = Candidate {
                level: object.level(selected),
                priority: object.priority,
                object: shown.clone(),
                value,
                place,
            };
            merged.entry(name.to_owned()).or_default().push(candidate);
        };
        if let Some(selected) = object.targets.select(node, groups) {
            for (name, value) in &object.values {
                add(name, selected, Winner::Static(value.clone()), object.place.key("values").key(name));
            }
            for computed in &object.computed {
                add(&computed.name, selected, Winner::Computed(Box::new(computed.clone())), computed.place.clone());
            }
        }
        for (name, value) in object.by_node.get(node).and_then(Value::as_object).into_iter().flatten() {
            add(
                name,
                Selected::Node,
                Winner::Static(value.clone()),
                object.place.key("valuesByNode").key(node).key(name),
            );
        }
    }
    for candidates in merged.values_mut() {
        candidates.sort_by_key(|candidate| std::cmp::Reverse((candidate.level, candidate.priority)));
    }
    merged
}

/// Returns the objects that share a variable with another object. Only objects that share a variable can be in a
/// conflict.
pub(crate) fn contested<'a>(objects: impl Iterator<Item = &'a VariablesObject>) -> Vec<&'a VariablesObject> {
    let mut first: BTreeMap<&str, usize> = BTreeMap::new();
    let objects: Vec<&VariablesObject> = objects.collect();
    let mut contested = BTreeSet::new();
    for (at, object) in objects.iter().enumerate() {
        let by_node: BTreeSet<&String> =
            object.by_node.values().filter_map(Value::as_object).flat_map(|values| values.keys()).collect();
        let computed = object.computed.iter().map(|computed| &computed.name);
        for name in object.values.keys().chain(computed).chain(by_node) {
            if let Some(other) = first.get(name.as_str()) {
                contested.extend([*other, at]);
            } else {
                first.insert(name, at);
            }
        }
    }
    contested.into_iter().map(|at| objects[at]).collect()
}

/// Returns a conflict for each variable that two objects set with the same, highest level and priority.
pub(crate) fn conflicts(objects: &[&VariablesObject], node: &str, groups: &BTreeSet<String>) -> Vec<Conflict> {
    let merged = merge(objects.iter().copied(), node, groups);
    let tied = merged.into_iter().filter_map(|(name, candidates)| match candidates.as_slice() {
        [first, second, ..] if (first.level, first.priority) == (second.level, second.priority) => {
            Some(Conflict { name, first: first.place.clone(), second: second.place.clone() })
        }
        _ => None,
    });
    tied.collect()
}
