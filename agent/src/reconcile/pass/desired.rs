//! The plan for another node. The plan for another node compares the tasks of two revisions, because this process
//! cannot read the files on another node.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use towpath_modules::resolve;
use towpath_proto::{ModuleKind, v1alpha as pb};
use towpath_render::{
    document::to_yaml,
    objects::task::{Book, ModuleUse, Task},
    rendering::{Inputs, Item, RenderError, Rendered, Renderer},
    template::MissingInput,
    tree::{self, EntryKind, Tree},
    view::NodeView,
};

use super::instance;
use crate::reconcile::revision::Revision;

/// A task of a node, rendered from a revision. If a task has a loop, each loop item is a separate task.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DesiredTask {
    /// The book, as namespace/name.
    pub task_book: String,
    /// The name of the task and, for a task with a loop, the loop item.
    pub name: String,
    /// The module.
    pub module: String,
    /// True for a task that runs again only if its definition changes.
    pub is_action: bool,
    /// True for a task that never changes the node.
    pub is_probe: bool,
    /// True if the condition of the task is false.
    pub skipped: bool,
    /// The identities of the managed items. `items` is `None` if the items of the task are not known.
    pub items: Option<Vec<String>>,
    /// The parameters of the task, or `null` if the parameters are not known.
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
    /// The generation of the revision, or 0 for a working tree.
    pub generation: u64,
    /// The tasks. `tasks` is `None` if there is no revision, or if the revision does not name the node.
    pub tasks: Option<Vec<DesiredTask>>,
    /// The books of the node. An entry is true if the TaskBook removes the items that it no longer mentions.
    pub prunes: BTreeMap<String, bool>,
}

impl Desired {
    /// Renders the tasks of one node. `view` contains the parts of the revision that concern the node.
    pub(crate) fn of(revision: &Revision, view: &NodeView, inputs: &Inputs) -> Result<Self, RenderError> {
        let generation = revision.id.generation;
        if !revision.set.all_nodes().contains(&view.node) {
            return Ok(Self { generation, ..Self::default() });
        }
        let mut all = Vec::new();
        for book in &view.books {
            let renderer = Renderer::new(&revision.set, view, book, inputs)?;
            for task in &book.tasks {
                all.extend(tasks(&renderer, book, task));
            }
        }
        let prunes = view.books.iter().map(|book| (book.id(), book.prune)).collect();
        Ok(Self { generation, tasks: Some(all), prunes })
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
        ..DesiredTask::default()
    };
    let items: Vec<Option<Item>> = match renderer.items(task) {
        Ok(Rendered::Ready(None)) => vec![None],
        Ok(Rendered::Ready(Some(items))) => items.into_iter().map(Some).collect(),
        Ok(Rendered::Missing(missing_inputs)) => {
            return vec![DesiredTask { unknown: Some(missing(&missing_inputs)), ..plain }];
        }
        Err(error) => return vec![DesiredTask { error: Some(error.to_string()), ..plain }],
    };
    let of_item = |item: &Option<Item>| {
        let one = DesiredTask { name: instance::name(task, item.as_ref()), ..plain.clone() };
        match render(renderer, task, item.as_ref()) {
            Ok(Rendered::Ready(Known { skipped, params, items, source })) => {
                DesiredTask { skipped, params, items, source, ..one }
            }
            Ok(Rendered::Missing(missing_inputs)) => DesiredTask { unknown: Some(missing(&missing_inputs)), ..one },
            Err(message) => DesiredTask { error: Some(message), ..one },
        }
    };
    items.iter().map(of_item).collect()
}

fn missing(missing_inputs: &[MissingInput]) -> String {
    let missing_inputs: Vec<String> = missing_inputs.iter().map(ToString::to_string).collect();
    format!("it depends on {}", missing_inputs.join(", "))
}

/// The rendered part of a task.
#[derive(Default)]
struct Known {
    skipped: bool,
    params: Value,
    items: Option<Vec<String>>,
    source: Option<String>,
}

/// Renders the condition and the parameters of a task.
fn render(renderer: &Renderer, task: &Task, item: Option<&Item>) -> Result<Rendered<Known>, String> {
    let skipped = match renderer.condition(task, item).map_err(|error| error.to_string())? {
        Rendered::Ready(holds) => !holds,
        Rendered::Missing(missing_inputs) => return Ok(Rendered::Missing(missing_inputs)),
    };
    let Some(module) = &task.module else {
        return Ok(Rendered::Ready(Known { skipped, items: Some(Vec::new()), ..Known::default() }));
    };
    let params = match renderer.params(task, item).map_err(|error| error.to_string()) {
        Ok(Rendered::Ready(params)) => params.into_value(),
        // The parameters of a skipped task need not be known. Its items are then not known either.
        Ok(Rendered::Missing(_)) | Err(_) if skipped => {
            return Ok(Rendered::Ready(Known { skipped, ..Known::default() }));
        }
        Ok(Rendered::Missing(missing_inputs)) => return Ok(Rendered::Missing(missing_inputs)),
        Err(message) => return Err(message),
    };
    let items = items_of(module, &params);
    let source = params.get("source").and_then(Value::as_str);
    // Some modules have another kind of source, such as a device or a URL.
    let path = source.and_then(|source| tree::join(&task.within.folder, source).ok());
    let source = match (path, renderer.tree(task)) {
        (Some(path), Some(tree)) => digest(&*tree, &path).map_err(|error| format!("cannot read {path}: {error}"))?,
        _ => None,
    };
    Ok(Rendered::Ready(Known { skipped, params, items, source }))
}

/// Returns the identities of the items that a task manages, for example each package of a list. Returns `None` if the
/// items of the task are not known.
fn items_of(module: &ModuleUse, params: &Value) -> Option<Vec<String>> {
    if module.schema.kind != ModuleKind::State {
        return Some(Vec::new());
    }
    let options = resolve(module.name, params).ok()?;
    let parts = options.parts();
    if parts.is_empty() { Some(vec![module.schema.identity(params)?]) } else { Some(parts.to_vec()) }
}

/// Returns a digest of a file, or of all files below a folder. Returns `None` if the tree has no such path, for example
/// because the source is a URL.
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

/// Compares the tasks that two revisions define for a node. An empty `before` represents a node on which nothing is
/// applied.
pub fn compare(before: &Desired, after: &Desired) -> Vec<pb::PlannedTask> {
    let (before_tasks, after_tasks) = (tasks_of(before), tasks_of(after));
    let base = Base { owners: owners(before_tasks), tasks: before_tasks };
    let mut planned: Vec<pb::PlannedTask> = after_tasks.iter().map(|task| change(task, &base)).collect();
    let now = owners(after_tasks);
    // An item that is not known yet may be the one that seems to be gone.
    let complete =
        after_tasks.iter().all(|task| task.unknown.is_none() && task.error.is_none() && task.items.is_some());
    let prunes = |book: &String| after.prunes.get(book).or_else(|| before.prunes.get(book)).copied().unwrap_or(false);
    let gone = |(item, task): &(&(&str, &str), &&DesiredTask)| {
        !now.contains_key(*item) && prunes(&task.task_book) && !is_absent(task)
    };
    planned.extend(base.owners.iter().filter(gone).map(|((_, identity), task)| pb::PlannedTask {
        action: if complete { "remove" } else { "unknown" }.to_owned(),
        diff: Some(format!("the TaskBook no longer mentions {identity}")),
        ..named(task)
    }));
    planned
}

fn tasks_of(desired: &Desired) -> &[DesiredTask] {
    desired.tasks.as_deref().unwrap_or_default()
}

/// The tasks of the base revision, to which a plan compares a newer revision.
struct Base<'t> {
    owners: BTreeMap<(&'t str, &'t str), &'t DesiredTask>,
    tasks: &'t [DesiredTask],
}

impl<'t> Base<'t> {
    /// Returns the task of the base revision that manages one of the items of the given task. Returns `None` if no task
    /// manages the item, or if the condition of the task is false.
    fn owner(&self, task: &DesiredTask) -> Option<&'t DesiredTask> {
        let items = task.items.iter().flatten();
        items
            .filter_map(|item| self.owners.get(&(task.module.as_str(), item.as_str())).copied())
            .find(|old| !old.skipped)
    }

    /// Returns true if the base revision has a task of the same module that cannot be rendered. A task that cannot be
    /// rendered may already provide the desired state.
    fn may_have(&self, task: &DesiredTask) -> bool {
        self.tasks.iter().any(|old| {
            let is_unknown = old.unknown.is_some() || old.error.is_some() || old.items.is_none() && !old.skipped;
            let is_same = if task.is_action { old.task_book == task.task_book } else { true };
            is_unknown && is_same && old.module == task.module
        })
    }
}

/// Returns the managed items by module and identity. Each entry contains the task that manages the item. If several
/// tasks have the same item, the item belongs to the task whose condition is true.
fn owners(tasks: &[DesiredTask]) -> BTreeMap<(&str, &str), &DesiredTask> {
    let mut owners: BTreeMap<(&str, &str), &DesiredTask> = BTreeMap::new();
    for task in tasks {
        for item in task.items.iter().flatten() {
            let owner = owners.entry((task.module.as_str(), item.as_str())).or_insert(task);
            if owner.skipped {
                *owner = task;
            }
        }
    }
    owners
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

fn change(task: &DesiredTask, base: &Base<'_>) -> pb::PlannedTask {
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
    let new = |action: &str| match base.may_have(task) {
        true => plan("unknown", Some("the accepted revision has a task of this module that is not known".to_owned())),
        false => plan(action, diff(&Value::Null, task, None)),
    };
    if task.is_action {
        let has_run = |known: &&DesiredTask| {
            known.is_action
                && !known.skipped
                && known.task_book == task.task_book
                && known.module == task.module
                && known.params == task.params
                && known.source == task.source
        };
        return match base.tasks.iter().find(has_run) {
            Some(_) => plan("none", None),
            None => new("run"),
        };
    }
    match base.owner(task) {
        Some(known) if known.params == task.params && known.source == task.source => plan("none", None),
        Some(known) => {
            let action = if is_absent(task) { "remove" } else { "update" };
            plan(action, diff(&known.params, task, known.source.as_ref()))
        }
        None if is_absent(task) => plan("unknown", Some("the present state of the item is not known".to_owned())),
        None => new("create"),
    }
}

/// Returns the differences between two sets of parameters, as YAML. A changed source is named.
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
            items: Some(vec![path.into()]),
            params: json!({"path": path, "content": content}),
            ..DesiredTask::default()
        }
    }

    fn action(argument: &str) -> DesiredTask {
        DesiredTask {
            module: "command".into(),
            is_action: true,
            items: Some(Vec::new()),
            params: json!({"argv": [argument]}),
            ..file("acts", "")
        }
    }

    fn packages(names: &[&str]) -> DesiredTask {
        let items = Some(names.iter().map(|name| (*name).to_owned()).collect());
        DesiredTask { module: "package".into(), items, params: json!({"names": names}), ..file("tools", "") }
    }

    fn unknown(task: DesiredTask) -> DesiredTask {
        DesiredTask { unknown: Some("it depends on x".into()), items: None, params: Value::Null, ..task }
    }

    fn skipped(task: DesiredTask) -> DesiredTask {
        DesiredTask { skipped: true, ..task }
    }

    fn desired(tasks: &[DesiredTask]) -> Desired {
        Desired { generation: 1, tasks: Some(tasks.to_vec()), prunes: [("app/b".to_owned(), true)].into() }
    }

    fn actions(before: &[DesiredTask], after: &[DesiredTask]) -> Vec<String> {
        compare(&desired(before), &desired(after)).into_iter().map(|task| task.action).collect()
    }

    #[test]
    fn tasks_of_a_new_node_are_created_and_run() {
        let absent = DesiredTask { params: json!({"path": "/c", "state": "absent"}), ..file("/c", "") };
        let probe = DesiredTask { is_probe: true, items: Some(Vec::new()), ..file("asks", "") };
        assert_eq!(actions(&[], &[file("/a", "x"), action("x"), absent, probe]), ["create", "run", "unknown", "none"]);
    }

    #[test]
    fn only_differences_between_the_revisions_are_changes() {
        let before = [file("/a", "x"), file("/b", "x"), file("/c", "x"), action("x")];
        let after = [file("/a", "x"), file("/b", "y"), action("x"), action("y")];
        assert_eq!(actions(&before, &after), ["none", "update", "none", "run", "remove"]);
        let changed = compare(&desired(&before), &desired(&after)).remove(1).diff.unwrap();
        assert!(changed.contains("-content: x\n+content: y\n"), "{changed}");
    }

    #[test]
    fn item_is_removed_only_from_a_book_that_prunes_and_when_all_items_are_known() {
        let (before, mut after) = (desired(&[file("/a", "x")]), desired(&[]));
        assert_eq!(compare(&before, &after).len(), 1);
        after.prunes.insert("app/b".into(), false);
        assert!(compare(&before, &after).is_empty(), "the new revision of the book keeps its items");
        after.prunes.clear();
        assert_eq!(compare(&before, &after).len(), 1, "a deleted book is removed under its last definition");
        assert_eq!(actions(&[file("/a", "x")], &[unknown(file("/b", ""))]), ["unknown", "unknown"]);
        let hidden = DesiredTask { items: None, ..skipped(file("/b", "")) };
        assert_eq!(actions(&[file("/a", "x")], &[hidden]), ["none", "unknown"]);
        let absent = DesiredTask { params: json!({"path": "/a", "state": "absent"}), ..file("/a", "") };
        assert_eq!(actions(&[file("/a", "x")], std::slice::from_ref(&absent)), ["remove"]);
        assert!(actions(&[absent], &[]).is_empty(), "the file is already gone");
    }

    #[test]
    fn task_whose_condition_begins_to_hold_is_created() {
        let off = skipped(file("/a", "x"));
        assert_eq!(actions(std::slice::from_ref(&off), &[file("/a", "x")]), ["create"]);
        assert_eq!(actions(&[file("/a", "x")], &[off]), ["none"]);
    }

    #[test]
    fn one_of_two_tasks_for_an_item_is_its_owner() {
        let (one, other) = (file("/a", "x"), file("/a", "y"));
        for before in [[one.clone(), skipped(other.clone())], [skipped(other.clone()), one.clone()]] {
            assert_eq!(actions(&before, &before).iter().filter(|action| *action == "none").count(), 2);
            assert_eq!(actions(&before, &[skipped(one.clone()), other.clone()]), ["none", "update"]);
        }
    }

    #[test]
    fn each_package_of_a_list_is_an_item() {
        let more = [packages(&["a", "b"])];
        assert_eq!(actions(&[packages(&["a"])], &more), ["update"]);
        assert_eq!(actions(&more, &[packages(&["b"])]), ["update", "remove"]);
        assert_eq!(actions(&[], &more), ["create"]);
    }

    #[test]
    fn task_that_was_not_known_before_may_have_been_applied() {
        assert_eq!(actions(&[unknown(file("/a", "x"))], &[file("/a", "x"), packages(&["a"])]), ["unknown", "create"]);
        assert_eq!(actions(&[unknown(action("x"))], &[action("x")]), ["unknown"]);
        assert_eq!(actions(&[unknown(action("x")), action("y")], &[action("y")]), ["none"]);
    }

    #[test]
    fn changed_content_of_a_source_is_an_update() {
        let of = |digest: &str| DesiredTask {
            params: json!({"path": "/a", "source": "files/a"}),
            source: Some(digest.into()),
            ..file("/a", "")
        };
        let planned = compare(&desired(&[of("1")]), &desired(&[of("2")]));
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
