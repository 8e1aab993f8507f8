//! All objects of all sources, parsed and cross-checked.

mod analysis;
mod book;
mod budget;
mod definition;
mod held;
mod limits;
#[cfg(test)]
mod linear_tests;
mod load;
mod notify;
pub(crate) mod order;
mod reactions;
mod references;
mod report;
mod repository_url;
mod segment;
pub mod task;
#[cfg(test)]
mod tests;
mod untrusted;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde_json::Value;
use towpath_proto::{Message, v1alpha as pb};

pub use analysis::FACTS;
pub use budget::{Budget, Cost};
pub use definition::{book_digest, task_digest};
pub use held::{Held, HeldKey, load_holding, newly_held};
pub use limits::Targets;
pub use load::{Loaded, Pinned, SourceTree, load};
pub use reactions::Reaction;
pub(crate) use references::{dependencies, level};
pub use segment::{Segment, SegmentKind, segments};
pub use untrusted::{UntrustedUse, untrusted_uses};

use crate::{document::Place, tree::Tree, words::Selector, work};
use task::Book;

/// The identity of an object: kind, namespace and name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// The kind.
    pub kind: &'static str,
    /// The namespace. Empty for global kinds.
    pub namespace: String,
    /// The name.
    pub name: String,
}

impl Key {
    /// Reads the identity of an object. `None` if its metadata have no name.
    fn read(kind: &Message, metadata: &Value) -> Option<Self> {
        let text = |field: &str| metadata.get(field).and_then(Value::as_str);
        let namespace = if kind.scope == Some("namespaced") { text("namespace").unwrap_or_default() } else { "" };
        Some(Self { kind: kind.name, namespace: namespace.to_owned(), name: text("name")?.to_owned() })
    }
}

/// An object as written.
#[derive(Debug, Clone)]
pub struct Object {
    /// The identity.
    pub key: Key,
    /// The labels.
    pub labels: BTreeMap<String, String>,
    /// The spec, checked against the schema.
    pub spec: Arc<Value>,
    /// The location.
    pub place: Place,
}

/// A group of nodes, with its parsed selector.
#[derive(Debug, Clone)]
pub struct Group {
    /// The selector of labels.
    pub selector: Option<Selector>,
    /// Members by name.
    pub nodes: BTreeSet<String>,
}

/// A Variables or ClusterVariables object.
#[derive(Debug, Clone)]
pub struct VariablesObject {
    /// The identity.
    pub key: Key,
    /// The nodes that get the values.
    pub targets: Targets,
    /// The priority. The higher one wins.
    pub priority: i64,
    /// The values.
    pub values: serde_json::Map<String, Value>,
    /// Values of single nodes.
    pub by_node: serde_json::Map<String, Value>,
    /// Values that are computed.
    pub computed: Vec<ComputedValue>,
    /// The location.
    pub place: Place,
}

/// A value that is computed on the node.
#[derive(Debug, Clone)]
pub struct ComputedValue {
    /// The name of the variable.
    pub name: String,
    /// An expression over other variables and facts.
    pub expression: Option<String>,
    /// A task whose result is used.
    pub task: Option<Box<task::Task>>,
    /// An expression over the task's result.
    pub value: String,
    /// The time for which the value is cached.
    pub refresh: std::time::Duration,
    /// The location.
    pub place: Place,
}

/// All objects of all sources, cross-checked.
#[derive(Debug, Default)]
pub struct ObjectSet {
    /// Every object.
    pub objects: BTreeMap<Key, Object>,
    /// The TaskBooks by `namespace/name`.
    pub books: BTreeMap<String, Arc<Book>>,
    /// The NodeGroups.
    pub groups: BTreeMap<String, Group>,
    /// The nodes that git names, with their labels.
    pub nodes: BTreeMap<String, NodeObject>,
    /// The Namespaces.
    pub namespaces: BTreeMap<String, pb::Namespace>,
    /// The Configs.
    pub configs: BTreeMap<String, pb::Config>,
    /// The CronJobs, Triggers and Beacons.
    pub reactions: BTreeMap<Key, Reaction>,
    /// The nodes that may read each Secret.
    pub readers: BTreeMap<Key, Targets>,
    /// ClusterVariables and Variables.
    pub variables: Vec<VariablesObject>,
    /// The ClusterVariables that each namespace sees.
    pub bindings: BTreeMap<String, BTreeSet<String>>,
    /// The groups of each node that git names.
    pub memberships: BTreeMap<String, Arc<BTreeSet<String>>>,
    /// The nodes of each group, in order.
    pub members: BTreeMap<String, Vec<String>>,
    /// Held objects: they do not load, and do not prevent the rest from loading.
    pub held: BTreeMap<HeldKey, Held>,
    /// The tree of each source and each pinned include.
    pub trees: BTreeMap<String, Arc<dyn Tree>>,
}

/// A node that git names.
#[derive(Debug, Clone, Default)]
pub struct NodeObject {
    /// The labels.
    pub labels: BTreeMap<String, String>,
    /// The address.
    pub address: Option<String>,
    /// The public keys of the node. If empty, the keys that it first showed are trusted.
    pub public_keys: Vec<String>,
}

impl ObjectSet {
    /// Returns the groups of a node.
    pub fn groups_of(&self, node: &str) -> Arc<BTreeSet<String>> {
        self.memberships.get(node).cloned().unwrap_or_default()
    }

    /// Finds the groups of each node, and the nodes of each group.
    fn find_members(&mut self) {
        let mut groups_of: BTreeMap<&str, BTreeSet<String>> =
            self.nodes.keys().map(|node| (node.as_str(), BTreeSet::new())).collect();
        let labelled = Labelled::new(&self.nodes);
        for (name, group) in &self.groups {
            let selected = group.selector.iter().flat_map(|selector| labelled.select(selector));
            for node in group.nodes.iter().map(String::as_str).chain(selected) {
                work::count(1);
                groups_of.entry(node).or_default().insert(name.clone());
            }
        }
        let mut members: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (node, groups) in &groups_of {
            for group in groups {
                members.entry(group.clone()).or_default().push((*node).to_owned());
            }
        }
        let memberships = groups_of.into_iter().map(|(node, groups)| (node.to_owned(), Arc::new(groups))).collect();
        (self.memberships, self.members) = (memberships, members);
    }

    /// Returns the nodes that a book targets. Empty for a book without targets.
    pub fn targets_of(&self, book: &Book) -> Vec<String> {
        let Some(targets) = &book.targets else { return Vec::new() };
        let nodes: BTreeSet<&String> = self.members_of(targets.groups()).chain(targets.nodes()).collect();
        let selected = |node: &&String| targets.select(node, &self.groups_of(node)).is_some();
        nodes.into_iter().filter(selected).cloned().collect()
    }

    /// Returns the nodes of some groups. A node of several groups is returned several times.
    fn members_of<'a>(&'a self, groups: &'a [String]) -> impl Iterator<Item = &'a String> {
        let members = groups.iter().filter_map(|group| self.members.get(group)).flatten();
        members.inspect(|_| work::count(1))
    }

    /// Returns all nodes that any object names.
    pub fn all_nodes(&self) -> BTreeSet<String> {
        self.memberships.keys().cloned().collect()
    }

    /// Returns the variables that a namespace sees: the ClusterVariables that are bound to it, then its Variables, each
    /// by name.
    pub(crate) fn variables_of<'a>(&'a self, namespace: &'a str) -> impl Iterator<Item = &'a VariablesObject> {
        let bound = self.bindings.get(namespace).into_iter().flatten();
        let bound = bound.filter_map(|name| {
            self.variables_from("ClusterVariables", "", name).first().filter(|object| object.key.name == *name)
        });
        let own = self.variables_from("Variables", namespace, "").iter();
        let own = own.take_while(move |object| object.key.namespace == namespace);
        bound.filter(|object| object.key.kind == "ClusterVariables").chain(own).inspect(|_| work::count(1))
    }

    /// Returns the variables from a key on, in the order of their keys.
    fn variables_from(&self, kind: &str, namespace: &str, name: &str) -> &[VariablesObject] {
        let before = |object: &VariablesObject| {
            let key = &object.key;
            (key.kind, key.namespace.as_str(), key.name.as_str()) < (kind, namespace, name)
        };
        &self.variables[self.variables.partition_point(before)..]
    }
}

/// An index of nodes by their labels.
struct Labelled<'a> {
    nodes: &'a BTreeMap<String, NodeObject>,
    by_label: BTreeMap<(&'a str, &'a str), Vec<&'a str>>,
}

impl<'a> Labelled<'a> {
    fn new(nodes: &'a BTreeMap<String, NodeObject>) -> Self {
        let mut by_label: BTreeMap<(&str, &str), Vec<&str>> = BTreeMap::new();
        for (name, node) in nodes {
            for (key, value) in &node.labels {
                by_label.entry((key, value)).or_default().push(name);
            }
        }
        Self { nodes, by_label }
    }

    /// Returns the nodes that a selector matches. Only nodes with the rarest required label are compared.
    fn select(&self, selector: &Selector) -> Vec<&'a str> {
        let with = |(key, values): (&str, &[String])| -> Vec<&'a str> {
            let lists = values.iter().filter_map(|value| self.by_label.get(&(key, value.as_str())));
            lists.flatten().copied().collect()
        };
        let candidates = selector.labels().map(with).min_by_key(Vec::len);
        let mut nodes = candidates.unwrap_or_else(|| self.nodes.keys().map(String::as_str).collect());
        work::count(nodes.len());
        nodes.retain(|node| self.nodes.get(*node).is_some_and(|node| selector.matches(&node.labels)));
        nodes
    }
}

/// The way in which targets select a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Selected {
    /// By a group, or as one of all nodes.
    Group,
    /// By name.
    Node,
}
