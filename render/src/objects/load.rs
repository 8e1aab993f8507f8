//! Loads the files of all sources into an [`ObjectSet`].
//! Each document is checked against the schema. Then all objects are checked against one another. All errors are
//! reported, not only the first.

mod files;

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use serde_json::Value;
use towpath_proto::{Message, v1alpha as pb};

use self::files::Ignored;
pub use self::files::{Pinned, SourceTree};
use super::{
    ComputedValue, Group, Key, NodeObject, Object, ObjectSet, VariablesObject, analysis, book,
    budget::{Budget, Cost, Exceeded, Problems, Spent},
    limits, reactions, references, report,
    repository_url::RepositoryUrl,
    task::{self, Within},
};
use crate::{
    document::{
        At, Checked, Document, Limits, Path, Place, Reference, SourceFile, check_object, lines, parse, problem_at,
        typed,
    },
    problem::{Finding, Problem},
    tree::{Entry, Tree},
    words::Selector,
};

/// The maximum number of problems that are reported for one file.
const PROBLEMS_PER_FILE: usize = 200;

/// The result of loading: the objects, and the problems that were found.
#[derive(Debug)]
pub struct Loaded {
    /// The loaded objects. The objects must not be used if there are errors.
    pub set: ObjectSet,
    /// The errors, in the order of the files.
    pub errors: Vec<Problem>,
    /// The warnings, in the order of the files.
    pub warnings: Vec<Problem>,
    /// The repositories of includes whose files are missing. The caller must fetch them and load again.
    pub wants: BTreeSet<Pinned>,
    /// The names of the sources that exceed their budget.
    pub(super) beyond: BTreeSet<String>,
    /// The objects that include each file. The key is the source and the path of the file.
    pub(super) included_by: BTreeMap<(String, String), BTreeSet<Key>>,
}

/// The objects and sources that are excluded from a load.
#[derive(Debug, Default)]
pub(super) struct LeftOut {
    /// The excluded objects, each with its source.
    pub(super) objects: BTreeSet<(String, Key)>,
    /// The sources whose objects are all excluded.
    pub(super) sources: BTreeSet<String>,
}

impl LeftOut {
    pub(super) fn len(&self) -> usize {
        self.objects.len() + self.sources.len()
    }
}

/// Loads all sources, in order. The first source always may define global kinds.
pub fn load(sources: &[SourceTree], pinned: &BTreeMap<Pinned, Arc<dyn Tree>>) -> Loaded {
    load_without(sources, pinned, &LeftOut::default(), Budget::default())
}

/// Loads all sources, except for excluded objects and sources.
pub(super) fn load_without(
    sources: &[SourceTree],
    pinned: &BTreeMap<Pinned, Arc<dyn Tree>>,
    left_out: &LeftOut,
    budget: Budget,
) -> Loaded {
    let mut loader = Loader {
        sources,
        pinned,
        left_out,
        problems: RefCell::new(Problems::new(budget.problems)),
        spent: Spent::new(budget),
        included_by: BTreeMap::new(),
        wants: BTreeSet::new(),
        set: ObjectSet::default(),
        task_files: BTreeMap::new(),
        limits: BTreeMap::new(),
    };
    for source in sources {
        loader.set.trees.insert(source.name.clone(), Arc::clone(&source.tree));
    }
    let mut pending = Vec::new();
    for (position, source) in sources.iter().enumerate() {
        loader.source(source, position == 0, &mut pending);
    }
    loader.global_kinds();
    for (reference, key, place) in &pending {
        references::check(&mut loader, reference, key, place);
    }
    loader.namespaced_kinds();
    references::check_all(&mut loader);
    analysis::check(&mut loader);
    let beyond = loader.spent.exceeded().clone();
    let problems = report::sorted(loader.problems.into_inner(), sources, &loader.set);
    let (warnings, errors) = problems.into_iter().partition(|problem| problem.warning);
    Loaded { set: loader.set, errors, warnings, wants: loader.wants, beyond, included_by: loader.included_by }
}

/// A reference to another object that is checked after all objects are read, with the object and the location that
/// contain it.
type Pending = (Reference, Key, Place);

/// The state of a load: the objects and problems that were found so far.
pub(super) struct Loader<'a> {
    sources: &'a [SourceTree],
    pinned: &'a BTreeMap<Pinned, Arc<dyn Tree>>,
    left_out: &'a LeftOut,
    pub(super) problems: RefCell<Problems>,
    spent: Spent,
    included_by: BTreeMap<(String, String), BTreeSet<Key>>,
    wants: BTreeSet<Pinned>,
    pub(super) set: ObjectSet,
    task_files: BTreeMap<(String, String), Option<Document>>,
    /// The NodeGroups that each Namespace with such a limit may target.
    pub(super) limits: BTreeMap<String, Arc<limits::Names>>,
}

impl Loader<'_> {
    /// Reports an error at a location of a file.
    pub(super) fn problem(&mut self, place: &Place, at: At, finding: Finding) {
        self.report(place, at, finding, false);
    }

    /// Reports a warning at a location of a file.
    pub(super) fn warning(&mut self, place: &Place, at: At, finding: Finding) {
        self.report(place, at, finding, true);
    }

    fn report(&mut self, place: &Place, at: At, finding: Finding, warning: bool) {
        if self.has_room(place, warning) {
            self.keep_problem(place, at, finding, warning);
        }
    }

    /// Returns whether a problem at a location may still be shown, before its hint is computed. Otherwise the problem
    /// is only counted.
    pub(super) fn has_room(&mut self, place: &Place, warning: bool) -> bool {
        self.problems.get_mut().has_room(place.source(), warning, place.file_size())
    }

    /// Adds a problem after [`Self::has_room`] has returned true for it.
    pub(super) fn keep_problem(&mut self, place: &Place, at: At, finding: Finding, warning: bool) {
        self.problems.get_mut().push(Problem { warning, ..place.problem(finding, at) });
    }

    /// Returns `file:line` of a location, for a hint. Returns only the file after too many locations were computed.
    pub(super) fn file_line(&self, place: &Place) -> String {
        let may = self.problems.borrow_mut().may_locate(place.source(), place.file_size());
        if may { place.file_line() } else { place.file().to_owned() }
    }

    fn keep(&mut self, problems: impl IntoIterator<Item = Problem>) {
        let kept = self.problems.get_mut();
        for problem in problems.into_iter().take(PROBLEMS_PER_FILE) {
            if kept.has_room(&problem.source, problem.warning, 0) {
                kept.push(problem);
            }
        }
    }

    /// Charges a cost to the budget of a source. Returns false if the source exceeds its budget and must not be read
    /// further.
    pub(super) fn charge(&mut self, source: &str, cost: Cost) -> bool {
        if let Err(Exceeded { what, limit, all }) = self.spent.charge(source, cost) {
            let whose = if all { "all sources together have" } else { "the source has" };
            let file = SourceFile::new(source, source, "");
            let finding = Finding::new(format!("{whose} more than {limit} {what}"))
                .hint("split the source, or write less: the limits keep one source from exhausting every node");
            self.keep([problem_at(&file, 1, 1, finding)]);
        }
        !self.spent.is_beyond(source)
    }

    pub(super) fn is_library(&self, name: &str) -> bool {
        self.sources.iter().any(|source| source.name == name && source.library)
    }

    pub(super) fn namespace(&self, name: &str) -> Option<&pb::Namespace> {
        self.set.namespaces.get(name)
    }

    pub(super) fn has_source(&self, name: &str) -> bool {
        self.set.trees.contains_key(name)
    }

    pub(super) fn source_names(&self) -> Vec<String> {
        self.sources.iter().map(|source| source.name.clone()).collect()
    }

    /// Returns the name under which the files of a repository at one commit are stored.
    /// If the files are missing, the repository is added to `wants`.
    pub(super) fn pinned(&mut self, pinned: &Pinned) -> String {
        let name = format!("{}@{}", pinned.url, pinned.commit);
        match self.pinned.get(pinned) {
            Some(tree) => {
                self.set.trees.insert(name.clone(), Arc::clone(tree));
            }
            None => {
                self.wants.insert(pinned.clone());
            }
        }
        name
    }

    fn source(&mut self, source: &SourceTree, first: bool, pending: &mut Vec<Pending>) {
        let entries = match source.tree.list("") {
            Ok(entries) => entries,
            Err(error) => {
                return self.file_problem(source, "", Finding::new(format!("cannot read the source: {error}")));
            }
        };
        for (entry, finding) in files::refused(&entries) {
            self.file_problem(source, &entry.path, finding);
        }
        if source.library || self.left_out.sources.contains(&source.name) {
            return;
        }
        let (ignored, problems) = Ignored::read(source);
        for problem in problems {
            self.keep([problem]);
        }
        let mut objects = 0;
        for entry in entries.iter().filter(|entry| files::has_objects(&entry.path) && !ignored.covers(&entry.path)) {
            if !self.charge(&source.name, Cost { files: 1, bytes: entry.size.unwrap_or(0), ..Cost::default() }) {
                return;
            }
            objects += self.file(source, first, entry, pending);
        }
        if objects == 0 && !self.problems.borrow().has_error(&source.name) {
            let finding = Finding::new(format!("the source {} has no objects", source.name));
            self.file_problem(
                source,
                "",
                finding.hint(
                    "write *.yaml files below its path, or set library: true if it only holds files for includes",
                ),
            );
        }
    }

    fn file_problem(&mut self, source: &SourceTree, path: &str, finding: Finding) {
        let file = SourceFile::new(source.name.as_str(), if path.is_empty() { &source.name } else { path }, "");
        self.keep([problem_at(&file, 1, 1, finding)]);
    }

    /// Reads the documents of one file. Returns the number of documents and of problems.
    fn file(&mut self, source: &SourceTree, first: bool, entry: &Entry, pending: &mut Vec<Pending>) -> usize {
        let limits = Limits::default();
        let bytes = match files::read(source, entry, limits) {
            Ok(bytes) => bytes,
            Err(finding) => {
                self.file_problem(source, &entry.path, finding);
                return 0;
            }
        };
        if entry.size.is_none() {
            self.charge(&source.name, Cost { bytes: bytes.len() as u64, ..Cost::default() });
        }
        let (documents, problems) = parse(&source.name, &entry.path, &bytes, limits);
        let count = documents.len() + problems.len();
        self.keep(problems);
        for document in documents {
            if !self.charge(&source.name, Cost::of(&document.value)) {
                break;
            }
            self.document(source, first, &document, pending);
        }
        count
    }

    fn document(&mut self, source: &SourceTree, first: bool, document: &Document, pending: &mut Vec<Pending>) {
        let (kind, mut checked) = check_object(&document.value);
        let found = std::mem::take(&mut checked.references);
        let key = kind.and_then(|kind| Key::read(kind, &document.value["metadata"]));
        if key.as_ref().is_some_and(|key| self.left_out.objects.contains(&(source.name.clone(), key.clone()))) {
            return;
        }
        self.checked(document, &Path::default(), checked, None);
        let (Some(kind), Some(key)) = (kind, key) else { return };
        let place = document.place();
        if kind.scope == Some("global") && !first && !source.globals {
            let finding = Finding::new(format!("the source {} may not define a {}", source.name, kind.name));
            self.problem(
                &place.key("metadata").key("kind"),
                At::Value,
                finding.hint("global kinds come from the first source, and from sources with globals: true"),
            );
            return;
        }
        pending.extend(found.into_iter().map(|reference| (reference, key.clone(), place.clone())));
        self.insert(kind, key, document, place);
    }

    fn insert(&mut self, kind: &'static Message, key: Key, document: &Document, place: Place) {
        if let Some(other) = self.set.objects.get(&key) {
            let finding = Finding::new(format!("there are two objects {} {}", kind.name, display(&key)));
            let hint = format!("the other object is at {}", self.file_line(&other.place));
            self.problem(&place.key("metadata").key("name"), At::Value, finding.hint(hint));
            return;
        }
        let labels = document.value["metadata"].get("labels").and_then(Value::as_object);
        let labels = labels
            .into_iter()
            .flatten()
            .filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())))
            .collect();
        let spec = Arc::new(document.value.get("spec").cloned().unwrap_or_default());
        self.set.objects.insert(key.clone(), Object { key, labels, spec, place });
    }

    /// Reports the findings of a schema check with their lines, and reports modes without quotes.
    pub(super) fn checked(&mut self, document: &Document, base: &Path, checked: Checked, warning: Option<bool>) {
        let place = |path: &Path| {
            let steps = base.0.iter().chain(&path.0).cloned().collect();
            Place::new(Arc::clone(&document.file), document.index, Path(steps))
        };
        for (path, at, finding) in checked.findings.into_iter().take(PROBLEMS_PER_FILE) {
            self.report(&place(&path), at, finding, warning.unwrap_or(false));
        }
        if !checked.modes.is_empty() && document.file.has_unquoted_modes() {
            for path in &checked.modes {
                let place = place(path);
                if self.problems.get_mut().may_locate(place.source(), place.file_size()) {
                    self.unquoted_mode(&place);
                } else {
                    let finding = Finding::new("the file has too many modes to check each of them");
                    self.problem(&document.place(), At::Value, finding.hint("split the file"));
                    break;
                }
            }
        }
    }

    /// Reports a mode without quotes. YAML parsers disagree on the value of `0644`, and only the text shows the quotes.
    fn unquoted_mode(&mut self, place: &Place) {
        let (line, column) = place.position();
        let written = lines(place.text()).nth(line - 1).unwrap_or_default();
        let digits: String = written.chars().skip(column - 1).take_while(char::is_ascii_digit).collect();
        if !digits.is_empty() {
            let finding =
                Finding::new("the mode is a number").hint(format!("write octal digits in quotes: \"{digits}\""));
            self.problem(place, At::Value, finding);
        }
    }

    fn objects_of(&self, kind: &str) -> Vec<Object> {
        self.set.objects.values().filter(|object| object.key.kind == kind).cloned().collect()
    }

    fn global_kinds(&mut self) {
        for object in self.objects_of("Namespace") {
            let Ok(namespace) = typed::<pb::Namespace>("Namespace", &object.spec) else { continue };
            let allowed = namespace.includes.as_ref().map(|includes| includes.allow.as_slice()).unwrap_or_default();
            for (index, pattern) in allowed.iter().enumerate() {
                if let Err(error) = RepositoryUrl::pattern(pattern) {
                    let finding = Finding::new(format!("cannot use the pattern {pattern}: {error}")).hint(
                        "write https://HOST/PATH or ssh://HOST/PATH, with * for any characters of the host or path",
                    );
                    self.problem(
                        &object.place.key("spec").key("includes").key("allow").index(index),
                        At::Value,
                        finding,
                    );
                }
            }
            if !namespace.node_groups.is_empty() {
                let groups = limits::Names::from(namespace.node_groups.clone());
                self.limits.insert(object.key.name.clone(), Arc::new(groups));
            }
            self.set.namespaces.insert(object.key.name, namespace);
        }
        for object in self.objects_of("Node") {
            let address = object.spec.get("address").and_then(Value::as_str).map(str::to_owned);
            let keys = task::list(&object.spec, "publicKeys");
            let public_keys = keys.iter().filter_map(Value::as_str).map(str::to_owned).collect();
            self.set.nodes.insert(object.key.name, NodeObject { labels: object.labels, address, public_keys });
        }
        for object in self.objects_of("NodeGroup") {
            let selector = object.spec.get("selector").and_then(|selector| Selector::read(selector).ok());
            let nodes: BTreeSet<String> =
                task::list(&object.spec, "nodes").iter().filter_map(Value::as_str).map(str::to_owned).collect();
            let written = object.spec.get("selector").is_some_and(|selector| !selector.is_null());
            if !written && nodes.is_empty() {
                let finding = Finding::new("the NodeGroup selects nothing").hint("write a selector, or nodes");
                self.problem(&object.place, At::Value, finding);
            }
            self.set.groups.insert(object.key.name, Group { selector, nodes });
        }
        self.set.find_members();
        for object in self.objects_of("Config") {
            self.config(&object);
        }
        for object in self.objects_of("ClusterVariablesBinding") {
            let names: Vec<String> = task::list(&object.spec, "clusterVariables")
                .iter()
                .filter_map(Value::as_str)
                .map(str::to_owned)
                .collect();
            for namespace in task::list(&object.spec, "namespaces").iter().filter_map(Value::as_str) {
                self.set.bindings.entry(namespace.to_owned()).or_default().extend(names.iter().cloned());
            }
        }
    }

    fn config(&mut self, object: &Object) {
        for field in ["node", "cluster", "root", "stateDir", "listen", "tls", "dataStore", "secrets"] {
            if object.spec.get(field).is_some_and(|value| !value.is_null()) {
                let finding = Finding::new(format!("{field} belongs in the node's bootstrap file only"));
                self.problem(&object.place.key("spec").key(field), At::Key, finding.hint("remove it here"));
            }
        }
        if let Ok(config) = typed("Config", &object.spec) {
            self.set.configs.insert(object.key.name.clone(), config);
        }
    }

    fn namespaced_kinds(&mut self) {
        for object in self.set.objects.values().cloned().collect::<Vec<_>>() {
            if self.spent.is_beyond(object.place.source()) {
                continue;
            }
            match object.key.kind {
                "TaskBook" => {
                    let book = book::read(self, &object);
                    self.set.books.insert(book.id(), Arc::new(book));
                }
                "CronJob" | "Trigger" | "Beacon" => {
                    let reaction = reactions::read(self, &object);
                    self.set.reactions.insert(object.key, reaction);
                }
                "Secret" => {
                    let readers = reactions::readers(self, &object);
                    self.set.readers.insert(object.key, readers);
                }
                "Variables" | "ClusterVariables" => {
                    let variables = self.variables(&object);
                    self.set.variables.push(variables);
                }
                _ => {}
            }
        }
    }

    fn variables(&mut self, object: &Object) -> VariablesObject {
        let place = object.place.key("spec");
        let mut computed = Vec::new();
        for (index, value) in task::list(&object.spec, "computed").iter().enumerate() {
            let place = place.key("computed").index(index);
            let expression = task::text(value, "expression");
            let task = value.get("task").filter(|task| task.is_object());
            if expression.is_some() == task.is_some() {
                self.problem(
                    &place,
                    At::Value,
                    Finding::new("a computed variable needs either an expression or a task"),
                );
            }
            let task = task.map(|task| Box::new(book::single_task(self, &place.key("task"), task, &object.key)));
            if let Some(module) = task.as_ref().and_then(|task| task.module.as_ref())
                && !module.schema.computes
            {
                let able: Vec<_> = towpath_proto::modules().filter(|able| able.computes).map(|able| able.key).collect();
                let finding = Finding::new(format!("cannot compute a value with {}", module.name));
                let finding = finding.hint(format!("use one of: {}", able.join(", ")));
                self.problem(&place.key("task").key(module.name), At::Key, finding);
            }
            computed.push(ComputedValue {
                name: task::text(value, "name").unwrap_or_default(),
                expression,
                task,
                value: task::text(value, "value").unwrap_or_else(|| "result.stdout".to_owned()),
                refresh: task::time(value, "refresh", Duration::from_secs(600)),
                place,
            });
        }
        let targets = limits::Targets::read(self, &place, &object.spec, limits::Field::Targets, &object.key.namespace);
        VariablesObject {
            key: object.key.clone(),
            targets,
            priority: object.spec.get("priority").and_then(Value::as_i64).unwrap_or(0),
            values: task::map(&object.spec, "values"),
            by_node: task::map(&object.spec, "valuesByNode"),
            computed,
            place,
        }
    }

    /// Returns the content of an included file of tasks. The file is read and checked only once.
    ///
    /// The cost is charged to `owner`, the source of the first object that includes the file.
    pub(super) fn read_tasks(
        &mut self,
        at: &Place,
        (owner, object): (&str, &Key),
        source: &str,
        path: &str,
    ) -> Option<Document> {
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
        let tree = Arc::clone(self.set.trees.get(source)?);
        let bytes = match tree.read(path) {
            Ok(Some(bytes)) => bytes,
            Ok(None) => {
                let finding = Finding::new(format!("there is no file {path} in the source {source}"));
                self.problem(&at.key("path"), At::Value, finding);
                return None;
            }
            Err(error) => {
                self.problem(&at.key("path"), At::Value, Finding::new(format!("{path}: {error}")));
                return None;
            }
        };
        if !self.charge(owner, Cost { files: 1, bytes: bytes.len() as u64, ..Cost::default() }) {
            return None;
        }
        let (mut documents, problems) = parse(source, path, &bytes, Limits::default());
        let broken = !problems.is_empty();
        self.keep(problems);
        if broken {
            return None;
        }
        if documents.len() != 1 {
            let finding =
                Finding::new(format!("{path} holds {} documents, and an included file holds one", documents.len()));
            self.problem(&at.key("path"), At::Value, finding.hint("write {tasks: […], handlers: […]}"));
            return None;
        }
        let document = documents.remove(0);
        book::check_task_file(self, &document);
        Some(document)
    }
}

pub(super) fn display(key: &Key) -> String {
    if key.namespace.is_empty() { key.name.clone() } else { format!("{}/{}", key.namespace, key.name) }
}

/// Returns the container of computed variables: the source of their object.
pub(super) fn within_source(place: &Place) -> Arc<Within> {
    Arc::new(Within { source: place.source().to_owned(), ..Within::default() })
}
