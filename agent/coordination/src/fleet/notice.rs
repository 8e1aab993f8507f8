//! Measures durations, such as the age of an offer, by the clock of this node. Decisions read no clock, so the measured
//! durations become fields of the snapshot (P2).

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use super::{FirstSeen, Fleet, OFFER, sooner};
use crate::{
    gossip::broadcast::Holds,
    keys,
    rollout::{
        HIDDEN_CLAIM_LIMIT, OnLost, RolloutSpec, RunSnapshot, SlotState, WriteSequence, complete, idle,
        segment_to_inspect,
    },
    store::{Page, StoreError},
};

/// Returns the name of a partition. The name includes the name of the budget.
fn partition_of(spec: &RolloutSpec, partition: &str) -> String {
    format!("{}/{partition}", spec.budget)
}

/// Returns the time at which this node first saw each record of a snapshot. Forgets the times of records that are not
/// in the snapshot, but keeps the times of other budgets.
fn first_seen<T>(
    known: &mut FirstSeen,
    budget: &str,
    shown: &BTreeMap<(String, u64), T>,
    now: Instant,
) -> BTreeMap<(String, u64), Instant> {
    let before = known.remove(budget).unwrap_or_default();
    let seen = |record: &(String, u64)| (record.clone(), before.get(record).copied().unwrap_or(now));
    let seen: BTreeMap<_, _> = shown.keys().map(seen).collect();
    if !seen.is_empty() {
        known.insert(budget.to_owned(), seen.clone());
    }
    seen
}

impl Fleet {
    /// Adds to a snapshot the lost nodes, and the fields that depend on the clock of this node.
    pub(super) fn noticed(&self, spec: &RolloutSpec, mut snapshot: RunSnapshot) -> Result<RunSnapshot, StoreError> {
        snapshot.stabilizing = self.is_stabilizing();
        snapshot.stale.extend(self.stale_offers(spec, &snapshot));
        snapshot.overdue.extend(self.overdue_absences(spec, &snapshot));
        snapshot.idle = self.has_idle_slot(spec, &snapshot).unwrap_or(snapshot.idle);
        snapshot = self.with_acknowledgements(snapshot)?;
        if spec.on_lost != OnLost::Hold && (!snapshot.done(spec) || snapshot.recovery.is_some()) {
            snapshot.lost = self.lost_nodes(spec, &snapshot)?;
        }
        // The snapshot keeps the names, so they are read once for each snapshot.
        let read = |segment| snapshot.names.as_ref().is_some_and(|(of, _)| *of == segment);
        if let Some(segment) = segment_to_inspect(spec, &snapshot)
            && !read(segment)
        {
            let prefix = keys::member_votes(&spec.run, segment);
            snapshot.names = Some((segment, self.names(&prefix)?));
        }
        snapshot.soaked = self.has_soaked(spec, &snapshot).unwrap_or(snapshot.soaked);
        snapshot.hidden_claims = self.hidden_claims(spec, &snapshot)?;
        Ok(snapshot)
    }

    /// Returns the nodes of a run that have no lease and that gossip, if it runs, considers lost.
    fn lost_nodes(&self, spec: &RolloutSpec, snapshot: &RunSnapshot) -> Result<BTreeSet<String>, StoreError> {
        let alive = self.alive()?;
        let known = spec.known.iter().filter(|_| snapshot.recovery.is_some()).cloned();
        let held = snapshot.held.iter().map(|held| held.node.clone());
        let named = spec.members.keys().cloned().chain(held).chain(known);
        let lost = named.filter(|node| *node != self.node && !alive.contains(node));
        Ok(lost.filter(|node| self.confirms_loss(node)).collect())
    }

    /// Returns the nodes that hold a slot according to gossip, but not according to the store.
    fn hidden_claims(&self, spec: &RolloutSpec, snapshot: &RunSnapshot) -> Result<BTreeSet<String>, StoreError> {
        let mut hidden = BTreeSet::new();
        let Some(gossip) = self.gossip.get().filter(|_| spec.count.is_some()) else { return Ok(hidden) };
        let partition = partition_of(spec, spec.partition(&self.node));
        for (node, number) in gossip.holders(&partition) {
            let shown = node == self.node || snapshot.held.iter().any(|held| held.node == node);
            // Under `skip` and `fail`, the run does not wait for a lost node.
            let counts = !shown && spec.known.contains(&node) && !snapshot.lost.contains(&node);
            if counts && self.write_sequence_of(&node)? < number {
                hidden.insert(node);
            }
        }
        Ok(if self.believes_hearsay(&partition, &hidden) { hidden } else { BTreeSet::new() })
    }

    /// Returns true while slots that only gossip reports count as taken. A report by gossip counts only for a limited
    /// time, because gossip messages are not trusted. The time limit starts again after the store has shown all slots
    /// that gossip reports (P104).
    fn believes_hearsay(&self, partition: &str, hidden: &BTreeSet<String>) -> bool {
        let now = self.clock.monotonic();
        let mut inner = self.lock();
        if hidden.is_empty() {
            inner.hearsay.remove(partition);
            return false;
        }
        let since = *inner.hearsay.entry(partition.to_owned()).or_insert(now);
        let believes = now.duration_since(since) < HIDDEN_CLAIM_LIMIT;
        if believes {
            // No watch reports that the store shows these slots, so the node decides again after 10 s.
            sooner(&mut inner.due, now + OFFER);
        } else {
            tracing::warn!(partition, nodes = ?hidden, "ignored reports of slots that the data store does not have");
        }
        believes
    }

    /// Returns the time since which gossip reports slots of this node's partition that are missing in the store. Unit:
    /// milliseconds since 1970.
    pub(super) fn hidden_since(&self, spec: &RolloutSpec) -> Option<i64> {
        let (now, wall) = (self.clock.monotonic(), self.clock.wall());
        let first = *self.lock().hearsay.get(&partition_of(spec, spec.partition(&self.node)))?;
        Some(wall.saturating_sub(i64::try_from(now.duration_since(first).as_millis()).ok()?))
    }

    /// Reads from the store the sequence number of a node's newest write. 0 if the store does not contain the number.
    fn write_sequence_of(&self, node: &str) -> Result<u64, StoreError> {
        let rows = self.store.read(&keys::write_sequence(node), &Page { after: None, limit: 1 })?.rows;
        let row = rows.iter().find(|row| row.key == keys::write_sequence(node));
        Ok(row.and_then(|row| serde_json::from_slice::<WriteSequence>(&row.value).ok()).map_or(0, |mark| mark.number))
    }

    /// Announces by gossip the partitions in which this node holds a slot (P104).
    pub(super) fn announce_slots(&self, spec: &RolloutSpec, snapshot: &RunSnapshot) {
        let Some(gossip) = self.gossip.get() else { return };
        let own_slot = snapshot.own_slot(spec, &self.node).filter(|own_slot| own_slot.held.kind == SlotState::Claim);
        let mut inner = self.lock();
        match own_slot {
            Some(own_slot) => inner.holding.insert(spec.book.clone(), partition_of(spec, &own_slot.partition)),
            None => inner.holding.remove(&spec.book),
        };
        let partitions: Vec<String> = inner.holding.values().cloned().collect();
        drop(inner);
        gossip.holds(Holds { number: snapshot.sequence, partitions });
    }

    /// Returns the offers that other nodes have not taken within 10 s. Each entry of the result contains the node and
    /// the store revision of the offer.
    pub(super) fn stale_offers(&self, spec: &RolloutSpec, snapshot: &RunSnapshot) -> BTreeSet<(String, u64)> {
        let now = self.clock.monotonic();
        let mut inner = self.lock();
        let offers: BTreeMap<(String, u64), ()> = snapshot
            .held
            .iter()
            .filter(|held| held.held.kind == SlotState::Offer && held.node != self.node)
            .map(|held| ((held.node.clone(), held.modified), ()))
            .collect();
        let mut stale = BTreeSet::new();
        for (offer, first) in first_seen(&mut inner.offers, &spec.budget, &offers, now) {
            if now.duration_since(first) >= OFFER {
                stale.insert(offer);
            } else {
                sooner(&mut inner.due, first + OFFER);
            }
        }
        stale
    }

    /// Returns the claims of nodes that are absent for longer than they announced.
    pub(super) fn overdue_absences(&self, spec: &RolloutSpec, snapshot: &RunSnapshot) -> BTreeSet<(String, u64)> {
        let now = self.clock.monotonic();
        let mut inner = self.lock();
        let absent: BTreeMap<(String, u64), u64> = snapshot
            .held
            .iter()
            .filter(|held| held.held.absent > 0)
            .map(|held| ((held.node.clone(), held.modified), held.held.absent))
            .collect();
        let mut overdue = BTreeSet::new();
        for (absence, first) in first_seen(&mut inner.absences, &spec.budget, &absent, now) {
            let seconds = absent.get(&absence).copied().unwrap_or_default();
            let back = first + Duration::from_secs(seconds);
            if now >= back {
                overdue.insert(absence);
            } else {
                sooner(&mut inner.due, back);
            }
        }
        overdue
    }

    /// Returns true if this node may offer a free slot to another node: the slot was free for long, or a notice
    /// arrived. `None` if no other node could take a free slot.
    fn has_idle_slot(&self, spec: &RolloutSpec, snapshot: &RunSnapshot) -> Option<bool> {
        let now = self.clock.monotonic();
        let mut inner = self.lock();
        let Some(waiting) = idle(spec, snapshot, &self.node) else {
            inner.idle.remove(&spec.budget);
            self.membership.touches(|touches| touches.forget(&spec.budget));
            return None;
        };
        let (known, since) = inner.idle.get(&spec.budget).cloned().unwrap_or_else(|| (waiting.clone(), now));
        // The time starts from zero when another waiter is the first one.
        let since = if known == waiting { since } else { now };
        inner.idle.insert(spec.budget.clone(), (waiting, since));
        // The spread prevents that all nodes offer the same slot at once.
        let spread = self.node.bytes().fold(0_u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(u32::from(byte)));
        let patience = OFFER + Duration::from_millis(u64::from(spread % 20_000));
        let touched = self.membership.touches(|touches| touches.offers_now(&spec.budget));
        let is_idle = touched || now.duration_since(since) >= patience;
        if !is_idle {
            sooner(&mut inner.due, since + patience);
        }
        Some(is_idle)
    }

    /// Returns true if the soak time after the completion of a wave has passed. `None` if no wave is complete.
    fn has_soaked(&self, spec: &RolloutSpec, snapshot: &RunSnapshot) -> Option<bool> {
        let now = self.clock.monotonic();
        let mut inner = self.lock();
        let Some(wave) = complete(spec, snapshot) else {
            inner.complete.remove(&spec.run);
            return None;
        };
        let (known, since) = inner.complete.get(&spec.run).copied().unwrap_or((wave, now));
        let since = if known == wave { since } else { now };
        inner.complete.insert(spec.run.clone(), (wave, since));
        let has_soaked = now.duration_since(since) >= spec.soak;
        if !has_soaked {
            sooner(&mut inner.due, since + spec.soak);
        }
        Some(has_soaked)
    }

    /// Returns true during the stabilization period: the first 3 s after this node has connected to the store.
    pub(super) fn is_stabilizing(&self) -> bool {
        let sure = self.position.stabilizing_until(self.clock.monotonic());
        if let Some(sure) = sure {
            sooner(&mut self.lock().due, sure);
        }
        sure.is_some()
    }
}
