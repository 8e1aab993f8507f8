//! The module `json` manages one value of a JSON file. The file may contain comments.

use jsonc_parser::{
    ParseOptions,
    cst::{CstContainerNode, CstInputValue, CstLeafNode, CstNode, CstObject, CstObjectProp, CstRootNode},
};
use serde_json::Value;
use towpath_proto::{ModuleMessage as _, ModuleSchema, v1alpha as pb};

use super::value::{EditError, Format, Part, resolve};
use crate::{Module, Resolved, resource::resource};

/// The implementation of the module `json` and of the format of JSON files.
#[derive(Debug)]
pub(crate) struct Json;

impl Module for Json {
    fn schema(&self) -> &'static ModuleSchema {
        pb::Json::module()
    }

    fn resolve(&self, params: &Value) -> Resolved {
        resource(resolve(&Json, params))
    }
}

impl Format for Json {
    fn module(&self) -> &'static dyn Module {
        &Json
    }

    fn read(&self, text: &str) -> Result<Value, EditError> {
        read(text)
    }

    fn set(&self, text: &str, way: &[Part], value: &Value) -> Result<String, EditError> {
        set(text, way, value)
    }

    fn remove(&self, text: &str, way: &[Part]) -> Result<String, EditError> {
        remove(text, way)
    }
}

/// Returns the options of the JSON parser. Comments and trailing commas are allowed, in addition to RFC 8259.
fn options() -> ParseOptions {
    ParseOptions {
        allow_comments: true,
        allow_trailing_commas: true,
        allow_loose_object_property_names: false,
        allow_missing_commas: false,
        allow_single_quoted_strings: false,
        allow_hexadecimal_numbers: false,
        allow_unary_plus_numbers: false,
        allow_bare_decimal_point_numbers: false,
        allow_non_finite_numbers: false,
        allow_extended_string_escapes: false,
    }
}

fn written(value: &Value) -> CstInputValue {
    match value {
        Value::Null => CstInputValue::Null,
        Value::Bool(bool) => CstInputValue::Bool(*bool),
        Value::Number(number) => CstInputValue::Number(number.to_string()),
        Value::String(text) => CstInputValue::String(text.clone()),
        Value::Array(members) => CstInputValue::Array(members.iter().map(written).collect()),
        Value::Object(members) => {
            CstInputValue::Object(members.iter().map(|(name, value)| (name.clone(), written(value))).collect())
        }
    }
}

fn read(text: &str) -> Result<Value, EditError> {
    jsonc_parser::parse_to_serde_value(text, &options()).map_err(|error| format!("the file is not valid JSON: {error}"))
}

fn root(text: &str) -> Result<CstRootNode, EditError> {
    CstRootNode::parse(text, &options()).map_err(|error| format!("the file is not valid JSON: {error}"))
}

/// Returns a member of an object. If a JSON object contains a name several times, the parser uses the last value, as
/// other JSON parsers do.
fn member(object: &CstObject, name: &str) -> Option<CstObjectProp> {
    object.properties().into_iter().rev().find(|member| member.decoded_name().as_deref() == Some(name))
}

fn nested(way: &[Part], value: &Value) -> Value {
    way.iter()
        .rev()
        .fold(value.clone(), |value, part| Value::Object([(part.name.clone(), value)].into_iter().collect()))
}

fn set(text: &str, way: &[Part], value: &Value) -> Result<String, EditError> {
    let root = root(text)?;
    let Some(mut at) = root.value() else {
        root.set_value(written(&nested(way, value)));
        return Ok(format!("{}\n", root.to_string().trim_end()));
    };
    for (position, part) in way.iter().enumerate() {
        let rest = &way[position + 1..];
        if let Some(object) = at.as_object() {
            match member(&object, &part.name) {
                Some(found) if rest.is_empty() => found.set_value(written(value)),
                Some(found) => {
                    at = found.value().ok_or("the member has no value")?;
                    continue;
                }
                None => drop(object.append(&part.name, written(&nested(rest, value)))),
            }
        } else if let Some(array) = at.as_array() {
            let members = array.elements();
            let index = part.index.ok_or_else(|| {
                format!("cannot find the key {:?}: its parent is a list; write an index instead", part.name)
            })?;
            match members.get(index) {
                Some(found) if rest.is_empty() => replace(found.clone(), written(value))?,
                Some(found) => {
                    at = found.clone();
                    continue;
                }
                None => drop(array.append(written(&nested(rest, value)))),
            }
        } else {
            return Err(format!("cannot find the key {:?}: its parent is neither a map nor a list", part.name));
        }
        break;
    }
    Ok(root.to_string())
}

fn replace(node: CstNode, value: CstInputValue) -> Result<(), EditError> {
    let replaced = match node {
        CstNode::Container(CstContainerNode::Object(node)) => node.replace_with(value),
        CstNode::Container(CstContainerNode::Array(node)) => node.replace_with(value),
        CstNode::Leaf(CstLeafNode::StringLit(node)) => node.replace_with(value),
        CstNode::Leaf(CstLeafNode::NumberLit(node)) => node.replace_with(value),
        CstNode::Leaf(CstLeafNode::BooleanLit(node)) => node.replace_with(value),
        CstNode::Leaf(CstLeafNode::NullKeyword(node)) => node.replace_with(value),
        _ => None,
    };
    replaced.map(drop).ok_or_else(|| "cannot replace the member of the list".into())
}

fn remove(text: &str, way: &[Part]) -> Result<String, EditError> {
    let root = root(text)?;
    let mut at = root.value();
    for (position, part) in way.iter().enumerate() {
        let last = position + 1 == way.len();
        let Some(node) = at else { break };
        if let Some(object) = node.as_object() {
            let Some(found) = member(&object, &part.name) else { break };
            at = found.value();
            if last {
                found.remove();
                break;
            }
        } else if let Some(array) = node.as_array() {
            let Some(found) = part.index.and_then(|index| array.elements().get(index).cloned()) else { break };
            if last {
                found.remove();
                break;
            }
            at = Some(found);
        } else {
            break;
        }
    }
    Ok(root.to_string())
}
