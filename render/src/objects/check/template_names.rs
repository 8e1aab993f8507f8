//! Checks the names in templates and expressions before a task runs. The checks find `item` outside of a loop, results
//! that no task registers, and variables without a value.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde_json::{Map, Value};
use towpath_proto::did_you_mean;

use crate::{
    document::{Path, Place, Step},
    objects::{
        ObjectSet,
        ledger::Found,
        task::{Book, IncludeContext, ModuleUse, Task},
    },
    problem::Finding,
    template::syntax::{self, NAMES, names_in_expression, names_in_template},
    tree,
};

/// The names of the facts that every node has.
pub const FACTS: [&str; 16] = [
    "os",
    "kernel",
    "hostname",
    "fqdn",
    "cpus",
    "memory",
    "disks",
    "mounts",
    "interfaces",
    "addresses",
    "packageManager",
    "init",
    "virtualization",
    "machineId",
    "bootId",
    "custom",
];

/// The names of the built-in functions of the template engine.
const FUNCTIONS: [&str; 4] = ["range", "dict", "namespace", "debug"];

/// Returns the names that each TaskBook may use in its templates and expressions.
pub(in crate::objects) fn names_of_books(set: &ObjectSet) -> Vec<BookNames<'_>> {
    let mut visible: BTreeMap<&str, Arc<BTreeSet<&str>>> = BTreeMap::new();
    let names = set.books.values().map(|book| {
        let variables = visible.entry(&book.namespace).or_insert_with(|| visible_variables(set, &book.namespace));
        BookNames::new(set, book, Arc::clone(variables))
    });
    names.collect()
}

/// Returns the names of all variables that a namespace can use.
fn visible_variables<'a>(set: &'a ObjectSet, namespace: &'a str) -> Arc<BTreeSet<&'a str>> {
    let mut names: BTreeSet<&str> = BTreeSet::new();
    for object in set.variables_of(namespace) {
        names.extend(object.values.keys().map(String::as_str));
        let by_node = object.by_node.values().filter_map(Value::as_object);
        names.extend(by_node.flat_map(|values| values.keys().map(String::as_str)));
        names.extend(object.computed.iter().map(|value| value.name.as_str()));
    }
    Arc::new(names)
}

/// Returns an error for each unknown name in the expressions of computed variables.
pub(in crate::objects) fn in_computed_variables(set: &ObjectSet) -> Vec<Found<'_>> {
    let mut found = Vec::new();
    for value in set.variables.iter().flat_map(|object| &object.computed) {
        let Some(expression) = &value.expression else { continue };
        for name in names_in_expression(expression) {
            let root = name.split('.').next().unwrap_or_default();
            if !matches!(root, "vars" | "facts" | "node" | "nodes") && !FUNCTIONS.contains(&root) {
                let finding = Finding::new(format!("cannot use {root} in a computed variable"))
                    .hint("use only vars, facts, node and nodes()");
                found.push(Found::new(value.place.key("expression"), finding));
            } else if let Some(finding) = unknown_fact(&name) {
                found.push(Found::new(value.place.key("expression"), finding));
            }
        }
    }
    found
}

/// The names that the templates and expressions of a TaskBook may use.
pub(in crate::objects) struct BookNames<'a> {
    set: &'a ObjectSet,
    book: &'a Book,
    /// The names of the variables that Variables and ClusterVariables objects set.
    variables: Arc<BTreeSet<&'a str>>,
    /// The tasks, each with its turn: the position of the task in the order of execution. A task may use the results of
    /// tasks that run earlier.
    tasks: Vec<(&'a Task, usize)>,
    /// The names of registered results, each with the turn of the first task that registers the result.
    registered: BTreeMap<&'a str, usize>,
}

/// The position of a template or an expression among the tasks of a TaskBook. The position determines the names that
/// the text can use.
#[derive(Clone, Copy)]
struct Here<'a> {
    /// The task that contains the text, and the position of the task in the order of execution.
    task: Option<(&'a Task, usize)>,
    loop_items: bool,
    result: bool,
    /// True if the text contains `is defined` or `default`, so that an unknown name in the text is not an error.
    guarded: bool,
}

/// An expression of a TaskBook, or a value that may contain templates.
struct Part<'a> {
    place: Place,
    text: Text<'a>,
    here: Here<'a>,
}

/// An expression, or a value that may contain templates.
enum Text<'a> {
    Expression(&'a str),
    Templates(Cow<'a, Value>),
}

impl<'a> BookNames<'a> {
    fn new(set: &'a ObjectSet, book: &'a Book, variables: Arc<BTreeSet<&'a str>>) -> Self {
        let mut tasks = Vec::new();
        let mut registered: BTreeMap<&str, usize> = BTreeMap::new();
        let mut turn = 0;
        for list in [&book.rollout.before, &book.tasks, &book.handlers, &book.rollout.after] {
            for task in list {
                tasks.push((task, turn));
                if let Some(name) = &task.register {
                    registered.entry(name).or_insert(turn);
                }
                turn += usize::from(!book.parallel);
            }
            // All tasks of a list have the same turn if they run concurrently.
            turn += usize::from(book.parallel);
        }
        Self { set, book, variables, tasks, registered }
    }

    /// Returns an error for each unknown name in the templates, expressions and template files of the TaskBook.
    pub(in crate::objects) fn problems(&self) -> impl Iterator<Item = Found<'_>> {
        let nothing = Here { task: None, loop_items: false, result: false, guarded: false };
        let place = self.book.place.key("vars");
        let vars = self.book.vars.iter().map(move |(name, value)| Part {
            place: place.key(name),
            text: Text::Templates(Cow::Borrowed(value)),
            here: nothing,
        });
        let tasks = self.tasks.iter().flat_map(move |&(task, turn)| {
            let here = Here { task: Some((task, turn)), loop_items: task.loop_items.is_some(), ..nothing };
            let parts = parts_of(task, here).into_iter().flat_map(move |part| self.part(part));
            let module = task.module.iter().flat_map(move |module| {
                let files = ["template", "source"].into_iter().flat_map(move |key| self.file(task, module, key, here));
                files.chain(wide_modes(task, module))
            });
            parts.chain(module)
        });
        vars.flat_map(move |part| self.part(part)).chain(tasks)
    }

    fn part<'b>(&'b self, part: Part<'b>) -> impl Iterator<Item = Found<'b>> {
        let Part { place, text, here } = part;
        let is_expression = matches!(text, Text::Expression(_));
        let texts = match text {
            Text::Expression(text) => vec![(Path::default(), text.to_owned())],
            Text::Templates(value) => templates_in(&value),
        };
        texts.into_iter().flat_map(move |(path, text)| {
            let place = place.below(&path);
            let names = if is_expression { names_in_expression(&text) } else { names_in_template(&text) };
            let here = Here { guarded: guarded(&text), ..here };
            names.into_iter().filter_map(move |name| self.name(&place, &name, here))
        })
    }

    /// Returns an error if a template or an expression is not allowed to use a name; `None` if the name is allowed.
    fn name<'b>(&'b self, place: &Place, name: &str, here: Here<'b>) -> Option<Found<'b>> {
        let mut parts = name.split('.');
        let (root, first) = (parts.next().unwrap_or_default(), parts.next());
        let finding = match (root, first) {
            ("item" | "loop", _) if !here.loop_items => {
                Finding::new(format!("{root} is used outside a loop")).hint("add loop: […] to the task")
            }
            ("result", _) if !here.result => Finding::new("result is defined only in success, changed and until")
                .hint("register the task's result, and use steps.NAME in later tasks"),
            ("event", _) if self.book.targets.is_some() => {
                Finding::new("event is defined only if a Trigger runs the TaskBook")
                    .hint("remove targets, so that only CronJobs and Triggers run the TaskBook")
            }
            ("steps", Some(step)) => return self.step(place, step, here),
            ("vars", Some(variable)) if !here.guarded => return self.variable(place, variable, here),
            ("facts", Some(_)) if !here.guarded => unknown_fact(name)?,
            (root, _) if NAMES.contains(&root) || FUNCTIONS.contains(&root) => return None,
            _ if here.guarded => return None,
            (root, _) => self.unknown(root, here),
        };
        Some(Found::new(place.clone(), finding))
    }

    fn unknown(&self, root: &str, here: Here<'_>) -> Finding {
        let finding = Finding::new(format!("{root} is not defined"));
        if self.is_variable(root, here) {
            return finding.hint(format!("write vars.{root}"));
        }
        if FACTS.contains(&root) {
            return finding.hint(format!("write facts.{root}"));
        }
        if let Some(fact) = root.strip_prefix("ansible_") {
            return finding.hint(format!("write `facts.NAME`; `towpath facts` shows the name of {fact}"));
        }
        match did_you_mean(root, NAMES) {
            Some(meant) => finding.hint(format!("did you mean {meant}?")),
            None => finding.hint("known are: node, vars, facts, steps, item, loop, nodes(), secret(), shared()"),
        }
    }

    fn is_variable(&self, name: &str, here: Here<'_>) -> bool {
        let mut within = here.task.map(|(task, _)| task.within.as_ref());
        while let Some(IncludeContext { vars, outer, .. }) = within {
            if vars.contains_key(name) {
                return true;
            }
            within = outer.as_deref();
        }
        let by_name = |vars: &Map<String, Value>| vars.contains_key(name);
        self.variables.contains(name)
            || by_name(&self.book.vars)
            || here.task.is_some_and(|(task, _)| by_name(&task.vars))
    }

    fn variable<'b>(&'b self, place: &Place, name: &str, here: Here<'b>) -> Option<Found<'b>> {
        if self.is_variable(name, here) {
            return None;
        }
        let finding = Finding::new(format!("the variable {name} is not set"));
        let name = name.to_owned();
        Some(Found::new(place.clone(), finding).hint(move || {
            let own = here.task.map_or(&self.book.vars, |(task, _)| &task.vars);
            let known: BTreeSet<&str> =
                self.variables.iter().copied().chain(self.book.vars.keys().map(String::as_str)).collect();
            match did_you_mean(&name, known.into_iter().chain(own.keys().map(String::as_str))) {
                Some(meant) => format!("did you mean vars.{meant}?"),
                None => "set it in Variables of this namespace, in ClusterVariables bound to it, or in vars; or give a default: vars.x | default(…)".to_owned(),
            }
        }))
    }

    fn step<'b>(&'b self, place: &Place, name: &str, here: Here<'b>) -> Option<Found<'b>> {
        let found = |finding| Some(Found::new(place.clone(), finding));
        let Some((task, turn)) = here.task else {
            return found(
                Finding::new("cannot use steps in the vars of a TaskBook")
                    .hint("move the variable to the vars of a task"),
            );
        };
        let prefix = task.within.prefix.as_str();
        let full = format!("{prefix}{name}");
        let registered = self.registered.get(full.as_str());
        if registered.is_some_and(|first| *first < turn)
            || here.result && task.register.as_deref() == Some(full.as_str())
        {
            return None;
        }
        if registered.is_some() {
            return found(
                Finding::new(format!("only a later task registers the result `{name}`"))
                    .hint("use a result only in tasks after the task that registers it"),
            );
        }
        let finding = Finding::new(format!("no task registers {name}"));
        let name = name.to_owned();
        found(finding).map(|found| {
            found.hint(move || {
                let known = self.registered.keys().map(|known| known.strip_prefix(prefix).unwrap_or(known));
                match did_you_mean(&name, known) {
                    Some(meant) => format!("did you mean steps.{meant}?"),
                    None => "add register: to the task that has the result".to_owned(),
                }
            })
        })
    }

    /// Returns an error if the source lacks a file that a task names, or if the file is a template with an unknown
    /// name.
    fn file<'b>(
        &'b self,
        task: &'b Task,
        module: &ModuleUse,
        key: &'static str,
        here: Here<'b>,
    ) -> impl Iterator<Item = Found<'b>> + use<'a, 'b> {
        let place = task.place.key(module.name).key(key);
        let (problem, template) = match self.template_file(task, module, key) {
            Ok(template) => (None, template),
            Err((place, finding)) => (Some(Found::new(place, finding)), None),
        };
        let names = template.into_iter().flat_map(move |text| {
            let (place, here) = (place.clone(), Here { guarded: guarded(&text), ..here });
            // A template that imports other templates may get names from them.
            let imports = ["{% import", "{% from", "{% include", "{% extends"].iter().any(|tag| text.contains(tag));
            let known = move |name: &String| NAMES.contains(&name.split('.').next().unwrap_or_default());
            let names = names_in_template(&text).into_iter().filter(move |name| !imports || known(name));
            names.filter_map(move |name| self.name(&place, &name, here))
        });
        problem.into_iter().chain(names)
    }

    /// Returns the text of a template file that a parameter of a task names, or `None` if the parameter does not name a
    /// template file.
    fn template_file(&self, task: &Task, module: &ModuleUse, key: &str) -> Result<Option<String>, (Place, Finding)> {
        let path = module.params.get(key).and_then(Value::as_str);
        let Some(path) = path.filter(|path| !path.contains("{{") && !path.contains("{%")) else { return Ok(None) };
        let Some(tree) = self.set.trees.get(&task.within.source) else { return Ok(None) };
        let Ok(path) = tree::join(&task.within.folder, path) else { return Ok(None) };
        let place = task.place.key(module.name).key(key);
        match tree.entry(&path) {
            Ok(Some(_)) if key == "template" => {}
            Ok(Some(_)) => return Ok(None),
            Ok(None) => {
                let finding = Finding::new(format!("there is no {path} in the source {}", task.within.source));
                let hint = "paths are relative to the source's path, and in an include to its folder";
                return Err((place, finding.hint(hint)));
            }
            Err(error) => return Err((place, Finding::new(format!("{path}: {error}")))),
        }
        let Ok(Some(bytes)) = tree.read(&path) else { return Ok(None) };
        let Ok(text) = String::from_utf8(bytes) else {
            let finding = Finding::new(format!("the template {path} is not valid UTF-8"));
            return Err((task.place.clone(), finding.hint("use source for files that are not text")));
        };
        match syntax::template(&text) {
            Ok(()) => Ok(Some(text)),
            Err(finding) => Err((place, Finding { message: format!("{path}: {}", finding.message), ..finding })),
        }
    }
}

/// Returns the parts of a task that contain templates or are expressions, in the order in which the parts are checked.
fn parts_of<'a>(task: &'a Task, here: Here<'a>) -> Vec<Part<'a>> {
    let place = &task.place;
    let result = Here { result: true, ..here };
    let expression = |place: Place, text: &'a str, here: Here<'a>| Part { place, text: Text::Expression(text), here };
    let templates = |place: Place, value: &'a Value, here: Here<'a>| Part {
        place,
        text: Text::Templates(Cow::Borrowed(value)),
        here,
    };
    let mut parts = Vec::new();
    // A condition of an include would be reported once for each included task, at the location of that task.
    for condition in task.when.iter().filter(|condition| Arc::ptr_eq(&condition.within, &task.within)) {
        parts.push(expression(place.key("when"), &condition.expression, here));
    }
    if let Some(list) = &task.loop_items {
        parts.push(templates(place.key("loop"), list, Here { loop_items: false, ..here }));
    }
    for (name, value) in &task.vars {
        parts.push(templates(place.key("vars").key(name), value, here));
    }
    for (key, text) in [("success", &task.success), ("changed", &task.changed)] {
        parts.extend(text.iter().map(|text| expression(place.key(key), text, result)));
    }
    if let Some(until) = &task.until {
        parts.push(expression(place.key("until").key("condition"), &until.condition, result));
    }
    if let Some(module) = &task.module {
        let place = place.key(module.name);
        let mut rest = module.params.clone();
        for field in module.schema.expressions() {
            if let Some(params) = rest.as_object_mut() {
                params.remove(field.name);
            }
            let list = module.params.get(field.name).and_then(Value::as_array).into_iter().flatten();
            let texts = list.enumerate().filter_map(|(index, text)| Some((index, text.as_str()?)));
            parts.extend(texts.map(|(index, text)| expression(place.key(field.name).index(index), text, here)));
        }
        parts.push(Part { place, text: Text::Templates(Cow::Owned(rest)), here });
    }
    parts
}

/// Returns a warning for each file mode with which every user can write to a file.
fn wide_modes<'a>(task: &'a Task, module: &'a ModuleUse) -> impl Iterator<Item = Found<'a>> {
    let modes = module.schema.message.fields.iter().filter(|field| field.format == Some("mode"));
    modes.filter_map(|field| {
        let mode = module.params.get(field.name).and_then(Value::as_str)?;
        matches!(mode.trim_start_matches('0'), "777" | "666").then(|| {
            let finding = Finding::new("every user of the node may write this file")
                .hint("give owner, group and a narrower mode");
            Found::new(task.place.key(module.name).key(field.name), finding).warning()
        })
    })
}

/// Returns true if a template or an expression contains `default` or `is defined`.
fn guarded(text: &str) -> bool {
    ["|default", "| default", "|d(", "| d(", "is defined", "is not defined", "is undefined"]
        .iter()
        .any(|guard| text.contains(guard))
}

fn unknown_fact(name: &str) -> Option<Finding> {
    let fact = name.strip_prefix("facts.")?.split('.').next()?;
    if FACTS.contains(&fact) {
        return None;
    }
    let finding = Finding::new(format!("there is no fact {fact}"));
    Some(match did_you_mean(fact, FACTS) {
        Some(meant) => finding.hint(format!("did you mean facts.{meant}?")),
        None => finding.hint("facts of facts.d are in facts.custom; `towpath facts` shows all"),
    })
}

/// Returns the templates in a value, each with its path in the value.
fn templates_in(value: &Value) -> Vec<(Path, String)> {
    let mut found = Vec::new();
    collect_templates(value, &mut Vec::new(), &mut found);
    found
}

fn collect_templates(value: &Value, path: &mut Vec<Step>, found: &mut Vec<(Path, String)>) {
    match value {
        Value::String(text) if text.contains("{{") || text.contains("{%") => {
            found.push((Path(path.clone()), text.clone()))
        }
        Value::Array(members) => {
            for (index, member) in members.iter().enumerate() {
                path.push(Step::Index(index));
                collect_templates(member, path, found);
                path.pop();
            }
        }
        Value::Object(members) => {
            for (key, member) in members {
                path.push(Step::Key(key.as_str().into()));
                collect_templates(member, path, found);
                path.pop();
            }
        }
        _ => {}
    }
}
