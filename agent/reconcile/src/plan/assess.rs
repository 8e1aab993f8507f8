//! Rules that decide what a run does with a task after the check of the task.

use serde_json::Value;
use towpath_render::objects::task::Drift;

use super::instance::{Facts, ModuleKind};

/// The mode of a run or of a segment: apply a new revision, or look for drift.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RunMode {
    /// The node applies a revision for the first time.
    NewRevision,
    /// The node has already applied the revision, and looks for drift.
    Steady,
}

/// The result of comparing the node with a rendered task.
#[derive(Debug, Clone, PartialEq)]
pub enum Check {
    /// The node has the desired state. `InSync` contains the data that the check returned, if the check returned data.
    InSync(Option<Value>),
    /// The node differs from the desired state; the value is the needed change.
    Differs(Preview),
    /// The state is unknown until an earlier task has run; the text gives the reason.
    Unknown(String),
    /// The check failed, or the task's `success` condition is false although the node is in sync. `Failed` contains the
    /// error message of the check.
    Failed(String),
}

/// The change that the check of a task found to be necessary.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Preview {
    /// The kind of the change: `create`, `update` or `remove`.
    pub action: &'static str,
    /// The change as a readable diff.
    pub diff: String,
    /// True if the change only writes files, so the change can join a batch of file changes.
    pub plain: bool,
    /// The paths that the change writes. `writes` omits the directories that the change creates.
    pub writes: Vec<String>,
    /// True if the `changed` condition of the task is false. A change with a false `changed` condition notifies no
    /// handler.
    pub quiet: bool,
}

/// The most recent run of a task, as the journal records it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LastRun {
    /// True if the definition of the task has not changed since the task's most recent run.
    pub same_definition: bool,
    /// True if the action has finished with its current definition.
    pub finished: bool,
    /// The number of interrupted runs of the action with its current definition.
    pub interrupted: u32,
    /// The result fields of the action's most recent finished run.
    pub fields: Value,
}

/// The result of a check, and the record of the task's most recent run.
#[derive(Debug, Clone, PartialEq)]
pub struct Checked {
    /// The result of the comparison.
    pub check: Check,
    /// The most recent run of the task. `last` is `None` if the journal has no record of the task.
    pub last: Option<LastRun>,
    /// A readable description of an action, such as its command line.
    pub shown: Option<String>,
}

/// The cause of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cause {
    /// A commit changed the definition of the task.
    Commit,
    /// The commit is the same, but an input of the task changed: facts, variables or the state of other nodes (D30).
    Input,
    /// A person or a program other than the agent changed the node (D29).
    Drift,
}

/// The permission that a change needs before it begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Admission {
    /// The change needs no slot and no open maintenance window (P90).
    Free,
    /// The change needs an open maintenance window and, in a book with slots, a slot (P91).
    SlotAndWindow,
}

/// The decision about a task, after the check of the task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Assessment {
    /// The task has nothing to do.
    InSync {
        /// True if the run must write a record of the item to the journal. The journal does not contain the current
        /// definition of the item yet.
        record: bool,
    },
    /// The task has to make a change. `Change` contains the cause of the change, and the permission that the change
    /// needs.
    Change(Cause, Admission),
    /// The action of the task has to run.
    Run,
    /// The state has drifted, and the drift policy does not correct the drift. `Left(true)` means that the drift policy
    /// reports the drift.
    Left(bool),
    /// The state of the item is not known yet; the text gives the reason.
    Unknown(String),
    /// The check failed; the text is the error message.
    Failed(String),
}

/// Decides what a run does with a task, from the result of the task's check.
pub fn assess(facts: &Facts, checked: &Checked, policy: Drift, mode: RunMode, notifies: bool) -> Assessment {
    let last = checked.last.as_ref();
    let finished = last.is_some_and(|last| last.finished);
    match (facts.kind, &checked.check) {
        (_, Check::Failed(why)) => Assessment::Failed(why.clone()),
        // An action runs once for each definition, so the result of its check does not matter.
        (ModuleKind::Action, _) if finished => Assessment::InSync { record: false },
        // An action that runs in every pass can have conditions too, and a false condition skips the action.
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

/// Returns the cause of a change. The cause of a change depends on the task's most recent run, and on the mode of the
/// current run.
fn cause(last: Option<&LastRun>, mode: RunMode) -> Cause {
    match last {
        Some(last) if last.same_definition => Cause::Drift,
        Some(_) if mode == RunMode::Steady => Cause::Input,
        _ => Cause::Commit,
    }
}

#[cfg(test)]
mod tests;
