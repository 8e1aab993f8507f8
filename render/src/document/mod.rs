//! Reads YAML text into documents: parsing within limits, and a check against the schema that collects all errors.

mod check;
mod formats;
mod habits;
mod locate;
mod parse;
mod plain;
mod typed;

use std::{
    fmt,
    sync::{Arc, OnceLock},
};

use serde_json::Value;

pub use check::{Checked, Mode, Reference, check_message, check_object};
#[cfg(test)]
pub(crate) use parse::parse_value;
pub use parse::{Limits, parse};
pub use plain::plain_value;
pub use typed::typed;

use crate::{
    problem::{Finding, Problem, excerpt, without_credentials},
    work,
};

/// A text file of a source, with its name and its content.
#[derive(Debug)]
pub struct SourceFile {
    /// The name of the source.
    pub source: String,
    /// The path of the file, relative to the path of the source.
    pub path: String,
    text: String,
    roots: OnceLock<Vec<(usize, usize)>>,
    unquoted_modes: OnceLock<bool>,
}

impl SourceFile {
    /// Creates a file from its name and its text.
    pub fn new(source: impl Into<String>, path: impl Into<String>, text: impl Into<String>) -> Self {
        let (source, path, text) = (source.into(), path.into(), text.into());
        Self { source, path, text, roots: OnceLock::new(), unquoted_modes: OnceLock::new() }
    }

    /// Returns the text of the file. For tests, each call counts as reading the whole text.
    pub fn text(&self) -> &str {
        work::count(self.text.len());
        &self.text
    }

    /// Returns the length of the file's text in bytes.
    pub(crate) fn size(&self) -> usize {
        self.text.len()
    }

    /// Returns whether the text may contain a file mode without quotes.
    pub(crate) fn has_unquoted_modes(&self) -> bool {
        let find = || {
            let text = self.text();
            text.contains("mode: 0") || text.contains("mode: \t0")
        };
        *self.unquoted_modes.get_or_init(find)
    }

    /// Returns line and column, from 1, of the root of a document in the file.
    fn root(&self, document: usize) -> (usize, usize) {
        self.roots.get_or_init(|| locate::roots(self.text())).get(document).copied().unwrap_or((1, 1))
    }
}

/// A YAML document of a file.
#[derive(Debug, Clone)]
pub struct Document {
    /// The file that contains the document.
    pub file: Arc<SourceFile>,
    /// The position of the document in the file, from 0.
    pub index: usize,
    /// The content of the document.
    pub value: Value,
}

/// A step of a path: from a map or list to one of its members.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// The step from a map to the value of this key.
    Key(String),
    /// The step from a list to the member at this index, from 0.
    Index(usize),
}

/// A path from the root of a document to one of its parts.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Path(pub Vec<Step>);

impl Path {
    /// Returns this path, extended to the value of a key.
    #[must_use]
    pub fn key(&self, key: &str) -> Self {
        let mut steps = self.0.clone();
        steps.push(Step::Key(key.to_owned()));
        Self(steps)
    }

    /// Returns this path, extended to a member of a list.
    #[must_use]
    pub fn index(&self, index: usize) -> Self {
        let mut steps = self.0.clone();
        steps.push(Step::Index(index));
        Self(steps)
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, step) in self.0.iter().enumerate() {
            match step {
                Step::Key(key) if position == 0 => write!(f, "{key}")?,
                Step::Key(key) => write!(f, ".{key}")?,
                Step::Index(index) => write!(f, "[{index}]")?,
            }
        }
        Ok(())
    }
}

/// The path of the value at which a traversal of a document has arrived. The path lives on the stack, and is copied to a [`Path`] only for an error.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Trail<'a> {
    Root,
    Key(&'a Trail<'a>, &'a str),
    Index(&'a Trail<'a>, usize),
}

impl Trail<'_> {
    pub(crate) fn path(&self) -> Path {
        let mut steps = Vec::new();
        let mut at = self;
        loop {
            match at {
                Trail::Root => break,
                Trail::Key(parent, key) => {
                    steps.push(Step::Key((*key).to_owned()));
                    at = parent;
                }
                Trail::Index(parent, index) => {
                    steps.push(Step::Index(*index));
                    at = parent;
                }
            }
        }
        steps.reverse();
        Path(steps)
    }
}

/// The part of a map entry that a location means: the key or the value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    /// The location means the key.
    Key,
    /// The location means the value.
    Value,
}

/// The location of an object, a task or a value in a document. The line is computed when it is needed.
#[derive(Clone)]
pub struct Place {
    file: Arc<SourceFile>,
    document: usize,
    path: Path,
    found: Arc<OnceLock<(usize, usize)>>,
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}:{}", self.file.path, self.document, self.path)
    }
}

impl Document {
    /// Returns the location of the document's root.
    pub fn place(&self) -> Place {
        Place::new(Arc::clone(&self.file), self.index, Path::default())
    }
}

impl Place {
    /// Creates a location from its file, its document and its path.
    pub fn new(file: Arc<SourceFile>, document: usize, path: Path) -> Self {
        Self { file, document, path, found: Arc::default() }
    }

    /// Returns the location of the value of a key in this map.
    #[must_use]
    pub fn key(&self, key: &str) -> Self {
        Self::new(Arc::clone(&self.file), self.document, self.path.key(key))
    }

    /// Returns the location of a member of this list.
    #[must_use]
    pub fn index(&self, index: usize) -> Self {
        Self::new(Arc::clone(&self.file), self.document, self.path.index(index))
    }

    /// Returns the location at the end of a path that begins at this location.
    #[must_use]
    pub fn below(&self, path: &Path) -> Self {
        let steps = self.path.0.iter().chain(&path.0).cloned().collect();
        Self::new(Arc::clone(&self.file), self.document, Path(steps))
    }

    /// Returns the name of the source of this location.
    pub fn source(&self) -> &str {
        &self.file.source
    }

    /// Returns the path of the file of this location.
    pub fn file(&self) -> &str {
        &self.file.path
    }

    /// Returns the text of the file of this location.
    pub fn text(&self) -> &str {
        self.file.text()
    }

    /// Returns the length of the file's text in bytes.
    pub(crate) fn file_size(&self) -> usize {
        self.file.size()
    }

    /// Returns the position of the document in its file, from 0.
    pub(crate) fn document(&self) -> usize {
        self.document
    }

    /// Returns line and column, from 1, of the value at this location.
    pub fn position(&self) -> (usize, usize) {
        if self.path.0.is_empty() {
            return self.file.root(self.document);
        }
        *self.found.get_or_init(|| self.locate(At::Value))
    }

    /// Returns line and column, from 1, of the key or the value at this location.
    pub fn locate(&self, at: At) -> (usize, usize) {
        locate::position(self.file.text(), self.document, &self.path, at)
    }

    /// Returns this location as `file:line`, for messages that name a second location.
    pub fn file_line(&self) -> String {
        format!("{}:{}", self.file.path, self.position().0)
    }

    /// Returns a problem at this location, with the message and hint of a finding.
    pub fn problem(&self, finding: Finding, at: At) -> Problem {
        let (line, column) = match at {
            At::Value => self.position(),
            At::Key => self.locate(At::Key),
        };
        problem_at(&self.file, line, column, finding)
    }
}

/// Formats a value as a YAML document.
pub fn to_yaml(value: &Value) -> String {
    // A JSON value has string keys, so YAML can always represent it.
    serde_yaml::to_string(value).unwrap_or_default()
}

/// Returns the lines of a text. A lone carriage return ends a line, too, as in the YAML parser.
pub(crate) fn lines(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest?;
        let (line, end) =
            text.split_at(text.find(['\n', '\r', '\u{85}', '\u{2028}', '\u{2029}']).unwrap_or(text.len()));
        let width = if end.starts_with("\r\n") { Some(2) } else { end.chars().next().map(char::len_utf8) };
        rest = width.and_then(|width| end.get(width..));
        Some(line)
    })
}

/// Returns a problem at a known line, with the message and hint of a finding.
pub(crate) fn problem_at(file: &SourceFile, line: usize, column: usize, finding: Finding) -> Problem {
    let written = lines(file.text()).nth(line.saturating_sub(1)).unwrap_or_default();
    // A line with a credential is hidden as a whole, because removing a part would shift the column.
    let secret = without_credentials(written) != written;
    let (excerpt, caret) = excerpt(if secret { "" } else { written }, column);
    Problem {
        source: file.source.clone(),
        file: file.path.clone(),
        line,
        column,
        message: without_credentials(&finding.message),
        hint: finding.hint,
        excerpt,
        caret,
        warning: false,
    }
}
