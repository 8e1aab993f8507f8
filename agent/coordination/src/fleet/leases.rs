//! A waiting node sets a timer for the end of each lease of a node that it waits for (P137). Under `onLostNode: skip`
//! or `fail`, a run continues when the lease of a lost node ends. The store does not report the end of a lease, so the
//! timer is necessary.

use std::{collections::BTreeSet, time::Duration};

use super::{Fleet, sooner};
use crate::{
    keys,
    rollout::{OnLost, RolloutSpec, RunSnapshot, SlotState, frontier},
    store::{Op, StoreError, Txn},
};

/// The number of waiting nodes that watch leases in each run, if gossip does not run.
const WATCHERS: usize = 3;

/// The maximum number of leases for which a waiting node reads the remaining time. A node that waits for more than
/// `LEASES` nodes instead reads the list of alive nodes at the interval `MANY`.
const LEASES: usize = 8;

/// The interval at which a node that waits for more than `LEASES` nodes reads the list of alive nodes.
const MANY: Duration = Duration::from_secs(4);

/// The time that a node adds to the remaining time of a lease, because etcd reports whole seconds and may remove an
/// expired lease late.
const LATER: Duration = Duration::from_secs(1);

impl Fleet {
    /// Sets a timer for the end of the lease of each node that the run waits for. With gossip, this node watches only
    /// the leases of nodes that gossip considers lost. Without gossip, the first three waiting nodes watch the leases
    /// of all nodes that the run waits for.
    pub(super) fn watch_leases(&self, spec: &RolloutSpec, snapshot: &RunSnapshot) -> Result<(), StoreError> {
        if spec.on_lost == OnLost::Hold || snapshot.done(spec) || !self.store.shared() {
            return Ok(());
        }
        let alive = self.alive()?;
        let other = |node: &&String| **node != self.node && alive.contains(*node);
        let nodes: BTreeSet<String> = match self.gossip.get() {
            Some(gossip) => {
                let held = snapshot.held.iter().map(|held| &held.node);
                let named = spec.members.keys().chain(held).filter(other);
                named.filter(|node| gossip.considers_lost(node)).cloned().collect()
            }
            None if self.is_watcher(spec, snapshot)? => {
                self.waits_for(spec, snapshot)?.iter().filter(other).cloned().collect()
            }
            None => return Ok(()),
        };
        self.look_when_leases_end(&nodes)
    }

    /// Sets a timer for the end of the lease of an elected node. Under `onLostNode: skip`, another node is elected when
    /// the lease of the elected node ends.
    pub(super) fn watch_elected(&self, spec: &RolloutSpec, nodes: &[String]) -> Result<(), StoreError> {
        if spec.on_lost != OnLost::Skip || nodes.is_empty() || !self.store.shared() {
            return Ok(());
        }
        let alive = self.alive()?;
        let waits = |node: &&String| alive.contains(*node) && !nodes.contains(node);
        let watches = match self.gossip.get() {
            Some(gossip) => nodes.iter().any(|node| gossip.considers_lost(node)),
            None => spec.members.keys().filter(waits).take(WATCHERS).any(|node| *node == self.node),
        };
        let nodes = nodes.iter().filter(|node| watches && alive.contains(*node)).cloned().collect();
        self.look_when_leases_end(&nodes)
    }

    fn look_when_leases_end(&self, nodes: &BTreeSet<String>) -> Result<(), StoreError> {
        let mut first = (nodes.len() > LEASES).then_some(MANY);
        for node in nodes.iter().filter(|_| nodes.len() <= LEASES) {
            // If the lease has already ended, the node decides as soon as possible.
            let left = self.store.time_left(&keys::alive(node))?.unwrap_or_default() + LATER;
            first = Some(first.map_or(left, |first| first.min(left)));
        }
        if let Some(first) = first {
            let at = self.clock.monotonic() + first;
            let mut inner = self.lock();
            inner.lease_end = Some(at);
            sooner(&mut inner.due, at);
        }
        Ok(())
    }

    /// Returns true if this node watches leases for a run. The first three nodes in the queue watch leases, and also
    /// the first three nodes that have voted. If fewer than three nodes have voted, some members whose wave is closed
    /// also watch leases.
    fn is_watcher(&self, spec: &RolloutSpec, snapshot: &RunSnapshot) -> Result<bool, StoreError> {
        if snapshot.queue.iter().take(WATCHERS).any(|entry| entry.node == self.node) {
            return Ok(true);
        }
        let Some((segment, wave)) = frontier(spec, snapshot).first().copied() else { return Ok(false) };
        let oldest = Op::Oldest(keys::member_votes(&spec.run, segment), WATCHERS);
        let (_, answers) = self.store.commit(&Txn { then: vec![oldest], ..Txn::default() })?.answers();
        let voted: Vec<String> = answers
            .into_iter()
            .flat_map(|answer| answer.rows)
            .filter_map(|row| Some(row.key.rsplit('/').next()?.to_owned()))
            .collect();
        let closed = spec.members.iter().filter(|(_, own)| **own > wave).map(|(node, _)| node);
        let more = closed.take(WATCHERS.saturating_sub(voted.len()));
        Ok(voted.contains(&self.node) || more.into_iter().any(|node| *node == self.node))
    }

    /// Returns the nodes that a run waits for: the slot holders, and the members in open waves that have not voted.
    fn waits_for(&self, spec: &RolloutSpec, snapshot: &RunSnapshot) -> Result<BTreeSet<String>, StoreError> {
        let holds = |kind: SlotState| matches!(kind, SlotState::Claim | SlotState::Offer);
        let mut nodes: BTreeSet<String> =
            snapshot.held.iter().filter(|held| holds(held.held.kind)).map(|held| held.node.clone()).collect();
        if let Some((segment, wave)) = frontier(spec, snapshot).first().copied() {
            let voted = self.names(&keys::member_votes(&spec.run, segment))?;
            nodes.extend(spec.up_to(wave).filter(|node| !voted.contains(*node)).map(str::to_owned));
        }
        Ok(nodes)
    }
}
