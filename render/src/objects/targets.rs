//! The fields `targets` and `readers`, by which an object selects nodes.

use std::{collections::BTreeSet, sync::Arc};

use serde_json::Value;

use super::spec::members;
use crate::work;

/// The nodes that an object selects. The Namespace of the object can limit the selection to some NodeGroups.
#[derive(Debug, Clone)]
pub struct Targets {
    /// The NodeGroups and nodes that the object lists. With `None`, the object selects every node that the Namespace
    /// may target.
    written: Option<Arc<Written>>,
    /// The NodeGroups that the Namespace may target; `None` if the Namespace may target every node.
    limit: Option<Arc<Names>>,
}

/// The NodeGroups and nodes of a `targets` or `readers` field, as written.
#[derive(Debug)]
struct Written {
    groups: Names,
    nodes: Names,
}

/// The names in a list. The field `written` keeps the order of the file, and the field `set` makes searches fast.
#[derive(Debug)]
pub(super) struct Names {
    written: Vec<String>,
    set: BTreeSet<String>,
}

impl From<Vec<String>> for Names {
    fn from(written: Vec<String>) -> Self {
        let set = written.iter().cloned().collect();
        Self { written, set }
    }
}

impl Names {
    /// Returns the names in the written order.
    pub(super) fn written(&self) -> &[String] {
        &self.written
    }

    /// Returns true if a name is in the list.
    pub(super) fn contains(&self, name: &str) -> bool {
        self.set.contains(name)
    }

    /// Returns true if the list and a set have a name in common.
    pub(super) fn meet(&self, other: &BTreeSet<String>) -> bool {
        work::count(self.set.len().min(other.len()).max(1));
        !self.set.is_disjoint(other)
    }
}

/// The entry of the targets that selects a node: a NodeGroup, or the name of the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Selected {
    /// The targets name a NodeGroup of the node, or select all nodes.
    Group,
    /// The targets name the node.
    Node,
}

impl Targets {
    /// Reads a field of a spec that names nodes. If the spec omits the field, every node that the Namespace may target
    /// is selected.
    pub(super) fn read(spec: &Value, field: &str, limit: Option<Arc<Names>>) -> Self {
        let written = spec.get(field).filter(|written| !written.is_null()).map(|written| {
            let names = |key: &str| {
                let names = members(written, key).iter().filter_map(Value::as_str).map(str::to_owned);
                Names::from(names.collect::<Vec<_>>())
            };
            Arc::new(Written { groups: names("nodeGroups"), nodes: names("nodes") })
        });
        Self { written, limit }
    }

    /// Returns the entry of the targets that selects a node: a NodeGroup, or the name of the node. Returns `None` if
    /// the targets do not select the node, or if the Namespace is not allowed to target the node. An empty `node` means
    /// an arbitrary node that the Namespace may target.
    pub fn select(&self, node: &str, groups: &BTreeSet<String>) -> Option<Selected> {
        work::count(1);
        if !node.is_empty() && self.limit.as_ref().is_some_and(|limit| !limit.meet(groups)) {
            return None;
        }
        let Some(written) = &self.written else { return Some(Selected::Group) };
        if written.nodes.contains(node) {
            return Some(Selected::Node);
        }
        written.groups.meet(groups).then_some(Selected::Group)
    }

    /// Returns true if the object lists its targets. Returns false if the object omits the field with the targets.
    pub fn is_written(&self) -> bool {
        self.written.is_some()
    }

    /// Returns the names of the NodeGroups in the field, as written.
    pub fn groups(&self) -> &[String] {
        self.written.as_ref().map(|written| written.groups.written()).unwrap_or_default()
    }

    /// Returns the names of the nodes in the field, as written.
    pub fn nodes(&self) -> &[String] {
        self.written.as_ref().map(|written| written.nodes.written()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn target_outside_of_the_node_groups_of_its_namespace_is_not_selected() {
        let groups = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
        let limit = Some(Arc::new(Names::from(vec!["web".to_owned()])));
        let groups_written = Names::from(vec!["web".into(), "dbs".into()]);
        let written = Written { groups: groups_written, nodes: Names::from(vec!["n1".to_owned()]) };
        let targets = Targets { written: Some(Arc::new(written)), limit };
        for (node, of, selected) in [
            ("n1", &["dbs"][..], None),
            ("n2", &["dbs"], None),
            ("n1", &[], None),
            ("n1", &["web"], Some(Selected::Node)),
            ("n2", &["dbs", "web"], Some(Selected::Group)),
        ] {
            assert_eq!(targets.select(node, &groups(of)), selected, "{node} of {of:?}");
        }
    }
}
