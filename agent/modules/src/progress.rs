//! The changes in progress: recorded by tasks, shown by status.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::Instant,
};

/// The tasks that change something at this moment.
#[derive(Debug, Default)]
pub struct Progress(Mutex<BTreeMap<String, At>>);

#[derive(Debug)]
struct At {
    book: String,
    begun: Instant,
    /// The progress, in the words of the module.
    far: Option<String>,
}

/// A guard of a running task. Dropping it ends the task's entry.
#[derive(Debug)]
pub struct Work<'a>(&'a Progress, String);

impl Drop for Work<'_> {
    fn drop(&mut self) {
        self.0.lock().remove(&self.1);
    }
}

impl Progress {
    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, At>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records that a task of a book begins a change.
    pub fn begin(&self, book: &str, task: &str, now: Instant) -> Work<'_> {
        self.lock().insert(task.to_owned(), At { book: book.to_owned(), begun: now, far: None });
        Work(self, task.to_owned())
    }

    /// Records the progress of a running task.
    pub(crate) fn say(&self, task: &str, far: &str) {
        if let Some(at) = self.lock().get_mut(task) {
            at.far = Some(far.to_owned());
        }
    }

    /// Returns a sentence about all running tasks. `None` if no task is running.
    pub fn now(&self, now: Instant) -> Option<String> {
        let tell = |(task, at): (&String, &At)| {
            let seconds = now.saturating_duration_since(at.begun).as_secs();
            let far = at.far.as_ref().map(|far| format!(": {far}")).unwrap_or_default();
            format!("{}, task {task}, for {seconds} s{far}", at.book)
        };
        let tasks = self.lock();
        (!tasks.is_empty()).then(|| tasks.iter().map(tell).collect::<Vec<_>>().join("; "))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use towpath_host::{Clock as _, SystemClock};

    use super::*;

    #[test]
    fn what_is_done_is_told_for_as_long_as_it_is_done() {
        let (progress, begun) = (Progress::default(), SystemClock.monotonic());
        assert_eq!(progress.now(begun), None);
        progress.say("nobody", "here");
        let work = progress.begin("web/server", "nginx", begun);
        let _other = progress.begin("web/server", "pages", begun);
        progress.say("nginx", "installing, 45 %");
        let now = progress.now(begun + Duration::from_secs(7)).unwrap();
        assert_eq!(now, "web/server, task nginx, for 7 s: installing, 45 %; web/server, task pages, for 7 s");
        drop(work);
        assert_eq!(progress.now(begun).unwrap(), "web/server, task pages, for 0 s");
    }
}
