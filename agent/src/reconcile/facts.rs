//! Facts of the host, with those of facts.d that are YAML read.

use serde_json::Value;
use towpath_host::facts::{CustomProblem, Options, YAML_MARK, gather};
use towpath_render::document::{Limits, parse};

/// Gathers facts; own facts that can't be read are told beside them.
pub(super) fn facts(options: &Options) -> (Value, Vec<CustomProblem>) {
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

/// What tells this machine from others.
pub(super) fn machine_id() -> String {
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
