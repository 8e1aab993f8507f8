//! Tests of probes, actions, reboots and loops.

use serde_json::json;
use towpath_render::objects::task::Drift;

use super::world::{World, applied, book, finished, messages, outcomes};
use crate::{
    command::{Command, Executed, Observation, Rebooted},
    outcome::Outcome,
    plan::{
        assess::{LastRun, RunMode},
        instance::ModuleKind,
    },
};

const PROBE: &str = r#"
tasks:
  - {name: a, file: {path: /a, content: x}}
  - {name: p, assert: {that: ["true"]}}
"#;

#[test]
fn probe_runs_when_a_revision_is_new() {
    let mut world = World::default();
    let report = world.run(&book(PROBE), RunMode::NewRevision);
    assert_eq!(world.log[..2], ["check a", "probe p"]);
    assert_eq!(outcomes(&report), ["a unchanged", "p unchanged"]);
}

#[test]
fn probe_does_not_run_in_a_steady_book() {
    let mut world = World::default().last("a", applied());
    let report = world.run(&book(PROBE), RunMode::Steady);
    assert_eq!(world.log, ["check a", "check a", "record [a] observed 0"]);
    assert_eq!(outcomes(&report), ["a unchanged", "p unchanged"]);
    assert!(report.steady);
}

#[test]
fn probe_runs_in_a_pass_in_which_its_segment_changes_something() {
    let mut world = World::drifted(&["a"]);
    world.run(&book(PROBE), RunMode::Steady);
    assert_eq!(world.log, ["check a", "check a", "apply files a", "probe p", "record [a] observed 0"]);
}

#[test]
fn probe_runs_in_a_pass_in_which_a_handler_is_pending() {
    let text = format!("{PROBE}handlers:\n  - {{name: h, command: {{argv: [x]}}}}\n");
    let mut world = World::default().last("a", applied()).pending(&["h"]);
    world.run(&book(&text), RunMode::Steady);
    assert_eq!(world.log[..4], ["check a", "probe p", "admit correct", "handler h"]);
}

#[test]
fn probe_whose_result_is_registered_runs_in_every_pass() {
    let text = PROBE.replace("[\"true\"]}", "[\"true\"]}, register: r");
    let mut world = World::default().last("a", applied());
    let report = world.run(&book(&text), RunMode::Steady);
    assert_eq!(world.log[..2], ["check a", "probe p"]);
    assert!(!report.steady);
    assert_eq!(world.registered["r"], json!({"changed": false, "outcome": "unchanged"}));
}

#[test]
fn probe_needs_no_admission() {
    let text = "tasks:\n  - {name: p, assert: {that: [\"true\"]}}\n";
    let mut world = World::default();
    world.run(&book(text), RunMode::NewRevision);
    assert_eq!(world.log, ["probe p", "record [] observed 0"]);
}

#[test]
fn probe_that_fails_ends_the_book() {
    let text = PROBE.replace("tasks:", "tasks:\n  - {name: q, assert: {that: [\"false\"]}}");
    let mut world = World::differs(&["a"]).fails(&["q"]);
    let report = world.run(&book(&text), RunMode::NewRevision);
    assert_eq!(outcomes(&report), ["q failed"]);
}

#[test]
fn probe_follows_the_changes_that_wait() {
    let mut world = World::differs(&["a"]);
    world.run(&book(PROBE), RunMode::NewRevision);
    assert_eq!(world.log[..4], ["check a", "admit correct", "apply files a", "probe p"]);
}

#[test]
fn probe_that_a_dry_run_cannot_ask_is_unknown() {
    let mut world = World::differs(&["a"]).dry().answer("probe p", Observation::Executed(Executed::Planned));
    let report = world.run(&book(PROBE), RunMode::NewRevision);
    assert_eq!(outcomes(&report), ["a unchanged", "p unknown"]);
    assert_eq!(report.tasks[1].action, "unknown");
}

const TWO_PROBES: &str = r#"
tasks:
  - {name: a, file: {path: /a, content: x}, register: r}
  - {name: b, file: {path: /b, content: x}}
  - {name: p, assert: {that: ["true"]}}
"#;

#[test]
fn steady_book_with_registered_states_does_not_run_its_probes() {
    let mut world = World::default().last("a", applied()).last("b", applied());
    world.needs.insert("b".into(), "r".into());
    let report = world.run(&book(TWO_PROBES), RunMode::Steady);
    assert!(!world.log.contains(&"probe p".to_owned()), "{:?}", world.log);
    assert_eq!(outcomes(&report), ["a unchanged", "b unchanged", "p unchanged"]);
}

#[test]
fn steady_book_with_a_registered_loop_of_probes_does_not_run_the_others() {
    let text = r#"
tasks:
  - {name: q, assert: {that: ["true"]}, loop: [1, 2], register: r}
  - {name: b, file: {path: /b, content: x}}
  - {name: p, assert: {that: ["true"]}}
"#;
    let mut world = World::default().last("b", applied()).looped("q", &["1", "2"]);
    world.needs.insert("b".into(), "r".into());
    world.run(&book(text), RunMode::Steady);
    assert!(!world.log.contains(&"probe p".to_owned()), "{:?}", world.log);
}

#[test]
fn sync_without_a_module_is_not_asked_whether_it_changes() {
    let text = PROBE.replace("tasks:", "tasks:\n  - {name: s, flushHandlers: true}");
    let mut world = World::default().last("a", applied()).answer("render s", Observation::Failed("no module".into()));
    let report = world.run(&book(&text), RunMode::Steady);
    assert_eq!(outcomes(&report), ["s unchanged", "a unchanged", "p unchanged"]);
    assert!(!world.log.contains(&"probe p".to_owned()), "{:?}", world.log);
}

const ACTION: &str = "tasks:\n  - {name: c, command: {argv: [x]}, register: r}\n";

#[test]
fn action_runs_once_for_its_definition() {
    let mut world = World::default();
    let report = world.run(&book(ACTION), RunMode::NewRevision);
    assert_eq!(world.log[..3], ["check c", "admit correct", "action c"]);
    assert_eq!((report.tasks[0].outcome, report.tasks[0].action), (Outcome::Changed, "run"));
    let report = world.run(&book(ACTION), RunMode::NewRevision);
    assert_eq!(world.log[..1], ["check c"]);
    assert_eq!(outcomes(&report), ["c unchanged"]);
}

#[test]
fn finished_action_registers_the_fields_of_its_last_run() {
    let last = LastRun { fields: json!({"stdout": "7"}), ..finished() };
    let mut world = World::default().last("c", last);
    let report = world.run(&book(ACTION), RunMode::Steady);
    assert_eq!(world.registered["r"], json!({"changed": false, "outcome": "unchanged", "stdout": "7"}));
    assert!(report.steady);
}

#[test]
fn interrupted_action_runs_again_with_a_message() {
    let last = LastRun { interrupted: 2, ..applied() };
    let mut world = World::default().last("c", last);
    let report = world.run(&book(ACTION), RunMode::Steady);
    assert!(messages(&report).contains("2 times"), "{}", messages(&report));
}

#[test]
fn interruption_of_another_definition_is_not_mentioned() {
    let last = LastRun { interrupted: 2, ..LastRun::default() };
    let mut world = World::default().last("c", last);
    let report = world.run(&book(ACTION), RunMode::Steady);
    assert_eq!((outcomes(&report), messages(&report)), (vec!["c changed".to_owned()], String::new()));
}

#[test]
fn finished_action_mentions_its_interruption() {
    let last = LastRun { interrupted: 1, ..finished() };
    let report = World::default().last("c", last).run(&book(ACTION), RunMode::Steady);
    assert!(messages(&report).contains("once"), "{}", messages(&report));
}

#[test]
fn conditional_action_runs_when_its_condition_calls_for_it() {
    let mut world = World::differs(&["c"]).kind("c", ModuleKind::ConditionalAction);
    let report = world.run(&book(ACTION), RunMode::Steady);
    assert_eq!(world.log[..3], ["check c", "admit correct", "action c"]);
    assert_eq!(report.tasks[0].diff.as_deref(), Some("-a\n+b\n"));
    assert!(!report.steady);
}

#[test]
fn conditional_action_in_sync_is_unchanged_and_rules_out_the_steady_state() {
    let mut world = World::default().kind("c", ModuleKind::ConditionalAction);
    let report = world.run(&book(ACTION), RunMode::Steady);
    assert_eq!(outcomes(&report), ["c unchanged"]);
    assert!(!report.steady);
}

#[test]
fn conditional_action_under_report_is_left_as_drift() {
    let mut world = World::differs(&["c"]).kind("c", ModuleKind::ConditionalAction).last("c", finished());
    world.drift = Some(Drift::Report);
    let report = world.run(&book(ACTION), RunMode::Steady);
    assert_eq!(outcomes(&report), ["c unchanged"]);
    assert!(report.tasks[0].origin == crate::Origin::Drift && report.tasks[0].message.is_some());
}

#[test]
fn conditional_action_of_unknown_state_is_unknown_in_a_dry_run() {
    let mut world = World::default().kind("c", ModuleKind::ConditionalAction).dry();
    world.unknown.insert("c".into());
    let report = world.run(&book(ACTION), RunMode::NewRevision);
    assert_eq!((outcomes(&report)[0].as_str(), report.tasks[0].action), ("c unknown", "unknown"));
    assert!(world.registered.is_empty());
}

#[test]
fn unconditional_action_runs_in_every_pass() {
    let mut world = World::differs(&["c"]).kind("c", ModuleKind::UnconditionalAction).last("c", finished());
    world.run(&book(ACTION), RunMode::Steady);
    assert_eq!(world.log[2], "action c");
}

#[test]
fn action_that_fails_ends_the_book_and_registers_its_result() {
    let mut world = World::default().fails(&["c"]);
    let report = world.run(&book(ACTION), RunMode::NewRevision);
    assert_eq!(outcomes(&report), ["c failed"]);
    assert_eq!(world.registered["r"]["outcome"], json!("failed"));
}

#[test]
fn action_in_a_dry_run_is_planned_and_not_registered() {
    let mut world = World::default().dry();
    let report = world.run(&book(ACTION), RunMode::NewRevision);
    assert_eq!((report.tasks[0].outcome, report.tasks[0].action), (Outcome::Unchanged, "run"));
    assert!(world.registered.is_empty());
}

const REBOOT: &str = r#"
tasks:
  - {name: a, file: {path: /a, content: x}}
  - {name: r, reboot: {when: always}}
  - {name: b, file: {path: /b, content: x}}
"#;

#[test]
fn reboot_that_is_not_due_changes_nothing() {
    let mut world = World::default();
    let report = world.run(&book(REBOOT), RunMode::Steady);
    assert_eq!(world.log[1..3], ["reboot r?", "check b"]);
    assert_eq!(outcomes(&report), ["a unchanged", "r unchanged", "b unchanged"]);
}

#[test]
fn book_with_a_reboot_is_checked_in_every_pass() {
    let mut world = World::default().last("a", applied()).last("b", applied());
    assert!(!world.run(&book(REBOOT), RunMode::Steady).steady);
}

#[test]
fn reboot_that_is_due_ends_the_run() {
    let mut world = World::differs(&["a", "b"]);
    world.reboots = vec![Rebooted::Due, Rebooted::Ending];
    let report = world.run(&book(REBOOT), RunMode::NewRevision);
    assert_eq!(world.log[2..6], ["apply files a", "reboot r?", "admit correct began", "reboot r now"]);
    assert_eq!(outcomes(&report), ["a changed", "r held"]);
    assert!(report.preempted);
}

#[test]
fn book_continues_after_the_reboot() {
    let mut world = World::differs(&["b"]);
    world.reboots = vec![Rebooted::Done];
    let report = world.run(&book(REBOOT), RunMode::NewRevision);
    assert_eq!(world.log[1..3], ["reboot r?", "rebooted r"]);
    assert_eq!(outcomes(&report), ["a unchanged", "r changed", "b changed"]);
    assert!(messages(&report).contains("the node was rebooted"));
}

#[test]
fn reboot_that_fails_ends_the_book() {
    let mut world =
        World { reboots: vec![Rebooted::Due, Rebooted::Failed("it did not reboot".into())], ..World::default() };
    let report = world.run(&book(REBOOT), RunMode::NewRevision);
    assert_eq!(outcomes(&report), ["a unchanged", "r failed"]);
    assert_eq!(report.managed, None);
}

#[test]
fn reboot_at_a_closed_gate_is_held() {
    let mut world = World::default().gates(&[Some("Window")]);
    world.reboots = vec![Rebooted::Due];
    let report = world.run(&book(REBOOT), RunMode::NewRevision);
    assert_eq!(outcomes(&report), ["a unchanged", "r held"]);
    assert_eq!(report.tasks[1].action, "run");
}

#[test]
fn reboot_in_a_dry_run_is_planned() {
    let mut world = World::default().dry();
    world.reboots = vec![Rebooted::Due, Rebooted::Due];
    let report = world.run(&book(REBOOT), RunMode::NewRevision);
    assert_eq!((report.tasks[1].outcome, report.tasks[1].action), (Outcome::Unchanged, "run"));
    assert_eq!(report.tasks.len(), 3);
}

const LOOP: &str = r#"
tasks:
  - {name: l, MODULE, loop: [1, 2], register: r, onFailure: continue}
"#;

fn looped(module: &str) -> std::sync::Arc<towpath_render::objects::task::Book> {
    book(&LOOP.replace("MODULE", module))
}

#[test]
fn loop_runs_each_item_and_registers_all_results() {
    let mut world = World::differs(&["l [2]"]).looped("l", &["1", "2"]);
    let report = world.run(&looped("file: {path: /x, content: x}"), RunMode::NewRevision);
    assert_eq!(outcomes(&report), ["l [1] unchanged", "l [2] changed"]);
    let item = |outcome: &str| json!({"changed": outcome == "changed", "outcome": outcome});
    let all = json!({"results": [item("unchanged"), item("changed")], "changed": true, "outcome": "changed"});
    assert_eq!(world.registered["r"], all);
}

#[test]
fn loop_without_items_registers_an_empty_result() {
    let mut world = World::default().looped("l", &[]);
    world.run(&looped("file: {path: /x, content: x}"), RunMode::NewRevision);
    assert_eq!(world.registered["r"], json!({"results": [], "changed": false, "outcome": "skipped"}));
}

#[test]
fn loop_of_direct_changes_registers_the_results_of_the_module() {
    let mut world = World::differs(&["l [1]"]).looped("l", &["1", "2"]);
    let result = json!({"changed": true, "outcome": "changed", "started": true});
    world.results.insert("l [1]".into(), result.clone());
    world.run(&looped("service: {name: x, state: started}"), RunMode::NewRevision);
    assert_eq!(world.registered["r"]["results"][0], result);
}

#[test]
fn loop_of_actions_registers_the_results_of_the_module() {
    let mut world = World::default().looped("l", &["1", "2"]);
    let result = json!({"changed": true, "outcome": "changed", "stdout": "7"});
    world.results.insert("l [2]".into(), result.clone());
    world.run(&looped("command: {argv: [x]}"), RunMode::NewRevision);
    assert_eq!(world.registered["r"]["results"][1], result);
}

#[test]
fn loop_counts_an_item_that_cannot_be_rendered_as_failed() {
    let failed = crate::command::NotReady::missing(Outcome::Failed, "it needs x");
    let mut world =
        World::default().looped("l", &["1", "2"]).answer("render l [1]", Observation::Rendered(Err(failed)));
    world.run(&looped("command: {argv: [x]}"), RunMode::NewRevision);
    assert_eq!(world.registered["r"]["outcome"], json!("failed"));
    assert_eq!(world.registered["r"]["results"].as_array().map(Vec::len), Some(2));
}

#[test]
fn loop_with_a_failed_item_has_the_worst_outcome() {
    let mut world = World::default().looped("l", &["1", "2"]).fails(&["l [1]"]);
    let report = world.run(&looped("command: {argv: [x]}"), RunMode::NewRevision);
    assert_eq!(outcomes(&report), ["l [1] failed", "l [2] changed"]);
    assert_eq!(world.registered["r"]["outcome"], json!("failed"));
    assert_eq!(world.registered["r"]["changed"], json!(true));
}

#[test]
fn loop_that_does_not_continue_ends_at_its_first_failure() {
    let text = LOOP.replace("MODULE", "command: {argv: [x]}").replace(", onFailure: continue", "");
    let mut world = World::default().looped("l", &["1", "2"]).fails(&["l [1]"]);
    let report = world.run(&book(&text), RunMode::NewRevision);
    assert_eq!(outcomes(&report), ["l [1] failed"]);
}

#[test]
fn loop_is_preempted_between_its_items() {
    let mut world = World::default().looped("l", &["1", "2"]).preempted_after("action l [1]");
    let report = world.run(&looped("command: {argv: [x]}"), RunMode::NewRevision);
    assert_eq!(outcomes(&report), ["l [1] changed"]);
    assert!(report.preempted);
}

#[test]
fn loop_without_register_is_one_batch() {
    let text = LOOP.replace("MODULE", "file: {path: /x, content: x}").replace(", register: r", "");
    let mut world = World::differs(&["l [1]", "l [2]"]).looped("l", &["1", "2"]);
    world.run(&book(&text), RunMode::NewRevision);
    assert_eq!(world.log[3], "apply files l [1] l [2]");
}

#[test]
fn loop_that_a_dry_run_would_change_is_not_registered() {
    for module in ["file: {path: /x, content: x}", "service: {name: x, state: started}", "command: {argv: [x]}"] {
        let mut world = World::differs(&["l [1]"]).looped("l", &["1", "2"]).dry();
        let report = world.run(&looped(module), RunMode::NewRevision);
        assert!(world.registered.is_empty(), "{module}: {:?}", world.registered);
        assert_eq!(report.tasks.len(), 2);
    }
}

#[test]
fn loop_in_sync_is_registered_in_a_dry_run() {
    let mut world = World::default().looped("l", &["1", "2"]).dry();
    world.run(&looped("file: {path: /x, content: x}"), RunMode::NewRevision);
    assert_eq!(world.registered["r"]["outcome"], json!("unchanged"));
}

#[test]
fn loop_that_cannot_be_rendered_fails_the_task() {
    let text = LOOP.replace("MODULE", "command: {argv: [x]}").replace(", onFailure: continue", "");
    let mut world = World::default();
    world.needs.insert("l".into(), "x".into());
    let report = world.run(&book(&text), RunMode::NewRevision);
    assert_eq!(outcomes(&report), ["l failed"]);
    assert_eq!(report.tasks[0].instance, None);
}

#[test]
fn item_of_a_loop_is_hidden_in_the_text_of_a_command() {
    let mut world = World::default().looped("l", &["1"]);
    world.run(&looped("command: {argv: [x]}"), RunMode::NewRevision);
    let item = world.item("l [1]");
    assert_eq!(format!("{:?}", Command::Render(item)), "Render(l [1]#1)");
}

#[test]
fn finished_reboot_is_recorded_by_the_task_and_not_by_the_check_before_it() {
    let text = format!("{REBOOT}  - {{name: p, assert: {{that: [\"true\"]}}}}\n");
    let mut world = World { reboots: vec![Rebooted::Done, Rebooted::Done], ..World::default() };
    let report = world.run(&book(&text), RunMode::Steady);
    assert_eq!(world.log[..5], ["check a", "reboot r?", "check a", "reboot r?", "rebooted r"]);
    assert_eq!(outcomes(&report)[1], "r changed");
    assert!(world.log.contains(&"probe p".to_owned()), "the segment has changed");
}

#[test]
fn reboot_whose_end_cannot_be_recorded_fails() {
    let mut world = World { reboots: vec![Rebooted::Done], ..World::default() }
        .answer("rebooted r", Observation::Failed("the disk is full".into()));
    let report = world.run(&book(REBOOT), RunMode::NewRevision);
    assert_eq!(outcomes(&report), ["a unchanged", "r failed"]);
    assert!(messages(&report).contains("the disk is full"));
}
