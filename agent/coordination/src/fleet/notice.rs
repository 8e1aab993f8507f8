//! Durations that a node measures by its own clock. The node adds the durations to a snapshot, because decisions read
//! no clock (P2).

use std::{
    collections::BTreeMap,
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

/// Returns the name of one partition of a budget.
fn part_of(spec: &RolloutSpec, part: &str) -> String {
    format!("{}/{part}", spec.group)
}

/// Returns the time at which this node first saw each record of a snapshot. Records of the same budget that the
/// snapshot does not show are forgotten. Records of other budgets are kept, because a snapshot covers only one budget.
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
    /// Adds the measured durations and the lost nodes to a snapshot.
    pub(super) fn notice(&self, spec: &RolloutSpec, snapshot: &mut RunSnapshot) -> Result<(), StoreError> {
        self.note_stabilizing(snapshot);
        self.notice_offers(spec, snapshot);
        self.notice_absences(spec, snapshot);
        self.notice_idle(spec, snapshot);
        self.read_acknowledgements(snapshot)?;
        if spec.on_lost != OnLost::Hold && (!snapshot.done(spec) || snapshot.recovery.is_some()) {
            let alive = self.alive()?;
            let known = spec.known.iter().filter(|_| snapshot.recovery.is_some()).cloned();
            let held = snapshot.held.iter().map(|held| held.node.clone());
            let named = spec.members.keys().cloned().chain(held).chain(known);
            snapshot.lost = named
                .filter(|node| *node != self.node && !alive.contains(node))
                .filter(|node| self.agrees_lost(node))
                .collect();
        }
        // The snapshot keeps the names, so they are read once for each snapshot.
        let read = |snapshot: &RunSnapshot, segment| snapshot.names.as_ref().is_some_and(|(of, _)| *of == segment);
        if let Some(segment) = segment_to_inspect(spec, snapshot)
            && !read(snapshot, segment)
        {
            let prefix = keys::member_votes(&spec.run, segment);
            snapshot.names = Some((segment, self.names(&prefix)?));
        }
        self.notice_soak(spec, snapshot);
        self.notice_unseen(spec, snapshot)
    }

    /// Adds to a snapshot the nodes that report by gossip a slot which the store does not contain.
    fn notice_unseen(&self, spec: &RolloutSpec, snapshot: &mut RunSnapshot) -> Result<(), StoreError> {
        snapshot.hidden_claims.clear();
        let Some(gossip) = self.gossip.get().filter(|_| spec.count.is_some()) else { return Ok(()) };
        for (node, number) in gossip.holders(&part_of(spec, spec.part(&self.node))) {
            let shown = node == self.node || snapshot.held.iter().any(|held| held.node == node);
            // Under `skip` and `fail`, the run does not wait for a lost node.
            let counts = !shown && spec.known.contains(&node) && !snapshot.lost.contains(&node);
            if counts && self.mark_of(&node)? < number {
                snapshot.hidden_claims.insert(node);
            }
        }
        self.bound_hearsay(&part_of(spec, spec.part(&self.node)), snapshot);
        Ok(())
    }

    /// Limits the time for which reports by gossip block other nodes, because gossip proves nothing. If the reports
    /// disappear and appear again, the time starts from zero (P104).
    fn bound_hearsay(&self, part: &str, snapshot: &mut RunSnapshot) {
        let now = self.clock.monotonic();
        let mut inner = self.lock();
        if snapshot.hidden_claims.is_empty() {
            inner.hearsay.remove(part);
            return;
        }
        let since = *inner.hearsay.entry(part.to_owned()).or_insert(now);
        if now.duration_since(since) >= HIDDEN_CLAIM_LIMIT {
            tracing::warn!(part, nodes = ?snapshot.hidden_claims, "ignored reports of slots that the data store does not have");
            snapshot.hidden_claims.clear();
        } else {
            // No watch reports that the store shows these slots, so the node decides again after 10 s.
            sooner(&mut inner.due, now + OFFER);
        }
    }

    /// Returns the sequence number of a node's last write from the store. 0 if the store has none.
    fn mark_of(&self, node: &str) -> Result<u64, StoreError> {
        let rows = self.store.read(&keys::write_sequence(node), &Page { after: None, limit: 1 })?.rows;
        let row = rows.iter().find(|row| row.key == keys::write_sequence(node));
        Ok(row.and_then(|row| serde_json::from_slice::<WriteSequence>(&row.value).ok()).map_or(0, |mark| mark.number))
    }

    /// Broadcasts the partitions in which this node holds a slot, after a write to the store (P104).
    pub(super) fn tell_holds(&self, spec: &RolloutSpec, snapshot: &RunSnapshot) {
        let Some(gossip) = self.gossip.get() else { return };
        let mine = snapshot.mine(spec, &self.node).filter(|mine| mine.held.kind == SlotState::Claim);
        let mut inner = self.lock();
        match mine {
            Some(mine) => inner.holding.insert(spec.book.clone(), part_of(spec, &mine.part)),
            None => inner.holding.remove(&spec.book),
        };
        let parts: Vec<String> = inner.holding.values().cloned().collect();
        drop(inner);
        gossip.holds(Holds { number: snapshot.sequence, parts });
    }

    pub(super) fn notice_offers(&self, spec: &RolloutSpec, snapshot: &mut RunSnapshot) {
        let now = self.clock.monotonic();
        let mut inner = self.lock();
        let offers: BTreeMap<(String, u64), ()> = snapshot
            .held
            .iter()
            .filter(|held| held.held.kind == SlotState::Offer && held.node != self.node)
            .map(|held| ((held.node.clone(), held.modified), ()))
            .collect();
        for (offer, first) in first_seen(&mut inner.offers, &spec.group, &offers, now) {
            if now.duration_since(first) >= OFFER {
                snapshot.stale.insert(offer);
            } else {
                sooner(&mut inner.due, first + OFFER);
            }
        }
    }

    pub(super) fn notice_absences(&self, spec: &RolloutSpec, snapshot: &mut RunSnapshot) {
        let now = self.clock.monotonic();
        let mut inner = self.lock();
        let absent: BTreeMap<(String, u64), u64> = snapshot
            .held
            .iter()
            .filter(|held| held.held.absent > 0)
            .map(|held| ((held.node.clone(), held.modified), held.held.absent))
            .collect();
        for (absence, first) in first_seen(&mut inner.absences, &spec.group, &absent, now) {
            let seconds = absent.get(&absence).copied().unwrap_or_default();
            let back = first + Duration::from_secs(seconds);
            if now >= back {
                snapshot.overdue.insert(absence);
            } else {
                sooner(&mut inner.due, back);
            }
        }
    }

    pub(super) fn notice_idle(&self, spec: &RolloutSpec, snapshot: &mut RunSnapshot) {
        let now = self.clock.monotonic();
        let mut inner = self.lock();
        let Some(waiting) = idle(spec, snapshot, &self.node) else {
            inner.idle.remove(&spec.group);
            self.membership.touches(|touches| touches.forget(&spec.group));
            return;
        };
        let (known, since) = inner.idle.get(&spec.group).cloned().unwrap_or_else(|| (waiting.clone(), now));
        // The time starts from zero when another waiter is the first one.
        let since = if known == waiting { since } else { now };
        inner.idle.insert(spec.group.clone(), (waiting, since));
        // The spread prevents that all nodes offer the same slot at once.
        let spread = self.node.bytes().fold(0_u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(u32::from(byte)));
        let patience = OFFER + Duration::from_millis(u64::from(spread % 20_000));
        let touched = self.membership.touches(|touches| touches.offers_now(&spec.group));
        snapshot.idle = touched || now.duration_since(since) >= patience;
        if !snapshot.idle {
            sooner(&mut inner.due, since + patience);
        }
    }

    pub(super) fn notice_soak(&self, spec: &RolloutSpec, snapshot: &mut RunSnapshot) {
        let now = self.clock.monotonic();
        let mut inner = self.lock();
        match complete(spec, snapshot) {
            None => drop(inner.complete.remove(&spec.run)),
            Some(wave) => {
                let (known, since) = inner.complete.get(&spec.run).copied().unwrap_or((wave, now));
                let since = if known == wave { since } else { now };
                inner.complete.insert(spec.run.clone(), (wave, since));
                snapshot.soaked = now.duration_since(since) >= spec.soak;
                if !snapshot.soaked {
                    sooner(&mut inner.due, since + spec.soak);
                }
            }
        }
    }

    pub(super) fn note_stabilizing(&self, snapshot: &mut RunSnapshot) {
        let sure = self.position.stabilizing_until(self.clock.monotonic());
        snapshot.stabilizing = sure.is_some();
        if let Some(sure) = sure {
            sooner(&mut self.lock().due, sure);
        }
    }
}
