//! The single slot that everything pokes: timers, webhooks, file events and new commits only say that there is
//! something to do. What comes while the loop works is kept together.

use std::{
    collections::BTreeSet,
    path::PathBuf,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

/// Why the loop wakes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wake {
    /// The sources are to be asked.
    pub poll: bool,
    /// A source has moved.
    pub moved: bool,
    /// Another node has accepted a revision.
    pub accepted: bool,
    /// Everything is to be checked.
    pub check: bool,
    /// These paths were touched.
    pub touched: BTreeSet<PathBuf>,
    /// The agent stops.
    pub stop: bool,
}

impl Wake {
    /// Whether nothing is to be done.
    pub fn is_empty(&self) -> bool {
        !self.poll && !self.moved && !self.accepted && !self.check && !self.stop && self.touched.is_empty()
    }
}

/// The slot.
#[derive(Debug, Clone, Default)]
pub struct Queue {
    slot: Arc<(Mutex<Wake>, Condvar)>,
    /// How often the loop has come round, or a run has come to the end of a task.
    progress: Arc<AtomicU64>,
}

/// How many touched paths are kept apart; beyond that everything is checked.
const TOUCHED: usize = 1000;

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Wake> {
        self.slot.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds to what is to be done.
    pub fn poke(&self, add: impl FnOnce(&mut Wake)) {
        let mut wake = self.lock();
        add(&mut wake);
        if wake.touched.len() > TOUCHED {
            wake.touched.clear();
            wake.check = true;
        }
        self.slot.1.notify_all();
    }

    /// Takes what is to be done, or nothing when the time is over.
    pub fn take(&self, patience: Duration) -> Wake {
        self.progress.fetch_add(1, Ordering::Relaxed);
        let (mut wake, _) = self
            .slot
            .1
            .wait_timeout_while(self.lock(), patience, |wake| wake.is_empty())
            .unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *wake)
    }

    /// Whether a run should make way: for a newer commit, or because the agent stops.
    pub fn wants_way(&self) -> bool {
        self.progress.fetch_add(1, Ordering::Relaxed);
        let wake = self.lock();
        wake.moved || wake.accepted || wake.stop
    }

    /// A number that grows as long as the loop, or a run, goes on.
    pub fn progress(&self) -> u64 {
        self.progress.load(Ordering::Relaxed)
    }

    /// Whether the agent stops.
    pub fn stops(&self) -> bool {
        self.lock().stop
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pokes_are_kept_together() {
        let queue = Queue::default();
        queue.poke(|wake| wake.check = true);
        queue.poke(|wake| wake.moved = true);
        assert!(queue.wants_way());
        let wake = queue.take(Duration::ZERO);
        assert!(wake.check && wake.moved);
        assert!(queue.take(Duration::ZERO).is_empty());
    }

    #[test]
    fn a_flood_of_paths_becomes_one_check() {
        let queue = Queue::default();
        for number in 0..2000 {
            queue.poke(|wake| {
                wake.touched.insert(PathBuf::from(format!("/{number}")));
            });
        }
        let wake = queue.take(Duration::ZERO);
        assert!(wake.check && wake.touched.len() <= TOUCHED);
    }
}
