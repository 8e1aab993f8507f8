//! What is wrong with a state repository, and where.

use std::fmt;

use serde::Serialize;

/// One mistake, or one warning: where it stands, what is wrong, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Problem {
    /// The source.
    #[serde(skip)]
    pub source: String,
    /// The file, below the source's path.
    pub file: String,
    /// The line, from 1.
    pub line: usize,
    /// The column, from 1.
    pub column: usize,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
    /// The line of the file, or the part of a long line around the column.
    #[serde(skip)]
    pub excerpt: String,
    /// The column in the excerpt, from 1.
    #[serde(skip)]
    pub caret: usize,
    /// Whether it is only a warning.
    #[serde(skip)]
    pub warning: bool,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sort = if self.warning { "warning: " } else { "" };
        write!(f, "{}:{}:{}: {sort}{}", self.file, self.line, self.column, self.message)?;
        if !self.excerpt.trim().is_empty() {
            let shown = self.excerpt.trim_end();
            let gap = " ".repeat(self.caret.saturating_sub(1));
            write!(f, "\n    {shown}\n    {gap}^")?;
        }
        if let Some(hint) = &self.hint {
            write!(f, "\n    hint: {hint}")?;
        }
        Ok(())
    }
}

/// The part of a line that is shown for a column, and the column in it: at most 160 characters.
pub(crate) fn excerpt(line: &str, column: usize) -> (String, usize) {
    let first = column.saturating_sub(81);
    let shown: String = line.chars().skip(first).take(160).collect();
    if shown.is_empty() { (line.chars().take(160).collect(), 1) } else { (shown, column - first) }
}

/// Message and hint, before it is known where they belong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl Finding {
    /// A finding without a hint.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: None }
    }

    /// Adds what to do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}
