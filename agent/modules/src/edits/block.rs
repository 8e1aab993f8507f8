//! The module `block` manages a block of lines between two marker lines of a file.

use serde_json::Value;
use towpath_proto::{ModuleMessage as _, ModuleSchema, v1alpha as pb};

use super::lines::{Anchor, Lines, undo};
use crate::{
    Checked, Context, Module, ModuleError, Resolved, Resource,
    params::{Problem, managed_path, parse},
    resource::resource,
};

/// The resolved parameters of the module `block`: the lines, the marker lines, and the position of the block in the
/// file.
#[derive(Debug, Clone)]
pub(crate) struct BlockSpec {
    path: String,
    lines: Vec<String>,
    label: String,
    anchor: Anchor,
    absent: bool,
    /// The parameters that the task sets. The agent derives the undo of the task from these parameters.
    params: Value,
}

/// The module `block`.
#[derive(Debug)]
pub(crate) struct Block;

impl Module for Block {
    fn schema(&self) -> &'static ModuleSchema {
        pb::Block::module()
    }

    fn resolve(&self, params: &Value) -> Resolved {
        resource(resolve(parse(params)?, params))
    }
}

impl Resource for BlockSpec {
    fn module(&self) -> &'static dyn Module {
        &Block
    }

    fn check(&self, context: &Context<'_>) -> Result<Checked, ModuleError> {
        check(self, context)
    }

    fn undo(&self, _context: &Context<'_>) -> Option<Value> {
        undo(&self.params, &["after", "before"])
    }

    fn path(&self) -> Option<&str> {
        Some(&self.path)
    }

    fn undo_is_fixed(&self) -> bool {
        true
    }
}

fn resolve(block: pb::Block, params: &Value) -> Result<BlockSpec, Vec<Problem>> {
    let mut problems = Vec::new();
    let path = block.path.unwrap_or_default();
    managed_path("path", &path, &mut problems);
    let absent = block.state.as_deref() == Some("absent");
    if block.block.is_none() && !absent {
        problems.push(Problem::new("block", "write the parameter block"));
    }
    let label = block.r#match.unwrap_or_else(|| "block".into());
    if label.contains('\n') {
        problems.push(Problem::new("match", "the marker contains a line break"));
    }
    let anchor = Anchor::resolve(block.after.as_deref(), block.before.as_deref(), &mut problems);
    let lines = block.block.unwrap_or_default().lines().map(str::to_owned).collect();
    if problems.is_empty() {
        Ok(BlockSpec { path, lines, label, anchor, absent, params: params.clone() })
    } else {
        Err(problems)
    }
}

pub(crate) fn check(spec: &BlockSpec, context: &Context<'_>) -> Result<Checked, ModuleError> {
    let old = Lines::read(&spec.path, context)?;
    let mut lines = old.lines.clone();
    let begin = format!("# BEGIN towpath {}", spec.label);
    let end = format!("# END towpath {}", spec.label);
    let from = lines.iter().position(|line| *line == begin);
    let to = from.and_then(|from| lines[from..].iter().position(|line| *line == end).map(|at| from + at));
    if from.is_some() && to.is_none() {
        return Err(ModuleError::new(format!(
            "cannot edit {}: the line {begin:?} is not followed by {end:?}; restore the end line, or remove {begin:?}",
            spec.path
        )));
    }
    let marked =
        || std::iter::once(begin.clone()).chain(spec.lines.iter().cloned()).chain(std::iter::once(end.clone()));
    match (from.zip(to), spec.absent) {
        (Some((from, to)), true) => drop(lines.drain(from..=to)),
        (Some((from, to)), false) => drop(lines.splice(from..=to, marked())),
        (None, true) => {}
        (None, false) => {
            let at = spec.anchor.position(&lines);
            drop(lines.splice(at..at, marked()));
        }
    }
    old.change(&spec.path, &lines, context)
}
