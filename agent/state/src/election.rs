//! The record of one elected task.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::kinds::{self, Record};

/// An elected task on this node: begun and published if the node was elected, and the results that it uses.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ElectionRecord {
    /// The digest of the definition that this node was elected for and has begun.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub begun: Option<String>,
    /// The result that this node has published.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub published: Option<PublishedResult>,
    /// The result of all elected nodes, as this node uses it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub used: Option<UsedResult>,
}

impl Record for ElectionRecord {
    type Kind = kinds::Election;
}

/// The result that a node has published for an elected task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PublishedResult {
    /// The digest of the definition.
    pub definition: String,
    /// True if the task succeeded.
    pub ok: bool,
    /// The value of the result.
    pub result: Value,
    /// The message of the task, if it has one.
    #[serde(default)]
    pub message: Option<String>,
}

/// The result of the elected nodes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct UsedResult {
    /// The digest of the definition.
    pub definition: String,
    /// The value: the result of one node, or the results of several by node.
    pub result: Value,
}

/// A change of some fields.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum ElectionEdit {
    Begun(String),
    Published(PublishedResult),
    Used(UsedResult),
    /// Another node is elected.
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
