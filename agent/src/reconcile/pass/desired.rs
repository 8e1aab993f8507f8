//! The plan for another node. The state of that node is not known here, so the plan compares two revisions as that node
//! renders them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use towpath_proto::{ModuleKind, v1alpha as pb};
use towpath_render::{
    document::to_yaml,
    objects::task::{Book, Task},
    rendering::{Inputs, Item, RenderError, Rendered, Renderer},
    template::Want,
    tree::{self, EntryKind, Tree},
    view::NodeView,
};

use super::instance;
use crate::reconcile::revision::Revision;

/// A task of a node, or one item of its loop, as a revision renders it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DesiredTask {
    /// The book, as namespace/name.
    pub task_book: String,
    /// The name of the task, with the item of its loop.
    pub name: String,
    /// The module.
    pub module: String,
    /// True for a task that runs once per definition.
    pub is_action: bool,
    /// True for a task that never changes anything.
    pub is_probe: bool,
    /// True if the condition of the task does not hold.
    pub skipped: bool,
    /// True if the book removes the items that it no longer mentions.
    pub prune: bool,
    /// The identity of the managed item. `None` if the module has none, or if it is not known.
    pub identity: Option<String>,
    /// The parameters. Null if they are not known.
    pub params: Value,
    /// A digest of the files that the task copies or runs.
    pub source: Option<String>,
    /// The reason why the task cannot be rendered yet.
    pub unknown: Option<String>,
    /// The error message of a task that cannot be rendered.
    pub error: Option<String>,
}

/// The tasks of a node in one revision.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Desired {
    /// The number of the revision. 0 for a working tree.
    pub generation: u64,
    /// The tasks. `None` if there is no revision, or if it does not name the node.
    pub tasks: Option<Vec<DesiredTask>>,
}

impl Desired {
    /// Renders the tasks of the node that a view belongs to.
    pub(in crate::reconcile) fn of(revision: &Revision, view: &NodeView, inputs: &Inputs) -> Result<Self, RenderError> {
        let generation = revision.generation;
        if !revision.set.all_nodes().contains(&view.node) {
            return Ok(Self { generation, tasks: None });
        }
        let mut all = Vec::new();
        for book in &view.books {
            let renderer = Renderer::new(&revision.set, view, book, inputs)?;
            for task in &book.tasks {
                all.extend(tasks(&renderer, book, task));
            }
        }
        Ok(Self { generation, tasks: Some(all) })
    }
}

fn tasks(renderer: &Renderer, book: &Book, task: &Task) -> Vec<DesiredTask> {
    let module = task.module.as_ref();
    let kind = module.map(|module| module.schema.kind);
    let plain = DesiredTask {
        task_book: book.id(),
        name: task.id.clone(),
        module: module.map_or("sync", |module| module.name).to_owned(),
        is_action: kind == Some(ModuleKind::Action),
        is_probe: kind.is_none_or(|kind| kind == ModuleKind::Probe),
        prune: book.prune,
        ..DesiredTask::default()
    };
    let items: Vec<Option<Item>> = match renderer.items(task) {
        Ok(Rendered::Ready(None)) => vec![None],
        Ok(Rendered::Ready(Some(items))) => items.into_iter().map(Some).collect(),
        Ok(Rendered::Wants(wants)) => return vec![DesiredTask { unknown: Some(missing(&wants)), ..plain }],
        Err(error) => return vec![DesiredTask { error: Some(error.to_string()), ..plain }],
    };
    let of_item = |item: &Option<Item>| {
        let one = DesiredTask { name: instance::name(task, item.as_ref()), ..plain.clone() };
        match render(renderer, task, item.as_ref()) {
            Ok(Rendered::Ready(Known { skipped, params, identity, source })) => {
                DesiredTask { skipped, params, identity, source, ..one }
            }
            Ok(Rendered::Wants(wants)) => DesiredTask { unknown: Some(missing(&wants)), ..one },
            Err(message) => DesiredTask { error: Some(message), ..one },
        }
    };
    items.iter().map(of_item).collect()
}

fn missing(wants: &[Want]) -> String {
    let wants: Vec<String> = wants.iter().map(ToString::to_string).collect();
    format!("it depends on {}", wants.join(", "))
}

/// The rendered part of a task.
#[derive(Default)]
struct Known {
    skipped: bool,
    params: Value,
    identity: Option<String>,
    source: Option<String>,
}

/// Renders the condition and the parameters of a task.
fn render(renderer: &Renderer, task: &Task, item: Option<&Item>) -> Result<Rendered<Known>, String> {
    let skipped = match renderer.condition(task, item).map_err(|error| error.to_string())? {
        Rendered::Ready(holds) => !holds,
        Rendered::Wants(wants) => return Ok(Rendered::Wants(wants)),
    };
    let Some(module) = &task.module else { return Ok(Rendered::Ready(Known { skipped, ..Known::default() })) };
    let params = match renderer.params(task, item).map_err(|error| error.to_string()) {
        Ok(Rendered::Ready(params)) => params.into_value(),
        // The parameters of a skipped task need not be known.
        Ok(Rendered::Wants(_)) | Err(_) if skipped => {
            return Ok(Rendered::Ready(Known { skipped, ..Known::default() }));
        }
        Ok(Rendered::Wants(wants)) => return Ok(Rendered::Wants(wants)),
        Err(message) => return Err(message),
    };
    let identity = module.schema.identity(&params);
    let source = params.get("source").and_then(Value::as_str);
    // Some modules have another kind of source, such as a device or a URL.
    let path = source.and_then(|source| tree::join(&task.within.folder, source).ok());
    let source = match (path, renderer.tree(task)) {
        (Some(path), Some(tree)) => digest(&*tree, &path).map_err(|error| format!("cannot read {path}: {error}"))?,
        _ => None,
    };
    Ok(Rendered::Ready(Known { skipped, params, identity, source }))
}

/// Returns a digest of a file, or of all files below a folder. `None` if the tree has no such path, for example because
/// the source is a URL.
fn digest(tree: &dyn Tree, path: &str) -> std::io::Result<Option<String>> {
    let Some(entry) = tree.entry(path)? else { return Ok(None) };
    let entries = match entry.kind {
        EntryKind::Folder => tree.list(path)?,
        _ => vec![entry],
    };
    let mut hasher = Sha256::new();
    // Not every kind of tree lists its folders.
    for entry in entries.iter().filter(|entry| entry.kind != EntryKind::Folder) {
        let name = entry.path.strip_prefix(path).unwrap_or(&entry.path);
        hasher.update(format!("{name}\0{:?}\0", entry.kind));
        hasher.update(Sha256::digest(tree.read(&entry.path)?.unwrap_or_default()));
    }
    Ok(Some(hex::encode(hasher.finalize())))
}

/// Compares the tasks of a node in two revisions. An empty `before` is a node on which nothing is applied.
pub fn compare(before: &[DesiredTask], after: &[DesiredTask]) -> Vec<pb::PlannedTask> {
    let (old, now) = (items(before), items(after));
    let ran: Vec<&DesiredTask> = before.iter().filter(|task| task.is_action && !task.skipped).collect();
    let mut planned: Vec<pb::PlannedTask> = after.iter().map(|task| change(task, &old, &ran)).collect();
    // An item that is not known yet may be the one that seems to be gone.
    let complete = after.iter().all(|task| task.unknown.is_none() && task.error.is_none());
    let gone = old.iter().filter(|(item, task)| !now.contains_key(*item) && task.prune && !is_absent(task));
    planned.extend(gone.map(|(_, task)| pb::PlannedTask {
        action: if complete { "remove" } else { "unknown" }.to_owned(),
        diff: Some(format!("the TaskBook no longer mentions {}", task.identity.as_deref().unwrap_or_default())),
        ..named(task)
    }));
    planned
}

/// Returns the managed items of some tasks, by module and identity.
fn items(tasks: &[DesiredTask]) -> BTreeMap<(&str, &str), &DesiredTask> {
    let managed = tasks.iter().filter(|task| !task.is_action && !task.is_probe);
    managed.filter_map(|task| Some(((task.module.as_str(), task.identity.as_deref()?), task))).collect()
}

fn is_absent(task: &DesiredTask) -> bool {
    task.skipped || task.params.get("state").and_then(Value::as_str) == Some("absent")
}

fn named(task: &DesiredTask) -> pb::PlannedTask {
    pb::PlannedTask {
        task_book: task.task_book.clone(),
        name: task.name.clone(),
        module: task.module.clone(),
        ..pb::PlannedTask::default()
    }
}

fn change(task: &DesiredTask, old: &BTreeMap<(&str, &str), &DesiredTask>, ran: &[&DesiredTask]) -> pb::PlannedTask {
    let plan = |action: &str, diff: Option<String>| pb::PlannedTask { action: action.to_owned(), diff, ..named(task) };
    if let Some(error) = &task.error {
        return pb::PlannedTask { failed: true, ..plan("unknown", Some(error.clone())) };
    }
    if let Some(unknown) = &task.unknown {
        return plan("unknown", Some(unknown.clone()));
    }
    if task.skipped || task.is_probe {
        return plan("none", None);
    }
    if task.is_action {
        let has_run = |known: &&&DesiredTask| {
            known.task_book == task.task_book
                && known.module == task.module
                && known.params == task.params
                && known.source == task.source
        };
        return match ran.iter().find(has_run) {
            Some(_) => plan("none", None),
            None => plan("run", diff(&Value::Null, task, None)),
        };
    }
    let identity = task.identity.as_deref().map(|identity| (task.module.as_str(), identity));
    match identity.and_then(|identity| old.get(&identity)).filter(|known| !known.skipped) {
        Some(known) if known.params == task.params && known.source == task.source => plan("none", None),
        Some(known) => {
            let action = if is_absent(task) { "remove" } else { "update" };
            plan(action, diff(&known.params, task, known.source.as_ref()))
        }
        None if is_absent(task) => plan("unknown", Some("the present state of the item is not known".to_owned())),
        None => plan("create", diff(&Value::Null, task, None)),
    }
}

/// Returns the difference of the parameters, as YAML. A changed source is named.
fn diff(before: &Value, task: &DesiredTask, source: Option<&String>) -> Option<String> {
    let lines = |value: &Value| if value.is_null() { String::new() } else { to_yaml(value) };
    let (old, new) = (lines(before), lines(&task.params));
    let mut text = String::new();
    if old != new {
        text = towpath_host::diff::lines(&old, &new);
    }
    if !before.is_null() && source != task.source.as_ref() {
        let name = task.params.get("source").and_then(Value::as_str).unwrap_or_default();
        text.push_str(&format!("the content of {name} differs\n"));
    }
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn file(path: &str, content: &str) -> DesiredTask {
        DesiredTask {
            task_book: "app/b".into(),
            name: path.into(),
            module: "file".into(),
            identity: Some(path.into()),
            params: json!({"path": path, "content": content}),
            prune: true,
            ..DesiredTask::default()
        }
    }

    fn action(argument: &str) -> DesiredTask {
        DesiredTask {
            module: "command".into(),
            is_action: true,
            identity: None,
            params: json!({"argv": [argument]}),
            ..file("acts", "")
        }
    }

    fn actions(before: &[DesiredTask], after: &[DesiredTask]) -> Vec<String> {
        compare(before, after).into_iter().map(|task| task.action).collect()
    }

    #[test]
    fn tasks_of_a_new_node_are_created_and_run() {
        let absent = DesiredTask { params: json!({"path": "/c", "state": "absent"}), ..file("/c", "") };
        let probe = DesiredTask { is_probe: true, identity: None, ..file("asks", "") };
        assert_eq!(actions(&[], &[file("/a", "x"), action("x"), absent, probe]), ["create", "run", "unknown", "none"]);
    }

    #[test]
    fn only_differences_between_the_revisions_are_changes() {
        let before = [file("/a", "x"), file("/b", "x"), file("/c", "x"), action("x")];
        let after = [file("/a", "x"), file("/b", "y"), action("x"), action("y")];
        assert_eq!(actions(&before, &after), ["none", "update", "none", "run", "remove"]);
        let changed = compare(&before, &after).remove(1).diff.unwrap();
        assert!(changed.contains("-content: x\n+content: y\n"), "{changed}");
    }

    #[test]
    fn item_is_removed_only_from_a_book_that_prunes_and_when_all_items_are_known() {
        let kept = DesiredTask { prune: false, ..file("/a", "x") };
        assert!(actions(&[kept], &[]).is_empty());
        let unknown = DesiredTask { unknown: Some("it depends on x".into()), ..file("/b", "") };
        assert_eq!(actions(&[file("/a", "x")], &[unknown]), ["unknown", "unknown"]);
        let absent = DesiredTask { params: json!({"path": "/a", "state": "absent"}), ..file("/a", "") };
        assert_eq!(actions(&[file("/a", "x")], std::slice::from_ref(&absent)), ["remove"]);
        assert!(actions(&[absent], &[]).is_empty(), "the file is already gone");
    }

    #[test]
    fn task_whose_condition_begins_to_hold_is_created() {
        let skipped = DesiredTask { skipped: true, ..file("/a", "x") };
        assert_eq!(actions(std::slice::from_ref(&skipped), &[file("/a", "x")]), ["create"]);
        assert_eq!(actions(&[file("/a", "x")], &[skipped]), ["none"]);
    }

    #[test]
    fn changed_content_of_a_source_is_an_update() {
        let of = |digest: &str| DesiredTask {
            params: json!({"path": "/a", "source": "files/a"}),
            source: Some(digest.into()),
            ..file("/a", "")
        };
        let planned = compare(&[of("1")], &[of("2")]);
        assert_eq!(
            (planned[0].action.as_str(), planned[0].diff.as_deref()),
            ("update", Some("the content of files/a differs\n"))
        );
    }

    #[test]
    fn item_that_moves_to_another_book_is_not_removed() {
        let moved = DesiredTask { task_book: "app/c".into(), ..file("/a", "x") };
        assert_eq!(actions(&[file("/a", "x")], &[moved]), ["none"]);
    }
}
