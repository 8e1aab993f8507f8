//! Runs a request to a remote on a separate thread, with limits for time and data. If the thread hangs, the caller does
//! not wait for the thread.

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

/// The result of a request to a remote. `TimedOut` means that the request exceeded a limit on time, bytes or objects.
pub(crate) enum Ended<T> {
    Done(T),
    TimedOut,
    Panicked,
}

impl<T> Ended<T> {
    /// Returns the result of the request. If the request timed out or panicked, returns an error with the URL of the
    /// remote.
    pub(crate) fn within(self, options: &Options, time: Duration) -> Result<T, SourceError> {
        let url = options.display_url();
        match self {
            Self::Done(done) => Ok(done),
            Self::TimedOut => Err(SourceError::TimedOut { url, seconds: time.as_secs() }),
            Self::Panicked => Err(SourceError::Unreachable { url, source: "cannot parse the data".into() }),
        }
    }
}

/// Runs the function `work` on a new thread with a time limit. The function `work` gets a stop flag, and must return
/// soon after the stop flag is set.
pub(crate) fn run<T: Send + 'static>(
    time: Duration,
    work: impl FnOnce(Arc<AtomicBool>) -> T + Send + 'static,
) -> Ended<T> {
    run_metered(time, &Meter::new(u64::MAX, u64::MAX), work)
}

/// Runs the function `work` on a new thread with a time limit. Sets the stop flag of `work` if a counter of `meter`
/// exceeds its limit.
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
