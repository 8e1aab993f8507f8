//! The progress of the runs of TaskBooks on this node. Events about runs are derived from the progress of the runs.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use towpath_state::{Record, kinds};

use crate::{
    events::{EventType, NewEvent},
    reconcile::pass::Outcome,
};

/// The progress of the runs of all TaskBooks on this node, by TaskBook.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct RunProgress(BTreeMap<String, BookProgress>);

impl Record for RunProgress {
    type Kind = kinds::RunProgress;
}

/// The progress of the run of one TaskBook on this node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct BookProgress {
    run: String,
    /// The digest of the TaskBook. A TaskBook whose digest changes gets a new run.
    digest: String,
    phase: Phase,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Phase {
    Started,
    Succeeded,
    Failed,
}

impl RunProgress {
    /// Starts the runs of the TaskBooks of a revision. Each item of `books` names a TaskBook, its run and its digest. A
    /// TaskBook that has not changed keeps its run.
    pub(crate) fn begin(&mut self, books: impl IntoIterator<Item = (String, String, String)>) -> Vec<NewEvent> {
        let mut before = std::mem::take(&mut self.0);
        let mut events = Vec::new();
        for (book, run, digest) in books {
            let known = before.remove(&book);
            if let Some(known) = known.as_ref().filter(|known| known.digest == digest) {
                self.0.insert(book, known.clone());
                continue;
            }
            events.extend(known.and_then(|known| superseded(&book, &known)));
            events.push(of_run(EventType::RunStarted, &book, &run, "the run has begun"));
            self.0.insert(book, BookProgress { run, digest, phase: Phase::Started });
        }
        events.extend(before.iter().filter_map(|(book, known)| superseded(book, known)));
        events
    }

    /// Records the outcome of a TaskBook in a pass that was not preempted. Returns an event if the outcome ends the
    /// run.
    pub(crate) fn end(&mut self, book: &str, outcome: Outcome, message: &str) -> Option<NewEvent> {
        let progress = self.0.get_mut(book)?;
        let (phase, event_type) = match outcome {
            Outcome::Failed if progress.phase == Phase::Started => (Phase::Failed, EventType::RunFailed),
            Outcome::Skipped | Outcome::Unchanged | Outcome::Changed if progress.phase != Phase::Succeeded => {
                (Phase::Succeeded, EventType::RunSucceeded)
            }
            _ => return None,
        };
        progress.phase = phase;
        let message = if phase == Phase::Failed { message } else { "the run has ended" };
        Some(of_run(event_type, book, &progress.run, message))
    }

    /// Returns the run of a TaskBook. Returns `None` if the TaskBook has no run yet.
    pub(crate) fn run_of(&self, book: &str) -> Option<&str> {
        self.0.get(book).map(|progress| progress.run.as_str())
    }
}

fn superseded(book: &str, known: &BookProgress) -> Option<NewEvent> {
    let message = "the book was changed or deleted before its run had succeeded";
    (known.phase != Phase::Succeeded).then(|| of_run(EventType::RunSuperseded, book, &known.run, message))
}

fn of_run(event_type: EventType, book: &str, run: &str, message: &str) -> NewEvent {
    let namespace = book.split('/').next().unwrap_or_default();
    NewEvent::new(event_type, format!("{book}: {message}"))
        .about(format!("TaskBook/{book}"), namespace)
        .with("run", run)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(events: &[NewEvent]) -> Vec<(&'static str, String)> {
        let run = |event: &NewEvent| event.data["run"].as_str().unwrap().to_owned();
        events.iter().map(|event| (event.event_type.name(), run(event))).collect()
    }

    fn book(name: &str, run: &str, digest: &str) -> (String, String, String) {
        (format!("a/{name}"), run.to_owned(), digest.to_owned())
    }

    #[test]
    fn run_begins_once_and_ends_once() {
        let mut progress = RunProgress::default();
        assert_eq!(names(&progress.begin([book("b", "1", "x")])), [("run.started", "1".to_owned())]);
        assert!(progress.begin([book("b", "2", "x")]).is_empty(), "a revision that leaves the book as it is");
        assert_eq!(progress.end("a/b", Outcome::Held, ""), None);
        assert_eq!(
            names(&progress.end("a/b", Outcome::Changed, "").into_iter().collect::<Vec<_>>())[0].0,
            "run.succeeded"
        );
        assert_eq!(progress.end("a/b", Outcome::Unchanged, ""), None);
        assert_eq!(progress.end("a/b", Outcome::Failed, ""), None, "drift that cannot be corrected is no run");
    }

    #[test]
    fn failed_run_fails_once_and_may_succeed_later() {
        let mut progress = RunProgress::default();
        progress.begin([book("b", "1", "x")]);
        let failed = progress.end("a/b", Outcome::Failed, "t: no such file").unwrap();
        assert_eq!((failed.event_type, failed.message.as_str()), (EventType::RunFailed, "a/b: t: no such file"));
        assert_eq!(progress.end("a/b", Outcome::Failed, "t: no such file"), None);
        assert_eq!(progress.end("a/b", Outcome::Changed, "").unwrap().event_type, EventType::RunSucceeded);
    }

    #[test]
    fn run_that_had_not_succeeded_is_superseded_by_a_change_or_a_deletion() {
        for outcome in [Outcome::Held, Outcome::Failed] {
            let mut progress = RunProgress::default();
            progress.begin([book("b", "1", "x"), book("c", "1", "x")]);
            progress.end("a/b", outcome, "");
            progress.end("a/c", Outcome::Changed, "");
            let events = progress.begin([book("b", "2", "y"), book("c", "2", "y")]);
            let expected = [("run.superseded", "1"), ("run.started", "2"), ("run.started", "2")];
            assert_eq!(names(&events), expected.map(|(name, run)| (name, run.to_owned())));
            assert_eq!(names(&progress.begin([]))[0].0, "run.superseded", "deleted");
        }
    }
}
