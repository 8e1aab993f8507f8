//! Sorts the names in a graph of dependencies, and finds cycles of dependencies.

use std::collections::{BTreeMap, BTreeSet};

use crate::work;

/// Returns cycles of a graph, each as a list of names. Each cycle begins with its alphabetically first name. No name is
/// in two of the returned cycles.
pub(crate) fn cycles(graph: &BTreeMap<String, Vec<String>>) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    let mut done: BTreeSet<&str> = BTreeSet::new();
    for start in graph.keys() {
        // A hostile graph can be deep, so the depth-first search does not use recursion.
        let mut path: Vec<(&str, usize)> = vec![(start, 0)];
        let mut depths: BTreeMap<&str, usize> = BTreeMap::from([(start.as_str(), 0)]);
        while let Some((node, next)) = path.last_mut() {
            let node = *node;
            work::count(1);
            let edges = graph.get(node).map(Vec::as_slice).unwrap_or_default();
            if done.contains(node) || *next >= edges.len() {
                done.insert(node);
                depths.remove(node);
                path.pop();
                continue;
            }
            let to = edges[*next].as_str();
            *next += 1;
            if let Some(at) = depths.get(to).copied() {
                // Only one cycle through each name is listed, because all cycles could have n² names.
                let nodes: Vec<&str> = path.drain(at..).map(|(node, _)| node).collect();
                for node in &nodes {
                    depths.remove(node);
                    done.insert(node);
                }
                let mut cycle: Vec<String> = nodes.into_iter().map(str::to_owned).collect();
                let least = cycle.iter().enumerate().min_by_key(|(_, name)| *name).map_or(0, |(at, _)| at);
                cycle.rotate_left(least);
                found.push(cycle);
            } else if graph.contains_key(to) && !done.contains(to) {
                depths.insert(to, path.len());
                path.push((to, 0));
            }
        }
    }
    found
}

/// Sorts the names of a graph so that each name comes after the names on which it depends. Names that do not depend on
/// each other are sorted alphabetically. The result omits names in a cycle.
pub(crate) fn ordered(graph: &BTreeMap<String, Vec<String>>) -> Vec<String> {
    let mut missing: BTreeMap<&str, usize> = BTreeMap::new();
    let mut needed_by: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (name, needs) in graph {
        let needs: BTreeSet<&str> = needs.iter().map(String::as_str).filter(|need| graph.contains_key(*need)).collect();
        missing.insert(name, needs.len());
        for need in needs {
            needed_by.entry(need).or_default().push(name);
        }
    }
    let mut ready: BTreeSet<&str> =
        missing.iter().filter(|(_, missing)| **missing == 0).map(|(name, _)| *name).collect();
    let mut order = Vec::new();
    while let Some(name) = ready.pop_first() {
        order.push(name.to_owned());
        for after in needed_by.remove(name).unwrap_or_default() {
            work::count(1);
            let missing = missing.entry(after).or_default();
            *missing = missing.saturating_sub(1);
            if *missing == 0 {
                ready.insert(after);
            }
        }
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph(edges: &[(&str, &[&str])]) -> BTreeMap<String, Vec<String>> {
        edges
            .iter()
            .map(|(name, needs)| ((*name).to_owned(), needs.iter().map(|need| (*need).to_owned()).collect()))
            .collect()
    }

    #[test]
    fn finds_cycles() {
        assert!(cycles(&graph(&[("a", &["b"]), ("b", &["c"]), ("c", &[])])).is_empty());
        assert_eq!(
            cycles(&graph(&[("b", &["a"]), ("a", &["b"]), ("c", &["c"])])),
            [vec!["a".to_owned(), "b".to_owned()], vec!["c".to_owned()]]
        );
    }

    #[test]
    fn cycles_that_share_nodes_are_listed_once() {
        let name = |number: usize| format!("t{number:03}");
        let all: BTreeMap<String, Vec<String>> =
            (0..500).map(|number| (name(number), vec![name(number + 1), name(0)])).collect();
        let found = cycles(&all);
        assert!(!found.is_empty() && found.iter().map(Vec::len).sum::<usize>() <= 500, "{found:?}");
        let loops = cycles(&graph(&[("a", &["b", "d"]), ("b", &["a"]), ("c", &["d"]), ("d", &["c"])]));
        assert_eq!(loops, [["a", "b"], ["c", "d"]]);
    }

    #[test]
    fn orders_by_need_then_name() {
        assert_eq!(ordered(&graph(&[("a", &["z"]), ("m", &[]), ("z", &["elsewhere"])])), ["m", "z", "a"]);
    }
}
