//! Reads the tasks of an object, and expands includes: the tasks of the included file replace the include.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use serde_json::{Map, Value};
use towpath_proto::did_you_mean;

use super::files::{Pinned, SourceTree};
use crate::{
    document::{Document, Limits, Mode, Place, check_message, parse},
    objects::{
        Cost, Key, Targets,
        ledger::{Found, Ledger},
        limits::{Field, NamespaceLimits, RepositoryUrl},
        spec::{flag, map, members, message, text, time},
        task::{Condition, Drift, IncludeContext, ModuleUse, Task, Until},
    },
    problem::Finding,
    tree::{self, Tree},
};

const DEFAULT_TIMEOUT: Duration = Duration::from_secs(600);
const INCLUDE_DEPTH: usize = 8;

/// Expands the includes in the tasks of all objects. Each included file is read and checked only once.
pub(super) struct Expansion<'a> {
    sources: &'a [SourceTree],
    pinned: &'a BTreeMap<Pinned, Arc<dyn Tree>>,
    limits: &'a NamespaceLimits<'a>,
    ledger: Ledger,
    /// The file trees of all sources, and of the repositories that tasks or includes have named so far.
    trees: BTreeMap<String, Arc<dyn Tree>>,
    missing_inputs: BTreeSet<Pinned>,
    included_by: BTreeMap<(String, String), BTreeSet<Key>>,
    task_files: BTreeMap<(String, String), Option<Document>>,
}

/// The results of the expansion of all includes.
pub(super) struct Expanded {
    /// The problems that the expansion has found, and the cost of the expansion for each source.
    pub(super) ledger: Ledger,
    /// The file trees of all sources, and of the repositories that tasks or includes name with a commit.
    pub(super) trees: BTreeMap<String, Arc<dyn Tree>>,
    /// The repositories of includes whose files the caller has not supplied yet.
    pub(super) missing_inputs: BTreeSet<Pinned>,
    /// The objects that include a file, by the source and the path of the file.
    pub(super) included_by: BTreeMap<(String, String), BTreeSet<Key>>,
}

/// A list of tasks after the expansion of its includes, with the handlers of the included files.
#[derive(Default)]
pub(super) struct Tasks {
    pub(super) tasks: Vec<Task>,
    pub(super) handlers: Vec<Task>,
}

impl<'a> Expansion<'a> {
    /// Creates an expansion, before the loader reads the first task.
    pub(super) fn new(
        sources: &'a [SourceTree],
        pinned: &'a BTreeMap<Pinned, Arc<dyn Tree>>,
        limits: &'a NamespaceLimits<'a>,
        ledger: Ledger,
    ) -> Self {
        let trees = sources.iter().map(|source| (source.name.clone(), Arc::clone(&source.tree))).collect();
        Self {
            sources,
            pinned,
            limits,
            ledger,
            trees,
            missing_inputs: BTreeSet::new(),
            included_by: BTreeMap::new(),
            task_files: BTreeMap::new(),
        }
    }

    /// Ends the expansion.
    pub(super) fn finish(self) -> Expanded {
        let Self { ledger, trees, missing_inputs, included_by, .. } = self;
        Expanded { ledger, trees, missing_inputs, included_by }
    }

    /// Returns true if a source exceeds its budget. The loader reads no further objects of a source that exceeds its
    /// budget.
    pub(super) fn is_beyond(&self, source: &str) -> bool {
        self.ledger.is_beyond(source)
    }

    /// Adds problems to the ledger.
    pub(super) fn report_all<'f>(&mut self, found: impl IntoIterator<Item = Found<'f>>) {
        self.ledger.report_all(found);
    }

    /// Reads a field that names nodes, and reports the nodes that the Namespace is not allowed to target.
    pub(super) fn targets(&mut self, place: &Place, spec: &Value, field: Field, namespace: &str) -> Targets {
        let (targets, found) = self.limits.targets(place, spec, field, namespace);
        self.ledger.report_all(found);
        targets
    }

    /// Reports an error if a Namespace forbids a module or a parameter of the module.
    pub(super) fn check_module(&mut self, place: &Place, module: &ModuleUse, namespace: &str) {
        self.ledger.report_all(self.limits.refused_uses(place, module, namespace));
    }

    /// Reads a list of tasks of an object, and expands the includes in the list.
    pub(super) fn tasks(
        &mut self,
        object: &Key,
        place: &Place,
        values: &[Value],
        within: &Arc<IncludeContext>,
    ) -> Tasks {
        Reader { expansion: self, owner: place.source(), object, trail: Vec::new() }.tasks(place, values, within, &[])
    }

    /// Reads a single task of an object.
    pub(super) fn task(&mut self, object: &Key, place: &Place, value: &Value, within: &Arc<IncludeContext>) -> Task {
        Reader { expansion: self, owner: place.source(), object, trail: Vec::new() }.task(place, value, within, &[])
    }

    /// Returns the map key under which `trees` stores the file tree of a repository at one commit. If `trees` does not
    /// have the file tree, adds the repository to `missing_inputs`.
    fn pinned(&mut self, pinned: Pinned) -> String {
        let name = format!("{}@{}", pinned.url, pinned.commit);
        match self.pinned.get(&pinned) {
            Some(tree) => {
                self.trees.insert(name.clone(), Arc::clone(tree));
            }
            None => {
                self.missing_inputs.insert(pinned);
            }
        }
        name
    }

    /// Returns the content of an included file. Each included file is read and checked only once.
    ///
    /// The loader charges the file to `owner`, the source of the first object that includes the file.
    fn read_tasks(&mut self, at: &Place, (owner, object): (&str, &Key), source: &str, path: &str) -> Option<Document> {
        let cached = (source.to_owned(), path.to_owned());
        let includers = self.included_by.entry(cached.clone()).or_default();
        if !includers.contains(object) {
            includers.insert(object.clone());
        }
        if let Some(known) = self.task_files.get(&cached) {
            return known.clone();
        }
        let read = self.read_task_file(at, owner, source, path);
        self.task_files.insert(cached, read.clone());
        read
    }

    fn read_task_file(&mut self, at: &Place, owner: &str, source: &str, path: &str) -> Option<Document> {
        // The files of a pinned repository may still be missing. The caller then fetches them and loads again.
        let bytes = match self.trees.get(source)?.read(path) {
            Ok(Some(bytes)) => bytes,
            Ok(None) => {
                let finding = Finding::new(format!("there is no file {path} in the source {source}"));
                self.ledger.report(Found::new(at.key("path"), finding));
                return None;
            }
            Err(error) => {
                self.ledger.report(Found::new(at.key("path"), Finding::new(format!("{path}: {error}"))));
                return None;
            }
        };
        if !self.ledger.charge(owner, Cost { files: 1, bytes: bytes.len() as u64, ..Cost::default() }) {
            return None;
        }
        let (mut documents, problems) = parse(source, path, &bytes, Limits::default());
        let broken = !problems.is_empty();
        self.ledger.keep(problems);
        if broken {
            return None;
        }
        if documents.len() != 1 {
            let finding =
                Finding::new(format!("the included file {path} has {} documents, not exactly one", documents.len()))
                    .hint("write {tasks: […], handlers: […]}");
            self.ledger.report(Found::new(at.key("path"), finding));
            return None;
        }
        let document = documents.remove(0);
        if let Some(message) = towpath_proto::message("TaskFile") {
            self.ledger.keep_checked(&document, check_message(message, &document.value, Mode::Written));
        }
        Some(document)
    }
}

/// A reader for the tasks of one object.
struct Reader<'r, 'a> {
    expansion: &'r mut Expansion<'a>,
    /// The source of the object. The loader counts the tasks of the object against the budget of this source.
    owner: &'r str,
    object: &'r Key,
    /// The chain of nested includes around the current task, beginning with the outermost file.
    trail: Vec<(String, String)>,
}

impl Reader<'_, '_> {
    fn tasks(&mut self, place: &Place, values: &[Value], within: &Arc<IncludeContext>, when: &[Condition]) -> Tasks {
        let mut read = Tasks::default();
        for (index, value) in values.iter().enumerate().filter(|(_, value)| value.is_object()) {
            if !self.expansion.ledger.charge(self.owner, Cost { tasks: 1, ..Cost::of(value) }) {
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

    fn task(&mut self, place: &Place, value: &Value, within: &Arc<IncludeContext>, outer: &[Condition]) -> Task {
        let name = text(value, "name").unwrap_or_default();
        let module = ModuleUse::all_in(value).next();
        if let Some(module) = &module {
            self.expansion.check_module(place, module, &self.object.namespace);
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
            loop_items: value.get("loop").filter(|value| !value.is_null()).cloned(),
            vars: map(value, "vars"),
            register: text(value, "register").map(|name| format!("{}{name}", within.prefix)),
            success: text(value, "success"),
            changed: text(value, "changed"),
            until,
            continue_on_failure: text(value, "onFailure").as_deref() == Some("continue"),
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

    fn include(&mut self, place: &Place, value: &Value, within: &Arc<IncludeContext>, outer: &[Condition]) -> Tasks {
        let include = value.get("include").cloned().unwrap_or_default();
        let at = place.key("include");
        let Some((source, path)) = self.include_target(&at, &include, within) else { return Tasks::default() };
        if self.trail.contains(&(source.clone(), path.clone())) || self.trail.len() >= INCLUDE_DEPTH {
            let message = if self.trail.len() >= INCLUDE_DEPTH {
                format!("includes are nested more than {INCLUDE_DEPTH} deep")
            } else {
                format!("{path} includes itself")
            };
            self.problem(at, Finding::new(message));
            return Tasks::default();
        }
        let Some(document) = self.expansion.read_tasks(&at, (self.owner, self.object), &source, &path) else {
            return Tasks::default();
        };
        let prefix = match text(value, "name") {
            Some(name) => format!("{}{name}/", within.prefix),
            None => within.prefix.clone(),
        };
        let inner = Arc::new(IncludeContext {
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
        // A file that the list includes may have handlers of its own.
        read.handlers.append(&mut handlers.tasks);
        read.handlers.append(&mut handlers.handlers);
        self.trail.pop();
        read
    }

    /// Returns the map key under which `trees` stores the file tree of a repository at one commit. If the URL or the
    /// commit is invalid, or if the Namespace does not allow the repository, reports an error and returns `None`.
    fn pin(&mut self, at: &Place, what: &str, url: String, commit: Option<String>) -> Option<String> {
        if url.contains("{{") || commit.as_deref().is_some_and(|commit| commit.contains("{{")) {
            let finding = Finding::new("url and commit must not contain templates")
                .hint("write url and commit in full: the repository is fetched before templates are rendered");
            self.problem(at.clone(), finding);
            return None;
        }
        let parsed = match RepositoryUrl::read(&url) {
            Ok(parsed) => parsed,
            Err(error) => {
                let finding = Finding::new(format!("cannot use {url}: {error}"))
                    .hint("write https://HOST/PATH, ssh://USER@HOST/PATH or USER@HOST:PATH");
                self.problem(at.key("url"), finding);
                return None;
            }
        };
        let namespace = self.object.namespace.as_str();
        if !self.expansion.limits.may_include(namespace, &parsed) {
            let finding = Finding::new(format!("the namespace {namespace} must not include from {url}"))
                .hint("add the URL to includes.allow of the Namespace, or make the repository a source");
            self.problem(at.key("url"), finding);
            return None;
        }
        let Some(commit) = commit else {
            let finding = Finding::new(format!("{what} needs a commit"))
                .hint("write the full commit id: unlike a branch, a commit never changes");
            self.problem(at.clone(), finding);
            return None;
        };
        Some(self.expansion.pinned(Pinned { url, commit }))
    }

    /// Returns the context that resolves the file paths of a task: the include or TaskBook of the task, or the
    /// repository that the task names.
    fn files_of(
        &mut self,
        place: &Place,
        module: Option<&ModuleUse>,
        within: &Arc<IncludeContext>,
    ) -> Arc<IncludeContext> {
        let Some(module) = module.filter(|module| module.schema.pins_repository()) else { return Arc::clone(within) };
        let Some(url) = text(&module.params, "url") else { return Arc::clone(within) };
        let (commit, what) = (text(&module.params, "commit"), format!("a {} task", module.name));
        let Some(source) = self.pin(&place.key(module.name), &what, url, commit) else { return Arc::clone(within) };
        let prefix = within.prefix.clone();
        Arc::new(IncludeContext { source, prefix, outer: Some(Arc::clone(within)), ..IncludeContext::default() })
    }

    /// Returns the source and the path of the file that an include names.
    fn include_target(&mut self, at: &Place, include: &Value, within: &IncludeContext) -> Option<(String, String)> {
        let path = text(include, "path")?;
        match (text(include, "source"), text(include, "url"), text(include, "commit")) {
            (Some(_), Some(_), _) => {
                self.problem(at.clone(), Finding::new("an include must not have both source and url"));
                None
            }
            (None, Some(url), commit) => Some((self.pin(at, "an include by url", url, commit)?, path)),
            (source, None, _) => {
                let own = source.is_none();
                let source = source.unwrap_or_else(|| within.source.clone());
                if !self.expansion.trees.contains_key(&source) {
                    let sources = self.expansion.sources;
                    let finding = Finding::new(format!("there is no source {source:?}"));
                    let found = Found::new(at.key("source"), finding).hint(move || {
                        match did_you_mean(&source, sources.iter().map(|source| source.name.as_str())) {
                            Some(meant) => format!("did you mean {meant}?"),
                            None => "sources are listed in a Config".into(),
                        }
                    });
                    self.expansion.ledger.report(found);
                    return None;
                }
                let namespace = self.object.namespace.as_str();
                if source != within.source && !self.expansion.limits.may_read(namespace, &source) {
                    let finding =
                        Finding::new(format!("the namespace {namespace} must not include from the source {source}"))
                            .hint("list it in sources of the Namespace, or set library: true on it");
                    self.problem(at.key("source"), finding);
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

    /// Reports an error in the value at a location.
    fn problem(&mut self, place: Place, finding: Finding) {
        self.expansion.ledger.report(Found::new(place, finding));
    }
}
