//! Queries about the fleet: other nodes, their state, and the progress of rollouts.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use towpath_coordination::{
    Gate, GateReason, NodeReport, Rollout,
    fleet::Fleet,
    gossip::{Gossip, core::Liveness},
    keys,
    store::StoreError,
};
use towpath_git::Mirror;
use towpath_host::clock::rfc3339;
use towpath_proto::v1alpha as pb;
use towpath_render::objects::task::Book;
use towpath_state::{Changes, OtherNodes};

use super::{
    conditions::State,
    facts::PassFacts,
    handle::{Handle, NoAnswer},
    node::Node,
    pass::Other,
    revision::Revision,
    runs::Run,
};

/// The state that a node publishes for other nodes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Shown {
    generation: u64,
    ready: bool,
    version: String,
    /// The generation that the node has loaded.
    accepted: Option<u64>,
    /// The closed gates of the node that the data store does not show, by TaskBook.
    held: BTreeMap<String, Vec<ShownGate>>,
}

impl Shown {
    /// Builds the published state from the state of this node.
    fn of(state: &State) -> Self {
        Self {
            generation: state.applied.as_ref().map_or(0, |applied| applied.generation),
            ready: state.is_applied(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            accepted: Some(state.accepted.generation),
            held: shown_gates(state),
        }
    }
}

impl Node {
    /// Publishes the state and the shared facts of this node, if either has changed.
    pub(super) fn show_others(&mut self, facts: &PassFacts<'_>) {
        let Some(revision) = self.revision.clone().filter(|_| self.store.shared()) else { return };
        let state = serde_json::to_vec(&Shown::of(&self.state)).unwrap_or_default();
        let facts = revision.reads_nodes().then(|| shared(facts.all(), &revision.shared_facts()));
        let published = (state.clone(), facts.clone());
        if self.last_published.as_ref() == Some(&published) {
            return;
        }
        let node = &self.settings.node;
        let mut done = self.fleet.publish(&keys::state(node), state);
        let before = self.last_published.as_ref().and_then(|(_, facts)| facts.clone());
        if let (Ok(()), Some(facts)) = (&done, facts.filter(|facts| Some(facts) != before.as_ref())) {
            done = self.fleet.publish(&keys::facts(node), serde_json::to_vec(&facts).unwrap_or_default());
        }
        match done {
            Ok(()) => self.last_published = Some(published),
            Err(error) => {
                // The next pass publishes the state and the facts again, even in the steady state.
                self.last_published = None;
                self.fleet.look_soon();
                tracing::debug!(%error, "cannot publish the state of this node; retrying");
            }
        }
    }
}

/// The liveness of a node, as seen by its lease in the data store and by gossip.
#[derive(Debug, Clone, Copy)]
struct Opinions {
    lease: Liveness,
    gossip: Option<Liveness>,
}

impl Opinions {
    /// Returns the liveness by gossip. If gossip does not know the node, returns the liveness by the lease.
    fn liveness(self) -> &'static str {
        self.gossip.filter(|gossip| *gossip != Liveness::Unknown).unwrap_or(self.lease).name()
    }
}

/// Returns the facts that other nodes may read, selected by name.
fn shared(facts: &Value, names: &[String]) -> Value {
    Value::Object(names.iter().filter_map(|name| Some((name.clone(), facts.get(name)?.clone()))).collect::<Map<_, _>>())
}

/// Reads the state of the other nodes from the data store, for the template function `nodes()`.
fn read_others(fleet: &Fleet) -> Result<OtherNodes, StoreError> {
    let facts = fleet.rows(keys::ALL_FACTS)?.into_iter();
    let facts = facts.filter_map(|(node, facts)| Some((node, serde_json::from_slice(&facts).ok()?)));
    Ok(OtherNodes { alive: fleet.alive()?, joined: fleet.joined()?, facts: facts.collect() })
}

impl Handle {
    /// Returns the state of the other nodes for the template function `nodes()`. The data store is queried only if a
    /// template calls `nodes()`.
    ///
    /// While the data store does not answer, the last known state is used, even after a restart of the agent. Files
    /// that list other nodes therefore keep these nodes (P92, P93). Liveness still comes from gossip.
    pub(super) fn others(&self, revision: &Revision) -> BTreeMap<String, Other> {
        let Some(fleet) = self.shared.fleet.as_ref().filter(|fleet| fleet.store().shared() && revision.reads_nodes())
        else {
            return BTreeMap::new();
        };
        let known = match read_others(fleet) {
            Ok(known) => {
                self.keep_others(&known);
                known
            }
            Err(error) => {
                tracing::debug!(%error, "cannot read the state of other nodes; using the last known state");
                self.last_others().unwrap_or_default()
            }
        };
        let other = |node: &String| {
            let liveness = self.opinions(node, Some(&known.alive), &known.joined).liveness();
            (node.clone(), Other { liveness, facts: known.facts.get(node).cloned() })
        };
        known.joined.iter().map(other).collect()
    }

    /// Returns the last known state of other nodes. `None` if the state was never read.
    fn last_others(&self) -> Option<OtherNodes> {
        let known = self.lock().others.clone();
        known.or_else(|| self.shared.machine.journal.as_ref()?.get_readable(&()).ok().flatten())
    }

    /// Remembers the state of other nodes in memory, and in the journal if the state has changed.
    fn keep_others(&self, known: &OtherNodes) {
        if self.last_others().as_ref() != Some(known)
            && let Some(journal) = &self.shared.machine.journal
        {
            let mut changes = Changes::default();
            changes.set(known);
            if let Err(error) = journal.commit(changes) {
                tracing::warn!(%error, "cannot keep the state of other nodes");
            }
        }
        self.lock().others = Some(known.clone());
    }

    /// Returns the liveness of a node, as seen by its lease and by gossip.
    fn opinions(&self, node: &str, alive: Option<&BTreeSet<String>>, joined: &BTreeSet<String>) -> Opinions {
        let mine = node == self.shared.node;
        let lease = match alive {
            _ if mine => Liveness::Alive,
            Some(alive) if alive.contains(node) => Liveness::Alive,
            Some(_) if joined.contains(node) => Liveness::Lost,
            _ => Liveness::Unknown,
        };
        let heard = |gossip: &Gossip| if mine { Liveness::Alive } else { gossip.opinion(node) };
        Opinions { lease, gossip: self.shared.gossip.get().map(heard) }
    }

    /// Connects the gossip with this node and its fleet.
    pub fn hear(&self, gossip: Gossip) {
        if let Some(fleet) = &self.shared.fleet {
            fleet.hear(gossip.clone());
        }
        let _ = self.shared.gossip.set(gossip);
        self.tell_gossip();
    }

    /// Passes the addresses of the other nodes and the accepted revision to the gossip.
    pub(super) fn tell_gossip(&self) {
        let (Some(gossip), Some(revision)) = (self.shared.gossip.get(), self.lock().revision.clone()) else { return };
        let others = revision.set.nodes.iter().filter(|(name, _)| **name != self.shared.node);
        gossip.seeds(others.filter_map(|(name, node)| Some((name.clone(), node.address.clone()?))).collect());
        gossip.accepted(revision.generation, revision.record.digest());
    }

    /// Announces through gossip that this node leaves the fleet.
    pub(super) fn leave_gossip(&self) {
        if let Some(gossip) = self.shared.gossip.get() {
            gossip.leave();
        }
    }

    /// Passes a message from an authenticated node to the gossip.
    ///
    /// # Errors
    /// Fails if this node has no gossip, or if the revision does not name the sender.
    pub fn gossip(&self, from: &str, message: Vec<u8>) -> Result<(), NoAnswer> {
        let Some(gossip) = self.shared.gossip.get() else { return Err(NoAnswer("this node has no gossip".into())) };
        // Before the first revision the nodes are not known, so the certificate of the sender is sufficient.
        if self.names_node(from) == Some(false) {
            return Err(NoAnswer(format!("there is no Node {from} in git")));
        }
        gossip.receive(from, message);
        Ok(())
    }

    /// Returns the record and the manifest of the accepted revision, for peers.
    ///
    /// # Errors
    /// Fails if no revision has been accepted.
    pub fn acceptance(&self) -> Result<pb::AcceptanceReply, NoAnswer> {
        let revision = self.revision()?;
        let unreadable = |error: serde_json::Error| NoAnswer(error.to_string());
        Ok(pb::AcceptanceReply {
            record: serde_json::to_vec(&revision.record).map_err(unreadable)?,
            manifest: serde_json::to_vec(&revision.manifest).map_err(unreadable)?,
        })
    }

    /// Returns the mirror that contains a commit of the accepted revision. Peers cannot fetch other commits.
    ///
    /// # Errors
    /// Fails if the commit does not belong to the accepted revision.
    pub fn mirror(&self, source: &str, commit: &str) -> Result<Arc<Mirror>, NoAnswer> {
        let view = self.lock();
        let accepted = view.revision.as_ref().and_then(|revision| revision.commits.get(source));
        match view.mirrors.get(source) {
            Some(mirror) if accepted.is_some_and(|accepted| accepted == commit) => Ok(Arc::clone(mirror)),
            _ => Err(NoAnswer(format!("the revision of this node does not have {source} at {commit}"))),
        }
    }

    /// Returns a summary of each node that the revision names, and of this node.
    pub fn nodes(&self) -> Vec<pb::NodeSummary> {
        let (state, revision) = {
            let view = self.lock();
            (view.state.clone(), view.revision.clone())
        };
        let fleet = self.shared.fleet.as_ref().filter(|fleet| fleet.store().shared());
        let states = fleet.and_then(|fleet| fleet.rows(keys::ALL_STATES).ok()).unwrap_or_default();
        let alive = fleet.and_then(|fleet| fleet.alive().ok());
        let joined = fleet.and_then(|fleet| fleet.joined().ok()).unwrap_or_default();
        let joined = &joined;
        let summary = |name: &str, labels: BTreeMap<String, String>, address: Option<String>| {
            let mine = name == self.shared.node;
            let published: Option<Shown> = states.get(name).and_then(|state| serde_json::from_slice(state).ok());
            let opinions = self.opinions(name, alive.as_ref(), joined);
            let shown = if mine { Some(Shown::of(&state)) } else { published };
            pb::NodeSummary {
                name: name.to_owned(),
                labels,
                liveness: opinions.liveness().into(),
                generation: shown.as_ref().map(|shown| shown.generation),
                ready: shown.as_ref().map(|shown| shown.ready),
                address,
                version: shown.map(|shown| shown.version),
                lease: fleet.map(|_| opinions.lease.name().to_owned()),
                gossip: opinions.gossip.map(|opinion| opinion.name().to_owned()),
            }
        };
        let mut nodes: Vec<pb::NodeSummary> = revision
            .iter()
            .flat_map(|revision| &revision.set.nodes)
            .map(|(name, node)| summary(name, node.labels.clone(), node.address.clone()))
            .collect();
        if !nodes.iter().any(|node| node.name == self.shared.node) {
            nodes.push(summary(&self.shared.node, BTreeMap::new(), None));
        }
        nodes.sort_by(|a, b| a.name.cmp(&b.name));
        nodes
    }
}

/// The maximum number of gates that a node publishes.
const GATES: usize = 16;
/// The maximum length of the message of a published gate, in characters.
const MESSAGE: usize = 300;

/// A gate that a node publishes for other nodes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct ShownGate {
    gate: String,
    since: Option<i64>,
    opens: String,
    action: Option<String>,
}

impl ShownGate {
    fn read(self) -> Gate {
        Gate { since: self.since, action: self.action, ..Gate::new(GateReason::named(&self.gate), self.opens) }
    }
}

/// Returns the closed gates of a node that the data store does not show, by TaskBook.
fn shown_gates(state: &State) -> BTreeMap<String, Vec<ShownGate>> {
    let mut shown: BTreeMap<String, Vec<ShownGate>> = BTreeMap::new();
    for hold in state.holds.values().filter(|hold| !hold.is_shared && !hold.book.is_empty()).take(GATES) {
        shown.entry(hold.book.clone()).or_default().push(ShownGate {
            gate: hold.reason.clone(),
            since: Some(hold.since),
            opens: towpath_git::without_secrets(&hold.opens).chars().take(MESSAGE).collect(),
            action: hold.action.clone(),
        });
    }
    shown
}

impl Handle {
    /// Returns the progress of the rollouts of all coordinated TaskBooks.
    ///
    /// # Errors
    /// Fails if no revision has been accepted.
    pub fn rollouts(&self) -> Result<Vec<pb::RolloutSummary>, NoAnswer> {
        let revision: Arc<Revision> = self.revision()?;
        let Some(fleet) = &self.shared.fleet else { return Ok(Vec::new()) };
        let alive = fleet.alive().ok();
        let joined = fleet.joined().unwrap_or_default();
        let liveness = |node: &str| self.opinions(node, alive.as_ref(), &joined).liveness();
        let states = self.states(fleet);
        let mut rollouts = Vec::new();
        for book in revision.set.books.values() {
            let Some(run) = Run::of(&revision.set, revision.generation, &revision.manifest, book) else { continue };
            let reports = reports(&states, &book.id());
            let rollout = fleet.rollout(&run.budgets(), &liveness, &reports);
            rollouts.push(summary(book, &run.spec.run, revision.generation, rollout));
        }
        Ok(rollouts)
    }

    /// Returns the published states of all other nodes, and the current state of this node.
    fn states(&self, fleet: &Fleet) -> BTreeMap<String, Shown> {
        let rows = fleet.rows(keys::ALL_STATES).unwrap_or_default();
        let read = |(node, row): (String, Vec<u8>)| Some((node, serde_json::from_slice(&row).ok()?));
        let mut states: BTreeMap<String, Shown> = rows.into_iter().filter_map(read).collect();
        states.insert(self.shared.node.clone(), Shown::of(&self.lock().state));
        states
    }
}

/// Returns the parts of the published states that concern one TaskBook, by node.
fn reports(states: &BTreeMap<String, Shown>, book: &str) -> BTreeMap<String, NodeReport> {
    // An agent of an older version does not publish the generation that it has loaded.
    let report = |(node, shown): (&String, &Shown)| {
        let gates = shown.held.get(book).into_iter().flatten().cloned().map(ShownGate::read).collect();
        Some((node.clone(), NodeReport { generation: shown.accepted?, gates }))
    };
    states.iter().filter_map(report).collect()
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
