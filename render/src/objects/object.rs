//! Objects as written in a source, and the identities of objects.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::Value;
use towpath_proto::Message;

use crate::document::Place;

/// The identity of an object: kind, namespace and name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// The kind of the object, such as `TaskBook`.
    pub kind: &'static str,
    /// The namespace of the object. Empty for global kinds.
    pub namespace: String,
    /// The name of the object.
    pub name: String,
}

impl Key {
    /// Reads the identity of an object from its metadata; `None` if the metadata contain no name.
    pub(super) fn read(kind: &Message, metadata: &Value) -> Option<Self> {
        let text = |field: &str| metadata.get(field).and_then(Value::as_str);
        let namespace = if kind.scope == Some("namespaced") { text("namespace").unwrap_or_default() } else { "" };
        Some(Self { kind: kind.name, namespace: namespace.to_owned(), name: text("name")?.to_owned() })
    }

    /// Returns the name of an object with its namespace as `namespace/name`, or only the name if the kind is global.
    pub(super) fn qualified_name(&self) -> String {
        if self.namespace.is_empty() { self.name.clone() } else { format!("{}/{}", self.namespace, self.name) }
    }
}

/// An object as written in a source.
#[derive(Debug, Clone)]
pub struct Object {
    /// The identity of the object.
    pub key: Key,
    /// The labels of the object.
    pub labels: BTreeMap<String, String>,
    /// The spec of the object, checked against the schema.
    pub spec: Arc<Value>,
    /// The location of the object in its source.
    pub place: Place,
}
