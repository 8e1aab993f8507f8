//! Runs work with a remote on a thread, with limits for time and data. The caller does not wait for a thread that
//! hangs.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use crate::{Options, SourceError, meter::Meter};

/// The result of work with a remote. `TimedOut` means that the work exceeded its time limit or a limit of its meter.
pub(crate) enum Ended<T> {
    Done(T),
    TimedOut,
    Panicked,
}

impl<T> Ended<T> {
    /// Returns the result of the work; if the work timed out or panicked, returns the error of its source.
    pub(crate) fn within(self, options: &Options, time: Duration) -> Result<T, SourceError> {
        let url = options.shown_url();
        match self {
            Self::Done(done) => Ok(done),
            Self::TimedOut => Err(SourceError::TimedOut { url, seconds: time.as_secs() }),
            Self::Panicked => Err(SourceError::Unreachable { url, source: "cannot parse the data".into() }),
        }
    }
}

/// Runs work on a new thread with a time limit. The work gets a flag, and must stop when the flag is set.
pub(crate) fn run<T: Send + 'static>(
    time: Duration,
    work: impl FnOnce(Arc<AtomicBool>) -> T + Send + 'static,
) -> Ended<T> {
    run_metered(time, &Meter::new(u64::MAX, u64::MAX), work)
}

/// Runs work on a new thread with a time limit, and stops the work if the meter exceeds a limit.
pub(crate) fn run_metered<T: Send + 'static>(
    time: Duration,
    meter: &Meter,
    work: impl FnOnce(Arc<AtomicBool>) -> T + Send + 'static,
) -> Ended<T> {
    let stop = Arc::new(AtomicBool::new(false));
    let (sender, receiver) = mpsc::channel();
    let flag = Arc::clone(&stop);
    // Crafted packs have made older parsers panic. A panic must only make the fetch fail, not end the agent.
    thread::spawn(move || drop(sender.send(catch_unwind(AssertUnwindSafe(|| work(flag))))));
    let slice = Duration::from_millis(200);
    let mut waited = Duration::ZERO;
    loop {
        match receiver.recv_timeout(slice) {
            Ok(Ok(done)) => return Ended::Done(done),
            Ok(Err(_)) | Err(mpsc::RecvTimeoutError::Disconnected) => return Ended::Panicked,
            Err(mpsc::RecvTimeoutError::Timeout) => waited = waited.saturating_add(slice),
        }
        if waited >= time || meter.exceeded().is_some() {
            stop.store(true, Ordering::SeqCst);
            // A thread that does not stop is abandoned. The thread holds no lock that other threads need.
            let _ = receiver.recv_timeout(Duration::from_secs(2));
            return Ended::TimedOut;
        }
    }
}
