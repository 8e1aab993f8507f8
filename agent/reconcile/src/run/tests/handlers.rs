//! Tests of handlers, and of the `before` and `after` tasks of a book.

use super::world::{World, applied, book, messages, outcomes, reasons};
use crate::{
    command::Observation,
    plan::assess::RunMode,
    record::{BookRecord, Frame},
};

const NOTIFIES: &str = r#"
tasks:
  - {name: a, file: {path: /a, content: x}, notify: [h, g]}
  - {name: b, file: {path: /b, content: x}}
handlers:
  - {name: g, command: {argv: [x]}}
  - {name: h, command: {argv: [x]}}
"#;

#[test]
fn handlers_run_after_the_last_task_in_the_order_of_their_notification() {
    let mut world = World::differs(&["a", "b"]);
    let report = world.run(&book(NOTIFIES), RunMode::NewRevision);
    // A real executor lists the handlers in the order of the book. The test executor lists the handlers in the order of
    // their notification.
    assert_eq!(
        world.log[3..],
        ["apply files a b", "admit correct began", "handler h", "handler g", "record [a b] observed 0"]
    );
    assert_eq!(outcomes(&report)[2..], ["h changed", "g changed"]);
}

#[test]
fn book_without_pending_handlers_asks_for_no_admission() {
    let mut world = World::default();
    world.run(&book(NOTIFIES), RunMode::Steady);
    assert_eq!(world.log, ["check a", "check b", "record [a b] observed 2"]);
}

#[test]
fn handler_from_an_earlier_pass_runs_though_nothing_changes() {
    let mut world = World::default().pending(&["h"]);
    let report = world.run(&book(NOTIFIES), RunMode::Steady);
    assert_eq!(world.log[2..4], ["admit correct", "handler h"]);
    assert!(world.pending.is_empty() && !report.steady);
}

#[test]
fn handler_that_fails_stays_pending_and_fails_the_book() {
    let mut world = World::default().pending(&["h", "g"]).fails(&["h"]);
    let report = world.run(&book(NOTIFIES), RunMode::Steady);
    assert_eq!(outcomes(&report)[2..], ["h failed", "g changed"]);
    assert_eq!(world.pending, ["h"]);
    assert_eq!(report.managed, None);
}

#[test]
fn handler_that_failed_runs_again_in_the_next_pass() {
    let mut world = World::default().pending(&["h"]).fails(&["h"]);
    world.run(&book(NOTIFIES), RunMode::Steady);
    world.fails.clear();
    let report = world.run(&book(NOTIFIES), RunMode::Steady);
    assert_eq!(outcomes(&report)[2..], ["h changed"]);
    assert!(world.pending.is_empty());
}

#[test]
fn handler_that_is_skipped_does_not_fail_the_book() {
    let mut world = World::default().pending(&["h"]);
    world.left.insert("h".into());
    let report = world.run(&book(NOTIFIES), RunMode::Steady);
    assert_eq!(outcomes(&report)[2..], ["h skipped"]);
    assert!(report.managed.is_some());
}

#[test]
fn handler_without_a_definition_runs_as_it_was_notified() {
    let mut world = World::default().pending(&["old"]);
    let report = world.run(&book(NOTIFIES), RunMode::Steady);
    assert_eq!(world.log[3], "handler old");
    assert_eq!(outcomes(&report)[2..], ["old (of an earlier revision) changed"]);
    assert_eq!(report.tasks[2].module, "command");
}

#[test]
fn handlers_do_not_run_after_a_failed_task() {
    let mut world = World::differs(&["a", "b"]).pending(&["g"]).fails(&["b"]);
    let report = world.run(&book(NOTIFIES), RunMode::NewRevision);
    assert_eq!(outcomes(&report), ["a changed", "b failed"]);
    assert_eq!(world.pending, ["g", "h"]);
}

#[test]
fn handlers_that_cannot_be_listed_fail_the_book() {
    let failed = Observation::Failed("the journal is damaged".into());
    let mut world = World::default().answer("handlers", failed);
    let report = world.run(&book(NOTIFIES), RunMode::NewRevision);
    assert_eq!(outcomes(&report)[2..], ["handlers failed"]);
    assert!(messages(&report).contains("damaged"));
}

#[test]
fn gate_that_is_closed_holds_the_handlers() {
    let mut world = World::default().pending(&["h"]).gates(&[Some("Slot")]);
    let report = world.run(&book(NOTIFIES), RunMode::Steady);
    assert_eq!(outcomes(&report)[2..], ["handlers held"]);
    assert_eq!(reasons(&report), ["Slot"]);
    assert_eq!(world.pending, ["h"]);
}

#[test]
fn quiet_change_notifies_no_handler() {
    let mut world = World::differs(&["a"]);
    world.quiet.insert("a".into());
    world.run(&book(NOTIFIES), RunMode::NewRevision);
    assert!(world.pending.is_empty());
    assert!(!world.log.iter().any(|line| line.starts_with("handler")), "{:?}", world.log);
}

#[test]
fn drift_of_a_file_that_notifies_takes_admission_and_runs_its_handler() {
    let mut world = World::drifted(&["a"]).last("b", applied());
    world.run(&book(NOTIFIES), RunMode::Steady);
    assert_eq!(world.log[2..6], ["admit correct", "apply files a", "admit correct began", "handler h"]);
}

#[test]
fn dry_run_carries_out_no_handler() {
    let mut world = World::differs(&["a"]).pending(&["g"]).dry();
    let report = world.run(&book(NOTIFIES), RunMode::NewRevision);
    assert_eq!(outcomes(&report), ["a unchanged", "b unchanged"]);
    assert_eq!(world.pending, ["g"]);
}

const FLUSHES: &str = r#"
tasks:
  - {name: a, file: {path: /a, content: x}, notify: [h]}
  - {name: f, KEY: true}
  - {name: b, file: {path: /b, content: x}}
handlers:
  - {name: h, command: {argv: [x]}}
"#;

#[test]
fn flush_handlers_runs_them_before_the_next_task() {
    let mut world = World::differs(&["a"]);
    let report = world.run(&book(&FLUSHES.replace("KEY", "flushHandlers")), RunMode::NewRevision);
    assert_eq!(
        world.log[..6],
        ["check a", "admit correct", "apply files a", "admit correct began", "handler h", "check b"]
    );
    assert_eq!(outcomes(&report), ["a changed", "h changed", "f unchanged", "b unchanged"]);
}

#[test]
fn sync_in_a_book_without_a_rollout_runs_the_handlers() {
    let mut world = World::differs(&["a"]);
    world.run(&book(&FLUSHES.replace("KEY", "sync")), RunMode::NewRevision);
    assert_eq!(world.log[4..6], ["handler h", "check b"]);
}

#[test]
fn flush_handlers_that_fails_ends_the_book() {
    let mut world = World::differs(&["a", "b"]).fails(&["h"]);
    let report = world.run(&book(&FLUSHES.replace("KEY", "flushHandlers")), RunMode::NewRevision);
    assert_eq!(outcomes(&report), ["a changed", "h failed"]);
}

#[test]
fn flush_handlers_on_a_task_with_a_module_runs_the_task_after_them() {
    let text = FLUSHES.replace("KEY: true", "flushHandlers: true, file: {path: /f, content: x}");
    let mut world = World::differs(&["a", "f"]);
    let report = world.run(&book(&text), RunMode::NewRevision);
    assert_eq!(outcomes(&report), ["a changed", "h changed", "f changed", "b unchanged"]);
}

#[test]
fn parallel_tasks_that_flush_handlers_run_each_once() {
    let text = r#"
order: parallel
tasks:
  - {name: a, file: {path: /a, content: x}, flushHandlers: true}
  - {name: b, file: {path: /b, content: x}, flushHandlers: true}
handlers:
  - {name: h, command: {argv: [x]}}
"#;
    let mut world = World::default().pending(&["h"]);
    world.run(&book(text), RunMode::NewRevision);
    assert_eq!(world.log.iter().filter(|line| *line == "handler h").count(), 1, "{:?}", world.log);
}

const FRAMED: &str = r#"
rollout:
  before: [{name: out, command: {argv: [x]}}, {name: drain, command: {argv: [x]}}]
  after: [{name: in, command: {argv: [x]}}]
tasks:
  - {name: a, file: {path: /a, content: x}, notify: [h]}
handlers:
  - {name: h, command: {argv: [x]}}
"#;

#[test]
fn tasks_before_and_after_surround_the_changes_and_handlers() {
    let mut world = World::differs(&["a"]);
    let report = world.run(&book(FRAMED), RunMode::NewRevision);
    assert_eq!(
        world.log,
        [
            "check a",
            "admit correct",
            "persist done=0 slot=- frame=Preparing",
            "run out",
            "run drain",
            "persist done=0 slot=- frame=Changing",
            "apply files a",
            "admit correct began",
            "handler h",
            "admit correct began",
            "run in",
            "persist done=0 slot=- frame=-",
            "record [a] observed 0",
        ]
    );
    assert_eq!(outcomes(&report), ["a changed", "out changed", "drain changed", "h changed", "in changed"]);
}

#[test]
fn book_without_changes_runs_no_task_before_or_after() {
    let mut world = World::default();
    world.run(&book(FRAMED), RunMode::NewRevision);
    assert_eq!(world.log, ["check a", "record [a] observed 1"]);
}

#[test]
fn task_before_that_fails_keeps_the_change_from_beginning() {
    let mut world = World::differs(&["a"]).fails(&["out"]);
    let report = world.run(&book(FRAMED), RunMode::NewRevision);
    assert_eq!(outcomes(&report), ["a failed", "out failed"]);
    assert_eq!(world.record.frame, Some(Frame::Preparing));
    assert!(!world.log.contains(&"run in".to_owned()));
}

#[test]
fn task_before_that_fails_and_continues_lets_the_change_begin() {
    let text = FRAMED.replace("{name: out, ", "{name: out, onFailure: continue, ");
    let mut world = World::differs(&["a"]).fails(&["out"]);
    let report = world.run(&book(&text), RunMode::NewRevision);
    assert_eq!(outcomes(&report), ["a changed", "out failed", "drain changed", "h changed", "in changed"]);
    assert_eq!(world.record, BookRecord::default());
}

#[test]
fn task_after_that_fails_leaves_the_node_out_of_service() {
    let mut world = World::differs(&["a"]).fails(&["in"]);
    let report = world.run(&book(FRAMED), RunMode::NewRevision);
    assert_eq!(outcomes(&report).last().unwrap(), "in failed");
    assert_eq!(world.record.frame, Some(Frame::Changing));
    assert_eq!(report.managed, None);
}

#[test]
fn handler_that_fails_keeps_the_tasks_after_from_running() {
    let mut world = World::differs(&["a"]).fails(&["h"]);
    world.run(&book(FRAMED), RunMode::NewRevision);
    assert_eq!(world.record.frame, Some(Frame::Changing));
    assert!(!world.log.contains(&"run in".to_owned()));
}

#[test]
fn change_that_fails_keeps_the_tasks_after_from_running() {
    let mut world = World::differs(&["a"]).fails(&["a"]);
    world.run(&book(FRAMED), RunMode::NewRevision);
    assert_eq!(world.record.frame, Some(Frame::Changing));
    assert!(!world.log.contains(&"run in".to_owned()));
}

#[test]
fn drift_of_plain_content_runs_no_task_before_or_after() {
    let text = FRAMED.replace(", notify: [h]", "");
    let mut world = World::drifted(&["a"]);
    world.run(&book(&text), RunMode::Steady);
    assert_eq!(world.log, ["check a", "apply files a", "record [a] observed 0"]);
}

#[test]
fn dry_run_shows_no_task_before_or_after() {
    let mut world = World::differs(&["a"]).dry();
    let report = world.run(&book(FRAMED), RunMode::NewRevision);
    assert_eq!(outcomes(&report), ["a unchanged"]);
}
