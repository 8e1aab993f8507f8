//! The newest position in the history of the store that a node has seen. A store at an earlier position was rolled back
//! (P14).

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crate::rollout::RunSnapshot;

/// The duration of the stabilization period, in which a node with a new connection to the store admits no node to a
/// slot or a segment. All nodes connect to a restored store at about the same time. During the stabilization period, a
/// node that has seen a later state of the store can report the rollback (P17).
const STABILIZATION_PERIOD: Duration = Duration::from_secs(3);

/// The newest position in the history of the store that this node has seen.
#[derive(Debug)]
pub(super) struct StorePosition {
    /// True if other processes use the store too. A node reports a rollback only if other processes use the store too.
    shared: bool,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// The highest store revision that this node has seen.
    revision: u64,
    /// The sequence number of this node's newest write.
    sequence: u64,
    /// True if this node has detected a rollback of the store, and no other node has reported it.
    rolled_back: bool,
    /// The identifier of the most recent recovery that this node has read.
    recovery_id: Option<String>,
    /// True if this node must republish its claims.
    needs_republish: bool,
    /// True if a watch has shown a report about a rollback, and this node has not read the store since.
    is_reported: bool,
    /// True if the store did not answer the most recent request.
    away: bool,
    reached: Option<Instant>,
}

impl StorePosition {
    pub(super) fn new(shared: bool) -> Self {
        Self { shared, known: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Restores the store position from the journal. A node that has never written to the store needs no stabilization
    /// period, because it has no claims.
    pub(super) fn resume(&self, revision: u64, sequence: u64) {
        let mut known = self.lock();
        (known.revision, known.sequence, known.away) = (revision, sequence, sequence > 0);
    }

    /// Records that the store did not answer. A store that answers again may have been restored or replaced.
    pub(super) fn note_disconnect(&self) {
        self.lock().away = true;
    }

    /// Returns the end of the stabilization period. `None` if the stabilization period is over, or if no other process
    /// uses the store.
    pub(super) fn stabilizing_until(&self, now: Instant) -> Option<Instant> {
        if !self.shared {
            return None;
        }
        let mut known = self.lock();
        if std::mem::take(&mut known.away) {
            known.reached = Some(now);
        }
        known.reached.map(|reached| reached + STABILIZATION_PERIOD).filter(|sure| now < *sure)
    }

    /// Records the store revision that an answer of the store contains. `before` is the store position that this node
    /// had seen when it sent the request. An answer with a lower revision than `before` proves that the store was
    /// rolled back. The store position of this node may be newer than `before`, because several requests run at the
    /// same time.
    pub(super) fn seen(&self, before: (u64, u64), revision: u64) {
        let mut known = self.lock();
        if revision > 0 && revision < before.0 {
            tracing::warn!(
                was = before.0,
                is = revision,
                "etcd is at an older revision than before: it was restored or wiped"
            );
            (known.rolled_back, known.needs_republish) = (true, true);
            known.revision = revision;
        }
        known.revision = known.revision.max(revision);
    }

    /// Records that the store does not contain a join record of this node. If the node has written to the store before,
    /// the missing record proves that the store was wiped or replaced. The store revision alone cannot prove a wipe,
    /// because a new store may already have a higher revision.
    pub(super) fn note_missing_join_record(&self) {
        let mut known = self.lock();
        if known.sequence > 0 && self.shared {
            tracing::warn!(
                "the data store has no join record of this node: the store was wiped, or restored from an old backup"
            );
            (known.rolled_back, known.needs_republish) = (true, true);
        }
    }

    /// Detects a rollback by a snapshot. `before` is the store position that this node had seen when it requested the
    /// snapshot. Returns true if this node has detected a rollback, and no other node has reported it.
    pub(super) fn judge(&self, before: (u64, u64), snapshot: &RunSnapshot) -> bool {
        self.seen(before, snapshot.revision);
        let mut known = self.lock();
        // A missing sequence number proves nothing, because its record may be signed with a replaced key.
        if snapshot.sequence > 0 && snapshot.sequence < before.1 {
            tracing::warn!(
                was = before.1,
                is = snapshot.sequence,
                "the data store lacks records that this node has written: it was restored from a backup"
            );
            (known.rolled_back, known.needs_republish) = (true, true);
            // Later writes continue from the number in the store.
            known.sequence = snapshot.sequence;
        }
        known.sequence = known.sequence.max(snapshot.sequence);
        known.is_reported = false;
        match &snapshot.recovery {
            Some((restored, _)) if known.recovery_id.as_deref() != Some(restored.id.as_str()) => {
                known.recovery_id = Some(restored.id.clone());
                (known.rolled_back, known.needs_republish) = (false, true);
            }
            None if !known.rolled_back && self.shared => known.needs_republish = false,
            _ => {}
        }
        known.rolled_back && self.shared
    }

    /// Records the sequence number of a write of this node.
    pub(super) fn wrote(&self, sequence: u64) {
        let mut known = self.lock();
        known.sequence = known.sequence.max(sequence);
    }

    /// Returns true if this node has detected a rollback of the store, and no other node has reported it.
    pub(super) fn has_rolled_back(&self) -> bool {
        self.lock().rolled_back && self.shared
    }

    /// Records that this node has reported the rollback. A node reports each rollback only once, also if other nodes
    /// reject the report.
    pub(super) fn rollback_reported(&self) {
        self.lock().rolled_back = false;
    }

    /// Records that a watch has shown a report about a rollback. The next read of the store checks the report.
    pub(super) fn note_recovery(&self) {
        self.lock().is_reported = true;
    }

    /// Records that this node has republished its claims.
    pub(super) fn note_republished(&self) {
        let mut known = self.lock();
        known.rolled_back &= self.shared;
        known.needs_republish = known.rolled_back;
    }

    /// Returns true if this node must republish its claims, or if a watch has shown a report about a rollback.
    pub(super) fn needs_republish(&self) -> bool {
        let known = self.lock();
        known.needs_republish || known.is_reported
    }

    /// Returns the identifier of the most recent recovery that this node has read.
    pub(super) fn recovery_id(&self) -> Option<String> {
        self.lock().recovery_id.clone()
    }

    /// Returns the highest store revision that this node has seen, and the sequence number of this node's newest write.
    pub(super) fn known(&self) -> (u64, u64) {
        let known = self.lock();
        (known.revision, known.sequence)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The revision of a wiped store may exceed the known revision, because other nodes write to the wiped store.
    #[test]
    fn store_without_the_record_of_a_node_that_has_written_is_rolled_back() {
        for (shared, mark, rolled_back) in [(true, 7, true), (true, 0, false), (false, 7, false)] {
            let position = StorePosition::new(shared);
            position.resume(40, mark);
            position.seen((40, mark), 500);
            position.note_missing_join_record();
            assert_eq!(position.has_rolled_back(), rolled_back, "{shared} {mark}");
        }
    }
}
