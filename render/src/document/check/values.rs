//! Checks single values of a document: formats of strings, templates in strings, and values of any type.

use serde_json::Value;
use towpath_proto::{Field, Message, Type, did_you_mean, message};

use super::{
    super::{Trail, common_mistakes, formats::format},
    Mode, Reference, Walk, is_template,
    names::kind_of,
};
use crate::{
    problem::Finding,
    scalars::{self, Count, Selector},
    template::syntax,
};

impl Walk {
    pub(super) fn not_a_string(&mut self, trail: &Trail<'_>, field: &Field, value: &Value) {
        match (field.format, value) {
            (Some("count"), value) => {
                if let Err(finding) = Count::read(value) {
                    self.value(trail, finding);
                }
            }
            (Some("expression"), Value::Bool(_) | Value::Number(_)) => {}
            (Some("mode"), Value::Number(number)) => {
                let spelling = scalars::mode_spelling(number.as_i64().unwrap_or_default());
                self.value(
                    trail,
                    Finding::new("the mode is a number").hint(format!("write octal digits in quotes: {spelling}")),
                );
            }
            (Some("duration"), Value::Number(number)) => {
                self.value(
                    trail,
                    Finding::new(format!("{number} has no unit")).hint(format!("write {number}s for seconds")),
                );
            }
            (Some("port"), Value::Number(number))
                if number.as_u64().is_some_and(|port| (1..=65_535).contains(&port)) => {}
            (Some("port"), Value::Number(number)) => {
                self.value(
                    trail,
                    Finding::new(format!("{number} is not a port")).hint("write a number from 1 to 65535"),
                );
            }
            (_, Value::Object(map)) if map.is_empty() || map.values().all(Value::is_null) => {
                let finding = Finding::new(format!("{} must be a string, not a map", field.name));
                self.value(trail, finding.hint("quote it: an unquoted {{ is read as a YAML map"));
            }
            (_, scalar @ (Value::Bool(_) | Value::Number(_))) => {
                let finding = Finding::new(format!("{} must be a string, not {}", field.name, kind_of(scalar)));
                self.value(trail, finding.hint(format!("quote it: \"{scalar}\"")));
            }
            (_, other) => {
                self.value(trail, Finding::new(format!("{} must be a string, not {}", field.name, kind_of(other))))
            }
        }
    }

    pub(super) fn string(
        &mut self,
        trail: &Trail<'_>,
        parent: &'static Message,
        field: &'static Field,
        text: &str,
        templated: bool,
    ) {
        if text.contains('\0') {
            self.value(trail, Finding::new("the string has a NUL character"));
        }
        if field.format == Some("expression") {
            if self.mode == Mode::Written
                && let Err(finding) = syntax::expression(text)
            {
                self.value(trail, finding);
            }
            return;
        }
        let braces = text.contains("{{") || text.contains("{%");
        if braces && self.mode == Mode::Written {
            if templated {
                self.template(trail, text);
            } else if field.value_type() == Type::String && field.name != "annotations" {
                let finding = Finding::new(format!("{} must not contain templates", field.name));
                self.value(
                    trail,
                    finding.hint("templates are allowed in module parameters, vars, loop, message and Event data"),
                );
            }
            return;
        }
        if let Some(reference) = field.refers {
            self.checked.references.push(Reference { kind: reference, name: text.to_owned(), path: trail.path() });
        }
        if field.words.is_some() && !field.word_list().any(|word| word == text) {
            let hint = common_mistakes::word_hint(parent.name, field.name, text)
                .or_else(|| did_you_mean(text, field.word_list()).map(|meant| format!("did you mean {meant}?")))
                .unwrap_or_else(|| format!("one of: {}", field.word_list().collect::<Vec<_>>().join(", ")));
            self.value(trail, Finding::new(format!("{text:?} is not a valid {}", field.name)).hint(hint));
        }
        if field.format == Some("mode") {
            self.checked.modes.push(trail.path());
        }
        if let Err(finding) = format(field, text) {
            self.value(trail, finding);
        }
    }

    /// Checks a field whose value may have any type. Selectors and lists of waves have separate checks.
    pub(super) fn any(&mut self, trail: &Trail<'_>, parent: &'static Message, field: &Field, value: &Value) {
        match (field.format, value) {
            (Some("selector"), value) => {
                let before = self.checked.findings.len();
                if let (Some(selector), Value::Object(_)) = (message("Selector"), value) {
                    self.message(trail, selector, value, false);
                }
                if self.checked.findings.len() == before
                    && let Err(finding) = Selector::read(value)
                {
                    self.value(trail, finding);
                }
            }
            (Some("wave"), Value::Object(map)) if (!map.contains_key("nodeGroups") || map.len() > 1) => {
                self.value(trail, Finding::new("a wave is a count, a percentage or {nodeGroups: […]}"));
            }
            (Some("wave"), value) => {
                if let Err(finding) = Count::read(value) {
                    self.value(trail, finding);
                }
            }
            (Some("dependency"), value) => self.dependency(trail, value),
            (Some("loop"), Value::Array(_)) => self.templates_in(trail, value),
            (Some("loop"), Value::String(text)) if is_template(value) => self.template(trail, text),
            (Some("loop"), other) => {
                self.value(
                    trail,
                    Finding::new(format!("loop must be a list, not {}", kind_of(other)))
                        .hint("write a list, or a template that gives one: \"{{ vars.names }}\""),
                );
            }
            (_, value) if matches!(parent.name, "TaskBook" | "Task" | "Include" | "EventTemplate") => {
                self.templates_in(trail, value)
            }
            (_, value) if parent.module.is_some() && self.mode == Mode::Written => self.templates_in(trail, value),
            (_, value) if matches!(parent.name, "Variables" | "ClusterVariables") => self.no_templates_in(trail, value),
            _ => {}
        }
    }

    fn dependency(&mut self, trail: &Trail<'_>, value: &Value) {
        let name = match value {
            Value::String(name) => Some(name),
            Value::Object(map) => {
                for key in map.keys().filter(|key| !matches!(key.as_str(), "taskBook" | "on")) {
                    self.key(
                        &Trail::Key(trail, key),
                        Finding::new(format!("a dependency has no {key:?}")).hint("known here: taskBook, on"),
                    );
                }
                if map.get("on").is_some_and(|on| !matches!(on.as_str(), Some("node" | "fleet"))) {
                    self.value(&Trail::Key(trail, "on"), Finding::new("on must be node or fleet"));
                }
                match map.get("taskBook") {
                    Some(Value::String(name)) => Some(name),
                    _ => None,
                }
            }
            _ => None,
        };
        match name {
            Some(name) => {
                self.checked.references.push(Reference { kind: "TaskBook", name: name.clone(), path: trail.path() })
            }
            None => self
                .value(trail, Finding::new("a dependency is the name of a TaskBook, or {taskBook: NAME, on: fleet}")),
        }
    }

    fn templates_in(&mut self, trail: &Trail<'_>, value: &Value) {
        match value {
            Value::String(text) if text.contains("{{") || text.contains("{%") => self.template(trail, text),
            Value::Array(members) => members
                .iter()
                .enumerate()
                .for_each(|(index, member)| self.templates_in(&Trail::Index(trail, index), member)),
            Value::Object(members) => {
                members.iter().for_each(|(key, member)| self.templates_in(&Trail::Key(trail, key), member))
            }
            _ => {}
        }
    }

    fn no_templates_in(&mut self, trail: &Trail<'_>, value: &Value) {
        match value {
            Value::String(text) if text.contains("{{") => {
                let finding =
                    Finding::new("values must not contain templates").hint("use computed: [{name: …, expression: …}]");
                self.value(trail, finding);
            }
            Value::Array(members) => members
                .iter()
                .enumerate()
                .for_each(|(index, member)| self.no_templates_in(&Trail::Index(trail, index), member)),
            Value::Object(members) => {
                members.iter().for_each(|(key, member)| self.no_templates_in(&Trail::Key(trail, key), member))
            }
            _ => {}
        }
    }

    pub(super) fn template(&mut self, trail: &Trail<'_>, text: &str) {
        if let Err(finding) = syntax::template(text) {
            self.value(trail, finding);
        }
    }
}
