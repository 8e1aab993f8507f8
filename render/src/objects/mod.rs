//! All objects of all sources, parsed and checked against one another.

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
    /// The kind of the object, such as `TaskBook`.
    pub kind: &'static str,
    /// The namespace of the object. Empty for global kinds.
    pub namespace: String,
    /// The name of the object.
    pub name: String,
}

impl Key {
    /// Reads the identity of an object from its metadata. `None` if the metadata contain no name.
    fn read(kind: &Message, metadata: &Value) -> Option<Self> {
        let text = |field: &str| metadata.get(field).and_then(Value::as_str);
        let namespace = if kind.scope == Some("namespaced") { text("namespace").unwrap_or_default() } else { "" };
        Some(Self { kind: kind.name, namespace: namespace.to_owned(), name: text("name")?.to_owned() })
    }
}

/// An object as written in a source.
#[derive(Debug, Clone)]
pub struct Object {
    /// The identity of the object.
    pub key: Key,
    /// The labels of the object.
    pub labels: BTreeMap<String, String>,
    /// The spec of the object, checked against the schema.
    pub spec: Arc<Value>,
    /// The location of the object in its source.
    pub place: Place,
}

/// A NodeGroup, with its parsed selector.
#[derive(Debug, Clone)]
pub struct Group {
    /// The selector for the labels of nodes. `None` if the group only names nodes.
    pub selector: Option<Selector>,
    /// The names of nodes that the group lists.
    pub nodes: BTreeSet<String>,
}

/// A Variables or ClusterVariables object.
#[derive(Debug, Clone)]
pub struct VariablesObject {
    /// The identity of the object.
    pub key: Key,
    /// The nodes that get the variables.
    pub targets: Targets,
    /// The priority among objects that set the same variable. The highest priority wins.
    pub priority: i64,
    /// The values of the variables, by name.
    pub values: serde_json::Map<String, Value>,
    /// The variables for single nodes, by the name of the node.
    pub by_node: serde_json::Map<String, Value>,
    /// The variables that are computed on the node.
    pub computed: Vec<ComputedValue>,
    /// The location of the object's spec.
    pub place: Place,
}

/// A variable that is computed on the node, from an expression or from the result of a task.
#[derive(Debug, Clone)]
pub struct ComputedValue {
    /// The name of the variable.
    pub name: String,
    /// The expression that gives the value. `None` if a task gives it.
    pub expression: Option<String>,
    /// The task whose result gives the value. `None` if an expression gives it.
    pub task: Option<Box<task::Task>>,
    /// The expression over the task's result that gives the value.
    pub value: String,
    /// The time for which the value is kept before the task runs again.
    pub refresh: std::time::Duration,
    /// The location of the computed variable.
    pub place: Place,
}

/// All objects of all sources, checked against one another.
#[derive(Debug, Default)]
pub struct ObjectSet {
    /// All objects, by identity.
    pub objects: BTreeMap<Key, Object>,
    /// The TaskBooks, by `namespace/name`.
    pub books: BTreeMap<String, Arc<Book>>,
    /// The NodeGroups, by name.
    pub groups: BTreeMap<String, Group>,
    /// The nodes that git names, with their labels.
    pub nodes: BTreeMap<String, NodeObject>,
    /// The Namespaces, by name.
    pub namespaces: BTreeMap<String, pb::Namespace>,
    /// The Configs, by name.
    pub configs: BTreeMap<String, pb::Config>,
    /// The CronJobs, Triggers and Beacons, by identity.
    pub reactions: BTreeMap<Key, Reaction>,
    /// The nodes that may read each Secret.
    pub readers: BTreeMap<Key, Targets>,
    /// The ClusterVariables and Variables, sorted by identity.
    pub variables: Vec<VariablesObject>,
    /// The names of the ClusterVariables that each namespace sees.
    pub bindings: BTreeMap<String, BTreeSet<String>>,
    /// The NodeGroups of each node that git names.
    pub memberships: BTreeMap<String, Arc<BTreeSet<String>>>,
    /// The nodes of each NodeGroup, sorted by name.
    pub members: BTreeMap<String, Vec<String>>,
    /// The held objects: invalid objects that are excluded, so that other objects can load.
    pub held: BTreeMap<HeldKey, Held>,
    /// The files of each source and of each pinned repository.
    pub trees: BTreeMap<String, Arc<dyn Tree>>,
}

/// A node that git names.
#[derive(Debug, Clone, Default)]
pub struct NodeObject {
    /// The labels of the node.
    pub labels: BTreeMap<String, String>,
    /// The address at which other nodes connect to the node.
    pub address: Option<String>,
    /// The public keys of the node. If empty, the first keys that the node shows are trusted.
    pub public_keys: Vec<String>,
}

impl ObjectSet {
    /// Returns the NodeGroups of a node.
    pub fn groups_of(&self, node: &str) -> Arc<BTreeSet<String>> {
        self.memberships.get(node).cloned().unwrap_or_default()
    }

    /// Computes the NodeGroups of each node, and the nodes of each NodeGroup.
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

    /// Returns the nodes that a TaskBook targets. Empty for a TaskBook without targets.
    pub fn targets_of(&self, book: &Book) -> Vec<String> {
        let Some(targets) = &book.targets else { return Vec::new() };
        let nodes: BTreeSet<&String> = self.members_of(targets.groups()).chain(targets.nodes()).collect();
        let selected = |node: &&String| targets.select(node, &self.groups_of(node)).is_some();
        nodes.into_iter().filter(selected).cloned().collect()
    }

    /// Returns the nodes of several NodeGroups. A node in two of the groups is returned twice.
    fn members_of<'a>(&'a self, groups: &'a [String]) -> impl Iterator<Item = &'a String> {
        let members = groups.iter().filter_map(|group| self.members.get(group)).flatten();
        members.inspect(|_| work::count(1))
    }

    /// Returns the names of all nodes that any object names.
    pub fn all_nodes(&self) -> BTreeSet<String> {
        self.memberships.keys().cloned().collect()
    }

    /// Returns the variables objects that a namespace sees: first the ClusterVariables that are bound to it, then its
    /// Variables. ClusterVariables and Variables are sorted by name.
    pub(crate) fn variables_of<'a>(&'a self, namespace: &'a str) -> impl Iterator<Item = &'a VariablesObject> {
        let bound = self.bindings.get(namespace).into_iter().flatten();
        let bound = bound.filter_map(|name| {
            self.variables_from("ClusterVariables", "", name).first().filter(|object| object.key.name == *name)
        });
        let own = self.variables_from("Variables", namespace, "").iter();
        let own = own.take_while(move |object| object.key.namespace == namespace);
        bound.filter(|object| object.key.kind == "ClusterVariables").chain(own).inspect(|_| work::count(1))
    }

    /// Returns the variables objects in the order of their identities, beginning with the given one.
    fn variables_from(&self, kind: &str, namespace: &str, name: &str) -> &[VariablesObject] {
        let before = |object: &VariablesObject| {
            let key = &object.key;
            (key.kind, key.namespace.as_str(), key.name.as_str()) < (kind, namespace, name)
        };
        &self.variables[self.variables.partition_point(before)..]
    }
}

/// An index of the nodes by their labels.
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

    /// Returns the nodes that a selector matches. To save work, only the nodes with the rarest required label are
    /// compared.
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
    /// The targets name a NodeGroup of the node, or select all nodes.
    Group,
    /// The targets name the node.
    Node,
}
