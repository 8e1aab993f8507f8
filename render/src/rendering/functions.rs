//! The functions that templates of tasks can call, and the template variable `loop`.

use std::sync::{Arc, OnceLock};

use minijinja::value::{Kwargs, Object, Rest};
use serde_json::Value;

use crate::{
    document::Step,
    scalars::Selector,
    taint::{Kind, Marks, Taint, Tainted},
    template::{MissingInput, ReadTrace, Slot},
};

/// The template variable `loop`. Each field of `loop` is computed when a template reads the field.
#[derive(Debug)]
pub(super) struct Loop {
    pub(super) index: usize,
    pub(super) length: usize,
}

impl Object for Loop {
    fn get_value(self: &Arc<Self>, key: &minijinja::Value) -> Option<minijinja::Value> {
        Some(match key.as_str()? {
            "index" => minijinja::Value::from(self.index + 1),
            "index0" => minijinja::Value::from(self.index),
            "first" => minijinja::Value::from(self.index == 0),
            "last" => minijinja::Value::from(self.index + 1 == self.length),
            "length" => minijinja::Value::from(self.length),
            _ => return None,
        })
    }
}

/// Creates the template function `nodes(SELECTOR)`. The template function `nodes` returns the nodes with matching
/// labels, or all nodes if the template passes no selector. The names, labels and addresses of the nodes come from git.
/// The node that renders the template determines the liveness of the other nodes. The facts of other nodes are
/// untrusted.
pub(super) fn nodes_function(nodes: Arc<Vec<Value>>, own: &str, reads: Arc<ReadTrace>) -> minijinja::Value {
    let own = own.to_owned();
    let made: OnceLock<Vec<minijinja::Value>> = OnceLock::new();
    minijinja::Value::from_function(move |selector: Option<String>| -> Result<minijinja::Value, minijinja::Error> {
        reads.called_nodes();
        let selector = match selector.as_deref().map(Selector::line) {
            Some(Ok(selector)) => Some(selector),
            Some(Err(finding)) => {
                return Err(minijinja::Error::new(minijinja::ErrorKind::InvalidOperation, finding.message));
            }
            None => None,
        };
        let matches = |node: &Value| {
            let labels = node.get("labels").and_then(Value::as_object);
            let labels = labels
                .into_iter()
                .flatten()
                .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
                .collect();
            selector.as_ref().is_none_or(|selector| selector.matches(&labels))
        };
        let made = made.get_or_init(|| nodes.iter().map(|node| node_value(node, &own)).collect());
        Ok(nodes.iter().zip(made).filter(|(node, _)| matches(node)).map(|(_, value)| value.clone()).collect())
    })
}

/// Returns a node as a member of the list that the template function `nodes()` returns. The facts of other nodes are
/// untrusted.
fn node_value(node: &Value, own: &str) -> minijinja::Value {
    let name = node.get("name").and_then(Value::as_str).unwrap_or_default();
    let marks = if name == own {
        Marks::Clean
    } else {
        let facts = Marks::whole(Taint::new(Kind::Untrusted, format!("the facts of node {name}")));
        Marks::parts(Taint::NONE, [(Step::Key("facts".into()), facts)])
    };
    Slot::new(&Tainted::new(node.clone(), marks)).read()
}

/// Creates the template function `secret(NAME, KEY)`. The template function records that the rendering needs the value
/// of a Secret.
pub(super) fn secret_function(namespace: String, reads: Arc<ReadTrace>) -> minijinja::Value {
    minijinja::Value::from_function(move |name: String, key: String, _: Rest<minijinja::Value>, _: Kwargs| {
        let full = if name.contains('/') { name } else { format!("{namespace}/{name}") };
        reads.want(MissingInput::Secret(full, key));
        ""
    })
}

/// Creates the template function `shared(NAME)`. The template function records that the rendering needs a shared value.
pub(super) fn shared_function(reads: Arc<ReadTrace>) -> minijinja::Value {
    minijinja::Value::from_function(move |name: String| {
        reads.want(MissingInput::Shared(name));
        ""
    })
}
