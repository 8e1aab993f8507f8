//! Checks of objects against one another: references, limits of namespaces, cycles and conflicts.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use towpath_proto::did_you_mean;

use super::{
    Key, Selected, VariablesObject,
    limits::below_prefix,
    load::{Loader, display},
    order,
    task::{self, Book, ModuleUse, Task},
};
use crate::{
    document::{At, Place, Reference},
    problem::Finding,
    view::variables::{self, Level},
};

/// Checks that an object to which another object refers exists.
pub(super) fn check(loader: &mut Loader<'_>, reference: &Reference, from: &Key, place: &Place) {
    let namespaced = reference.kind == "TaskBook";
    let namespace = if namespaced { from.namespace.clone() } else { String::new() };
    let key = Key { kind: reference.kind, namespace: namespace.clone(), name: reference.name.clone() };
    if loader.set.objects.contains_key(&key) {
        return;
    }
    let place = place.below(&reference.path);
    if !loader.has_room(&place, false) {
        return;
    }
    let first = Key { kind: reference.kind, namespace: namespace.clone(), name: String::new() };
    let known: Vec<String> = loader
        .set
        .objects
        .range(first..)
        .take_while(|(known, _)| known.kind == reference.kind && known.namespace == namespace)
        .map(|(known, _)| known.name.clone())
        .collect();
    let finding = Finding::new(format!("there is no {} {}", reference.kind, display(&key)));
    let hint = match did_you_mean(&reference.name, known.iter().map(String::as_str)) {
        Some(meant) => format!("did you mean {meant}?"),
        None if known.is_empty() => format!("write an object of the kind {} with this name", reference.kind),
        None => format!("use one of: {}", known.iter().take(10).cloned().collect::<Vec<_>>().join(", ")),
    };
    loader.keep_problem(&place, At::Value, finding.hint(hint), false);
}

/// Checks all objects against one another.
pub(super) fn check_all(loader: &mut Loader<'_>) {
    namespace_sources(loader);
    dependency_cycles(loader);
    shared_slots(loader);
    unmatched_targets(loader);
    variable_conflicts(loader);
    resource_conflicts(loader);
    rollout_sense(loader);
    secrets(loader);
}

/// Reports namespaced objects whose source their Namespace does not allow.
fn namespace_sources(loader: &mut Loader<'_>) {
    let sources = loader.source_names();
    let Some(first) = sources.first().cloned() else { return };
    let mut findings: Vec<(Place, Finding)> = Vec::new();
    for object in loader.set.objects.values() {
        if object.key.kind == "Namespace" {
            for (index, name) in task::list(&object.spec, "sources").iter().enumerate() {
                let Some(name) = name.as_str().filter(|name| !sources.iter().any(|known| known == name)) else {
                    continue;
                };
                let hint = did_you_mean(name, sources.iter().map(String::as_str)).map_or_else(
                    || format!("use one of: {}", sources.join(", ")),
                    |meant| format!("did you mean {meant}?"),
                );
                findings.push((
                    object.place.key("spec").key("sources").index(index),
                    Finding::new(format!("there is no source {name:?}")).hint(hint),
                ));
            }
        }
        let Some(namespace) = loader.set.namespaces.get(&object.key.namespace) else { continue };
        let source = object.place.source();
        let allowed = if namespace.sources.is_empty() {
            source == first
        } else {
            namespace.sources.iter().any(|name| name == source)
        };
        if !allowed {
            let finding = Finding::new(format!(
                "the source {source} may not define objects in the namespace {}",
                object.key.namespace
            ));
            findings.push((
                object.place.key("metadata").key("namespace"),
                finding.hint("list it in sources of the Namespace"),
            ));
        }
    }
    report(loader, findings);
}

fn report(loader: &mut Loader<'_>, findings: Vec<(Place, Finding)>) {
    for (place, finding) in findings {
        loader.problem(&place, At::Value, finding);
    }
}

fn dependency_cycles(loader: &mut Loader<'_>) {
    let graph: BTreeMap<String, Vec<String>> =
        loader.set.books.iter().map(|(id, book)| (id.clone(), dependencies(book))).collect();
    let mut findings = Vec::new();
    for cycle in order::cycles(&graph) {
        if let Some(book) = cycle.first().and_then(|id| loader.set.books.get(id)) {
            let mut shown = cycle.clone();
            shown.push(cycle[0].clone());
            let finding = Finding::new(format!("these TaskBooks depend on each other: {}", shown.join(" → ")));
            findings.push((book.place.key("dependsOn"), finding.hint("remove one of the dependsOn")));
        }
    }
    report(loader, findings);
}

/// Returns the ids of the TaskBooks on which a TaskBook depends.
pub(crate) fn dependencies(book: &Book) -> Vec<String> {
    book.depends_on.iter().map(|dependency| format!("{}/{}", book.namespace, dependency.book)).collect()
}

/// Reports TaskBooks that share a slot and set different counts for it.
fn shared_slots(loader: &mut Loader<'_>) {
    let mut slots: BTreeMap<(String, String), (Option<String>, Place)> = BTreeMap::new();
    let mut findings = Vec::new();
    for book in loader.set.books.values() {
        let whole =
            book.rollout.serialize.iter().map(|serialize| (serialize, book.place.key("rollout").key("serialize")));
        let single = book.tasks.iter().filter_map(|task| Some((task.serialize.as_ref()?, task.place.key("serialize"))));
        for (serialize, place) in whole.chain(single) {
            let Some(slot) = serialize.slot.clone() else { continue };
            let known = slots
                .entry((book.namespace.clone(), slot.clone()))
                .or_insert_with(|| (serialize.count.clone(), place.clone()));
            if known.0 != serialize.count {
                let finding = Finding::new(format!(
                    "the slot {slot} is defined with a different count: {}",
                    known.0.clone().unwrap_or_default()
                ));
                findings.push((
                    place.key("count"),
                    finding.hint(format!(
                        "the other count is at {}; set the same count in all TaskBooks that share a slot",
                        loader.file_line(&known.1)
                    )),
                ));
            }
        }
    }
    report(loader, findings);
}

/// Reports targets that match no node, because a typo in targets must not look like success.
fn unmatched_targets(loader: &mut Loader<'_>) {
    let mut findings = Vec::new();
    for book in loader.set.books.values() {
        let Some(targets) = &book.targets else { continue };
        // Targets may name nodes without a Node object, so only targets without names are checked.
        if !targets.nodes().is_empty() || loader.set.memberships.is_empty() && targets.groups().is_empty() {
            continue;
        }
        let selected = |node: &String| targets.select(node, &loader.set.groups_of(node)).is_some();
        let matched = loader.set.members_of(targets.groups()).any(selected);
        // Another check already reports a missing or empty NodeGroup.
        let nothing = |group: &super::Group| group.selector.is_none() && group.nodes.is_empty();
        let dangling = targets.groups().iter().any(|group| loader.set.groups.get(group).is_none_or(nothing));
        if !matched && !dangling {
            findings.push((
                book.place.key("targets"),
                Finding::new("no node matches these targets")
                    .hint("write Node objects with the labels that the NodeGroups select"),
            ));
        }
    }
    report(loader, findings);
}

/// Reports variables that have two values at the same level and priority for one node.
fn variable_conflicts(loader: &mut Loader<'_>) {
    let mut findings: BTreeMap<String, (Place, Finding)> = BTreeMap::new();
    // The empty name means a node that git does not name. An unnamed node is in no group, but gets the values for all
    // nodes.
    let nodes: BTreeSet<&str> = loader.set.memberships.keys().map(String::as_str).chain(std::iter::once("")).collect();
    // Only variables with several values are compared, because the product of nodes and variables is large.
    let contested: Vec<Vec<&VariablesObject>> = loader
        .set
        .namespaces
        .keys()
        .map(|namespace| variables::contested(loader.set.variables_of(namespace)))
        .filter(|contested| !contested.is_empty())
        .collect();
    if contested.is_empty() {
        return;
    }
    // Nodes in the same groups see the same values, except for values by the name of a node.
    let named: BTreeSet<&str> = contested
        .iter()
        .flatten()
        .flat_map(|object| object.targets.nodes().iter().chain(object.by_node.keys()))
        .map(String::as_str)
        .collect();
    let mut seen = BTreeSet::new();
    for node in nodes {
        let groups = loader.set.groups_of(node);
        if !named.contains(node) && !seen.insert(groups.clone()) {
            continue;
        }
        for objects in &contested {
            for conflict in variables::conflicts(objects, node, &groups) {
                let who = if node.is_empty() { "every node".to_owned() } else { format!("the node {node}") };
                let finding = Finding::new(format!(
                    "the variable {} has two values for {who} at the same level and priority",
                    conflict.name
                ));
                let hint = format!(
                    "the other value is at {}; give one of the objects a higher priority",
                    loader.file_line(&conflict.first)
                );
                findings
                    .entry(format!("{:?}{}", conflict.second, conflict.name))
                    .or_insert((conflict.second, finding.hint(hint)));
            }
        }
    }
    report(loader, findings.into_values().collect());
}

/// Reports two tasks on one node that manage the same literal identity with the same module.
fn resource_conflicts(loader: &mut Loader<'_>) {
    let mut owners: BTreeMap<(String, String), Vec<(&Book, &Task)>> = BTreeMap::new();
    for book in loader.set.books.values() {
        for task in book.tasks.iter().filter(|task| task.when.is_empty() && task.looped.is_none()) {
            if let Some(identity) = task.module.as_ref().and_then(literal_identity) {
                owners.entry(identity).or_default().push((book, task));
            }
        }
    }
    let mut targets: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut findings = Vec::new();
    for ((module, identity), tasks) in owners.iter().filter(|(_, tasks)| tasks.len() > 1) {
        let mut first_of_book: BTreeMap<String, &Task> = BTreeMap::new();
        let mut first_on_node: BTreeMap<String, (String, &Task)> = BTreeMap::new();
        for (book, task) in tasks {
            let id = book.id();
            let nodes = targets.entry(id.clone()).or_insert_with(|| loader.set.targets_of(book));
            let in_book = first_of_book.get(&id).map(|first| (id.clone(), *first));
            match in_book.or_else(|| nodes.iter().find_map(|node| first_on_node.get(node).cloned())) {
                Some((other, first)) => {
                    let finding = Finding::new(format!("two tasks on one node manage the {module} {identity}"));
                    let at = loader.file_line(&first.place);
                    let hint = format!("the other task is {:?} of {other} at {at}", first.id);
                    findings.push((task.place.key(module), finding.hint(hint)));
                }
                None => {
                    for node in nodes.iter() {
                        first_on_node.insert(node.clone(), (id.clone(), task));
                    }
                    first_of_book.insert(id, task);
                }
            }
        }
    }
    report(loader, findings);
}

/// Returns the module and the identity of the managed resource. `None` if a template is part of the identity.
fn literal_identity(module: &ModuleUse) -> Option<(String, String)> {
    let identity = module.schema.identity(&module.params)?;
    (!identity.contains("{{") && !identity.contains("{%")).then(|| (module.name.to_owned(), identity))
}

/// Reports rollout settings that cannot be intended, such as a count of 0.
fn rollout_sense(loader: &mut Loader<'_>) {
    let mut findings = Vec::new();
    for book in loader.set.books.values() {
        let place = book.place.key("rollout");
        let zero = |count: &Option<String>| matches!(count.as_deref(), Some("0" | "0%"));
        if book.rollout.serialize.as_ref().is_some_and(|serialize| zero(&serialize.count)) {
            findings.push((
                place.key("serialize").key("count"),
                Finding::new("with a count of 0 no node would ever change")
                    .hint("write at least 1; to pause a book use suspend"),
            ));
        }
        for (list, name) in [(&book.rollout.before, "before"), (&book.rollout.after, "after")] {
            for task in list.iter().filter(|task| task.sync || task.elect.is_some() || task.serialize.is_some()) {
                let finding = Finding::new(format!("a task in rollout.{name} cannot wait for other nodes"));
                findings.push((
                    task.place.clone(),
                    finding.hint("no node waits for another while it holds a slot: move it to tasks"),
                ));
            }
        }
        let percent = |value: &Value| value.as_str().and_then(|text| text.strip_suffix('%')?.parse::<u64>().ok());
        let counts: Vec<u64> = book.rollout.waves.iter().filter_map(Value::as_u64).collect();
        let percents: Vec<u64> = book.rollout.waves.iter().filter_map(percent).collect();
        if [counts, percents].iter().any(|steps| steps.windows(2).any(|pair| pair[1] <= pair[0])) {
            findings.push((
                place.key("waves"),
                Finding::new("waves are cumulative, so each must be larger than the one before")
                    .hint("write for example [1, 10%, 100%]"),
            ));
        }
    }
    report(loader, findings);
}

/// Reports Secrets without exactly one origin. Unencrypted values, and origins that the Namespace does not allow, are
/// reported, too.
fn secrets(loader: &mut Loader<'_>) {
    let mut findings = Vec::new();
    for object in loader.set.objects.values().filter(|object| object.key.kind == "Secret") {
        let origins: Vec<&str> = ["data", "sops", "vault", "file", "generate"]
            .into_iter()
            .filter(|key| object.spec.get(*key).is_some_and(|value| !value.is_null()))
            .collect();
        let place = object.place.key("spec");
        if origins.len() != 1 {
            let finding = Finding::new(if origins.is_empty() {
                "the Secret has no values".to_owned()
            } else {
                format!("the Secret has values from {}", origins.join(" and "))
            });
            findings.push((place.clone(), finding.hint("write exactly one of: data, sops, vault, file, generate")));
        }
        for (key, value) in task::map(&object.spec, "data") {
            if value.as_str().is_some_and(|text| !text.trim_start().starts_with("-----BEGIN AGE ENCRYPTED FILE-----")) {
                let finding = Finding::new(format!("the value of {key} is not encrypted"));
                findings.push((
                    place.key("data").key(&key),
                    finding.hint(
                        "encrypt it with `towpath secrets encrypt`, and replace it: this one is in the history of git",
                    ),
                ));
            }
        }
        let limits = loader
            .set
            .namespaces
            .get(&object.key.namespace)
            .and_then(|namespace| namespace.secret_backends.clone())
            .unwrap_or_default();
        for (kind, prefixes) in [("vault", &limits.vault), ("file", &limits.file)] {
            let Some(path) = object.spec.get(kind).and_then(|origin| origin.get("path")).and_then(Value::as_str) else {
                continue;
            };
            let allowed = prefixes.iter().any(|prefix| below_prefix(prefix, path));
            if !allowed {
                let finding =
                    Finding::new(format!("the namespace {} may not read {path} from {kind}", object.key.namespace));
                findings.push((
                    place.key(kind).key("path"),
                    finding.hint(format!("list its prefix in secretBackends.{kind} of the Namespace")),
                ));
            }
        }
    }
    report(loader, findings);
}

/// Returns the precedence level of a variables object for a node.
pub(crate) fn level(object: &VariablesObject, selected: Selected) -> Level {
    match (object.key.kind, selected) {
        ("ClusterVariables", Selected::Group) => Level::ClusterGroup,
        ("ClusterVariables", Selected::Node) => Level::ClusterNode,
        (_, Selected::Group) => Level::Group,
        (_, Selected::Node) => Level::Node,
    }
}
