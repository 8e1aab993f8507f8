//! The YAML files and documents of a source, and locations in these files.

use std::{
    fmt,
    sync::{Arc, OnceLock},
};

use serde_json::Value;

use super::{
    locate,
    path::{At, Path},
};
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

    /// Returns the text of the file. In tests, each call adds the length of the text to a counter, so that a test can
    /// limit the work of the loader.
    pub fn text(&self) -> &str {
        work::count(self.text.len());
        &self.text
    }

    /// Returns the length of the file's text in bytes.
    pub(crate) fn size(&self) -> usize {
        self.text.len()
    }

    /// Returns true if the text may contain a file mode without quotes.
    pub(crate) fn has_unquoted_modes(&self) -> bool {
        let find = || {
            let text = self.text();
            text.contains("mode: 0") || text.contains("mode: \t0")
        };
        *self.unquoted_modes.get_or_init(find)
    }

    /// Returns the line and the column, counted from 1, of the root of a document in the file.
    fn root(&self, document: usize) -> (usize, usize) {
        self.roots.get_or_init(|| locate::roots(self.text())).get(document).copied().unwrap_or((1, 1))
    }
}

/// A YAML document of a file.
#[derive(Debug, Clone)]
pub struct Document {
    /// The file that contains the document.
    pub file: Arc<SourceFile>,
    /// The index of the document in its file, counted from 0.
    pub index: usize,
    /// The content of the document.
    pub value: Value,
}

/// The location of an object, a task or a value in a document. The line of the location is computed only when a message
/// needs the line.
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
    /// Creates a location from a file, the index of a document in the file, and a path in the document.
    pub fn new(file: Arc<SourceFile>, document: usize, path: Path) -> Self {
        Self { file, document, path, found: Arc::default() }
    }

    /// Returns the location of the value of a key in the map at this location.
    #[must_use]
    pub fn key(&self, key: &str) -> Self {
        Self::new(Arc::clone(&self.file), self.document, self.path.key(key))
    }

    /// Returns the location of a member of the list at this location.
    #[must_use]
    pub fn index(&self, index: usize) -> Self {
        Self::new(Arc::clone(&self.file), self.document, self.path.index(index))
    }

    /// Returns the location of the value at a path below this location.
    #[must_use]
    pub fn below(&self, path: &Path) -> Self {
        let steps = self.path.0.iter().chain(&path.0).cloned().collect();
        Self::new(Arc::clone(&self.file), self.document, Path(steps))
    }

    /// Returns the name of the source that contains the file of this location.
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

    /// Returns the index of the document in its file, counted from 0.
    pub fn document(&self) -> usize {
        self.document
    }

    /// Returns the line and the column, counted from 1, of the value at this location.
    pub fn position(&self) -> (usize, usize) {
        if self.path.0.is_empty() {
            return self.file.root(self.document);
        }
        *self.found.get_or_init(|| self.locate(At::Value))
    }

    /// Returns the line and the column, counted from 1, of the key or the value at this location.
    pub fn locate(&self, at: At) -> (usize, usize) {
        locate::position(self.file.text(), self.document, &self.path, at)
    }

    /// Returns this location as `file:line`, for a hint in a message about a different location.
    pub fn file_line(&self) -> String {
        format!("{}:{}", self.file.path, self.position().0)
    }

    /// Creates a problem at this location. The finding contains the message and the hint of the problem.
    pub fn problem(&self, finding: Finding, at: At) -> Problem {
        let (line, column) = match at {
            At::Value => self.position(),
            At::Key => self.locate(At::Key),
        };
        problem_at(&self.file, line, column, finding)
    }
}

/// Returns the lines of a text. A carriage return without a line feed also ends a line, as in the YAML parser.
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

/// Creates a problem at a line and a column of a file. The finding contains the message and the hint of the problem.
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
