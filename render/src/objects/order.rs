//! Order and cycles of things that come after one another.

use std::collections::{BTreeMap, BTreeSet};

/// The cycles of a graph, one for each set of nodes that can't be ordered; each begins with its least name.
pub(super) fn cycles(graph: &BTreeMap<String, Vec<String>>) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    let mut done: BTreeSet<&str> = BTreeSet::new();
    for start in graph.keys() {
        // Depth first without recursion: a hostile graph may be deep.
        let mut path: Vec<(&str, usize)> = vec![(start, 0)];
        while let Some((node, next)) = path.last_mut() {
            let node = *node;
            let edges = graph.get(node).map(Vec::as_slice).unwrap_or_default();
            if done.contains(node) || *next >= edges.len() {
                done.insert(node);
                path.pop();
                continue;
            }
            let to = edges[*next].as_str();
            *next += 1;
            if let Some(at) = path.iter().position(|(seen, _)| *seen == to) {
                let mut cycle: Vec<String> = path[at..].iter().map(|(node, _)| (*node).to_owned()).collect();
                let least = cycle.iter().enumerate().min_by_key(|(_, name)| *name).map_or(0, |(at, _)| at);
                cycle.rotate_left(least);
                if !found.contains(&cycle) {
                    found.push(cycle);
                }
            } else if graph.contains_key(to) && !done.contains(to) {
                path.push((to, 0));
            }
        }
    }
    found
}

/// Names so that each comes behind those it depends on, otherwise by name. What is in a cycle is left out.
pub(crate) fn ordered(graph: &BTreeMap<String, Vec<String>>) -> Vec<String> {
    let mut order: Vec<String> = Vec::new();
    let mut placed: BTreeSet<&str> = BTreeSet::new();
    loop {
        let ready = graph.iter().find(|(name, needs)| {
            !placed.contains(name.as_str())
                && needs.iter().all(|need| placed.contains(need.as_str()) || !graph.contains_key(need))
        });
        let Some((name, _)) = ready else { return order };
        placed.insert(name);
        order.push(name.clone());
    }
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
    fn orders_by_need_then_name() {
        assert_eq!(ordered(&graph(&[("a", &["z"]), ("m", &[]), ("z", &["elsewhere"])])), ["m", "z", "a"]);
    }
}
