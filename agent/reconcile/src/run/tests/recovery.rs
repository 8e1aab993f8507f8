//! Tests of runs that begin with a record left by a crash, and of a journal that cannot be written.

use super::world::{World, applied, book, messages, outcomes, slot};
use crate::{
    command::Observation,
    outcome::Outcome,
    plan::assess::RunMode,
    record::{BookRecord, Frame, SlotRef, SlotState},
};

const FRAMED: &str = r#"
rollout:
  serialize: {count: 1}
  before: [{name: out, command: {argv: [x]}}]
  after: [{name: in, command: {argv: [x]}}]
tasks:
  - {name: a, file: {path: /a, content: x}, notify: [h]}
  - {name: b, service: {name: b, state: started}, sync: true}
handlers:
  - {name: h, command: {argv: [x]}}
"#;

fn record(done: u32, state: Option<SlotState>, frame: Option<Frame>) -> BookRecord {
    let slot = state.map(|state| SlotRef { slot: slot(), state });
    BookRecord { run: "n/b@1".into(), done, slot, frame, ..BookRecord::default() }
}

fn claimed(segment: u32) -> Option<SlotState> {
    Some(SlotState::Claimed("n/b@1".into(), Some(segment)))
}

fn position(world: &World, text: &str) -> usize {
    world.log.iter().position(|line| line.starts_with(text)).unwrap_or_else(|| panic!("{text}: {:?}", world.log))
}

fn count(world: &World, text: &str) -> usize {
    world.log.iter().filter(|line| *line == text).count()
}

#[test]
fn node_that_waited_for_a_slot_asks_again() {
    let mut world = World::differs(&["a"]).record(record(0, Some(SlotState::Waiting), None));
    world.roll(&book(FRAMED));
    assert_eq!(count(&world, "admit 0 change"), 1);
    assert_eq!(count(&world, "persist done=0 slot=Waiting frame=-"), 0);
    assert_eq!((world.record.done, world.record.slot.clone()), (2, None));
}

#[test]
fn node_that_waited_for_a_slot_and_has_nothing_to_change_gives_up_its_position() {
    let mut world = World::default().record(record(0, Some(SlotState::Waiting), None));
    world.roll(&book(FRAMED));
    assert!(position(&world, "done 0") < position(&world, "persist done=0 slot=- frame=-"));
    assert_eq!(world.record.slot, None);
}

#[test]
fn node_that_held_a_slot_and_had_not_begun_runs_the_tasks_before() {
    let mut world = World::differs(&["a"]).record(record(0, claimed(0), None));
    world.roll(&book(FRAMED));
    assert!(position(&world, "run out") < position(&world, "apply files a"));
    assert_eq!(world.record.done, 2);
}

#[test]
fn node_that_held_a_slot_with_nothing_left_to_change_releases_it() {
    let mut world = World::default().record(record(0, claimed(0), None));
    world.roll(&book(FRAMED));
    assert_eq!(count(&world, "done 0"), 1);
    assert_eq!((world.record.done, world.record.slot.clone()), (2, None));
}

#[test]
fn node_that_was_interrupted_in_the_tasks_before_repeats_them() {
    let mut world = World::differs(&["a"]).record(record(0, claimed(0), Some(Frame::Preparing)));
    world.roll(&book(FRAMED));
    assert_eq!((count(&world, "run out"), count(&world, "run in")), (1, 1));
    assert_eq!(world.record.frame, None);
}

#[test]
fn node_that_was_interrupted_in_the_tasks_before_and_has_nothing_to_change_reverts_them() {
    let mut world = World::default().record(record(0, claimed(0), Some(Frame::Preparing)));
    world.roll(&book(FRAMED));
    assert!(position(&world, "run out") < position(&world, "run in"));
    assert!(position(&world, "run in") < position(&world, "done 0"));
}

#[test]
fn node_that_was_half_changed_continues_without_the_tasks_before() {
    let mut world = World::differs(&["a"]).record(record(0, claimed(0), Some(Frame::Changing)));
    world.roll(&book(FRAMED));
    assert_eq!((count(&world, "run out"), count(&world, "run in")), (0, 1));
    assert!(world.log.contains(&"admit 0 change began".to_owned()));
}

#[test]
fn node_that_continues_a_segment_asks_the_window_for_the_next_one() {
    let mut world = World::differs(&["a", "b"]).record(record(0, claimed(0), Some(Frame::Changing)));
    world.roll(&book(FRAMED));
    assert!(world.log.contains(&"admit 0 change began".to_owned()), "{:?}", world.log);
    assert!(world.log.contains(&"admit 1 change".to_owned()), "{:?}", world.log);
}

#[test]
fn node_that_was_changed_and_had_not_run_the_tasks_after_runs_them_and_votes() {
    let mut world = World::default().record(record(0, claimed(0), Some(Frame::Changing)));
    world.roll(&book(FRAMED));
    assert!(position(&world, "run in") < position(&world, "done 0"));
    assert_eq!(world.record.done, 2);
}

#[test]
fn node_that_crashed_after_its_vote_votes_again() {
    let mut world = World::default().record(record(0, None, None));
    world.roll(&book(FRAMED));
    assert_eq!(count(&world, "done 0"), 1);
}

#[test]
fn node_that_completed_a_segment_continues_in_the_next_one() {
    let mut world = World::differs(&["b"]).record(record(1, None, None));
    world.roll(&book(FRAMED));
    assert_eq!((count(&world, "enter 0"), count(&world, "enter 1")), (0, 1));
    assert_eq!(world.record.done, 2);
}

#[test]
fn votes_that_the_store_may_have_lost_are_repeated() {
    let mut world = World::default().record(record(1, None, None));
    world.roll(&book(FRAMED));
    assert_eq!((count(&world, "repeat 1"), count(&world, "repeat 2")), (1, 1));
}

#[test]
fn frame_of_an_interrupted_segment_is_not_ended_by_a_completed_one() {
    let mut world = World::default().record(record(1, claimed(1), Some(Frame::Changing)));
    world.roll(&book(FRAMED));
    assert!(position(&world, "enter 1") < position(&world, "run in"), "{:?}", world.log);
}

#[test]
fn node_that_failed_tries_again_and_removes_its_failure() {
    let failed = Some(SlotState::Failed("n/b@1".into(), 0));
    let mut world = World::differs(&["a"]).record(record(0, failed, Some(Frame::Changing)));
    world.roll(&book(FRAMED));
    assert_eq!((world.record.done, world.record.slot.clone(), world.record.frame), (2, None, None));
}

#[test]
fn node_that_failed_and_fails_again_keeps_its_failure() {
    let failed = record(0, Some(SlotState::Failed("n/b@1".into(), 0)), Some(Frame::Changing));
    let mut world = World::differs(&["a"]).record(failed.clone()).fails(&["a"]);
    world.roll(&book(FRAMED));
    assert_eq!(world.record, failed);
}

#[test]
fn node_whose_completed_run_has_a_slot_left_releases_it() {
    let mut world = World::default().record(BookRecord { completed: true, ..record(2, claimed(0), None) });
    world.roll(&book(FRAMED));
    assert_eq!(count(&world, "leave old"), 1);
    assert_eq!(world.record.slot, None);
}

#[test]
fn slot_that_is_left_stays_recorded_while_the_store_is_away() {
    let known = BookRecord { completed: true, ..record(2, claimed(0), None) };
    let mut world = World::default().record(known.clone()).gate("leave old", "StoreUnreachable");
    let report = world.roll(&book(FRAMED));
    assert_eq!(world.record, known);
    assert!(!report.steady, "the next pass releases it");
}

#[test]
fn frame_of_another_run_is_ended_in_the_new_one() {
    let known = BookRecord { run: "n/b@0".into(), ..record(2, claimed(1), Some(Frame::Changing)) };
    let mut world = World::default().record(known);
    world.roll(&book(FRAMED));
    assert_eq!((count(&world, "run out"), count(&world, "run in")), (0, 1));
    assert_eq!((world.record.run.as_str(), world.record.done, world.record.frame), ("n/b@1", 2, None));
}

#[test]
fn claim_of_another_run_is_kept_until_the_segment_ends() {
    let claim = SlotState::Claimed("n/b@0".into(), Some(1));
    let known = BookRecord { run: "n/b@0".into(), ..record(2, Some(claim), None) };
    let mut world = World::differs(&["a"]).record(known);
    world.roll(&book(FRAMED));
    assert!(position(&world, "admit 0 change") < position(&world, "done 0"));
    assert_eq!(count(&world, "leave old"), 0);
}

#[test]
fn frame_of_a_book_without_a_rollout_is_ended() {
    let text = FRAMED.replace("  serialize: {count: 1}\n", "").replace(", sync: true", "");
    let mut world = World::default().record(BookRecord { frame: Some(Frame::Changing), ..BookRecord::default() });
    world.run(&book(&text), RunMode::Steady);
    assert_eq!((count(&world, "run out"), count(&world, "run in")), (0, 1));
    assert_eq!(world.record, BookRecord::default());
}

#[test]
fn handler_that_was_pending_at_a_crash_runs_in_its_segment() {
    let mut world = World::default().record(record(0, claimed(0), Some(Frame::Changing))).pending(&["h"]);
    world.roll(&book(FRAMED));
    assert!(position(&world, "handler h") < position(&world, "run in"));
    assert!(position(&world, "run in") < position(&world, "done 0"));
}

#[test]
fn journal_that_takes_nothing_keeps_the_node_from_asking_for_a_slot() {
    let mut world = World { journal_fails: true, ..World::differs(&["a"]) };
    let report = world.roll(&book(FRAMED));
    assert_eq!(world.log, ["enter 0", "check a", "failed 0 unadmitted", "record [a] observed 0"]);
    assert_eq!(outcomes(&report)[..1], ["a failed"]);
    assert!(messages(&report).contains("the disk is full"));
}

#[test]
fn journal_that_takes_nothing_keeps_the_tasks_before_from_running() {
    let text = FRAMED.replace("  serialize: {count: 1}\n", "").replace(", sync: true", "");
    let mut world = World { journal_fails: true, ..World::differs(&["a", "b"]) };
    let report = world.run(&book(&text), RunMode::NewRevision);
    assert_eq!(world.log, ["check a", "admit correct", "record [a b] observed 0"]);
    assert_eq!(outcomes(&report), ["a failed"]);
}

#[test]
fn record_that_was_not_persisted_is_persisted_by_the_next_attempt() {
    // Each lane of the book asks for the slot. No lane may find the record of another lane that was not written.
    let text = r#"
order: parallel
rollout: {serialize: {count: 1}}
tasks:
  - {name: a, service: {name: a, state: started}}
  - {name: b, service: {name: b, state: started}}
"#;
    let mut world = World { journal_fails: true, ..World::differs(&["a", "b"]) };
    let report = world.roll(&book(text));
    assert!(!world.log.iter().any(|line| line.starts_with("admit")), "{:?}", world.log);
    assert_eq!(outcomes(&report)[..2], ["a failed", "b failed"]);
}

#[test]
fn journal_that_takes_nothing_is_reported_after_a_vote() {
    let mut world = World { journal_fails: true, ..World::default() };
    let report = world.roll(&book(FRAMED));
    assert_eq!(outcomes(&report).last().unwrap(), "progress failed");
    assert!(!world.log.contains(&"enter 1".to_owned()));
}

#[test]
fn journal_that_takes_nothing_after_the_tasks_after_is_reported() {
    let mut world =
        World { journal_fails: true, ..World::default() }.record(record(0, claimed(0), Some(Frame::Changing)));
    let report = world.roll(&book(FRAMED));
    assert!(outcomes(&report).contains(&"after failed".to_owned()), "{:?}", outcomes(&report));
}

#[test]
fn slot_that_cannot_be_recorded_before_the_tasks_after_is_reported() {
    let mut world = World { journal_fails: true, ..World::default() }.record(record(0, None, Some(Frame::Changing)));
    let report = world.roll(&book(FRAMED));
    assert!(messages(&report).contains("the disk is full"), "{:?}", report.tasks);
    assert!(!world.log.contains(&"run in".to_owned()));
}

#[test]
fn findings_that_cannot_be_recorded_fail_the_book_and_remove_nothing() {
    let failed = Observation::Failed("the disk is full".into());
    let mut world =
        World::default().last("a", applied()).inventory(&["a", "old"]).answer("record [a] observed 0", failed);
    let report = world.run(&book("tasks:\n  - {name: a, file: {path: /a, content: x}}\n"), RunMode::Steady);
    assert_eq!(outcomes(&report), ["a unchanged", "n/b failed"]);
    assert_eq!((report.worst(), report.managed), (Outcome::Failed, None));
    assert!(!world.log.iter().any(|line| line.starts_with("remove")));
}

#[test]
fn record_that_the_journal_refused_is_not_taken_for_persisted() {
    // The release of the slot is not recorded. The record still names the slot, so the next pass releases the slot
    // again.
    let failed = Observation::Failed("the disk is full".into());
    let mut world =
        World::default().record(record(0, claimed(0), None)).answer("persist done=0 slot=- frame=-", failed);
    world.roll(&book(FRAMED));
    assert_eq!(count(&world, "persist done=1 slot=Claimed(\"n/b@1\", Some(0)) frame=-"), 1, "{:?}", world.log);
}
