//! The journal record of one elected task.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::kinds::{self, Record};

/// The state of an elected task on this node: the node's own run of the task, and the result that the node uses.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ElectionRecord {
    /// The digest of the task definition that this node, as an elected node, has begun to run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub begun: Option<String>,
    /// The result that this node has published for the elected task.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub published: Option<PublishedResult>,
    /// The result that this node uses for the task, made from the results of all elected nodes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub used: Option<UsedResult>,
}

impl Record for ElectionRecord {
    type Kind = kinds::Election;
}

/// The result that a node has published for an elected task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PublishedResult {
    /// The digest of the task's definition.
    pub definition: String,
    /// True if the task succeeded.
    pub ok: bool,
    /// The value that the task registers.
    pub result: Value,
    /// The message of the task, if the task has a message.
    #[serde(default)]
    pub message: Option<String>,
}

/// The result that this node uses for an elected task, made from the results of all elected nodes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct UsedResult {
    /// The digest of the task's definition.
    pub definition: String,
    /// The registered value: the result of one node, or a map of results by node.
    pub result: Value,
}

/// A change of some fields of an election's record.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum ElectionEdit {
    Begun(String),
    Published(PublishedResult),
    Used(UsedResult),
    /// Removes the begun definition and the published result, because another node is elected.
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
