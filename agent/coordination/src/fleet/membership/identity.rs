//! The identity of a node: its join record, its public keys in git, and the reasons for its rejection by the fleet.

use super::records::{Joined, same_keys};

/// The identity of a node: its join record, its public keys in git, and the reasons for its rejection by the fleet.
#[derive(Debug, Default)]
pub(super) struct Identity {
    /// The join record of this node. `None` if the node has not begun to join.
    joined: Option<Joined>,
    /// True if this agent process has written its `Agent` record to the store.
    presented: bool,
    /// The public keys that the Node object in git lists for this node. `None` if git lists none.
    listed_keys: Option<Vec<String>>,
    /// The reason why this node is rejected until its process ends, if another agent uses the node's name.
    namesake: Option<String>,
    /// The reason why the fleet rejects the key of this node.
    refused: Option<String>,
}

impl Identity {
    /// Sets the join record of this node. Returns false if the node has already begun to join.
    pub(super) fn begin(&mut self, joined: &Joined) -> bool {
        let first = self.joined.is_none();
        if first {
            self.joined = Some(joined.clone());
        }
        first
    }

    /// Returns the join record of this node. `None` if the node has not begun to join.
    pub(super) fn joined(&self) -> Option<&Joined> {
        self.joined.as_ref()
    }

    /// Records that this agent process has written its `Agent` record to the store.
    pub(super) fn present(&mut self) {
        self.presented = true;
    }

    /// Returns true if this agent process has written its `Agent` record to the store.
    pub(super) fn is_presented(&self) -> bool {
        self.presented
    }

    /// Sets the public keys that git lists for this node. Returns true if the list of keys has changed.
    pub(super) fn set_listed_keys(&mut self, keys: Option<Vec<String>>) -> bool {
        let changed = self.listed_keys != keys;
        self.listed_keys = keys;
        changed
    }

    /// Returns true if git lists public keys for this node that differ from the node's own keys.
    pub(super) fn is_given_other_keys(&self) -> bool {
        let own = self.joined.as_ref().map(|joined| joined.public_keys.as_slice()).unwrap_or_default();
        self.listed_keys.as_ref().is_some_and(|listed_keys| !same_keys(listed_keys, own))
    }

    /// Returns the public keys that git lists for this node. `None` if git lists none.
    pub(super) fn listed_keys(&self) -> Option<&Vec<String>> {
        self.listed_keys.as_ref()
    }

    /// Sets the reason why the fleet rejects the key of this node. `None` if the fleet accepts the key of this node.
    pub(super) fn refuse(&mut self, why: Option<String>) {
        self.refused = why;
    }

    /// Returns the reason why the fleet rejects the key of this node.
    pub(super) fn refused(&self) -> Option<&String> {
        self.refused.as_ref()
    }

    /// Records that another agent runs under the name of this node. Returns true at the first call only.
    pub(super) fn note_namesake(&mut self, why: String) -> bool {
        self.namesake.replace(why).is_none()
    }

    /// Returns the reason for the rejection of this node if another agent uses the node's name.
    pub(super) fn namesake(&self) -> Option<&String> {
        self.namesake.as_ref()
    }

    /// Returns the reason why the fleet rejects this node. `None` if the fleet does not reject this node.
    pub(super) fn rejected(&self) -> Option<&String> {
        self.namesake.as_ref().or(self.refused.as_ref())
    }
}
