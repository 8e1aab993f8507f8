//! Code for the modules `ini`, `json`, `yaml` and `toml`. The code edits one value in a structured file.
//!
//! An edit changes only one value, and keeps the comments and the order of the file. The task fails if the edit also
//! changes another value.

use std::{fmt::Debug, sync::Arc};

use serde_json::{Map, Value, json};
use towpath_host::{diff, files::Access};

use crate::{
    Change, Checked, Content, Context, Module, ModuleError, Resource, Step, Verb,
    files::file,
    params::{Problem, done, managed_path, one_line},
};

/// The resolved parameters of a module that sets or removes one value of a file.
#[derive(Debug, Clone)]
pub(crate) struct ValueSpec {
    format: &'static dyn Format,
    path: String,
    section: Option<String>,
    key: String,
    way: Vec<Part>,
    /// The desired value; `None` if the task removes the value.
    value: Option<Value>,
}

/// A format of structured files.
pub(crate) trait Format: Debug + Send + Sync {
    /// Returns the module that edits files of this format.
    fn module(&self) -> &'static dyn Module;

    /// Returns true if files of this format have sections and one setting on each line, as ini files do.
    fn has_sections(&self) -> bool {
        false
    }

    /// Parses the text of a file.
    fn read(&self, text: &str) -> Result<Value, EditError>;

    /// Sets the value in the text of a file, and returns the new text.
    fn set(&self, text: &str, way: &[Part], value: &Value) -> Result<String, EditError>;

    /// Removes the value from the text of a file, and returns the new text.
    fn remove(&self, text: &str, way: &[Part]) -> Result<String, EditError>;
}

/// A part of the path to a value: the name of a map member, or an index in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) name: String,
    /// The index in a list, if the path part is an unquoted number; `None` for any other path part.
    pub(crate) index: Option<usize>,
}

/// A text for the error message: the reason why the file cannot be edited.
pub(crate) type EditError = String;

/// Resolves the parameters of a module that sets or removes one value of a file.
pub(crate) fn resolve(format: &'static dyn Format, params: &Value) -> Result<ValueSpec, Vec<Problem>> {
    let mut problems = Vec::new();
    let text = |key: &str| params.get(key).and_then(Value::as_str);
    let path = text("path").unwrap_or_default();
    managed_path("path", path, &mut problems);
    let key = text("key").unwrap_or_default();
    let section = text("section").map(str::to_owned);
    let way = if format.has_sections() {
        let part = |name: &str| Part { name: name.to_owned(), index: None };
        section.iter().map(String::as_str).chain([key]).map(part).collect()
    } else {
        way(key).unwrap_or_else(|problem| {
            problems.push(problem);
            Vec::new()
        })
    };
    let mut value = params.get("value").filter(|value| !value.is_null()).cloned();
    let absent = text("state") == Some("absent");
    if absent {
        value = None;
    } else if value.is_none() {
        problems.push(Problem::new("value", format!("{} needs value", format.module().schema().key)));
    }
    if format.has_sections() {
        let parts =
            [("key", Some(key)), ("section", section.as_deref()), ("value", value.as_ref().and_then(Value::as_str))];
        for (name, part) in parts {
            one_line(name, part.unwrap_or_default(), &mut problems);
        }
        if key.trim() != key || key.is_empty() || key.contains(['=', '[']) || key.starts_with([';', '#']) {
            problems.push(Problem::new("key", format!("{key:?} is not a valid name of a setting")));
        }
        if section.as_deref().is_some_and(|section| section.is_empty() || section.contains(']')) {
            problems.push(
                Problem::new("section", "the value is not a valid name of a section")
                    .hint("leave section out to edit settings before the first section"),
            );
        }
    }
    done(problems)?;
    Ok(ValueSpec { format, path: path.to_owned(), section, key: key.to_owned(), way, value })
}

/// Parses the path to a value, such as `a."b.c".0`.
fn way(key: &str) -> Result<Vec<Part>, Problem> {
    let wrong = || {
        Problem::new("key", format!("{key:?} is not a valid path to a value"))
            .hint("such as server.port, servers.0.name, or hosts.\"a.example.org\".port")
    };
    let mut parts = Vec::new();
    let mut rest = key;
    loop {
        let (name, quoted, behind) = match rest.strip_prefix('"') {
            Some(inner) => {
                let (name, behind) = inner.split_once('"').ok_or_else(wrong)?;
                (name, true, behind)
            }
            None => {
                let end = rest.find('.').unwrap_or(rest.len());
                (&rest[..end], false, &rest[end..])
            }
        };
        if !quoted && (name.is_empty() || name.contains('"')) {
            return Err(wrong());
        }
        // A name such as "+1" is not an index but the name of a member.
        let digits = !quoted && name.bytes().all(|byte| byte.is_ascii_digit());
        let index = if digits { name.parse().ok() } else { None };
        parts.push(Part { name: name.to_owned(), index });
        if behind.is_empty() {
            return Ok(parts);
        }
        rest = behind.strip_prefix('.').filter(|rest| !rest.is_empty()).ok_or_else(wrong)?;
    }
}

/// Returns the value at a path; `None` if the document does not contain the path.
pub(super) fn find<'a>(value: &'a Value, way: &[Part]) -> Option<&'a Value> {
    way.iter().try_fold(value, |value, part| match value {
        Value::Array(members) => members.get(part.index?),
        Value::Object(members) => members.get(&part.name),
        _ => None,
    })
}

/// Sets or removes a value in a parsed document. After the edit of a file, the module compares the values in the file
/// with the changed document.
fn expected(document: &mut Value, way: &[Part], value: Option<&Value>) -> Result<(), EditError> {
    let Some((part, rest)) = way.split_first() else {
        *document = value.cloned().unwrap_or(Value::Null);
        return Ok(());
    };
    if document.is_null() && value.is_some() {
        *document = Value::Object(Map::new());
    }
    match document {
        Value::Object(members) if rest.is_empty() && value.is_none() => drop(members.shift_remove(&part.name)),
        Value::Object(members) if value.is_some() || members.contains_key(&part.name) => {
            expected(members.entry(part.name.clone()).or_insert(Value::Null), rest, value)?;
        }
        Value::Object(_) => {}
        Value::Array(members) => {
            let index = part.index.ok_or_else(|| {
                format!("cannot find the key {:?}: its parent is a list; write an index instead", part.name)
            })?;
            let length = members.len();
            match (members.get_mut(index), value) {
                (Some(_), None) if rest.is_empty() => drop(members.remove(index)),
                (Some(member), _) => expected(member, rest, value)?,
                (None, None) => {}
                (None, Some(value)) if index == length && rest.is_empty() => members.push(value.clone()),
                (None, Some(_)) => {
                    return Err(format!("the list has only {length} members, and no index {index}; correct the key"));
                }
            }
        }
        Value::Null => {}
        other => {
            let kind = if other.is_string() { "a string" } else { "a number or a boolean" };
            return Err(format!("cannot find the key {:?}: its parent is {kind}, not a map or a list", part.name));
        }
    }
    Ok(())
}

/// Returns the text of the file after the edit; `None` if the file is in sync.
fn edited(format: &dyn Format, text: &str, way: &[Part], value: Option<&Value>) -> Result<Option<String>, EditError> {
    let (mark, body) = match text.strip_prefix('\u{feff}') {
        Some(body) => ("\u{feff}", body),
        None => ("", text),
    };
    let old = format.read(body)?;
    if find(&old, way) == value {
        return Ok(None);
    }
    let mut wanted = old;
    expected(&mut wanted, way, value)?;
    let new = match value {
        Some(value) => format.set(body, way, value)?,
        None => format.remove(body, way)?,
    };
    // The new text is parsed, to verify that the edit changed no other value.
    if normalized(format.read(&new)?) != normalized(wanted) {
        return Err("cannot edit the value without changing another value; use the module `file` instead".into());
    }
    Ok(Some(format!("{mark}{new}")))
}

/// Returns a copy of a document without null values and empty maps. When the last member of a map is removed, some
/// formats keep the empty map, and other formats remove the map.
fn normalized(value: Value) -> Value {
    match value {
        Value::Object(members) => {
            let members: Map<String, Value> = members
                .into_iter()
                .map(|(name, value)| (name, normalized(value)))
                .filter(|(_, value)| !value.is_null())
                .collect();
            if members.is_empty() { Value::Null } else { Value::Object(members) }
        }
        Value::Array(members) => Value::Array(members.into_iter().map(normalized).collect()),
        other => other,
    }
}

impl Resource for ValueSpec {
    fn module(&self) -> &'static dyn Module {
        self.format.module()
    }

    fn check(&self, context: &Context<'_>) -> Result<Checked, ModuleError> {
        self.compare(context)
    }

    fn undo(&self, context: &Context<'_>) -> Option<Value> {
        self.current(context)
    }

    fn path(&self) -> Option<&str> {
        Some(&self.path)
    }
}

impl ValueSpec {
    fn trouble(&self, trouble: &EditError) -> ModuleError {
        ModuleError::new(format!("{}: {}: {trouble}", self.path, self.key))
    }

    fn compare(&self, context: &Context<'_>) -> Result<Checked, ModuleError> {
        let path = self.path.as_str();
        let old = context.reader.read(path).map_err(|error| ModuleError::io(path, &error))?;
        if old.is_none() && self.value.is_none() {
            return Ok(Checked::InSync);
        }
        let bytes = old.as_ref().map(|(bytes, _)| bytes.as_slice()).unwrap_or_default();
        let text = std::str::from_utf8(bytes).map_err(|_| ModuleError::new(format!("{path} is not valid UTF-8")))?;
        let edited = edited(self.format, text, &self.way, self.value.as_ref()).map_err(|why| self.trouble(&why))?;
        let Some(new) = edited else { return Ok(Checked::InSync) };
        let meta = old.as_ref().map(|(_, meta)| *meta);
        let access = match meta {
            Some(meta) => Access { mode: meta.mode, uid: Some(meta.uid), gid: Some(meta.gid) },
            None => Access { mode: 0o644, uid: None, gid: None },
        };
        let mut steps = if meta.is_none() { file::parents(path, context.reader)? } else { Vec::new() };
        let diff = diff::unified(path, bytes, new.as_bytes());
        steps.push(Step::Write {
            path: path.to_owned(),
            content: Content::Bytes(Arc::from(new.into_bytes())),
            access,
            validate: None,
            backup: false,
            expects: meta.map(|meta| meta.version),
        });
        Ok(Checked::Change(Change { verb: if meta.is_some() { Verb::Update } else { Verb::Create }, diff, steps }))
    }

    /// Returns the parameters that undo the task. The undo restores the current value. If the file has no current
    /// value, the undo removes the value.
    fn current(&self, context: &Context<'_>) -> Option<Value> {
        let bytes = context.reader.read(&self.path).ok()?.map(|(bytes, _)| bytes).unwrap_or_default();
        let text = String::from_utf8(bytes).ok()?;
        let now = self.format.read(text.trim_start_matches('\u{feff}')).ok()?;
        let mut undo = json!({ "path": self.path, "key": self.key });
        let map = undo.as_object_mut()?;
        map.extend(self.section.iter().map(|section| ("section".to_owned(), json!(section))));
        match find(&now, &self.way) {
            Some(value) if !value.is_null() => map.insert("value".into(), value.clone()),
            // A null cannot be written, and most programs treat a null as an absent value.
            _ => map.insert("state".into(), json!("absent")),
        };
        Some(undo)
    }
}

#[cfg(test)]
mod tests;
