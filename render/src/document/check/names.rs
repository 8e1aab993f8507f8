//! Describes YAML values and types of the schema for error messages.

use serde_json::Value;
use towpath_proto::{Field, Message};

use crate::problem::Finding;

/// Returns the error for a value that is not a boolean although its field requires a boolean.
pub(super) fn not_a_boolean(field: &Field, value: &Value) -> Finding {
    let finding = Finding::new(format!("{} must be true or false, not {}", field.name, kind_of(value)));
    match value.as_str() {
        Some("yes" | "on" | "Yes" | "On" | "YES" | "ON") => finding.hint("yes and on are strings here: write true"),
        Some("no" | "off" | "No" | "Off" | "NO" | "OFF") => finding.hint("no and off are strings here: write false"),
        Some("true" | "false") => finding.hint("remove the quotes"),
        _ => finding,
    }
}

/// Returns the description of a value for an error message, such as `the number 3`.
pub(super) fn kind_of(value: &Value) -> String {
    match value {
        Value::Null => "nothing".into(),
        Value::Bool(bool) => format!("the boolean {bool}"),
        Value::Number(number) => format!("the number {number}"),
        Value::String(text) if text.chars().count() <= 40 => format!("the string {text:?}"),
        Value::String(_) => "a string".into(),
        Value::Array(_) => "a list".into(),
        Value::Object(_) => "a map".into(),
    }
}

/// Returns the description of a schema type for an error message, such as `the spec of a TaskBook`.
pub(super) fn described(message: &Message) -> String {
    let name = message.name;
    match (message.scope, message.module) {
        (Some(_), _) => format!("the spec of a {name}"),
        (_, Some(_)) => name.to_lowercase(),
        _ => {
            let mut words = String::new();
            for character in name.chars() {
                if character.is_uppercase() && !words.is_empty() {
                    words.push(' ');
                }
                words.extend(character.to_lowercase());
            }
            words
        }
    }
}

/// Converts a sentence to the form of a hint: the first letter becomes lower case, and the full stop is removed.
pub(super) fn lower_first(text: &str) -> String {
    let mut characters = text.trim_end_matches('.').chars();
    characters.next().map(|first| first.to_lowercase().chain(characters).collect()).unwrap_or_default()
}
