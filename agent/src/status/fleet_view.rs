//! Queries about the fleet: other nodes, their state, and the progress of rollouts.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use towpath_coordination::{
    Gate, NodeReport, Rollout,
    fleet::Fleet,
    gossip::{Gossip, core::Liveness},
    keys,
    store::StoreError,
};
use towpath_host::clock::rfc3339;
use towpath_proto::v1alpha as pb;
use towpath_render::objects::task::Book;
use towpath_state::{Changes, Journal, OtherNodes};

use super::{StatusSnapshot, published::PublishedState};
use crate::reconcile::{Revision, pass::Other, runs::Run};

/// The view that a node has of its fleet. All clones share the most recently read state of the other nodes.
#[derive(Debug, Clone)]
pub struct FleetView {
    status: StatusSnapshot,
    /// The fleet of the node. `fleet` is `None` in a command that only makes a plan.
    fleet: Option<Arc<Fleet>>,
    journal: Option<Arc<Journal>>,
    /// The gossip of the node. `gossip` is empty if the node does not take part in gossip.
    gossip: Arc<OnceLock<Gossip>>,
    /// The most recently read state of the other nodes, for templates.
    known: Arc<Mutex<Option<OtherNodes>>>,
}

/// The liveness of a node: one value from its lease in the data store, and one value from gossip.
#[derive(Debug, Clone, Copy)]
struct LivenessReport {
    lease: Liveness,
    gossip: Option<Liveness>,
}

impl LivenessReport {
    /// Returns the liveness from gossip, or from the lease if gossip does not know the node.
    fn liveness(self) -> &'static str {
        self.gossip.filter(|gossip| *gossip != Liveness::Unknown).unwrap_or(self.lease).name()
    }
}

/// Reads the state of the other nodes from the data store, for the template function `nodes()`.
fn read_other_nodes(fleet: &Fleet) -> Result<OtherNodes, StoreError> {
    let facts = fleet.rows(keys::ALL_FACTS)?.into_iter();
    let facts = facts.filter_map(|(node, facts)| Some((node, serde_json::from_slice(&facts).ok()?)));
    Ok(OtherNodes { alive: fleet.alive()?, joined: fleet.joined()?, facts: facts.collect() })
}

impl FleetView {
    /// Creates the view. Without a fleet the view shows this node only.
    pub(crate) fn new(
        status: StatusSnapshot,
        fleet: Option<Arc<Fleet>>,
        journal: Option<Arc<Journal>>,
        gossip: Arc<OnceLock<Gossip>>,
    ) -> Self {
        Self { status, fleet, journal, gossip, known: Arc::default() }
    }

    /// Returns the state of the other nodes for the template function `nodes()`. The data store is queried only if a
    /// template calls `nodes()`.
    ///
    /// While the data store does not answer, the function returns the most recently read state. The journal keeps the
    /// state across restarts of the agent. Rendered files continue to list the other nodes while the data store is
    /// unreachable (P92, P93). Liveness comes from gossip, even while the data store is unreachable.
    pub(crate) fn others(&self, revision: &Revision) -> BTreeMap<String, Other> {
        let Some(fleet) = self.fleet.as_ref().filter(|fleet| fleet.store().shared() && revision.reads_nodes()) else {
            return BTreeMap::new();
        };
        let known = match read_other_nodes(fleet) {
            Ok(known) => {
                self.save_other_nodes(&known);
                known
            }
            Err(error) => {
                tracing::debug!(%error, "cannot read the state of other nodes; using the last known state");
                self.last_other_nodes().unwrap_or_default()
            }
        };
        let other = |node: &String| {
            let liveness = self.liveness_report(node, Some(&known.alive), &known.joined).liveness();
            (node.clone(), Other { liveness, facts: known.facts.get(node).cloned() })
        };
        known.joined.iter().map(other).collect()
    }

    /// Returns the most recently read state of other nodes. Returns `None` if the node has never read the state of
    /// other nodes.
    fn last_other_nodes(&self) -> Option<OtherNodes> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).clone();
        known.or_else(|| self.journal.as_ref()?.get_readable(&()).ok().flatten())
    }

    /// Remembers the state of other nodes in memory, and in the journal if the state has changed.
    fn save_other_nodes(&self, known: &OtherNodes) {
        if self.last_other_nodes().as_ref() != Some(known)
            && let Some(journal) = &self.journal
        {
            let mut changes = Changes::default();
            changes.set(known);
            if let Err(error) = journal.commit(changes) {
                tracing::warn!(%error, "cannot keep the state of other nodes");
            }
        }
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = Some(known.clone());
    }

    /// Returns the liveness of a node, from its lease and from gossip.
    fn liveness_report(
        &self,
        node: &str,
        alive: Option<&BTreeSet<String>>,
        joined: &BTreeSet<String>,
    ) -> LivenessReport {
        let mine = node == self.status.node();
        let lease = match alive {
            _ if mine => Liveness::Alive,
            Some(alive) if alive.contains(node) => Liveness::Alive,
            Some(_) if joined.contains(node) => Liveness::Lost,
            _ => Liveness::Unknown,
        };
        let heard = |gossip: &Gossip| if mine { Liveness::Alive } else { gossip.liveness_of(node) };
        LivenessReport { lease, gossip: self.gossip.get().map(heard) }
    }

    /// Returns a summary of each node that the revision names, and of this node.
    pub fn nodes(&self) -> Vec<pb::NodeSummary> {
        let (state, revision) = (self.status.state(), self.status.revision());
        let fleet = self.fleet.as_ref().filter(|fleet| fleet.store().shared());
        let states = fleet.and_then(|fleet| fleet.rows(keys::ALL_STATES).ok()).unwrap_or_default();
        let alive = fleet.and_then(|fleet| fleet.alive().ok());
        let joined = fleet.and_then(|fleet| fleet.joined().ok()).unwrap_or_default();
        let joined = &joined;
        let summary = |name: &str, labels: BTreeMap<String, String>, address: Option<String>| {
            let mine = name == self.status.node();
            let published: Option<PublishedState> =
                states.get(name).and_then(|state| serde_json::from_slice(state).ok());
            let report = self.liveness_report(name, alive.as_ref(), joined);
            let shown = if mine { Some(PublishedState::of(&state)) } else { published };
            pb::NodeSummary {
                name: name.to_owned(),
                labels,
                liveness: report.liveness().into(),
                generation: shown.as_ref().map(|shown| shown.generation),
                ready: shown.as_ref().map(|shown| shown.ready),
                address,
                version: shown.map(|shown| shown.version),
                lease: fleet.map(|_| report.lease.name().to_owned()),
                gossip: report.gossip.map(|liveness| liveness.name().to_owned()),
            }
        };
        let mut nodes: Vec<pb::NodeSummary> = revision
            .iter()
            .flat_map(|revision| &revision.set.nodes)
            .map(|(name, node)| summary(name, node.labels.clone(), node.address.clone()))
            .collect();
        if !nodes.iter().any(|node| node.name == self.status.node()) {
            nodes.push(summary(self.status.node(), BTreeMap::new(), None));
        }
        nodes.sort_by(|a, b| a.name.cmp(&b.name));
        nodes
    }

    /// Returns the progress of the rollouts of all coordinated TaskBooks of a revision.
    pub fn rollouts(&self, revision: &Revision) -> Vec<pb::RolloutSummary> {
        let Some(fleet) = &self.fleet else { return Vec::new() };
        let alive = fleet.alive().ok();
        let joined = fleet.joined().unwrap_or_default();
        let liveness = |node: &str| self.liveness_report(node, alive.as_ref(), &joined).liveness();
        let states = self.states(fleet);
        let own = self.status.state().accepted.clone();
        let accepted = (own.generation == revision.id.generation).then_some(own.at);
        let mut rollouts = Vec::new();
        for book in revision.set.books.values() {
            let Some(run) = Run::of(&revision.set, &revision.id, &revision.manifest, book) else { continue };
            let reports = reports(&states, &book.id());
            let rollout = fleet.rollout(&run.budgets(), &liveness, &reports, accepted);
            rollouts.push(summary(book, &run.spec.run, revision.id.generation, rollout));
        }
        rollouts
    }

    /// Returns the published states of all other nodes, and the current state of this node.
    fn states(&self, fleet: &Fleet) -> BTreeMap<String, PublishedState> {
        let rows = fleet.rows(keys::ALL_STATES).unwrap_or_default();
        let read = |(node, row): (String, Vec<u8>)| Some((node, serde_json::from_slice(&row).ok()?));
        let mut states: BTreeMap<String, PublishedState> = rows.into_iter().filter_map(read).collect();
        states.insert(self.status.node().to_owned(), PublishedState::of(&self.status.state()));
        states
    }
}

/// Returns, for each node, the part of the published state that concerns one TaskBook.
fn reports(states: &BTreeMap<String, PublishedState>, book: &str) -> BTreeMap<String, NodeReport> {
    states.iter().filter_map(|(node, state)| Some((node.clone(), state.report(book)?))).collect()
}

fn summary(book: &Book, run: &str, generation: u64, rollout: Rollout) -> pb::RolloutSummary {
    let blocked = |gate: Gate| pb::BlockedBy {
        gate: gate.reason.name().to_owned(),
        since: gate.since.map(rfc3339),
        opens: gate.opens,
        action: gate.action,
    };
    let failed = rollout.failed.into_iter();
    let holding = rollout.holding.into_iter();
    pb::RolloutSummary {
        namespace: book.namespace.clone(),
        name: book.name.clone(),
        run: run.to_owned(),
        generation,
        phase: rollout.phase.to_owned(),
        segment: rollout.segment,
        segments: rollout.segments,
        wave: rollout.wave,
        waves: rollout.waves,
        total: rollout.total,
        done: rollout.done,
        skipped: rollout.skipped,
        failed: failed.map(|failed| pb::FailedNode { node: failed.node, message: failed.message }).collect(),
        holding: holding
            .map(|holder| pb::Holding {
                node: holder.node,
                since: holder.since.map(rfc3339),
                liveness: holder.liveness.to_owned(),
            })
            .collect(),
        waiting: rollout.waiting,
        blocked_by: rollout.blocked.into_iter().map(blocked).collect(),
    }
}
