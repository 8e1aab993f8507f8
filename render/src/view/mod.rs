//! The objects of one node: its NodeGroups, its TaskBooks in order, and its variables.

mod prune_budget;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde_json::{Value, json};

pub use prune_budget::{PruneBudget, PruneScope};

pub use crate::objects::variables::{Candidate, Level, Merged, Winner};
use crate::{
    objects::{ObjectSet, task::Book, variables},
    order,
};

/// The NodeGroups, TaskBooks and variables of one node.
#[derive(Debug, Clone)]
pub struct NodeView {
    /// The name of the node.
    pub node: String,
    /// True if git names the node.
    pub known: bool,
    /// The labels of the node, from git.
    pub labels: BTreeMap<String, String>,
    /// The address of the node, from git.
    pub address: Option<String>,
    /// The NodeGroups of the node.
    pub groups: Arc<BTreeSet<String>>,
    /// The TaskBooks of the node. Each TaskBook comes after the TaskBooks on which it depends.
    pub books: Vec<Arc<Book>>,
}

impl NodeView {
    /// Creates the view of a node from all objects.
    pub fn new(set: &ObjectSet, node: &str) -> Self {
        let groups = set.groups_of(node);
        let known = set.nodes.get(node).cloned();
        let mine: BTreeMap<String, Arc<Book>> = set
            .books
            .iter()
            .filter(|(_, book)| book.targets.as_ref().is_some_and(|targets| targets.select(node, &groups).is_some()))
            .map(|(id, book)| (id.clone(), Arc::clone(book)))
            .collect();
        let graph = mine.iter().map(|(id, book)| (id.clone(), book.dependencies())).collect();
        let books = order::ordered(&graph).into_iter().filter_map(|id| mine.get(&id).cloned()).collect();
        Self {
            node: node.to_owned(),
            labels: known.as_ref().map(|node| node.labels.clone()).unwrap_or_default(),
            address: known.as_ref().and_then(|node| node.address.clone()),
            known: known.is_some(),
            groups,
            books,
        }
    }

    /// Returns the value of the template variable `node`.
    pub fn template_value(&self) -> Value {
        json!({ "name": self.node, "labels": self.labels, "address": self.address, "groups": *self.groups })
    }

    /// Returns the variables of this node that the objects of a namespace can use.
    pub fn variables(&self, set: &ObjectSet, namespace: &str) -> Merged {
        variables::merge(set.variables_of(namespace), &self.node, &self.groups)
    }
}
