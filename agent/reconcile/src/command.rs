//! The commands that a book run gives to its executor, and the observations with which the executor answers.

use std::{collections::BTreeSet, sync::Arc};

use serde_json::Value;
use towpath_coordination::Gate;
use towpath_render::rendering::Item;

pub use crate::names::{CommandId, Instance, InstanceId, List, TaskRef};
pub use crate::plan::{batch::ChangeSet, removal::Removal};
use crate::{
    names::Managed,
    outcome::{BookReport, Outcome},
    plan::{
        assess::{Admission, Checked},
        instance::Facts,
        removal::Inventory,
    },
    record::BookRecord,
};

/// The purpose for which a node uses a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SlotUse {
    /// The slot is used for a change in a segment of the run, which has this number.
    Change(u32),
    /// The slot is used for a corrective change, which belongs to no segment.
    Correct,
}

/// A request for admission of changes. Admission needs an open maintenance window and, in a rollout, a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Admit {
    /// The index of the segment whose budget limits the changes. `None` in a book without coordination.
    pub segment: Option<u32>,
    /// The purpose for which the node uses the slot.
    pub slot: SlotUse,
    /// True if changes of this segment have begun. Changes that have begun may be finished outside of the window.
    pub began: bool,
}

/// A request to the fleet about the run of a coordinated book.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    /// The node enters the segment with this number.
    Enter(u32),
    /// The node has completed the segment with this number. The request also releases the slot of the segment.
    Done(u32),
    /// The node has failed in a segment.
    Failed {
        /// The number of the segment.
        segment: u32,
        /// True if the node was admitted to change in the segment. Otherwise it has changed nothing.
        admitted: bool,
        /// The messages of the failed tasks, which other nodes show.
        message: String,
    },
    /// The node releases its slot of the segment with this number.
    Leave(u32),
    /// The node releases the slot in its record, which an earlier revision or an earlier segment acquired.
    LeaveOld,
    /// The node announces its absence for a reboot: the active segment, the segment of the claim, and the task (P59).
    Absent(u32, u32, InstanceId),
    /// The node repeats its votes and results that the store has lost, for the segments before this number.
    RepeatVotes(u32),
    /// The node helps to end the run. The fleet answers with [`Answer::Ended`].
    EndRun,
}

/// The answer of the fleet to a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The fleet grants the request.
    Go,
    /// The request waits, because this gate is closed.
    Hold(Gate),
    /// The answer to [`Call::EndRun`]: true if the run has ended on all nodes.
    Ended(bool),
}

/// The state of the election for an elected task.
#[derive(Debug, Clone, PartialEq)]
pub enum ElectionState {
    /// This node adopted the result of the elected nodes in an earlier pass.
    Adopted(Value),
    /// This node is elected, so it runs the task.
    Elected,
    /// The elected nodes have published these results. The second value lists the names of the elected nodes.
    Results(Value, Vec<String>),
    /// The elected nodes have not published all results yet, so the task waits at this gate.
    Hold(Gate),
}

/// A handler that was notified and has not succeeded since.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PendingHandler {
    /// The name of the handler in its book.
    pub id: String,
    /// The module that the handler used when it was notified.
    pub module: String,
    /// The position of the handler in the book. If `None`, the book no longer contains the handler, which then runs
    /// with the parameters of its notification.
    pub task: Option<TaskRef>,
}

/// A piece of work that the executor runs without a check of the node before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Invocation {
    /// A probe, which reads the node.
    Probe(InstanceId),
    /// An action. The executor records the definition with which the action ran.
    Action(InstanceId),
    /// The end of a reboot. The executor records the reboot, and notifies the handlers of the task.
    Rebooted(InstanceId),
    /// A task that runs before the first change of a segment or after the last one.
    Unconditional(TaskRef),
    /// A pending handler. The executor deletes the notification if the handler succeeds.
    Handler(PendingHandler),
}

/// The result of an elected task, which this node publishes to the fleet.
#[derive(Debug, Clone, PartialEq)]
pub struct ElectedResult {
    /// The position of the elected task in the book.
    pub task: TaskRef,
    /// True if the elected task succeeded.
    pub ok: bool,
    /// The result that the elected task registers.
    pub result: Value,
    /// The message of the elected task, if it has one.
    pub message: Option<String>,
}

/// The state of a run after its tasks and before its removals.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interim {
    /// All items that the book manages. `None` if not all managed items are known.
    pub managed: Option<Arc<BTreeSet<Managed>>>,
    /// The worst outcome of the tasks so far.
    pub worst: Outcome,
}

/// The findings of a book run: the managed items, and the items that were already in sync.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Findings {
    /// All items that the run found to be managed by the book.
    pub managed: Arc<BTreeSet<Managed>>,
    /// The rendered tasks that were already in sync. The executor records their items as applied.
    pub observed: Vec<InstanceId>,
}

/// A command that a book run gives to its executor.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    /// Render the loop of a task, and answer with the items of the loop.
    Items(TaskRef),
    /// Render the condition and the parameters of a task.
    Render(Arc<Instance>),
    /// Compare the state of the node with a rendered task.
    Check(InstanceId),
    /// Admit changes: ask the gates for admission, and acquire a slot.
    Admit(Admit),
    /// Send a request to the fleet.
    Coordinate(Call),
    /// Ask for the election of a task. The second value is true if this node has completed the task's segment.
    Elect(TaskRef, bool),
    /// Publish the result of an elected task to the fleet.
    PublishResult(ElectedResult),
    /// Make a set of changes on the node. The run has asked for the admission that the changes need.
    Apply(ChangeSet, Admission),
    /// Run a probe, an action or a handler.
    Execute(Invocation),
    /// Check whether a reboot is due. If the flag is true, the reboot is admitted, and the executor carries out a due
    /// reboot. If the flag is false, the executor only answers and records nothing.
    Reboot(InstanceId, bool),
    /// Make a registered result available to later tasks under this name.
    Register(String, Value),
    /// List the pending handlers, in the order of the book.
    ListHandlers,
    /// List the recorded items of the book. The executor answers after all books have run their tasks.
    ListInventory(Interim),
    /// Remove items from the node in the given order, and forget others.
    Remove(Removal),
    /// Record the findings of the run in the journal.
    Record(Findings),
    /// Write the record of the book to the journal.
    Persist(BookRecord),
}

/// The rendered loop of a task.
#[derive(Clone, PartialEq)]
pub enum Items {
    /// The task has no loop, so it runs once.
    Single,
    /// The items of the loop, in order.
    Loop(Vec<Item>),
}

impl std::fmt::Debug for Items {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Single => write!(f, "Single"),
            Self::Loop(items) => write!(f, "Loop({})", items.len()),
        }
    }
}

/// The result of rendering a task.
#[derive(Debug, Clone, PartialEq)]
pub enum Rendered {
    /// The `when` condition is false, and the task would manage these items. `None` if the items are not known.
    Skipped(Option<Vec<Managed>>),
    /// The `when` condition is true, and the task with these facts is ready for its check.
    Ready(Facts),
}

/// The reason why a task or its loop cannot be rendered: an error, or a missing input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotReady {
    /// The outcome of the task: failed after an error, unknown or held for a missing input.
    pub outcome: Outcome,
    /// True if an input of the task is missing. A queued change of an earlier task may supply the input.
    pub is_missing: bool,
    /// The message about the error or the missing input.
    pub message: String,
}

impl NotReady {
    /// Creates the reason for a task that failed.
    pub fn failed(message: impl Into<String>) -> Self {
        Self { outcome: Outcome::Failed, is_missing: false, message: message.into() }
    }

    /// Creates the reason for a task whose input is missing.
    pub fn missing(outcome: Outcome, message: impl Into<String>) -> Self {
        Self { outcome, is_missing: true, message: message.into() }
    }
}

/// The result of one change of a change set.
#[derive(Debug, Clone, PartialEq)]
pub enum Applied {
    /// The change was made, with this result of the module.
    Changed(Finished),
    /// The change was made, but the task's own `changed` condition counts the change as unchanged.
    Unchanged(Finished),
    /// The change failed, with this message.
    Failed(Finished),
    /// The change was not started. The run drops the change from the report.
    NotStarted,
    /// The executor is a dry run, so it would have made the change.
    Planned,
}

/// The message and the result of a change, probe, action or handler that has ended.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Finished {
    /// The message for the report of the task.
    pub message: Option<String>,
    /// The result that the task registers. If `None`, the run registers the default result.
    pub result: Option<Value>,
}

/// The result of an [`Invocation`].
#[derive(Debug, Clone, PartialEq)]
pub enum Executed {
    /// The probe, action or handler ran, with this outcome.
    Ran(Outcome, Finished),
    /// The executor is a dry run, so it ran nothing.
    Planned,
}

/// The answer to [`Command::Reboot`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rebooted {
    /// The node does not have to reboot.
    NotDue,
    /// The node has rebooted since the task began. The run then records the reboot with [`Invocation::Rebooted`].
    Done,
    /// The node is about to reboot, so the run ends here.
    Ending,
    /// A reboot is due, and needs admission first.
    Due,
    /// The node did not reboot, with this message about the cause.
    Failed(String),
}

/// The result of the removal of one item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removed {
    /// The item that was to be removed.
    pub item: Managed,
    /// The outcome of the removal: changed, held or failed.
    pub outcome: Outcome,
    /// The message of the removal, if it has one.
    pub message: Option<String>,
}

/// The answer of the executor to a command.
#[derive(Debug, Clone, PartialEq)]
pub enum Observation {
    /// The answer to [`Command::Items`].
    Items(Result<Items, NotReady>),
    /// The answer to [`Command::Render`].
    Rendered(Result<Rendered, NotReady>),
    /// The answer to [`Command::Check`].
    Checked(Checked),
    /// The answer to [`Command::Admit`], [`Command::Coordinate`] and [`Command::PublishResult`].
    Answered(Answer),
    /// The answer to [`Command::Elect`].
    Election(ElectionState),
    /// The answer to [`Command::Apply`], with one result for each change, in the order of the set.
    Applied(Vec<Applied>),
    /// The answer to [`Command::Execute`].
    Executed(Executed),
    /// The answer to [`Command::Reboot`].
    Rebooted(Rebooted),
    /// The answer to [`Command::ListHandlers`].
    Handlers(Vec<PendingHandler>),
    /// The answer to [`Command::ListInventory`]. `None` if nothing may be removed in this pass.
    Inventory(Option<Inventory>),
    /// The answer to [`Command::Remove`], with one result for each item.
    Removed(Vec<Removed>),
    /// The answer to a command that only records something.
    Done,
    /// The executor could not carry out the command, with this message about the cause.
    Failed(String),
}

/// The next step of a run, which [`crate::BookRun::advance`] returns.
#[derive(Debug)]
pub enum Next {
    /// The run gives out new commands. The executor may carry out several commands at the same time.
    Do(Vec<(CommandId, Command)>),
    /// The run waits for the observations of commands that it returned earlier.
    Wait,
    /// The run has ended with this report.
    Finished(BookReport),
}
