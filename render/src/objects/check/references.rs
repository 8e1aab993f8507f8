//! Checks that the objects, sources and nodes that an object names exist.

use std::collections::BTreeMap;

use towpath_proto::did_you_mean;

use crate::{
    document::{Place, Reference},
    objects::{Group, Key, Object, ObjectSet, SourceTree, ledger::Found, spec::list},
    order,
    problem::Finding,
};

/// A reference from the spec of an object to another object.
pub(in crate::objects) struct Mention {
    /// The kind and the name of the other object, and the path of the field that contains the name.
    pub(in crate::objects) reference: Reference,
    /// The object that contains the reference.
    pub(in crate::objects) from: Key,
    /// The location of the object that contains the reference.
    pub(in crate::objects) place: Place,
}

/// Returns an error for each reference to a missing object.
pub(in crate::objects) fn missing_objects<'a>(
    objects: &'a BTreeMap<Key, Object>,
    mentions: &'a [Mention],
) -> impl Iterator<Item = Found<'a>> {
    mentions.iter().filter_map(|mention| missing_object(objects, mention))
}

fn missing_object<'a>(objects: &'a BTreeMap<Key, Object>, mention: &'a Mention) -> Option<Found<'a>> {
    let Mention { reference, from, place } = mention;
    let namespaced = reference.kind == "TaskBook";
    let namespace = if namespaced { from.namespace.clone() } else { String::new() };
    let key = Key { kind: reference.kind, namespace, name: reference.name.clone() };
    if objects.contains_key(&key) {
        return None;
    }
    let finding = Finding::new(format!("there is no {} {}", reference.kind, key.qualified_name()));
    Some(Found::new(place.below(&reference.path), finding).hint(move || {
        let first = Key { name: String::new(), ..key.clone() };
        let known: Vec<&str> = objects
            .range(first..)
            .map(|(known, _)| known)
            .take_while(|known| known.kind == key.kind && known.namespace == key.namespace)
            .map(|known| known.name.as_str())
            .collect();
        match did_you_mean(&key.name, known.iter().copied()) {
            Some(meant) => format!("did you mean {meant}?"),
            None if known.is_empty() => format!("write an object of the kind {} with this name", key.kind),
            None => format!("use one of: {}", known.iter().take(10).copied().collect::<Vec<_>>().join(", ")),
        }
    }))
}

/// Returns an error for each unknown source in a Namespace, and for each object whose Namespace forbids the object's
/// source.
pub(super) fn refused_sources<'a>(set: &'a ObjectSet, sources: &'a [SourceTree]) -> Vec<Found<'a>> {
    let Some(first) = sources.first().map(|source| source.name.as_str()) else { return Vec::new() };
    let mut found = Vec::new();
    for object in set.objects.values() {
        if object.key.kind == "Namespace" {
            found.extend(unknown_sources(object, sources));
        }
        let Some(namespace) = set.namespaces.get(&object.key.namespace) else { continue };
        let source = object.place.source();
        let allowed = if namespace.sources.is_empty() {
            source == first
        } else {
            namespace.sources.iter().any(|name| name == source)
        };
        if !allowed {
            let finding = Finding::new(format!(
                "the source {source} must not define objects in the namespace {}",
                object.key.namespace
            ));
            let place = object.place.key("metadata").key("namespace");
            found.push(Found::new(place, finding.hint("list it in sources of the Namespace")));
        }
    }
    found
}

/// Returns an error for each unknown source that a Namespace lists.
fn unknown_sources<'a>(namespace: &Object, sources: &'a [SourceTree]) -> Vec<Found<'a>> {
    let names = move || sources.iter().map(|source| source.name.as_str());
    let mut found = Vec::new();
    for (index, name) in list(&namespace.spec, "sources").iter().enumerate() {
        let Some(name) = name.as_str().filter(|name| !names().any(|known| known == *name)) else { continue };
        let finding = Finding::new(format!("there is no source {name:?}"));
        let name = name.to_owned();
        let hint = move || match did_you_mean(&name, names()) {
            Some(meant) => format!("did you mean {meant}?"),
            None => format!("use one of: {}", names().collect::<Vec<_>>().join(", ")),
        };
        found.push(Found::new(namespace.place.key("spec").key("sources").index(index), finding).hint(hint));
    }
    found
}

/// Returns an error for each cycle of dependencies between TaskBooks.
pub(super) fn dependency_cycles(set: &ObjectSet) -> Vec<Found<'_>> {
    let graph: BTreeMap<String, Vec<String>> =
        set.books.iter().map(|(id, book)| (id.clone(), book.dependencies())).collect();
    let mut found = Vec::new();
    for cycle in order::cycles(&graph) {
        if let Some(book) = cycle.first().and_then(|id| set.books.get(id)) {
            let mut shown = cycle.clone();
            shown.push(cycle[0].clone());
            let finding = Finding::new(format!("these TaskBooks depend on each other: {}", shown.join(" → ")));
            found.push(Found::new(book.place.key("dependsOn"), finding.hint("remove one of the dependsOn")));
        }
    }
    found
}

/// Returns an error for each list of targets that matches no node. Without the error, a TaskBook that runs on no node
/// would look successful.
pub(super) fn unmatched_targets(set: &ObjectSet) -> Vec<Found<'_>> {
    let mut found = Vec::new();
    for book in set.books.values() {
        let Some(targets) = &book.targets else { continue };
        // Targets may name nodes without a Node object, so only targets without names are checked.
        if !targets.nodes().is_empty() || set.members.names().next().is_none() && targets.groups().is_empty() {
            continue;
        }
        let selected = |node: &String| targets.select(node, &set.groups_of(node)).is_some();
        let matched = set.members.nodes_of(targets.groups()).any(selected);
        // Another check already reports a missing or empty NodeGroup.
        let nothing = |group: &Group| group.selector.is_none() && group.nodes.is_empty();
        let dangling = targets.groups().iter().any(|group| set.groups.get(group).is_none_or(nothing));
        if !matched && !dangling {
            let finding = Finding::new("no node matches these targets")
                .hint("write Node objects with the labels that the NodeGroups select");
            found.push(Found::new(book.place.key("targets"), finding));
        }
    }
    found
}
