//! Reports of a pass: the state, the runs, the events and the log.

use towpath_proto::v1alpha as pb;
use towpath_state::{BookId, Changes, Intent, RunId, RunRecord, kinds};

use super::{
    conditions::{Hold, Input, Passed, Trouble},
    node::Node,
    pass::{self, BookStatuses, Outcome, PassOutcome},
    revision::Revision,
};
use crate::report::Told;

/// Maximum number of remembered runs.
const RUNS: usize = 200;

impl Node {
    /// Reports a pass.
    pub(super) fn report(&mut self, revision: &Revision, outcome: &PassOutcome, fresh: bool) {
        let failed: Vec<String> = outcome
            .books
            .iter()
            .flat_map(|book| {
                let failed = book.tasks.iter().filter(|task| task.outcome == Outcome::Failed);
                failed.map(move |task| said(book, task))
            })
            .collect();
        let held = outcome.books.iter().flat_map(|book| holds(revision, book)).collect();
        let disk = outcome.disk.as_ref().map(|(disk, message)| {
            let reason = match disk {
                towpath_modules::Disk::Full => "DiskFull",
                towpath_modules::Disk::ReadOnly => "ReadOnly",
            };
            Trouble::new(reason, message.clone())
        });
        let uncoordinated = outcome
            .books
            .iter()
            .filter(|book| book.uncoordinated)
            .map(|book| format!("{}/{}", book.namespace, book.name))
            .collect();
        let failed_text =
            (!failed.is_empty()).then(|| format!("{}; correct it in git, or on the node", failed.join("; ")));
        // Books are shown before the conditions. A reader whose conditions show the end of a pass then also sees its
        // books.
        let books: Vec<pb::TaskBookStatus> = outcome.books.iter().map(pass::BookOutcome::status).collect();
        self.handle.set_books(books.clone());
        self.step(Input::Passed(Passed {
            worst: outcome.worst(),
            failed: failed_text,
            held,
            disk,
            interrupted: outcome.interrupted,
            uncoordinated,
        }));
        let mut changes = Changes::default();
        for book in &outcome.books {
            self.report_book(revision, book, fresh, &mut changes);
        }
        if fresh || outcome.worst() > Outcome::Unchanged || !changes.is_empty() {
            changes.set(&BookStatuses(books));
        }
        if !changes.is_empty() || fresh {
            changes.set(&Intent::idle(String::new()));
            self.save(changes);
        }
        self.announce(outcome);
    }

    fn report_book(&self, revision: &Revision, book: &pass::BookOutcome, fresh: bool, changes: &mut Changes) {
        if !fresh && book.worst() <= Outcome::Unchanged {
            return;
        }
        let id = format!("{}/{}", book.namespace, book.name);
        let tasks: Vec<pb::TaskStatus> = book.tasks.iter().map(pass::TaskOutcome::status).collect();
        let record = RunRecord {
            run: format!("{id}@{}", revision.generation),
            namespace: book.namespace.clone(),
            name: book.name.clone(),
            generation: revision.generation,
            started: book.started,
            took: towpath_host::clock::seconds(book.took),
            outcome: book.worst().word().to_owned(),
            tasks: serde_json::to_value(tasks).unwrap_or_default(),
        };
        let key = RunId { started: book.started, book: BookId::new(&book.namespace, &book.name) };
        changes.put(&key, &record);
        let known = self.journal.keys::<RunRecord>().unwrap_or_default();
        for key in known.iter().take(known.len().saturating_sub(RUNS)) {
            changes.delete::<kinds::Run>(key);
        }
    }

    /// Logs the outcomes of tasks and records their events.
    fn announce(&self, outcome: &PassOutcome) {
        self.announce_write_offs();
        for book in &outcome.books {
            for task in &book.tasks {
                let name = format!("{}/{}/{}", book.namespace, book.name, task.name);
                let message = task.message.clone().unwrap_or_default();
                match task.outcome {
                    Outcome::Failed => {
                        tracing::error!(task = name, "{message}");
                        self.told(book, task, "task.failed");
                    }
                    Outcome::Changed if task.drift => {
                        tracing::warn!(task = name, "drift was put right");
                        self.told(book, task, "drift.corrected");
                    }
                    Outcome::Changed => tracing::info!(task = name, "changed"),
                    _ if task.module == "debug" && !message.is_empty() => tracing::info!(task = name, "{message}"),
                    _ => {}
                }
            }
        }
    }

    /// Records an event for each node that this node has written off.
    fn announce_write_offs(&self) {
        for written_off in self.fleet.take_written_off() {
            tracing::warn!(book = written_off.book, node = written_off.node, "wrote off a lost node");
            let told = Told {
                namespace: written_off.book.split('/').next().unwrap_or_default().to_owned(),
                kind: "rollout.node-written-off".to_owned(),
                firing: None,
                reason: Some("Lost".to_owned()),
                object: Some(format!("TaskBook/{}", written_off.book)),
                message: written_off.message,
            };
            if let Err(error) = self.handle.events().tell(self.clock.wall(), told) {
                tracing::warn!(%error, "cannot record an event");
            }
        }
    }

    fn told(&self, book: &pass::BookOutcome, task: &pass::TaskOutcome, kind: &str) {
        let told = Told {
            namespace: book.namespace.clone(),
            kind: kind.to_owned(),
            firing: None,
            reason: None,
            object: Some(format!("TaskBook/{}/{}", book.namespace, book.name)),
            message: format!("{}: {}", task.name, task.message.clone().unwrap_or_default()),
        };
        if let Err(error) = self.handle.events().tell(self.clock.wall(), told) {
            tracing::warn!(%error, "an event can't be kept");
        }
    }
}

/// Returns the closed gates of a book, and its held tasks.
fn holds(revision: &Revision, book: &pass::BookOutcome) -> Vec<Hold> {
    let id = format!("{}/{}", book.namespace, book.name);
    let run = revision.manifest.books.get(&id).map_or_else(String::new, |entry| format!("{id}@{}", entry.since));
    let hold = Hold { book: id.clone(), run, ..Hold::default() };
    let gates = book.held.iter().map(|gate| Hold {
        subject: id.clone(),
        reason: gate.reason.to_owned(),
        opens: gate.opens.clone(),
        action: gate.action.clone(),
        is_shared: gate.is_shared,
        ..hold.clone()
    });
    // A task that waits for a gate of its book has no reason of its own.
    let own =
        |task: &&pass::TaskOutcome| task.outcome == Outcome::Held && (book.held.is_empty() || task.module == "prune");
    let tasks = book.tasks.iter().filter(own).map(|task| Hold {
        subject: format!("{id}/{}", task.name),
        reason: if task.module == "prune" { "Budget" } else { "Dependency" }.to_owned(),
        opens: task.message.clone().unwrap_or_default(),
        ..hold.clone()
    });
    gates.chain(tasks).collect()
}

/// Returns the full name of a task with its message.
fn said(book: &pass::BookOutcome, task: &pass::TaskOutcome) -> String {
    let message = task.message.as_deref().unwrap_or_default();
    format!("{}/{}/{}: {message}", book.namespace, book.name, task.name)
}
