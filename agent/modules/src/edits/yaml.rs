//! The module `yaml` manages one value of a YAML file.

use std::str::FromStr as _;

use serde_json::Value;
use towpath_proto::{ModuleMessage as _, ModuleSchema, v1alpha as pb};
use towpath_render::document::plain_value;
use yaml_edit::{Document, Sequence, YamlFile, YamlValue, path::YamlPath as _};

use super::value::{EditError, Format, Part, resolve};
use crate::{Module, Resolved, resource::resource};

/// The implementation of the module `yaml` and of the format of YAML files.
#[derive(Debug)]
pub(crate) struct Yaml;

impl Module for Yaml {
    fn schema(&self) -> &'static ModuleSchema {
        pb::Yaml::module()
    }

    fn resolve(&self, params: &Value) -> Resolved {
        resource(resolve(&Yaml, params))
    }
}

impl Format for Yaml {
    fn module(&self) -> &'static dyn Module {
        &Yaml
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

fn read(text: &str) -> Result<Value, EditError> {
    plain_value(text).map_err(|error| format!("the file is not valid YAML: {error}"))
}

/// Returns the path to a value in the notation of the library yaml-edit. In a path of yaml-edit, a number is an index
/// in a list. A backslash before the digits makes the number a name.
fn way_text(way: &[Part], document: &Value) -> String {
    let mut texts = Vec::new();
    let mut at = Some(document);
    for part in way {
        let index = part.index.filter(|_| at.is_some_and(Value::is_array));
        texts.push(match index {
            Some(index) => index.to_string(),
            None => {
                let digits = !part.name.is_empty() && part.name.bytes().all(|byte| byte.is_ascii_digit());
                let mut text = String::from(if digits { "\\" } else { "" });
                for character in part.name.chars() {
                    if matches!(character, '.' | '[' | ']' | '\\') {
                        text.push('\\');
                    }
                    text.push(character);
                }
                text
            }
        });
        at = at.and_then(|at| super::value::find(at, std::slice::from_ref(part)));
    }
    texts.join(".")
}

fn only(text: &str) -> Result<(YamlFile, Document), EditError> {
    let file = YamlFile::from_str(text).map_err(|error| format!("the file is not valid YAML: {error}"))?;
    if file.documents().count() > 1 {
        return Err("the file contains more than one YAML document".into());
    }
    let document = file.ensure_document();
    Ok((file, document))
}

/// Converts a value to YAML. Writes maps and lists in block style, in the order of the value. Quotes scalars if
/// necessary.
fn written(value: &Value) -> Result<YamlValue, EditError> {
    Ok(match value {
        Value::Null => return Err("the value is null; write another value, or state: absent to remove the key".into()),
        Value::Bool(bool) => YamlValue::scalar(*bool),
        Value::String(text) => YamlValue::scalar(text.as_str()),
        Value::Number(number) => match number.as_i64() {
            Some(number) => YamlValue::scalar(number),
            None => YamlValue::parse_raw(&number.to_string()).map_err(|error| error.to_string())?,
        },
        Value::Array(members) => YamlValue::from_sequence(members.iter().map(written).collect::<Result<_, _>>()?),
        Value::Object(members) => YamlValue::Mapping(
            members
                .iter()
                .map(|(name, value)| Ok((name.clone(), written(value)?)))
                .collect::<Result<_, EditError>>()?,
        ),
    })
}

fn failed(error: impl std::fmt::Display) -> EditError {
    error.to_string()
}

fn set(text: &str, way: &[Part], value: &Value) -> Result<String, EditError> {
    let held = read(text)?;
    let (file, document) = only(text)?;
    let value = written(value)?;
    // yaml-edit has no path for a list at the top level of the document.
    if let (Some(list), Some(index)) = (document.as_sequence(), way.first().and_then(|part| part.index)) {
        let rest = &way[1..];
        if rest.is_empty() && index >= list.len() {
            list.push(value);
        } else if rest.is_empty() {
            list.set(index, value);
        } else {
            let member = list.get(index).ok_or_else(|| format!("the list has no member {index}"))?;
            let map = member.as_mapping().ok_or_else(|| format!("member {index} is not a map"))?;
            let inner = held.get(index).cloned().unwrap_or_default();
            map.try_set_path(&way_text(rest, &inner), value).map_err(failed)?;
        }
    } else {
        document.try_set_path(&way_text(way, &held), value).map_err(failed)?;
    }
    Ok(file.to_string())
}

fn remove(text: &str, way: &[Part]) -> Result<String, EditError> {
    let held = read(text)?;
    let (file, document) = only(text)?;
    let Some((last, parents)) = way.split_last() else { return Err("the key is empty".into()) };
    let above = if parents.is_empty() { Some(&held) } else { super::value::find(&held, parents) };
    match last.index.filter(|_| above.is_some_and(Value::is_array)) {
        Some(index) => {
            let list: Option<Sequence> = if parents.is_empty() {
                document.as_sequence()
            } else {
                document.try_get_path(&way_text(parents, &held)).map_err(failed)?.as_sequence().cloned()
            };
            list.ok_or("the parent of the value is not a list")?
                .remove(index)
                .ok_or_else(|| format!("the list has no member {index}"))?;
        }
        None => drop(document.try_remove_path(&way_text(way, &held)).map_err(failed)?),
    }
    Ok(file.to_string())
}
