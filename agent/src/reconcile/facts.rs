//! Gathers the facts of the host, and parses the YAML files of `facts.d`.

use std::{cell::OnceCell, collections::BTreeMap};

use serde_json::Value;
use towpath_host::facts::{CustomProblem, Options, YAML_MARK, gather};
use towpath_render::document::{Limits, parse};

/// The facts of one pass. The facts are gathered once, at the first read.
pub(crate) struct PassFacts<'a> {
    gather: &'a dyn Fn() -> Value,
    gathered: OnceCell<Value>,
}

impl<'a> PassFacts<'a> {
    pub(crate) fn new(gather: &'a dyn Fn() -> Value) -> Self {
        Self { gather, gathered: OnceCell::new() }
    }

    /// Returns all facts of the host.
    pub(crate) fn all(&self) -> &Value {
        self.gathered.get_or_init(self.gather)
    }

    /// Returns whether the facts still have the values that an earlier pass read.
    pub(crate) fn contain(&self, known: &BTreeMap<String, Value>) -> bool {
        known.is_empty() || known.iter().all(|(name, known)| self.all().get(name) == Some(known))
    }

    /// Returns the values of the named facts.
    pub(crate) fn select(&self, names: impl IntoIterator<Item = String>) -> BTreeMap<String, Value> {
        names.into_iter().filter_map(|name| Some((name.clone(), self.all().get(&name)?.clone()))).collect()
    }
}

/// Returns the facts of the host, and the problems of custom facts that cannot be read.
pub(crate) fn host_facts(options: &Options) -> (Value, Vec<CustomProblem>) {
    let (mut facts, mut problems) = gather(options);
    if let Some(custom) = facts.get_mut("custom").and_then(Value::as_object_mut) {
        custom.retain(|name, value| match value.get(YAML_MARK).and_then(Value::as_str) {
            None => true,
            Some(text) => match yaml(text) {
                Ok(read) => {
                    *value = read;
                    true
                }
                Err(message) => {
                    problems.push(CustomProblem { file: name.clone(), message });
                    false
                }
            },
        });
    }
    (facts, problems)
}

/// Returns the machine id of this host. Returns an empty text if the host has no machine id.
pub(crate) fn machine_id() -> String {
    towpath_host::facts::machine_id().unwrap_or_default()
}

fn yaml(text: &str) -> Result<Value, String> {
    let (documents, problems) = parse("", "facts.d", text.as_bytes(), Limits::default());
    match (problems.first(), documents.into_iter().next()) {
        (Some(problem), _) => Err(format!("line {}: {}", problem.line, problem.message)),
        (None, Some(document)) => Ok(document.value),
        (None, None) => Ok(Value::Null),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use serde_json::json;

    use super::*;

    #[test]
    fn facts_are_gathered_when_first_read_and_once() {
        let count = Cell::new(0);
        let gather = || {
            count.set(count.get() + 1);
            json!({"a": count.get()})
        };
        let facts = PassFacts::new(&gather);
        assert!(facts.contain(&BTreeMap::new()));
        assert_eq!((facts.select([]), count.get()), (BTreeMap::new(), 0), "nothing was read");
        assert!(facts.contain(&BTreeMap::from([("a".to_owned(), json!(1))])));
        assert!(!facts.contain(&BTreeMap::from([("b".to_owned(), json!(null))])));
        assert_eq!(facts.select(["a".to_owned(), "b".to_owned()]), BTreeMap::from([("a".to_owned(), json!(1))]));
        assert_eq!((facts.all(), count.get()), (&json!({"a": 1}), 1));
    }
}
