//! Tests of removals of items that the book no longer mentions, within its rollout.

use towpath_render::view::PruneBudget;

use super::world::{World, applied, book, file, inventory, messages, outcomes, reasons};
use crate::{
    command::Observation,
    outcome::Outcome,
    plan::{assess::RunMode, removal::Inventory},
    record::{BookRecord, Frame, SlotRef, SlotState},
};

const PLAIN: &str = "prune: true\ntasks:\n  - {name: a, file: {path: /a, content: x}}\n";
const FRAMED: &str = r#"
prune: true
rollout:
  before: [{name: out, command: {argv: [x]}}]
  after: [{name: in, command: {argv: [x]}}]
tasks:
  - {name: a, file: {path: /a, content: x}}
"#;
const ROLLED: &str = r#"
prune: true
rollout:
  serialize: {count: 1}
  before: [{name: out, command: {argv: [x]}}]
  after: [{name: in, command: {argv: [x]}}]
tasks:
  - {name: a, file: {path: /a, content: x}}
"#;

fn steady(names: &[&str]) -> World {
    World::default().last("a", applied()).inventory(names)
}

/// Returns the record of a node that has completed the run.
fn done() -> BookRecord {
    BookRecord { run: "n/b@1".into(), done: 1, completed: true, ..BookRecord::default() }
}

/// Returns the record of a node that a failed removal keeps out of service.
fn out_of_service() -> BookRecord {
    BookRecord { frame: Some(Frame::Changing), removal_failed: true, ..done() }
}

#[test]
fn book_whose_items_are_all_mentioned_removes_nothing() {
    let mut world = steady(&["a"]);
    let report = world.run(&book(PLAIN), RunMode::Steady);
    assert_eq!(world.log, ["check a", "record [a] observed 0"]);
    assert!(report.steady);
}

#[test]
fn unmentioned_item_is_removed_with_admission() {
    let mut world = steady(&["a", "old"]);
    let report = world.run(&book(PLAIN), RunMode::Steady);
    assert_eq!(world.log[1..], ["record [a] observed 0", "admit correct", "remove [old] forget [] moved []"]);
    assert_eq!(outcomes(&report), ["a unchanged", "prune file old changed"]);
    assert_eq!(report.tasks[1].action, "remove");
    assert!(!report.steady);
}

#[test]
fn removal_outside_of_its_window_is_held() {
    let mut world = steady(&["a", "old"]).gates(&[Some("Window")]);
    let report = world.run(&book(PLAIN), RunMode::Steady);
    assert_eq!(outcomes(&report), ["a unchanged", "prune held"]);
    assert_eq!(reasons(&report), ["Window"]);
    assert!(!world.log.iter().any(|line| line.starts_with("remove")));
}

#[test]
fn changes_that_began_in_a_window_do_not_admit_the_removal() {
    let mut world = World::differs(&["a"]).inventory(&["a", "old"]);
    world.run(&book(PLAIN), RunMode::NewRevision);
    assert_eq!(
        world.log[1..],
        ["admit correct", "apply files a", "record [a] observed 0", "admit correct", "remove [old] forget [] moved []"]
    );
}

#[test]
fn book_without_prune_forgets_its_items_without_admission() {
    let mut world = steady(&[]);
    world.inventory = Some(Inventory { prune: false, ..inventory(&["old"]) });
    let report = world.run(&book(PLAIN), RunMode::Steady);
    assert_eq!(world.log[2..], ["remove [] forget [old] moved []"]);
    assert_eq!(outcomes(&report), ["a unchanged"]);
}

#[test]
fn item_that_another_book_manages_now_stays() {
    let mut world = steady(&[]);
    let managed_anywhere = std::sync::Arc::new([file("old")].into_iter().collect());
    world.inventory = Some(Inventory { managed_anywhere, ..inventory(&["old"]) });
    world.run(&book(PLAIN), RunMode::Steady);
    assert_eq!(world.log[2..], ["remove [] forget [] moved [old]"]);
}

#[test]
fn removal_over_its_budget_is_held_and_names_the_limits() {
    let mut world = steady(&[]);
    world.inventory = Some(Inventory { budget: PruneBudget::limited("1"), ..inventory(&["b", "c", "d"]) });
    let report = world.run(&book(PLAIN), RunMode::Steady);
    assert_eq!(outcomes(&report), ["a unchanged", "prune held"]);
    assert!(messages(&report).contains("3 of 3") && messages(&report).contains("pruneBudget"));
    assert!(!world.log.iter().any(|line| line.starts_with("remove") || line.starts_with("admit")));
}

#[test]
fn book_that_failed_removes_nothing() {
    let mut world = World::differs(&["a"]).inventory(&["a", "old"]).fails(&["a"]);
    world.run(&book(PLAIN), RunMode::NewRevision);
    assert!(!world.log.iter().any(|line| line.starts_with("remove")), "{:?}", world.log);
}

#[test]
fn book_whose_items_are_not_all_known_removes_nothing() {
    let mut world = steady(&["a", "old"]);
    world.unknown.insert("a".into());
    world.run(&book(PLAIN), RunMode::Steady);
    assert!(!world.log.iter().any(|line| line.starts_with("remove")), "{:?}", world.log);
}

#[test]
fn preempted_book_removes_nothing() {
    let mut world = steady(&["a", "old"]).preempted_after("check a");
    world.run(&book(PLAIN), RunMode::Steady);
    assert_eq!(world.log, ["check a", "record [a] observed 0"]);
}

#[test]
fn book_that_is_preempted_while_it_waits_for_other_books_removes_nothing() {
    let mut world = steady(&["a", "old"]).preempted_after("record [a] observed 0");
    let report = world.run(&book(PLAIN), RunMode::Steady);
    assert!(report.preempted);
    assert_eq!(world.log, ["check a", "record [a] observed 0"]);
}

#[test]
fn inventory_that_cannot_be_read_fails_the_book() {
    let mut world = steady(&["a"]).answer("inventory", Observation::Failed("the journal is damaged".into()));
    let report = world.run(&book(PLAIN), RunMode::Steady);
    assert_eq!(outcomes(&report), ["a unchanged", "prune failed"]);
    assert!(!report.steady);
}

#[test]
fn dry_run_shows_the_removals() {
    let mut world = steady(&["a", "old"]).dry();
    let report = world.run(&book(FRAMED), RunMode::NewRevision);
    assert_eq!(outcomes(&report), ["a unchanged", "prune file old unchanged"]);
    assert_eq!(report.tasks[1].action, "remove");
}

#[test]
fn book_without_tasks_removes_all_that_it_managed() {
    let mut world = World::default().inventory(&["b", "c"]).pending(&["old"]);
    let report = world.run(&book("prune: true\ntasks: []\n"), RunMode::Steady);
    assert_eq!(
        world.log[1..],
        ["handler old", "record [] observed 0", "admit correct", "remove [c b] forget [] moved []"]
    );
    assert_eq!(report.worst(), Outcome::Changed);
}

#[test]
fn removal_is_surrounded_by_the_tasks_before_and_after() {
    let mut world = steady(&["a", "old"]);
    let report = world.run(&book(FRAMED), RunMode::Steady);
    assert_eq!(
        world.log[2..],
        [
            "admit correct",
            "persist done=0 slot=- frame=Preparing",
            "run out",
            "persist done=0 slot=- frame=Changing",
            "remove [old] forget [] moved []",
            "admit correct began",
            "run in",
            "persist done=0 slot=- frame=-",
        ]
    );
    assert_eq!(outcomes(&report)[1..], ["out changed", "prune file old changed", "in changed"]);
}

#[test]
fn removal_that_fails_keeps_the_node_out_of_service() {
    let mut world = steady(&["a", "old"]).fails(&["old"]);
    let report = world.run(&book(FRAMED), RunMode::Steady);
    assert_eq!(outcomes(&report).last().unwrap(), "prune file old failed");
    assert!(world.record.removal_failed && world.record.frame == Some(Frame::Changing));
    assert!(!world.log.contains(&"run in".to_owned()));
}

#[test]
fn removal_that_succeeds_later_returns_the_node_to_service() {
    let mut world = steady(&["a", "old"]).fails(&["old"]);
    world.run(&book(FRAMED), RunMode::Steady);
    world.fails.clear();
    world.run(&book(FRAMED), RunMode::Steady);
    assert_eq!(
        world.log[2..],
        [
            "admit correct began",
            "remove [old] forget [] moved []",
            "admit correct began",
            "run in",
            "persist done=0 slot=- frame=- removal_failed",
            "persist done=0 slot=- frame=-",
        ]
    );
}

#[test]
fn held_item_does_not_fail_and_the_node_returns_to_service() {
    let mut world = steady(&["a", "old"]);
    world.left.insert("old".into());
    let report = world.run(&book(FRAMED), RunMode::Steady);
    assert_eq!(outcomes(&report)[1..], ["out changed", "prune file old held", "in changed"]);
    assert_eq!(world.record, BookRecord::default());
}

#[test]
fn item_that_is_held_keeps_a_node_out_of_service_that_a_failed_removal_took_out() {
    let mut world = steady(&["a", "old"]).record(BookRecord { run: String::new(), ..out_of_service() });
    world.left.insert("old".into());
    world.run(&book(FRAMED), RunMode::Steady);
    assert!(world.record.removal_failed && world.record.frame.is_some());
}

#[test]
fn unwanted_failed_removal_returns_the_node_to_service() {
    let mut world = steady(&["a"]).record(out_of_service());
    world.run(&book(FRAMED), RunMode::Steady);
    assert_eq!(world.log[2..4], ["admit correct began", "run in"]);
    assert_eq!((world.record.removal_failed, world.record.frame), (false, None));
}

#[test]
fn failed_removal_in_a_pass_without_removals_returns_the_node_to_service() {
    let mut world = World::default().last("a", applied()).record(out_of_service());
    world.run(&book(FRAMED), RunMode::Steady);
    assert!(world.log.contains(&"run in".to_owned()));
    assert!(!world.record.removal_failed);
}

#[test]
fn failed_removal_of_a_book_that_fails_keeps_the_node_out_of_service() {
    let mut world = steady(&["a"]).record(out_of_service());
    world.check_fails.insert("a".into());
    world.run(&book(FRAMED), RunMode::Steady);
    assert!(world.record.removal_failed);
    assert!(!world.log.contains(&"run in".to_owned()));
}

#[test]
fn failed_removal_that_is_now_over_budget_keeps_the_node_out_of_service() {
    let mut world = steady(&[]).record(out_of_service());
    world.inventory = Some(Inventory { budget: PruneBudget::limited("1"), ..inventory(&["b", "c"]) });
    world.run(&book(FRAMED), RunMode::Steady);
    assert!(world.record.removal_failed);
}

#[test]
fn task_after_a_removal_that_fails_leaves_the_frame_open() {
    let mut world = steady(&["a", "old"]).fails(&["in"]);
    let report = world.run(&book(FRAMED), RunMode::Steady);
    assert_eq!(outcomes(&report).last().unwrap(), "in failed");
    assert_eq!((world.record.frame, world.record.removal_failed), (Some(Frame::Changing), false));
}

#[test]
fn removal_that_the_executor_cannot_carry_out_fails() {
    let mut world =
        steady(&["a", "old"]).answer("remove [old] forget [] moved []", Observation::Failed("the disk is full".into()));
    let report = world.run(&book(PLAIN), RunMode::Steady);
    assert_eq!(outcomes(&report), ["a unchanged", "prune failed"]);
}

#[test]
fn removal_in_a_rollout_takes_a_slot_and_leaves_it() {
    let mut world = steady(&["a", "old"]).record(done());
    world.roll(&book(ROLLED));
    let claimed = "slot=Claimed(\"n/b@1\", None)";
    assert_eq!(
        world.log[2..],
        [
            "persist done=1 slot=Waiting frame=- completed".to_owned(),
            "admit 0 correct".into(),
            format!("persist done=1 {claimed} frame=- completed"),
            format!("persist done=1 {claimed} frame=Preparing completed"),
            "run out".into(),
            format!("persist done=1 {claimed} frame=Changing completed"),
            "remove [old] forget [] moved []".into(),
            "admit 0 correct began".into(),
            "run in".into(),
            format!("persist done=1 {claimed} frame=- completed"),
            "leave 0".into(),
            "persist done=1 slot=- frame=- completed".into(),
        ]
    );
}

#[test]
fn removal_in_a_run_that_others_have_not_ended_enters_its_last_segment() {
    let mut world = steady(&["a", "old"]).record(BookRecord { completed: false, ..done() }).gate("enter 0", "Wave");
    let report = world.roll(&book(ROLLED));
    assert!(world.log.contains(&"enter 0".to_owned()));
    assert_eq!(reasons(&report), ["Wave"]);
    assert!(!world.log.iter().any(|line| line.starts_with("remove")));
}

#[test]
fn removal_in_a_completed_run_enters_no_segment() {
    let mut world = steady(&["a", "old"]).record(done());
    world.roll(&book(ROLLED));
    assert!(!world.log.iter().any(|line| line.starts_with("enter")), "{:?}", world.log);
}

#[test]
fn removal_that_fails_in_a_rollout_is_recorded_before_the_fleet_learns_of_it() {
    let mut world = steady(&["a", "old"]).record(done()).fails(&["old"]);
    world.roll(&book(ROLLED));
    let position = |text: &str| world.log.iter().position(|line| line.contains(text)).unwrap();
    assert!(position("removal_failed") < position("failed 0"), "{:?}", world.log);
    assert!(matches!(&world.record.slot, Some(SlotRef { state: SlotState::Failed(_, 0), .. })));
}

#[test]
fn node_with_a_failed_removal_does_not_complete_the_last_segment() {
    let record = BookRecord { done: 0, completed: false, ..out_of_service() };
    let mut world = steady(&["a", "old"]).record(record).fails(&["old"]);
    world.roll(&book(ROLLED));
    assert!(!world.log.contains(&"done 0".to_owned()), "{:?}", world.log);
    assert!(world.record.removal_failed && world.record.done == 0);
}

#[test]
fn node_with_a_failed_removal_completes_the_last_segment_after_it_succeeds() {
    let record = BookRecord { done: 0, completed: false, ..out_of_service() };
    let mut world = steady(&["a", "old"]).record(record);
    world.roll(&book(ROLLED));
    assert!(!world.record.removal_failed && world.record.done == 0);
    world.inventory = Some(inventory(&["a"]));
    world.roll(&book(ROLLED));
    assert_eq!(world.record.done, 1);
}

#[test]
fn removal_that_waits_for_a_slot_keeps_its_position() {
    let slot = Some(SlotRef { slot: super::world::slot(), state: SlotState::Waiting });
    let waits = BookRecord { slot: slot.clone(), ..done() };
    let mut world = steady(&["a", "old"]).record(waits).gates(&[Some("Slot")]);
    world.roll(&book(ROLLED));
    assert!(!world.log.iter().any(|line| line.starts_with("leave")), "{:?}", world.log);
    assert_eq!(world.record.slot, slot);
}

#[test]
fn position_that_no_removal_needs_is_given_up() {
    let slot = Some(SlotRef { slot: super::world::slot(), state: SlotState::Waiting });
    let mut world = steady(&["a"]).record(BookRecord { slot, ..done() });
    world.roll(&book(ROLLED));
    assert_eq!(
        (world.log.last().map(String::as_str), &world.record.slot),
        (Some("persist done=1 slot=- frame=- completed"), &None)
    );
}

#[test]
fn slot_of_a_failed_removal_is_not_released_by_an_unchanged_pass() {
    let state = SlotState::Failed("n/b@1".into(), 0);
    let slot = Some(SlotRef { slot: super::world::slot(), state });
    let mut world = steady(&["a", "old"]).record(BookRecord { slot: slot.clone(), ..out_of_service() });
    world.fails = ["old".to_owned()].into_iter().collect();
    world.roll(&book(ROLLED));
    assert!(!world.log.iter().any(|line| line.starts_with("leave")), "{:?}", world.log);
    assert_eq!(world.record.slot, slot);
}
