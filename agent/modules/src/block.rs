//! `block`: lines between two marker lines of a file.

use towpath_proto::v1alpha as pb;

use crate::{
    Checked, Context, ModuleError,
    resolve::{Problem, managed_path},
    text::{Anchor, Lines},
};

/// A block and its position.
#[derive(Debug, Clone)]
pub struct Options {
    path: String,
    lines: Vec<String>,
    label: String,
    anchor: Anchor,
    absent: bool,
}

pub(crate) fn resolve(block: pb::Block) -> Result<Options, Vec<Problem>> {
    let mut problems = Vec::new();
    let path = block.path.unwrap_or_default();
    managed_path("path", &path, &mut problems);
    let absent = block.state.as_deref() == Some("absent");
    if block.block.is_none() && !absent {
        problems.push(Problem::new("block", "block needs block"));
    }
    let label = block.r#match.unwrap_or_else(|| "block".into());
    if label.contains('\n') {
        problems.push(Problem::new("match", "the word for the markers has a line break"));
    }
    let anchor = Anchor::resolve(block.after.as_deref(), block.before.as_deref(), &mut problems);
    let lines = block.block.unwrap_or_default().lines().map(str::to_owned).collect();
    if problems.is_empty() { Ok(Options { path, lines, label, anchor, absent }) } else { Err(problems) }
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
    let begin = format!("# BEGIN towpath {}", options.label);
    let end = format!("# END towpath {}", options.label);
    let from = lines.iter().position(|line| *line == begin);
    let to = from.and_then(|from| lines[from..].iter().position(|line| *line == end).map(|at| from + at));
    if from.is_some() && to.is_none() {
        return Err(ModuleError::new(format!(
            "{}: the line {begin:?} has no {end:?} behind it; put it back, or remove the first",
            options.path
        )));
    }
    let marked =
        || std::iter::once(begin.clone()).chain(options.lines.iter().cloned()).chain(std::iter::once(end.clone()));
    match (from.zip(to), options.absent) {
        (Some((from, to)), true) => drop(lines.drain(from..=to)),
        (Some((from, to)), false) => drop(lines.splice(from..=to, marked())),
        (None, true) => {}
        (None, false) => {
            let at = options.anchor.position(&lines);
            drop(lines.splice(at..at, marked()));
        }
    }
    old.change(&options.path, &lines, context)
}
