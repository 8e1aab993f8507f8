//! The set of all objects of all sources, after the checks of the objects against one another.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use towpath_proto::v1alpha as pb;

use super::{
    nodes::{Group, Members, NodeObject},
    object::{Key, Object},
    targets::Targets,
    task::{Book, Reaction},
    variables::VariablesObject,
};
use crate::{problem::Problem, tree::Tree, work};

/// The set of all objects of all sources, after the checks of the objects against one another.
#[derive(Debug, Default)]
pub struct ObjectSet {
    /// All objects, by identity.
    pub objects: BTreeMap<Key, Object>,
    /// The TaskBooks, by `namespace/name`.
    pub books: BTreeMap<String, Arc<Book>>,
    /// The NodeGroups, by name.
    pub groups: BTreeMap<String, Group>,
    /// The nodes that objects in git name, with the labels of the nodes.
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
    /// The names of the ClusterVariables that the objects of each namespace can use.
    pub bindings: BTreeMap<String, BTreeSet<String>>,
    /// The NodeGroups of each node, and the nodes of each NodeGroup.
    pub members: Members,
    /// The held objects: invalid objects that are excluded from the set, so that other objects can load.
    pub held: BTreeMap<HeldKey, Held>,
    /// The file trees of all sources, and of the repositories that tasks or includes name with a commit.
    pub trees: BTreeMap<String, Arc<dyn Tree>>,
}

/// The key of a held object: the name of its source, and the identity of the object. If the identity is `None`, the
/// whole source is held.
pub type HeldKey = (String, Option<Key>);

/// An object or a whole source that is held because it has errors.
#[derive(Debug, Clone)]
pub struct Held {
    /// The held object, as written in the source; `None` if the whole source is held.
    pub object: Option<Object>,
    /// The first problem that the loader has found in the held object or source.
    pub problem: Problem,
}

impl ObjectSet {
    /// Returns the NodeGroups of a node.
    pub fn groups_of(&self, node: &str) -> Arc<BTreeSet<String>> {
        self.members.groups_of(node)
    }

    /// Returns the nodes that a TaskBook targets; an empty list for a TaskBook without targets.
    pub fn targets_of(&self, book: &Book) -> Vec<String> {
        book.targets.as_ref().map(|targets| self.selected_by(targets)).unwrap_or_default()
    }

    /// Returns the nodes that may read a Secret, as git names them.
    pub fn readers_of(&self, secret: &Key) -> Vec<String> {
        // Without the field, targets select all nodes. A Secret without readers has none.
        let readers = self.readers.get(secret).filter(|readers| readers.is_written());
        readers.map(|readers| self.selected_by(readers)).unwrap_or_default()
    }

    fn selected_by(&self, targets: &Targets) -> Vec<String> {
        let nodes: BTreeSet<&String> = self.members.nodes_of(targets.groups()).chain(targets.nodes()).collect();
        let selected = |node: &&String| targets.select(node, &self.groups_of(node)).is_some();
        nodes.into_iter().filter(selected).cloned().collect()
    }

    /// Returns the names of all nodes that any object names.
    pub fn all_nodes(&self) -> BTreeSet<String> {
        self.members.names().cloned().collect()
    }

    /// Returns the objects that set variables for a namespace: first the bound ClusterVariables, then the Variables.
    /// ClusterVariables and Variables are each sorted by name.
    pub(crate) fn variables_of<'a>(&'a self, namespace: &'a str) -> impl Iterator<Item = &'a VariablesObject> {
        let bound = self.bindings.get(namespace).into_iter().flatten();
        let bound = bound.filter_map(|name| {
            self.variables_from("ClusterVariables", "", name).first().filter(|object| object.key.name == *name)
        });
        let own = self.variables_from("Variables", namespace, "").iter();
        let own = own.take_while(move |object| object.key.namespace == namespace);
        bound.filter(|object| object.key.kind == "ClusterVariables").chain(own).inspect(|_| work::count(1))
    }

    /// Returns the Variables and ClusterVariables objects in sorted order, beginning with the given identity.
    fn variables_from(&self, kind: &str, namespace: &str, name: &str) -> &[VariablesObject] {
        let before = |object: &VariablesObject| {
            let key = &object.key;
            (key.kind, key.namespace.as_str(), key.name.as_str()) < (kind, namespace, name)
        };
        &self.variables[self.variables.partition_point(before)..]
    }
}

/// Returns the objects that are held in this set, but not in an earlier set.
pub fn newly_held<'a>(set: &'a ObjectSet, before: &ObjectSet) -> Vec<&'a Held> {
    set.held.iter().filter(|(key, _)| !before.held.contains_key(key)).map(|(_, held)| held).collect()
}
