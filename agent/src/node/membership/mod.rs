//! Membership of a node in its fleet: joining, publishing the node's state, answering peers, and republishing claims.

mod certificates;
pub(super) mod identity;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use towpath_coordination::{
    Store,
    accept::{self, AcceptError},
    fleet::{Fleet, Joined, Wakeup},
    keys,
    store::StoreError,
};
use towpath_host::{Clock, identity::CertificateTerm, lock::StateDir};
use towpath_state::Journal;

use self::identity::NodeIdentity;
use super::{inbox::Inbox, writer::Effects};
use crate::{
    config::Settings,
    events::{EventType, NewEvent},
    reconcile::{
        PassFacts, Revision, machine_id,
        pass::{self, HostContext},
        runs::Run,
    },
    status::{
        PublishedState,
        conditions::{ConditionReason, Input, State},
        shared_facts,
    },
};

/// The time after which a node warns that no other node has joined the fleet.
const ALONE: Duration = Duration::from_secs(60);

/// The state and the shared facts that a node publishes to the other nodes.
type Published = (Vec<u8>, Option<serde_json::Value>);

/// The membership of a node in its fleet.
#[derive(Debug)]
pub(super) struct Membership {
    settings: Arc<Settings>,
    store: Arc<dyn Store>,
    fleet: Arc<Fleet>,
    identity: Arc<NodeIdentity>,
    clock: Arc<dyn Clock>,
    state_dir: StateDir,
    /// The state and the shared facts that this node most recently published to the other nodes.
    published: Option<Published>,
    /// The time at which the node was opened. `alone_since` is `None` with a local data store, or if another node has
    /// joined.
    alone_since: Option<Instant>,
    /// The certificate that this node used at the most recent check. The certificate is `None` before the first check,
    /// or for a node without a certificate.
    certificate: Option<CertificateTerm>,
}

impl Membership {
    pub(super) fn new(
        settings: Arc<Settings>,
        store: Arc<dyn Store>,
        fleet: Arc<Fleet>,
        identity: Arc<NodeIdentity>,
        clock: Arc<dyn Clock>,
        state_dir: StateDir,
    ) -> Self {
        let alone_since = store.shared().then(|| clock.monotonic());
        Self { settings, store, fleet, identity, clock, state_dir, published: None, alone_since, certificate: None }
    }

    pub(super) fn fleet(&self) -> &Fleet {
        &self.fleet
    }

    /// Returns true if the node shares its data store with other nodes.
    pub(super) fn is_shared(&self) -> bool {
        self.store.shared()
    }

    /// Returns whether the data store answers.
    pub(super) fn store_answers(&self) -> bool {
        accept::answers(self.store.as_ref())
    }

    /// Joins the fleet. After the node has joined, each broadcast of the fleet wakes the main loop. Without a shared
    /// data store, the fleet consists only of this process.
    pub(super) fn join(&self, inbox: &Inbox) -> Effects<'static> {
        let joined = Joined {
            node: self.settings.node.clone(),
            machine_id: machine_id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            public_keys: self.identity.keys().texts().to_vec(),
        };
        let inbox = inbox.clone();
        // Nodes without a shared data store poll the sources themselves.
        let shared = self.store.shared();
        self.fleet.join(joined, move |wakeup| {
            inbox.notify(|work| match wakeup {
                Wakeup::Accepted => work.accepted |= shared,
                Wakeup::Look => work.check = true,
            });
        });
        self.rejection()
    }

    /// Returns the state machine input that shows whether the fleet rejects this node.
    fn rejection(&self) -> Effects<'static> {
        let reason = if self.fleet.is_cloned() { "Cloned" } else { "Refused" };
        Effects::default().input(Input::Node("fleet", self.is_rejected().map(|why| ConditionReason::new(reason, why))))
    }

    /// Returns the reason why the fleet rejects this node. Returns `None` if the fleet accepts this node.
    pub(super) fn is_rejected(&self) -> Option<String> {
        let revoked = || {
            let why = self.identity.is_revoked()?;
            Some(format!(
                "this node is rejected: {why}; create a new identity for this node, or \
                correct the revocation or the key in git"
            ))
        };
        self.fleet.refused().or_else(revoked)
    }

    /// Sets the trusted keys and the rights that an adopted revision defines.
    pub(super) fn follow(&self, revision: &Revision) -> Effects<'static> {
        self.identity.follow(revision, &self.settings);
        let node = revision.set.nodes.get(&self.settings.node);
        self.fleet.give_keys(node.map(|node| node.public_keys.clone()).filter(|keys| !keys.is_empty()));
        self.rejection()
    }

    /// Sends the key of a sealed result to the nodes that requested the key.
    pub(super) fn answer(&self, revision: &Revision) {
        if !self.store.shared() || !self.fleet.is_asked() {
            return;
        }
        let spec_of = |id: &str| {
            let book = revision.set.books.values().find(|book| book.id() == id)?;
            Some(Run::of(&revision.set, &revision.id, &revision.manifest, book)?.spec)
        };
        if let Err(error) = self.fleet.answer(spec_of) {
            self.fleet.look_soon();
            tracing::warn!(%error, "cannot answer requests for the key of a result; retrying");
        }
    }

    /// Republishes the claims of this node after a rollback of the data store. The node makes no requests to the fleet
    /// until its claims are published again (P15).
    pub(super) fn republish_claims(
        &self,
        machine: &HostContext,
        journal: &Journal,
        revision: &Revision,
    ) -> Effects<'static> {
        if !self.fleet.needs_republish() {
            return Effects::default();
        }
        match pass::republish_claims(machine, journal, &self.fleet, revision) {
            Ok(true) => {
                let message = "the data store was restored from a backup; republished the claims of this node";
                Effects::default().events(vec![NewEvent::new(EventType::StoreRestored, message).because("Restored")])
            }
            Ok(false) => Effects::default(),
            Err(error) => {
                self.fleet.look_soon();
                tracing::warn!(%error, "cannot republish the claims of this node; retrying");
                Effects::default()
            }
        }
    }

    /// Returns an event for each rejected record of the data store. The node rejects a record if the writer has no
    /// permission for the record, or is not an agent of the fleet.
    pub(super) fn rejected_records(&self) -> Effects<'static> {
        let event = |(key, why): (String, String)| {
            let message = format!("ignored the record {key} in the data store: {why}");
            NewEvent::new(EventType::StoreRecordRejected, message).because("Rejected").with("key", key)
        };
        let events: Vec<NewEvent> = self.identity.refused().into_iter().map(event).collect();
        if events.is_empty() { Effects::default() } else { Effects::default().events(events) }
    }

    /// Returns the events about an expiring, renewed or revoked certificate.
    pub(super) fn certificate_events(&mut self) -> Effects<'static> {
        let term = self.identity.term();
        let firing = term.as_ref().and_then(|term| certificates::expiring(term, self.clock.wall() / 1000));
        let renewed =
            self.certificate.as_ref().zip(term.as_ref()).and_then(|(old, new)| certificates::renewed(old, new));
        let used = self.identity.revoked_uses();
        let revoked = used.iter().map(|used| certificates::revoked(used, used.name == self.settings.node));
        let events: Vec<NewEvent> = renewed.into_iter().chain(revoked).collect();
        self.certificate = term;
        let effects = if events.is_empty() { Effects::default() } else { Effects::default().events(events) };
        let is_about = |event: &NewEvent| event.event_type == EventType::CertificateExpiring;
        effects.alarms(is_about, firing.into_iter().collect())
    }

    /// Returns true if the state directory was deleted while the agent was running. A node without its state directory
    /// changes nothing.
    pub(super) fn has_lost_its_state(&self) -> bool {
        !self.state_dir.is_there()
    }

    /// Returns the state machine input that shows whether the state directory was lost.
    pub(super) fn of_lost_state(&self, lost: bool) -> Input {
        let message = format!(
            "the state directory {} was deleted or replaced while the agent runs; the agent makes no more changes. Put the directory back, or restart the agent, which then starts as a new node with a new key",
            self.state_dir.path().display()
        );
        Input::Node("state", lost.then(|| ConditionReason::new("StateLost", message)))
    }

    /// Returns an alarm if git names other nodes, but no other node has joined the cluster. The likely cause of the
    /// alarm is a misspelt cluster name in the bootstrap file.
    pub(super) fn warn_if_alone(&mut self, revision: &Revision) -> Effects<'static> {
        let is_about = |event: &NewEvent| event.event_type == EventType::NodeNeverJoined;
        let others = revision.set.nodes.keys().filter(|node| **node != self.settings.node).count();
        let long = |since| self.clock.monotonic().duration_since(since) >= ALONE;
        if others == 0 || self.alone_since.is_none() {
            return Effects::default().alarms(is_about, Vec::new());
        }
        if !self.alone_since.is_some_and(long) {
            return Effects::default();
        }
        let Ok(joined) = self.fleet.joined() else { return Effects::default() };
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
        Effects::default().alarms(is_about, firing)
    }

    /// Returns the state machine input that shows why the nodes cannot agree through the data store.
    pub(super) fn of_store_error(error: &AcceptError) -> Input {
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
        Input::Node("store", Some(ConditionReason::new(reason, format!("{error}; {rest}"))))
    }

    /// Publishes the state and the shared facts of this node, if the state or a fact has changed.
    pub(super) fn publish(&mut self, state: &State, revision: &Revision, facts: &PassFacts<'_>) {
        if !self.store.shared() {
            return;
        }
        let state = serde_json::to_vec(&PublishedState::of(state)).unwrap_or_default();
        let facts = revision.reads_nodes().then(|| shared_facts(facts.all(), &revision.shared_facts()));
        let published = (state.clone(), facts.clone());
        if self.published.as_ref() == Some(&published) {
            return;
        }
        let node = &self.settings.node;
        let mut done = self.fleet.publish(&keys::state(node), state);
        let before = self.published.as_ref().and_then(|(_, facts)| facts.clone());
        if let (Ok(()), Some(facts)) = (&done, facts.filter(|facts| Some(facts) != before.as_ref())) {
            done = self.fleet.publish(&keys::facts(node), serde_json::to_vec(&facts).unwrap_or_default());
        }
        match done {
            Ok(()) => self.published = Some(published),
            Err(error) => {
                // The next pass publishes the state and the facts again, even in the steady state.
                self.published = None;
                self.fleet.look_soon();
                tracing::debug!(%error, "cannot publish the state of this node; retrying");
            }
        }
    }

    /// Returns false if this node must publish its state, for example because the data store has lost the state.
    pub(super) fn has_published(&self) -> bool {
        self.published.is_some()
    }

    /// Marks the state of the node as not published, because the data store has lost the state. The next pass publishes
    /// the state of the node again.
    pub(super) fn forget_published(&mut self) {
        self.published = None;
    }
}
