//! Tests of an executor that answers wrongly. A run whose executor answers wrongly ends with an error, and does not
//! panic.

use std::sync::Arc;

use towpath_render::objects::task::{Book, Drift};

use super::world::{World, applied, book, messages, outcomes};
use crate::{
    command::{Applied, Command, CommandId, Executed, Finished, Items, List, Next, Observation, TaskRef},
    outcome::Outcome,
    plan::assess::RunMode,
    record::BookRecord,
    run::{BookInputs, BookRun},
};

const BOOK: &str = r#"
tasks:
  - {name: a, file: {path: /a, content: x}, register: r}
  - {name: p, package: {name: p}}
  - {name: q, package: {name: q}}
  - {name: c, command: {argv: [x]}}
  - {name: t, assert: {that: ["true"]}}
  - {name: e, reboot: {when: always}}
handlers:
  - {name: h, command: {argv: [x]}}
"#;

fn world() -> World {
    World::differs(&["a", "p", "q"]).pending(&["h"]).inventory(&["old"])
}

/// The commands of a run as text. A wrong answer to any command leads to a report with an error.
const COMMANDS: [&str; 13] = [
    "items",
    "render a",
    "check a",
    "admit correct",
    "apply files a",
    "register r",
    "apply direct p q",
    "action c",
    "probe t",
    "reboot e?",
    "handlers",
    "record [a p q] observed 0",
    "inventory",
];

#[test]
fn answer_of_another_command_fails_the_book() {
    for text in COMMANDS {
        let wrong = Observation::Items(Ok(Items::Single));
        let wrong = if text == "items" { Observation::Done } else { wrong };
        let report = world().answer(text, wrong).run(&book(BOOK), RunMode::NewRevision);
        assert_eq!(report.worst(), Outcome::Failed, "{text}");
        assert!(messages(&report).contains("internal error"), "{text}: {}", messages(&report));
    }
}

#[test]
fn command_that_fails_fails_the_book_with_its_message() {
    for text in COMMANDS {
        let report =
            world().answer(text, Observation::Failed("the reason".into())).run(&book(BOOK), RunMode::NewRevision);
        assert_eq!(report.worst(), Outcome::Failed, "{text}");
        assert!(messages(&report).contains("the reason"), "{text}: {}", messages(&report));
    }
}

#[test]
fn answer_of_another_command_in_a_rollout_fails_the_book() {
    let text = "rollout: {serialize: {count: 1}}\ntasks:\n  - {name: c, command: {argv: [x]}, elect: {count: 1}}\n  - {name: a, service: {name: a, state: started}}\n";
    for command in ["enter 0", "elect c", "publish c true", "done 0", "admit 1 change began", "enter 1"] {
        let report = World::differs(&["a"]).answer(command, Observation::Done).roll(&book(text));
        assert_eq!(report.worst(), Outcome::Failed, "{command}");
    }
}

#[test]
fn end_of_a_run_that_gets_a_wrong_answer_is_asked_about_again() {
    let text = "rollout: {serialize: {count: 1}}\ntasks:\n  - {name: a, file: {path: /a, content: x}}\n";
    let mut world = World::default().last("a", applied()).answer("end", Observation::Done);
    let report = world.roll(&book(text));
    assert!(!report.steady && !world.record.completed);
}

#[test]
fn set_of_changes_with_too_few_results_fails_the_missing_ones() {
    let changed = Observation::Applied(vec![Applied::Changed(Finished::default())]);
    let report = world().answer("apply direct p q", changed).run(&book(BOOK), RunMode::NewRevision);
    assert_eq!(outcomes(&report)[..3], ["a changed", "p changed", "q failed"]);
}

#[test]
fn set_of_changes_with_too_many_results_ignores_the_surplus() {
    let failed = || Applied::Failed(Finished::default());
    let changed = || Applied::Changed(Finished::default());
    let results = Observation::Applied(vec![changed(), changed(), failed()]);
    let report = world().answer("apply direct p q", results).run(&book(BOOK), RunMode::NewRevision);
    assert_eq!(outcomes(&report)[..3], ["a changed", "p changed", "q changed"]);
}

#[test]
fn handler_at_a_position_that_the_book_lacks_runs_as_it_was_notified() {
    let task = Some(TaskRef { list: List::Handlers, index: 99 });
    let handler = crate::command::PendingHandler { id: "old".into(), module: "command".into(), task };
    let report =
        world().answer("handlers", Observation::Handlers(vec![handler])).run(&book(BOOK), RunMode::NewRevision);
    assert!(outcomes(&report).contains(&"old (of an earlier revision) changed".to_owned()), "{:?}", outcomes(&report));
}

#[test]
fn planned_action_is_not_counted_as_a_change() {
    let report =
        world().answer("action c", Observation::Executed(Executed::Planned)).run(&book(BOOK), RunMode::NewRevision);
    assert!(outcomes(&report).contains(&"c unchanged".to_owned()));
}

fn run(book: &Arc<Book>) -> BookRun {
    BookRun::new(BookInputs {
        book: Arc::clone(book),
        rollout: None,
        mode: RunMode::NewRevision,
        drift: Drift::Correct,
        ends_at_failure: true,
        record: BookRecord::default(),
    })
}

fn only(next: Next) -> (CommandId, Command) {
    match next {
        Next::Do(mut commands) if commands.len() == 1 => commands.remove(0),
        other => panic!("{other:?}"),
    }
}

#[test]
fn run_without_an_observation_waits_and_gives_out_no_command_twice() {
    let mut run = run(&book(BOOK));
    only(run.advance());
    assert!(matches!(run.advance(), Next::Wait));
    assert!(matches!(run.advance(), Next::Wait));
}

#[test]
fn observation_of_an_unknown_command_is_ignored() {
    let mut run = run(&book(BOOK));
    let (id, _) = only(run.advance());
    run.observe(CommandId(id.0 + 100), Observation::Done);
    run.observe(CommandId(0), Observation::Failed("x".into()));
    assert!(matches!(run.advance(), Next::Wait));
}

#[test]
fn second_observation_of_a_command_is_ignored() {
    let mut run = run(&book(BOOK));
    let (id, _) = only(run.advance());
    run.observe(id, Observation::Items(Ok(Items::Single)));
    let (second, command) = only(run.advance());
    assert!(matches!(command, Command::Render(_)));
    run.observe(id, Observation::Done);
    assert!(matches!(run.advance(), Next::Wait));
    assert!(second > id);
}

#[test]
fn finished_run_repeats_its_report() {
    let book = book("tasks: []\n");
    let mut run = run(&book);
    let mut report = None;
    while report.is_none() {
        match run.advance() {
            Next::Do(commands) => commands.iter().for_each(|(id, _)| run.observe(*id, Observation::Failed("x".into()))),
            Next::Finished(found) => report = Some(found),
            Next::Wait => panic!("nothing is open"),
        }
    }
    run.observe(CommandId(1), Observation::Done);
    let Next::Finished(again) = run.advance() else { panic!("the run had ended") };
    assert_eq!(report, Some(again));
}

#[test]
fn run_is_shown_without_its_inputs() {
    let mut run = run(&book(BOOK));
    only(run.advance());
    assert_eq!(format!("{run:?}"), "BookRun { open: 1, .. }");
}

#[test]
fn same_observations_lead_to_the_same_commands() {
    let (mut one, mut other) = (world(), world());
    let reports = (one.run(&book(BOOK), RunMode::NewRevision), other.run(&book(BOOK), RunMode::NewRevision));
    assert_eq!((one.log, reports.0), (other.log, reports.1));
}
