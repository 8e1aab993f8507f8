//! Errors and warnings about a state repository, with their locations.

use std::fmt;

use serde::Serialize;

/// An error or a warning about a state repository: its location, a message and a remedy.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Problem {
    /// The name of the source with the problem.
    #[serde(skip)]
    pub source: String,
    /// The path of the file with the problem, relative to the folder of the source.
    pub file: String,
    /// The line in the file, from 1.
    pub line: usize,
    /// The column of the problem in the line, counted from 1.
    pub column: usize,
    /// The message of the error or warning.
    pub message: String,
    /// The remedy, if there is one.
    pub hint: Option<String>,
    /// The line of the file that contains the problem, shortened if the line is long.
    #[serde(skip)]
    pub excerpt: String,
    /// The column of the problem in the excerpt, counted from 1.
    #[serde(skip)]
    pub caret: usize,
    /// True for a warning, false for an error.
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

/// Shortens a line to at most 160 characters around a column, and returns the short line with the new column.
pub(crate) fn excerpt(line: &str, column: usize) -> (String, usize) {
    let first = column.saturating_sub(81);
    let shown: String = line.chars().skip(first).take(160).collect();
    if shown.is_empty() { (line.chars().take(160).collect(), 1) } else { (shown, column - first) }
}

/// Removes password, query and fragment from each URL in a text, because these parts may be secret. The user in a URL
/// is also removed, except from ssh URLs.
pub(crate) fn without_credentials(text: &str) -> String {
    let delimiter = |c: char| c.is_whitespace() || c.is_control() || "\"'<>()`,".contains(c);
    text.split_inclusive(delimiter)
        .map(|part| match part.char_indices().next_back() {
            Some((at, last)) if delimiter(last) => format!("{}{last}", bare_url(&part[..at])),
            _ => bare_url(part),
        })
        .collect()
}

/// Removes the secret parts of a URL, also of a URL in the scp form `USER@HOST:PATH`.
fn bare_url(word: &str) -> String {
    let is_scp = || word.split_once('@').is_some_and(|(_, host)| host.contains(':'));
    let Some((scheme, rest)) = word.split_once("://") else {
        let end = if is_scp() { word.find(['?', '#']) } else { None };
        return word[..end.unwrap_or(word.len())].to_owned();
    };
    let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    // In an ssh URL the user is only a name. In an https URL the user may be a token.
    let host = match authority.rsplit_once('@') {
        Some((user, _)) if scheme.ends_with("ssh") && !user.contains(':') => authority,
        Some((_, host)) => host,
        None => authority,
    };
    let path = &path[..path.find(['?', '#']).unwrap_or(path.len())];
    format!("{scheme}://{host}{path}")
}

/// The message and the remedy of a problem, without its location.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The message of the problem.
    pub message: String,
    /// The remedy, if there is one.
    pub hint: Option<String>,
}

impl Finding {
    /// Creates a finding that has a message and no remedy.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: None }
    }

    /// Adds a remedy to the finding.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::{Limits, SourceFile, parse, problem_at};

    #[test]
    fn url_in_a_text_loses_its_credentials_and_query() {
        for (text, shown) in [
            ("cannot use https://me:pw@git.example/a?token=x#y: no", "cannot use https://git.example/a no"),
            ("url: 'ssh://git@git.example:22/a?private_token=x'", "url: 'ssh://git@git.example:22/a'"),
            ("ssh://git:pw@git.example/a", "ssh://git.example/a"),
            ("https://git.example?token=x", "https://git.example"),
            ("https://token@[::1]:8443/a?x", "https://[::1]:8443/a"),
            ("git@git.example:a.git?token=x", "git@git.example:a.git"),
            ("url: \"file:///srv/a#x\", ok", "url: \"file:///srv/a\", ok"),
            ("who? me@home says: a#b", "who? me@home says: a#b"),
        ] {
            assert_eq!(without_credentials(text), shown);
        }
    }

    #[test]
    fn lone_carriage_return_ends_a_line() {
        for (text, line, excerpt) in [
            ("a: 1\rb: 2\r\r\n}: 3\n", 4, "}: 3"),
            ("a: 1\u{2028}b: 2\u{85}}: 3", 3, "}: 3"),
            ("a: 1\r\rb: \t}\r", 3, "b: \t}"),
            ("a: 1\r\nb: 2\rc: \0\r", 3, "c: \0"),
        ] {
            let (_, problems) = parse("fleet", "a.yaml", text.as_bytes(), Limits::default());
            let found: Vec<_> = problems.iter().map(|problem| (problem.line, problem.excerpt.as_str())).collect();
            assert_eq!(found, [(line, excerpt)], "{text:?}");
        }
    }

    #[test]
    fn line_with_a_token_is_not_shown() {
        for (line, shown) in [
            ("  url: https://me:pw@git.example/a", false),
            ("  - {include: 'https://git.example/a?token=x'}", false),
            ("  url: ssh://git@git.example/a", true),
            ("  url: https://git.example/a", true),
        ] {
            let file = SourceFile::new("fleet", "a.yaml", format!("first:\n{line}\n"));
            let problem = problem_at(&file, 2, 3, Finding::new("no source has it"));
            assert_eq!(problem.excerpt.contains("git.example"), shown, "{line}: {}", problem.excerpt);
        }
    }
}
