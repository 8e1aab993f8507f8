//! Finds conflicts: a variable or a managed item that two objects define for the same node.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    objects::{
        ObjectSet, VariablesObject,
        ledger::Found,
        task::{Book, ModuleUse, Task},
        variables::{self, Conflict},
    },
    problem::Finding,
};

/// Returns an error for each variable that has two values with the same precedence level and priority on one node.
pub(super) fn of_variables(set: &ObjectSet) -> Vec<Found<'_>> {
    // The empty name means a node that git does not name. An unnamed node is in no group, but gets the values for all
    // nodes.
    let nodes: BTreeSet<&str> = set.members.names().map(String::as_str).chain(std::iter::once("")).collect();
    // Only variables with several values are compared, because the product of nodes and variables is large.
    let contested: Vec<Vec<&VariablesObject>> = set
        .namespaces
        .keys()
        .map(|namespace| variables::contested(set.variables_of(namespace)))
        .filter(|contested| !contested.is_empty())
        .collect();
    if contested.is_empty() {
        return Vec::new();
    }
    // Nodes in the same groups see the same values, except for values by the name of a node.
    let named: BTreeSet<&str> = contested
        .iter()
        .flatten()
        .flat_map(|object| object.targets.nodes().iter().chain(object.by_node.keys()))
        .map(String::as_str)
        .collect();
    let mut found: BTreeMap<String, Found<'_>> = BTreeMap::new();
    let mut seen = BTreeSet::new();
    for node in nodes {
        let groups = set.groups_of(node);
        if !named.contains(node) && !seen.insert(groups.clone()) {
            continue;
        }
        for objects in &contested {
            for Conflict { name, first, second } in variables::conflicts(objects, node, &groups) {
                found.entry(format!("{second:?}{name}")).or_insert_with(|| {
                    let nodes = if node.is_empty() { "every node".to_owned() } else { format!("the node {node}") };
                    let finding = Finding::new(format!(
                        "the variable {name} has two values for {nodes} at the same level and priority"
                    ));
                    Found::new(second, finding).hint_at(&first, |line| {
                        format!("the other value is at {line}; give one of the objects a higher priority")
                    })
                });
            }
        }
    }
    found.into_values().collect()
}

/// Returns an error for each managed item that two tasks on one node manage. The result omits an item if the identity
/// of the item contains a template.
pub(super) fn of_resources(set: &ObjectSet) -> Vec<Found<'_>> {
    let mut owners: BTreeMap<(String, String), Vec<(&Book, &Task)>> = BTreeMap::new();
    for book in set.books.values() {
        for task in book.tasks.iter().filter(|task| task.when.is_empty() && task.loop_items.is_none()) {
            if let Some(identity) = task.module.as_ref().and_then(literal_identity) {
                owners.entry(identity).or_default().push((book, task));
            }
        }
    }
    let mut targets: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut found = Vec::new();
    for ((module, identity), tasks) in owners.iter().filter(|(_, tasks)| tasks.len() > 1) {
        let mut first_of_book: BTreeMap<String, &Task> = BTreeMap::new();
        let mut first_on_node: BTreeMap<String, (String, &Task)> = BTreeMap::new();
        for (book, task) in tasks {
            let id = book.id();
            let nodes = targets.entry(id.clone()).or_insert_with(|| set.targets_of(book));
            let in_book = first_of_book.get(&id).map(|first| (id.clone(), *first));
            match in_book.or_else(|| nodes.iter().find_map(|node| first_on_node.get(node).cloned())) {
                Some((other, first)) => {
                    let finding = Finding::new(format!("two tasks on one node manage the {module} {identity}"));
                    let hint = move |line: &str| format!("the other task is {:?} of {other} at {line}", first.id);
                    found.push(Found::new(task.place.key(module), finding).hint_at(&first.place, hint));
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
    found
}

/// Returns the module and the identity of a managed item, or `None` if the identity contains a template.
fn literal_identity(module: &ModuleUse) -> Option<(String, String)> {
    let identity = module.schema.identity(&module.params)?;
    (!identity.contains("{{") && !identity.contains("{%")).then(|| (module.name.to_owned(), identity))
}
