//! Reads the objects of global kinds: Namespaces, Nodes, NodeGroups and Configs. The reader also finds the
//! ClusterVariables that each Namespace binds.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use towpath_proto::v1alpha as pb;

use crate::{
    document::typed,
    objects::{Group, Key, Members, NodeObject, Object, ledger::Found, limits::RepositoryUrl, spec::members},
    problem::Finding,
    scalars::Selector,
};

/// The objects of global kinds, such as Nodes and NodeGroups.
pub(super) struct Globals {
    /// The Namespaces, by name.
    pub(super) namespaces: BTreeMap<String, pb::Namespace>,
    /// The nodes that objects in git name, with the labels of the nodes.
    pub(super) nodes: BTreeMap<String, NodeObject>,
    /// The NodeGroups, by name.
    pub(super) groups: BTreeMap<String, Group>,
    /// The NodeGroups of each node, and the nodes of each NodeGroup.
    pub(super) members: Members,
    /// The Configs, by name.
    pub(super) configs: BTreeMap<String, pb::Config>,
    /// The names of the ClusterVariables that the objects of each namespace can use.
    pub(super) bindings: BTreeMap<String, BTreeSet<String>>,
}

impl Globals {
    /// Reads the objects of global kinds, and returns the problems that the schema check cannot find.
    pub(super) fn read(objects: &BTreeMap<Key, Object>) -> (Self, Vec<Found<'_>>) {
        let of_kind = |kind: &'static str| objects.values().filter(move |object| object.key.kind == kind);
        let mut found = Vec::new();
        let mut namespaces = BTreeMap::new();
        for object in of_kind("Namespace") {
            let Ok(namespace) = typed("Namespace", &object.spec) else { continue };
            found.extend(unusable_patterns(object, &namespace));
            namespaces.insert(object.key.name.clone(), namespace);
        }
        let nodes = of_kind("Node").map(|object| (object.key.name.clone(), node(object))).collect();
        let mut groups = BTreeMap::new();
        for object in of_kind("NodeGroup") {
            let group = group(object);
            found.extend(selects_nothing(object, &group));
            groups.insert(object.key.name.clone(), group);
        }
        let members = Members::of(&nodes, &groups);
        let mut configs = BTreeMap::new();
        for object in of_kind("Config") {
            found.extend(bootstrap_fields(object));
            configs.extend(typed("Config", &object.spec).ok().map(|config| (object.key.name.clone(), config)));
        }
        let mut bindings: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for object in of_kind("ClusterVariablesBinding") {
            for namespace in names(object, "namespaces") {
                bindings.entry(namespace).or_default().extend(names(object, "clusterVariables"));
            }
        }
        (Self { namespaces, nodes, groups, members, configs, bindings }, found)
    }
}

/// Returns the strings of a list in the spec of an object.
fn names<'a>(object: &'a Object, key: &str) -> impl Iterator<Item = String> + use<'a> {
    members(&object.spec, key).iter().filter_map(Value::as_str).map(str::to_owned)
}

fn node(object: &Object) -> NodeObject {
    let address = object.spec.get("address").and_then(Value::as_str).map(str::to_owned);
    let public_keys = names(object, "publicKeys").collect();
    NodeObject { labels: object.labels.clone(), address, public_keys }
}

fn group(object: &Object) -> Group {
    let selector = object.spec.get("selector").and_then(|selector| Selector::read(selector).ok());
    Group { selector, nodes: names(object, "nodes").collect() }
}

/// Returns an error if a NodeGroup has neither a selector nor nodes.
fn selects_nothing(object: &Object, group: &Group) -> Option<Found<'static>> {
    let written = object.spec.get("selector").is_some_and(|selector| !selector.is_null());
    (!written && group.nodes.is_empty()).then(|| {
        let finding = Finding::new("the NodeGroup selects nothing").hint("write a selector, or nodes");
        Found::new(object.place.clone(), finding)
    })
}

/// Returns an error for each URL pattern of a Namespace that cannot match a URL.
fn unusable_patterns(object: &Object, namespace: &pb::Namespace) -> Vec<Found<'static>> {
    let patterns = namespace.includes.iter().flat_map(|includes| &includes.allow).enumerate();
    let found = patterns.filter_map(|(index, pattern)| {
        let error = RepositoryUrl::pattern(pattern).err()?;
        let finding = Finding::new(format!("cannot use the pattern {pattern}: {error}"))
            .hint("write https://HOST/PATH or ssh://HOST/PATH, with * for any characters of the host or path");
        Some(Found::new(object.place.key("spec").key("includes").key("allow").index(index), finding))
    });
    found.collect()
}

/// Returns an error for each field of a Config in git that is valid only in a bootstrap file.
fn bootstrap_fields(object: &Object) -> Vec<Found<'static>> {
    let fields = ["node", "cluster", "root", "stateDir", "listen", "tls", "dataStore", "secrets"].into_iter();
    let written = fields.filter(|field| object.spec.get(*field).is_some_and(|value| !value.is_null()));
    let found = written.map(|field| {
        let finding = Finding::new(format!("only the bootstrap file of a node can set `{field}`"));
        Found::new(object.place.key("spec").key(field), finding.hint("remove the field from this Config")).at_key()
    });
    found.collect()
}
