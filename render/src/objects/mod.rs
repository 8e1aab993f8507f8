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
pub use references::identity;
pub(crate) use references::{dependencies, level};
pub use segment::{Segment, SegmentKind, segments};
pub use untrusted::{UntrustedUse, untrusted_uses};

use crate::{document::Place, tree::Tree, words::Selector, work};
use task::Book;

/// What an object is called: kind, namespace (empty for global kinds), name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// The kind.
    pub kind: &'static str,
    /// The namespace; empty for global kinds.
    pub namespace: String,
    /// The name.
    pub name: String,
}

impl Key {
    /// Reads what an object is called. `None` if its metadata have no name.
    fn read(kind: &Message, metadata: &Value) -> Option<Self> {
        let text = |field: &str| metadata.get(field).and_then(Value::as_str);
        let namespace = if kind.scope == Some("namespaced") { text("namespace").unwrap_or_default() } else { "" };
        Some(Self { kind: kind.name, namespace: namespace.to_owned(), name: text("name")?.to_owned() })
    }
}

/// One object as it was written.
#[derive(Debug, Clone)]
pub struct Object {
    /// What it is called.
    pub key: Key,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its spec, checked against the schema.
    pub spec: Arc<Value>,
    /// Where it was written.
    pub place: Place,
}

/// A group of nodes, with its selector read.
#[derive(Debug, Clone)]
pub struct Group {
    /// What labels must be like.
    pub selector: Option<Selector>,
    /// Members by name.
    pub nodes: BTreeSet<String>,
}

/// Variables of either kind.
#[derive(Debug, Clone)]
pub struct VariablesObject {
    /// What it is called.
    pub key: Key,
    /// The nodes that get the values.
    pub targets: Targets,
    /// The higher wins.
    pub priority: i64,
    /// The values.
    pub values: serde_json::Map<String, Value>,
    /// Values of single nodes.
    pub by_node: serde_json::Map<String, Value>,
    /// Values that are computed.
    pub computed: Vec<ComputedValue>,
    /// Where it was written.
    pub place: Place,
}

/// A value that is computed on the node.
#[derive(Debug, Clone)]
pub struct ComputedValue {
    /// The variable's name.
    pub name: String,
    /// An expression over other variables and facts.
    pub expression: Option<String>,
    /// A task whose result is read.
    pub task: Option<Box<task::Task>>,
    /// An expression over the task's result.
    pub value: String,
    /// How long the value is kept.
    pub refresh: std::time::Duration,
    /// Where it was written.
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
    /// The nodes that git knows, with their labels.
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
    /// Which ClusterVariables each namespace sees.
    pub bindings: BTreeMap<String, BTreeSet<String>>,
    /// The groups of each node that git knows.
    pub memberships: BTreeMap<String, Arc<BTreeSet<String>>>,
    /// The nodes of each group, in order.
    pub members: BTreeMap<String, Vec<String>>,
    /// Objects that do not fit, where that is no reason to refuse the rest.
    pub held: BTreeMap<HeldKey, Held>,
    /// The tree of each source and each pinned include.
    pub trees: BTreeMap<String, Arc<dyn Tree>>,
}

/// A node that git knows.
#[derive(Debug, Clone, Default)]
pub struct NodeObject {
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its address.
    pub address: Option<String>,
    /// The public keys of its identity; none: those that it came with.
    pub public_keys: Vec<String>,
}

impl ObjectSet {
    /// The groups that a node is in.
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

    /// The nodes that a book is for; none for a book without targets.
    pub fn targets_of(&self, book: &Book) -> Vec<String> {
        let Some(targets) = &book.targets else { return Vec::new() };
        let nodes: BTreeSet<&String> = self.members_of(targets.groups()).chain(targets.nodes()).collect();
        let selected = |node: &&String| targets.select(node, &self.groups_of(node)).is_some();
        nodes.into_iter().filter(selected).cloned().collect()
    }

    /// The nodes of some groups; a node of several of them comes several times.
    fn members_of<'a>(&'a self, groups: &'a [String]) -> impl Iterator<Item = &'a String> {
        let members = groups.iter().filter_map(|group| self.members.get(group)).flatten();
        members.inspect(|_| work::count(1))
    }

    /// Every node that some object names.
    pub fn all_nodes(&self) -> BTreeSet<String> {
        self.memberships.keys().cloned().collect()
    }

    /// The variables that a namespace sees: the ClusterVariables that are bound to it, then its Variables, each by name.
    pub(crate) fn variables_of<'a>(&'a self, namespace: &'a str) -> impl Iterator<Item = &'a VariablesObject> {
        let bound = self.bindings.get(namespace).into_iter().flatten();
        let bound = bound.filter_map(|name| {
            self.variables_from("ClusterVariables", "", name).first().filter(|object| object.key.name == *name)
        });
        let own = self.variables_from("Variables", namespace, "").iter();
        let own = own.take_while(move |object| object.key.namespace == namespace);
        bound.filter(|object| object.key.kind == "ClusterVariables").chain(own).inspect(|_| work::count(1))
    }

    /// The variables from a key on; they are in the order of their keys.
    fn variables_from(&self, kind: &str, namespace: &str, name: &str) -> &[VariablesObject] {
        let before = |object: &VariablesObject| {
            let key = &object.key;
            (key.kind, key.namespace.as_str(), key.name.as_str()) < (kind, namespace, name)
        };
        &self.variables[self.variables.partition_point(before)..]
    }
}

/// Nodes by their labels.
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

    /// The nodes that a selector matches. Only those with the rarest label that it asks for are compared.
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

/// How targets select a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Selected {
    /// Through a group, or as one of all.
    Group,
    /// By its name.
    Node,
}
