//! The module `toml` manages one value of a TOML file.

use serde_json::{Map, Value};
use toml_edit::{DocumentMut, InlineTable, Item, Table, TableLike, Value as TomlValue};
use towpath_proto::{ModuleMessage as _, ModuleSchema, v1alpha as pb};

use super::value::{EditError, Format, Part, resolve};
use crate::{Module, Resolved, resource::resource};

/// The implementation of the module `toml` and of the format of TOML files.
#[derive(Debug)]
pub(crate) struct Toml;

impl Module for Toml {
    fn schema(&self) -> &'static ModuleSchema {
        pb::Toml::module()
    }

    fn resolve(&self, params: &Value) -> Resolved {
        resource(resolve(&Toml, params))
    }
}

impl Format for Toml {
    fn module(&self) -> &'static dyn Module {
        &Toml
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
    Ok(of_table(document(text)?.as_table()))
}

fn document(text: &str) -> Result<DocumentMut, EditError> {
    text.parse()
        .map_err(|error: toml_edit::TomlError| format!("the file is not valid TOML: {}", error.to_string().trim_end()))
}

fn of_table(table: &dyn TableLike) -> Value {
    Value::Object(table.iter().map(|(name, item)| (name.to_owned(), of_item(item))).collect::<Map<_, _>>())
}

fn of_item(item: &Item) -> Value {
    match item {
        Item::None => Value::Null,
        Item::Value(value) => of_value(value),
        Item::Table(table) => of_table(table),
        Item::ArrayOfTables(tables) => Value::Array(tables.iter().map(|table| of_table(table)).collect()),
    }
}

fn of_value(value: &TomlValue) -> Value {
    match value {
        TomlValue::String(text) => Value::String(text.value().clone()),
        TomlValue::Integer(number) => (*number.value()).into(),
        TomlValue::Float(number) => (*number.value()).into(),
        TomlValue::Boolean(bool) => (*bool.value()).into(),
        TomlValue::Datetime(time) => Value::String(time.value().to_string()),
        TomlValue::Array(members) => Value::Array(members.iter().map(of_value).collect()),
        TomlValue::InlineTable(table) => of_table(table),
    }
}

fn value(value: &Value) -> Result<TomlValue, EditError> {
    Ok(match value {
        Value::Null => return Err("TOML has no null value; write state: absent to remove the key".into()),
        Value::Bool(bool) => (*bool).into(),
        Value::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(number), _) => number.into(),
            (None, Some(float)) if !number.is_u64() => float.into(),
            _ => return Err(format!("{number} is too large for TOML")),
        },
        Value::String(text) => text.as_str().into(),
        Value::Array(members) => members.iter().map(self::value).collect::<Result<toml_edit::Array, _>>()?.into(),
        Value::Object(members) => {
            let mut table = InlineTable::new();
            for (name, member) in members {
                table.insert(name, self::value(member)?);
            }
            table.into()
        }
    })
}

/// Converts a map to a TOML table, and any other value to a TOML value.
fn item(written: &Value) -> Result<Item, EditError> {
    let Value::Object(members) = written else { return Ok(Item::Value(value(written)?)) };
    let mut table = Table::new();
    for (name, member) in members {
        table.insert(name, item(member)?);
    }
    table.set_implicit(!members.is_empty() && members.values().all(Value::is_object));
    Ok(Item::Table(table))
}

/// Converts the line ends to CRLF if the old file has CRLF. The library toml_edit writes only LF.
fn with_line_ends(text: &str, new: &str) -> String {
    if text.contains("\r\n") { new.replace("\r\n", "\n").replace('\n', "\r\n") } else { new.to_owned() }
}

/// Returns the value that one part of a path selects in a map or list. A missing map is created.
fn down<'a>(at: &'a mut Item, part: &Part) -> Result<&'a mut Item, EditError> {
    if at.is_array() || at.is_array_of_tables() {
        let index = part.index.ok_or_else(|| {
            format!("cannot find the key {:?}: its parent is a list; write an index instead", part.name)
        })?;
        return at.get_mut(index).ok_or_else(|| format!("the list has no member {index}"));
    }
    let inline = at.is_inline_table();
    let table = at
        .as_table_like_mut()
        .ok_or_else(|| format!("cannot find the key {:?}: its parent is not a map", part.name))?;
    if !table.contains_key(&part.name) {
        let mut new = Table::new();
        new.set_implicit(true);
        let new = if inline { Item::Value(InlineTable::new().into()) } else { Item::Table(new) };
        table.insert(&part.name, new);
    }
    table.get_mut(&part.name).ok_or_else(|| format!("there is no {:?}", part.name))
}

fn set(text: &str, way: &[Part], wanted: &Value) -> Result<String, EditError> {
    let mut document = document(text)?;
    let Some((last, parents)) = way.split_last() else { return Err("the key is empty".into()) };
    let at = parents.iter().try_fold(document.as_item_mut(), |at, part| down(at, part))?;
    if let Some(array) = at.as_array_mut() {
        let index = last.index.ok_or_else(|| {
            format!("cannot find the key {:?}: its parent is a list; write an index instead", last.name)
        })?;
        let mut new = value(wanted)?;
        match array.get_mut(index) {
            Some(old) => {
                *new.decor_mut() = old.decor().clone();
                *old = new;
            }
            None => array.push(new),
        }
        return Ok(with_line_ends(text, &document.to_string()));
    }
    let inline = at.is_inline_table();
    let table = at
        .as_table_like_mut()
        .ok_or_else(|| format!("cannot find the key {:?}: its parent is not a map", last.name))?;
    match table.get_mut(&last.name) {
        Some(Item::Value(old)) => {
            let mut new = value(wanted)?;
            // YAML and JSON have no type for dates. A string that is a valid date therefore replaces a date as a date.
            if let (TomlValue::Datetime(_), Some(time)) = (&*old, wanted.as_str().and_then(|text| text.parse().ok())) {
                new = TomlValue::Datetime(toml_edit::Formatted::new(time));
            }
            // The comment at the end of the line belongs to the key, so the comment stays.
            *new.decor_mut() = old.decor().clone();
            *old = new;
        }
        Some(Item::Table(old)) if wanted.is_object() => {
            let mut new = item(wanted)?;
            if let Item::Table(new) = &mut new {
                *new.decor_mut() = old.decor().clone();
                new.set_position(old.position());
            }
            table.insert(&last.name, new);
        }
        Some(other) => *other = item(wanted)?,
        None => {
            let new = if inline { Item::Value(value(wanted)?) } else { item(wanted)? };
            table.insert(&last.name, new);
        }
    }
    Ok(with_line_ends(text, &document.to_string()))
}

fn remove(text: &str, way: &[Part]) -> Result<String, EditError> {
    let mut document = document(text)?;
    let Some((last, parents)) = way.split_last() else { return Err("the key is empty".into()) };
    let at = parents.iter().try_fold(document.as_item_mut(), |at, part| down(at, part))?;
    match (last.index, at) {
        (Some(index), Item::ArrayOfTables(tables)) if index < tables.len() => drop(tables.remove(index)),
        (Some(index), Item::Value(TomlValue::Array(members))) if index < members.len() => drop(members.remove(index)),
        (_, at) => {
            let table = at
                .as_table_like_mut()
                .ok_or_else(|| format!("cannot find the key {:?}: its parent is not a map", last.name))?;
            keep_head(table, &last.name);
            table.remove(&last.name);
        }
    }
    Ok(with_line_ends(text, &document.to_string()))
}

/// Keeps the comment at the top of a file when the first key is removed. The next key gets the comment. A comment that
/// is followed by an empty line describes the file, not the first key.
fn keep_head(table: &mut dyn TableLike, name: &str) {
    let prefix = |table: &dyn TableLike, name: &str| {
        let decor = table.key(name)?.leaf_decor();
        Some(decor.prefix()?.as_str()?.to_owned())
    };
    let Some(above) = prefix(table, name) else { return };
    let Some(end) = above.rfind("\n\n") else { return };
    let next = table.iter().map(|(key, _)| key.to_owned()).skip_while(|key| key != name).nth(1);
    let Some(next) = next else { return };
    let below = prefix(table, &next).unwrap_or_default();
    if let Some(mut key) = table.key_mut(&next) {
        key.leaf_decor_mut().set_prefix(format!("{}{}", &above[..end + 2], below.trim_start_matches('\n')));
    }
}
