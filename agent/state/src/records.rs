//! The types of the journal's records that are plain data.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use towpath_host::attributes::Attributes;

use crate::{
    keys::Managed,
    kinds::{self, Record},
};

/// Gives each type its kind.
macro_rules! records {
    ($($record:ident: $kind:ident;)*) => {
        $(impl Record for $record {
            type Kind = kinds::$kind;
        })*
    };
}

records! {
    Schema: Schema;
    DigestKey: DigestKey;
    Intent: Intent;
    OtherNodes: OtherNodes;
    RejectedCandidates: RejectedCandidates;
    StorePosition: StorePosition;
    RecordNumbers: RecordNumbers;
    PresentedCertificates: Certificates;
    SourceCheckpoint: Checkpoint;
    StoredEvent: Event;
    StandingEvent: StandingEvent;
    RunRecord: Run;
    AppliedItem: Applied;
    Original: Original;
    Unchecked: Unchecked;
    ActionRecord: Action;
    HandlerRecord: Handler;
    Inventory: Inventory;
    StoreRow: StoreRow;
    StoreRevision: StoreRevision;
}

/// The version of the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Schema(pub(crate) u32);

/// The random key of digests of possible secrets.
#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct DigestKey(pub(crate) [u8; 32]);

/// The last known state of other nodes, for templates.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct OtherNodes {
    /// The nodes that have a lease.
    pub alive: BTreeSet<String>,
    /// The nodes that have ever joined.
    pub joined: BTreeSet<String>,
    /// The facts that each node shares.
    pub facts: BTreeMap<String, Value>,
}

/// The commits of candidates that were rejected, by source.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RejectedCandidates(pub BTreeSet<BTreeMap<String, String>>);

/// The position of the node in the data store.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "(u64, u64)", into = "(u64, u64)")]
pub struct StorePosition {
    /// The highest revision of the store that the node has seen.
    pub revision: u64,
    /// The number of the node's last write.
    pub sequence: u64,
}

impl From<(u64, u64)> for StorePosition {
    fn from((revision, sequence): (u64, u64)) -> Self {
        Self { revision, sequence }
    }
}

impl From<StorePosition> for (u64, u64) {
    fn from(position: StorePosition) -> Self {
        (position.revision, position.sequence)
    }
}

/// The reservation of numbers for signed records. A process begins above the reservation of the process before it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RecordNumbers {
    /// The number below which records may be signed.
    pub reserved: u64,
}

/// The serial numbers of the certificates that a key has presented, oldest first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PresentedCertificates(pub Vec<String>);

/// The last accepted commit of a source, against rewinds (P29).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceCheckpoint {
    /// URL and ref. A checkpoint with another origin is ignored.
    pub origin: String,
    /// The commit.
    pub commit: String,
    /// The tag at which the commit was accepted, if it has one.
    #[serde(default)]
    pub tag: Option<String>,
}

/// An event as the journal keeps it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct StoredEvent {
    /// The namespace.
    pub namespace: String,
    /// The time, in milliseconds since 1970.
    pub time: i64,
    /// The type.
    pub r#type: String,
    /// `firing` or `resolved`. `None` for an event without duration.
    pub state: Option<String>,
    /// The reason, in one word.
    pub reason: Option<String>,
    /// The object of the event.
    pub object: Option<String>,
    /// The message.
    pub message: String,
    /// Further facts, for programs.
    pub data: BTreeMap<String, Value>,
}

/// An event that holds on, so that the agent finds it without a search.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct StandingEvent {
    /// The UUID under which the event is recorded.
    pub uuid: String,
    /// The event.
    pub event: StoredEvent,
}

/// A row of the local store: the value in base64, and the revisions in which it was created and modified.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreRow(pub String, pub u64, pub u64);

/// The revision of the last change of the local store.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StoreRevision(pub u64);

/// A revision that the node has accepted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Acceptance {
    /// The number of the revision.
    pub generation: u64,
    /// The commits of the revision, by source.
    pub commits: BTreeMap<String, String>,
    /// The time of the acceptance, in milliseconds since 1970.
    pub at: i64,
}

/// The current phase of the agent, recorded before the phase starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Rendering of templates and checks of resources.
    Render,
    /// Writing of new files under temporary names.
    Write,
    /// Flush of the new files to the disk.
    Sync,
    /// Rename of the new files to their paths.
    Rename,
    /// Run of an action.
    Action,
    /// Run of a handler.
    Handler,
    /// No work.
    Idle,
}

/// A started change, which the agent examines after a crash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intent {
    /// The phase that has started.
    pub phase: Phase,
    /// The name of the book.
    pub book: String,
    /// The paths that may have temporary files beside them.
    #[serde(default)]
    pub paths: Vec<String>,
}

impl Intent {
    /// Returns the intent of an agent that changes nothing at the moment. `book` is the book of its last change.
    pub fn idle(book: String) -> Self {
        Self { phase: Phase::Idle, book, paths: Vec::new() }
    }
}

/// The last applied value of one managed object.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppliedItem {
    /// The keyed hash of the task's definition.
    pub definition: String,
    /// The generation of the revision that applied it.
    pub generation: u64,
    /// The module parameters that undo it; `None` if restoring the original file is enough.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undo: Option<Value>,
}

/// All objects that a book manages on this node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Inventory {
    /// The managed objects.
    pub items: BTreeSet<Managed>,
    /// True if the book, in its last version, removes objects that it no longer mentions.
    pub prune: bool,
    /// The most removals in one pass: a count or a percentage.
    pub budget: Option<String>,
    /// The rollout of the book. `None` for a book that removes nothing, or that has no rollout.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rollout: Option<LastRollout>,
}

/// The rollout that a book last had, for the removal of its items after the book is gone.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LastRollout {
    /// The slots. `None` for a book without coordination.
    pub slots: Option<LastSlots>,
    /// The tasks before the first change.
    pub before: Vec<KeptTask>,
    /// The tasks after the last change.
    pub after: Vec<KeptTask>,
}

/// The slots of a rollout.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct LastSlots {
    /// The budget.
    pub budget: String,
    /// The partition of each node in the budget.
    pub partitions: BTreeMap<String, String>,
    /// The targets of the book.
    pub targets: BTreeSet<String>,
    /// The number of nodes that may hold a slot of one partition. `None`: no limit.
    pub count: Option<u64>,
    /// The number of failed nodes up to which other nodes continue.
    pub max_failures: u64,
}

/// A task with its parameters, which runs without its book.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptTask {
    /// The name.
    pub name: String,
    /// The module.
    pub module: String,
    /// The parameters.
    pub params: Value,
    /// The name of the stored bytes of a script; `None` for other modules.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub script: Option<String>,
}

/// The state of a path before Towpath managed it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "kind")]
pub enum Original {
    /// An empty path.
    Nothing,
    /// A regular file.
    File {
        /// The name of the stored bytes.
        content: String,
        /// The permission bits.
        mode: u32,
        /// The user id of the owner.
        uid: u32,
        /// The group id.
        gid: u32,
        /// The extended attributes.
        #[serde(default, skip_serializing_if = "Attributes::is_empty")]
        attributes: Attributes,
    },
    /// A directory. Towpath never removes it.
    Directory {
        /// The permission bits.
        mode: u32,
        /// The user id of the owner.
        uid: u32,
        /// The group id.
        gid: u32,
    },
    /// A symbolic link.
    Link {
        /// The target of the link.
        target: String,
    },
    /// A file with some changed lines. The lines are not restored one by one.
    Part,
}

/// A file with a check that runs only after the rename, and has not run yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unchecked {
    /// The command that must succeed.
    pub validate: String,
    /// The file's state before the rename.
    pub old: Original,
}

/// The state of an action.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ActionState {
    /// An action that has started, without a recorded end.
    Begun,
    /// An action that has succeeded.
    Finished,
    /// An action that has failed, and is retried.
    Failed,
}

/// The record of an action's last run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ActionRecord {
    /// The keyed hash of the definition that ran last.
    pub definition: String,
    /// The state of that run.
    pub state: ActionState,
    /// The number of interrupted runs of this definition.
    #[serde(default)]
    pub interrupted: u32,
    /// The last successful run, which may be of another definition.
    #[serde(default)]
    pub finished: Option<FinishedAction>,
    /// The boot in which a reboot action started; `None` for other actions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot: Option<String>,
}

/// A successful run of an action.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FinishedAction {
    /// The keyed hash of the definition.
    pub definition: String,
    /// The result.
    pub result: Value,
}

/// A handler that was notified and has not succeeded since.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HandlerRecord {
    /// The module, as it was at the notification.
    pub module: String,
    /// The parameters, as they were at the notification.
    pub params: Value,
    /// The name of the stored bytes of a script; `None` for other handlers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub script: Option<String>,
    /// The tasks that notified the handler.
    pub by: BTreeSet<String>,
}

/// One run of a book.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunRecord {
    /// The name of the run.
    pub run: String,
    /// The namespace of the book.
    pub namespace: String,
    /// The name of the book.
    pub name: String,
    /// The generation of the revision.
    pub generation: u64,
    /// The start, in milliseconds since 1970.
    pub started: i64,
    /// The duration, in seconds.
    pub took: f64,
    /// The worst outcome of its tasks.
    pub outcome: String,
    /// The tasks: name, module, outcome, changed, took, message.
    pub tasks: Value,
}
