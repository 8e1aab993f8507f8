//! Creates the JSON Schema (draft 2020-12) of all kinds of objects. With the JSON Schema, a text editor can check YAML
//! documents.

use serde_json::{Map, Value, json};

use crate::schema::{Field, Message, Shape, Type, kinds, message};

/// Returns the JSON Schema of a kind; `None` if the kind does not exist. If `kind` is `None`, the JSON Schema contains
/// all kinds.
pub fn json_schema(kind: Option<&str>) -> Option<Value> {
    let wanted: Vec<_> = kinds().filter(|message| kind.is_none_or(|name| message.name == name)).collect();
    if wanted.is_empty() {
        return None;
    }
    let mut definitions = Map::new();
    let documents: Vec<_> = wanted.iter().map(|message| document(message, &mut definitions)).collect();
    let mut schema = match <[Value; 1]>::try_from(documents) {
        Ok([only]) => only,
        Err(several) => json!({ "oneOf": several }),
    };
    if let Value::Object(map) = &mut schema {
        map.insert("$schema".into(), "https://json-schema.org/draft/2020-12/schema".into());
        map.insert("$defs".into(), Value::Object(definitions));
    }
    Some(schema)
}

fn document(kind: &'static Message, definitions: &mut Map<String, Value>) -> Value {
    define("Metadata", false, definitions);
    define(kind.name, false, definitions);
    json!({
        "type": "object",
        "description": kind.doc,
        "additionalProperties": false,
        "required": ["metadata"],
        "properties": {
            "metadata": { "allOf": [reference("Metadata"), { "properties": { "kind": { "const": kind.name } } }] },
            "spec": reference(kind.name),
        },
    })
}

fn reference(name: &str) -> Value {
    json!({ "$ref": format!("#/$defs/{name}") })
}

/// Adds the definition of a message, and the definitions of all messages to which it refers. In the JSON Schema, each
/// parameter of a module can also be a string with a template.
fn define(name: &'static str, templated: bool, definitions: &mut Map<String, Value>) {
    if definitions.contains_key(name) {
        return;
    }
    let Some(message) = message(name) else { return };
    definitions.insert(name.to_owned(), Value::Null);
    let templated = templated || message.module.is_some();
    let mut properties = Map::new();
    for field in message.fields {
        properties.insert(field.name.to_owned(), field_schema(field, templated, definitions));
    }
    let required: Vec<_> = message.fields.iter().filter(|field| field.required).map(|field| field.name).collect();
    let mut schema = json!({
        "type": "object",
        "description": message.doc,
        "additionalProperties": false,
        "properties": properties,
    });
    if let (Value::Object(map), false) = (&mut schema, required.is_empty()) {
        map.insert("required".into(), json!(required));
    }
    definitions.insert(name.to_owned(), schema);
}

fn field_schema(field: &Field, templated: bool, definitions: &mut Map<String, Value>) -> Value {
    let inner = value_schema(field, templated, definitions);
    let mut schema = match field.shape {
        Shape::One(_) => inner,
        Shape::List(_) => json!({ "type": "array", "items": inner }),
        Shape::Map(_) => json!({ "type": "object", "additionalProperties": inner }),
    };
    if templated && !matches!(field.shape, Shape::One(Type::String)) {
        schema = json!({ "anyOf": [schema, { "type": "string", "pattern": "\\{\\{" }] });
    }
    if let Value::Object(map) = &mut schema {
        let mut doc = field.doc.to_owned();
        if let Some(otherwise) = field.otherwise {
            doc.push_str(&format!(" Left out: {otherwise}."));
        }
        map.insert("description".into(), doc.into());
    }
    schema
}

fn value_schema(field: &Field, templated: bool, definitions: &mut Map<String, Value>) -> Value {
    if let (Some(_), false) = (field.words, templated) {
        return json!({ "type": "string", "enum": field.word_list().collect::<Vec<_>>() });
    }
    match (field.value_type(), field.format) {
        (_, Some("duration")) if !templated => json!({ "type": "string", "pattern": "^([0-9]+(d|h|m|s|ms))+$" }),
        (_, Some("count")) => json!({ "type": ["integer", "string"] }),
        (Type::Bool, _) => json!({ "type": "boolean" }),
        (Type::Integer, _) => json!({ "type": "integer" }),
        (Type::Number, _) => json!({ "type": "number" }),
        (Type::String | Type::Bytes, _) => json!({ "type": "string" }),
        (Type::Any, _) => json!({}),
        (Type::AnyMap, _) => json!({ "type": "object" }),
        (Type::Message(name), _) => {
            define(name, templated, definitions);
            reference(name)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reference_is_defined() {
        let schema = json_schema(None).unwrap();
        let text = schema.to_string();
        let defined = schema["$defs"].as_object().unwrap();
        for part in text.split("#/$defs/").skip(1) {
            let name = part.split('"').next().unwrap();
            assert!(defined.get(name).is_some_and(Value::is_object), "{name}");
        }
        assert_eq!(schema["oneOf"].as_array().unwrap().len(), 13);
        assert!(json_schema(Some("Nonsense")).is_none());
    }
}
