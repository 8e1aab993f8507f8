//! Edits of single values of a YAML file that leave the rest of its text as it was written.
//!
//! The parser of towpath-render gives the position of a key or a value. `extent` finds the end of the value in the text,
//! and `layout` writes the new value there. The edit is then proved: the edited text must parse to the documents of the
//! old text with exactly this one change. A text that cannot be edited this way is an error, and never a damaged file.

mod extent;
mod layout;

use serde_json::{Map, Value};
use thiserror::Error;
use towpath_render::document::{At, Document, Limits, Path, Step, parse};

use extent::Extent;

/// The reason why a file cannot be edited.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum SpliceError {
    /// The error that the file is not valid YAML.
    #[error("the file is not valid YAML: line {line}: {message}")]
    NotYaml {
        /// The line of the first problem.
        line: usize,
        /// The problem.
        message: String,
    },
    /// The error that the layout of the file is not supported.
    #[error(
        "cannot change {path} and keep the layout of the file: write {path} as an indented `key: value` without anchors and tags"
    )]
    Layout {
        /// The path of the value.
        path: Path,
    },
}

/// A text with its documents.
#[derive(Debug)]
struct Parsed<'a> {
    text: &'a str,
    documents: Vec<Document>,
}

impl<'a> Parsed<'a> {
    fn read(text: &'a str) -> Result<Self, SpliceError> {
        let (documents, problems) = parse("", "", text.as_bytes(), Limits::default());
        match problems.into_iter().next() {
            Some(problem) => Err(SpliceError::NotYaml { line: problem.line, message: problem.message }),
            None => Ok(Self { text, documents }),
        }
    }

    fn document(&self, index: usize) -> Option<&Document> {
        self.documents.iter().find(|document| document.index == index)
    }

    /// Returns the byte offset of a key or a value.
    fn offset(&self, document: &Document, path: &Path, at: At) -> Option<usize> {
        let (line, column) = document.place().below(path).locate(at);
        let start = line_start(self.text, line.checked_sub(1)?)?;
        let rest = self.text.get(start..)?;
        let (within, _) = rest.char_indices().chain([(rest.len(), ' ')]).nth(column.checked_sub(1)?)?;
        start.checked_add(within)
    }
}

fn line_start(text: &str, line: usize) -> Option<usize> {
    if line == 0 {
        return Some(0);
    }
    text.match_indices('\n').nth(line.checked_sub(1)?).and_then(|(at, _)| at.checked_add(1))
}

/// Returns the value at a path; `None` if the path does not exist.
pub fn value_at<'a>(root: &'a Value, path: &[Step]) -> Option<&'a Value> {
    path.iter().try_fold(root, |value, step| match step {
        Step::Key(key) => value.get(&**key),
        Step::Index(index) => value.get(index),
    })
}

/// Sets the value at a path of a document. Missing maps on the path are created.
///
/// # Errors
/// When the text is not valid YAML, or when its layout is not supported.
pub fn set(text: &str, document: usize, path: &Path, value: &Value) -> Result<String, SpliceError> {
    let (mark, body) = without_mark(text);
    let old = Parsed::read(body)?;
    let unsupported = || SpliceError::Layout { path: path.clone() };
    let found = old.document(document).ok_or_else(unsupported)?;
    let mut wanted = found.value.clone();
    put(&mut wanted, &path.0, value).ok_or_else(unsupported)?;
    let candidates = if value_at(&found.value, &path.0).is_some() {
        replacements(&old, found, path, value)
    } else {
        insertions(&old, found, path, value)
    };
    let edited = candidates.into_iter().find(|edited| is_edit(&old, edited, document, &wanted));
    edited.map(|edited| format!("{mark}{edited}")).ok_or_else(unsupported)
}

/// Removes the key at the end of a path.
///
/// # Errors
/// When the text is not valid YAML, when the key does not exist, or when the layout is not supported.
pub fn remove(text: &str, document: usize, path: &Path) -> Result<String, SpliceError> {
    let (mark, body) = without_mark(text);
    let old = Parsed::read(body)?;
    let unsupported = || SpliceError::Layout { path: path.clone() };
    let found = old.document(document).ok_or_else(unsupported)?;
    let mut wanted = found.value.clone();
    take(&mut wanted, &path.0).ok_or_else(unsupported)?;
    let candidates = removals(&old, found, path);
    let edited = candidates.into_iter().find(|edited| is_edit(&old, edited, document, &wanted));
    edited.map(|edited| format!("{mark}{edited}")).ok_or_else(unsupported)
}

/// Splits off a byte order mark, which the parser does not count in positions.
fn without_mark(text: &str) -> (&str, &str) {
    let body = text.strip_prefix('\u{feff}').unwrap_or(text);
    (&text[..text.len() - body.len()], body)
}

/// Returns true if a text differs from the old text in the value of one document only.
fn is_edit(old: &Parsed<'_>, edited: &str, document: usize, wanted: &Value) -> bool {
    let Ok(new) = Parsed::read(edited) else { return false };
    let expected = old.documents.iter().map(|found| {
        let value = if found.index == document { wanted } else { &found.value };
        (found.index, value)
    });
    expected.eq(new.documents.iter().map(|found| (found.index, &found.value)))
}

fn put(root: &mut Value, path: &[Step], value: &Value) -> Option<()> {
    let Some((step, rest)) = path.split_first() else {
        *root = value.clone();
        return Some(());
    };
    match step {
        Step::Key(key) => {
            let map = root.as_object_mut()?;
            put(map.entry(&**key).or_insert_with(|| Value::Object(Map::new())), rest, value)
        }
        Step::Index(index) => put(root.get_mut(index)?, rest, value),
    }
}

fn take(root: &mut Value, path: &[Step]) -> Option<()> {
    let (last, parents) = path.split_last()?;
    let Step::Key(key) = last else { return None };
    let parent = parents.iter().try_fold(root, |value, step| match step {
        Step::Key(key) => value.get_mut(&**key),
        Step::Index(index) => value.get_mut(index),
    })?;
    parent.as_object_mut()?.shift_remove(&**key).map(drop)
}

/// Returns the texts with another value at an existing path: as a block, and in braces.
fn replacements(old: &Parsed<'_>, found: &Document, path: &Path, value: &Value) -> Vec<String> {
    let Some(extent) = extent_of(old, found, path) else { return Vec::new() };
    let is_member = matches!(path.0.last(), Some(Step::Index(_)));
    let step = if is_member { layout::MEMBER } else { layout::step(old.text) };
    // The value of a list in brackets has neither a colon nor a dash.
    let is_in_lines = extent.flow.as_ref().is_none_or(|range| range.start > extent.colon);
    let new = layout::block(value, extent.column, step, layout::is_quoted(old.text, &extent));
    let block = new.filter(|_| is_in_lines).map(|new| {
        let rest = old.text.get(extent.inline_end..extent.line_end).unwrap_or_default();
        let after = old.text.get(extent.end..).unwrap_or_default();
        let before = old.text.get(..extent.colon).unwrap_or_default();
        let line_break = layout::line_break(old.text);
        if new.lines.is_empty() {
            return format!("{before} {}{rest}{}", new.inline, old.text.get(extent.tail..).unwrap_or_default());
        }
        let space = if new.inline.is_empty() { "" } else { " " };
        let lines = layout::broken(&new.lines, line_break);
        format!("{before}{space}{}{rest}{line_break}{lines}{after}", new.inline)
    });
    let flow = extent.flow.clone().map(|range| {
        let (before, after) = (old.text.get(..range.start), old.text.get(range.end..));
        format!(
            "{}{}{}",
            before.unwrap_or_default(),
            layout::flow(value, layout::is_json(old.text)),
            after.unwrap_or_default()
        )
    });
    block.into_iter().chain(flow).collect()
}

/// Returns the texts with a new key at the end of a path: in a map of lines, and in a map in braces.
fn insertions(old: &Parsed<'_>, found: &Document, path: &Path, value: &Value) -> Vec<String> {
    let exists = |end: &usize| value_at(&found.value, path.0.get(..*end).unwrap_or_default()).is_some();
    let Some(depth) = (0..path.0.len()).rev().find(exists) else { return Vec::new() };
    let (above, missing) = path.0.split_at(depth);
    let Some((Step::Key(key), rest)) = missing.split_first() else { return Vec::new() };
    // The missing maps are written with the value.
    let mut nested = value.clone();
    for step in rest.iter().rev() {
        let Step::Key(key) = step else { return Vec::new() };
        nested = Value::Object(Map::from_iter([(key.to_string(), nested)]));
    }
    let above = Path(above.to_vec());
    let Some(map) = value_at(&found.value, &above.0).and_then(Value::as_object) else { return Vec::new() };
    let step = layout::step(old.text);
    let line_break = layout::line_break(old.text);
    let block = map.keys().next_back().and_then(|last| {
        let last = above.key(last);
        let start = old.offset(found, &last, At::Key)?;
        let column = extent::column(old.text, start);
        let end = extent::entry_end(old.text, start);
        let new = layout::block(&nested, column, step, false)?;
        let (before, after) = (old.text.get(..end)?, old.text.get(end..)?);
        let begin = if before.is_empty() || before.ends_with('\n') { "" } else { line_break };
        let space = if new.inline.is_empty() { "" } else { " " };
        let key = layout::key(key);
        let lines = layout::broken(&new.lines, line_break);
        Some(format!("{before}{begin}{:column$}{key}:{space}{}{line_break}{lines}{after}", "", new.inline))
    });
    let flow = old.offset(found, &above, At::Value).and_then(|start| {
        let end = extent::flow_end(old.text, start).filter(|_| old.text[start..].starts_with('{'))?;
        let inner = old.text.get(start..end.checked_sub(1)?)?.trim_end();
        let comma = if map.is_empty() || inner.ends_with(',') { "" } else { "," };
        let space = member_space(old, found, &above, map);
        let after = old.text.get(start.checked_add(inner.len())?..)?;
        let is_json = layout::is_json(old.text);
        let (key, value) = (layout::flow_key(key, is_json), layout::flow(&nested, is_json));
        Some(format!("{}{inner}{comma}{space}{key}: {value}{after}", &old.text[..start]))
    });
    block.into_iter().chain(flow).collect()
}

/// Returns the space before a new member of a map in braces: that before its last member.
fn member_space(old: &Parsed<'_>, found: &Document, map: &Path, members: &Map<String, Value>) -> String {
    let Some(last) = members.keys().next_back() else { return String::new() };
    let start = old.offset(found, &map.key(last), At::Key).unwrap_or_default();
    let indent = old.text.get(extent::line_begin(old.text, start)..start).unwrap_or_default();
    if indent.trim().is_empty() { format!("{}{indent}", layout::line_break(old.text)) } else { " ".into() }
}

/// Returns the texts without a key: of a map of lines, and of a map in braces.
fn removals(old: &Parsed<'_>, found: &Document, path: &Path) -> Vec<String> {
    let Some(start) = old.offset(found, path, At::Key) else { return Vec::new() };
    let line = extent::line_begin(old.text, start);
    let (before, after) = (old.text.get(..line), old.text.get(extent::entry_end(old.text, start)..));
    let block = before.zip(after).map(|(before, after)| format!("{before}{after}"));
    let flow = extent_of(old, found, path).and_then(|extent| extent.flow).and_then(|range| {
        let (before, after) = (old.text.get(..start)?, old.text.get(range.end..)?.trim_start());
        Some(match after.strip_prefix(',') {
            Some(after) => format!("{before}{}", after.trim_start()),
            None => format!("{}{after}", before.trim_end().trim_end_matches(',')),
        })
    });
    block.into_iter().chain(flow).collect()
}

fn extent_of(old: &Parsed<'_>, found: &Document, path: &Path) -> Option<Extent> {
    let value = old.offset(found, path, At::Value)?;
    match path.0.last()? {
        Step::Key(_) => Extent::of_key(old.text, old.offset(found, path, At::Key)?, value),
        Step::Index(_) => Extent::of_member(old.text, value),
    }
}

#[cfg(test)]
mod tests;
