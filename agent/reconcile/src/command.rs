//! The commands of a book run, and the observations that answer them.

use std::{collections::BTreeSet, sync::Arc};

use serde_json::Value;
use towpath_coordination::Gate;
use towpath_render::rendering::Item;

pub use crate::names::{CommandId, Instance, InstanceId, List, TaskRef};
pub use crate::plan::{batch::ChangeSet, removal::Removal};
use crate::{
    names::Managed,
    outcome::{BookReport, Outcome},
    plan::{assess::Checked, instance::Facts, removal::Inventory},
    record::BookRecord,
};

/// The use of a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SlotUse {
    /// A change in a segment of the run.
    Change(u32),
    /// A corrective change, which belongs to no segment.
    Correct,
}

/// A request for admission: the window is open, and the node holds a slot of the budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Admit {
    /// The segment whose budget counts. `None` in a book without coordination.
    pub segment: Option<u32>,
    /// The use of the slot.
    pub slot: SlotUse,
    /// True if changes of this segment have begun. They may be finished outside of the window.
    pub began: bool,
}

/// A request to the fleet about the run of a coordinated book.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    /// The entry into a segment.
    Enter(u32),
    /// The completion of a segment. It also releases the slot.
    Done(u32),
    /// A failure in a segment, with the messages of the failed tasks, which other nodes show.
    Failed(u32, String),
    /// The release of the slot of a segment.
    Leave(u32),
    /// The release of the recorded slot, which an earlier revision or an earlier segment took.
    LeaveOld,
    /// Announces an absence for the reboot of a task: the active segment, and the segment of the claim (P59).
    Absent(u32, u32, InstanceId),
    /// The repetition of votes and results that the store has lost, for the segments before this one.
    RepeatVotes(u32),
    /// Help to end the run. The answer is [`Answer::Ended`].
    EndRun,
}

/// The answer of the fleet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The request is granted.
    Go,
    /// A gate is closed.
    Hold(Gate),
    /// True if the run has ended on all nodes.
    Ended(bool),
}

/// The state of an election.
#[derive(Debug, Clone, PartialEq)]
pub enum ElectionState {
    /// An earlier pass has adopted the result.
    Adopted(Value),
    /// This node is elected.
    Elected,
    /// The results of the elected nodes, and the nodes.
    Results(Value, Vec<String>),
    /// The result is not there yet.
    Hold(Gate),
}

/// A pending handler.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PendingHandler {
    /// The id.
    pub id: String,
    /// The module that was notified.
    pub module: String,
    /// The handler in the book. `None` if the book no longer contains it: it then runs as it was notified.
    pub task: Option<TaskRef>,
}

/// Work that runs without a check of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Invocation {
    /// A probe.
    Probe(InstanceId),
    /// An action, recorded by its definition.
    Action(InstanceId),
    /// The end of a reboot: it is recorded, and its handlers are notified.
    Rebooted(InstanceId),
    /// A task before or after a segment.
    Unconditional(TaskRef),
    /// A handler. Its notification is deleted if it succeeds.
    Handler(PendingHandler),
}

/// The result of an elected task, for publication.
#[derive(Debug, Clone, PartialEq)]
pub struct ElectedResult {
    /// The task.
    pub task: TaskRef,
    /// True if it succeeded.
    pub ok: bool,
    /// The registered result.
    pub result: Value,
    /// The message.
    pub message: Option<String>,
}

/// The state of a run after its tasks, before it removes anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interim {
    /// The managed items. `None` if not all of them are known.
    pub managed: Option<Arc<BTreeSet<Managed>>>,
    /// The worst outcome so far.
    pub worst: Outcome,
}

/// The findings of a book run: its inventory, and the items that were in sync when first seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Findings {
    /// The managed items.
    pub managed: Arc<BTreeSet<Managed>>,
    /// The instances that were in sync and are to be recorded as applied.
    pub observed: Vec<InstanceId>,
}

/// A command of a book run.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    /// Render the loop of a task.
    Items(TaskRef),
    /// Render the condition and the parameters of a task.
    Render(Arc<Instance>),
    /// Compare the state of the node with a rendered task.
    Check(InstanceId),
    /// Admit changes: ask the gates, and take a slot.
    Admit(Admit),
    /// Ask the fleet.
    Coordinate(Call),
    /// Ask for the election of a task. `true` if this node has completed its segment.
    Elect(TaskRef, bool),
    /// Publish the result of an elected task.
    PublishResult(ElectedResult),
    /// Carry out changes.
    Apply(ChangeSet),
    /// Run a probe, an action or a handler.
    Execute(Invocation),
    /// Find out whether a reboot is due. `true` if it is admitted: a due reboot is then carried out. Without admission,
    /// nothing is recorded, because a run also asks whether a task would change something.
    Reboot(InstanceId, bool),
    /// Make a result available to later tasks.
    Register(String, Value),
    /// List the pending handlers, in the order of the book.
    ListHandlers,
    /// List the recorded items. The answer comes after all books have run their tasks.
    ListInventory(Interim),
    /// Remove items, in this order, and forget others.
    Remove(Removal),
    /// Record the findings of the run.
    Record(Findings),
    /// Persist the record of the book.
    Persist(BookRecord),
}

/// A rendered loop.
#[derive(Clone, PartialEq)]
pub enum Items {
    /// The task has no loop.
    Single,
    /// The items.
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

/// The result of a rendering.
#[derive(Debug, Clone, PartialEq)]
pub enum Rendered {
    /// The condition does not hold. Contains the items that the task would manage. `None` if they are not known.
    Skipped(Option<Vec<Managed>>),
    /// The task is ready to be checked.
    Ready(Facts),
}

/// A failure to render or list, or an input that is missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotReady {
    /// Failed for an error. Unknown or held for a missing input.
    pub outcome: Outcome,
    /// True if an input is missing. A change that waits may supply it.
    pub is_missing: bool,
    /// The message.
    pub message: String,
}

impl NotReady {
    /// Creates a failure.
    pub fn failed(message: impl Into<String>) -> Self {
        Self { outcome: Outcome::Failed, is_missing: false, message: message.into() }
    }

    /// Creates the outcome of a task whose input is missing.
    pub fn missing(outcome: Outcome, message: impl Into<String>) -> Self {
        Self { outcome, is_missing: true, message: message.into() }
    }
}

/// The result of one change of a set.
#[derive(Debug, Clone, PartialEq)]
pub enum Applied {
    /// The change was made. Contains the result of the module.
    Changed(Finished),
    /// The change was made, and by the task's own condition it counts as unchanged.
    Unchanged(Finished),
    /// The change failed.
    Failed(Finished),
    /// The change was not begun, and is dropped from the report.
    NotStarted,
    /// The change would be made: the executor is a dry run.
    Planned,
}

/// The message and the result of work that has ended.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Finished {
    /// The message.
    pub message: Option<String>,
    /// The registered result.
    pub result: Option<Value>,
}

/// The result of an invocation.
#[derive(Debug, Clone, PartialEq)]
pub enum Executed {
    /// It ran.
    Ran(Outcome, Finished),
    /// It did not run: the executor is a dry run.
    Planned,
}

/// The result of a reboot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rebooted {
    /// No reboot is due.
    NotDue,
    /// The node has rebooted since the task began. [`Invocation::Rebooted`] records it.
    Done,
    /// The node is about to reboot: the run ends here.
    Ending,
    /// A reboot is due, and needs admission first.
    Due,
    /// The node did not reboot.
    Failed(String),
}

/// The result of a removal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removed {
    /// The item.
    pub item: Managed,
    /// Its outcome: changed, held or failed.
    pub outcome: Outcome,
    /// The message.
    pub message: Option<String>,
}

/// The answer to a command.
#[derive(Debug, Clone, PartialEq)]
pub enum Observation {
    /// To [`Command::Items`].
    Items(Result<Items, NotReady>),
    /// To [`Command::Render`].
    Rendered(Result<Rendered, NotReady>),
    /// To [`Command::Check`].
    Checked(Checked),
    /// To [`Command::Admit`] and [`Command::Coordinate`].
    Answered(Answer),
    /// To [`Command::Elect`].
    Election(ElectionState),
    /// To [`Command::Apply`], in the order of the set.
    Applied(Vec<Applied>),
    /// To [`Command::Execute`].
    Executed(Executed),
    /// To [`Command::Reboot`].
    Rebooted(Rebooted),
    /// To [`Command::ListHandlers`].
    Handlers(Vec<PendingHandler>),
    /// To [`Command::ListInventory`]. `None` if nothing may be removed in this pass.
    Inventory(Option<Inventory>),
    /// To [`Command::Remove`].
    Removed(Vec<Removed>),
    /// To commands that only record something.
    Done,
    /// The command could not be carried out, with a message.
    Failed(String),
}

/// The next step of a run.
#[derive(Debug)]
pub enum Next {
    /// New commands. Several may be carried out at the same time.
    Do(Vec<(CommandId, Command)>),
    /// All commands have been given out, and their observations are missing.
    Wait,
    /// The run has ended.
    Finished(BookReport),
}
