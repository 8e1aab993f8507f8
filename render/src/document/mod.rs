//! YAML text to checked documents: parse within a budget, walk against the schema, collect every mistake.

mod check;
mod formats;
mod habits;
mod locate;
mod parse;
mod plain;

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

use crate::{
    problem::{Finding, Problem, excerpt, without_credentials},
    work,
};

/// One text file of a source.
#[derive(Debug)]
pub struct SourceFile {
    /// The source's name.
    pub source: String,
    /// The path below the source's path.
    pub path: String,
    text: String,
    roots: OnceLock<Vec<(usize, usize)>>,
    unquoted_modes: OnceLock<bool>,
}

impl SourceFile {
    /// A file and its text.
    pub fn new(source: impl Into<String>, path: impl Into<String>, text: impl Into<String>) -> Self {
        let (source, path, text) = (source.into(), path.into(), text.into());
        Self { source, path, text, roots: OnceLock::new(), unquoted_modes: OnceLock::new() }
    }

    /// The text. Each call counts as a reading of all of it.
    pub fn text(&self) -> &str {
        work::count(self.text.len());
        &self.text
    }

    /// The bytes of the text.
    pub(crate) fn size(&self) -> usize {
        self.text.len()
    }

    /// Whether some mode is written without quotes.
    pub(crate) fn has_unquoted_modes(&self) -> bool {
        let find = || {
            let text = self.text();
            text.contains("mode: 0") || text.contains("mode: \t0")
        };
        *self.unquoted_modes.get_or_init(find)
    }

    /// Line and column, from 1, of the root of a document.
    fn root(&self, document: usize) -> (usize, usize) {
        self.roots.get_or_init(|| locate::roots(self.text())).get(document).copied().unwrap_or((1, 1))
    }
}

/// One YAML document.
#[derive(Debug, Clone)]
pub struct Document {
    /// Where it is from.
    pub file: Arc<SourceFile>,
    /// Its number in the file, from 0.
    pub index: usize,
    /// What it says.
    pub value: Value,
}

/// One step from a value to a part of it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// The value of a key.
    Key(String),
    /// A member of a list.
    Index(usize),
}

/// A path from a document's root to a part of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Path(pub Vec<Step>);

impl Path {
    /// The path of the value of a key.
    #[must_use]
    pub fn key(&self, key: &str) -> Self {
        let mut steps = self.0.clone();
        steps.push(Step::Key(key.to_owned()));
        Self(steps)
    }

    /// The path of a member of a list.
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

/// A path while walking: lives on the stack, and becomes a [`Path`] only where there is something to say.
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

/// Which end of a path is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    /// The key.
    Key,
    /// The value.
    Value,
}

/// A part of a document: where an object, a task or a value was written. Its line is found when asked for.
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
    /// The place of the document's root.
    pub fn place(&self) -> Place {
        Place::new(Arc::clone(&self.file), self.index, Path::default())
    }
}

impl Place {
    /// A place by its path.
    pub fn new(file: Arc<SourceFile>, document: usize, path: Path) -> Self {
        Self { file, document, path, found: Arc::default() }
    }

    /// The place of the value of a key of this one.
    #[must_use]
    pub fn key(&self, key: &str) -> Self {
        Self::new(Arc::clone(&self.file), self.document, self.path.key(key))
    }

    /// The place of a member of this list.
    #[must_use]
    pub fn index(&self, index: usize) -> Self {
        Self::new(Arc::clone(&self.file), self.document, self.path.index(index))
    }

    /// The place at a further path below this one.
    #[must_use]
    pub fn below(&self, path: &Path) -> Self {
        let steps = self.path.0.iter().chain(&path.0).cloned().collect();
        Self::new(Arc::clone(&self.file), self.document, Path(steps))
    }

    /// The source's name.
    pub fn source(&self) -> &str {
        &self.file.source
    }

    /// The file.
    pub fn file(&self) -> &str {
        &self.file.path
    }

    /// The text of the file.
    pub fn text(&self) -> &str {
        self.file.text()
    }

    /// The bytes of the file's text.
    pub(crate) fn file_size(&self) -> usize {
        self.file.size()
    }

    /// The number of the document in its file, from 0.
    pub(crate) fn document(&self) -> usize {
        self.document
    }

    /// Line and column, from 1, of the value.
    pub fn position(&self) -> (usize, usize) {
        if self.path.0.is_empty() {
            return self.file.root(self.document);
        }
        *self.found.get_or_init(|| self.locate(At::Value))
    }

    /// Line and column, from 1, of the key or the value.
    pub fn locate(&self, at: At) -> (usize, usize) {
        locate::position(self.file.text(), self.document, &self.path, at)
    }

    /// `file:line`, for messages that name a second place.
    pub fn file_line(&self) -> String {
        format!("{}:{}", self.file.path, self.position().0)
    }

    /// The problem that a finding here is.
    pub fn problem(&self, finding: Finding, at: At) -> Problem {
        let (line, column) = match at {
            At::Value => self.position(),
            At::Key => self.locate(At::Key),
        };
        problem_at(&self.file, line, column, finding)
    }
}

/// A value as a YAML document.
pub fn to_yaml(value: &Value) -> String {
    // Plain data with string keys is always YAML.
    serde_yaml::to_string(value).unwrap_or_default()
}

/// Returns the lines of a text, ended where the YAML parser ends them: a lone carriage return ends a line too.
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

/// The problem that a finding at a known line is.
pub(crate) fn problem_at(file: &SourceFile, line: usize, column: usize, finding: Finding) -> Problem {
    let written = lines(file.text()).nth(line.saturating_sub(1)).unwrap_or_default();
    // A line with a token is not shown at all, so that the column stays right.
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
