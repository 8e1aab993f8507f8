//! Code for the modules `line` and `block`. The code reads the lines of a file, and returns the step that writes the
//! new lines.

use std::sync::Arc;

use regex::Regex;
use serde_json::Value;
use towpath_host::{Meta, diff, files::Access};

use crate::{Change, Checked, Content, Context, ModuleError, Step, Verb, files::file, params::Problem};

/// The lines of a file, without line ends.
pub(crate) struct Lines {
    pub(crate) lines: Vec<String>,
    old: Option<(Vec<u8>, Meta)>,
    ends: bool,
}

impl Lines {
    /// Reads the lines of a file. A missing file has no lines.
    pub(crate) fn read(path: &str, context: &Context<'_>) -> Result<Self, ModuleError> {
        let old = context.reader.read(path).map_err(|error| ModuleError::io(path, &error))?;
        let text = match &old {
            Some((bytes, _)) => {
                std::str::from_utf8(bytes).map_err(|_| ModuleError::new(format!("{path} is not valid UTF-8")))?
            }
            None => "",
        };
        let ends = text.is_empty() || text.ends_with('\n');
        let lines = text.split_terminator('\n').map(str::to_owned).collect();
        Ok(Self { lines, old, ends })
    }

    /// Returns the change that writes the new lines to the file; [`Checked::InSync`] if the file already has the new
    /// lines.
    pub(crate) fn change(self, path: &str, new: &[String], context: &Context<'_>) -> Result<Checked, ModuleError> {
        if new == self.lines {
            return Ok(Checked::InSync);
        }
        let mut text = new.join("\n");
        if !new.is_empty() && (self.ends || new.len() > self.lines.len()) {
            text.push('\n');
        }
        let bytes: Arc<[u8]> = text.into_bytes().into();
        let (old_bytes, meta) = self.old.map_or((Vec::new(), None), |(bytes, meta)| (bytes, Some(meta)));
        let access = match meta {
            Some(meta) => Access { mode: meta.mode, uid: Some(meta.uid), gid: Some(meta.gid) },
            None => Access { mode: 0o644, uid: None, gid: None },
        };
        let mut steps = if meta.is_none() { file::parents(path, context.reader)? } else { Vec::new() };
        let diff = diff::unified(path, &old_bytes, &bytes);
        steps.push(Step::Write {
            path: path.to_owned(),
            content: Content::Bytes(bytes),
            access,
            validate: None,
            backup: false,
            expects: meta.map(|meta| meta.version),
        });
        Ok(Checked::Change(Change { verb: if meta.is_some() { Verb::Update } else { Verb::Create }, diff, steps }))
    }
}

/// Returns the parameters that undo the task; `None` if the task removes the line or block. The result omits the
/// parameters in `without`.
pub(crate) fn undo(params: &Value, without: &[&str]) -> Option<Value> {
    if params.get("state").and_then(Value::as_str) == Some("absent") {
        return None;
    }
    let mut params = params.clone();
    let map = params.as_object_mut()?;
    map.insert("state".into(), "absent".into());
    for key in without {
        map.remove(*key);
    }
    Some(params)
}

/// The position of new lines: after or before the last line that matches a regular expression, or at the end of the
/// file.
#[derive(Debug, Clone, Default)]
pub(crate) struct Anchor {
    pub(crate) after: Option<Regex>,
    pub(crate) before: Option<Regex>,
}

impl Anchor {
    /// Parses the regular expressions in the parameters `after` and `before`.
    pub(crate) fn resolve(after: Option<&str>, before: Option<&str>, problems: &mut Vec<Problem>) -> Self {
        if after.is_some() && before.is_some() {
            problems.push(Problem::new("before", "after and before exclude each other").hint("keep one of them"));
        }
        Self { after: pattern("after", after, problems), before: pattern("before", before, problems) }
    }

    /// Returns the index in `lines` at which the new lines are inserted.
    pub(crate) fn position(&self, lines: &[String]) -> usize {
        let last = |pattern: &Regex| lines.iter().rposition(|line| pattern.is_match(line));
        let after = self.after.as_ref().and_then(last).map(|at| at + 1);
        after.or_else(|| self.before.as_ref().and_then(last)).unwrap_or(lines.len())
    }
}

/// Parses a regular expression. If the regular expression is not valid, the function adds a problem to `problems`.
pub(crate) fn pattern(key: &str, text: Option<&str>, problems: &mut Vec<Problem>) -> Option<Regex> {
    match Regex::new(text?) {
        Ok(pattern) => Some(pattern),
        Err(error) => {
            problems.push(Problem::new(
                key,
                format!("invalid regular expression: {}", error.to_string().lines().last().unwrap_or_default().trim()),
            ));
            None
        }
    }
}
