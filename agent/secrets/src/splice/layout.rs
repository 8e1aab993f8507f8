//! The text of a new value in a YAML file.

use serde_json::Value;
use towpath_render::document::to_yaml;

use super::extent::Extent;

/// The indentation of the members of a list below their dashes.
pub(super) const MEMBER: usize = 2;

/// The text of a value in a map of lines.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Block {
    /// The part in the line of the key.
    pub(super) inline: String,
    /// The lines below the line of the key, each indented and without a line break.
    pub(super) lines: Vec<String>,
}

/// Returns the text of a value below a key at a column. `step` is the indentation. A `quoted` text stays in quotes.
/// `None` if the value has characters that a literal block cannot hold.
pub(super) fn block(value: &Value, column: usize, step: usize, quoted: bool) -> Option<Block> {
    let indent = column.checked_add(step)?;
    let indented = |line: &str| if line.is_empty() { String::new() } else { format!("{:indent$}{line}", "") };
    match value {
        Value::String(text) if text.contains('\n') && !quoted => {
            let is_literal = |letter: char| letter == '\n' || letter == '\t' || !letter.is_control();
            if !text.chars().all(is_literal) || text.starts_with([' ', '\n', '\t']) {
                return None;
            }
            let (body, inline) = match text.strip_suffix('\n') {
                None => (text.as_str(), "|-"),
                Some(body) if body.ends_with('\n') => (body, "|+"),
                Some(body) => (body, "|"),
            };
            Some(Block { inline: inline.into(), lines: body.split('\n').map(indented).collect() })
        }
        Value::String(text) if quoted || text.contains('\n') => {
            Some(Block { inline: Value::String(text.clone()).to_string(), lines: Vec::new() })
        }
        Value::Object(map) if !map.is_empty() => {
            let mut lines = Vec::new();
            for (name, member) in map {
                let inner = block(member, indent, step, false)
                    .unwrap_or_else(|| Block { inline: flow(member, false), lines: vec![] });
                let space = if inner.inline.is_empty() { "" } else { " " };
                lines.push(indented(&format!("{}:{space}{}", key(name), inner.inline)));
                lines.extend(inner.lines);
            }
            Some(Block { inline: String::new(), lines })
        }
        Value::Array(members) if !members.is_empty() => {
            let mut lines = Vec::new();
            for member in members {
                // A map in a list begins in the line of its dash.
                let inner = block(member, indent, MEMBER, false)
                    .unwrap_or_else(|| Block { inline: flow(member, false), lines: vec![] });
                if inner.inline.is_empty() {
                    let mut inner = inner.lines.into_iter();
                    let first = inner.next().unwrap_or_default();
                    lines.push(indented(&format!("- {}", first.trim_start())));
                    lines.extend(inner);
                } else {
                    lines.push(indented(&format!("- {}", inner.inline)));
                    lines.extend(inner.lines);
                }
            }
            Some(Block { inline: String::new(), lines })
        }
        scalar => Some(Block { inline: to_yaml(scalar).trim_end().to_owned(), lines: Vec::new() }),
    }
}

/// Returns the text of a value in a map in braces. In JSON, all keys are in quotes.
pub(super) fn flow(value: &Value, is_json: bool) -> String {
    match value {
        Value::Object(map) => {
            let member =
                |(name, member): (&String, &Value)| format!("{}: {}", flow_key(name, is_json), flow(member, is_json));
            format!("{{{}}}", map.iter().map(member).collect::<Vec<_>>().join(", "))
        }
        Value::Array(members) => {
            let members: Vec<String> = members.iter().map(|member| flow(member, is_json)).collect();
            format!("[{}]", members.join(", "))
        }
        scalar => scalar.to_string(),
    }
}

/// Returns the text of a key in a map in braces.
pub(super) fn flow_key(name: &str, is_json: bool) -> String {
    if is_json { Value::String(name.to_owned()).to_string() } else { key(name) }
}

/// Returns true if a text is JSON, apart from mistakes.
pub(super) fn is_json(text: &str) -> bool {
    text.trim_start().starts_with('{')
}

/// Returns the text of a key.
pub(super) fn key(name: &str) -> String {
    let written = to_yaml(&Value::String(name.to_owned()));
    let written = written.trim_end();
    let is_plain = written == name && !written.contains([',', '{', '}', '[', ']', '#']);
    if is_plain { name.to_owned() } else { Value::String(name.to_owned()).to_string() }
}

/// Returns lines with a line break after each.
pub(super) fn broken(lines: &[String], line_break: &str) -> String {
    lines.iter().map(|line| format!("{line}{line_break}")).collect()
}

/// Returns the line break of a text.
pub(super) fn line_break(text: &str) -> &'static str {
    let first = text.split_inclusive('\n').next().unwrap_or_default();
    if first.ends_with("\r\n") { "\r\n" } else { "\n" }
}

/// Returns the indentation of a text: the smallest one of its lines, apart from comments.
pub(super) fn step(text: &str) -> usize {
    let indents = text.lines().filter_map(|line| {
        let begins = line.trim_start_matches(' ');
        let indent = line.len().saturating_sub(begins.len());
        (indent > 0 && !begins.is_empty() && !begins.starts_with(['#', '"', '}'])).then_some(indent)
    });
    indents.min().unwrap_or(2).clamp(1, 8)
}

/// Returns true if a value is in double quotes.
pub(super) fn is_quoted(text: &str, extent: &Extent) -> bool {
    extent.flow.clone().and_then(|range| text.get(range)).is_some_and(|value| value.starts_with('"'))
}
