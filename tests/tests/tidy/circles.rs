//! No circle of files inside a crate: by imports and paths to items, not by `mod` declarations, re-exports and tests.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    syntax::resolve::{Crate, Target},
    tree::Finding,
};

/// The files that a file takes items from, with one of the names.
pub type Edges = BTreeMap<String, BTreeMap<String, String>>;

/// Returns which files take items from which other files of their crate.
pub fn edges(krate: &Crate) -> Edges {
    let mut edges = Edges::new();
    for (module, file, scope) in krate.modules() {
        let reexports: BTreeSet<_> = scope.imports.values().filter(|path| !scope.uses.contains(path)).collect();
        let own = edges.entry(file.path.clone()).or_default();
        for path in scope.paths.iter().filter(|path| !reexports.contains(path)) {
            if let Some(Target::Item(other, name)) = krate.resolve(module, path)
                && other != file.path
            {
                own.entry(other).or_insert(name);
            }
        }
    }
    edges
}

/// Returns a finding for each file in a circle: how many files of the circle it takes items from.
pub fn check(crates: &BTreeMap<&str, Crate>) -> Vec<Finding> {
    let mut found = Vec::new();
    for krate in crates.values() {
        let edges = edges(krate);
        let graph: BTreeMap<&str, BTreeSet<&str>> =
            edges.iter().map(|(file, others)| (file.as_str(), others.keys().map(String::as_str).collect())).collect();
        for circle in strong_components(&graph).into_iter().filter(|circle| circle.len() > 1) {
            for file in &circle {
                let others: Vec<String> = edges[*file]
                    .iter()
                    .filter(|(other, _)| circle.contains(other.as_str()))
                    .map(|(other, name)| format!("{other} ({name})"))
                    .collect();
                let detail = format!("in a circle of {} files; takes from {}", circle.len(), others.join(", "));
                found.push(Finding::new("circle", *file, others.len(), detail));
            }
        }
    }
    found
}

/// Returns the strongly connected components of a graph.
pub fn strong_components<'a>(graph: &BTreeMap<&'a str, BTreeSet<&'a str>>) -> Vec<BTreeSet<&'a str>> {
    let order = finished(graph);
    let mut back: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (from, others) in graph {
        for to in others {
            back.entry(to).or_default().insert(from);
        }
    }
    let mut seen = BTreeSet::new();
    let mut components = Vec::new();
    for root in order.into_iter().rev() {
        let mut component = BTreeSet::new();
        let mut waiting = vec![root];
        while let Some(node) = waiting.pop() {
            if seen.insert(node) {
                component.insert(node);
                waiting.extend(back.get(node).into_iter().flatten());
            }
        }
        if !component.is_empty() {
            components.push(component);
        }
    }
    components
}

/// Returns the nodes of a graph in the order in which a search by depth leaves them.
fn finished<'a>(graph: &BTreeMap<&'a str, BTreeSet<&'a str>>) -> Vec<&'a str> {
    let mut seen = BTreeSet::new();
    let mut order = Vec::new();
    for start in graph.keys() {
        let mut waiting = vec![(*start, false)];
        while let Some((node, left)) = waiting.pop() {
            if left {
                order.push(node);
            } else if seen.insert(node) {
                waiting.push((node, true));
                waiting.extend(graph.get(node).into_iter().flatten().map(|other| (*other, false)));
            }
        }
    }
    order
}

#[cfg(test)]
mod tests {
    use crate::check_seeded as seeded;

    #[test]
    fn circle_of_files_is_red() {
        let root = ("git/src/lib.rs", "mod a; mod b; mod c; pub use a::A;");
        for (a, b, c) in [
            ("use crate::b::B; pub struct A;", "use crate::a::A; pub struct B;", ""),
            ("pub struct A; fn f(x: super::b::B) {}", "pub struct B; fn f() { vec![crate::A::new()] }", ""),
            ("pub struct A(super::c::C);", "pub struct B(crate::A);", "pub struct C(crate::b::B);"),
            ("use super::b; pub struct A; fn f() { b::g() }", "use super::*; pub fn g(a: A) {}", ""),
            (
                "use super::b::B as Other; pub struct A;",
                "pub struct B; mod inner { use super::super::a; fn f(a: a::A) {} }",
                "",
            ),
        ] {
            let files = [root, ("git/src/a.rs", a), ("git/src/b.rs", b), ("git/src/c/mod.rs", c)];
            assert!(seeded("circle", &files) >= 2, "{a} {b} {c}");
        }
    }

    #[test]
    fn parent_that_uses_its_child_and_is_used_by_it_is_red() {
        let parent = ("git/src/a/mod.rs", "mod b; use b::B; pub struct A(B);");
        assert_eq!(seeded("circle", &[parent, ("git/src/a/b.rs", "use super::A; pub struct B(A);")]), 2);
    }

    #[test]
    fn declarations_reexports_and_tests_make_no_circle() {
        for (parent, child) in [
            ("mod b; pub use b::B; pub struct A;", "use super::A; pub struct B(A);"),
            ("mod b; pub struct A;", "use super::A; pub struct B(A);"),
            (
                "mod b; pub struct A; #[cfg(test)] mod tests { use super::b::B; fn f(b: B) {} }",
                "pub struct B(super::A);",
            ),
            ("mod b; mod c; pub use c::C;", "pub struct B(super::C);"),
        ] {
            let files = [("git/src/a/mod.rs", parent), ("git/src/a/b.rs", child), ("git/src/a/c.rs", "pub struct C;")];
            assert_eq!(seeded("circle", &files), 0, "{parent} {child}");
        }
        let tests = ("git/src/a/tests.rs", "use super::A; use super::b::f;");
        let files = [("git/src/a/mod.rs", "#[cfg(test)] mod tests; mod b; pub struct A;"), tests];
        assert_eq!(
            seeded("circle", &[&files[..], &[("git/src/a/b.rs", "use super::tests::x; pub fn f() {}")]].concat()),
            0
        );
    }
}
