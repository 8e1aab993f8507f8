//! Reads a checked TaskBook into a [`Book`], in which includes are expanded and names are resolved.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use serde_json::{Map, Value};
use towpath_proto::did_you_mean;

use super::{
    Key, Object,
    budget::Cost,
    limits::{self, Field, Targets},
    load::{Loader, Pinned},
    repository_url::RepositoryUrl,
    task::{
        Book, Condition, Dependency, Drift, ModuleUse, Rollout, Task, Until, Within, flag, list, map, members, message,
        text, time,
    },
};
use crate::{
    document::{At, Document, Mode, Path, Place, check_message},
    problem::Finding,
    tree,
    words::Count,
};

const DEFAULT_TIMEOUT: Duration = Duration::from_secs(600);
const INCLUDE_DEPTH: usize = 8;

/// Reads a TaskBook, and reports its errors to the loader.
pub(super) fn read(loader: &mut Loader<'_>, object: &Object) -> Book {
    let (spec, namespace, name) = (object.spec.as_ref(), object.key.namespace.as_str(), object.key.name.as_str());
    let place = object.place.key("spec");
    let within = Arc::new(Within { source: object.place.source().to_owned(), ..Within::default() });
    let targets = Targets::read(loader, &place, spec, Field::Targets, namespace);
    let mut reader = Reader { owner: place.source(), object: &object.key, loader, namespace, trail: Vec::new() };
    let mut tasks = reader.tasks(&place.key("tasks"), members(spec, "tasks"), &within, &[]);
    let mut handlers = reader.tasks(&place.key("handlers"), members(spec, "handlers"), &within, &[]);
    tasks.handlers.append(&mut handlers.tasks);
    let rollout_spec = spec.get("rollout").cloned().unwrap_or_default();
    let rollout_place = place.key("rollout");
    let mut before = reader.tasks(&rollout_place.key("before"), members(&rollout_spec, "before"), &within, &[]);
    let mut after = reader.tasks(&rollout_place.key("after"), members(&rollout_spec, "after"), &within, &[]);
    tasks.handlers.extend(before.handlers.drain(..).chain(after.handlers.drain(..)));
    let mut book = Book {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        targets: targets.is_written().then_some(targets),
        depends_on: list(spec, "dependsOn").iter().filter_map(dependency).collect(),
        rollout: Rollout {
            serialize: message(&rollout_spec, "serialize", "Serialize"),
            waves: list(&rollout_spec, "waves"),
            soak: time(&rollout_spec, "soak", Duration::ZERO),
            after_all: flag(&rollout_spec, "failAfterAllTargetsRan"),
            on_lost: text(&rollout_spec, "onLostNode").unwrap_or_else(|| "hold".into()),
            max_failures: rollout_spec.get("maxFailures").and_then(|count| Count::read(count).ok()),
            before: before.tasks,
            after: after.tasks,
        },
        parallel: text(spec, "order").as_deref() == Some("parallel"),
        prune: flag(spec, "prune"),
        prune_budget: text(spec, "pruneBudget"),
        vars: map(spec, "vars"),
        tasks: tasks.tasks,
        handlers: tasks.handlers,
        suspend: message(spec, "suspend", "Suspend"),
        place,
    };
    if flag(spec, "autoNotify") {
        super::notify::add(loader, &mut book);
    }
    names(loader, &book);
    book
}

fn dependency(value: &Value) -> Option<Dependency> {
    match value {
        Value::String(book) => Some(Dependency { book: book.clone(), fleet: false }),
        other => {
            Some(Dependency { book: text(other, "taskBook")?, fleet: text(other, "on").as_deref() == Some("fleet") })
        }
    }
}

/// The tasks of a list with includes expanded, and the handlers of the included files.
#[derive(Default)]
struct Read {
    tasks: Vec<Task>,
    handlers: Vec<Task>,
}

struct Reader<'a, 'b> {
    loader: &'a mut Loader<'b>,
    namespace: &'a str,
    /// The source of the object whose tasks are read. The budget of this source is charged for the tasks.
    owner: &'a str,
    object: &'a Key,
    /// The included files that are being read, outermost first.
    trail: Vec<(String, String)>,
}

impl Reader<'_, '_> {
    fn tasks(&mut self, place: &Place, values: &[Value], within: &Arc<Within>, when: &[Condition]) -> Read {
        let mut read = Read::default();
        for (index, value) in values.iter().enumerate().filter(|(_, value)| value.is_object()) {
            if !self.loader.charge(self.owner, Cost { tasks: 1, ..Cost::of(value) }) {
                break;
            }
            let place = place.index(index);
            if value.get("include").is_some_and(Value::is_object) {
                let mut included = self.include(&place, value, within, when);
                read.tasks.append(&mut included.tasks);
                read.handlers.append(&mut included.handlers);
            } else {
                read.tasks.push(self.task(&place, value, within, when));
            }
        }
        read
    }

    fn task(&mut self, place: &Place, value: &Value, within: &Arc<Within>, outer: &[Condition]) -> Task {
        let name = text(value, "name").unwrap_or_default();
        let module = towpath_proto::modules().find_map(|schema| {
            let params = value.get(schema.key).filter(|params| !params.is_null())?;
            Some(ModuleUse { name: schema.key, schema, params: params.clone() })
        });
        if let Some(module) = &module {
            limits::check_module(self.loader, place, module, self.namespace);
        }
        let mut when = outer.to_vec();
        when.extend(text(value, "when").map(|expression| Condition { expression, within: Arc::clone(within) }));
        let prefixed = |key: &str| -> Vec<String> {
            members(value, key)
                .iter()
                .filter_map(Value::as_str)
                .map(|name| format!("{}{name}", within.prefix))
                .collect()
        };
        let within = &self.files_of(place, module.as_ref(), within);
        let until = value.get("until").filter(|until| until.is_object()).map(|until| Until {
            condition: text(until, "condition").unwrap_or_default(),
            interval: time(until, "interval", Duration::from_secs(5)),
            limit: until.get("limit").and_then(Value::as_u64).unwrap_or(60).max(1),
        });
        Task {
            id: format!("{}{name}", within.prefix),
            module,
            when,
            looped: value.get("loop").filter(|value| !value.is_null()).cloned(),
            vars: map(value, "vars"),
            register: text(value, "register").map(|name| format!("{}{name}", within.prefix)),
            success: text(value, "success"),
            changed: text(value, "changed"),
            until,
            go_on: text(value, "onFailure").as_deref() == Some("continue"),
            timeout: time(value, "timeout", DEFAULT_TIMEOUT),
            requires: prefixed("requires"),
            notify: prefixed("notify"),
            drift: text(value, "drift").map(|word| Drift::read(&word)),
            sync: flag(value, "sync"),
            flush_handlers: flag(value, "flushHandlers"),
            serialize: message(value, "serialize", "Serialize"),
            elect: message(value, "elect", "Elect"),
            within: Arc::clone(within),
            place: place.clone(),
        }
    }

    fn include(&mut self, place: &Place, value: &Value, within: &Arc<Within>, outer: &[Condition]) -> Read {
        let include = value.get("include").cloned().unwrap_or_default();
        let at = place.key("include");
        let Some((source, path)) = self.include_target(&at, &include, within) else { return Read::default() };
        if self.trail.contains(&(source.clone(), path.clone())) || self.trail.len() >= INCLUDE_DEPTH {
            let message = if self.trail.len() >= INCLUDE_DEPTH {
                format!("includes are nested more than {INCLUDE_DEPTH} deep")
            } else {
                format!("{path} includes itself")
            };
            self.loader.problem(&at, At::Value, Finding::new(message));
            return Read::default();
        }
        let Some(document) = self.loader.read_tasks(&at, (self.owner, self.object), &source, &path) else {
            return Read::default();
        };
        let prefix = match text(value, "name") {
            Some(name) => format!("{}{name}/", within.prefix),
            None => within.prefix.clone(),
        };
        let inner = Arc::new(Within {
            source: source.clone(),
            folder: path.rsplit_once('/').map_or("", |(folder, _)| folder).to_owned(),
            prefix,
            vars: include.get("vars").and_then(Value::as_object).cloned().unwrap_or_else(Map::new),
            outer: Some(Arc::clone(within)),
        });
        let mut when = outer.to_vec();
        when.extend(text(value, "when").map(|expression| Condition { expression, within: Arc::clone(within) }));
        self.trail.push((source, path));
        let root = document.place();
        let mut read = self.tasks(&root.key("tasks"), members(&document.value, "tasks"), &inner, &when);
        let mut handlers = self.tasks(&root.key("handlers"), members(&document.value, "handlers"), &inner, &[]);
        read.handlers.append(&mut handlers.tasks);
        self.trail.pop();
        read
    }

    /// Returns the name under which the tree of a repository at one commit is stored.
    /// Reports a problem and returns `None` if the URL or the commit is invalid, or if the Namespace does not allow the
    /// repository.
    fn pin(&mut self, at: &Place, what: &str, url: String, commit: Option<String>) -> Option<String> {
        if url.contains("{{") || commit.as_deref().is_some_and(|commit| commit.contains("{{")) {
            let finding = Finding::new("url and commit must not contain templates")
                .hint("the repository is fetched before anything is rendered: write both in full");
            self.loader.problem(at, At::Value, finding);
            return None;
        }
        let limits = self.loader.namespace(self.namespace).and_then(|namespace| namespace.includes.clone());
        let parsed = match RepositoryUrl::read(&url) {
            Ok(parsed) => parsed,
            Err(error) => {
                let finding = Finding::new(format!("cannot use {url}: {error}"))
                    .hint("write https://HOST/PATH, ssh://USER@HOST/PATH or USER@HOST:PATH");
                self.loader.problem(&at.key("url"), At::Value, finding);
                return None;
            }
        };
        let allows = |pattern: &String| RepositoryUrl::pattern(pattern).is_ok_and(|pattern| pattern.allows(&parsed));
        if !limits.unwrap_or_default().allow.iter().any(allows) {
            let finding = Finding::new(format!("the namespace {} may not include from {url}", self.namespace));
            self.loader.problem(
                &at.key("url"),
                At::Value,
                finding.hint("list it in includes.allow of the Namespace, or make it a source"),
            );
            return None;
        }
        let Some(commit) = commit else {
            let finding = Finding::new(format!("{what} needs a commit"))
                .hint("write the full commit id: unlike a branch, a commit never changes");
            self.loader.problem(at, At::Value, finding);
            return None;
        };
        Some(self.loader.pinned(&Pinned { url, commit }))
    }

    /// Returns the container whose files a task reads: its include or TaskBook, or the repository that the task names.
    fn files_of(&mut self, place: &Place, module: Option<&ModuleUse>, within: &Arc<Within>) -> Arc<Within> {
        let Some(module) = module.filter(|module| module.schema.pins_repository()) else { return Arc::clone(within) };
        let Some(url) = text(&module.params, "url") else { return Arc::clone(within) };
        let (commit, what) = (text(&module.params, "commit"), format!("a {} task", module.name));
        let Some(source) = self.pin(&place.key(module.name), &what, url, commit) else { return Arc::clone(within) };
        let prefix = within.prefix.clone();
        Arc::new(Within { source, prefix, outer: Some(Arc::clone(within)), ..Within::default() })
    }

    /// Returns the source and the path of the file that an include names.
    fn include_target(&mut self, at: &Place, include: &Value, within: &Within) -> Option<(String, String)> {
        let path = text(include, "path")?;
        match (text(include, "source"), text(include, "url"), text(include, "commit")) {
            (Some(_), Some(_), _) => {
                self.loader.problem(at, At::Value, Finding::new("an include must not have both source and url"));
                None
            }
            (None, Some(url), commit) => Some((self.pin(at, "an include by url", url, commit)?, path)),
            (source, None, _) => {
                let own = source.is_none();
                let source = source.unwrap_or_else(|| within.source.clone());
                if !self.loader.has_source(&source) {
                    let meant = did_you_mean(&source, self.loader.source_names().iter().map(String::as_str))
                        .map(|meant| format!("did you mean {meant}?"));
                    let finding = Finding {
                        message: format!("there is no source {source:?}"),
                        hint: meant.or_else(|| Some("sources are listed in a Config".into())),
                    };
                    self.loader.problem(&at.key("source"), At::Value, finding);
                    return None;
                }
                if source != within.source && !limits::may_read(self.loader, self.namespace, &source) {
                    let finding = Finding::new(format!(
                        "the namespace {} may not include from the source {source}",
                        self.namespace
                    ));
                    let hint = "list it in sources of the Namespace, or set library: true on it";
                    self.loader.problem(&at.key("source"), At::Value, finding.hint(hint));
                    return None;
                }
                // A path in an included file is relative to the folder of that file.
                let folder = if own { within.folder.as_str() } else { "" };
                match tree::join(folder, &path) {
                    Ok(path) => Some((source, path)),
                    Err(_) => None,
                }
            }
        }
    }
}

/// Returns whether a glob pattern matches a text. In the pattern, `*` matches any characters.
pub(super) fn glob_matches(glob: &str, text: &str) -> bool {
    let mut parts = glob.split('*');
    let Some(mut rest) = text.strip_prefix(parts.next().unwrap_or_default()) else { return false };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else { return rest.is_empty() };
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

/// Checks the names by which tasks refer to each other: `requires`, `notify` and registered results.
fn names(loader: &mut Loader<'_>, book: &Book) {
    let handlers: BTreeSet<&str> = book.handlers.iter().map(|handler| handler.id.as_str()).collect();
    let mut registered: BTreeMap<&str, &Place> = BTreeMap::new();
    let lists = [&book.tasks, &book.handlers, &book.rollout.before, &book.rollout.after];
    for tasks in lists {
        let ids: BTreeSet<&str> = tasks.iter().map(|task| task.id.as_str()).collect();
        unique_ids(loader, tasks);
        for task in tasks {
            for (index, wanted) in task.requires.iter().enumerate() {
                if !ids.contains(wanted.as_str()) {
                    missing(loader, &task.place.key("requires").index(index), "task", wanted, &ids);
                }
            }
            for (index, wanted) in task.notify.iter().enumerate() {
                if !handlers.contains(wanted.as_str()) {
                    missing(loader, &task.place.key("notify").index(index), "handler", wanted, &handlers);
                }
            }
            if let Some(name) = &task.register
                && let Some(first) = registered.insert(name, &task.place)
            {
                let finding = Finding::new(format!("two tasks register {name:?}"));
                let hint = format!("the other task is at {}", loader.file_line(first));
                loader.problem(&task.place.key("register"), At::Value, finding.hint(hint));
            }
        }
        cycle(loader, tasks);
    }
}

fn unique_ids(loader: &mut Loader<'_>, tasks: &[Task]) {
    let mut seen: BTreeMap<&str, &Place> = BTreeMap::new();
    for task in tasks.iter().filter(|task| !task.id.is_empty()) {
        if let Some(first) = seen.insert(&task.id, &task.place)
            // The schema check already reports duplicates within one list.
            && (first.file() != task.place.file() || task.within.outer.is_some())
        {
            let finding = Finding::new(format!("two tasks are called {:?}", task.id));
            let hint = format!(
                "the other task is at {}; give the include a name, which becomes a prefix of the names of its tasks",
                loader.file_line(first)
            );
            loader.problem(&task.place.key("name"), At::Value, finding.hint(hint));
        }
    }
}

fn missing(loader: &mut Loader<'_>, place: &Place, what: &str, wanted: &str, known: &BTreeSet<&str>) {
    if !loader.has_room(place, false) {
        return;
    }
    let finding = Finding::new(format!("there is no {what} {wanted:?}"));
    let finding = match did_you_mean(wanted, known.iter().copied()) {
        Some(meant) => finding.hint(format!("did you mean {meant:?}?")),
        None if known.is_empty() => finding.hint(format!("the book has no {what}s")),
        None => finding.hint(format!("one of: {}", known.iter().copied().collect::<Vec<_>>().join(", "))),
    };
    loader.keep_problem(place, At::Value, finding, false);
}

/// Reports tasks that require themselves, directly or through other tasks.
fn cycle(loader: &mut Loader<'_>, tasks: &[Task]) {
    let requires: BTreeMap<&str, &Task> = tasks.iter().map(|task| (task.id.as_str(), task)).collect();
    let graph: BTreeMap<String, Vec<String>> =
        tasks.iter().map(|task| (task.id.clone(), task.requires.clone())).collect();
    for cycle in super::order::cycles(&graph) {
        if let Some(task) = cycle.first().and_then(|id| requires.get(id.as_str())) {
            let finding = Finding::new(format!("these tasks require each other: {}", cycle.join(" → ")));
            loader.problem(&task.place.key("requires"), At::Value, finding.hint("remove one of the requires"));
        }
    }
}

/// Checks an included file of tasks against the schema.
pub(super) fn check_task_file(loader: &mut Loader<'_>, document: &Document) {
    let Some(message) = towpath_proto::message("TaskFile") else { return };
    let checked = check_message(message, &document.value, Mode::Written);
    loader.checked(document, &Path::default(), checked, None);
}

/// Reads the task of a computed variable.
pub(super) fn single_task(loader: &mut Loader<'_>, place: &Place, value: &Value, object: &Key) -> Task {
    let within = super::load::within_source(place);
    let mut reader = Reader { owner: place.source(), object, loader, namespace: &object.namespace, trail: Vec::new() };
    reader.task(place, value, &within, &[])
}

/// Reads the tasks of an object that is not a TaskBook. The handlers of included files follow the tasks.
pub(super) fn other_tasks(loader: &mut Loader<'_>, place: &Place, spec: &Value, object: &Key) -> Vec<Task> {
    let within = super::load::within_source(place);
    let mut reader = Reader { owner: place.source(), object, loader, namespace: &object.namespace, trail: Vec::new() };
    let mut read = reader.tasks(&place.key("tasks"), members(spec, "tasks"), &within, &[]);
    read.tasks.append(&mut read.handlers);
    read.tasks
}
