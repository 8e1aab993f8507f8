//! Facts of the host. YAML files of facts.d are parsed here.

use serde_json::Value;
use towpath_host::facts::{CustomProblem, Options, YAML_MARK, gather};
use towpath_render::document::{Limits, parse};

/// Gathers facts, and the problems of custom facts that cannot be read.
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

/// Returns the machine id of this host. Empty if it has none.
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
