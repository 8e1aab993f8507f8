//! Reads the fields of a spec.

use std::time::Duration;

use serde_json::{Map, Value};

use crate::{document::typed, scalars::duration};

/// Returns the value of a key as a string; `None` if the value is missing or is not a scalar.
pub(super) fn text(value: &Value, key: &str) -> Option<String> {
    match value.get(key)? {
        Value::String(text) => Some(text.clone()),
        Value::Bool(bool) => Some(bool.to_string()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

pub(super) fn flag(value: &Value, key: &str) -> bool {
    value.get(key).and_then(Value::as_bool).unwrap_or(false)
}

/// Returns the members of the list under a key, or no members if the list is missing.
pub(super) fn members<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value.get(key).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

pub(super) fn list(value: &Value, key: &str) -> Vec<Value> {
    value.get(key).and_then(Value::as_array).cloned().unwrap_or_default()
}

pub(super) fn map(value: &Value, key: &str) -> Map<String, Value> {
    value.get(key).and_then(Value::as_object).cloned().unwrap_or_default()
}

/// Converts the value of a key to the Rust type of a schema message; returns `None` if the value is missing.
pub(super) fn message<T: serde::de::DeserializeOwned>(value: &Value, key: &str, name: &'static str) -> Option<T> {
    let value = value.get(key).filter(|value| !value.is_null())?;
    typed(name, value).ok()
}

/// Returns the value of a key as a duration, or `otherwise` if the key is missing.
pub(super) fn time(value: &Value, key: &str, otherwise: Duration) -> Duration {
    text(value, key).and_then(|text| duration(&text).ok()).unwrap_or(otherwise)
}
