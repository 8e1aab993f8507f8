//! The list of running tasks, with the progress of each task. `towpath status` shows the list.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::Instant,
};

/// The tasks that are changing the node at the moment.
#[derive(Debug, Default)]
pub struct Activity(Mutex<BTreeMap<String, At>>);

#[derive(Debug)]
struct At {
    book: String,
    begun: Instant,
    /// The progress text that the module reports for the task.
    progress: Option<String>,
}

/// The guard of a running task. When the guard is dropped, the task is removed from the list of running tasks.
#[derive(Debug)]
pub struct ActivityGuard<'a>(&'a Activity, String);

impl Drop for ActivityGuard<'_> {
    fn drop(&mut self) {
        self.0.lock().remove(&self.1);
    }
}

impl Activity {
    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, At>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a task of a TaskBook to the list of running tasks.
    pub fn begin(&self, book: &str, task: &str, now: Instant) -> ActivityGuard<'_> {
        self.lock().insert(task.to_owned(), At { book: book.to_owned(), begun: now, progress: None });
        ActivityGuard(self, task.to_owned())
    }

    /// Records the progress of a running task.
    pub(crate) fn report(&self, task: &str, progress: &str) {
        if let Some(at) = self.lock().get_mut(task) {
            at.progress = Some(progress.to_owned());
        }
    }

    /// Returns one line of text about all running tasks; `None` if no task is running.
    pub fn now(&self, now: Instant) -> Option<String> {
        let show = |(task, at): (&String, &At)| {
            let seconds = now.saturating_duration_since(at.begun).as_secs();
            let progress = at.progress.as_ref().map(|progress| format!(": {progress}")).unwrap_or_default();
            format!("{}, task {task}, for {seconds} s{progress}", at.book)
        };
        let tasks = self.lock();
        (!tasks.is_empty()).then(|| tasks.iter().map(show).collect::<Vec<_>>().join("; "))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use towpath_host::{Clock as _, SystemClock};

    use super::*;

    #[test]
    fn running_task_is_shown_until_its_guard_is_dropped() {
        let (activity, begun) = (Activity::default(), SystemClock.monotonic());
        assert_eq!(activity.now(begun), None);
        activity.report("unknown", "here");
        let guard = activity.begin("web/server", "nginx", begun);
        let _other = activity.begin("web/server", "pages", begun);
        activity.report("nginx", "installing, 45 %");
        let now = activity.now(begun + Duration::from_secs(7)).unwrap();
        assert_eq!(now, "web/server, task nginx, for 7 s: installing, 45 %; web/server, task pages, for 7 s");
        drop(guard);
        assert_eq!(activity.now(begun).unwrap(), "web/server, task pages, for 0 s");
    }
}
