//! Reports the outcome of a pass: the inputs of the state machine, the events, and the records of runs.

use serde_json::Value;
use towpath_coordination::{WrittenOff, fleet::Fleet};
use towpath_proto::v1alpha as pb;
use towpath_state::{BookId, Changes, Intent, Journal, RunId, RunRecord, kinds};

use crate::{
    events::{EventType, NewEvent},
    node::writer::Effects,
    reconcile::{
        Revision,
        pass::{self, BookStatuses, Outcome, PassOutcome},
        runs::{self, Run},
    },
    status::{
        conditions::{ConditionReason, Hold, Input, Passed, State},
        happenings,
        run_progress::RunProgress,
    },
};

/// The maximum number of runs that the journal keeps.
const RUNS: usize = 200;

/// Returns the status of the TaskBooks after a pass.
pub(in crate::node) fn statuses(outcome: &PassOutcome) -> Vec<pb::TaskBookStatus> {
    outcome.books.iter().map(pass::BookOutcome::status).collect()
}

/// Returns the result of a pass as an input of the state machine.
pub(in crate::node) fn passed(revision: &Revision, outcome: &PassOutcome) -> Input {
    let failed: Vec<String> = outcome
        .books
        .iter()
        .flat_map(|book| {
            let failed = book.tasks.iter().filter(|task| task.outcome == Outcome::Failed);
            failed.map(move |task| message_of(book, task))
        })
        .collect();
    let disk = outcome.disk.as_ref().map(|(disk, message)| {
        let reason = match disk {
            towpath_modules::Disk::Full => "DiskFull",
            towpath_modules::Disk::ReadOnly => "ReadOnly",
        };
        ConditionReason::new(reason, message.clone())
    });
    let uncoordinated = outcome
        .books
        .iter()
        .filter(|book| book.uncoordinated)
        .map(|book| format!("{}/{}", book.namespace, book.name))
        .collect();
    Input::Passed(Passed {
        worst: outcome.worst(),
        failed: (!failed.is_empty()).then(|| format!("{}; correct it in git, or on the node", failed.join("; "))),
        held: outcome.books.iter().flat_map(|book| holds(revision, book)).collect(),
        disk,
        interrupted: outcome.interrupted,
        uncoordinated,
    })
}

/// The inputs for the report of a pass: the journal, the fleet and the revision.
#[derive(Debug, Clone, Copy)]
pub(in crate::node) struct Report<'a> {
    pub(in crate::node) journal: &'a Journal,
    pub(in crate::node) fleet: &'a Fleet,
    pub(in crate::node) revision: &'a Revision,
    /// True if the revision was not yet fully applied on the node before the pass.
    pub(in crate::node) fresh: bool,
}

impl<'a> Report<'a> {
    /// Returns the events, the alarms and the records of a pass. `state` is the state of the node after the pass.
    pub(in crate::node) fn of_pass(self, state: &State, outcome: &'a PassOutcome) -> Effects<'a> {
        let mut events: Vec<NewEvent> = self.fleet.take_written_off().into_iter().map(written_off).collect();
        events.extend(self.fleet.take_milestones().iter().map(happenings::of_milestone));
        log_messages(outcome);
        let before = run_progress(self.journal);
        let mut runs = before.clone();
        events.extend(happenings::of_pass(outcome, &mut runs));
        let alarms = happenings::of_books(state, outcome, &runs);
        let mut effects =
            Effects::default().events(events).alarms(|event| happenings::is_judged(event, outcome), alarms);
        if !outcome.interrupted {
            let is_restored = !self.fleet.needs_republish();
            let is_over = move |event: &NewEvent| match event.event_type {
                EventType::AgentJournalDamaged => true,
                EventType::StoreRestored => is_restored,
                _ => false,
            };
            effects = effects.alarms(is_over, Vec::new());
        }
        effects = effects.alarms(move |alarm| self.is_halt_over(alarm), Vec::new());
        let changes = self.changes(outcome, &runs, runs != before);
        if changes.is_empty() { effects } else { effects.changes(changes) }
    }

    /// Returns the journal changes to write after a pass.
    fn changes(self, outcome: &PassOutcome, runs: &RunProgress, runs_have_changed: bool) -> Changes {
        let mut changes = Changes::default();
        if runs_have_changed {
            changes.set(runs);
        }
        let worth = |book: &&pass::BookOutcome| self.fresh || book.worst() > Outcome::Unchanged;
        let records: Vec<(RunId, RunRecord)> =
            outcome.books.iter().filter(worth).map(|book| self.record(book, runs)).collect();
        if !records.is_empty() {
            let known = self.journal.keys::<RunRecord>().unwrap_or_default();
            for key in known.iter().take(known.len().saturating_sub(RUNS)) {
                changes.delete::<kinds::Run>(key);
            }
        }
        records.iter().for_each(|(key, record)| changes.put(key, record));
        if self.fresh || outcome.worst() > Outcome::Unchanged || !changes.is_empty() {
            changes.set(&BookStatuses(statuses(outcome)));
            changes.set(&Intent::idle(String::new()));
        }
        changes
    }

    /// Returns the record of the run of one TaskBook.
    fn record(self, book: &pass::BookOutcome, runs: &RunProgress) -> (RunId, RunRecord) {
        let id = format!("{}/{}", book.namespace, book.name);
        let tasks: Vec<pb::TaskStatus> = book.tasks.iter().map(pass::TaskOutcome::status).collect();
        let run = runs.run_of(&id).map_or_else(|| format!("{id}@{}", self.revision.id.generation), str::to_owned);
        let record = RunRecord {
            run,
            namespace: book.namespace.clone(),
            name: book.name.clone(),
            generation: self.revision.id.generation,
            started: book.started,
            took: towpath_host::clock::seconds(book.took),
            outcome: book.worst().as_str().to_owned(),
            tasks: serde_json::to_value(tasks).unwrap_or_default(),
        };
        (RunId { started: book.started, book: BookId::new(&book.namespace, &book.name) }, record)
    }

    /// Returns whether the alarm of a halted rollout is out of date. The alarm is out of date if the rollout has
    /// resumed, or if a newer run has replaced the halted run.
    fn is_halt_over(self, alarm: &NewEvent) -> bool {
        if alarm.event_type != EventType::RolloutHalted {
            return false;
        }
        let Revision { set, id: accepted, manifest, .. } = self.revision;
        let id = alarm.object.as_deref().and_then(|object| object.strip_prefix("TaskBook/")).unwrap_or_default();
        let book = set.books.values().find(|book| book.id() == id);
        book.and_then(|book| Run::of(set, accepted, manifest, book)).is_none_or(|run| {
            alarm.data.get("run").and_then(Value::as_str) != Some(&run.spec.run)
                || run.budgets().iter().all(|spec| self.fleet.is_halted(spec) == Some(false))
        })
    }
}

/// Logs the messages of `debug` tasks.
fn log_messages(outcome: &PassOutcome) {
    let shows = |module: &str| towpath_proto::module(module).is_some_and(|module| module.shows_message);
    for book in &outcome.books {
        for task in book.tasks.iter().filter(|task| shows(&task.module) && task.outcome < Outcome::Failed) {
            let name = format!("{}/{}/{}", book.namespace, book.name, task.name);
            task.message.iter().for_each(|message| tracing::info!(task = name, "{message}"));
        }
    }
}

fn run_progress(journal: &Journal) -> RunProgress {
    journal.get_readable(&()).ok().flatten().unwrap_or_default()
}

/// Returns the events for the changes of a pass that will be repeated. The repeated pass does not report the changes
/// that the first pass made.
pub(in crate::node) fn of_changes(journal: &Journal, outcome: &PassOutcome) -> Effects<'static> {
    let runs = run_progress(journal);
    Effects::default().events(outcome.books.iter().flat_map(|book| happenings::of_changes(book, &runs)).collect())
}

/// Starts the runs of the TaskBooks of a revision. Returns the events, and the journal changes that record the progress
/// of the runs.
pub(in crate::node) fn begin_runs(journal: &Journal, revision: &Revision) -> Effects<'static> {
    let mut runs = run_progress(journal);
    let events = runs.begin(runs::of_node(revision));
    let mut changes = Changes::default();
    changes.set(&runs);
    changes.set(&Intent { phase: towpath_state::Phase::Render, book: String::new(), paths: Vec::new() });
    Effects::default().events(events).changes(changes)
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
    let run = revision.manifest.books.get(&id).map_or_else(String::new, |entry| entry.run(&id));
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

/// Returns the full name of a task, followed by the message of the task.
fn message_of(book: &pass::BookOutcome, task: &pass::TaskOutcome) -> String {
    let message = task.message.as_deref().unwrap_or_default();
    format!("{}/{}/{}: {message}", book.namespace, book.name, task.name)
}
