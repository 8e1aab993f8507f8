//! Files of state repositories, loaded as the agent loads them. If they are good, all tasks are rendered for two nodes.
//!
//! A line `#!file PATH` begins a further file; `#!file web:PATH` and `#!file library:PATH` begin files of two more
//! sources. The lines before the first such line are `fleet.yaml`. One mutation of four puts a boundary number in place
//! of a number.
#![no_main]

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use libfuzzer_sys::{fuzz_mutator, fuzz_target, fuzzer_mutate};
use serde_json::json;
use towpath_render::{
    objects::{ObjectSet, SourceTree, book_digest, load_partial, segments, task::Book, untrusted_uses},
    problem::Problem,
    rendering::{Inputs, Rendered, Renderer, pending_tasks},
    tree::MemoryTree,
    view::NodeView,
};

fuzz_target!(|bytes: &[u8]| {
    let sources = sources(bytes);
    let loaded = load_partial(&sources, &BTreeMap::new());
    let held = loaded.set.held.values().map(|held| &held.problem);
    for problem in loaded.errors.iter().chain(&loaded.warnings).chain(held) {
        check_place(problem, &sources);
        assert!(!problem.to_string().is_empty());
    }
    if loaded.errors.is_empty() {
        for node in loaded.set.all_nodes().iter().take(2) {
            node_renders(&loaded.set, node);
        }
    }
});

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    let changed = if seed.is_multiple_of(4) { with_number(&data[..size], seed / 4) } else { None };
    match changed.filter(|changed| changed.len() <= max_size) {
        Some(changed) => {
            data[..changed.len()].copy_from_slice(&changed);
            changed.len()
        }
        None => fuzzer_mutate(data, size, max_size),
    }
});

const NUMBERS: [&str; 8] = [
    "0",
    "128",
    "65536",
    "2147483648",
    "4294967296",
    "9007199254740993",
    "9223372036854775807",
    "18446744073709551615",
];

/// The text with another number in place of one of its numbers. `None` if it has none.
fn with_number(text: &[u8], random: u32) -> Option<Vec<u8>> {
    let digit = |at: &usize| text.get(*at).is_some_and(u8::is_ascii_digit);
    let starts: Vec<usize> = (0..text.len()).filter(|at| digit(at) && (*at == 0 || !digit(&(at - 1)))).collect();
    let random = random as usize;
    let start = *starts.get((random / NUMBERS.len()).checked_rem(starts.len())?)?;
    let end = (start..text.len()).find(|at| !digit(at)).unwrap_or(text.len());
    Some([&text[..start], NUMBERS[random % NUMBERS.len()].as_bytes(), &text[end..]].concat())
}

const SOURCES: [&str; 3] = ["fleet", "web", "library"];

fn sources(bytes: &[u8]) -> Vec<SourceTree> {
    let mut files: [Vec<(String, Vec<u8>)>; 3] = [vec![("fleet.yaml".into(), Vec::new())], Vec::new(), Vec::new()];
    let mut at = 0;
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        if let Some(name) = line.strip_prefix(b"#!file ") {
            let name = String::from_utf8_lossy(name);
            let name = name.trim_end_matches('\n');
            let of_source = |at: usize| Some((at, name.strip_prefix(SOURCES[at])?.strip_prefix(':')?));
            let (source, path) = (1..SOURCES.len()).find_map(of_source).unwrap_or((0, name));
            files[source].push((path.to_owned(), Vec::new()));
            at = source;
        } else if let Some((_, content)) = files[at].last_mut() {
            content.extend_from_slice(line);
        }
    }
    let source = |(name, files): (&str, Vec<(String, Vec<u8>)>)| {
        let tree = Arc::new(files.into_iter().collect::<MemoryTree>());
        SourceTree { name: name.into(), tree, library: name == "library", globals: name == "fleet" }
    };
    SOURCES.into_iter().zip(files).filter(|(_, files)| !files.is_empty()).map(source).collect()
}

/// A mistake is in a line of its file, and shows a part of this line.
fn check_place(problem: &Problem, sources: &[SourceTree]) {
    let source = sources.iter().find(|source| source.name == problem.source);
    let content = source.and_then(|source| source.tree.read(&problem.file).ok().flatten()).unwrap_or_default();
    let text = String::from_utf8_lossy(&content).replace("\r\n", "\n");
    // YAML ends a line at each of these characters.
    let lines: Vec<&str> = text.split(['\n', '\r', '\u{85}', '\u{2028}', '\u{2029}']).collect();
    // The end of a file without a line break is on a line of its own.
    assert!((1..=lines.len() + 1).contains(&problem.line), "line {} of {}: {problem}", problem.line, lines.len());
    let line = lines.get(problem.line - 1).copied().unwrap_or_default();
    assert!(line.contains(&problem.excerpt), "{:?} is not in its line: {problem}", problem.excerpt);
    assert!(problem.column >= 1 && problem.caret <= problem.excerpt.chars().count() + 1, "{problem:?}");
}

fn node_renders(set: &ObjectSet, node: &str) {
    let view = NodeView::new(set, node);
    let inputs = Inputs {
        facts: json!({ "hostname": node, "os": { "family": "debian", "version": "12" }, "cpus": 4 }),
        nodes: Arc::new(vec![json!({ "name": node, "labels": view.labels, "facts": { "hostname": "h" } })]),
        computed: BTreeMap::new(),
        unknown: BTreeSet::new(),
        event: None,
    };
    pending_tasks(set, &view);
    untrusted_uses(set);
    for book in &view.books {
        segments(book);
        book_digest(set, book);
        book_renders(set, &view, book, &inputs);
    }
}

fn book_renders(set: &ObjectSet, view: &NodeView, book: &Book, inputs: &Inputs) {
    let Ok(renderer) = Renderer::new(set, view, book, inputs) else { return };
    let result = json!({ "changed": true, "stdout": "out", "code": 0 });
    for task in book.tasks.iter().chain(&book.handlers) {
        let items = match renderer.items(task) {
            Ok(Rendered::Ready(Some(items))) => items.into_iter().take(3).map(Some).collect(),
            Ok(Rendered::Ready(None)) => vec![None],
            _ => continue,
        };
        for item in &items {
            let _ = renderer.condition(task, item.as_ref());
            let _ = renderer.params(task, item.as_ref());
            for expression in task.success.iter().chain(&task.changed) {
                let _ = renderer.judge(task, item.as_ref(), "success", expression, &result);
            }
        }
        if let Some(name) = &task.register {
            renderer.register(name, &result);
        }
    }
}
