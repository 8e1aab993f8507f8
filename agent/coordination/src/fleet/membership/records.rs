//! The records that a node writes to join the fleet, and the public keys in these records.

use serde::{Deserialize, Serialize};
use towpath_host::identity::PublicKeys;

/// The join record of a node (P109).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Joined {
    /// The name of the node.
    pub node: String,
    /// The machine id of the node, from `/etc/machine-id`.
    pub machine_id: String,
    /// The version of the node's agent.
    pub version: String,
    /// The public keys of the node's identity.
    pub public_keys: Vec<String>,
}

/// The record that shows that a node is alive. The store deletes the record when the lease of the node ends.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Alive<'a> {
    pub(super) version: &'a str,
    pub(super) public_keys: &'a [String],
}

/// The record of the agent process that runs under a node's name.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Agent {
    /// The identifier of the agent process. The identifier changes with each start of the agent.
    pub(super) id: String,
    /// The machine id of the node.
    pub(super) machine_id: String,
}

/// Returns true if two lists of public keys contain the same signing key.
pub(super) fn same_keys(one: &[String], other: &[String]) -> bool {
    match (PublicKeys::read(one), PublicKeys::read(other)) {
        (Some(one), Some(other)) => one.sign == other.sign,
        _ => one == other,
    }
}

/// Returns the message for a node that is rejected because of the node's public key, with the remedy (P145).
pub(super) fn other_key(node: &str, joined: &Joined, why: &str) -> String {
    let keys = joined.public_keys.iter().map(|key| format!("{key:?}")).collect::<Vec<_>>().join(", ");
    format!(
        "this node is rejected as {node}: {why}. If this machine is meant to be {node}, commit its keys to the Node object {node}: spec: {{publicKeys: [{keys}]}}; that commit also permits {node} to repeat the tasks that the former {node} had begun. Otherwise give this machine another name"
    )
}
