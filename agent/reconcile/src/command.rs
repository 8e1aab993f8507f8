//! The interface between a TaskBook run and its executor: commands of the run, and answers of the executor.

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

/// The purpose of a slot: a change in a segment, or a corrective change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SlotUse {
    /// The node uses the slot for a change in the segment with the given number.
    Change(u32),
    /// The node uses the slot for a corrective change, which belongs to no segment.
    Correct,
}

/// A request of a book run for permission to change the node. Changes need an open maintenance window and, in a
/// rollout, a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Admit {
    /// The index of the segment. The budget of the segment limits the number of nodes that change at the same time.
    /// `segment` is `None` in a book without coordination.
    pub segment: Option<u32>,
    /// The purpose for which the node uses the slot.
    pub slot: SlotUse,
    /// True if changes of this segment have begun. Changes that have begun may be completed after the maintenance
    /// window closes.
    pub began: bool,
}

/// A request to the fleet about the run of a coordinated book.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    /// The node enters the segment with the given number.
    Enter(u32),
    /// The node has completed the segment with the given number, and releases its slot.
    Done(u32),
    /// The node has failed in a segment.
    Failed {
        /// The number of the segment.
        segment: u32,
        /// True if the node was allowed to make changes in the segment. If `admitted` is false, the failure happened
        /// before the node could begin its changes.
        admitted: bool,
        /// The messages of the failed tasks. The node publishes the messages to the other nodes.
        message: String,
    },
    /// The node releases its slot of the segment with the given number.
    Leave(u32),
    /// The node releases the slot that it acquired for an earlier revision or segment.
    LeaveOld,
    /// The node announces to the fleet that it will reboot (P59). The request names the active segment, the segment
    /// whose slot the node holds, and the task that reboots the node.
    Absent(u32, u32, InstanceId),
    /// If the data store has lost the node's votes and results, the node publishes the votes and results again. The
    /// node publishes only votes and results of segments below the given segment number.
    RepeatVotes(u32),
    /// The node helps to end the run. The answer of the fleet is [`Answer::Ended`].
    EndRun,
}

/// The answer of the fleet to a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The fleet grants the request.
    Go,
    /// A closed gate blocks the request; the value is the gate.
    Hold(Gate),
    /// The answer to [`Call::EndRun`]: true if the run has ended on all nodes.
    Ended(bool),
}

/// The state of an election, which selects the nodes that run a task for the fleet.
#[derive(Debug, Clone, PartialEq)]
pub enum ElectionState {
    /// This node adopted the result of the elected nodes in an earlier pass.
    Adopted(Value),
    /// This node is elected, so it runs the task.
    Elected,
    /// The elected nodes have published their results. The answer contains the results, and the names of the elected
    /// nodes.
    Results(Value, Vec<String>),
    /// The elected nodes have not published all results yet, so the task waits at a gate.
    Hold(Gate),
}

/// A handler that was notified and has not run successfully yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PendingHandler {
    /// The name of the handler in its book.
    pub id: String,
    /// The module of the handler at the time of the notification.
    pub module: String,
    /// The position of the handler in the book, or `None` if the book no longer contains the handler. If the book no
    /// longer contains a handler, the handler runs with the parameters in the journal.
    pub task: Option<TaskRef>,
}

/// A task that the executor runs without a check of the node's state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Invocation {
    /// A probe, which reads the node.
    Probe(InstanceId),
    /// An action. The executor records the task definition that the action used.
    Action(InstanceId),
    /// A reboot that has ended. The executor records that the node has rebooted, and notifies the task's handlers.
    Rebooted(InstanceId),
    /// A `before` task or an `after` task of the book.
    Unconditional(TaskRef),
    /// A pending handler. The executor deletes the notification if the handler succeeds.
    Handler(PendingHandler),
}

/// The result that this node publishes to the fleet for an elected task.
#[derive(Debug, Clone, PartialEq)]
pub struct ElectedResult {
    /// The position of the elected task in the book.
    pub task: TaskRef,
    /// True if the elected task succeeded.
    pub ok: bool,
    /// The result that the elected task registers.
    pub result: Value,
    /// The message of the elected task, if the task has a message.
    pub message: Option<String>,
}

/// The state of a book run after its tasks and before its removals.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interim {
    /// All items that the book manages on the node. `managed` is `None` if some managed items are not known.
    pub managed: Option<Arc<BTreeSet<Managed>>>,
    /// The worst outcome of all tasks that have run so far.
    pub worst: Outcome,
}

/// The findings of a book run: the managed items, and the rendered tasks that needed no change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Findings {
    /// All items that the book manages.
    pub managed: Arc<BTreeSet<Managed>>,
    /// The rendered tasks that needed no change. If a task needs no change, the executor records the items of the task
    /// as applied.
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
    /// Ask all gates to admit changes, and acquire a slot.
    Admit(Admit),
    /// Send a request to the fleet.
    Coordinate(Call),
    /// Ask which nodes are elected to run a task. `Elect(_, true)` means that this node has completed the segment of
    /// the task.
    Elect(TaskRef, bool),
    /// Publish the result of an elected task to the fleet.
    PublishResult(ElectedResult),
    /// Make a set of changes on the node. The [`Admission`] is the permission that the changes need.
    Apply(ChangeSet, Admission),
    /// Run a probe, an action or a handler.
    Execute(Invocation),
    /// Check whether a reboot is due. `Reboot(_, true)` permits the executor to reboot the node when a reboot is due.
    /// `Reboot(_, false)` asks the executor only whether a reboot is due.
    Reboot(InstanceId, bool),
    /// Make a registered result available to later tasks under the given name.
    Register(String, Value),
    /// List the pending handlers, in the order of the book.
    ListHandlers,
    /// List the book's items that the journal records. The executor answers `ListInventory` after all books have run
    /// their tasks.
    ListInventory(Interim),
    /// Remove items from the node in the given order. If an item must stay on the node, only delete the journal record
    /// of the item.
    Remove(Removal),
    /// Write the managed items, and the tasks that needed no change, to the journal.
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
    /// The `when` condition is false, so the task is skipped. `Skipped` contains the items of the skipped task.
    /// `Skipped(None)` means that the items of the skipped task are not known.
    Skipped(Option<Vec<Managed>>),
    /// The `when` condition is true, and the run can check the task on the node.
    Ready(Facts),
}

/// The reason why a task or its loop cannot be rendered: an error, or a missing input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotReady {
    /// The outcome of the task: `Failed` after an error, `Unknown` or `Held` if an input is missing.
    pub outcome: Outcome,
    /// True if an input of the task is missing. A queued change of an earlier task may supply the missing input.
    pub is_missing: bool,
    /// The message about the error or the missing input.
    pub message: String,
}

impl NotReady {
    /// Returns a `NotReady` with the outcome `Failed`.
    pub fn failed(message: impl Into<String>) -> Self {
        Self { outcome: Outcome::Failed, is_missing: false, message: message.into() }
    }

    /// Returns a `NotReady` for a task with a missing input.
    pub fn missing(outcome: Outcome, message: impl Into<String>) -> Self {
        Self { outcome, is_missing: true, message: message.into() }
    }
}

/// The result of one change in a set of changes.
#[derive(Debug, Clone, PartialEq)]
pub enum Applied {
    /// The change was made; the value is the result of the module.
    Changed(Finished),
    /// The change was made, but the `changed` condition of the task is false.
    Unchanged(Finished),
    /// The change failed; the value contains the error message.
    Failed(Finished),
    /// The change was not started. The report of the run omits a change that was not started.
    NotStarted,
    /// The change was only planned, because the executor makes a dry run.
    Planned,
}

/// The message and the result of a change, probe, action or handler that has ended.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Finished {
    /// The message for the report of the task.
    pub message: Option<String>,
    /// The result that the task registers. If the result is `None`, the run registers a default result.
    pub result: Option<Value>,
}

/// The result of an [`Invocation`].
#[derive(Debug, Clone, PartialEq)]
pub enum Executed {
    /// The probe, action or handler ran; the values are its outcome and its result.
    Ran(Outcome, Finished),
    /// Nothing ran, because the executor makes a dry run.
    Planned,
}

/// The answer to [`Command::Reboot`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rebooted {
    /// The node does not have to reboot.
    NotDue,
    /// The node has rebooted since the task began. The run records a completed reboot with [`Invocation::Rebooted`].
    Done,
    /// The node is about to reboot, so the run ends.
    Ending,
    /// A reboot is due, but the command did not permit the executor to reboot the node.
    Due,
    /// The node did not reboot; the text gives the cause.
    Failed(String),
}

/// The result of the removal of one item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removed {
    /// The item that the executor had to remove.
    pub item: Managed,
    /// The outcome of the removal: `Changed`, `Held` or `Failed`.
    pub outcome: Outcome,
    /// The message of the removal, if the removal has a message.
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
    /// The answer to [`Command::ListInventory`]. The inventory is `None` if this pass is not allowed to remove items.
    Inventory(Option<Inventory>),
    /// The answer to [`Command::Remove`], with one result for each item.
    Removed(Vec<Removed>),
    /// The executor has carried out a command whose answer contains no data.
    Done,
    /// The executor could not carry out the command; the text gives the cause.
    Failed(String),
}

/// The step that [`crate::BookRun::advance`] returns.
#[derive(Debug)]
pub enum Next {
    /// The run has new commands for the executor. The executor may carry out several commands at the same time.
    Do(Vec<(CommandId, Command)>),
    /// The run waits for the answers to earlier commands.
    Wait,
    /// The run has ended; the value is its report.
    Finished(BookReport),
}
