//! Computes digests of TaskBooks. The digest of a TaskBook covers the TaskBook, the includes, the files that the tasks
//! name, and the variables that the tasks use. A commit starts a run of a TaskBook only if the commit changes the
//! digest of the TaskBook.

use std::{collections::BTreeSet, sync::LazyLock};

use regex::Regex;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::{
    Key, ObjectSet,
    task::{Book, IncludeContext, Task},
};
use crate::tree::{self, EntryKind};

/// The maximum number of files that one digest covers.
const FILES: usize = 10_000;

#[expect(clippy::unwrap_used, reason = "the expressions are constant and tested")]
static IMPORTS: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r#"\{%[-+]?\s*(?:import|include|extends|from)\s+["']([^"']+)["']"#).unwrap());

#[expect(clippy::unwrap_used, reason = "the expressions are constant and tested")]
static VARIABLES: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"\bvars\b(?:\.([A-Za-z_]\w*))?").unwrap());

/// Returns the digest of a TaskBook, as a hexadecimal text.
pub fn book_digest(set: &ObjectSet, book: &Book) -> String {
    let mut parts = Parts::new(set);
    let key = Key { kind: "TaskBook", namespace: book.namespace.clone(), name: book.name.clone() };
    if let Some(object) = set.objects.get(&key) {
        parts.add(&object.spec.to_string());
    }
    let lists = [&book.tasks, &book.handlers, &book.rollout.before, &book.rollout.after];
    for task in lists.into_iter().flatten() {
        parts.task(task);
    }
    for object in set.variables_of(&book.namespace) {
        parts.object(&object.key);
    }
    parts.end()
}

/// Returns the digest of one task and of the variables that the task reads. An elected task keeps its result until the
/// digest of the task changes.
pub fn task_digest(set: &ObjectSet, book: &Book, task: &Task) -> String {
    let mut parts = Parts::new(set);
    parts.task(task);
    let mut seen: BTreeSet<String> = BTreeSet::new();
    let mut texts = vec![parts.text.clone()];
    while let Some(text) = texts.pop() {
        for found in VARIABLES.captures_iter(&text) {
            // A text that uses `vars` without a literal name may read any variable.
            let name = found.get(1).map_or("*", |name| name.as_str()).to_owned();
            if !seen.insert(name.clone()) {
                continue;
            }
            let mine = |wanted: &str| name == "*" || wanted == name;
            let own = book.vars.iter().filter(|(wanted, _)| mine(wanted)).map(|(_, value)| value.to_string());
            texts.extend(own.inspect(|value| parts.add(value)).collect::<Vec<_>>());
            for object in &set.variables {
                let by_node = object.by_node.values().filter_map(Value::as_object).flatten();
                for (_, value) in object.values.iter().chain(by_node).filter(|(wanted, _)| mine(wanted)) {
                    parts.add(&value.to_string());
                    texts.push(value.to_string());
                }
                for computed in object.computed.iter().filter(|computed| mine(&computed.name)) {
                    let text = format!("{:?} {}", computed.expression, computed.value);
                    parts.add(&text);
                    texts.push(text);
                }
            }
        }
    }
    parts.end()
}

struct Parts<'a> {
    set: &'a ObjectSet,
    hash: Sha256,
    files: BTreeSet<(String, String)>,
    /// The texts of the newest task, which are searched for names of variables.
    text: String,
}

impl<'a> Parts<'a> {
    fn new(set: &'a ObjectSet) -> Self {
        Self { set, hash: Sha256::new(), files: BTreeSet::new(), text: String::new() }
    }

    fn add(&mut self, text: &str) {
        self.hash.update((text.len() as u64).to_le_bytes());
        self.hash.update(text.as_bytes());
    }

    fn end(self) -> String {
        hex::encode(&self.hash.finalize()[..16])
    }

    fn object(&mut self, key: &Key) {
        if let Some(object) = self.set.objects.get(key) {
            self.add(&format!("{key:?}"));
            self.add(&object.spec.to_string());
        }
    }

    fn task(&mut self, task: &Task) {
        let module = task.module.as_ref().map(|module| (module.name, module.params.to_string()));
        let when: Vec<&str> = task.when.iter().map(|condition| condition.expression.as_str()).collect();
        let text = format!(
            "{} {module:?} {when:?} {:?} {:?} {:?} {:?} {:?} {:?} {:?} {:?} {:?} {:?} {:?}",
            task.id,
            task.loop_items,
            task.vars,
            task.register,
            task.success,
            task.changed,
            task.until,
            task.requires,
            task.notify,
            task.sync,
            task.serialize,
            task.elect,
        );
        self.add(&text);
        let mut within = Some(&task.within);
        let mut vars = String::new();
        while let Some(one) = within {
            let shown = Value::Object(one.vars.clone()).to_string();
            self.add(&shown);
            vars.push_str(&shown);
            within = one.outer.as_ref();
        }
        self.text = format!("{text}{vars}");
        let Some(module) = &task.module else { return };
        for name in ["template", "source"] {
            if let Some(path) = module.params.get(name).and_then(Value::as_str) {
                self.file(&task.within, path);
            }
        }
        self.imports(&task.within, &module.params.to_string());
    }

    /// Adds a file, or all files of a folder. For a template file, also adds the files that the template imports. If
    /// the path itself contains a template, adds all files of the source.
    fn file(&mut self, within: &IncludeContext, path: &str) {
        let Some(tree) = self.set.trees.get(&within.source).cloned() else { return };
        let dynamic = path.contains("{{") || path.contains("{%");
        let at = if dynamic { String::new() } else { tree::join(&within.folder, path).unwrap_or_default() };
        if self.files.len() > FILES || !self.files.insert((within.source.clone(), at.clone())) {
            return;
        }
        let entry = if dynamic { None } else { tree.entry(&at).ok().flatten() };
        if entry.as_ref().is_none_or(|entry| entry.kind == EntryKind::Folder) {
            for entry in tree.list(&at).unwrap_or_default() {
                self.add(&format!("{} {:?} {:?}", entry.path, entry.kind, entry.id));
            }
            return;
        }
        if let Some(entry) = entry {
            self.add(&format!("{} {:?} {:?}", entry.path, entry.kind, entry.id));
            if let Ok(Some(bytes)) = tree.read(&at) {
                self.imports(within, &String::from_utf8_lossy(&bytes));
            }
        }
    }

    fn imports(&mut self, within: &IncludeContext, text: &str) {
        let named: Vec<String> = IMPORTS.captures_iter(text).map(|found| found[1].to_owned()).collect();
        for path in named {
            self.file(within, &path);
        }
    }
}
