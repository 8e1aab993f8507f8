//! Reads and writes YAML that has no schema: the files that the module `yaml` edits on a node, and the output of
//! commands.

use serde_json::{Map, Value};

/// Formats a value as a YAML document.
pub fn to_yaml(value: &Value) -> String {
    // A JSON value has string keys, so YAML can always represent it.
    serde_yaml::to_string(value).unwrap_or_default()
}

/// Parses a text with one YAML document, without a check against the schema.
///
/// # Errors
/// Returns an error if the text is not exactly one valid YAML document.
pub fn plain_value(text: &str) -> Result<Value, String> {
    if text.trim().is_empty() {
        return Ok(Value::Null);
    }
    let value: serde_yaml::Value = serde_yaml::from_str(text).map_err(|error| error.to_string())?;
    convert(value)
}

fn convert(value: serde_yaml::Value) -> Result<Value, String> {
    use serde_yaml::Value as Yaml;
    Ok(match value {
        Yaml::Null => Value::Null,
        Yaml::Bool(bool) => Value::Bool(bool),
        Yaml::Number(number) => serde_json::to_value(number).unwrap_or_default(),
        Yaml::String(text) => Value::String(text),
        Yaml::Sequence(members) => Value::Array(members.into_iter().map(convert).collect::<Result<_, _>>()?),
        Yaml::Mapping(members) => {
            let mut map = Map::new();
            for (key, member) in members {
                let key = match convert(key)? {
                    Value::String(text) => text,
                    Value::Array(_) | Value::Object(_) => return Err("a key is a list or a map".into()),
                    scalar => scalar.to_string(),
                };
                map.insert(key, convert(member)?);
            }
            Value::Object(map)
        }
        Yaml::Tagged(tagged) => convert(tagged.value)?,
    })
}
