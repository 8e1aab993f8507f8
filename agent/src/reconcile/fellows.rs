//! Membership of a node in its fleet: joining, answering peers, and republishing claims.

use std::time::Duration;

use towpath_coordination::{
    accept::AcceptError,
    fleet::{Joined, Poke},
    store::StoreError,
};

use super::{
    conditions::{Input, Trouble},
    node::Node,
    pass,
    revision::Revision,
    runs::Run,
};
use crate::events::{EventType, NewEvent};

/// The time after which a node warns that no other node has joined the fleet.
const ALONE: Duration = Duration::from_secs(60);

impl Node {
    /// Joins the fleet, and wakes the main loop for broadcasts of the fleet. Without a shared data store, the fleet is
    /// only this process.
    pub(super) fn join(&mut self) {
        let joined = Joined {
            node: self.settings.node.clone(),
            machine_id: super::facts::machine_id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            public_keys: self.speech.keys().texts().to_vec(),
        };
        let queue = self.queue.clone();
        // Nodes without a shared data store poll the sources themselves.
        let shared = self.store.shared();
        self.fleet.join(joined, move |poke| {
            queue.poke(|wake| match poke {
                Poke::Accepted => wake.accepted |= shared,
                Poke::Look => wake.check = true,
            });
        });
        self.step_fleet();
    }

    /// Updates the condition that shows whether the fleet rejects this node.
    pub(super) fn step_fleet(&mut self) {
        let refused = self.is_rejected();
        let reason = if self.fleet.is_cloned() { "Cloned" } else { "Refused" };
        self.step(Input::Own("fleet", refused.map(|why| Trouble::new(reason, why))));
    }

    /// Returns the reason why the fleet rejects this node. `None` if the fleet accepts this node.
    pub(super) fn is_rejected(&self) -> Option<String> {
        let revoked = || {
            let why = self.speech.is_revoked()?;
            Some(format!(
                "this node is rejected: {why}; create a new identity for this node, or remove the entry from git"
            ))
        };
        self.fleet.refused().or_else(revoked)
    }

    /// Sends the key of a sealed result to the nodes that requested the key.
    pub(super) fn answer(&self, revision: &Revision) {
        if !self.store.shared() || !self.fleet.is_asked() {
            return;
        }
        let spec_of = |id: &str| {
            let book = revision.set.books.values().find(|book| book.id() == id)?;
            Some(Run::of(&revision.set, revision.generation, &revision.manifest, book)?.spec)
        };
        if let Err(error) = self.fleet.answer(spec_of) {
            self.fleet.look_soon();
            tracing::warn!(%error, "cannot answer requests for the key of a result; retrying");
        }
    }

    /// Republishes the claims of this node after a rollback of the data store. The node makes no requests before the
    /// claims are published (P15).
    pub(super) fn republish_claims(&mut self, revision: &Revision) {
        if !self.fleet.needs_republish() {
            return;
        }
        match pass::republish_claims(&self.machine, &self.journal, &self.fleet, revision) {
            Ok(true) => {
                let message = "the data store was restored from a backup; republished the claims of this node";
                self.record_events(vec![NewEvent::new(EventType::StoreRestored, message).because("Restored")]);
            }
            Ok(false) => {}
            Err(error) => {
                self.fleet.look_soon();
                tracing::warn!(%error, "cannot republish the claims of this node; retrying");
            }
        }
    }

    /// Records an event for each rejected record of the data store. The writer of such a record lacks the permission,
    /// or is not an agent of the fleet.
    pub(super) fn report_rejected_records(&self) {
        for (key, why) in self.speech.refused() {
            let message = format!("ignored the record {key} in the data store: {why}");
            let event = NewEvent::new(EventType::StoreRecordRejected, message).because("Rejected");
            self.record_events(vec![event.with("key", key)]);
        }
    }

    /// Returns whether the state directory was deleted while the agent runs. A node without its state directory changes
    /// nothing.
    pub(super) fn has_lost_its_state(&mut self) -> bool {
        let lost = !self.state_dir.is_there();
        if lost || self.state.troubles.contains_key("node state") {
            let message = format!(
                "the state directory {} was deleted or replaced while the agent runs; the agent makes no more changes. Put the directory back, or restart the agent, which then starts as a new node with a new key",
                self.state_dir.path().display()
            );
            self.step(Input::Own("state", lost.then(|| Trouble::new("StateLost", message))));
        }
        lost
    }

    /// Sets an alarm if git names other nodes and no other node has joined this cluster. The name of the cluster may
    /// then be misspelt.
    pub(super) fn warn_if_alone(&mut self, revision: &Revision) {
        let others = revision.set.nodes.keys().filter(|node| **node != self.settings.node).count();
        let long = |since| self.clock.monotonic().duration_since(since) >= ALONE;
        if others == 0 || self.alone_since.is_none() {
            self.set_alarms(|event| event.event_type == EventType::NodeNeverJoined, Vec::new());
            return;
        }
        if !self.alone_since.is_some_and(long) {
            return;
        }
        let Ok(joined) = self.fleet.joined() else { return };
        let is_alone = joined.iter().all(|node| *node == self.settings.node);
        let mut firing = Vec::new();
        if !is_alone {
            self.alone_since = None;
        } else {
            let message = format!(
                "git names {others} other nodes, and none of them has joined the cluster {} in the data store; check `cluster` in the agent.yaml of all nodes",
                self.settings.cluster
            );
            firing.push(NewEvent::new(EventType::NodeNeverJoined, message).because("Alone"));
        }
        self.set_alarms(|event| event.event_type == EventType::NodeNeverJoined, firing);
    }

    /// Updates the condition that shows why the data store cannot be used for agreement.
    pub(super) fn store_failed(&mut self, error: &AcceptError) {
        let (reason, rest) = match error {
            AcceptError::Store(StoreError::Full { .. }) => (
                "StoreFull",
                "rollouts are paused; they resume when the data store has space. Content drift is still corrected",
            ),
            AcceptError::Store(_) | AcceptError::Unwritable(_) => (
                "StoreUnreachable",
                "rollouts are paused; they resume when the data store answers. Content drift is still corrected",
            ),
            AcceptError::TooOld(_) | AcceptError::OtherOrigin { .. } | AcceptError::Weaker { .. } => {
                ("Refused", "this node accepts no revision and keeps applying its last good one")
            }
        };
        self.step(Input::Own("store", Some(Trouble::new(reason, format!("{error}; {rest}")))));
    }
}
