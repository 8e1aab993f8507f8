//! Types of journal records. The types in this file do not depend on other crates.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use towpath_host::attributes::Attributes;

use crate::{
    keys::Managed,
    kinds::{self, Record},
};

/// Implements [`Record`] for each type in the list. In the list, the kind of the record follows the type.
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
    ActiveEvent: ActiveEvent;
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

/// The random key with which this node computes digests of values that may be secret.
#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct DigestKey(pub(crate) [u8; 32]);

/// The state of the other nodes at the agent's newest read of the data store. While the data store does not answer,
/// templates use the stored state of the other nodes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct OtherNodes {
    /// The names of the nodes that have a lease in the data store.
    pub alive: BTreeSet<String>,
    /// The names of all nodes that have joined the cluster at any time.
    pub joined: BTreeSet<String>,
    /// The facts that each node shares with the other nodes, by the name of the node.
    pub facts: BTreeMap<String, Value>,
}

/// The revisions that this node has rejected. Each rejected revision is a map from source to commit.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RejectedCandidates(pub BTreeSet<BTreeMap<String, String>>);

/// The highest data store revision that this node has seen, and the sequence number of this node's newest write.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "(u64, u64)", into = "(u64, u64)")]
pub struct StorePosition {
    /// The highest data store revision that this node has seen.
    pub revision: u64,
    /// The sequence number of this node's newest write to the data store.
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

/// The sequence numbers that the node has reserved for the records that the node signs. After a restart, the agent
/// signs records only with numbers above the reserved range.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RecordNumbers {
    /// The end of the reserved range of sequence numbers. The node signs records with sequence numbers below the end of
    /// the range.
    pub reserved: u64,
}

/// The serial numbers of all presented certificates that contain the same signing key, oldest first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PresentedCertificates(pub Vec<String>);

/// The newest accepted commit of a source. The agent compares the source with the accepted commit to detect a rewind of
/// the source (P29).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceCheckpoint {
    /// The URL and the ref of the source. The agent ignores the checkpoint after the URL or the ref of the source has
    /// changed.
    pub origin: String,
    /// The last accepted commit.
    pub commit: String,
    /// The tag of the accepted commit; `None` if the source does not follow tags.
    #[serde(default)]
    pub tag: Option<String>,
    /// True if this node has the commit only from other nodes, and not yet from the git server. A node that has not
    /// seen the commit on the git server proposes no rewind (P28).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unseen: bool,
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
    /// The state of an alarm, `firing` or `resolved`; `None` for any other event.
    pub state: Option<String>,
    /// The reason of the event, in one word.
    pub reason: Option<String>,
    /// The object that the event concerns, such as a TaskBook.
    pub object: Option<String>,
    /// The message of the event.
    pub message: String,
    /// Additional data of the event, for programs.
    pub data: BTreeMap<String, Value>,
}

/// An event that is still in effect, such as a firing alarm. The key of the journal record is the identity of the
/// event.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ActiveEvent {
    /// The UUID of the event.
    pub uuid: String,
    /// The event itself.
    pub event: StoredEvent,
}

/// A row of the local data store. The three fields of a row are the value in base64, the store revision that created
/// the row, and the store revision of the row's newest change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreRow(pub String, pub u64, pub u64);

/// The revision number of the local data store. Each change of the local data store increases the revision number.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StoreRevision(pub u64);

/// An accepted revision: a set of commits that the nodes apply.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Acceptance {
    /// The number of the revision.
    pub generation: u64,
    /// The digest of the acceptance record of the revision.
    pub digest: String,
    /// The commits of the revision, by source.
    pub commits: BTreeMap<String, String>,
    /// The time at which the revision was accepted, in milliseconds since 1970.
    pub at: i64,
}

/// A phase of the agent's work. The agent writes the phase to the journal before the phase starts.
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

/// The work that the agent is doing. The agent uses this record after a crash, to remove temporary files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intent {
    /// The phase of the work that the agent has started.
    pub phase: Phase,
    /// The name of the TaskBook that the agent is applying.
    pub book: String,
    /// The paths of the files that the agent writes. After a crash, temporary files may remain beside these paths.
    #[serde(default)]
    pub paths: Vec<String>,
}

impl Intent {
    /// Returns the record of an idle agent. `book` is the TaskBook that the agent has applied most recently.
    pub fn idle(book: String) -> Self {
        Self { phase: Phase::Idle, book, paths: Vec::new() }
    }
}

/// The task definition that the agent has applied to a managed object, and the way to undo the task.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppliedItem {
    /// The keyed hash of the definition of the applied task.
    pub definition: String,
    /// The generation of the revision that contains the applied task.
    pub generation: u64,
    /// The parameters that undo the task; `None` if the agent restores the original file instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undo: Option<Value>,
}

/// The objects that a TaskBook manages on this node, and the settings for the removal of the objects.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Inventory {
    /// The managed objects of the TaskBook.
    pub items: BTreeSet<Managed>,
    /// The field `prune` of the TaskBook: true if the agent removes objects that the TaskBook no longer mentions.
    pub prune: bool,
    /// The maximum number of objects that the agent removes in one pass, as a count or a percentage.
    pub budget: Option<String>,
    /// The stored rollout of the TaskBook; `None` if the TaskBook has no rollout, or does not remove objects.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rollout: Option<LastRollout>,
}

/// The stored rollout of a TaskBook. After the deletion of the TaskBook, the agent removes the TaskBook's objects by
/// the rules of the stored rollout.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LastRollout {
    /// The slots of the rollout; `None` if the nodes need no slots.
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
    /// The partition of each node in the budget, by the name of the node.
    pub partitions: BTreeMap<String, String>,
    /// The names of the nodes that the TaskBook targets.
    pub targets: BTreeSet<String>,
    /// The number of slots in each partition; `None` for no limit. Each slot allows one node to be disrupted.
    pub count: Option<u64>,
    /// The maximum number of failed nodes. The rollout halts when the number of failed nodes exceeds the maximum.
    pub max_failures: u64,
}

/// A stored task with its parameters. The agent can run the stored task even after the deletion of its TaskBook.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptTask {
    /// The name of the task.
    pub name: String,
    /// The module of the task.
    pub module: String,
    /// The module parameters of the task.
    pub params: Value,
    /// The digest under which the content of the script is stored; `None` if the module is not `script`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub script: Option<String>,
}

/// The original state of a path, before Towpath changed the path for the first time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "kind")]
pub enum Original {
    /// Nothing existed at the path.
    Nothing,
    /// The path was a regular file.
    File {
        /// The digest under which the original content of the file is stored.
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
    /// The path was a directory. Towpath never removes a directory that existed before the first change by Towpath.
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
    /// The path was a file in which Towpath changes only some lines. The journal does not contain the original lines of
    /// the file.
    Part,
}

/// A replaced file whose `validate` command has not run yet, because the command runs after the rename.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unchecked {
    /// The `validate` command that must succeed.
    pub validate: String,
    /// The state of the path before the file was replaced.
    pub old: Original,
}

/// The state of the newest run of an action.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ActionState {
    /// The action has started, but its end is not recorded.
    Begun,
    /// The action has succeeded.
    Finished,
    /// The action has failed, and the agent will retry the action.
    Failed,
}

/// The last run of an action.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ActionRecord {
    /// The keyed hash of the definition that the newest run of the action has used.
    pub definition: String,
    /// The state of the last run.
    pub state: ActionState,
    /// The number of interrupted runs of the action that used the same definition as the newest run.
    #[serde(default)]
    pub interrupted: u32,
    /// The newest successful run of the action. The definition of the action may have changed after the successful run.
    #[serde(default)]
    pub finished: Option<FinishedAction>,
    /// The kernel's boot id at the start of a reboot action; `None` if the action does not reboot the node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot: Option<String>,
}

/// A successful run of an action.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FinishedAction {
    /// The keyed hash of the definition that the successful run of the action has used.
    pub definition: String,
    /// The result that the action registered.
    pub result: Value,
}

/// A handler that a task has notified, and that has not succeeded since the notification.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HandlerRecord {
    /// The module of the handler at the time of the notification.
    pub module: String,
    /// The module parameters of the handler at the time of the notification.
    pub params: Value,
    /// The digest under which the content of the script is stored; `None` if the module is not `script`.
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
    /// The generation of the revision that the run has applied.
    pub generation: u64,
    /// The start of the run, in milliseconds since 1970.
    pub started: i64,
    /// The duration of the run, in seconds.
    pub took: f64,
    /// The worst outcome among the tasks of the run.
    pub outcome: String,
    /// The reports of the run's tasks. Each report contains the fields `name`, `module`, `outcome`, `changed`, `took`
    /// and `message`.
    pub tasks: Value,
}
