//! The records of the journal, and their keys.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::attributes::Attributes;

/// A revision that the node has accepted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Acceptance {
    /// Its number.
    pub generation: u64,
    /// Its commits, by source.
    pub commits: BTreeMap<String, String>,
    /// When (milliseconds since 1970).
    pub at: i64,
}

/// What the agent is doing now, written before it does it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Templates are filled and resources are checked.
    Render,
    /// New files are written beside their places.
    Write,
    /// They are brought to the disk.
    Sync,
    /// They are renamed into their places.
    Rename,
    /// An action runs.
    Action,
    /// A handler runs.
    Handler,
    /// Nothing is being done.
    Idle,
}

/// An effect that has begun: after a crash it is looked at again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intent {
    /// What is being done.
    pub phase: Phase,
    /// The book.
    pub book: String,
    /// The paths whose temporary files may be left.
    #[serde(default)]
    pub paths: Vec<String>,
}

/// The last value that was applied to one managed thing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppliedItem {
    /// A keyed hash of what the task asked for.
    pub definition: String,
    /// The revision that it was applied at.
    pub generation: u64,
    /// What undoes it where putting back a file does not: the parameters of its module.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undo: Option<Value>,
}

/// One thing that a book manages.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Managed {
    /// The module.
    pub module: String,
    /// Its identity.
    pub identity: String,
}

/// Everything that a book manages on this node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Inventory {
    /// What it manages, with what is needed to undo it.
    pub items: BTreeSet<Managed>,
    /// Whether the book, as it last was, removes what it no longer mentions.
    pub prune: bool,
    /// How much of it may be removed in one pass: a count or a percentage.
    pub budget: Option<String>,
}

/// What was at a path before Towpath came.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "kind")]
pub enum Original {
    /// Nothing.
    Nothing,
    /// A file.
    File {
        /// The name under which its bytes are kept.
        content: String,
        /// Its permissions.
        mode: u32,
        /// Its owner.
        uid: u32,
        /// Its group.
        gid: u32,
        /// Its extended attributes.
        #[serde(default, skip_serializing_if = "Attributes::is_empty")]
        attributes: Attributes,
    },
    /// A directory, which is never removed.
    Directory {
        /// Its permissions.
        mode: u32,
        /// Its owner.
        uid: u32,
        /// Its group.
        gid: u32,
    },
    /// A symbolic link.
    Link {
        /// What it pointed to.
        target: String,
    },
    /// Lines of a file that were changed: they are not put back one by one.
    Part,
}

/// A file that is checked only once it is in its place, and has not been checked yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unchecked {
    /// The command that must succeed.
    pub validate: String,
    /// What was there before.
    pub old: Original,
}

/// Whether an action has finished.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ActionState {
    /// It was begun, and its end was not seen.
    Begun,
    /// It has ended.
    Finished,
    /// It has ended badly, and is tried again.
    Failed,
}

/// The last run of an action.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ActionRecord {
    /// A keyed hash of the definition that was tried last.
    pub definition: String,
    /// How far it came.
    pub state: ActionState,
    /// How often a run of this definition was cut off.
    #[serde(default)]
    pub interrupted: u32,
    /// The last run that came to a good end, which may be of another definition.
    #[serde(default)]
    pub finished: Option<FinishedAction>,
    /// Of a reboot: the boot in which it was begun.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot: Option<String>,
}

/// A run of an action that came to a good end.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FinishedAction {
    /// A keyed hash of its definition.
    pub definition: String,
    /// Its result.
    pub result: Value,
}

/// A handler that was notified and has not succeeded since.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HandlerRecord {
    /// Its module, in the form that was notified.
    pub module: String,
    /// Its parameters, in the form that was notified.
    pub params: Value,
    /// Of a script: the name under which its bytes are kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub script: Option<String>,
    /// The tasks that notified it.
    pub by: BTreeSet<String>,
}

/// One run of a book.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunRecord {
    /// Its name.
    pub run: String,
    /// The book's namespace.
    pub namespace: String,
    /// The book's name.
    pub name: String,
    /// The revision.
    pub generation: u64,
    /// When it began (milliseconds since 1970).
    pub started: i64,
    /// How long it took, in seconds.
    pub took: f64,
    /// The worst outcome of its tasks.
    pub outcome: String,
    /// Its tasks: name, module, outcome, changed, took, message.
    pub tasks: Value,
}
