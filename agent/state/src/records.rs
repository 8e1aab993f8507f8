//! The types of journal records that this crate defines.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use towpath_host::attributes::Attributes;

use crate::{
    keys::Managed,
    kinds::{self, Record},
};

/// Implements [`Record`] for each listed type, with the listed kind.
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

/// The last known state of other nodes, which templates use.
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

/// The revisions that this node has rejected. Each rejected revision is a map of commits by source.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RejectedCandidates(pub BTreeSet<BTreeMap<String, String>>);

/// The last revision of the data store that this node has seen, and the number of the node's last write.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "(u64, u64)", into = "(u64, u64)")]
pub struct StorePosition {
    /// The highest revision of the data store that this node has seen.
    pub revision: u64,
    /// The number of this node's last write to the data store.
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

/// The reserved sequence numbers for signed records. After a restart, the agent signs with numbers above the
/// reservation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RecordNumbers {
    /// The end of the reserved range of sequence numbers. Records are signed with numbers below the end.
    pub reserved: u64,
}

/// The serial numbers of the certificates that were presented for a key, oldest first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PresentedCertificates(pub Vec<String>);

/// The last accepted commit of a source, which protects the source against rewinds (P29).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceCheckpoint {
    /// The URL and the ref of the source. If the URL or the ref of the source changes, the checkpoint is ignored.
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
    /// The state of an alarm: `firing` or `resolved`; `None` for an event that is not an alarm.
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

/// An event that is still in effect. The record's key is the identity of the event, so the agent finds the event
/// without a search.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct StandingEvent {
    /// The UUID of the event.
    pub uuid: String,
    /// The event itself.
    pub event: StoredEvent,
}

/// A row of the local data store: its value in base64, and the revisions of its creation and of its last change.
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
    /// The commits of the revision, by source.
    pub commits: BTreeMap<String, String>,
    /// The time of the acceptance, in milliseconds since 1970.
    pub at: i64,
}

/// A phase of the agent's work. The agent records each phase before the phase starts.
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

/// The work that the agent has started, which the agent examines after a crash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intent {
    /// The phase that the agent has started.
    pub phase: Phase,
    /// The name of the TaskBook that the agent works on.
    pub book: String,
    /// The paths of the files that the agent writes, which may have temporary files beside them.
    #[serde(default)]
    pub paths: Vec<String>,
}

impl Intent {
    /// Returns the intent of an agent that changes nothing. The argument `book` names the TaskBook of the agent's last
    /// change.
    pub fn idle(book: String) -> Self {
        Self { phase: Phase::Idle, book, paths: Vec::new() }
    }
}

/// The last value that the agent has applied to a managed object.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppliedItem {
    /// The keyed hash of the definition of the task that applied the value.
    pub definition: String,
    /// The generation of the revision that applied the value.
    pub generation: u64,
    /// The module parameters that undo the applied value; `None` if the agent undoes the value by restoring the
    /// original file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undo: Option<Value>,
}

/// The objects that a TaskBook manages on this node, with the settings for removing these objects.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Inventory {
    /// The managed objects of the TaskBook.
    pub items: BTreeSet<Managed>,
    /// The setting `prune` of the TaskBook's last version: true if the agent removes objects that the TaskBook no
    /// longer mentions.
    pub prune: bool,
    /// The maximum number of removals in one pass, as a count or a percentage.
    pub budget: Option<String>,
    /// The rollout of the TaskBook; `None` for a TaskBook that removes nothing, or that has no rollout.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rollout: Option<LastRollout>,
}

/// The last rollout of a TaskBook. When the TaskBook is deleted, the agent removes its objects under this rollout.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LastRollout {
    /// The slots of the rollout; `None` for a TaskBook whose nodes are not coordinated.
    pub slots: Option<LastSlots>,
    /// The tasks that a node runs before its first change.
    pub before: Vec<KeptTask>,
    /// The tasks that a node runs after its last change.
    pub after: Vec<KeptTask>,
}

/// The slots of a rollout.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct LastSlots {
    /// The name of the budget to which the slots belong.
    pub budget: String,
    /// The partition of the budget that counts each node, by the name of the node.
    pub partitions: BTreeMap<String, String>,
    /// The names of the nodes that the TaskBook targets.
    pub targets: BTreeSet<String>,
    /// The number of nodes that may hold a slot in one partition at the same time; `None` for no limit.
    pub count: Option<u64>,
    /// The maximum number of failed nodes with which the other nodes continue.
    pub max_failures: u64,
}

/// A task with its parameters, stored so that the task can run after its TaskBook was deleted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptTask {
    /// The name of the task.
    pub name: String,
    /// The module of the task.
    pub module: String,
    /// The module parameters of the task.
    pub params: Value,
    /// The digest under which the bytes of the script are stored; `None` for a module other than `script`.
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
        /// The digest under which the original bytes of the file are stored.
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
    /// The path was a file in which Towpath changes only some lines. Towpath does not restore the original lines.
    Part,
}

/// A replaced file whose `validate` command runs after the rename, and has not run yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unchecked {
    /// The `validate` command that must succeed.
    pub validate: String,
    /// The state of the path before the new file was renamed to the path.
    pub old: Original,
}

/// The state of an action's last run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ActionState {
    /// The action has started, but the end of the action is not recorded.
    Begun,
    /// The action has succeeded.
    Finished,
    /// The action has failed, and the agent retries the action.
    Failed,
}

/// The last run of an action.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ActionRecord {
    /// The keyed hash of the definition with which the action last ran.
    pub definition: String,
    /// The state of the last run.
    pub state: ActionState,
    /// The number of runs with the last definition that were interrupted.
    #[serde(default)]
    pub interrupted: u32,
    /// The last successful run of the action. The definition of the action may have changed since this run.
    #[serde(default)]
    pub finished: Option<FinishedAction>,
    /// The kernel's id of the boot in which a reboot action started; `None` for an action that does not reboot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot: Option<String>,
}

/// A successful run of an action.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FinishedAction {
    /// The keyed hash of the action's definition in the successful run.
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
    /// The digest under which the bytes of the script are stored; `None` for a module other than `script`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub script: Option<String>,
    /// The names of the tasks that notified the handler.
    pub by: BTreeSet<String>,
}

/// A run of a TaskBook on this node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunRecord {
    /// The name of the run.
    pub run: String,
    /// The namespace of the TaskBook.
    pub namespace: String,
    /// The name of the TaskBook.
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
