//! Reports the outcome of a pass in the state of the node, its runs, its events and the log.

pub(super) mod happenings;
mod run_progress;

use serde_json::Value;
use towpath_coordination::WrittenOff;
use towpath_proto::v1alpha as pb;
use towpath_state::{BookId, Changes, Intent, RunId, RunRecord, kinds};

use super::{
    conditions::{Hold, Input, Passed, Trouble},
    node::Node,
    pass::{self, BookStatuses, Outcome, PassOutcome},
    revision::Revision,
    runs::{self, Run},
};
use crate::events::{EventType, NewEvent};
use run_progress::RunProgress;

/// The maximum number of runs that the journal keeps.
const RUNS: usize = 200;

impl Node {
    /// Reports the outcome of a pass: updates the conditions, and records events and runs.
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
        // The status of the TaskBooks is published before the conditions. A reader that sees the end of a pass in the
        // conditions then also sees the TaskBooks of that pass.
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
        let runs = self.announce(revision, outcome, &mut changes);
        for book in &outcome.books {
            self.report_book(revision, book, fresh, &runs, &mut changes);
        }
        if fresh || outcome.worst() > Outcome::Unchanged || !changes.is_empty() {
            changes.set(&BookStatuses(books));
        }
        if !changes.is_empty() || fresh {
            changes.set(&Intent::idle(String::new()));
            self.save(changes);
        }
    }

    fn report_book(
        &self,
        revision: &Revision,
        book: &pass::BookOutcome,
        fresh: bool,
        runs: &RunProgress,
        changes: &mut Changes,
    ) {
        if !fresh && book.worst() <= Outcome::Unchanged {
            return;
        }
        let id = format!("{}/{}", book.namespace, book.name);
        let tasks: Vec<pb::TaskStatus> = book.tasks.iter().map(pass::TaskOutcome::status).collect();
        let record = RunRecord {
            run: runs.run_of(&id).map_or_else(|| format!("{id}@{}", revision.generation), str::to_owned),
            namespace: book.namespace.clone(),
            name: book.name.clone(),
            generation: revision.generation,
            started: book.started,
            took: towpath_host::clock::seconds(book.took),
            outcome: book.worst().as_str().to_owned(),
            tasks: serde_json::to_value(tasks).unwrap_or_default(),
        };
        let key = RunId { started: book.started, book: BookId::new(&book.namespace, &book.name) };
        changes.put(&key, &record);
        let known = self.journal.keys::<RunRecord>().unwrap_or_default();
        for key in known.iter().take(known.len().saturating_sub(RUNS)) {
            changes.delete::<kinds::Run>(key);
        }
    }

    /// Records the events of a pass, and logs the messages of `debug` tasks. Returns the progress of the runs.
    fn announce(&self, revision: &Revision, outcome: &PassOutcome, changes: &mut Changes) -> RunProgress {
        let mut events: Vec<NewEvent> = self.fleet.take_written_off().into_iter().map(written_off).collect();
        let shows = |module: &str| towpath_proto::module(module).is_some_and(|module| module.shows_message);
        events.extend(self.fleet.take_milestones().iter().map(happenings::of_milestone));
        for book in &outcome.books {
            for task in book.tasks.iter().filter(|task| shows(&task.module) && task.outcome < Outcome::Failed) {
                let name = format!("{}/{}/{}", book.namespace, book.name, task.name);
                task.message.iter().for_each(|message| tracing::info!(task = name, "{message}"));
            }
        }
        let before = self.run_progress();
        let mut runs = before.clone();
        events.extend(happenings::of_pass(outcome, &mut runs));
        if runs != before {
            changes.set(&runs);
        }
        self.record_events(events);
        let alarms = happenings::of_books(&self.state, outcome, &runs);
        self.set_alarms(|event| happenings::is_judged(event, outcome), alarms);
        if !outcome.interrupted {
            let is_restored = !self.fleet.needs_republish();
            let is_over = |event: &NewEvent| match event.event_type {
                EventType::AgentJournalDamaged => true,
                EventType::StoreRestored => is_restored,
                _ => false,
            };
            self.set_alarms(is_over, Vec::new());
        }
        self.resolve_halted(revision);
        runs
    }
}

impl Node {
    fn run_progress(&self) -> RunProgress {
        self.journal.get_readable(&()).ok().flatten().unwrap_or_default()
    }

    /// Records the changes of a pass before the pass is repeated. The repeated pass finds these changes in sync and
    /// does not report them.
    pub(super) fn record_changes(&self, outcome: &PassOutcome) {
        let runs = self.run_progress();
        self.record_events(outcome.books.iter().flat_map(|book| happenings::of_changes(book, &runs)).collect());
    }

    /// Starts the runs of the TaskBooks of a revision, and adds the progress of the runs to the changes of the journal.
    pub(super) fn begin_runs(&self, revision: &Revision, changes: &mut Changes) {
        let mut runs = self.run_progress();
        self.record_events(runs.begin(runs::of_node(revision)));
        changes.set(&runs);
    }

    /// Ends the alarms of halted rollouts that have resumed or that another run has replaced.
    fn resolve_halted(&self, revision: &Revision) {
        let is_over = |alarm: &NewEvent| {
            let id = alarm.object.as_deref().and_then(|object| object.strip_prefix("TaskBook/")).unwrap_or_default();
            let book = revision.set.books.values().find(|book| book.id() == id);
            let run = book.and_then(|book| Run::of(&revision.set, revision.generation, &revision.manifest, book));
            run.is_none_or(|run| {
                alarm.data.get("run").and_then(Value::as_str) != Some(&run.spec.run)
                    || run.budgets().iter().all(|spec| self.fleet.is_halted(spec) == Some(false))
            })
        };
        let over = |alarm: &NewEvent| alarm.event_type == EventType::RolloutHalted && is_over(alarm);
        if let Err(error) = self.handle.events().resolve(self.clock.wall(), over) {
            tracing::warn!(%error, "cannot record an event");
        }
    }
}

/// Returns the event for a lost node that this node has written off in a rollout.
fn written_off(written_off: WrittenOff) -> NewEvent {
    let namespace = written_off.book.split('/').next().unwrap_or_default();
    NewEvent::new(EventType::RolloutNodeWrittenOff, written_off.message)
        .because("Lost")
        .about(format!("TaskBook/{}", written_off.book), namespace)
        .with("node", written_off.node)
}

/// Returns the holds of a TaskBook: its closed gates and its held tasks.
fn holds(revision: &Revision, book: &pass::BookOutcome) -> Vec<Hold> {
    let id = format!("{}/{}", book.namespace, book.name);
    let run = revision.manifest.books.get(&id).map_or_else(String::new, |entry| format!("{id}@{}", entry.since));
    let hold = Hold { book: id.clone(), run, ..Hold::default() };
    let gates = book.held.iter().map(|gate| Hold {
        subject: id.clone(),
        reason: gate.reason.name().to_owned(),
        opens: gate.opens.clone(),
        action: gate.action.clone(),
        is_shared: gate.is_shared,
        ..hold.clone()
    });
    // A task that only waits for a gate of its TaskBook is not listed.
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
