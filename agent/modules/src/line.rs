//! `line`: one line of a file.

use regex::Regex;
use towpath_proto::v1alpha as pb;

use crate::{
    Checked, Context, ModuleError,
    resolve::{Problem, managed_path},
    text::{Anchor, Lines, pattern},
};

/// A line and its position.
#[derive(Debug, Clone)]
pub struct Options {
    path: String,
    line: Option<String>,
    pattern: Option<Regex>,
    anchor: Anchor,
    absent: bool,
}

pub(crate) fn resolve(line: pb::Line) -> Result<Options, Vec<Problem>> {
    let mut problems = Vec::new();
    let path = line.path.unwrap_or_default();
    managed_path("path", &path, &mut problems);
    let absent = line.state.as_deref() == Some("absent");
    if line.line.is_none() && !(absent && line.r#match.is_some()) {
        problems.push(Problem::new("line", if absent { "line needs line or match" } else { "line needs line" }));
    }
    if line.line.as_ref().is_some_and(|line| line.contains('\n')) {
        problems.push(Problem::new("line", "the line has a line break").hint("use block for several lines"));
    }
    let anchor = Anchor::resolve(line.after.as_deref(), line.before.as_deref(), &mut problems);
    let pattern = pattern("match", line.r#match.as_deref(), &mut problems);
    if problems.is_empty() { Ok(Options { path, line: line.line, pattern, anchor, absent }) } else { Err(problems) }
}

impl Options {
    /// Returns the path of the file.
    pub fn path(&self) -> &str {
        &self.path
    }
}

pub(crate) fn check(options: &Options, context: &Context<'_>) -> Result<Checked, ModuleError> {
    let old = Lines::read(&options.path, context)?;
    let mut lines = old.lines.clone();
    if options.absent {
        lines.retain(|line| match &options.pattern {
            Some(pattern) => !pattern.is_match(line),
            None => Some(line) != options.line.as_ref(),
        });
    } else if let Some(wanted) = &options.line {
        let matching =
            options.pattern.as_ref().and_then(|pattern| lines.iter().rposition(|line| pattern.is_match(line)));
        match matching {
            Some(at) => lines[at].clone_from(wanted),
            None if lines.contains(wanted) => {}
            None => lines.insert(options.anchor.position(&lines), wanted.clone()),
        }
    }
    old.change(&options.path, &lines, context)
}
