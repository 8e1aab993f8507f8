//! Work with a remote, within a time and an amount. A remote that hangs is left behind.

use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

/// How work with a remote ended.
pub(crate) enum Ended<T> {
    Done(T),
    TimedOut,
    TooMuch,
    Panicked,
}

/// What is watched while the work goes on.
pub(crate) struct Watch {
    pub(crate) time: Duration,
    /// The folder that may not grow by more than so many bytes.
    pub(crate) growth: Option<(PathBuf, u64)>,
}

/// Runs work on a thread of its own. The flag that the work is given asks it to stop.
pub(crate) fn run<T: Send + 'static>(
    watch: &Watch,
    work: impl FnOnce(Arc<AtomicBool>) -> T + Send + 'static,
) -> Ended<T> {
    let stop = Arc::new(AtomicBool::new(false));
    let (sender, receiver) = mpsc::channel();
    let flag = Arc::clone(&stop);
    // Crafted packs have made older parsers panic: that must cost the fetch, not the agent.
    thread::spawn(move || drop(sender.send(catch_unwind(AssertUnwindSafe(|| work(flag))))));
    let before = watch.growth.as_ref().map_or(0, |(folder, _)| size(folder));
    let slice = Duration::from_millis(200);
    let mut waited = Duration::ZERO;
    loop {
        match receiver.recv_timeout(slice) {
            Ok(Ok(done)) => return Ended::Done(done),
            Ok(Err(_)) | Err(mpsc::RecvTimeoutError::Disconnected) => return Ended::Panicked,
            Err(mpsc::RecvTimeoutError::Timeout) => waited += slice,
        }
        let too_much =
            watch.growth.as_ref().is_some_and(|(folder, limit)| size(folder) > before.saturating_add(*limit));
        if too_much || waited >= watch.time {
            stop.store(true, Ordering::SeqCst);
            // A thread that does not stop is left: it holds no lock that others need.
            let _ = receiver.recv_timeout(Duration::from_secs(2));
            return if too_much { Ended::TooMuch } else { Ended::TimedOut };
        }
    }
}

/// The bytes of the files in a folder and the folders in it.
fn size(folder: &Path) -> u64 {
    let mut total = 0;
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.metadata() {
            Ok(meta) if meta.is_dir() => total += size(&entry.path()),
            Ok(meta) => total += meta.len(),
            Err(_) => {}
        }
    }
    total
}
