//! How far the data store has come, as far as this node has seen; and whether it has gone back since.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crate::rollout::RunSnapshot;

/// How long a node that has reached the store (again) lets nobody in: a store that was restored is reached by all at
/// about the same time, and whoever knows more of its past says so first.
const STABILIZATION_PERIOD: Duration = Duration::from_secs(3);

/// What a node knows of the store's past.
#[derive(Debug)]
pub(super) struct StorePosition {
    /// Whether other processes write to the store too: only then it must be said to all that it has gone back.
    shared: bool,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// The highest revision that was seen.
    revision: u64,
    /// The number of what this node wrote last.
    sequence: u64,
    /// Whether the store is older than that, and nobody is known to have said so.
    rolled_back: bool,
    /// The recovery_id that was heard of last.
    recovery_id: Option<String>,
    /// Whether this node has to say anew what it holds.
    needs_republish: bool,
    /// Whether somebody may have said that the store went back, which was not looked at yet.
    heard: bool,
    /// Whether the store did not answer last time; and when it did first since then.
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

    /// Goes on from what the journal knows. Who has no past knows nothing of the store's either, and has nothing to be
    /// unsure of.
    pub(super) fn resume(&self, revision: u64, sequence: u64) {
        let mut known = self.lock();
        (known.revision, known.sequence, known.away) = (revision, sequence, sequence > 0);
    }

    /// The store did not answer: it may be another one when it does.
    pub(super) fn lost_sight(&self) {
        self.lock().away = true;
    }

    /// When this node may be sure that nobody knows that the store went back; None where it is.
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

    /// An answer of the store has this revision, and was asked for when `before` was known: others may have seen more
    /// since, but an answer is never older than its question, unless the store has gone back.
    pub(super) fn seen(&self, before: (u64, u64), revision: u64) {
        let mut known = self.lock();
        if revision > 0 && revision < before.0 {
            tracing::warn!(
                was = before.0,
                is = revision,
                "the data store has gone back: it was restored, or begun anew"
            );
            (known.rolled_back, known.needs_republish) = (true, true);
            known.revision = revision;
        }
        known.revision = known.revision.max(revision);
    }

    /// The store has no record that this node joined. If the node has written to the store before, the store was wiped
    /// or is another one; its revision may already be beyond the one that the node knew.
    pub(super) fn note_missing_join_record(&self) {
        let mut known = self.lock();
        if known.sequence > 0 && self.shared {
            tracing::warn!("the data store has no record of this node: it was wiped, or restored from an old backup");
            (known.rolled_back, known.needs_republish) = (true, true);
        }
    }

    /// Compares what was read with what this node knew when it asked, and tells the snapshot.
    pub(super) fn judge(&self, before: (u64, u64), snapshot: &mut RunSnapshot) {
        self.seen(before, snapshot.revision);
        let mut known = self.lock();
        // A mark that is not there says nothing: it may be signed with a key that counts no more.
        if snapshot.sequence > 0 && snapshot.sequence < before.1 {
            tracing::warn!(
                was = before.1,
                is = snapshot.sequence,
                "the data store lacks what this node has written to it"
            );
            (known.rolled_back, known.needs_republish) = (true, true);
            // What is written from now on is newer than that.
            known.sequence = snapshot.sequence;
        }
        known.sequence = known.sequence.max(snapshot.sequence);
        known.heard = false;
        match &snapshot.recovery {
            Some((restored, _)) if known.recovery_id.as_deref() != Some(restored.id.as_str()) => {
                known.recovery_id = Some(restored.id.clone());
                (known.rolled_back, known.needs_republish) = (false, true);
            }
            None if !known.rolled_back && self.shared => known.needs_republish = false,
            _ => {}
        }
        snapshot.rolled_back = known.rolled_back && self.shared;
    }

    /// This node has written something with a mark.
    pub(super) fn wrote(&self, sequence: u64) {
        let mut known = self.lock();
        known.sequence = known.sequence.max(sequence);
    }

    /// Whether this node knows that the store has gone back, and nobody is known to have said so.
    pub(super) fn has_rolled_back(&self) -> bool {
        self.lock().rolled_back && self.shared
    }

    /// This node has said that the store went back. Where that does not read back (it does not count), it is not said
    /// again.
    pub(super) fn rollback_reported(&self) {
        self.lock().rolled_back = false;
    }

    /// Somebody seems to have said that the store went back: it is looked at.
    pub(super) fn told(&self) {
        self.lock().heard = true;
    }

    /// This node has said anew what it holds.
    pub(super) fn settled(&self) {
        let mut known = self.lock();
        known.rolled_back &= self.shared;
        known.needs_republish = known.rolled_back;
    }

    /// Whether this node has to say anew what it holds, or to look whether it has.
    pub(super) fn needs_republish(&self) -> bool {
        let known = self.lock();
        known.needs_republish || known.heard
    }

    /// The recovery_id that was heard of last.
    pub(super) fn recovery_id(&self) -> Option<String> {
        self.lock().recovery_id.clone()
    }

    /// The highest revision that was seen, and the number of what this node wrote last.
    pub(super) fn known(&self) -> (u64, u64) {
        let known = self.lock();
        (known.revision, known.sequence)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A store that was wiped may have grown past the revision that a node knew, by what others write to it.
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
