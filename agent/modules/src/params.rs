//! Functions with which several modules check task parameters.

use std::collections::BTreeMap;

use serde_json::Value;
use towpath_render::scalars;

/// A problem of a task parameter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The name of the wrong parameter; empty if the problem concerns several parameters.
    pub key: String,
    /// The description of the problem.
    pub message: String,
    /// The remedy for the problem.
    pub hint: Option<String>,
}

impl Problem {
    /// Creates a problem of a parameter, without a hint about the remedy.
    pub(crate) fn new(key: &str, message: impl Into<String>) -> Self {
        Self { key: key.to_owned(), message: message.into(), hint: None }
    }

    /// Adds the remedy to a problem.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// Parses the parameters of a task as the protobuf message of a module.
pub(crate) fn parse<T: serde::de::DeserializeOwned>(params: &Value) -> Result<T, Vec<Problem>> {
    serde_json::from_value(params.clone()).map_err(|error| vec![Problem::new("", error.to_string())])
}

/// Returns an error with all problems, unless the list of problems is empty.
pub(crate) fn done(problems: Vec<Problem>) -> Result<(), Vec<Problem>> {
    if problems.is_empty() { Ok(()) } else { Err(problems) }
}

/// Checks that a managed path is absolute, and contains neither `..` nor NUL.
pub(crate) fn managed_path(key: &str, path: &str, problems: &mut Vec<Problem>) {
    if !path.starts_with('/') {
        problems.push(Problem::new(key, format!("{path:?} is not absolute")).hint(format!("write /{path}")));
    } else if path.split('/').any(|part| part == "..") {
        problems.push(Problem::new(key, format!("{path:?} has \"..\"")).hint("write the path without .."));
    } else if path.contains('\0') {
        problems.push(Problem::new(key, "the path has a NUL character"));
    } else if path.trim_matches('/').is_empty() {
        problems.push(Problem::new(key, "the root directory cannot be managed; write a path below /"));
    }
}

/// Adds a problem if a value contains a control character or a line break. The value must be valid as a single line of
/// a file.
pub(crate) fn one_line(key: &str, text: &str, problems: &mut Vec<Problem>) {
    // Some programs end a line at a line separator or paragraph separator. The control characters include NEL.
    let found = text.chars().find(|c| c.is_control() && *c != '\t' || matches!(c, '\u{2028}' | '\u{2029}'));
    if let Some(found) = found {
        let what = format!("the value contains the character {found:?}, but must be one line of a file");
        problems.push(Problem::new(key, what).hint("remove line breaks and control characters"));
    }
}

/// Parses the mode of a file.
pub(crate) fn mode(key: &str, mode: Option<&str>, problems: &mut Vec<Problem>) -> Option<u32> {
    match scalars::mode(mode?) {
        Ok(mode) => Some(mode),
        Err(finding) => {
            problems.push(Problem { key: key.to_owned(), message: finding.message, hint: finding.hint });
            None
        }
    }
}

/// Checks the names of a command's environment variables.
pub(crate) fn environment(env: BTreeMap<String, String>, problems: &mut Vec<Problem>) -> BTreeMap<String, String> {
    for name in env.keys().filter(|name| name.is_empty() || name.contains(['=', '\0'])) {
        problems.push(Problem::new("env", format!("{name:?} is not a valid name of a variable")));
    }
    env
}
