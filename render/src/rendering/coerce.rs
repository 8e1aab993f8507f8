//! Converts rendered values to the types of the schema.

use serde_json::Value;
use towpath_proto::{Field, Message, Shape, Type};

use crate::template::syntax::names_in_template;

/// Returns true if a value contains a template.
pub(super) fn has_template(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains("{{") || text.contains("{%") || text.contains("{#"),
        Value::Array(members) => members.iter().any(has_template),
        Value::Object(members) => members.values().any(has_template),
        _ => false,
    }
}

/// Returns true if a template in a value uses `item` or `loop`.
pub(super) fn uses_item(value: &Value) -> bool {
    match value {
        Value::String(text) => {
            has_template(value)
                && names_in_template(text).iter().any(|name| matches!(name.split('.').next(), Some("item" | "loop")))
        }
        Value::Array(members) => members.iter().any(uses_item),
        Value::Object(members) => members.values().any(uses_item),
        _ => false,
    }
}

/// Converts numbers and booleans to strings where the schema requires strings, and removes null fields.
pub(super) fn to_schema(message: &'static Message, params: &mut Value) {
    let Value::Object(map) = params else { return };
    map.retain(|_, value| !value.is_null());
    for (key, value) in map.iter_mut() {
        let Some(field) = message.field(key) else { continue };
        match (field.shape, value) {
            (Shape::List(_), Value::Array(members)) => members.iter_mut().for_each(|member| scalar(field, member)),
            (Shape::Map(_), Value::Object(members)) => members.values_mut().for_each(|member| scalar(field, member)),
            (_, value) => scalar(field, value),
        }
    }
}

fn scalar(field: &Field, value: &mut Value) {
    // A mode that is a number has lost its leading zeros, so it is not converted and remains an error.
    let text = field.value_type() == Type::String && field.format != Some("mode");
    if !text {
        return;
    }
    match value {
        // A boolean becomes the same text as inside a longer template, and as in Ansible.
        Value::Bool(bool) => *value = Value::String(if *bool { "True" } else { "False" }.to_owned()),
        Value::Number(number) => *value = Value::String(number.to_string()),
        _ => {}
    }
}
