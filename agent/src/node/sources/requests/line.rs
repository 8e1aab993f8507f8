//! The requests of one mirror: the running request, and the answers that later calls receive.

use std::{
    panic,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, RecvTimeoutError, TryRecvError},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use super::answers::{Answers, Kept, Name};

/// The longest time for which one refresh waits for answers.
pub(in crate::node) const PATIENCE: Duration = Duration::from_secs(2);

/// The number of refreshes without a request after which the agent deletes the stored answers of a mirror.
const FORGOTTEN: u64 = 16;

/// The requests of one mirror. At most one request runs at a time, because two requests must not write the mirror at
/// the same time.
#[derive(Debug, Default)]
pub(super) struct Line {
    running: Option<Running>,
    answers: Answers,
    /// True if the most recent request took longer than the waiting time of a refresh. A refresh does not wait for
    /// requests to a slow server.
    is_slow: bool,
    /// The head commit that the most recent fetch found.
    head: Option<String>,
    /// The number that identifies the most recent refresh with a request for the mirror.
    refresh: u64,
}

/// A request that has been sent.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) name: Name,
    /// The start of the request, in milliseconds since 1970.
    pub(super) since: i64,
    pub(super) answer: Receiver<Kept>,
    pub(super) thread: JoinHandle<()>,
    /// True if the request wakes the main loop when the request ends.
    pub(super) is_late: Arc<AtomicBool>,
}

impl Line {
    /// Records that a refresh makes a request for the mirror, and stores the answer of an ended request.
    pub(super) fn asked(&mut self, refresh: u64) {
        self.refresh = refresh;
        self.collect();
    }

    pub(super) fn is_slow(&self) -> bool {
        self.is_slow
    }

    pub(super) fn head(&self) -> Option<&String> {
        self.head.as_ref()
    }

    /// Returns true if no request for the mirror is running, and no recent refresh made a request.
    pub(super) fn is_forgotten(&self, refresh: u64) -> bool {
        self.running.is_none() && self.answers.is_empty() && refresh.saturating_sub(self.refresh) > FORGOTTEN
    }

    /// Returns the start of the running request, in milliseconds since 1970.
    pub(super) fn running_since(&self) -> Option<i64> {
        self.running.as_ref().map(|running| running.since)
    }

    /// Returns true if the thread of the running request has not ended.
    #[cfg(test)]
    pub(super) fn is_at_work(&self) -> bool {
        self.running.as_ref().is_some_and(|running| !running.thread.is_finished())
    }

    pub(super) fn kept(&self, name: &Name) -> Option<&Kept> {
        self.answers.get(name)
    }

    /// Begins a refresh. `news` is the number of changes that the poller has reported.
    pub(super) fn begin_refresh(&mut self, refresh: u64, now: Instant, news: u64) {
        self.collect();
        self.answers.begin_refresh(refresh, now, news, self.running.is_some());
    }

    /// Stores the answer of a request that has ended. If the thread of the request panicked, the panic continues in the
    /// caller.
    pub(super) fn collect(&mut self) {
        let Some(running) = self.running.take() else { return };
        match running.answer.try_recv() {
            Ok(kept) => self.keep(running.name, Kept { is_late: true, ..kept }),
            Err(TryRecvError::Empty) => self.running = Some(running),
            Err(TryRecvError::Disconnected) => running.panicked(),
        }
    }

    /// Waits up to `patience` for the answer of a new request.
    pub(super) fn wait(&mut self, running: Running, patience: Duration, refresh: u64) {
        match running.answer.recv_timeout(patience) {
            Ok(kept) => self.keep(running.name, Kept { refresh: Some(refresh), ..kept }),
            Err(RecvTimeoutError::Disconnected) => running.panicked(),
            Err(RecvTimeoutError::Timeout) => {
                tracing::debug!(request = ?running.name, "a server has not answered yet");
                running.is_late.store(true, Ordering::SeqCst);
                self.running = Some(running);
                // The request may have ended before its end could wake the main loop.
                self.collect();
            }
        }
    }

    fn keep(&mut self, name: Name, kept: Kept) {
        self.is_slow = kept.took >= PATIENCE;
        if kept.outcome.head.is_some() {
            self.head.clone_from(&kept.outcome.head);
        }
        self.answers.keep(name, kept);
    }
}

impl Running {
    fn panicked(self) {
        if let Err(cause) = self.thread.join() {
            panic::resume_unwind(cause);
        }
    }
}
