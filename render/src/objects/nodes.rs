//! Nodes and NodeGroups, and the code that finds the NodeGroups of each node.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::{scalars::Selector, work};

/// A node that git names.
#[derive(Debug, Clone, Default)]
pub struct NodeObject {
    /// The labels of the node.
    pub labels: BTreeMap<String, String>,
    /// The address at which other nodes connect to the node.
    pub address: Option<String>,
    /// The public keys of the node. If `public_keys` is empty, other nodes trust the first keys that the node presents.
    pub public_keys: Vec<String>,
}

/// A NodeGroup, with its parsed selector.
#[derive(Debug, Clone)]
pub struct Group {
    /// The selector for the labels of nodes; `None` if the group only lists names of nodes.
    pub selector: Option<Selector>,
    /// The nodes that the group lists by name.
    pub nodes: BTreeSet<String>,
}

/// The NodeGroups of each node, and the nodes of each NodeGroup.
#[derive(Debug, Default)]
pub struct Members {
    /// The NodeGroups of each node that git names.
    groups: BTreeMap<String, Arc<BTreeSet<String>>>,
    /// The nodes of each NodeGroup, sorted by name.
    nodes: BTreeMap<String, Vec<String>>,
}

impl Members {
    /// Computes the NodeGroups of each node, and the nodes of each NodeGroup.
    pub(super) fn of(nodes: &BTreeMap<String, NodeObject>, groups: &BTreeMap<String, Group>) -> Self {
        let mut groups_of: BTreeMap<&str, BTreeSet<String>> =
            nodes.keys().map(|node| (node.as_str(), BTreeSet::new())).collect();
        let labelled = Labelled::new(nodes);
        for (name, group) in groups {
            let selected = group.selector.iter().flat_map(|selector| labelled.select(selector));
            for node in group.nodes.iter().map(String::as_str).chain(selected) {
                work::count(1);
                groups_of.entry(node).or_default().insert(name.clone());
            }
        }
        let mut nodes_of: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (node, groups) in &groups_of {
            for group in groups {
                nodes_of.entry(group.clone()).or_default().push((*node).to_owned());
            }
        }
        let groups = groups_of.into_iter().map(|(node, groups)| (node.to_owned(), Arc::new(groups))).collect();
        Self { groups, nodes: nodes_of }
    }

    /// Returns the NodeGroups of a node.
    pub fn groups_of(&self, node: &str) -> Arc<BTreeSet<String>> {
        self.groups.get(node).cloned().unwrap_or_default()
    }

    /// Returns the nodes of several NodeGroups. A node that is in two of the given groups is returned twice.
    pub(super) fn nodes_of<'a>(&'a self, groups: &'a [String]) -> impl Iterator<Item = &'a String> {
        let nodes = groups.iter().filter_map(|group| self.nodes.get(group)).flatten();
        nodes.inspect(|_| work::count(1))
    }

    /// Returns the names of all nodes that a Node object or a NodeGroup names, in alphabetical order.
    pub fn names(&self) -> impl Iterator<Item = &String> {
        self.groups.keys()
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

    /// Returns the nodes that a selector matches. To save work, the function tests only the nodes with the rarest label
    /// that the selector requires.
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
