//! Divides a TaskBook into segments. Nodes wait for each other only between two segments, never within a segment.

use std::ops::Range;

use super::task::{Book, Task};

/// A part of a TaskBook. Nodes wait for each other only between segments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// The positions of the segment's tasks in the list of tasks of the TaskBook.
    pub tasks: Range<usize>,
    /// True if all nodes must complete the earlier segments before a node begins this segment.
    pub barrier: bool,
    /// The kind of the segment.
    pub kind: SegmentKind,
}

/// The kind of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SegmentKind {
    /// The segment contains ordinary tasks of the TaskBook.
    Tasks,
    /// The segment is a single task with `elect`. Only elected nodes run the task, and all nodes use the result of the
    /// task.
    Elected,
    /// The segment is a single task with the field `serialize`. The field `serialize` limits the number of nodes that
    /// run the task at the same time.
    Own,
}

/// Returns the segments of a TaskBook. A task with `sync` begins a new segment. A task with `elect` or `serialize` is a
/// separate segment.
pub fn segments(book: &Book) -> Vec<Segment> {
    let mut found: Vec<Segment> = Vec::new();
    let mut begin = 0;
    let mut barrier = false;
    let mut close = |end: usize, begin: &mut usize, barrier: &mut bool, kind: SegmentKind, force: bool| {
        if end > *begin || force || *barrier {
            found.push(Segment { tasks: *begin..end, barrier: *barrier, kind });
            *barrier = false;
        }
        *begin = end;
    };
    for (at, task) in book.tasks.iter().enumerate() {
        if task.sync {
            close(at, &mut begin, &mut barrier, SegmentKind::Tasks, true);
            barrier = true;
        }
        if let Some(kind) = own_kind(task) {
            if at > begin {
                close(at, &mut begin, &mut barrier, SegmentKind::Tasks, false);
            }
            close(at + 1, &mut begin, &mut barrier, kind, true);
        } else if waits_for_shared(task) && at > begin {
            close(at, &mut begin, &mut barrier, SegmentKind::Tasks, false);
        }
    }
    close(book.tasks.len(), &mut begin, &mut barrier, SegmentKind::Tasks, false);
    if found.is_empty() {
        found.push(Segment { tasks: 0..0, barrier: false, kind: SegmentKind::Tasks });
    }
    found
}

fn own_kind(task: &Task) -> Option<SegmentKind> {
    if task.elect.is_some() {
        return Some(SegmentKind::Elected);
    }
    task.serialize.is_some().then_some(SegmentKind::Own)
}

fn waits_for_shared(task: &Task) -> bool {
    task.module.as_ref().is_some_and(|module| {
        let mut waiting = module.schema.message.fields.iter().filter(|field| field.waits_for_nodes);
        waiting.any(|field| module.params.get(field.name).is_some())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::{SourceTree, load};
    use crate::tree::MemoryTree;
    use std::{collections::BTreeMap, sync::Arc};

    fn of(tasks: &str) -> Vec<(Range<usize>, bool, SegmentKind)> {
        let text = format!(
            "metadata: {{apiVersion: v1alpha, kind: Namespace, name: n}}\n---\nmetadata: {{apiVersion: v1alpha, kind: Node, name: a}}\n---\nmetadata: {{apiVersion: v1alpha, kind: TaskBook, name: b, namespace: n}}\nspec:\n  targets: {{nodes: [a]}}\n  tasks:\n{tasks}"
        );
        let tree: MemoryTree = [("b.yaml", text.as_str())].into_iter().collect();
        let source = SourceTree { name: "s".into(), tree: Arc::new(tree), library: false, globals: true };
        let loaded = load(&[source], &BTreeMap::new());
        assert!(loaded.errors.is_empty(), "{:?}", loaded.errors);
        segments(&loaded.set.books["n/b"]).into_iter().map(|s| (s.tasks, s.barrier, s.kind)).collect()
    }

    #[test]
    fn cuts_divide_a_book() {
        use SegmentKind::{Elected, Own, Tasks};
        let debug = |name: &str, more: &str| format!("    - {{name: {name}, debug: {{message: x}}{more}}}\n");
        assert_eq!(of(&(debug("a", "") + &debug("b", ""))), [(0..2, false, Tasks)]);
        assert_eq!(of(&(debug("a", "") + &debug("b", ", sync: true"))), [(0..1, false, Tasks), (1..2, true, Tasks)]);
        let alone =
            "    - {name: a, debug: {message: x}}\n    - {name: s, sync: true}\n    - {name: b, debug: {message: x}}\n";
        assert_eq!(of(alone), [(0..1, false, Tasks), (1..3, true, Tasks)]);
        let elected = debug("a", "")
            + "    - {name: e, command: {argv: [x]}, elect: {count: 1}}\n"
            + &debug("b", "")
            + "    - {name: o, command: {argv: [x]}, serialize: {count: 1}, sync: true}\n";
        assert_eq!(
            of(&elected),
            [(0..1, false, Tasks), (1..2, false, Elected), (2..3, false, Tasks), (3..4, true, Own)]
        );
    }
}
