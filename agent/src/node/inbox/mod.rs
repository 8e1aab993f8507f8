//! The queue of pending work of the main loop. Pollers, file events, the data store, gossip and late answers of git
//! servers add work to the queue. While the main loop is busy, the queue merges new work into one entry.

pub(super) mod pace;
pub(super) mod poller;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

/// The pending work of the main loop.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PendingWork {
    /// True if the sources must be refreshed.
    pub poll: bool,
    /// True if a source has changed.
    pub source_changed: bool,
    /// True if a git server has answered a request after the refresh stopped waiting for the answer.
    pub answered: bool,
    /// True if another node has accepted a revision.
    pub accepted: bool,
    /// True if all TaskBooks must be checked.
    pub check: bool,
    /// The paths with file events.
    pub touched: BTreeSet<PathBuf>,
    /// True if the agent must stop.
    pub stop: bool,
}

impl PendingWork {
    /// Returns true if no work is pending.
    pub fn is_empty(&self) -> bool {
        !self.poll
            && !self.source_changed
            && !self.answered
            && !self.accepted
            && !self.check
            && !self.stop
            && self.touched.is_empty()
    }
}

/// The queue of pending work, shared by the main loop and the threads that report work.
#[derive(Debug, Clone, Default)]
pub struct Inbox {
    slot: Arc<(Mutex<PendingWork>, Condvar)>,
    /// A counter that shows that the agent is not stuck. The counter counts loop iterations and preemption checks.
    progress: Arc<AtomicU64>,
    /// The number of changes on git servers that the poller has reported.
    news: Arc<Mutex<BTreeMap<String, u64>>>,
}

/// The maximum number of changed paths in the queue. If more paths change than this maximum, the node checks all
/// TaskBooks.
const TOUCHED: usize = 1000;

impl Inbox {
    fn lock(&self) -> MutexGuard<'_, PendingWork> {
        self.slot.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds pending work and wakes the main loop.
    pub fn notify(&self, add: impl FnOnce(&mut PendingWork)) {
        let mut work = self.lock();
        add(&mut work);
        if work.touched.len() > TOUCHED {
            work.touched.clear();
            work.check = true;
        }
        self.slot.1.notify_all();
    }

    /// Records a change on a git server, and adds the work that the change requires. Answers to requests that began
    /// before the change are out of date.
    pub fn notify_news(&self, source: &str, add: impl FnOnce(&mut PendingWork)) {
        let mut news = self.news.lock().unwrap_or_else(PoisonError::into_inner);
        *news.entry(source.to_owned()).or_default() += 1;
        drop(news);
        self.notify(add);
    }

    /// Returns the number of changes of a source that the poller has reported.
    pub fn news(&self, source: &str) -> u64 {
        self.news.lock().unwrap_or_else(PoisonError::into_inner).get(source).copied().unwrap_or_default()
    }

    /// Waits for pending work, and removes all pending work from the queue. Returns no work if the time `patience`
    /// passes without new work.
    pub fn take(&self, patience: Duration) -> PendingWork {
        self.progress.fetch_add(1, Ordering::Relaxed);
        let (mut work, _) = self
            .slot
            .1
            .wait_timeout_while(self.lock(), patience, |work| work.is_empty())
            .unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *work)
    }

    /// Returns true if the current run should be preempted, because a newer revision exists or the agent must stop.
    pub fn should_preempt(&self) -> bool {
        self.progress.fetch_add(1, Ordering::Relaxed);
        let work = self.lock();
        work.source_changed || work.accepted || work.stop
    }

    /// Returns a counter that grows as long as the main loop or a run makes progress.
    pub fn progress(&self) -> u64 {
        self.progress.load(Ordering::Relaxed)
    }

    /// Returns whether the agent must stop.
    pub fn stops(&self) -> bool {
        self.lock().stop
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notifications_are_combined() {
        let inbox = Inbox::default();
        inbox.notify(|work| work.check = true);
        inbox.notify(|work| work.source_changed = true);
        assert!(inbox.should_preempt());
        let work = inbox.take(Duration::ZERO);
        assert!(work.check && work.source_changed);
        assert!(inbox.take(Duration::ZERO).is_empty());
    }

    #[test]
    fn many_touched_paths_become_one_check() {
        let inbox = Inbox::default();
        for number in 0..2000 {
            inbox.notify(|work| {
                work.touched.insert(PathBuf::from(format!("/{number}")));
            });
        }
        let work = inbox.take(Duration::ZERO);
        assert!(work.check && work.touched.len() <= TOUCHED);
    }
}
