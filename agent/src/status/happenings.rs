//! Computes events from the state of a node and from the outcome of a pass. All functions are pure.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use towpath_coordination::{Accepted, Milestone, MilestoneKind, accept::RevisionManifest};

use super::{
    conditions::{ConditionReason, Hold, Input, State},
    run_progress::RunProgress,
};
use crate::{
    events::{EventType, NewEvent},
    reconcile::pass::{BookOutcome, Origin, Outcome, PassOutcome, TaskOutcome},
};

/// Returns true if [`of_state`] derives the alarm from the state of the node.
pub(crate) fn is_of_state(event: &NewEvent) -> bool {
    use EventType as T;
    matches!(
        event.event_type,
        T::SourceUnreachable
            | T::SourceUnverified
            | T::SourceRewound
            | T::RevisionRejected
            | T::RevisionRejectedLocally
            | T::AgentDiskFull
            | T::AgentClockJumped
            | T::AgentStateLost
            | T::StoreUnreachable
            | T::StoreFull
            | T::NodeRejected
            | T::NodeCloned
    )
}

/// Returns the alarms for the problems in the state of a node. Problems with the same event type and object become one
/// alarm.
pub(crate) fn of_state(state: &State) -> Vec<NewEvent> {
    // Failed tasks are left out here, because each failed task has an alarm of its own.
    let stalled = state.stalled.iter().filter(|(subject, _)| *subject != "tasks");
    let mut alarms: Vec<NewEvent> = Vec::new();
    for alarm in state.problems.iter().chain(stalled).filter_map(|(subject, problem)| of_problem(subject, problem)) {
        if !alarms.iter().any(|known| (known.event_type, &known.object) == (alarm.event_type, &alarm.object)) {
            alarms.push(alarm);
        }
    }
    alarms
}

fn of_problem(subject: &str, problem: &ConditionReason) -> Option<NewEvent> {
    use EventType as T;
    let source = subject.strip_prefix("source ");
    let event_type = match (problem.reason.as_str(), subject) {
        ("DiskFull" | "ReadOnly", _) | (_, "node journal") => T::AgentDiskFull,
        ("ClockJumped", _) => T::AgentClockJumped,
        ("StateLost", _) => T::AgentStateLost,
        ("StoreFull", _) => T::StoreFull,
        ("StoreUnreachable", _) => T::StoreUnreachable,
        ("Cloned", _) => T::NodeCloned,
        (_, "node fleet") => T::NodeRejected,
        ("Unverified", _) => T::SourceUnverified,
        ("Rewound", _) => T::SourceRewound,
        ("InvalidObjects", _) => T::RevisionRejected,
        // A revision that is still being loaded does not cause an alarm.
        ("Progressing", _) => return None,
        (_, "node accepted" | "node store") => T::RevisionRejectedLocally,
        _ if source.is_some() => T::SourceUnreachable,
        _ => return None,
    };
    let alarm = NewEvent::new(event_type, &problem.message).because(&problem.reason);
    Some(match source.filter(|_| event_type != T::AgentDiskFull) {
        Some(source) => alarm.about(format!("Source/{source}"), "").with("source", source),
        None => alarm,
    })
}

/// Returns the events that a start of the agent causes. `last` is the event data of the previous start.
pub(crate) fn of_start(last: Option<&BTreeMap<String, Value>>, version: &str, boot: &str) -> Vec<NewEvent> {
    let fact = |name: &str| last.and_then(|last| last.get(name)?.as_str()).filter(|value| !value.is_empty());
    let mut events = Vec::new();
    if let Some(was) = fact("bootId").filter(|was| *was != boot && !boot.is_empty()) {
        let event = NewEvent::new(EventType::NodeRebooted, "the node was booted again").because("Rebooted");
        events.push(event.with("bootId", boot).with("before", was));
    }
    if let Some(was) = fact("version").filter(|was| *was != version) {
        let message = format!("the agent was upgraded from {was} to {version}");
        let event = NewEvent::new(EventType::AgentUpgraded, message).because("Upgraded");
        events.push(event.with("version", version).with("before", was));
    }
    let event = NewEvent::new(EventType::AgentStarted, format!("the agent {version} has started")).because("Started");
    events.push(event.with("version", version).with("bootId", boot));
    events
}

/// Returns the one-time events that a change of the state causes. One-time events are not alarms.
pub(crate) fn of_change(before: &State, input: &Input) -> Vec<NewEvent> {
    let Input::Source(name, None) = input else { return Vec::new() };
    let was = before.problems.get(&format!("source {name}"));
    if was.is_none_or(|problem| problem.reason != "MirrorCorrupt") {
        return Vec::new();
    }
    let message = format!("the mirror of {name} was damaged, and was fetched again");
    let event = NewEvent::new(EventType::SourceMirrorRebuilt, message).because("MirrorCorrupt");
    vec![event.about(format!("Source/{name}"), "").with("source", name.as_str())]
}

/// Returns the event for a milestone of a rollout, such as an opened wave.
pub(crate) fn of_milestone(milestone: &Milestone) -> NewEvent {
    let Milestone { book, run, kind } = milestone;
    let of = |event_type: EventType, reason: &str, message: String| {
        let namespace = book.split('/').next().unwrap_or_default();
        let event = NewEvent::new(event_type, format!("{book}: {message}")).because(reason);
        event.about(format!("TaskBook/{book}"), namespace).with("run", run.as_str())
    };
    match kind {
        MilestoneKind::Wave { segment, wave } => {
            of(EventType::RolloutWaveOpened, "Wave", format!("wave {wave} of segment {segment} is open"))
                .with("segment", *segment)
                .with("wave", *wave)
        }
        MilestoneKind::Barrier { segment } => {
            of(EventType::RolloutBarrierOpened, "Barrier", format!("the barrier before segment {segment} is open"))
                .with("segment", *segment)
        }
        MilestoneKind::Elected { task } => {
            of(EventType::RolloutElected, "Elected", format!("this node is elected for {task}"))
                .with("task", task.as_str())
        }
        MilestoneKind::Halted => of(
            EventType::RolloutHalted,
            "Halted",
            "the failure of a node has halted the rollout; push a fix, or repair the node".to_owned(),
        ),
        MilestoneKind::Finished => {
            of(EventType::RolloutFinished, "Finished", "all nodes have completed the rollout".to_owned())
        }
    }
}

/// Returns the event for an accepted revision.
pub(crate) fn of_accepted(accepted: &Accepted) -> NewEvent {
    let short = |(name, commit): (&String, &String)| format!("{name} {}", commit.chars().take(12).collect::<String>());
    let commits = accepted.commits.iter().map(short).collect::<Vec<_>>().join(", ");
    let message = format!("generation {} was accepted: {commits}", accepted.generation);
    NewEvent::new(EventType::RevisionAccepted, message)
        .because("Accepted")
        .with("generation", accepted.generation)
        .with("commits", json!(accepted.commits))
        .with("by", accepted.by.as_str())
}

/// Returns one event for each rollout that starts because a revision was accepted.
pub(crate) fn of_acceptance(generation: u64, manifest: &RevisionManifest) -> Vec<NewEvent> {
    let new = manifest.books.iter().filter(|(_, entry)| entry.since == generation);
    new.map(|(book, entry)| {
        let namespace = book.split('/').next().unwrap_or_default();
        let event = NewEvent::new(EventType::RolloutStarted, format!("{book}: the rollout has begun"));
        event
            .because("Accepted")
            .about(format!("TaskBook/{book}"), namespace)
            .with("run", entry.run(book))
            .with("generation", generation)
    })
    .collect()
}

/// Returns true if [`of_books`] derives the alarm from the state of the TaskBooks.
pub(crate) fn is_of_books(event: &NewEvent) -> bool {
    use EventType as T;
    matches!(event.event_type, T::TaskFailed | T::TaskHeld | T::TaskHandlerFailed | T::DriftReported | T::PruneHeld)
}

/// Returns true if a pass has checked whether an alarm of a TaskBook is still valid. A task that did not run keeps its
/// alarms. A handler keeps its alarms if any task of its TaskBook did not run.
pub(crate) fn is_judged(event: &NewEvent, outcome: &PassOutcome) -> bool {
    if !is_of_books(event) || outcome.interrupted {
        return false;
    }
    let object = event.object.as_deref().unwrap_or_default();
    let Some(book) = outcome.books.iter().find(|book| object.strip_prefix("TaskBook/") == Some(&id(book))) else {
        return true;
    };
    let name = event.data.get("task").and_then(Value::as_str).unwrap_or_default();
    let is_unrun = |task: &TaskOutcome| {
        task.origin == Origin::NotRun && (task.name == name || name.starts_with(&format!("{} [", task.name)))
    };
    match event.event_type {
        EventType::TaskFailed | EventType::DriftReported => !book.tasks.iter().any(is_unrun),
        EventType::TaskHandlerFailed => !book.tasks.iter().any(|task| task.origin == Origin::NotRun),
        _ => true,
    }
}

/// Returns the alarms of the TaskBooks after a pass.
pub(crate) fn of_books(state: &State, outcome: &PassOutcome, runs: &RunProgress) -> Vec<NewEvent> {
    let tasks = outcome
        .books
        .iter()
        .flat_map(|book| book.tasks.iter().filter_map(|task| Some(of_task(task_alarm(task)?, book, task, runs))));
    tasks.chain(of_holds(state)).collect()
}

fn task_alarm(task: &TaskOutcome) -> Option<EventType> {
    match task.outcome {
        Outcome::Failed if task.origin == Origin::Handler => Some(EventType::TaskHandlerFailed),
        Outcome::Failed => Some(EventType::TaskFailed),
        Outcome::Unchanged if task.origin == Origin::Drift && task.message.is_some() => Some(EventType::DriftReported),
        _ => None,
    }
}

/// Returns the kind of a hold: `prune` if the prune budget holds removals, otherwise `task`. The hold of a halted
/// rollout has the reason `Budget` and the kind `task`.
fn kind_of(hold: &Hold) -> &'static str {
    let is_prune = hold.reason == "Budget" && hold.subject == format!("{}/prune", hold.book);
    if is_prune { "prune" } else { "task" }
}

/// Returns one alarm for each held TaskBook or task. The alarm lists all reasons of the hold.
fn of_holds(state: &State) -> Vec<NewEvent> {
    let mut alarms: Vec<NewEvent> = Vec::new();
    let mut subjects: Vec<(&str, &str)> = Vec::new();
    for hold in state.held.values().filter(|hold| !hold.book.is_empty()) {
        let kind = kind_of(hold);
        if !subjects.contains(&(hold.subject.as_str(), kind)) {
            subjects.push((&hold.subject, kind));
        }
    }
    for (subject, kind) in subjects {
        let all: Vec<&Hold> =
            state.held.values().filter(|hold| hold.subject == subject && kind_of(hold) == kind).collect();
        let Some(first) = all.first() else { continue };
        let event_type = if kind == "prune" { EventType::PruneHeld } else { EventType::TaskHeld };
        let message = all.iter().map(|hold| hold.message()).collect::<Vec<_>>().join("; ");
        let namespace = first.book.split('/').next().unwrap_or_default();
        let mut reasons: Vec<&str> = all.iter().map(|hold| hold.reason.as_str()).collect();
        reasons.dedup();
        let mut alarm = NewEvent::new(event_type, message)
            .because(&first.reason)
            .about(format!("TaskBook/{}", first.book), namespace)
            .with("reasons", reasons);
        if let Some(task) = subject.strip_prefix(&format!("{}/", first.book)) {
            alarm = alarm.with("task", task);
        }
        if !first.run.is_empty() {
            alarm = alarm.with("run", first.run.as_str());
        }
        alarms.push(alarm);
    }
    alarms
}

/// Returns the one-time events of a pass: the events about changes and ended runs.
pub(crate) fn of_pass(outcome: &PassOutcome, runs: &mut RunProgress) -> Vec<NewEvent> {
    let mut events = Vec::new();
    for book in &outcome.books {
        events.extend(of_changes(book, runs));
        if !book.interrupted {
            let failed = book.tasks.iter().find(|task| task.outcome == Outcome::Failed);
            let message = failed.map(message_of).unwrap_or_default();
            events.extend(runs.end(&id(book), book.worst(), &message));
        }
    }
    events
}

/// Returns the events for the changes that a pass made in a TaskBook.
pub(crate) fn of_changes(book: &BookOutcome, runs: &RunProgress) -> Vec<NewEvent> {
    let changes = book.tasks.iter().filter_map(|task| {
        let event_type = match task.outcome {
            Outcome::Changed if task.origin == Origin::Removal => EventType::PruneRemoved,
            Outcome::Changed if task.origin == Origin::Drift => EventType::DriftCorrected,
            Outcome::Changed => EventType::TaskChanged,
            _ => return None,
        };
        Some(of_task(event_type, book, task, runs))
    });
    changes.collect()
}

fn of_task(event_type: EventType, book: &BookOutcome, task: &TaskOutcome, runs: &RunProgress) -> NewEvent {
    let id = id(book);
    let message = match task.message {
        Some(_) => format!("{id}/{}", message_of(task)),
        None => format!("{id}/{}: {}", task.name, task.outcome.as_str()),
    };
    let event = NewEvent::new(event_type, message)
        .about(format!("TaskBook/{id}"), &book.namespace)
        .with("task", task.name.as_str())
        .with("module", task.module.as_str());
    match runs.run_of(&id) {
        Some(run) => event.with("run", run),
        None => event,
    }
}

fn id(book: &BookOutcome) -> String {
    format!("{}/{}", book.namespace, book.name)
}

fn message_of(task: &TaskOutcome) -> String {
    format!("{}: {}", task.name, task.message.as_deref().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::status::conditions::{Passed, step};

    fn book(tasks: Vec<TaskOutcome>) -> BookOutcome {
        BookOutcome {
            namespace: "a".into(),
            name: "b".into(),
            tasks,
            held: Vec::new(),
            started: 0,
            took: Duration::ZERO,
            interrupted: false,
            uncoordinated: false,
        }
    }

    fn pass(tasks: Vec<TaskOutcome>) -> PassOutcome {
        PassOutcome { books: vec![book(tasks)], ..PassOutcome::default() }
    }

    fn task(name: &str, outcome: Outcome) -> TaskOutcome {
        TaskOutcome::new(name.into(), "file", outcome)
    }

    fn names(events: &[NewEvent]) -> Vec<&'static str> {
        events.iter().map(|event| event.event_type.name()).collect()
    }

    fn troubled(inputs: Vec<Input>) -> Vec<NewEvent> {
        of_state(&inputs.into_iter().fold(State::default(), step))
    }

    fn source(reason: &str) -> Input {
        Input::Source("fleet".into(), Some(ConditionReason::new(reason, "m")))
    }

    #[test]
    fn each_problem_has_the_event_type_of_the_contract() {
        let rejected = |reason: &str| Input::Rejected("fleet".into(), Some(ConditionReason::new(reason, "m")));
        let own = |what: &'static str, reason: &str| Input::Node(what, Some(ConditionReason::new(reason, "m")));
        for (input, name) in [
            (source("SourceUnreachable"), "source.unreachable"),
            (source("MirrorCorrupt"), "source.unreachable"),
            (source("DiskFull"), "agent.disk-full"),
            (rejected("Unverified"), "source.unverified"),
            (rejected("Rewound"), "source.rewound"),
            (rejected("InvalidObjects"), "revision.rejected"),
            (own("store", "StoreUnreachable"), "store.unreachable"),
            (own("store", "StoreFull"), "store.full"),
            (own("store", "Refused"), "revision.rejected-locally"),
            (own("accepted", "Refused"), "revision.rejected-locally"),
            (own("journal", "ReadOnly"), "agent.disk-full"),
            (own("journal", "JournalFailed"), "agent.disk-full"),
            (own("state", "StateLost"), "agent.state-lost"),
            (own("fleet", "Refused"), "node.rejected"),
            (own("fleet", "Cloned"), "node.cloned"),
            (Input::RejectedLocally(Some(ConditionReason::new("RejectedLocally", "m"))), "revision.rejected-locally"),
        ] {
            let alarms = troubled(vec![input.clone()]);
            assert_eq!(names(&alarms), [name], "{input:?}");
            assert!(is_of_state(&alarms[0]) && alarms[0].event_type.is_alarm(), "{name}");
        }
        assert!(troubled(vec![own("accepted", "Progressing")]).is_empty());
        assert_eq!(names(&troubled(vec![Input::Tick(1_000_000), Input::Tick(0)])), ["agent.clock-jumped"]);
    }

    #[test]
    fn full_disk_is_one_alarm_although_it_breaks_several_things() {
        let full = |what: &'static str| Input::Node(what, Some(ConditionReason::new("DiskFull", "m")));
        assert_eq!(names(&troubled(vec![source("DiskFull"), full("journal"), full("store")])), ["agent.disk-full"]);
    }

    #[test]
    fn source_is_named_by_its_alarm() {
        let alarm = &troubled(vec![source("SourceUnreachable")])[0];
        assert_eq!((alarm.object.as_deref(), &alarm.data["source"]), (Some("Source/fleet"), &Value::from("fleet")));
    }

    #[test]
    fn damaged_mirror_that_works_again_was_rebuilt() {
        let works = Input::Source("fleet".into(), None);
        let after = |reason: &str| of_change(&step(State::default(), source(reason)), &works);
        assert_eq!(names(&after("MirrorCorrupt")), ["source.mirror-rebuilt"]);
        assert!(after("SourceUnreachable").is_empty() && of_change(&State::default(), &works).is_empty());
    }

    #[test]
    fn task_has_one_event_by_its_outcome_and_origin() {
        let drifted = |outcome| TaskOutcome { origin: Origin::Drift, message: Some("m".into()), ..task("t", outcome) };
        let of = |task: TaskOutcome| {
            let outcome = pass(vec![task]);
            let mut events = of_pass(&outcome, &mut RunProgress::default());
            events.extend(of_books(&State::default(), &outcome, &RunProgress::default()));
            events.first().map(|event| event.event_type.name())
        };
        let origin = |origin, outcome| TaskOutcome { origin, ..task("t", outcome) };
        assert_eq!(of(task("t", Outcome::Changed)), Some("task.changed"));
        assert_eq!(of(origin(Origin::Handler, Outcome::Changed)), Some("task.changed"));
        assert_eq!(of(drifted(Outcome::Changed)), Some("drift.corrected"));
        assert_eq!(of(drifted(Outcome::Unchanged)), Some("drift.reported"));
        assert_eq!(of(TaskOutcome { message: None, ..drifted(Outcome::Unchanged) }), None, "drift: ignore");
        assert_eq!(of(origin(Origin::Removal, Outcome::Changed)), Some("prune.removed"));
        assert_eq!(of(task("t", Outcome::Failed)), Some("task.failed"));
        assert_eq!(of(origin(Origin::Handler, Outcome::Failed)), Some("task.handler-failed"));
        for quiet in [Outcome::Skipped, Outcome::Unchanged, Outcome::Unknown, Outcome::Held] {
            assert_eq!(of(task("t", quiet)), None, "{quiet:?}");
        }
    }

    #[test]
    fn held_subject_is_one_alarm_with_all_its_reasons() {
        let hold = |subject: &str, reason: &str| Hold {
            book: "a/b".into(),
            run: "a/b@1".into(),
            subject: subject.into(),
            reason: reason.into(),
            opens: "later".into(),
            ..Hold::default()
        };
        let held = vec![
            hold("a/b", "Window"),
            hold("a/b", "Budget"),
            hold("a/b/prune", "Budget"),
            hold("a/b/t", "Dependency"),
        ];
        let passed = Passed {
            worst: Outcome::Held,
            failed: None,
            held,
            disk: None,
            interrupted: false,
            uncoordinated: Vec::new(),
        };
        let alarms =
            of_books(&step(State::default(), Input::Passed(passed)), &pass(Vec::new()), &RunProgress::default());
        let seen: Vec<_> =
            alarms.iter().map(|alarm| (alarm.event_type.name(), alarm.data["reasons"].to_string())).collect();
        assert_eq!(
            seen,
            [
                ("task.held", r#"["Budget","Window"]"#.to_owned()),
                ("prune.held", r#"["Budget"]"#.to_owned()),
                ("task.held", r#"["Dependency"]"#.to_owned())
            ]
        );
        assert_eq!(alarms[2].data["task"], "t");
        assert!(alarms.iter().all(|alarm| is_of_books(alarm) && alarm.data["run"] == "a/b@1"));
    }

    #[test]
    fn task_that_was_not_run_keeps_its_alarm() {
        let alarm =
            |event_type, task: &str| NewEvent::new(event_type, "m").about("TaskBook/a/b", "a").with("task", task);
        let not_run = TaskOutcome { origin: Origin::NotRun, ..task("t", Outcome::Held) };
        let ran = task("u", Outcome::Unchanged);
        let outcome = pass(vec![not_run, ran]);
        for (name, judged) in [("t", false), ("t [1]", false), ("u", true), ("tt", true)] {
            for event_type in [EventType::TaskFailed, EventType::DriftReported] {
                assert_eq!(is_judged(&alarm(event_type, name), &outcome), judged, "{name}");
            }
        }
        assert!(!is_judged(&alarm(EventType::TaskHandlerFailed, "h"), &outcome), "the book did not reach its end");
        assert!(is_judged(&alarm(EventType::TaskHeld, "t"), &outcome), "a hold is judged in each pass");
        let interrupted = PassOutcome { interrupted: true, ..pass(Vec::new()) };
        assert!(!is_judged(&alarm(EventType::TaskHeld, "t"), &interrupted));
        assert!(is_judged(&alarm(EventType::TaskFailed, "t"), &PassOutcome::default()), "the book is gone");
    }

    #[test]
    fn start_with_another_version_or_boot_has_an_event_for_it() {
        let of = |last: Option<(&str, &str)>| {
            let last = last.map(|(version, boot)| {
                BTreeMap::from([("version".to_owned(), version.into()), ("bootId".to_owned(), boot.into())])
            });
            names(&of_start(last.as_ref(), "2", "x"))
        };
        assert_eq!(of(None), ["agent.started"]);
        assert_eq!(of(Some(("2", "x"))), ["agent.started"]);
        assert_eq!(of(Some(("1", "x"))), ["agent.upgraded", "agent.started"]);
        assert_eq!(of(Some(("2", "w"))), ["node.rebooted", "agent.started"]);
        assert_eq!(of(Some(("2", ""))), ["agent.started"], "an unknown boot is no other one");
    }
}
