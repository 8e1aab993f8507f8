//! The module `line` manages one line of a file.

use regex::Regex;
use serde_json::Value;
use towpath_proto::{ModuleMessage as _, ModuleSchema, v1alpha as pb};

use super::lines::{Anchor, Lines, pattern, undo};
use crate::{
    Checked, Context, Module, ModuleError, Resolved, Resource,
    params::{Problem, managed_path, parse},
    resource::resource,
};

/// The resolved parameters of the module `line`: the line and its position in the file.
#[derive(Debug, Clone)]
pub(crate) struct LineSpec {
    path: String,
    line: Option<String>,
    pattern: Option<Regex>,
    anchor: Anchor,
    absent: bool,
    /// The parameters that the task sets. The agent derives the undo of the task from these parameters.
    params: Value,
}

/// The module `line`.
#[derive(Debug)]
pub(crate) struct Line;

impl Module for Line {
    fn schema(&self) -> &'static ModuleSchema {
        pb::Line::module()
    }

    fn resolve(&self, params: &Value) -> Resolved {
        resource(resolve(parse(params)?, params))
    }
}

impl Resource for LineSpec {
    fn module(&self) -> &'static dyn Module {
        &Line
    }

    fn check(&self, context: &Context<'_>) -> Result<Checked, ModuleError> {
        check(self, context)
    }

    fn undo(&self, _context: &Context<'_>) -> Option<Value> {
        // The undo only removes the written line, because the line that it replaced is unknown.
        undo(&self.params, &["match", "after", "before"])
    }

    fn path(&self) -> Option<&str> {
        Some(&self.path)
    }

    fn undo_is_fixed(&self) -> bool {
        true
    }
}

fn resolve(line: pb::Line, params: &Value) -> Result<LineSpec, Vec<Problem>> {
    let mut problems = Vec::new();
    let path = line.path.unwrap_or_default();
    managed_path("path", &path, &mut problems);
    let absent = line.state.as_deref() == Some("absent");
    if line.line.is_none() && !(absent && line.r#match.is_some()) {
        problems.push(Problem::new(
            "line",
            if absent { "write the parameter line or match" } else { "write the parameter line" },
        ));
    }
    if line.line.as_ref().is_some_and(|line| line.contains('\n')) {
        problems.push(Problem::new("line", "the line has a line break").hint("use block for several lines"));
    }
    let anchor = Anchor::resolve(line.after.as_deref(), line.before.as_deref(), &mut problems);
    let pattern = pattern("match", line.r#match.as_deref(), &mut problems);
    if problems.is_empty() {
        Ok(LineSpec { path, line: line.line, pattern, anchor, absent, params: params.clone() })
    } else {
        Err(problems)
    }
}

pub(crate) fn check(spec: &LineSpec, context: &Context<'_>) -> Result<Checked, ModuleError> {
    let old = Lines::read(&spec.path, context)?;
    let mut lines = old.lines.clone();
    if spec.absent {
        lines.retain(|line| match &spec.pattern {
            Some(pattern) => !pattern.is_match(line),
            None => Some(line) != spec.line.as_ref(),
        });
    } else if let Some(wanted) = &spec.line {
        let matching = spec.pattern.as_ref().and_then(|pattern| lines.iter().rposition(|line| pattern.is_match(line)));
        match matching {
            Some(at) => lines[at].clone_from(wanted),
            None if lines.contains(wanted) => {}
            None => lines.insert(spec.anchor.position(&lines), wanted.clone()),
        }
    }
    old.change(&spec.path, &lines, context)
}
