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
    /// The combined result that this node uses for the elected task. The combined result contains the results of all
    /// elected nodes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub used: Option<UsedResult>,
}

impl Record for ElectionRecord {
    type Kind = kinds::Election;
}

/// The result that an elected node has published for an elected task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PublishedResult {
    /// The digest of the task's definition.
    pub definition: String,
    /// True if the task succeeded.
    pub ok: bool,
    /// The registered result of the task.
    pub result: Value,
    /// The message of the task; `None` for no message.
    #[serde(default)]
    pub message: Option<String>,
}

/// The combined result that this node uses for an elected task. The combined result contains the results of all elected
/// nodes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct UsedResult {
    /// The digest of the task's definition.
    pub definition: String,
    /// The registered result of the task. If several nodes are elected, the value is a map from the name of each
    /// elected node to the result of the node.
    pub result: Value,
}

/// A change of some fields in the record of an election.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum ElectionEdit {
    Begun(String),
    Published(PublishedResult),
    Used(UsedResult),
    /// Removes the digest of the started task and the published result, because this node is not elected any more.
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
