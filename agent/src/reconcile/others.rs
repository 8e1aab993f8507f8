//! Queries about the fleet: other nodes, their state, and the progress of rollouts.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use towpath_coordination::{
    Gate,
    gossip::{Gossip, core::Liveness},
    keys,
};
use towpath_git::Mirror;
use towpath_host::clock::rfc3339;
use towpath_proto::v1alpha as pb;

use super::{
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
}

impl Node {
    /// Publishes the state of this node and its shared facts, if either has changed.
    pub(super) fn show_others(&mut self) {
        let Some(revision) = self.revision.clone().filter(|_| self.store.shared()) else { return };
        let shown = Shown {
            generation: self.state.applied.as_ref().map_or(0, |applied| applied.generation),
            ready: self.state.is_applied(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        let facts = revision.reads_nodes().then(|| shared(&self.handle.facts(), &revision.shared_facts()));
        let told = (shown.clone(), facts.clone());
        if self.told_others.as_ref() == Some(&told) {
            return;
        }
        let node = &self.settings.node;
        let state = serde_json::to_vec(&shown).unwrap_or_default();
        let mut done = self.fleet.publish(&keys::state(node), state);
        let before = self.told_others.as_ref().and_then(|(_, facts)| facts.clone());
        if let (Ok(()), Some(facts)) = (&done, facts.filter(|facts| Some(facts) != before.as_ref())) {
            done = self.fleet.publish(&keys::facts(node), serde_json::to_vec(&facts).unwrap_or_default());
        }
        match done {
            Ok(()) => self.told_others = Some(told),
            Err(error) => tracing::debug!(%error, "the others can't be told how this node is"),
        }
    }
}

/// The liveness of a node, by its lease in the data store and by gossip.
#[derive(Debug, Clone, Copy)]
struct Opinions {
    lease: Liveness,
    gossip: Option<Liveness>,
}

impl Opinions {
    /// Returns the liveness by gossip, or by the lease if gossip does not know the node.
    fn liveness(self) -> &'static str {
        self.gossip.filter(|gossip| *gossip != Liveness::Unknown).unwrap_or(self.lease).name()
    }
}

/// Returns the facts that other nodes may read.
fn shared(facts: &Value, names: &[String]) -> Value {
    Value::Object(names.iter().filter_map(|name| Some((name.clone(), facts.get(name)?.clone()))).collect::<Map<_, _>>())
}

impl Handle {
    /// Returns the state of other nodes for `nodes()`. The store is not queried if no template calls `nodes()`.
    pub(super) fn others(&self, revision: &Revision) -> BTreeMap<String, Other> {
        let Some(fleet) = self.shared.fleet.as_ref().filter(|fleet| fleet.store().shared() && revision.reads_nodes())
        else {
            return BTreeMap::new();
        };
        let alive = fleet.alive().ok();
        let facts = fleet.rows(keys::ALL_FACTS).unwrap_or_default();
        let joined = fleet.joined().unwrap_or_default();
        joined
            .iter()
            .map(|node| {
                let liveness = self.opinions(node, alive.as_ref(), &joined).liveness();
                let facts = facts.get(node).and_then(|facts| serde_json::from_slice(facts).ok());
                (node.clone(), Other { liveness, facts })
            })
            .collect()
    }

    /// Returns the liveness of a node, by its lease and by gossip.
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

    /// Attaches the gossip.
    pub fn hear(&self, gossip: Gossip) {
        if let Some(fleet) = &self.shared.fleet {
            fleet.hear(gossip.clone());
        }
        let _ = self.shared.gossip.set(gossip);
        self.tell_gossip();
    }

    /// Passes the seed addresses and the accepted revision to the gossip.
    pub(super) fn tell_gossip(&self) {
        let (Some(gossip), Some(revision)) = (self.shared.gossip.get(), self.lock().revision.clone()) else { return };
        let others = revision.set.nodes.iter().filter(|(name, _)| **name != self.shared.node);
        gossip.seeds(others.filter_map(|(name, node)| Some((name.clone(), node.address.clone()?))).collect());
        gossip.accepted(revision.generation, revision.record.digest());
    }

    /// Announces through gossip that this node leaves.
    pub(super) fn leave_gossip(&self) {
        if let Some(gossip) = self.shared.gossip.get() {
            gossip.leave();
        }
    }

    /// Passes on a gossip message whose sender is authenticated.
    ///
    /// # Errors
    /// If this node has no gossip, or git does not name the sender.
    pub fn gossip(&self, from: &str, message: Vec<u8>) -> Result<(), NoAnswer> {
        let Some(gossip) = self.shared.gossip.get() else { return Err(NoAnswer("this node has no gossip".into())) };
        // Before the first revision git names no nodes, so the sender's certificate is enough.
        if self.names_node(from) == Some(false) {
            return Err(NoAnswer(format!("git names no Node {from}")));
        }
        gossip.receive(from, message);
        Ok(())
    }

    /// Returns the record and the manifest of the accepted revision.
    ///
    /// # Errors
    /// If there is no revision yet.
    pub fn acceptance(&self) -> Result<pb::AcceptanceReply, NoAnswer> {
        let revision = self.revision()?;
        let told = |error: serde_json::Error| NoAnswer(error.to_string());
        Ok(pb::AcceptanceReply {
            record: serde_json::to_vec(&revision.record).map_err(told)?,
            manifest: serde_json::to_vec(&revision.manifest).map_err(told)?,
        })
    }

    /// Returns the mirror that has a commit of the accepted revision. Other commits are not given to peers.
    ///
    /// # Errors
    /// If the commit does not belong to the accepted revision.
    pub fn mirror(&self, source: &str, commit: &str) -> Result<Arc<Mirror>, NoAnswer> {
        let view = self.lock();
        let accepted = view.revision.as_ref().and_then(|revision| revision.commits.get(source));
        match view.mirrors.get(source) {
            Some(mirror) if accepted.is_some_and(|accepted| accepted == commit) => Ok(Arc::clone(mirror)),
            _ => Err(NoAnswer(format!("the revision of this node does not have {source} at {commit}"))),
        }
    }

    /// Returns the nodes that git names, and this one.
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
            let told: Option<Shown> = states.get(name).and_then(|told| serde_json::from_slice(told).ok());
            let opinions = self.opinions(name, alive.as_ref(), joined);
            let own = Shown {
                generation: state.applied.as_ref().map_or(0, |applied| applied.generation),
                ready: state.is_applied(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
            };
            let shown = if mine { Some(own) } else { told };
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

    /// Returns the progress of the coordinated books.
    ///
    /// # Errors
    /// If there is no revision, or the data store does not answer.
    pub fn rollouts(&self) -> Result<Vec<pb::RolloutSummary>, NoAnswer> {
        let revision: Arc<Revision> = self.revision()?;
        let Some(fleet) = &self.shared.fleet else { return Ok(Vec::new()) };
        let mut rollouts = Vec::new();
        for book in revision.set.books.values() {
            let Some(run) = Run::of(&revision.set, revision.generation, &revision.manifest, book) else { continue };
            let stands = fleet.rollout(&run.spec).map_err(|error| NoAnswer(error.to_string()))?;
            let since = stands.opened.map(rfc3339);
            let blocked =
                |gate: Gate| pb::BlockedBy { gate: gate.reason.to_owned(), since: since.clone(), opens: gate.opens };
            rollouts.push(pb::RolloutSummary {
                namespace: book.namespace.clone(),
                name: book.name.clone(),
                run: run.spec.run.clone(),
                generation: revision.generation,
                phase: stands.phase.to_owned(),
                total: stands.total,
                done: stands.done,
                failed: stands.failed,
                holding: stands
                    .holding
                    .into_iter()
                    .map(|(node, since)| pb::Holding { node, since: since.map(rfc3339) })
                    .collect(),
                waiting: stands.waiting,
                blocked_by: stands.blocked.into_iter().map(blocked).collect(),
            });
        }
        Ok(rollouts)
    }
}
