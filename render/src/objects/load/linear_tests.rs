//! Tests that the work of the loader is proportional to the input. The tests count the steps of work ([`work`]) instead
//! of the time.

use std::{collections::BTreeMap, sync::Arc};

use super::*;
use crate::{objects::untrusted_uses, tree::MemoryTree, view::NodeView, work};

const HEAD: &str = "metadata: {apiVersion: v1alpha, kind: Namespace, name: shop}
---
metadata: {apiVersion: v1alpha, kind: NodeGroup, name: all}
spec: {selector: all=yes}
---
metadata: {apiVersion: v1alpha, kind: Node, name: first, labels: {all: 'yes'}}
";

fn object(kind: &str, name: &str, more: &str, spec: &str) -> String {
    format!("metadata: {{apiVersion: v1alpha, kind: {kind}, name: {name}{more}}}\nspec: {spec}\n")
}

fn of_shop(kind: &str, name: &str, spec: &str) -> String {
    object(kind, name, ", namespace: shop", spec)
}

fn node(at: usize) -> String {
    format!("metadata: {{apiVersion: v1alpha, kind: Node, name: n{at}, labels: {{rack: r{at}}}}}\n")
}

fn group(at: usize) -> String {
    object("NodeGroup", &format!("g{at}"), "", &format!("{{selector: rack=r{at}}}"))
}

fn book(at: usize, more: &str) -> String {
    let task = format!("{{name: t, file: {{path: /{at}, content: x, mode: '0644'}}}}");
    of_shop("TaskBook", &format!("b{at}"), &format!("{{targets: {{nodeGroups: [all]}}, {more}tasks: [{task}]}}"))
}

/// Returns a TaskBook with this number of tasks. The function `more` returns further fields for each task.
fn tasks(count: usize, more: impl Fn(usize) -> String) -> String {
    let task = |at| format!("    - {{name: t{at}, command: {{argv: [x, '{{{{ vars.x }}}}']}}{}}}\n", more(at));
    let list: String = (0..count).map(task).collect();
    let variables = of_shop("Variables", "v", "{values: {x: 1}}");
    variables + "---\n" + &of_shop("TaskBook", "b", &format!("\n  targets: {{nodeGroups: [all]}}\n  tasks:\n{list}"))
}

fn each(count: usize, object: impl Fn(usize) -> String) -> String {
    (0..count).map(object).collect::<Vec<_>>().join("---\n")
}

/// Returns the number of steps of work to load objects, to search the objects for untrusted values, and to create the
/// view of one node.
fn steps(objects: &str) -> usize {
    let source = |name: &str, text: &str| SourceTree {
        name: name.to_owned(),
        tree: Arc::new([("a.yaml", text)].into_iter().collect::<MemoryTree>()),
        library: false,
        globals: true,
    };
    let sources = [source("fleet", &format!("{HEAD}---\n{objects}"))];
    work::steps_of(|| {
        let loaded = load_partial(&sources, &BTreeMap::new());
        assert_eq!(loaded.errors, []);
        untrusted_uses(&loaded.set);
        let view = NodeView::new(&loaded.set, "first");
        for book in view.books {
            loaded.set.targets_of(&book);
        }
    })
}

/// Checks that ten times as many objects cause at most twelve times as many steps of work.
#[track_caller]
fn assert_linear(objects: impl Fn(usize) -> String) {
    let (few, many) = (steps(&objects(200)), steps(&objects(2000)));
    assert!(many <= 12 * few, "200 objects take {few} steps, and 2,000 take {many}: {} times", many / few);
}

#[test]
fn nodes_load_in_linear_work() {
    assert_linear(|count| each(count, node));
}

#[test]
fn books_with_modes_load_in_linear_work() {
    assert_linear(|count| each(count, |at| book(at, "")));
}

#[test]
fn books_in_a_chain_load_in_linear_work() {
    assert_linear(|count| {
        each(count, |at| match at.checked_sub(1) {
            Some(before) => book(at, &format!("dependsOn: [b{before}], ")),
            None => book(at, ""),
        })
    });
}

#[test]
fn groups_of_one_node_each_load_in_linear_work() {
    assert_linear(|count| {
        let target = |at| book(at, "").replace("[all]", &format!("[g{at}]"));
        each(count / 3, |at| format!("{}---\n{}---\n{}", node(at), group(at), target(at)))
    });
}

#[test]
fn variables_and_books_load_in_linear_work() {
    assert_linear(|count| {
        let variables = |at: usize| of_shop("Variables", &format!("v{at}"), &format!("{{values: {{x{at}: 1}}}}"));
        each(count / 4, |at| format!("{}---\n{}---\n{}---\n{}", node(at), group(at), variables(at), book(at, "")))
    });
}

#[test]
fn namespaces_load_in_linear_work() {
    assert_linear(|count| {
        let namespace = |at: usize| object("Namespace", &format!("s{at}"), "", "{}");
        let moved = |text: String, at: usize| text.replace("namespace: shop", &format!("namespace: s{at}"));
        let variables = |at: usize| moved(of_shop("Variables", "v", "{values: {x: 1}}"), at);
        each(count / 3, |at| format!("{}---\n{}---\n{}", namespace(at), moved(book(at, ""), at), variables(at)))
    });
}

#[test]
fn groups_of_a_limited_namespace_load_in_linear_work() {
    assert_linear(|count| {
        let names: Vec<String> = (0..count / 3).map(|at| format!("g{at}")).collect();
        let limited = object("Namespace", "limited", "", &format!("{{nodeGroups: [{}]}}", names.join(", ")));
        let target =
            |at| book(at, "").replace("[all]", &format!("[g{at}]")).replace("namespace: shop", "namespace: limited");
        limited + "---\n" + &each(count / 3, |at| format!("{}---\n{}---\n{}", node(at), group(at), target(at)))
    });
}

#[test]
fn named_nodes_load_in_linear_work() {
    assert_linear(|count| {
        let names: Vec<String> = (0..count).map(|at| format!("n{at}")).collect();
        let all =
            book(0, "").replace("nodeGroups: [all]", &format!("nodeGroups: [all], nodes: [{}]", names.join(", ")));
        each(count, node) + "---\n" + &all
    });
}

#[test]
fn tasks_in_a_chain_load_in_linear_work() {
    assert_linear(|count| {
        tasks(count, |at| at.checked_sub(1).map(|before| format!(", requires: [t{before}]")).unwrap_or_default())
    });
}

#[test]
fn elected_results_load_in_linear_work() {
    assert_linear(|count| tasks(count, |at| format!(", elect: {{count: 1}}, register: r{at}")));
}
