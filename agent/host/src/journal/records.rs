//! The types of the journal's records.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::attributes::Attributes;

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

/// One object that a book manages.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Managed {
    /// The module.
    pub module: String,
    /// The identity of the object within its module.
    pub identity: String,
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
