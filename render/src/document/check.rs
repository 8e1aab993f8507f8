//! Checks a YAML value against the schema, and collects all errors, each with the path of the wrong part.

mod names;
mod values;

use serde_json::{Map, Value};
use towpath_proto::{Field, Message, Shape, Type, did_you_mean, kinds, message};

use self::names::{described, kind_of, lower_first, not_a_boolean};
use super::{At, Path, Trail, common_mistakes};
use crate::problem::Finding;

/// The result of the schema check of a value: errors, references and file modes.
#[derive(Debug, Default)]
pub struct Checked {
    /// The errors in the value, each with the path of the wrong part.
    pub findings: Vec<(Path, At, Finding)>,
    /// The references to other objects in the value.
    pub references: Vec<Reference>,
    /// The paths of the file modes in the value. A later check reads the text of each file mode, because a file mode
    /// must be in quotes.
    pub modes: Vec<Path>,
}

/// A reference from an object to another object.
#[derive(Debug, Clone)]
pub struct Reference {
    /// The kind of the other object.
    pub kind: &'static str,
    /// The name of the other object.
    pub name: String,
    /// The path of the field that contains the reference.
    pub path: Path,
}

/// The form of the value that is checked: as written in the file, or rendered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// The value is not rendered yet, so module parameters, vars and some other fields may contain templates.
    Written,
    /// The value contains rendered module parameters, so the check treats braces as ordinary text.
    Rendered,
}

/// Checks the metadata and the spec of a document against the schema.
pub fn check_object(document: &Value) -> (Option<&'static Message>, Checked) {
    let mut walk = Walk { checked: Checked::default(), mode: Mode::Written };
    let root = Trail::Root;
    let Value::Object(map) = document else {
        walk.value(
            &root,
            Finding::new(format!("an object must be a map, not {}", kind_of(document))).hint("write metadata and spec"),
        );
        return (None, walk.checked);
    };
    for key in map.keys() {
        if key != "metadata" && key != "spec" {
            let hint = common_mistakes::top_level(key);
            walk.key(
                &Trail::Key(&root, key),
                Finding { message: format!("{key:?} is not a part of an object"), hint: Some(hint) },
            );
        }
    }
    let metadata = Trail::Key(&root, "metadata");
    let kind = match map.get("metadata") {
        Some(Value::Object(fields)) => walk.metadata(&metadata, fields),
        Some(other) => {
            walk.value(&metadata, Finding::new(format!("metadata must be a map, not {}", kind_of(other))));
            None
        }
        None => {
            let finding =
                Finding::new("metadata is missing").hint("write metadata: {apiVersion: v1alpha, kind: …, name: …}");
            walk.value(&root, finding);
            None
        }
    };
    if let Some(kind) = kind {
        let empty = Value::Object(Map::new());
        let spec = map.get("spec").filter(|spec| !spec.is_null()).unwrap_or(&empty);
        walk.message(&Trail::Key(&root, "spec"), kind, spec, false);
    }
    (kind, walk.checked)
}

/// Checks a value against one message of the schema, for example the parameters of a module.
pub fn check_message(message: &'static Message, value: &Value, mode: Mode) -> Checked {
    let mut walk = Walk { checked: Checked::default(), mode };
    walk.message(&Trail::Root, message, value, message.module.is_some());
    walk.checked
}

struct Walk {
    checked: Checked,
    mode: Mode,
}

impl Walk {
    fn value(&mut self, trail: &Trail<'_>, finding: Finding) {
        self.checked.findings.push((trail.path(), At::Value, finding));
    }

    fn key(&mut self, trail: &Trail<'_>, finding: Finding) {
        self.checked.findings.push((trail.path(), At::Key, finding));
    }

    fn metadata(&mut self, trail: &Trail<'_>, fields: &Map<String, Value>) -> Option<&'static Message> {
        if let Some(metadata) = message("Metadata") {
            self.fields(trail, metadata, fields, false);
        }
        if fields.contains_key("uuid") {
            let finding = Finding::new("cannot set uuid: the fleet assigns it").hint("remove uuid");
            self.key(&Trail::Key(trail, "uuid"), finding);
        }
        let name = fields.get("kind").and_then(Value::as_str)?;
        let Some(kind) = kinds().find(|kind| kind.name == name) else {
            let names: Vec<_> = kinds().map(|kind| kind.name).collect();
            let hint = match did_you_mean(name, names.iter().copied()) {
                Some(meant) => format!("did you mean {meant}?"),
                None => format!("one of: {}", names.join(", ")),
            };
            self.value(&Trail::Key(trail, "kind"), Finding::new(format!("{name:?} is not a kind")).hint(hint));
            return None;
        };
        let namespace = fields.get("namespace").filter(|namespace| !namespace.is_null());
        match (kind.scope, namespace) {
            (Some("namespaced"), None) => {
                let finding = Finding::new(format!("a {name} needs a namespace")).hint("write metadata.namespace");
                self.value(trail, finding);
            }
            (Some("namespaced"), Some(Value::String(namespace))) => {
                let path = Trail::Key(trail, "namespace").path();
                self.checked.references.push(Reference { kind: "Namespace", name: namespace.clone(), path });
            }
            (Some("global"), Some(_)) => {
                let finding = Finding::new(format!("a {name} is global and has no namespace")).hint("remove it");
                self.key(&Trail::Key(trail, "namespace"), finding);
            }
            _ => {}
        }
        if name == "Event" {
            let finding = Finding::new("cannot define an Event in git: the fleet creates Events")
                .hint("write a Beacon or a hook");
            self.value(&Trail::Key(trail, "kind"), finding);
        }
        Some(kind)
    }

    fn message(&mut self, trail: &Trail<'_>, message: &'static Message, value: &Value, templated: bool) {
        match value {
            Value::Object(fields) => self.fields(trail, message, fields, templated),
            other => {
                let mut finding = Finding::new(format!("{} must be a map, not {}", described(message), kind_of(other)));
                finding.hint = common_mistakes::instead_of_a_map(message.name, other);
                self.value(trail, finding);
            }
        }
    }

    fn fields(&mut self, trail: &Trail<'_>, message: &'static Message, fields: &Map<String, Value>, templated: bool) {
        for (key, value) in fields {
            let here = Trail::Key(trail, key);
            let Some(field) = message.field(key) else {
                let names: Vec<_> = message.fields.iter().map(|field| field.name).collect();
                let hint = common_mistakes::unknown_key(message.name, key)
                    .or_else(|| did_you_mean(key, names.iter().copied()).map(|meant| format!("did you mean {meant}?")))
                    .unwrap_or_else(|| format!("known here: {}", names.join(", ")));
                self.key(&here, Finding::new(format!("{} has no {key:?}", described(message))).hint(hint));
                continue;
            };
            if !value.is_null() {
                self.field(&here, message, field, value, templated);
            }
        }
        for field in message.fields.iter().filter(|field| field.required) {
            if fields.get(field.name).is_none_or(Value::is_null) {
                self.value(
                    trail,
                    Finding::new(format!("{} needs {}", described(message), field.name)).hint(lower_first(field.doc)),
                );
            }
        }
        if message.name == "Task" {
            self.task(trail, fields);
        }
    }

    fn task(&mut self, trail: &Trail<'_>, fields: &Map<String, Value>) {
        let modules: Vec<_> =
            towpath_proto::modules().map(|module| module.key).filter(|name| fields.contains_key(*name)).collect();
        let alone = ["sync", "flushHandlers", "include"]
            .iter()
            .any(|key| fields.get(*key).is_some_and(|value| !value.is_null() && *value != Value::Bool(false)));
        if modules.is_empty() && !alone {
            let finding = Finding::new("the task has no module").hint("add one of those that `towpath explain` lists, such as file, package, service, command; or include, sync, flushHandlers");
            // An unknown key is already reported. Probably it is a module whose name is misspelt.
            let said = message("Task").is_some_and(|task| fields.keys().any(|key| task.field(key).is_none()));
            if !said {
                self.value(trail, finding);
            }
        }
        if let [first, second, ..] = modules.as_slice() {
            let finding =
                Finding::new(format!("the task has two modules, {first} and {second}")).hint("make it two tasks");
            self.key(&Trail::Key(trail, second), finding);
        }
        if fields.contains_key("include") {
            if let [module, ..] = modules.as_slice() {
                self.key(
                    &Trail::Key(trail, module),
                    Finding::new("a task with include cannot have a module").hint("make it two tasks"),
                );
            }
            for key in ["loop", "register", "until", "elect", "serialize", "notify", "success", "changed"] {
                if fields.contains_key(key) {
                    self.key(
                        &Trail::Key(trail, key),
                        Finding::new(format!("a task with include cannot have {key}"))
                            .hint("write it on the included tasks"),
                    );
                }
            }
        }
        if fields.contains_key("until")
            && !modules.is_empty()
            && !modules.iter().any(|name| towpath_proto::module(name).is_some_and(|module| module.repeatable))
        {
            self.key(
                &Trail::Key(trail, "until"),
                Finding::new(format!("`until` cannot repeat {}: `until` repeats only probes and commands", modules[0])),
            );
        }
    }

    fn field(
        &mut self,
        trail: &Trail<'_>,
        message: &'static Message,
        field: &'static Field,
        value: &Value,
        templated: bool,
    ) {
        if templated
            && self.mode == Mode::Written
            && !matches!(field.shape, Shape::One(Type::String))
            && is_template(value)
        {
            self.template(trail, value.as_str().unwrap_or_default());
            return;
        }
        match (field.shape, value) {
            (Shape::One(_), value) => self.one(trail, message, field, value, templated),
            (Shape::List(_), Value::Array(members)) => {
                self.not_empty(trail, field, members.is_empty());
                for (index, member) in members.iter().enumerate() {
                    let here = Trail::Index(trail, index);
                    if member.is_null() {
                        self.value(
                            &here,
                            Finding::new("an empty member of a list").hint("remove it, or write its value"),
                        );
                    } else {
                        self.one(&here, message, field, member, templated);
                    }
                }
                if field.value_type() == Type::Message("Task") {
                    self.unique_names(trail, members);
                }
            }
            (Shape::Map(_), Value::Object(members)) => {
                self.not_empty(trail, field, members.is_empty());
                for (key, member) in members {
                    self.one(&Trail::Key(trail, key), message, field, member, templated);
                }
            }
            (Shape::List(_), other) => {
                let finding = Finding::new(format!("{} must be a list, not {}", field.name, kind_of(other)));
                let hint = common_mistakes::instead_of_a_list(message.name, field.name, other);
                self.value(trail, finding.hint(hint));
            }
            (Shape::Map(_), other) => {
                self.value(trail, Finding::new(format!("{} must be a map, not {}", field.name, kind_of(other))));
            }
        }
    }

    fn not_empty(&mut self, trail: &Trail<'_>, field: &Field, empty: bool) {
        if empty
            && self.mode == Mode::Written
            && field
                .otherwise
                .is_some_and(|otherwise| otherwise.starts_with("all") || otherwise.starts_with("no limit"))
        {
            let otherwise = field.otherwise.unwrap_or_default();
            let finding = Finding::new(format!("{} is empty", field.name));
            self.value(trail, finding.hint(format!("remove it: the default is {otherwise}")));
        }
    }

    fn unique_names(&mut self, trail: &Trail<'_>, tasks: &[Value]) {
        let mut seen = std::collections::BTreeSet::new();
        for (index, task) in tasks.iter().enumerate() {
            let here = Trail::Index(trail, index);
            let include = task.get("include").is_some();
            match task.get("name").and_then(Value::as_str) {
                Some(name) if name.trim().is_empty() => {
                    self.value(&Trail::Key(&here, "name"), Finding::new("the name is empty"))
                }
                Some(name) if !seen.insert(name) => {
                    let finding = Finding::new(format!("two tasks of the list have the name {name:?}"));
                    self.value(
                        &Trail::Key(&here, "name"),
                        finding.hint("names distinguish tasks in status and journal: choose another"),
                    );
                }
                None if task.is_object() && !include && task.get("name").is_none_or(Value::is_null) => {
                    self.value(
                        &here,
                        Finding::new("the task has no name").hint("write name: and the state that the task ensures"),
                    );
                }
                _ => {}
            }
        }
    }

    fn one(
        &mut self,
        trail: &Trail<'_>,
        parent: &'static Message,
        field: &'static Field,
        value: &Value,
        templated: bool,
    ) {
        if templated && self.mode == Mode::Written && field.value_type() != Type::String && is_template(value) {
            self.template(trail, value.as_str().unwrap_or_default());
            return;
        }
        match (field.value_type(), value) {
            (Type::Message(name), value) => {
                if let Some(inner) = message(name) {
                    let targets_everything = name == "Targets" && value.as_object().is_some_and(Map::is_empty);
                    if targets_everything {
                        self.value(
                            trail,
                            Finding::new("targets is empty").hint("name nodeGroups or nodes, or leave it out"),
                        );
                    }
                    self.message(trail, inner, value, templated || inner.module.is_some());
                }
            }
            (Type::Any, value) => self.any(trail, parent, field, value),
            (Type::AnyMap, Value::Object(members)) => {
                for (key, member) in members {
                    self.any(&Trail::Key(trail, key), parent, field, member);
                }
            }
            (Type::AnyMap, other) => self.value(
                trail,
                Finding::new(format!("the values of {} must be maps, not {}", field.name, kind_of(other))),
            ),
            (Type::Bool, Value::Bool(_)) => {}
            (Type::Bool, other) => self.value(trail, not_a_boolean(field, other)),
            (Type::Integer, Value::Number(number)) if number.is_i64() => {}
            (Type::Number, Value::Number(_)) => {}
            (Type::Integer | Type::Number, other) => {
                self.value(
                    trail,
                    Finding::new(format!("{} must be a number, not {}", field.name, kind_of(other)))
                        .hint("write digits without quotes"),
                );
            }
            (Type::String | Type::Bytes, Value::String(text)) => self.string(trail, parent, field, text, templated),
            (Type::String | Type::Bytes, other) => self.not_a_string(trail, field, other),
        }
    }
}

fn is_template(value: &Value) -> bool {
    value.as_str().is_some_and(|text| text.contains("{{") || text.contains("{%"))
}
