//! The coalescing inbox of the loop. Timers, webhooks, file events and new commits only record that there is work. Work
//! that arrives while the loop is busy is merged.

use std::{
    collections::BTreeSet,
    path::PathBuf,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

/// The pending work of the loop.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wake {
    /// True if the sources are to be refreshed.
    pub poll: bool,
    /// True if a source has changed.
    pub moved: bool,
    /// True if another node has accepted a revision.
    pub accepted: bool,
    /// True if all books are to be checked.
    pub check: bool,
    /// Paths with file events.
    pub touched: BTreeSet<PathBuf>,
    /// True if the agent stops.
    pub stop: bool,
}

impl Wake {
    /// Returns whether there is no pending work.
    pub fn is_empty(&self) -> bool {
        !self.poll && !self.moved && !self.accepted && !self.check && !self.stop && self.touched.is_empty()
    }
}

/// The inbox, shared by the loop and its notifiers.
#[derive(Debug, Clone, Default)]
pub struct Queue {
    slot: Arc<(Mutex<Wake>, Condvar)>,
    /// Number of loop iterations and of preemption checks, which prove that the agent is not stuck.
    progress: Arc<AtomicU64>,
}

/// Number of touched paths above which everything is checked instead.
const TOUCHED: usize = 1000;

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Wake> {
        self.slot.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds pending work and wakes the loop.
    pub fn poke(&self, add: impl FnOnce(&mut Wake)) {
        let mut wake = self.lock();
        add(&mut wake);
        if wake.touched.len() > TOUCHED {
            wake.touched.clear();
            wake.check = true;
        }
        self.slot.1.notify_all();
    }

    /// Waits for pending work and takes it. Empty if `patience` passes without any.
    pub fn take(&self, patience: Duration) -> Wake {
        self.progress.fetch_add(1, Ordering::Relaxed);
        let (mut wake, _) = self
            .slot
            .1
            .wait_timeout_while(self.lock(), patience, |wake| wake.is_empty())
            .unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *wake)
    }

    /// Returns whether a run should be preempted: by a newer commit, or because the agent stops.
    pub fn wants_way(&self) -> bool {
        self.progress.fetch_add(1, Ordering::Relaxed);
        let wake = self.lock();
        wake.moved || wake.accepted || wake.stop
    }

    /// Returns a counter that grows as long as the loop, or a run, makes progress.
    pub fn progress(&self) -> u64 {
        self.progress.load(Ordering::Relaxed)
    }

    /// Returns whether the agent stops.
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
