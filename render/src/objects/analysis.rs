//! Checks of the names in templates and expressions, before anything runs.
//! The checks find `item` outside of a loop, results that no task registers, unset variables, and untrusted values in
//! forbidden parameters.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde_json::{Map, Value};
use towpath_proto::did_you_mean;

use super::{
    load::Loader,
    task::{Book, ModuleUse, Task, Within},
    untrusted::untrusted_uses,
};
use crate::{
    document::{At, Path, Place, Step},
    problem::Finding,
    template::syntax::{NAMES, names_in_expression, names_in_template},
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

/// Checks the names in the templates and expressions of all TaskBooks and computed variables.
pub(super) fn check(loader: &mut Loader<'_>) {
    let books: Vec<_> = loader.set.books.values().cloned().collect();
    let mut visible: BTreeMap<&str, Arc<BTreeSet<String>>> = BTreeMap::new();
    for book in &books {
        let variables = visible.entry(&book.namespace).or_insert_with(|| visible_variables(loader, &book.namespace));
        let variables = Arc::clone(variables);
        let mut checker =
            Checker { loader: &mut *loader, book, variables, registered: BTreeSet::new(), all: BTreeSet::new() };
        checker.book();
    }
    computed(loader);
    untrusted(loader);
}

/// Reports untrusted values in parameters that do not allow them.
fn untrusted(loader: &mut Loader<'_>) {
    for found in untrusted_uses(&loader.set).into_iter().filter(|found| !found.allowed) {
        let finding =
            Finding::new(format!("cannot use {} in {}: the value is untrusted", found.origin, found.parameter));
        let finding = finding.hint("pass it in argv, env, stdin or the content of a file");
        loader.problem(&found.place, At::Value, finding);
    }
}

/// Returns the names of all variables that objects set and that a namespace sees.
fn visible_variables(loader: &Loader<'_>, namespace: &str) -> Arc<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for object in loader.set.variables_of(namespace) {
        names.extend(object.values.keys().cloned());
        names.extend(object.by_node.values().filter_map(Value::as_object).flat_map(|values| values.keys().cloned()));
        names.extend(object.computed.iter().map(|value| value.name.clone()));
    }
    Arc::new(names)
}

fn computed(loader: &mut Loader<'_>) {
    let mut findings = Vec::new();
    for object in &loader.set.variables {
        for value in &object.computed {
            let Some(expression) = &value.expression else { continue };
            for name in names_in_expression(expression) {
                let root = name.split('.').next().unwrap_or_default();
                if !matches!(root, "vars" | "facts" | "node" | "nodes") && !FUNCTIONS.contains(&root) {
                    let finding = Finding::new(format!("cannot use {root} in a computed variable"));
                    findings
                        .push((value.place.key("expression"), finding.hint("use only vars, facts, node and nodes()")));
                } else if let Some(finding) = unknown_fact(&name) {
                    findings.push((value.place.key("expression"), finding));
                }
            }
        }
    }
    for (place, finding) in findings {
        loader.problem(&place, At::Value, finding);
    }
}

struct Checker<'a, 'b> {
    loader: &'a mut Loader<'b>,
    book: &'a Book,
    /// The names of the variables that objects set. Variables of the TaskBook are not included.
    variables: Arc<BTreeSet<String>>,
    /// The names of the results that earlier tasks register.
    registered: BTreeSet<String>,
    /// The names of the results that any task of the TaskBook registers.
    all: BTreeSet<String>,
}

/// The names that a template or an expression at one location may use.
struct Here<'a> {
    task: Option<&'a Task>,
    within: Option<&'a Within>,
    looped: bool,
    result: bool,
    /// True if the text contains `is defined` or `default`, so that an unknown name is not an error.
    guarded: bool,
}

impl Checker<'_, '_> {
    fn book(&mut self) {
        let book = self.book;
        let lists = [&book.rollout.before, &book.tasks, &book.handlers, &book.rollout.after];
        self.all = lists.iter().flat_map(|tasks| tasks.iter().filter_map(|task| task.register.clone())).collect();
        let nothing = Here { task: None, within: None, looped: false, result: false, guarded: false };
        for (name, value) in &book.vars {
            self.strings(&book.place.key("vars").key(name), value, &nothing);
        }
        for tasks in lists {
            for task in tasks {
                self.task(task);
                if !book.parallel {
                    self.registered.extend(task.register.clone());
                }
            }
            if book.parallel {
                self.registered.extend(tasks.iter().filter_map(|task| task.register.clone()));
            }
        }
    }

    fn task(&mut self, task: &Task) {
        let place = &task.place;
        let looped = task.looped.is_some();
        let here =
            |looped, result| Here { task: Some(task), within: Some(&task.within), looped, result, guarded: false };
        for condition in &task.when {
            // A condition of an include would be reported once for each included task, at the location of that task.
            let own = Arc::ptr_eq(&condition.within, &task.within);
            if own {
                self.expression(&place.key("when"), &condition.expression, &here(looped, false));
            }
        }
        if let Some(list) = &task.looped {
            self.strings(&place.key("loop"), list, &here(false, false));
        }
        for (name, value) in &task.vars {
            self.strings(&place.key("vars").key(name), value, &here(looped, false));
        }
        for (key, expression) in [("success", &task.success), ("changed", &task.changed)] {
            if let Some(expression) = expression {
                self.expression(&place.key(key), expression, &here(looped, true));
            }
        }
        if let Some(until) = &task.until {
            self.expression(&place.key("until").key("condition"), &until.condition, &here(looped, true));
        }
        if let Some(module) = &task.module {
            let place = place.key(module.name);
            let mut templates = module.params.clone();
            for field in module.schema.expressions() {
                let list = templates.as_object_mut().and_then(|params| params.remove(field.name));
                for (index, that) in list.as_ref().and_then(Value::as_array).into_iter().flatten().enumerate() {
                    if let Some(that) = that.as_str() {
                        self.expression(&place.key(field.name).index(index), that, &here(looped, false));
                    }
                }
            }
            self.strings(&place, &templates, &here(looped, false));
            self.files(task, &place, &module.params);
            self.wide_modes(&place, module);
        }
    }

    fn expression(&mut self, place: &Place, expression: &str, here: &Here<'_>) {
        let here = Here { guarded: guarded(expression), ..*here };
        for name in names_in_expression(expression) {
            self.name(place, &name, &here);
        }
    }

    fn strings(&mut self, place: &Place, value: &Value, here: &Here<'_>) {
        let mut found = Vec::new();
        collect_strings(value, &mut Vec::new(), &mut found);
        for (path, text) in found {
            let place = place.below(&Path(path));
            let here = Here { guarded: guarded(&text), ..*here };
            for name in names_in_template(&text) {
                self.name(&place, &name, &here);
            }
        }
    }

    fn name(&mut self, place: &Place, name: &str, here: &Here<'_>) {
        let mut parts = name.split('.');
        let (root, first) = (parts.next().unwrap_or_default(), parts.next());
        let finding = match (root, first) {
            ("item" | "loop", _) if !here.looped => {
                Some(Finding::new(format!("{root} is used outside a loop")).hint("add loop: […] to the task"))
            }
            ("result", _) if !here.result => Some(
                Finding::new("result is defined only in success, changed and until")
                    .hint("register the task's result, and use steps.NAME in later tasks"),
            ),
            ("event", _) if self.book.targets.is_some() => Some(
                Finding::new("event is defined only if a Trigger runs the TaskBook")
                    .hint("remove targets, so that only CronJobs and Triggers run the TaskBook"),
            ),
            ("steps", Some(step)) => self.step(step, here, place),
            ("vars", Some(variable)) if !here.guarded => self.variable(variable, here, place),
            ("facts", Some(_)) if !here.guarded => unknown_fact(name),
            (root, _) if NAMES.contains(&root) || FUNCTIONS.contains(&root) => None,
            _ if here.guarded => None,
            (root, _) => Some(self.unknown(root, here)),
        };
        if let Some(finding) = finding {
            self.loader.problem(place, At::Value, finding);
        }
    }

    fn unknown(&self, root: &str, here: &Here<'_>) -> Finding {
        let finding = Finding::new(format!("{root} is not defined"));
        if self.known_variable(root, here) {
            return finding.hint(format!("write vars.{root}"));
        }
        if FACTS.contains(&root) {
            return finding.hint(format!("write facts.{root}"));
        }
        if let Some(fact) = root.strip_prefix("ansible_") {
            return finding.hint(format!("facts are below facts; `towpath facts` shows the name of {fact}"));
        }
        match did_you_mean(root, NAMES) {
            Some(meant) => finding.hint(format!("did you mean {meant}?")),
            None => finding.hint("known are: node, vars, facts, steps, item, loop, nodes(), secret(), shared()"),
        }
    }

    fn known_variable(&self, name: &str, here: &Here<'_>) -> bool {
        let mut within = here.within;
        while let Some(around) = within {
            if around.vars.contains_key(name) {
                return true;
            }
            within = around.outer.as_deref();
        }
        let by_name = |vars: &Map<String, Value>| vars.contains_key(name);
        self.variables.contains(name) || by_name(&self.book.vars) || here.task.is_some_and(|task| by_name(&task.vars))
    }

    fn variable(&self, name: &str, here: &Here<'_>, place: &Place) -> Option<Finding> {
        if self.known_variable(name, here) {
            return None;
        }
        let finding = Finding::new(format!("the variable {name} is not set"));
        if !self.loader.problems.borrow().shows_more(place.source()) {
            return Some(finding);
        }
        let own: &Map<String, Value> = here.task.map_or(&self.book.vars, |task| &task.vars);
        let known: BTreeSet<&String> = self.variables.iter().chain(self.book.vars.keys()).collect();
        let hint = match did_you_mean(name, known.into_iter().chain(own.keys()).map(String::as_str)) {
            Some(meant) => format!("did you mean vars.{meant}?"),
            None => "set it in Variables of this namespace, in ClusterVariables bound to it, or in vars; or give a default: vars.x | default(…)".to_owned(),
        };
        Some(finding.hint(hint))
    }

    fn step(&self, name: &str, here: &Here<'_>, place: &Place) -> Option<Finding> {
        let Some(task) = here.task else {
            return Some(
                Finding::new("cannot use steps in the vars of a TaskBook")
                    .hint("move the variable to the vars of a task"),
            );
        };
        let full = format!("{}{name}", task.within.prefix);
        if self.registered.contains(&full) || here.result && task.register.as_deref() == Some(&full) {
            return None;
        }
        if self.all.contains(&full) {
            return Some(
                Finding::new(format!("the result {name} is registered only by a later task"))
                    .hint("use a result only in tasks after the task that registers it"),
            );
        }
        let finding = Finding::new(format!("no task registers {name}"));
        if !self.loader.problems.borrow().shows_more(place.source()) {
            return Some(finding);
        }
        let own: Vec<&str> =
            self.all.iter().map(|known| known.strip_prefix(task.within.prefix.as_str()).unwrap_or(known)).collect();
        Some(match did_you_mean(name, own) {
            Some(meant) => finding.hint(format!("did you mean steps.{meant}?")),
            None => finding.hint("add register: to the task that has the result"),
        })
    }

    /// Reports files that a task names and that do not exist in the source.
    fn files(&mut self, task: &Task, place: &Place, params: &Value) {
        for key in ["template", "source"] {
            let Some(path) =
                params.get(key).and_then(Value::as_str).filter(|path| !path.contains("{{") && !path.contains("{%"))
            else {
                continue;
            };
            let Some(tree) = self.loader.set.trees.get(&task.within.source).cloned() else { continue };
            let Ok(path) = tree::join(&task.within.folder, path) else { continue };
            match tree.entry(&path) {
                Ok(Some(_)) => {
                    if key == "template" {
                        self.template_file(task, tree.as_ref(), &path);
                    }
                }
                Ok(None) => {
                    let finding = Finding::new(format!("there is no {path} in the source {}", task.within.source));
                    self.loader.problem(
                        &place.key(key),
                        At::Value,
                        finding.hint("paths are relative to the source's path, and in an include to its folder"),
                    );
                }
                Err(error) => self.loader.problem(&place.key(key), At::Value, Finding::new(format!("{path}: {error}"))),
            }
        }
    }

    fn template_file(&mut self, task: &Task, tree: &dyn tree::Tree, path: &str) {
        let Ok(Some(bytes)) = tree.read(path) else { return };
        let Ok(text) = String::from_utf8(bytes) else {
            let finding = Finding::new(format!("the template {path} is not valid UTF-8"))
                .hint("use source for files that are not text");
            return self.loader.problem(&task.place, At::Value, finding);
        };
        let name = task.module.as_ref().map_or("file", |module| module.name);
        let place = task.place.key(name).key("template");
        if let Err(finding) = crate::template::syntax::template(&text) {
            let finding = Finding { message: format!("{path}: {}", finding.message), ..finding };
            return self.loader.problem(&place, At::Value, finding);
        }
        let here = Here {
            task: Some(task),
            within: Some(&task.within),
            looped: task.looped.is_some(),
            result: false,
            guarded: guarded(&text),
        };
        // A template that imports other templates may get names from them.
        let imports = text.contains("{% import")
            || text.contains("{% from")
            || text.contains("{% include")
            || text.contains("{% extends");
        for used in names_in_template(&text) {
            let root = used.split('.').next().unwrap_or_default();
            if !imports || NAMES.contains(&root) {
                self.name(&place, &used, &here);
            }
        }
    }

    /// Warns about a file mode that lets every user write the file.
    fn wide_modes(&mut self, place: &Place, module: &ModuleUse) {
        for field in module.schema.message.fields.iter().filter(|field| field.format == Some("mode")) {
            let mode = module.params.get(field.name).and_then(Value::as_str);
            if mode.is_some_and(|mode| matches!(mode.trim_start_matches('0'), "777" | "666")) {
                let finding = Finding::new("every user of the node may write this file")
                    .hint("give owner, group and a narrower mode");
                self.loader.warning(&place.key(field.name), At::Value, finding);
            }
        }
    }
}

/// Returns whether a template or an expression contains `default` or `is defined`.
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

fn collect_strings(value: &Value, path: &mut Vec<Step>, found: &mut Vec<(Vec<Step>, String)>) {
    match value {
        Value::String(text) if text.contains("{{") || text.contains("{%") => found.push((path.clone(), text.clone())),
        Value::Array(members) => {
            for (index, member) in members.iter().enumerate() {
                path.push(Step::Index(index));
                collect_strings(member, path, found);
                path.pop();
            }
        }
        Value::Object(members) => {
            for (key, member) in members {
                path.push(Step::Key(key.clone()));
                collect_strings(member, path, found);
                path.pop();
            }
        }
        _ => {}
    }
}
