//! Converts checked values to the generated Rust types of the schema.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use towpath_proto::{Shape, Type, message};

/// Converts a checked value to the Rust type of the schema message `name`. A null value becomes an empty schema
/// message.
///
/// The schema check accepts null fields, and numbers instead of strings. Before the conversion, the function removes
/// null fields, and turns numbers into strings where the Rust type requires strings.
///
/// # Errors
/// Returns an error if the value does not fit the schema message `name`.
pub fn typed<T: DeserializeOwned>(name: &'static str, value: &Value) -> Result<T, serde_json::Error> {
    let fitted = fitted(Type::Message(name), value);
    serde_json::from_value(if fitted.is_null() { Value::Object(Map::new()) } else { fitted })
}

fn fitted(of: Type, value: &Value) -> Value {
    match (of, value) {
        (Type::String, Value::Number(number)) => Value::String(number.to_string()),
        (Type::String, Value::Bool(bool)) => Value::String(bool.to_string()),
        (Type::Message(name), Value::Object(fields)) => {
            let Some(message) = message(name) else { return value.clone() };
            let given = fields.iter().filter(|(_, value)| !value.is_null());
            let fit = |(key, value): (&String, &Value)| {
                let fit = message.field(key).map_or_else(|| value.clone(), |field| shaped(field.shape, value));
                (key.clone(), fit)
            };
            Value::Object(given.map(fit).collect())
        }
        _ => value.clone(),
    }
}

fn shaped(shape: Shape, value: &Value) -> Value {
    match (shape, value) {
        (Shape::List(of), Value::Array(members)) => members.iter().map(|member| fitted(of, member)).collect(),
        (Shape::Map(of), Value::Object(members)) => {
            Value::Object(members.iter().map(|(key, member)| (key.clone(), fitted(of, member))).collect())
        }
        (Shape::One(of) | Shape::List(of) | Shape::Map(of), value) => fitted(of, value),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use towpath_proto::v1alpha as pb;

    use super::*;
    use crate::document::check_object;

    /// Checks a spec against the schema, and converts the spec to the Rust type of its kind.
    fn read<T: DeserializeOwned>(kind: &'static str, spec: Value) -> T {
        let object = json!({"metadata": {"apiVersion": "v1alpha", "kind": kind, "name": "a"}, "spec": spec});
        let (_, checked) = check_object(&object);
        assert!(checked.findings.is_empty(), "{:?}", checked.findings);
        typed(kind, &object["spec"]).unwrap()
    }

    #[test]
    fn null_is_left_out_at_each_level() {
        let config: pb::Config = read(
            "Config",
            json!({"sharedFacts": null, "suspend": null, "reconcile": {"drift": "report", "jitter": null},
                "maintenanceWindows": [{"days": null, "from": "22:00", "to": "04:00", "nodeGroups": null}]}),
        );
        assert!(config.shared_facts.is_empty() && config.suspend.is_none());
        assert_eq!(config.reconcile.unwrap().drift.as_deref(), Some("report"));
        assert_eq!(config.maintenance_windows[0].from.as_deref(), Some("22:00"));
        let namespace: pb::Namespace =
            read("Namespace", json!({"sources": null, "modules": {"allow": ["file"], "deny": null}}));
        assert_eq!(namespace.modules.unwrap().allow, ["file"]);
    }

    #[test]
    fn number_is_the_text_of_a_count() {
        let elect: pb::Elect = typed("Elect", &json!({"count": 2, "nodes": null})).unwrap();
        assert_eq!((elect.count, elect.nodes.len()), (Some(2), 0));
        let serialize: pb::Serialize = typed("Serialize", &json!({"count": 2, "per": null})).unwrap();
        assert_eq!(serialize.count.as_deref(), Some("2"));
    }

    #[test]
    fn spec_that_is_left_out_is_empty() {
        assert_eq!(typed::<pb::Namespace>("Namespace", &Value::Null).unwrap(), pb::Namespace::default());
    }
}
