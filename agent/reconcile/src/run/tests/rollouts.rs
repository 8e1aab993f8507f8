//! Tests of coordinated books: segments, votes, slots and elections.

use serde_json::json;

use super::world::{World, applied, book, finished, messages, outcomes, reasons, slot};
use crate::{
    command::{Answer, ElectionState, NotReady, Observation, Rebooted},
    outcome::Outcome,
    plan::instance::ModuleKind,
    record::{BookRecord, Frame, SlotRef, SlotState},
};

const ONE: &str = r#"
rollout: {serialize: {count: 1}}
tasks:
  - {name: a, file: {path: /a, content: x}, notify: [h]}
handlers:
  - {name: h, command: {argv: [x]}}
"#;

const CLAIMED: &str = "Claimed(\"n/b@1\", Some(0))";

#[test]
fn segment_takes_a_slot_before_its_first_change_and_releases_it_after_its_handlers() {
    let mut world = World::differs(&["a"]);
    let report = world.roll(&book(ONE));
    assert_eq!(
        world.log,
        [
            "enter 0".to_owned(),
            "check a".into(),
            "persist done=0 slot=Waiting frame=-".into(),
            "admit 0 change".into(),
            format!("persist done=0 slot={CLAIMED} frame=-"),
            "apply files a".into(),
            "admit 0 change began".into(),
            "handler h".into(),
            "done 0".into(),
            "persist done=0 slot=- frame=-".into(),
            "persist done=1 slot=- frame=-".into(),
            "repeat 1".into(),
            "end".into(),
            "record [a] observed 0".into(),
        ]
    );
    assert_eq!(outcomes(&report), ["a changed", "h changed"]);
}

#[test]
fn segment_without_changes_votes_without_a_slot() {
    let mut world = World::default();
    world.roll(&book(ONE));
    assert_eq!(
        world.log,
        ["enter 0", "check a", "done 0", "persist done=1 slot=- frame=-", "repeat 1", "end", "record [a] observed 1"]
    );
}

#[test]
fn run_that_has_not_ended_elsewhere_rules_out_the_steady_state() {
    let mut world = World::default().last("a", applied());
    assert!(!world.roll(&book(ONE)).steady);
    world.ended = true;
    let report = world.roll(&book(ONE));
    assert!(report.steady && world.record.completed);
}

#[test]
fn run_that_has_ended_is_not_asked_about_again() {
    let mut world = World { ended: true, ..World::default() }.last("a", applied());
    world.roll(&book(ONE));
    world.roll(&book(ONE));
    assert_eq!(world.log, ["check a", "record [a] observed 0"]);
}

#[test]
fn new_run_begins_at_its_first_segment() {
    let mut world = World { ended: true, ..World::default() };
    world.roll(&book(ONE));
    world.run_id = Some("n/b@2");
    world.roll(&book(ONE));
    assert_eq!(world.log[0], "enter 0");
    assert_eq!((world.record.run.as_str(), world.record.done), ("n/b@2", 1));
}

#[test]
fn slot_that_is_not_free_holds_the_changes() {
    let mut world = World::differs(&["a"]).gates(&[Some("Slot")]);
    let report = world.roll(&book(ONE));
    assert_eq!(outcomes(&report), ["a held"]);
    assert_eq!(reasons(&report), ["Slot"]);
    assert_eq!(world.log[3..], ["admit 0 change", "record [a] observed 0"]);
    assert_eq!(world.record.slot.as_ref().map(|slot| &slot.state), Some(&SlotState::Waiting));
}

#[test]
fn wave_that_is_closed_holds_a_node_with_changes() {
    let mut world = World::differs(&["a"]).gate("enter 0", "Wave");
    let report = world.roll(&book(ONE));
    assert_eq!(world.log, ["enter 0", "check a", "record [] observed 0"]);
    assert_eq!(reasons(&report), ["Wave"]);
    assert!(outcomes(&report).is_empty());
}

#[test]
fn node_without_changes_votes_before_its_wave() {
    let mut world = World::default().gate("enter 0", "Wave");
    let report = world.roll(&book(ONE));
    assert_eq!(world.log[..4], ["enter 0", "check a", "check a", "done 0"]);
    assert!(report.gates.is_empty());
}

#[test]
fn node_without_changes_waits_for_a_closed_barrier() {
    let mut world = World::default().gate("enter 0", "Barrier");
    let report = world.roll(&book(ONE));
    assert_eq!(world.log, ["enter 0", "record [] observed 0"]);
    assert_eq!(reasons(&report), ["Barrier"]);
}

#[test]
fn node_with_a_pending_handler_waits_for_its_wave() {
    let mut world = World::default().gate("enter 0", "Wave").pending(&["h"]);
    assert_eq!(reasons(&world.roll(&book(ONE))), ["Wave"]);
}

#[test]
fn node_that_is_half_changed_waits_for_its_wave() {
    let record = BookRecord { run: "n/b@1".into(), frame: Some(Frame::Changing), ..BookRecord::default() };
    let mut world = World::default().gate("enter 0", "Wave").record(record);
    assert_eq!(reasons(&world.roll(&book(ONE))), ["Wave"]);
    assert_eq!(world.log, ["enter 0", "record [] observed 0"]);
}

#[test]
fn unknown_state_counts_as_a_change_at_a_wave() {
    let mut world = World::default().gate("enter 0", "Wave");
    world.unknown.insert("a".into());
    assert_eq!(reasons(&world.roll(&book(ONE))), ["Wave"]);
}

#[test]
fn task_that_cannot_be_rendered_counts_as_a_change_at_a_wave() {
    let missing = NotReady::missing(Outcome::Held, "a secret");
    let mut world = World::default().gate("enter 0", "Wave").answer("render a", Observation::Rendered(Err(missing)));
    assert_eq!(reasons(&world.roll(&book(ONE))), ["Wave"]);
}

#[test]
fn action_that_has_not_run_counts_as_a_change_at_a_wave() {
    let text = "rollout: {serialize: {count: 1}}\ntasks:\n  - {name: c, command: {argv: [x]}}\n";
    let mut world = World::default().gate("enter 0", "Wave");
    assert_eq!(reasons(&world.roll(&book(text))), ["Wave"]);
    let mut world = World::default().gate("enter 0", "Wave").last("c", finished());
    assert!(world.roll(&book(text)).gates.is_empty());
}

#[test]
fn drift_that_a_policy_leaves_does_not_count_as_a_change_at_a_wave() {
    let mut world = World::drifted(&["a"]).gate("enter 0", "Wave");
    world.drift = Some(towpath_render::objects::task::Drift::Report);
    assert!(world.roll(&book(ONE)).gates.is_empty());
    assert!(world.log.contains(&"done 0".to_owned()));
}

#[test]
fn skipped_task_does_not_count_as_a_change_at_a_wave() {
    let mut world = World::differs(&["a"]).gate("enter 0", "Wave");
    world.skips.insert("a".into());
    assert!(world.roll(&book(ONE)).gates.is_empty());
}

pub(super) const SYNC: &str = r#"
rollout: {serialize: {count: 1}}
tasks:
  - {name: a, service: {name: a, state: started}, notify: [h]}
  - {name: b, service: {name: b, state: started}, sync: true}
handlers:
  - {name: h, command: {argv: [x]}}
"#;

#[test]
fn cut_runs_the_handlers_and_releases_the_slot_before_the_barrier() {
    let mut world = World::differs(&["a", "b"]).gate("enter 1", "Barrier");
    let report = world.roll(&book(SYNC));
    let position = |text: &str| world.log.iter().position(|line| line == text).unwrap();
    assert!(position("handler h") < position("done 0") && position("done 0") < position("enter 1"));
    assert_eq!((world.record.slot.clone(), world.record.done), (None, 1));
    assert_eq!(reasons(&report), ["Barrier"]);
    assert_eq!(world.log[position("enter 1")..], ["enter 1", "repeat 1", "record [a] observed 0"]);
}

#[test]
fn segment_after_an_open_barrier_takes_a_slot_of_its_own() {
    let mut world = World::differs(&["a", "b"]);
    world.roll(&book(SYNC));
    assert!(world.log.contains(&"admit 0 change".to_owned()) && world.log.contains(&"admit 1 change began".to_owned()));
    assert_eq!(world.record.done, 2);
}

#[test]
fn next_pass_continues_at_the_closed_barrier() {
    let mut world = World::differs(&["a", "b"]).gate("enter 1", "Barrier");
    world.roll(&book(SYNC));
    world.calls.clear();
    world.roll(&book(SYNC));
    assert_eq!(world.log[..3], ["check a", "enter 1", "repeat 1"]);
    assert_eq!(world.record.done, 2);
}

#[test]
fn segment_that_fails_becomes_a_failure_and_ends_the_run_on_this_node() {
    let mut world = World::differs(&["a", "b"]).fails(&["a"]);
    let report = world.roll(&book(SYNC));
    assert!(world.log.contains(&"failed 0".to_owned()));
    assert!(!world.log.contains(&"enter 1".to_owned()) && !world.log.contains(&"end".to_owned()));
    let state = SlotState::Failed("n/b@1".into(), 0);
    assert_eq!(world.record.slot, Some(SlotRef { slot: slot(), state }));
    assert_eq!(world.record.done, 0);
    assert_eq!(outcomes(&report), ["a failed"]);
}

#[test]
fn segment_that_failed_succeeds_in_the_next_pass() {
    let mut world = World::differs(&["a", "b"]).fails(&["a"]);
    world.roll(&book(SYNC));
    world.fails.clear();
    world.roll(&book(SYNC));
    assert_eq!((world.record.done, world.record.slot.clone()), (2, None));
    assert!(world.log.contains(&"done 0".to_owned()));
}

#[test]
fn handler_that_fails_is_a_failure_of_its_segment() {
    let mut world = World::differs(&["a", "b"]).fails(&["h"]);
    world.roll(&book(SYNC));
    assert!(world.log.contains(&"failed 0".to_owned()) && !world.log.contains(&"done 0".to_owned()));
}

#[test]
fn task_held_by_a_missing_input_is_not_a_failure_of_the_run() {
    let mut world = World::default();
    world.held.insert("a".into());
    world.roll(&book(SYNC));
    assert_eq!(world.log, ["enter 0", "record [] observed 0"]);
}

#[test]
fn vote_that_is_refused_is_repeated_in_the_next_pass() {
    let mut world = World::default().gate("done 0", "StoreUnreachable");
    let report = world.roll(&book(ONE));
    assert_eq!(reasons(&report), ["StoreUnreachable"]);
    assert_eq!(world.record.done, 0);
    world.calls.clear();
    world.roll(&book(ONE));
    assert_eq!(world.record.done, 1);
}

#[test]
fn preempted_segment_does_not_vote() {
    let mut world = World::differs(&["a"]).preempted_after("enter 0");
    let report = world.roll(&book(ONE));
    assert!(report.preempted);
    assert_eq!(world.log, ["enter 0", "record [] observed 0"]);
}

#[test]
fn preempted_segment_keeps_its_slot() {
    let text = SYNC.replace(", sync: true", "");
    let mut world = World::differs(&["a", "b"]).preempted_after("apply direct a");
    world.roll(&book(&text));
    assert!(matches!(&world.record.slot, Some(SlotRef { state: SlotState::Claimed(..), .. })));
    assert!(!world.log.contains(&"done 0".to_owned()));
}

#[test]
fn preemption_at_a_cut_does_not_enter_the_next_segment() {
    let mut world = World::default().preempted_after("done 0");
    let report = world.roll(&book(SYNC));
    assert!(report.preempted && !world.log.contains(&"enter 1".to_owned()));
    assert_eq!(world.record.done, 1);
}

/// Returns the record of a node that has completed the given number of segments.
fn done(segments: u32, completed: bool) -> BookRecord {
    BookRecord { run: "n/b@1".into(), done: segments, completed, ..BookRecord::default() }
}

#[test]
fn drift_in_a_completed_run_takes_a_slot_and_leaves_it() {
    let mut world = World::drifted(&["a"]).record(done(1, true));
    world.roll(&book(ONE));
    assert_eq!(
        world.log,
        [
            "check a",
            "persist done=1 slot=Waiting frame=- completed",
            "admit 0 correct",
            "persist done=1 slot=Claimed(\"n/b@1\", None) frame=- completed",
            "apply files a",
            "admit 0 correct began",
            "handler h",
            "leave 0",
            "persist done=1 slot=- frame=- completed",
            "record [a] observed 0",
        ]
    );
}

#[test]
fn drift_of_content_in_a_completed_run_takes_no_slot() {
    let text = ONE.replace(", notify: [h]", "");
    let mut world = World::drifted(&["a"]).record(done(1, true));
    world.roll(&book(&text));
    assert_eq!(world.log, ["check a", "apply files a", "record [a] observed 0"]);
}

#[test]
fn failed_correction_in_a_slot_is_a_failure_of_the_run() {
    let mut world = World::drifted(&["a"]).record(done(1, true)).fails(&["a"]);
    world.roll(&book(ONE));
    assert!(world.log.contains(&"failed 0".to_owned()));
    assert!(matches!(&world.record.slot, Some(SlotRef { state: SlotState::Failed(..), .. })));
}

#[test]
fn failed_correction_of_content_is_not_a_failure_of_the_run() {
    let text = ONE.replace(", notify: [h]", "");
    let mut world = World::drifted(&["a"]).record(done(1, true)).fails(&["a"]);
    let report = world.roll(&book(&text));
    assert_eq!(outcomes(&report), ["a failed"]);
    assert!(!world.log.iter().any(|line| line.starts_with("failed")), "{:?}", world.log);
}

#[test]
fn correction_in_a_completed_segment_keeps_the_slot_for_the_interrupted_one() {
    let mut world = World::drifted(&["a"]).record(done(1, false)).gate("enter 1", "Barrier");
    world.roll(&book(SYNC));
    assert!(!world.log.iter().any(|line| line.starts_with("leave") || line.starts_with("handler")), "{:?}", world.log);
    assert_eq!(world.pending, ["h"]);
    assert!(world.record.slot.is_some());
}

const OWN: &str = r#"
rollout: {serialize: {count: 1}}
tasks:
  - {name: a, service: {name: a, state: started}}
  - {name: b, service: {name: b, state: started}, serialize: {count: 1}}
  - {name: c, service: {name: c, state: started}}
"#;

#[test]
fn task_with_its_own_budget_is_a_segment_with_a_slot_of_its_own() {
    let mut world = World::differs(&["a", "b", "c"]);
    let report = world.roll(&book(OWN));
    for number in 0..3 {
        assert!(world.log.contains(&format!("enter {number}")) && world.log.contains(&format!("done {number}")));
    }
    assert_eq!(outcomes(&report), ["a changed", "b changed", "c changed"]);
    assert_eq!((world.record.done, world.record.slot.clone()), (3, None));
    assert!(!world.log.contains(&"leave old".to_owned()), "{:?}", world.log);
}

#[test]
fn correction_in_a_completed_segment_does_not_hold_a_slot_while_another_budget_is_waited_for() {
    let mut world = World::drifted(&["a"]).record(done(1, false)).gate("enter 1", "Wave");
    world.differs.insert("b".into());
    let report = world.roll(&book(OWN));
    assert_eq!(reasons(&report), ["Wave"]);
    assert!(world.log.contains(&"leave 0".to_owned()), "{:?}", world.log);
    assert_eq!(world.record.slot, None);
}

/// Returns the record of a node that has a slot in a budget that the run does not use.
fn foreign(state: SlotState) -> BookRecord {
    let slot = crate::record::Slot { budget: "n/old".into(), partition: String::new() };
    BookRecord { run: "n/b@0".into(), slot: Some(SlotRef { slot, state }), ..BookRecord::default() }
}

#[test]
fn slot_of_an_earlier_revision_is_released_when_the_node_has_nothing_to_change() {
    let mut world = World::default().record(foreign(SlotState::Claimed("n/b@0".into(), Some(0))));
    world.roll(&book(ONE));
    assert!(world.log.contains(&"leave old".to_owned()));
    assert_eq!(world.record.slot, None);
}

#[test]
fn slot_of_an_earlier_revision_is_released_when_the_node_takes_another_one() {
    let mut world = World::differs(&["a"]).record(foreign(SlotState::Claimed("n/b@0".into(), Some(0))));
    world.roll(&book(ONE));
    let position = |text: &str| world.log.iter().position(|line| line == text).unwrap();
    assert!(position("admit 0 change") < position("leave old"), "{:?}", world.log);
    assert!(position("leave old") < position("apply files a"), "{:?}", world.log);
}

#[test]
fn slot_of_an_earlier_revision_stays_recorded_until_it_is_released() {
    let known = foreign(SlotState::Claimed("n/b@0".into(), Some(0)));
    let mut world = World::differs(&["a"]).record(known.clone()).gate("leave old", "StoreUnreachable");
    let report = world.roll(&book(ONE));
    assert_eq!(outcomes(&report), ["a held"]);
    assert_eq!(world.record.slot, known.slot);
}

#[test]
fn book_without_serialize_records_no_slot() {
    let text = ONE.replace("serialize: {count: 1}", "waves: [50%]");
    let mut world = World::differs(&["a"]);
    world.roll(&book(&text));
    assert!(!world.log.iter().any(|line| line.contains("slot=W") || line.contains("slot=C")), "{:?}", world.log);
    assert!(world.log.contains(&"admit 0 change".to_owned()));
}

#[test]
fn reboot_in_a_rollout_announces_the_absence_with_its_slot() {
    let text = "rollout: {waves: [50%]}\ntasks:\n  - {name: r, reboot: {when: always}}\n";
    let mut world = World { reboots: vec![Rebooted::Due, Rebooted::Ending], ..World::default() };
    let report = world.roll(&book(text));
    let begin = world.log.iter().position(|line| line == "admit 0 change").unwrap();
    let slot = format!("persist done=0 slot={CLAIMED} frame=-");
    assert_eq!(world.log[begin..begin + 4], ["admit 0 change".into(), "absent 0".into(), slot, "reboot r now".into()]);
    assert!(report.preempted);
}

#[test]
fn reboot_whose_absence_is_refused_is_held() {
    let text = "rollout: {serialize: {count: 1}}\ntasks:\n  - {name: r, reboot: {when: always}}\n";
    let mut world = World { reboots: vec![Rebooted::Due], ..World::default() }.gate("absent 0", "StoreUnreachable");
    let report = world.roll(&book(text));
    assert_eq!(outcomes(&report), ["r held"]);
    assert_eq!(reasons(&report), ["StoreUnreachable"]);
    assert!(!world.log.contains(&"reboot r now".to_owned()));
}

#[test]
fn call_that_fails_is_reported_as_a_failure_of_the_rollout() {
    let mut world = World::default().answer("enter 0", Observation::Failed("no store".into()));
    let report = world.roll(&book(ONE));
    assert_eq!(outcomes(&report), ["rollout failed"]);
    assert!(messages(&report).contains("no store"));
}

#[test]
fn parallel_book_in_a_rollout_runs_its_tasks_at_once() {
    let text = SYNC.replace(", sync: true", "").replace("rollout:", "order: parallel\nrollout:");
    let mut world = World::differs(&["a", "b"]);
    let report = world.roll(&book(&text));
    assert_eq!(world.at_once, 2);
    assert_eq!(outcomes(&report), ["a changed", "b changed", "h changed"]);
    assert_eq!(world.log.iter().filter(|line| line.contains("slot=Waiting")).count(), 1);
}

#[test]
fn parallel_tasks_beside_a_reboot_run_in_order() {
    let text = r#"
order: parallel
rollout: {serialize: {count: 1}}
tasks:
  - {name: a, service: {name: a, state: started}}
  - {name: r, reboot: {when: always}}
  - {name: c, service: {name: c, state: started}}
"#;
    let mut world = World { reboots: vec![Rebooted::Due], ..World::differs(&["a", "c"]) }.gate("absent 0", "Slot");
    let report = world.roll(&book(text));
    assert_eq!((reasons(&report), outcomes(&report)[0].as_str()), (vec!["Slot"], "a changed"));
    assert!(!world.log.iter().any(|line| line == "check c"), "{:?}", world.log);
    assert!(world.log.contains(&"absent 0".to_owned()), "{:?}", world.log);
}

#[test]
fn window_that_was_open_for_one_segment_may_be_overrun_in_the_next() {
    let mut world = World::differs(&["a", "b"]);
    world.roll(&book(SYNC));
    assert!(world.log.contains(&"admit 1 change began".to_owned()), "{:?}", world.log);
}

const ELECTED: &str = r#"
tasks:
  - {name: e, command: {argv: [x]}, elect: {count: 1}, register: r}
  - {name: a, file: {path: /a, content: x}}
"#;

#[test]
fn elected_node_runs_the_task_and_publishes_its_result() {
    let mut world = World::default();
    let report = world.roll(&book(ELECTED));
    assert_eq!(world.log[..6], ["enter 0", "elect e", "check e", "admit 0 correct", "action e", "publish e true"]);
    assert_eq!(outcomes(&report), ["e changed", "a unchanged"]);
}

#[test]
fn elected_task_that_fails_publishes_its_failure() {
    let mut world = World::default().fails(&["e"]);
    let report = world.roll(&book(ELECTED));
    assert!(world.log.contains(&"publish e false".to_owned()) && world.log.contains(&"failed 0".to_owned()));
    assert_eq!(outcomes(&report), ["e failed"]);
}

#[test]
fn elected_loop_without_items_succeeds() {
    let mut world = World::default().looped("e", &[]);
    world.roll(&book(ELECTED));
    assert!(world.log.contains(&"publish e true".to_owned()), "{:?}", world.log);
}

#[test]
fn elected_task_is_not_failed_by_a_task_before_it_that_continues() {
    let text = format!("rollout:\n  before: [{{name: out, command: {{argv: [x]}}, onFailure: continue}}]{ELECTED}");
    let mut world = World::default().fails(&["out"]);
    world.roll(&book(&text));
    assert!(world.log.contains(&"publish e true".to_owned()), "{:?}", world.log);
}

#[test]
fn result_of_another_node_is_registered_without_running_the_task() {
    let mut world =
        World { election: Some(ElectionState::Results(json!({"stdout": "7"}), vec!["m".into()])), ..World::default() };
    let report = world.roll(&book(ELECTED));
    assert_eq!(world.log[..3], ["enter 0", "elect e", "done 0"]);
    assert_eq!(world.registered["r"], json!({"stdout": "7"}));
    assert!(messages(&report).contains("run by m"));
}

#[test]
fn adopted_result_is_registered_again_in_later_passes() {
    let mut world = World::default().record(done(2, true)).last("a", applied());
    world.election = Some(ElectionState::Adopted(json!(7)));
    let report = world.roll(&book(ELECTED));
    assert_eq!(world.log, ["elect e again", "check a", "record [a] observed 0"]);
    assert_eq!(world.registered["r"], json!(7));
    assert!(report.steady);
}

#[test]
fn result_that_is_not_there_yet_holds_the_book() {
    let mut world = World::default();
    let gate = towpath_coordination::Gate::new(towpath_coordination::GateReason::Dependency, "m runs it");
    world.election = Some(ElectionState::Hold(gate));
    let report = world.roll(&book(ELECTED));
    assert_eq!(world.log, ["enter 0", "elect e", "record [] observed 0"]);
    assert_eq!(reasons(&report), ["Dependency"]);
}

#[test]
fn result_that_cannot_be_published_holds_the_book() {
    let gate = towpath_coordination::Gate::new(towpath_coordination::GateReason::StoreUnreachable, "later");
    let mut world = World::default().answer("publish e true", Observation::Answered(Answer::Hold(gate)));
    let report = world.roll(&book(ELECTED));
    assert_eq!(reasons(&report), ["StoreUnreachable"]);
    assert_eq!(world.record.done, 0);
}

#[test]
fn election_that_cannot_be_asked_fails_the_task() {
    let mut world = World::default().answer("elect e", Observation::Failed("no store".into()));
    let report = world.roll(&book(ELECTED));
    assert_eq!(outcomes(&report), ["e failed"]);
}

#[test]
fn elected_task_waits_for_a_closed_barrier_and_no_wave() {
    let mut world = World::default().gate("enter 0", "Wave");
    assert_eq!(reasons(&world.roll(&book(ELECTED))), ["Wave"]);
    assert!(!world.log.contains(&"elect e".to_owned()));
}

#[test]
fn action_of_another_node_leaves_the_inventory_complete() {
    let world = World { election: Some(ElectionState::Results(json!(7), vec!["m".into()])), ..World::default() };
    let missing = NotReady::failed("no item");
    let mut world = world.answer("render e", Observation::Rendered(Err(missing)));
    assert!(world.roll(&book(ELECTED)).managed.is_some());
}

#[test]
fn items_of_a_state_of_another_node_stay_managed() {
    let text = ELECTED.replace("command: {argv: [x]}", "file: {path: /e, content: x}, loop: [1, 2]");
    let mut world = World::default().looped("e", &["1", "2"]).kind("e", ModuleKind::State);
    world.election = Some(ElectionState::Results(json!(7), vec!["m".into()]));
    let managed = world.roll(&book(&text)).managed.unwrap();
    let names: Vec<&str> = managed.iter().map(|item| item.identity.as_str()).collect();
    assert_eq!(names, ["a", "e [1]", "e [2]"]);
}
