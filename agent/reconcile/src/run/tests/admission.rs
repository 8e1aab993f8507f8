//! Tests of admission: windows, slots, closed gates, and nodes that fail before they are admitted.

use super::{
    rollouts::SYNC,
    world::{World, applied, book, finished, messages, outcomes, reasons, slot},
};
use crate::{
    command::Observation,
    outcome::Outcome,
    plan::assess::RunMode,
    record::{BookRecord, SlotRef, SlotState},
};

const MIXED: &str = r#"
tasks:
  - {name: a, file: {path: /a, content: x}, notify: [h]}
  - {name: b, file: {path: /b, content: x}}
handlers:
  - {name: h, command: {argv: [x]}}
"#;

#[test]
fn gate_that_is_closed_holds_all_changes_of_a_new_revision() {
    let mut world = World::differs(&["a", "b"]).gates(&[Some("Window")]);
    let report = world.run(&book(MIXED), RunMode::NewRevision);
    assert_eq!(world.log, ["check a", "check b", "admit correct", "record [a b] observed 0"]);
    assert_eq!(outcomes(&report), ["a held", "b held"]);
    assert_eq!(reasons(&report), ["Window"]);
    assert_eq!((report.worst(), report.managed), (Outcome::Held, None));
}

#[test]
fn drift_of_content_is_corrected_beside_a_held_file() {
    let mut world = World::drifted(&["a", "b"]).gates(&[Some("StoreUnreachable")]);
    let report = world.run(&book(MIXED), RunMode::Steady);
    assert_eq!(world.log[2..4], ["admit correct", "apply files b"]);
    assert_eq!(outcomes(&report), ["a held", "b changed"]);
    assert_eq!(reasons(&report), ["StoreUnreachable"]);
}

#[test]
fn drift_below_a_held_path_is_held_with_it() {
    let text = r#"
tasks:
  - {name: a, file: {path: /a, state: directory}, notify: [h]}
  - {name: b, file: {path: /a/b, content: x}}
handlers:
  - {name: h, command: {argv: [x]}}
"#;
    let mut world = World::drifted(&["a", "b"]).gates(&[Some("Slot")]);
    let report = world.run(&book(text), RunMode::Steady);
    assert_eq!(outcomes(&report), ["a held"]);
    assert!(!world.log.contains(&"check b".to_owned()), "{:?}", world.log);
}

#[test]
fn gate_that_is_closed_holds_an_action() {
    let text = r#"
tasks:
  - {name: c, command: {argv: [x]}}
  - {name: a, file: {path: /a, content: x}}
"#;
    let mut world = World::differs(&["c", "a"]).gates(&[Some("Window")]);
    let report = world.run(&book(text), RunMode::NewRevision);
    assert_eq!(outcomes(&report), ["c held"]);
    assert_eq!(report.tasks[0].action, "run");
    assert!(!world.log.contains(&"action c".to_owned()));
}

#[test]
fn gate_that_is_closed_holds_a_direct_change() {
    let text = "tasks:\n  - {name: s, service: {name: s, state: started}}\n";
    let mut world = World::drifted(&["s"]).gates(&[Some("Slot")]);
    let report = world.run(&book(text), RunMode::Steady);
    assert_eq!(world.log, ["check s", "admit correct", "record [s] observed 0"]);
    assert_eq!(outcomes(&report), ["s held"]);
}

#[test]
fn gate_that_closes_after_the_first_change_holds_the_next_one() {
    let text = r#"
tasks:
  - {name: a, command: {argv: [x]}}
  - {name: b, command: {argv: [x]}}
"#;
    let mut world = World::differs(&["a", "b"]).gates(&[None, Some("StoreUnreachable")]);
    let report = world.run(&book(text), RunMode::NewRevision);
    assert_eq!(outcomes(&report), ["a changed", "b held"]);
}

#[test]
fn changes_that_have_begun_are_marked_so_that_a_window_may_be_overrun() {
    let text = r#"
tasks:
  - {name: a, command: {argv: [x]}}
  - {name: b, command: {argv: [x]}}
"#;
    let mut world = World::differs(&["a", "b"]);
    world.run(&book(text), RunMode::NewRevision);
    assert_eq!(world.log[1], "admit correct");
    assert_eq!(world.log[4], "admit correct began");
}

#[test]
fn admission_that_cannot_be_asked_fails_the_task() {
    let failed = Observation::Failed("the executor is gone".into());
    let mut world = World::differs(&["a", "b"]).answer("admit correct", failed);
    let report = world.run(&book(MIXED), RunMode::NewRevision);
    assert_eq!(outcomes(&report), ["a failed", "b failed"]);
    assert!(messages(&report).contains("the executor is gone"));
    assert!(report.gates.is_empty());
}

const PARALLEL: &str = r#"
order: parallel
rollout:
  before: [{name: out, command: {argv: [x]}}]
tasks:
  - {name: a, command: {argv: [x]}}
  - {name: b, command: {argv: [x]}}
  - {name: c, command: {argv: [x]}}
"#;

#[test]
fn parallel_tasks_run_the_tasks_before_them_once() {
    let mut world = World::differs(&["a", "b", "c"]);
    let report = world.run(&book(PARALLEL), RunMode::NewRevision);
    assert_eq!(world.log.iter().filter(|line| *line == "run out").count(), 1);
    let before = world.log.iter().position(|line| line.contains("frame=Changing")).unwrap();
    let first = world.log.iter().position(|line| line.starts_with("action")).unwrap();
    assert!(before < first, "{:?}", world.log);
    assert_eq!(report.worst(), Outcome::Changed);
}

#[test]
fn parallel_tasks_are_reported_after_the_tasks_before_them() {
    for first in ["a", "b", "c"] {
        let others = ["a", "b", "c"].into_iter().filter(|task| *task != first);
        let mut world = others.fold(World::differs(&[first]), |world, task| world.last(task, finished()));
        let report = world.run(&book(PARALLEL), RunMode::NewRevision);
        assert_eq!(outcomes(&report)[0], "out changed", "{first}: {:?}", outcomes(&report));
    }
}

#[test]
fn parallel_tasks_do_not_repeat_the_tasks_before_them_after_a_failure() {
    let mut world = World::differs(&["a", "b", "c"]).fails(&["out"]);
    let report = world.run(&book(PARALLEL), RunMode::NewRevision);
    assert_eq!(world.log.iter().filter(|line| *line == "run out").count(), 1, "{:?}", world.log);
    assert_eq!(outcomes(&report), ["out failed", "a failed", "b failed", "c failed"]);
}

#[test]
fn parallel_tasks_ask_a_closed_gate_once() {
    let mut world = World::differs(&["a", "b", "c"]).gates(&[Some("Window"); 3]);
    let report = world.run(&book(PARALLEL), RunMode::NewRevision);
    assert_eq!(world.log.iter().filter(|line| line.starts_with("admit")).count(), 1, "{:?}", world.log);
    assert_eq!(outcomes(&report), ["a held", "b held", "c held"]);
    assert_eq!(reasons(&report), ["Window"]);
}

#[test]
fn parallel_book_outside_its_window_corrects_content_and_reports_the_window() {
    let text = r#"
order: parallel
tasks:
  - {name: a, file: {path: /a, content: x}}
  - {name: s, service: {name: s, state: started}}
"#;
    let mut world = World::drifted(&["a", "s"]).gates(&[Some("Window")]);
    let report = world.run(&book(text), RunMode::Steady);
    assert_eq!(outcomes(&report), ["a changed", "s held"]);
    assert_eq!(reasons(&report), ["Window"]);
}

#[test]
fn gate_that_closed_before_a_preemption_is_reported() {
    let mut world = World::differs(&["a", "b"]).gates(&[Some("Slot")]).preempted_after("admit correct");
    let report = world.run(&book(MIXED), RunMode::NewRevision);
    assert_eq!(reasons(&report), ["Slot"]);
    assert!(!report.preempted, "the book had ended at the gate");
}

#[test]
fn next_pass_asks_again_after_a_closed_gate() {
    let mut world = World::differs(&["a"]).gates(&[Some("Window")]).last("b", applied());
    world.run(&book(MIXED), RunMode::NewRevision);
    let report = world.run(&book(MIXED), RunMode::NewRevision);
    assert_eq!(outcomes(&report), ["a changed", "b unchanged", "h changed"]);
    assert!(report.gates.is_empty());
}

const AFTER: &str = r#"
tasks:
  - {name: s, service: {name: s, state: started}, register: r}
  - {name: a, file: {path: /a, content: x}}
  - {name: b, file: {path: /b, content: x}, requires: [s]}
  - {name: c, file: {path: /c, content: x}, notify: [h]}
  - {name: d, file: {path: /d, content: x}, loop: [1, 2]}
  - {name: e, command: {argv: [x]}}
handlers:
  - {name: h, command: {argv: [x]}}
"#;

#[test]
fn content_of_an_elected_task_is_not_corrected_after_a_held_task() {
    let text = AFTER.replace("path: /a, content: x}}", "path: /a, content: x}, elect: {count: 1}}");
    let mut world = World::drifted(&["s", "a", "c"]).looped("d", &["1", "2"]).gates(&[Some("StoreUnreachable")]);
    let report = world.run(&book(&text), RunMode::Steady);
    assert!(!world.log.iter().any(|line| line == "check a"), "{:?}", world.log);
    assert_eq!(outcomes(&report), ["s held"]);
}

#[test]
fn drift_of_content_is_corrected_after_a_held_task() {
    let mut world =
        World::drifted(&["s", "a", "b", "c", "d [2]"]).looped("d", &["1", "2"]).gates(&[Some("StoreUnreachable")]);
    let report = world.run(&book(AFTER), RunMode::Steady);
    assert_eq!(
        world.log[..],
        [
            "check s",
            "admit correct",
            "check a",
            "check c",
            "check d [1]",
            "check d [2]",
            "apply files a d [2]",
            "record [s] observed 0"
        ]
    );
    assert_eq!(outcomes(&report), ["s held", "a changed", "d [2] changed"]);
    assert_eq!(reasons(&report), ["StoreUnreachable"]);
    assert_eq!(report.managed, None);
}

#[test]
fn content_of_a_new_revision_is_held_after_a_held_task() {
    let mut world = World::drifted(&["s", "a"]).gates(&[Some("Window")]);
    let report = world.run(&book(AFTER), RunMode::NewRevision);
    assert_eq!(outcomes(&report), ["s held"]);
}

#[test]
fn content_after_a_failed_task_is_not_corrected() {
    let mut world = World::drifted(&["s", "a"]).fails(&["s"]);
    let report = world.run(&book(AFTER), RunMode::Steady);
    assert_eq!(outcomes(&report), ["s failed"]);
}

#[test]
fn content_below_a_held_folder_is_held_with_it() {
    let text = r#"
tasks:
  - {name: a, file: {path: /a, state: directory}, notify: [h]}
  - {name: s, service: {name: s, state: started}}
  - {name: b, file: {path: /a/b, content: x}}
  - {name: c, file: {path: /c, content: x}}
handlers:
  - {name: h, command: {argv: [x]}}
"#;
    let mut world = World::drifted(&["a", "b", "c"]).gates(&[Some("Slot")]);
    let report = world.run(&book(text), RunMode::Steady);
    assert_eq!(outcomes(&report), ["a held", "c changed"]);
}

#[test]
fn preempted_book_corrects_no_content_after_a_held_task() {
    let mut world = World::drifted(&["s", "a"]).gates(&[Some("Slot")]).preempted_after("admit correct");
    assert_eq!(outcomes(&world.run(&book(AFTER), RunMode::Steady)), ["s held"]);
}

#[test]
fn drift_of_content_is_corrected_in_completed_segments_after_a_held_one() {
    let text = r#"
rollout: {serialize: {count: 1}}
tasks:
  - {name: s, service: {name: s, state: started}}
  - {name: a, file: {path: /a, content: x}, sync: true}
  - {name: b, file: {path: /b, content: x}, sync: true}
"#;
    let record = BookRecord { run: "n/b@1".into(), done: 2, ..BookRecord::default() };
    let mut world = World::drifted(&["s", "a", "b"]).gates(&[Some("StoreUnreachable")]).record(record);
    let report = world.roll(&book(text));
    assert_eq!(outcomes(&report), ["s held", "a changed"]);
    assert!(!world.log.iter().any(|line| line.starts_with("enter")), "{:?}", world.log);
}

#[test]
fn drift_of_content_is_corrected_after_a_task_that_a_missing_input_holds() {
    let mut world = World::drifted(&["a", "b"]);
    world.held.insert("s".into());
    let report = world.run(&book(AFTER), RunMode::Steady);
    assert_eq!(outcomes(&report), ["s held", "a changed"]);
}

#[test]
fn failure_before_the_admission_holds_no_slot() {
    let mut world = World { check_fails: ["a".into()].into(), ..World::differs(&["a", "b"]) };
    world.roll(&book(SYNC));
    assert!(world.log.contains(&"failed 0 unadmitted".to_owned()), "{:?}", world.log);
    let state = SlotState::Unadmitted("n/b@1".into(), 0);
    assert_eq!(world.record.slot, Some(SlotRef { slot: slot(), state }));
    // The check succeeds in the next pass, and the node waits for a slot.
    let mut world = World::differs(&["a", "b"]).record(world.record).gates(&[Some("Slot")]);
    world.roll(&book(SYNC));
    assert_eq!(world.record.slot, Some(SlotRef { slot: slot(), state: SlotState::Waiting }));
}

/// Returns the record of a node with a slot in the given state, in the run's budget or in another budget.
fn with_slot(state: SlotState, is_other: bool) -> BookRecord {
    let mut slot = slot();
    if is_other {
        slot.budget = "n/slot=s".into();
    }
    BookRecord { run: "n/b@1".into(), slot: Some(SlotRef { slot, state }), ..BookRecord::default() }
}

#[test]
fn failed_check_of_a_node_that_holds_a_slot_keeps_the_slot_as_a_failure() {
    for (is_other, call) in [(false, "failed 0 unadmitted"), (true, "failed 0")] {
        let record = with_slot(SlotState::Claimed("n/b@1".into(), Some(0)), is_other);
        let mut world = World { check_fails: ["a".into()].into(), ..World::differs(&["a", "b"]) }.record(record);
        world.roll(&book(SYNC));
        // The store knows the claim of this budget. Only the journal knows the claim of the other budget.
        assert!(world.log.contains(&call.to_owned()), "{:?}", world.log);
        assert!(matches!(&world.record.slot, Some(SlotRef { state: SlotState::Failed(..), .. })));
        assert_eq!(world.log.contains(&"leave old".to_owned()), is_other);
    }
}

#[test]
fn claim_of_a_completed_correction_in_another_budget_makes_no_failure_with_a_slot() {
    let mut world = World { check_fails: ["a".into()].into(), ..World::differs(&["a", "b"]) };
    world = world.record(with_slot(SlotState::Claimed("n/b@1".into(), None), true));
    world.roll(&book(SYNC));
    assert!(world.log.contains(&"failed 0 unadmitted".to_owned()), "{:?}", world.log);
    let state = SlotState::Unadmitted("n/b@1".into(), 0);
    assert_eq!(world.record.slot, Some(SlotRef { slot: slot(), state }));
}

#[test]
fn slot_in_another_partition_of_the_budget_is_not_released_after_the_admission() {
    let claimed = SlotState::Claimed("n/b@1".into(), Some(0));
    for state in [claimed, SlotState::Unadmitted("n/b@1".into(), 0)] {
        let mut record = with_slot(state, false);
        record.slot.as_mut().unwrap().slot.partition = "=0-".into();
        let mut world = World::differs(&["a", "b"]).record(record);
        world.roll(&book(SYNC));
        // The store has one record of the node in the budget.
        assert!(!world.log.contains(&"leave old".to_owned()), "{:?}", world.log);
    }
}

#[test]
fn failure_before_the_admission_of_an_earlier_run_or_in_another_budget_is_released_first() {
    for (of, is_other, is_released) in [("n/b@1", false, false), ("n/b@0", false, true), ("n/b@1", true, true)] {
        let record = with_slot(SlotState::Unadmitted(of.into(), 0), is_other);
        let mut world = World::differs(&["a", "b"]).record(record);
        world.roll(&book(SYNC));
        assert_eq!(world.log.first().is_some_and(|line| line == "leave old"), is_released, "{:?}", world.log);
    }
}
