//! Reads the text of tasks, and finds the untrusted values that the tasks use. The command `validate` reports the
//! parameters that use untrusted values. The loader rejects an untrusted value in a parameter that does not allow
//! untrusted values.
//!
//! The renderer later checks the taint of each value, because the text of a task does not show every untrusted value.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use minijinja::machinery::{Token, tokenize};
use serde_json::{Map, Value};

use crate::{
    document::{Path, Place, Step},
    objects::{
        ObjectSet, Reaction, VariablesObject,
        ledger::Found,
        task::{Book, IncludeContext, ModuleUse, Task},
    },
    problem::Finding,
    taint::fields::may_be_untrusted,
    template::syntax::{names_in_expression, names_in_template, syntax_config, whole_expression},
    tree, work,
};

/// A task parameter whose text uses an untrusted value.
#[derive(Debug, Clone)]
pub struct UntrustedUse {
    /// The location of the parameter.
    pub place: Place,
    /// The name of the parameter, as `module.parameter`.
    pub parameter: String,
    /// The origin of the untrusted value, such as an event.
    pub origin: String,
    /// True if the parameter allows untrusted values.
    pub allowed: bool,
}

/// The origin of a value that the text of a task uses. If a value has several origins, the last of these enum variants
/// applies.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Source {
    /// The value comes from git or from this node.
    #[default]
    Clean,
    /// The value comes from the template function `nodes()`. Names, labels and addresses are from git, but facts are
    /// from other nodes.
    Nodes,
    /// The value comes from another node or from an event. The string describes the origin in messages.
    Untrusted(String),
}

/// Returns all parameters that use an untrusted value, in tasks, checks of Beacons and computed variables.
pub fn untrusted_uses(set: &ObjectSet) -> Vec<UntrustedUse> {
    let mut uses = Vec::new();
    let mut books: BTreeMap<&str, Vec<&Book>> = BTreeMap::new();
    for book in set.books.values() {
        books.entry(&book.namespace).or_default().push(book);
    }
    let mut reactions: BTreeMap<&str, Vec<&Reaction>> = BTreeMap::new();
    for (key, reaction) in &set.reactions {
        reactions.entry(&key.namespace).or_default().push(reaction);
    }
    for namespace in set.namespaces.keys() {
        let vars = variables(set, set.variables_of(namespace), &mut uses);
        let names = Names { vars, ..Names::default() };
        for book in books.remove(namespace.as_str()).unwrap_or_default() {
            Walk { set, names: names.clone(), uses: &mut uses }.book(book);
        }
        for reaction in reactions.remove(namespace.as_str()).unwrap_or_default() {
            Walk { set, names: names.clone(), uses: &mut uses }.reaction(reaction);
        }
    }
    // A later commit may bind these ClusterVariables to a Namespace. Each object is checked alone, because later
    // bindings are not known.
    let bound: BTreeSet<&String> = set.bindings.values().flatten().collect();
    let unbound = |object: &&VariablesObject| object.key.kind != "Variables" && !bound.contains(&object.key.name);
    for object in set.variables.iter().filter(unbound) {
        variables(set, std::iter::once(object), &mut uses);
    }
    uses
}

/// Returns an error for each parameter that uses an untrusted value, but does not allow untrusted values.
pub(in crate::objects) fn refused_untrusted_uses(set: &ObjectSet) -> impl Iterator<Item = Found<'_>> {
    untrusted_uses(set).into_iter().filter(|found| !found.allowed).map(|found| {
        let UntrustedUse { place, parameter, origin, .. } = found;
        let finding = Finding::new(format!("cannot use {origin} in {parameter}: the value is untrusted"));
        Found::new(place, finding.hint("pass the value in `argv`, `env`, `stdin` or the content of a file"))
    })
}

/// Returns the variables that may have an untrusted value, by the name of the variable. Computed variables may use each
/// other in any order.
fn variables<'a>(
    set: &ObjectSet,
    objects: impl Iterator<Item = &'a VariablesObject>,
    uses: &mut Vec<UntrustedUse>,
) -> Arc<BTreeMap<String, Source>> {
    let computed: Vec<_> = objects.flat_map(|object| &object.computed).collect();
    let mut names = Names::default();
    for _ in 0..=computed.len() {
        let before = names.vars.clone();
        for value in &computed {
            let source = match (&value.expression, &value.task) {
                (Some(expression), _) => names.expression(expression),
                (None, Some(task)) => {
                    let params = task.module.as_ref().map(|module| &module.params);
                    params.map(|params| names.value(params)).unwrap_or_default()
                }
                (None, None) => Source::Clean,
            };
            if names.vars.get(&value.name).cloned().unwrap_or_default() < source {
                names.vars_mut().insert(value.name.clone(), source);
            }
        }
        if names.vars == before {
            break;
        }
    }
    for task in computed.iter().filter_map(|value| value.task.as_deref()) {
        Walk { set, names: names.clone(), uses }.task(task, &names);
    }
    names.vars
}

/// The names that a template may use at one location, each with the origin of its value. Copies of `Names` share the
/// memory of unchanged parts.
#[derive(Debug, Clone, Default)]
struct Names {
    /// The variables that may be untrusted, each with the origin of its value.
    vars: Arc<BTreeMap<String, Source>>,
    item: Source,
    /// The origins of the untrusted results of tasks, by the full name of the result.
    steps: Arc<BTreeMap<String, String>>,
    /// The full names of the results of elected tasks.
    elected: Arc<BTreeSet<String>>,
    /// The prefix of the names under which tasks of the current include register their results.
    prefix: String,
}

impl Names {
    fn value(&self, value: &Value) -> Source {
        match value {
            Value::String(text) => self.text(text),
            Value::Array(members) => members.iter().map(|member| self.value(member)).max().unwrap_or_default(),
            Value::Object(members) => members.values().map(|member| self.value(member)).max().unwrap_or_default(),
            _ => Source::Clean,
        }
    }

    fn text(&self, text: &str) -> Source {
        if !(text.contains("{{") || text.contains("{%")) || !self.concern(text) {
            return Source::Clean;
        }
        match whole_expression(text) {
            Some(expression) => self.expression(expression),
            None => self.names(&names_in_template(text), reads_facts(text, false)),
        }
    }

    /// Returns true if a text may use an untrusted value. The caller parses only texts for which this function returns
    /// true.
    fn concern(&self, text: &str) -> bool {
        let named = [
            (true, "nodes"),
            (true, "event"),
            (!self.vars.is_empty(), "vars"),
            (self.item != Source::Clean, "item"),
            (!self.steps.is_empty(), "steps"),
        ];
        named.into_iter().any(|(known, name)| known && text.contains(name))
    }

    fn expression(&self, text: &str) -> Source {
        if !self.concern(text) {
            return Source::Clean;
        }
        self.names(&names_in_expression(text), reads_facts(text, true))
    }

    fn names(&self, names: &BTreeSet<String>, facts: bool) -> Source {
        names.iter().map(|name| self.name(name, facts)).max().unwrap_or_default()
    }

    fn name(&self, name: &str, facts: bool) -> Source {
        let mut parts = name.split('.');
        let source = match (parts.next().unwrap_or_default(), parts.next()) {
            ("event", _) => Source::Untrusted("an event".into()),
            ("nodes", _) => Source::Nodes,
            ("vars", Some(variable)) => self.vars.get(variable).cloned().unwrap_or_default(),
            ("item", _) => self.item.clone(),
            ("steps", Some(step)) => {
                let step = format!("{}{step}", self.prefix);
                // This agent sets `changed` and `outcome`, unless the task is elected. Then another node may have
                // written the whole result.
                let own = matches!(parts.next(), Some("changed" | "outcome")) && !self.elected.contains(&step);
                let origin = self.steps.get(&step).filter(|_| !own);
                origin.map_or(Source::Clean, |origin| Source::Untrusted(origin.clone()))
            }
            _ => Source::Clean,
        };
        if source == Source::Nodes && facts { Source::Untrusted("the facts of other nodes".into()) } else { source }
    }

    fn add(&mut self, vars: &Map<String, Value>) {
        for (name, value) in vars {
            match self.value(value) {
                Source::Clean if !self.vars.contains_key(name) => {}
                Source::Clean => drop(self.vars_mut().remove(name)),
                source => drop(self.vars_mut().insert(name.clone(), source)),
            }
        }
    }

    fn vars_mut(&mut self) -> &mut BTreeMap<String, Source> {
        work::count(self.vars.len());
        Arc::make_mut(&mut self.vars)
    }
}

/// Returns true if a text reads the attribute `facts` of a node. A filter that only compares facts, such as
/// `selectattr`, does not count as a read of facts.
fn reads_facts(text: &str, expression: bool) -> bool {
    if !text.contains("facts") {
        return false;
    }
    let named = |text: &str| text.split('.').any(|part| part == "facts");
    let tokens: Vec<Token<'_>> =
        tokenize(text, expression, syntax_config()).map_while(Result::ok).map(|(token, _)| token).collect();
    tokens.iter().enumerate().any(|(at, token)| {
        let before = |back: usize| at.checked_sub(back).and_then(|at| tokens.get(at));
        let selects = matches!(before(1), Some(Token::ParenOpen))
            && matches!(before(2), Some(Token::Ident("selectattr" | "rejectattr")));
        match token {
            Token::Ident("facts") => matches!(before(1), Some(Token::Dot)),
            Token::Str(text) => named(text) && !selects,
            Token::String(text) => named(text) && !selects,
            _ => false,
        }
    })
}

struct Walk<'a> {
    set: &'a ObjectSet,
    /// The names that all tasks of the TaskBook may use.
    names: Names,
    uses: &'a mut Vec<UntrustedUse>,
}

impl Walk<'_> {
    fn book(&mut self, book: &Book) {
        self.names.add(&book.vars);
        self.tasks([&book.rollout.before, &book.tasks, &book.handlers, &book.rollout.after].into_iter().flatten());
    }

    fn reaction(&mut self, reaction: &Reaction) {
        self.tasks(reaction.tasks.iter());
        for (module, place) in &reaction.checks {
            let names = self.names.clone();
            self.module(module, &place.key(module.name), &names);
        }
    }

    fn tasks<'t>(&mut self, tasks: impl Iterator<Item = &'t Task>) {
        for task in tasks {
            let result = {
                let mut names = self.names.clone();
                within(&mut names, &task.within);
                self.task(task, &names)
            };
            if let Some(name) = &task.register {
                if task.elect.is_some() {
                    Arc::make_mut(&mut self.names.elected).insert(name.clone());
                }
                let elected = task.elect.is_some().then(|| format!("the result of the elected task {:?}", task.id));
                if let Some(origin) = elected.or(result) {
                    Arc::make_mut(&mut self.names.steps).insert(name.clone(), origin);
                }
            }
        }
    }

    /// Records the parameters of a task that use an untrusted value. If the result of the task is untrusted, returns
    /// the origin of the result.
    fn task(&mut self, task: &Task, names: &Names) -> Option<String> {
        let mut names = names.clone();
        if let Some(loop_items) = &task.loop_items {
            let mut outside = names.clone();
            outside.add(&task.vars);
            names.item = outside.value(loop_items);
        }
        names.add(&task.vars);
        let module = task.module.as_ref()?;
        let place = task.place.key(module.name);
        let mut first = self.module(module, &place, &names);
        if let Some((text, content)) = self.template(task, &module.params)
            && let Source::Untrusted(origin) = names.text(&text)
        {
            // The output of the template becomes the content, and some modules reject untrusted content.
            let allowed = may_be_untrusted(module.schema, &content.0);
            let parameter = format!("{}.content", module.name);
            let place = place.key("template");
            self.uses.push(UntrustedUse { place, parameter, origin: origin.clone(), allowed });
            first.get_or_insert(origin);
        }
        first
    }

    /// Records the parameters of a module that use an untrusted value. Returns the origin of the first untrusted value
    /// in the parameters.
    fn module(&mut self, module: &ModuleUse, place: &Place, names: &Names) -> Option<String> {
        let mut first = None;
        let mut strings = Vec::new();
        collect(&module.params, &Path::default(), &mut strings);
        for (path, text) in strings {
            if let Source::Untrusted(origin) = names.text(text) {
                self.note(module, &path, place, origin.clone());
                first.get_or_insert(origin);
            }
        }
        first
    }

    fn note(&mut self, module: &ModuleUse, path: &Path, place: &Place, origin: String) {
        let allowed = may_be_untrusted(module.schema, &path.0);
        self.uses.push(UntrustedUse {
            place: place.below(path),
            parameter: format!("{}.{path}", module.name),
            origin,
            allowed,
        });
    }

    /// Returns the text of a task's template file, and the path of the parameter that gets the output of the template.
    fn template(&self, task: &Task, params: &Value) -> Option<(String, Path)> {
        let path = params.get("template")?.as_str().filter(|path| !path.contains("{{"))?;
        let tree = self.set.trees.get(&task.within.source)?;
        let bytes = tree.read(&tree::join(&task.within.folder, path).ok()?).ok()??;
        Some((String::from_utf8(bytes).ok()?, Path(vec![Step::Key("content".into())])))
    }
}

/// Adds the variables of each include around a task, beginning with the outermost include.
fn within(names: &mut Names, inner: &IncludeContext) {
    if let Some(outer) = &inner.outer {
        within(names, outer);
        names.add(&inner.vars);
        names.prefix.clone_from(&inner.prefix);
    }
}

fn collect<'a>(value: &'a Value, path: &Path, found: &mut Vec<(Path, &'a str)>) {
    match value {
        Value::String(text) => found.push((path.clone(), text)),
        Value::Array(members) => {
            members.iter().enumerate().for_each(|(index, member)| collect(member, &path.index(index), found));
        }
        Value::Object(members) => {
            members.iter().for_each(|(key, member)| collect(member, &path.key(key), found));
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        objects::{SourceTree, load},
        tree::MemoryTree,
    };

    const HEAD: &str = "metadata: {apiVersion: v1alpha, kind: Namespace, name: web}\n---\nmetadata: {apiVersion: v1alpha, kind: Node, name: n1}\n---\n";

    /// Loads a TaskBook with this spec. Returns the errors, and the parameters that may use an untrusted value and do
    /// so.
    fn found(spec: &str, more: &str, files: &[(&str, &str)]) -> (Vec<String>, Vec<String>) {
        let book = format!(
            "{HEAD}{more}metadata: {{apiVersion: v1alpha, kind: TaskBook, name: b, namespace: web}}\nspec: {spec}\n"
        );
        let mut tree: MemoryTree = [("a.yaml", book.as_str())].into_iter().collect();
        if !files.is_empty() {
            tree = files.iter().copied().chain([("a.yaml", book.as_str())]).collect();
        }
        let source = SourceTree { name: "fleet".into(), tree: Arc::new(tree), library: false, globals: true };
        let loaded = load(&[source], &BTreeMap::new());
        let allowed = untrusted_uses(&loaded.set).into_iter().filter(|found| found.allowed);
        (
            loaded.errors.into_iter().map(|error| error.message).collect(),
            allowed.map(|found| format!("{} in {}", found.origin, found.parameter)).collect(),
        )
    }

    fn task(task: &str) -> (Vec<String>, Vec<String>) {
        found(&format!("{{targets: {{nodes: [n1]}}, tasks: [{{name: t, {task}}}]}}"), "", &[])
    }

    #[test]
    fn untrusted_value_in_a_closed_parameter_is_refused() {
        for text in [
            "command: {shell: \"echo {{ nodes('')[0].facts.hostname }}\"}",
            "loop: \"{{ nodes('') }}\", command: {shell: \"echo {{ item.facts.hostname }}\"}",
            "loop: \"{{ nodes('') | map(attribute='facts.hostname') | list }}\", command: {shell: \"echo {{ item }}\"}",
            "vars: {h: \"{{ nodes('')[0].facts.hostname }}\"}, command: {shell: \"echo {{ vars.h }}\"}",
            "vars: {n: \"{{ nodes('') }}\", h: \"x{{ vars.n[0]['facts'].hostname }}\"}, file: {path: \"/x/{{ vars.h }}\", content: x}",
            "command: {shell: \"{% for n in nodes('') %}{% set f = n.facts %}{{ f.hostname }}{% endfor %}\"}",
            "command: {argv: [\"{{ nodes('')[0].facts.hostname }}\"]}",
            "command: {argv: [id], creates: \"/x/{{ nodes('')[0].facts.hostname }}\"}",
            "unit: {name: a.service, content: \"{{ nodes('')[0].facts.hostname }}\"}",
            "package: {names: [\"{{ nodes('')[0].facts.hostname }}\"]}",
            "command: {argv: [id], env: \"{{ nodes('')[0].facts.env }}\"}",
            "script: {path: s.sh, env: \"{{ nodes('')[0].facts.env }}\"}",
        ] {
            let (errors, _) = task(text);
            assert!(errors.iter().any(|error| error.contains("untrusted")), "{text}: {errors:?}");
        }
    }

    #[test]
    fn names_and_labels_from_git_are_not_refused() {
        for text in [
            "loop: \"{{ nodes('') }}\", command: {shell: \"echo {{ item.name }} {{ item.labels.x }} {{ facts.hostname }}\"}",
            "command: {shell: \"{{ nodes('') | selectattr('facts.os.family', 'eq', 'debian') | map(attribute='name') | join }}\"}",
            "vars: {n: \"{{ nodes('') }}\"}, file: {path: \"/x/{{ vars.n[0].name }}\", content: x}",
        ] {
            let (errors, allowed) = task(text);
            assert!(errors.is_empty() && allowed.is_empty(), "{text}: {errors:?} {allowed:?}");
        }
    }

    #[test]
    fn allowed_use_is_reported() {
        let (errors, allowed) = task(
            "vars: {h: \"{{ nodes('')[0].facts.hostname }}\"}, command: {argv: [echo, \"{{ vars.h }}\"], stdin: \"{{ vars.h }}\"}",
        );
        assert!(errors.is_empty(), "{errors:?}");
        let expected = ["the facts of other nodes in command.argv[1]", "the facts of other nodes in command.stdin"]
            .map(String::from);
        assert_eq!(allowed, expected);
    }

    #[test]
    fn event_is_untrusted_in_any_variable() {
        let (errors, _) = found(
            "{tasks: [{name: t, vars: {h: \"{{ event.data.x }}\"}, command: {shell: \"echo {{ vars.h }}\"}}]}",
            "",
            &[],
        );
        assert!(errors.iter().any(|error| error.contains("an event")), "{errors:?}");
    }

    #[test]
    fn result_that_another_node_made_or_influenced_is_untrusted() {
        for first in [
            "command: {argv: [id]}, elect: {count: 1}",
            "command: {argv: [echo, \"{{ nodes('')[0].facts.hostname }}\"]}",
        ] {
            let book = |field: &str| {
                let tasks = format!(
                    "{{name: a, register: r, {first}}}, {{name: b, command: {{shell: \"{{{{ steps.r.{field} }}}}\"}}}}"
                );
                found(&format!("{{targets: {{nodes: [n1]}}, tasks: [{tasks}]}}"), "", &[]).0
            };
            assert!(book("stdout").iter().any(|error| error.contains("untrusted")), "{first}");
            for field in ["changed", "outcome", "outcome.x"] {
                assert_eq!(book(field).is_empty(), !first.contains("elect"), "{first}: {field}");
            }
        }
    }

    #[test]
    fn computed_value_and_template_file_are_followed() {
        let more = "metadata: {apiVersion: v1alpha, kind: Variables, name: v, namespace: web}\nspec: {computed: [{name: b, expression: vars.a ~ 'x'}, {name: a, expression: \"nodes('')[0].facts.hostname\"}]}\n---\n";
        let (errors, _) =
            found("{targets: {nodes: [n1]}, tasks: [{name: t, command: {shell: \"echo {{ vars.b }}\"}}]}", more, &[]);
        assert!(errors.iter().any(|error| error.contains("untrusted")), "{errors:?}");
        let text = "{% for n in nodes('') %}{{ n.facts.hostname }}{% endfor %}";
        let book = |module: &str| format!("{{targets: {{nodes: [n1]}}, tasks: [{{name: t, {module}}}]}}");
        let (errors, allowed) = found(&book("file: {path: /a, template: t.j2}"), "", &[("t.j2", text)]);
        assert!(errors.is_empty() && allowed == ["the facts of other nodes in file.content"], "{errors:?} {allowed:?}");
        let (errors, _) = found(&book("unit: {name: a.service, template: t.j2}"), "", &[("t.j2", text)]);
        assert!(errors.iter().any(|error| error.contains("untrusted")), "{errors:?}");
    }

    /// Loads these objects together with a Namespace and a node, and returns the errors.
    fn errors(objects: &str) -> Vec<String> {
        found("{targets: {nodes: [n1]}, tasks: [{name: t, debug: {message: m}}]}", objects, &[]).0
    }

    const HOSTNAME: &str = "{{ nodes('')[0].facts.hostname }}";

    #[test]
    fn every_kind_refuses_untrusted_values_in_closed_parameters() {
        let object = |kind: &str, spec: &str| {
            format!("metadata: {{apiVersion: v1alpha, kind: {kind}, name: x, namespace: web}}\nspec: {spec}\n---\n")
        };
        let cluster = |more: &str, spec: &str| {
            format!("{more}metadata: {{apiVersion: v1alpha, kind: ClusterVariables, name: x}}\nspec: {spec}\n---\n")
        };
        let bind = "metadata: {apiVersion: v1alpha, kind: ClusterVariablesBinding, name: x}\nspec: {clusterVariables: [x], namespaces: [web]}\n---\n";
        let computed = |task: &str| format!("{{computed: [{{name: a, task: {{name: t, {task}}}}}]}}");
        let shell = format!("command: {{shell: \"echo {HOSTNAME}\"}}");
        let event = "command: {shell: \"echo {{ event.data.x }}\"}";
        let path = format!("command: {{argv: [id], creates: \"/x/{HOSTNAME}\"}}");
        let results = format!(
            "[{{name: a, register: r, command: {{argv: [echo, \"{HOSTNAME}\"]}}}}, {{name: b, command: {{shell: \"{{{{ steps.r.stdout }}}}\"}}}}]"
        );
        for objects in [
            object("Trigger", &format!("{{match: {{type: x.y}}, run: {{tasks: [{{name: t, {event}}}]}}}}")),
            object("Trigger", &format!("{{match: {{type: x.y}}, run: {{tasks: [{{name: t, {shell}}}]}}}}")),
            object("Trigger", &format!("{{match: {{type: x.y}}, run: {{tasks: {results}}}}}")),
            object("CronJob", &format!("{{schedule: '* * * * *', tasks: [{{name: t, {shell}}}]}}")),
            object("CronJob", &format!("{{schedule: '* * * * *', tasks: [{{name: t, {path}}}]}}")),
            object("Beacon", &format!("{{check: {{{shell}}}, condition: 'true', event: {{type: x.y}}}}")),
            object("Beacon", &format!("{{check: {{{path}}}, condition: 'true', event: {{type: x.y}}}}")),
            object("Variables", &computed(&shell)),
            cluster("", &computed(&shell)),
            cluster("", &computed(&path)),
            cluster(bind, &computed(&shell)),
        ] {
            let errors = errors(&objects);
            assert!(errors.iter().any(|error| error.contains("untrusted")), "{objects}: {errors:?}");
        }
    }

    #[test]
    fn every_kind_takes_untrusted_values_in_open_parameters() {
        let argv = format!("command: {{argv: [echo, \"{HOSTNAME}\"]}}");
        for (kind, spec) in [
            ("Trigger", format!("{{match: {{type: x.y}}, run: {{tasks: [{{name: t, {argv}}}]}}}}")),
            (
                "Trigger",
                "{match: {type: x.y}, run: {tasks: [{name: t, command: {argv: [echo, \"{{ event.data.x }}\"]}}]}}"
                    .to_owned(),
            ),
            ("CronJob", format!("{{schedule: '* * * * *', tasks: [{{name: t, {argv}}}]}}")),
            ("Beacon", format!("{{check: {{{argv}}}, condition: 'true', event: {{type: x.y}}}}")),
        ] {
            let head = format!("metadata: {{apiVersion: v1alpha, kind: {kind}, name: x, namespace: web}}");
            let (errors, allowed) = found(
                "{targets: {nodes: [n1]}, tasks: [{name: t, debug: {message: m}}]}",
                &format!("{head}\nspec: {spec}\n---\n"),
                &[],
            );
            assert!(errors.is_empty(), "{kind}: {errors:?}");
            assert_eq!(allowed.len(), 1, "{kind}: {allowed:?}");
        }
    }
}
