//! The journal record of one elected task.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::kinds::{self, Record};

/// The state of an elected task on this node. An elected node runs the task, and every node uses the result.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ElectionRecord {
    /// The digest of the task's definition, if this node is elected and has begun to run the task.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub begun: Option<String>,
    /// The result that this node has published for the elected task.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub published: Option<PublishedResult>,
    /// The result of the task that this node uses. The result combines the results of all elected nodes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub used: Option<UsedResult>,
}

impl Record for ElectionRecord {
    type Kind = kinds::Election;
}

/// The result of an elected task that an elected node has published.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PublishedResult {
    /// The digest of the task's definition.
    pub definition: String,
    /// True if the task succeeded.
    pub ok: bool,
    /// The value that the task registers.
    pub result: Value,
    /// The message of the task; `None` for no message.
    #[serde(default)]
    pub message: Option<String>,
}

/// The result of an elected task that this node uses. The result combines the results of all elected nodes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct UsedResult {
    /// The digest of the task's definition.
    pub definition: String,
    /// The value that the task registers. The value is the result of the elected node, or a map from node to result if
    /// several nodes are elected.
    pub result: Value,
}

/// A change of some fields in the record of an election.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum ElectionEdit {
    Begun(String),
    Published(PublishedResult),
    Used(UsedResult),
    /// Removes the begun definition and the published result, because this node is not elected any more.
    Forgotten,
}

impl ElectionEdit {
    pub(crate) fn apply(self, record: &mut ElectionRecord) {
        match self {
            Self::Begun(definition) => record.begun = Some(definition),
            Self::Published(result) => record.published = Some(result),
            Self::Used(result) => record.used = Some(result),
            Self::Forgotten => (record.begun, record.published) = (None, None),
        }
    }
}
