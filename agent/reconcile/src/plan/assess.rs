//! The meaning of a check: one table for all kinds of modules.

use serde_json::Value;
use towpath_render::objects::task::Drift;

use super::instance::{Facts, ModuleKind};

/// The mode of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RunMode {
    /// The node applies a revision for the first time.
    NewRevision,
    /// The node has applied the revision, and looks for drift.
    Steady,
}

/// The state of the node, compared with a rendered task.
#[derive(Debug, Clone, PartialEq)]
pub enum Check {
    /// The state is as wanted. Contains data about it, if the module has any.
    InSync(Option<Value>),
    /// The state differs.
    Differs(Preview),
    /// The state cannot be known before an earlier task has run.
    Unknown(String),
    /// The check failed, or the task's own `success` condition does not hold for a state that is in sync.
    Failed(String),
}

/// A change that a check has found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Preview {
    /// The action: create, update or remove.
    pub action: &'static str,
    /// The change, as a readable diff.
    pub diff: String,
    /// True if the change only writes files, so that it can wait for a batch.
    pub plain: bool,
    /// The paths that the change writes. Directories that it only creates are not among them.
    pub writes: Vec<String>,
    /// True if the task's own `changed` condition is false. Then no handler is notified.
    pub quiet: bool,
}

/// The last run of a task, as the journal has it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LastRun {
    /// True if the definition is the same.
    pub same_definition: bool,
    /// True if an action with this definition has finished.
    pub finished: bool,
    /// Number of times that an action with this definition was interrupted.
    pub interrupted: u32,
    /// The fields of the result of the last finished action.
    pub fields: Value,
}

/// A check with the last run of the task.
#[derive(Debug, Clone, PartialEq)]
pub struct Checked {
    /// The check.
    pub check: Check,
    /// The last run. `None` if the journal has none.
    pub last: Option<LastRun>,
    /// A text that shows what an action will do.
    pub shown: Option<String>,
}

/// The cause of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cause {
    /// A commit has changed the definition.
    Commit,
    /// The commit is the same, and its inputs differ: facts, variables or other nodes (D30).
    Input,
    /// The node was changed by something other than the agent (D29).
    Drift,
}

/// The condition under which a change may begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Admission {
    /// The change needs neither a slot nor a window (P90).
    Free,
    /// The change needs a slot of the book, where it has any, and an open window (P91).
    SlotAndWindow,
}

/// The meaning of a check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Assessment {
    /// Nothing has to be done. `record` is true if the item is not recorded with this definition.
    InSync {
        /// True if the journal lacks the item with this definition.
        record: bool,
    },
    /// A change has to be made.
    Change(Cause, Admission),
    /// An action has to run.
    Run,
    /// The state has drifted, and the policy leaves it so. `true` if the policy reports it.
    Left(bool),
    /// The state cannot be known yet.
    Unknown(String),
    /// The check failed.
    Failed(String),
}

/// Assesses a check.
pub fn assess(facts: &Facts, checked: &Checked, policy: Drift, mode: RunMode, notifies: bool) -> Assessment {
    let last = checked.last.as_ref();
    let finished = last.is_some_and(|last| last.finished);
    match (facts.kind, &checked.check) {
        (_, Check::Failed(why)) => Assessment::Failed(why.clone()),
        // An action runs once for each definition. Its check does not matter.
        (ModuleKind::Action, _) if finished => Assessment::InSync { record: false },
        // An action that runs in every pass can have conditions, too.
        (ModuleKind::ConditionalAction | ModuleKind::UnconditionalAction, Check::InSync(_)) => {
            Assessment::InSync { record: false }
        }
        (ModuleKind::Action | ModuleKind::UnconditionalAction, _) => Assessment::Run,
        (ModuleKind::ConditionalAction, _) if finished && policy != Drift::Correct => {
            Assessment::Left(policy == Drift::Report)
        }
        (ModuleKind::ConditionalAction, _) => Assessment::Run,
        (_, Check::InSync(_)) => Assessment::InSync { record: !last.is_some_and(|last| last.same_definition) },
        (_, Check::Unknown(why)) => Assessment::Unknown(why.clone()),
        (_, Check::Differs(preview)) => {
            let cause = cause(last, mode);
            if cause == Cause::Drift && policy != Drift::Correct {
                return Assessment::Left(policy == Drift::Report);
            }
            let interrupts = facts.interrupts || facts.applies_directly || (notifies && !preview.quiet);
            let admission = match mode {
                RunMode::Steady if !interrupts => Admission::Free,
                RunMode::Steady | RunMode::NewRevision => Admission::SlotAndWindow,
            };
            Assessment::Change(cause, admission)
        }
    }
}

/// Returns the cause of a change.
fn cause(last: Option<&LastRun>, mode: RunMode) -> Cause {
    match last {
        Some(last) if last.same_definition => Cause::Drift,
        Some(_) if mode == RunMode::Steady => Cause::Input,
        _ => Cause::Commit,
    }
}

#[cfg(test)]
mod tests;
