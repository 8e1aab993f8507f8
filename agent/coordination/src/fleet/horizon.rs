//! How far the data store has come, as far as this node has seen; and whether it has gone back since.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crate::rollout::View;

/// How long a node that has reached the store (again) lets nobody in: a store that was restored is reached by all at
/// about the same time, and whoever knows more of its past says so first.
const SURE: Duration = Duration::from_secs(3);

/// What a node knows of the store's past.
#[derive(Debug)]
pub(super) struct Horizon {
    /// Whether other processes write to the store too: only then it must be said to all that it has gone back.
    shared: bool,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// The highest revision that was seen.
    revision: u64,
    /// The number of what this node wrote last.
    mark: u64,
    /// Whether the store is older than that, and nobody is known to have said so.
    fallen: bool,
    /// The restoration that was heard of last.
    restoration: Option<String>,
    /// Whether this node has to say anew what it holds.
    owes: bool,
    /// Whether somebody may have said that the store went back, which was not looked at yet.
    heard: bool,
    /// Whether the store did not answer last time; and when it did first since then.
    away: bool,
    reached: Option<Instant>,
}

impl Horizon {
    pub(super) fn new(shared: bool) -> Self {
        Self { shared, known: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Goes on from what the journal knows. Who has no past knows nothing of the store's either, and has nothing to be
    /// unsure of.
    pub(super) fn resume(&self, revision: u64, mark: u64) {
        let mut known = self.lock();
        (known.revision, known.mark, known.away) = (revision, mark, mark > 0);
    }

    /// The store did not answer: it may be another one when it does.
    pub(super) fn lost_sight(&self) {
        self.lock().away = true;
    }

    /// When this node may be sure that nobody knows that the store went back; None where it is.
    pub(super) fn unsure_until(&self, now: Instant) -> Option<Instant> {
        if !self.shared {
            return None;
        }
        let mut known = self.lock();
        if std::mem::take(&mut known.away) {
            known.reached = Some(now);
        }
        known.reached.map(|reached| reached + SURE).filter(|sure| now < *sure)
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
            (known.fallen, known.owes) = (true, true);
            known.revision = revision;
        }
        known.revision = known.revision.max(revision);
    }

    /// The store has no record that this node joined. If the node has written to the store before, the store was wiped
    /// or is another one; its revision may already be beyond the one that the node knew.
    pub(super) fn lacks_own_record(&self) {
        let mut known = self.lock();
        if known.mark > 0 && self.shared {
            tracing::warn!("the data store has no record of this node: it was wiped, or restored from an old backup");
            (known.fallen, known.owes) = (true, true);
        }
    }

    /// Compares what was read with what this node knew when it asked, and tells the view.
    pub(super) fn judge(&self, before: (u64, u64), view: &mut View) {
        self.seen(before, view.revision);
        let mut known = self.lock();
        // A mark that is not there says nothing: it may be signed with a key that counts no more.
        if view.mark > 0 && view.mark < before.1 {
            tracing::warn!(was = before.1, is = view.mark, "the data store lacks what this node has written to it");
            (known.fallen, known.owes) = (true, true);
            // What is written from now on is newer than that.
            known.mark = view.mark;
        }
        known.mark = known.mark.max(view.mark);
        known.heard = false;
        match &view.restored {
            Some((restored, _)) if known.restoration.as_deref() != Some(restored.id.as_str()) => {
                known.restoration = Some(restored.id.clone());
                (known.fallen, known.owes) = (false, true);
            }
            None if !known.fallen && self.shared => known.owes = false,
            _ => {}
        }
        view.fallen = known.fallen && self.shared;
    }

    /// This node has written something with a mark.
    pub(super) fn wrote(&self, mark: u64) {
        let mut known = self.lock();
        known.mark = known.mark.max(mark);
    }

    /// Whether this node knows that the store has gone back, and nobody is known to have said so.
    pub(super) fn has_fallen(&self) -> bool {
        self.lock().fallen && self.shared
    }

    /// This node has said that the store went back. Where that does not read back (it does not count), it is not said
    /// again.
    pub(super) fn announced(&self) {
        self.lock().fallen = false;
    }

    /// Somebody seems to have said that the store went back: it is looked at.
    pub(super) fn told(&self) {
        self.lock().heard = true;
    }

    /// This node has said anew what it holds.
    pub(super) fn settled(&self) {
        let mut known = self.lock();
        known.fallen &= self.shared;
        known.owes = known.fallen;
    }

    /// Whether this node has to say anew what it holds, or to look whether it has.
    pub(super) fn owes(&self) -> bool {
        let known = self.lock();
        known.owes || known.heard
    }

    /// The restoration that was heard of last.
    pub(super) fn restoration(&self) -> Option<String> {
        self.lock().restoration.clone()
    }

    /// The highest revision that was seen, and the number of what this node wrote last.
    pub(super) fn known(&self) -> (u64, u64) {
        let known = self.lock();
        (known.revision, known.mark)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A store that was wiped may have grown past the revision that a node knew, by what others write to it.
    #[test]
    fn store_without_the_record_of_a_node_that_has_written_is_rolled_back() {
        for (shared, mark, rolled_back) in [(true, 7, true), (true, 0, false), (false, 7, false)] {
            let horizon = Horizon::new(shared);
            horizon.resume(40, mark);
            horizon.seen((40, mark), 500);
            horizon.lacks_own_record();
            assert_eq!(horizon.has_fallen(), rolled_back, "{shared} {mark}");
        }
    }
}
