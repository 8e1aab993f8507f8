//! Converts between the message `Value` and plain JSON, such as `{"task": "web"}`.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value as Json;

use crate::v1alpha::{Value, ValueList, ValueMap, value::Kind};

/// Converts a value to JSON. A number that JSON cannot represent, such as NaN, becomes `null`.
pub fn to_json(value: &Value) -> Json {
    match &value.kind {
        None => Json::Null,
        Some(Kind::Bool(value)) => Json::Bool(*value),
        Some(Kind::Int64(value)) => Json::from(*value),
        Some(Kind::Double(value)) => Json::from(*value),
        Some(Kind::String(value)) => Json::String(value.clone()),
        Some(Kind::List(list)) => list.values.iter().map(to_json).collect(),
        Some(Kind::Map(map)) => map.values.iter().map(|(key, value)| (key.clone(), to_json(value))).collect(),
    }
}

/// Converts JSON to a value. An integer that is too large for 64 bits becomes a floating point number.
pub fn from_json(json: &Json) -> Value {
    let kind = match json {
        Json::Null => None,
        Json::Bool(value) => Some(Kind::Bool(*value)),
        Json::Number(number) => number.as_i64().map(Kind::Int64).or_else(|| number.as_f64().map(Kind::Double)),
        Json::String(text) => Some(Kind::String(text.clone())),
        Json::Array(list) => Some(Kind::List(ValueList { values: list.iter().map(from_json).collect() })),
        Json::Object(map) => Some(Kind::Map(ValueMap {
            values: map.iter().map(|(key, value)| (key.clone(), from_json(value))).collect(),
        })),
    };
    Value { kind }
}

/// Writes a map of values as plain JSON, for serde.
///
/// # Errors
/// Returns an error if the serializer fails.
pub fn serialize<S: Serializer>(map: &BTreeMap<String, Value>, serializer: S) -> Result<S::Ok, S::Error> {
    map.iter().map(|(key, value)| (key, to_json(value))).collect::<BTreeMap<_, _>>().serialize(serializer)
}

/// Reads a map of values from plain JSON, for serde.
///
/// # Errors
/// Returns an error if the input is not a map.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, Value>, D::Error> {
    let map = BTreeMap::<String, Json>::deserialize(deserializer)?;
    Ok(map.iter().map(|(key, value)| (key.clone(), from_json(value))).collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn json_is_the_same_after_a_round_trip() {
        let all = json!({"a": null, "b": true, "c": -3, "d": 1.5, "e": "x", "f": [1, "y"], "g": {"h": []}});
        assert_eq!(to_json(&from_json(&all)), all);
    }

    #[test]
    fn number_above_64_bits_becomes_a_float_and_not_a_number_becomes_null() {
        assert_eq!(to_json(&from_json(&json!(u64::MAX))), json!(u64::MAX as f64));
        assert_eq!(to_json(&Value { kind: Some(Kind::Double(f64::NAN)) }), Json::Null);
    }
}
