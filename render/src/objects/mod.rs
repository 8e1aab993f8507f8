//! All objects of all sources, parsed and cross-checked.

mod analysis;
mod book;
mod budget;
mod definition;
mod held;
mod limits;
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
use towpath_proto::v1alpha as pb;

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

use crate::{document::Place, tree::Tree, words::Selector};
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
        self.memberships.get(node).cloned().unwrap_or_else(|| Arc::new(self.find_groups(node)))
    }

    fn find_groups(&self, node: &str) -> BTreeSet<String> {
        let nothing = BTreeMap::new();
        let labels = self.nodes.get(node).map_or(&nothing, |node| &node.labels);
        let known = self.nodes.contains_key(node);
        let member = |group: &Group| {
            group.nodes.contains(node)
                || known && group.selector.as_ref().is_some_and(|selector| selector.matches(labels))
        };
        self.groups.iter().filter(|(_, group)| member(group)).map(|(name, _)| name.clone()).collect()
    }

    /// The nodes that a book is for; none for a book without targets.
    pub fn targets_of(&self, book: &Book) -> Vec<String> {
        let Some(targets) = &book.targets else { return Vec::new() };
        let mut nodes = if targets.groups().is_empty() { BTreeSet::new() } else { self.all_nodes() };
        nodes.extend(targets.nodes().iter().cloned());
        nodes.into_iter().filter(|node| targets.select(node, &self.groups_of(node)).is_some()).collect()
    }

    /// Every node that some object names.
    pub fn all_nodes(&self) -> BTreeSet<String> {
        let in_groups = self.groups.values().flat_map(|group| group.nodes.iter());
        self.nodes.keys().chain(in_groups).cloned().collect()
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
