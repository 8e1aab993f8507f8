//! The types of journal records that this crate defines.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use towpath_host::attributes::Attributes;

use crate::{
    keys::Managed,
    kinds::{self, Record},
};

/// Implements [`Record`] for each type, with the kind of its records.
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

/// The version of the journal's format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Schema(pub(crate) u32);

/// The random key for digests of possible secrets.
#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct DigestKey(pub(crate) [u8; 32]);

/// The last known state of other nodes, for templates.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct OtherNodes {
    /// The names of the nodes that have a lease.
    pub alive: BTreeSet<String>,
    /// The names of the nodes that have ever joined the cluster.
    pub joined: BTreeSet<String>,
    /// The facts that each node shares, by the name of the node.
    pub facts: BTreeMap<String, Value>,
}

/// The candidate revisions that were rejected. Each candidate is a map of commits by source.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RejectedCandidates(pub BTreeSet<BTreeMap<String, String>>);

/// The position of this node in the data store.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "(u64, u64)", into = "(u64, u64)")]
pub struct StorePosition {
    /// The highest revision of the store that this node has seen.
    pub revision: u64,
    /// The number of this node's last write to the store.
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

/// The reservation of numbers for signed records. A new process signs with numbers above the reservation of the last
/// one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RecordNumbers {
    /// The end of the reserved range. Records are signed with numbers below this end.
    pub reserved: u64,
}

/// The serial numbers of the certificates that a key has presented, oldest first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PresentedCertificates(pub Vec<String>);

/// The last accepted commit of a source, for the protection against rewinds (P29).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceCheckpoint {
    /// The URL and the ref of the source. A checkpoint with another URL or ref is ignored.
    pub origin: String,
    /// The last accepted commit.
    pub commit: String,
    /// The tag at which the commit was accepted, if the source follows tags.
    #[serde(default)]
    pub tag: Option<String>,
}

/// An event in the journal.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct StoredEvent {
    /// The namespace of the event.
    pub namespace: String,
    /// The time of the event, in milliseconds since 1970.
    pub time: i64,
    /// The type of the event, such as `task.failed`.
    pub r#type: String,
    /// The state of an alarm: `firing` or `resolved`. `None` for an event without duration.
    pub state: Option<String>,
    /// The reason of the event, in one word.
    pub reason: Option<String>,
    /// The object that the event is about.
    pub object: Option<String>,
    /// The message of the event.
    pub message: String,
    /// Further data of the event, for programs.
    pub data: BTreeMap<String, Value>,
}

/// An event that is still in effect, stored by its identity so that the agent finds the event without a search.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct StandingEvent {
    /// The UUID of the event.
    pub uuid: String,
    /// The event itself.
    pub event: StoredEvent,
}

/// A row of the local data store: the value in base64, and the revisions in which the row was created and modified.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreRow(pub String, pub u64, pub u64);

/// The revision of the last change of the local data store.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StoreRevision(pub u64);

/// A revision of the sources that this node has accepted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Acceptance {
    /// The number of the revision.
    pub generation: u64,
    /// The digest of the acceptance record.
    pub digest: String,
    /// The commits of the revision, by source.
    pub commits: BTreeMap<String, String>,
    /// The time of the acceptance, in milliseconds since 1970.
    pub at: i64,
}

/// A phase of the agent's work, which is recorded before the phase starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// The agent renders templates and checks resources.
    Render,
    /// The agent writes new files under temporary names.
    Write,
    /// The agent syncs the new files to disk.
    Sync,
    /// The agent renames the new files to their paths.
    Rename,
    /// The agent runs an action.
    Action,
    /// The agent runs a handler.
    Handler,
    /// The agent changes nothing.
    Idle,
}

/// The work that the agent has started. The agent examines the intent after a crash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intent {
    /// The phase that the agent has started.
    pub phase: Phase,
    /// The name of the book that the agent works on.
    pub book: String,
    /// The paths that may have temporary files beside them.
    #[serde(default)]
    pub paths: Vec<String>,
}

impl Intent {
    /// Returns the intent of an agent that changes nothing. `book` is the book of the agent's last change.
    pub fn idle(book: String) -> Self {
        Self { phase: Phase::Idle, book, paths: Vec::new() }
    }
}

/// The last applied value of a managed object.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppliedItem {
    /// The keyed hash of the definition of the task that applied the value.
    pub definition: String,
    /// The generation of the revision that applied the value.
    pub generation: u64,
    /// The module parameters that undo the value. `None` if restoring the original file is enough.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undo: Option<Value>,
}

/// The objects that a book manages on this node, with the settings for their removal.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Inventory {
    /// The managed objects of the book.
    pub items: BTreeSet<Managed>,
    /// True if the last version of the book removes objects that the book no longer mentions.
    pub prune: bool,
    /// The maximum number of removals in one pass, as a count or a percentage.
    pub budget: Option<String>,
    /// The rollout of the book. `None` for a book that removes nothing, or that has no rollout.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rollout: Option<LastRollout>,
}

/// The last rollout of a book. The rollout is used to remove the book's objects after the book was deleted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LastRollout {
    /// The slots of the rollout. `None` for a book without coordination.
    pub slots: Option<LastSlots>,
    /// The tasks that run before the first change.
    pub before: Vec<KeptTask>,
    /// The tasks that run after the last change.
    pub after: Vec<KeptTask>,
}

/// The slots of a rollout.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct LastSlots {
    /// The name of the budget.
    pub budget: String,
    /// The partition of each node in the budget.
    pub partitions: BTreeMap<String, String>,
    /// The names of the nodes that the book targets.
    pub targets: BTreeSet<String>,
    /// The number of nodes that may hold a slot in one partition at the same time. `None` for no limit.
    pub count: Option<u64>,
    /// The number of failed nodes up to which other nodes continue.
    pub max_failures: u64,
}

/// A task with its parameters, stored so that the task can run after its book was deleted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptTask {
    /// The name of the task.
    pub name: String,
    /// The module of the task.
    pub module: String,
    /// The module parameters of the task.
    pub params: Value,
    /// The name of the stored bytes of the script. `None` for a module other than `script`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub script: Option<String>,
}

/// The state of a path before Towpath managed the path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "kind")]
pub enum Original {
    /// Nothing existed at the path.
    Nothing,
    /// The path was a regular file.
    File {
        /// The name of the stored bytes of the file.
        content: String,
        /// The permission bits of the file.
        mode: u32,
        /// The user id of the file's owner.
        uid: u32,
        /// The group id of the file.
        gid: u32,
        /// The extended attributes of the file.
        #[serde(default, skip_serializing_if = "Attributes::is_empty")]
        attributes: Attributes,
    },
    /// The path was a directory, which Towpath never removes.
    Directory {
        /// The permission bits of the directory.
        mode: u32,
        /// The user id of the directory's owner.
        uid: u32,
        /// The group id of the directory.
        gid: u32,
    },
    /// The path was a symbolic link.
    Link {
        /// The target of the link.
        target: String,
    },
    /// The path was a file in which Towpath changes only some lines. Such lines are not restored one by one.
    Part,
}

/// A file whose `validate` command runs after the rename, and has not run yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unchecked {
    /// The `validate` command that must succeed.
    pub validate: String,
    /// The state of the file before the rename.
    pub old: Original,
}

/// The state of an action's last run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ActionState {
    /// The action has started, and its end is not recorded.
    Begun,
    /// The action has succeeded.
    Finished,
    /// The action has failed, and is retried.
    Failed,
}

/// The last run of an action.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ActionRecord {
    /// The keyed hash of the definition of the last run.
    pub definition: String,
    /// The state of the last run.
    pub state: ActionState,
    /// The number of interrupted runs with this definition.
    #[serde(default)]
    pub interrupted: u32,
    /// The last successful run of the action, which may have had another definition.
    #[serde(default)]
    pub finished: Option<FinishedAction>,
    /// The id of the boot in which a reboot action started. `None` for other actions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot: Option<String>,
}

/// A successful run of an action.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FinishedAction {
    /// The keyed hash of the definition of the run.
    pub definition: String,
    /// The result that the action registered.
    pub result: Value,
}

/// A handler that was notified and has not succeeded since.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HandlerRecord {
    /// The module of the handler at the time of the notification.
    pub module: String,
    /// The module parameters of the handler at the time of the notification.
    pub params: Value,
    /// The name of the stored bytes of the script. `None` for a module other than `script`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub script: Option<String>,
    /// The names of the tasks that notified the handler.
    pub by: BTreeSet<String>,
}

/// A run of a book on this node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunRecord {
    /// The name of the run.
    pub run: String,
    /// The namespace of the book.
    pub namespace: String,
    /// The name of the book.
    pub name: String,
    /// The generation of the revision that the run applied.
    pub generation: u64,
    /// The start of the run, in milliseconds since 1970.
    pub started: i64,
    /// The duration of the run, in seconds.
    pub took: f64,
    /// The worst outcome of the run's tasks.
    pub outcome: String,
    /// The reports of the run's tasks: name, module, outcome, changed, took, message.
    pub tasks: Value,
}
