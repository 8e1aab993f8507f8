//! Tests of the tasks of a book without a rollout.

use serde_json::json;
use towpath_render::objects::task::Drift;

use super::world::{World, applied, book, messages, outcomes};
use crate::{
    command::{Observation, Rendered},
    outcome::Outcome,
    plan::assess::{LastRun, RunMode},
};

const TWO: &str = r#"
tasks:
  - {name: a, file: {path: /a, content: x}}
  - {name: b, file: {path: /b, content: x}}
"#;

#[test]
fn book_in_sync_is_checked_and_not_changed() {
    let mut world = World::default();
    let report = world.run(&book(TWO), RunMode::Steady);
    assert_eq!(world.log, ["check a", "check b", "record [a b] observed 2"]);
    assert_eq!(outcomes(&report), ["a unchanged", "b unchanged"]);
    assert!(report.steady);
}

#[test]
fn adjacent_files_are_one_batch() {
    let mut world = World::differs(&["a", "b"]);
    let report = world.run(&book(TWO), RunMode::NewRevision);
    assert_eq!(world.log, ["check a", "check b", "admit correct", "apply files a b", "record [a b] observed 0"]);
    assert_eq!(outcomes(&report), ["a changed", "b changed"]);
    assert!(!report.steady);
}

#[test]
fn drift_of_content_needs_no_admission() {
    let mut world = World::differs(&["a"]);
    world.last.insert("a".into(), LastRun { same_definition: true, ..LastRun::default() });
    let report = world.run(&book(TWO), RunMode::Steady);
    assert_eq!(world.log, ["check a", "check b", "apply files a", "record [a b] observed 1"]);
    assert!(report.tasks[0].origin == crate::Origin::Drift);
}

#[test]
fn failed_task_ends_the_book() {
    let mut world = World::differs(&["a", "b"]).fails(&["a"]);
    let text = r#"
tasks:
  - {name: a, command: {argv: ["true"]}}
  - {name: b, file: {path: /b, content: x}}
"#;
    let report = world.run(&book(text), RunMode::NewRevision);
    assert_eq!(outcomes(&report), ["a failed"]);
    assert_eq!(report.managed, None);
    assert_eq!(report.worst(), Outcome::Failed);
}

#[test]
fn skipped_task_keeps_its_items_and_changes_nothing() {
    let mut world = World::differs(&["a", "b"]);
    world.skips.insert("a".into());
    let report = world.run(&book(TWO), RunMode::NewRevision);
    assert_eq!(world.log, ["check b", "admit correct", "apply files b", "record [a b] observed 0"]);
    assert_eq!(outcomes(&report), ["a skipped", "b changed"]);
    assert_eq!(report.managed.map(|managed| managed.len()), Some(2));
}

#[test]
fn skipped_task_with_unknown_items_makes_the_inventory_incomplete() {
    let skipped = Observation::Rendered(Ok(Rendered::Skipped(None)));
    let mut world = World::default().answer("render a", skipped);
    let report = world.run(&book(TWO), RunMode::Steady);
    assert_eq!(outcomes(&report), ["a skipped", "b unchanged"]);
    assert_eq!(report.managed, None);
}

#[test]
fn state_of_unknown_state_is_reported_and_the_book_continues() {
    let mut world = World::default();
    world.unknown.insert("a".into());
    let report = world.run(&book(TWO), RunMode::Steady);
    assert_eq!(outcomes(&report), ["a unknown", "b unchanged"]);
    assert_eq!(report.tasks[0].action, "unknown");
    assert_eq!(report.managed, None);
}

#[test]
fn direct_change_of_unknown_state_fails() {
    let mut world = World::default();
    world.unknown.insert("s".into());
    let report = world.run(&book(SERVICE), RunMode::Steady);
    assert_eq!(outcomes(&report), ["s failed"]);
}

#[test]
fn direct_change_of_unknown_state_is_unknown_in_a_dry_run() {
    let mut world = World::default().dry();
    world.unknown.insert("s".into());
    let report = world.run(&book(SERVICE), RunMode::NewRevision);
    assert_eq!(outcomes(&report), ["s unknown", "a unchanged"]);
}

const SERVICE: &str = r#"
tasks:
  - {name: s, service: {name: nginx, state: started}}
  - {name: a, file: {path: /a, content: x}}
"#;

#[test]
fn check_that_fails_ends_the_book() {
    let mut world = World::default();
    world.check_fails.insert("a".into());
    let report = world.run(&book(TWO), RunMode::Steady);
    assert_eq!(outcomes(&report), ["a failed"]);
    assert_eq!(report.managed, None);
}

const CONTINUES: &str = r#"
tasks:
  - {name: a, service: {name: a, state: started}, onFailure: continue}
  - {name: b, file: {path: /b, content: x}}
  - {name: c, debug: {message: x}, requires: [a]}
  - {name: d, debug: {message: x}, requires: [c]}
"#;

#[test]
fn failed_task_that_continues_does_not_end_the_book() {
    let mut world = World::differs(&["a", "b"]).fails(&["a"]);
    let report = world.run(&book(CONTINUES), RunMode::NewRevision);
    assert_eq!(outcomes(&report), ["a failed", "b changed", "c skipped", "d skipped"]);
}

#[test]
fn task_that_requires_a_failed_one_is_skipped_and_so_are_those_that_require_it() {
    let mut world = World::differs(&["a"]).fails(&["a"]);
    let report = world.run(&book(CONTINUES), RunMode::NewRevision);
    assert_eq!(outcomes(&report)[2..], ["c skipped", "d skipped"]);
    assert!(messages(&report).contains("the required task \"c\""), "{}", messages(&report));
}

#[test]
fn failed_direct_change_that_continues_keeps_the_inventory_complete() {
    let text = CONTINUES.lines().take(4).collect::<Vec<_>>().join("\n");
    let mut world = World::differs(&["a"]).fails(&["a"]);
    let report = world.run(&book(&text), RunMode::NewRevision);
    assert_eq!(outcomes(&report), ["a failed", "b unchanged"]);
    assert_eq!(report.managed.map(|managed| managed.len()), Some(2));
}

#[test]
fn failed_file_that_continues_makes_the_inventory_incomplete() {
    let text = TWO.replace("content: x}}", "content: x}, onFailure: continue}");
    let mut world = World::differs(&["a"]).fails(&["a"]);
    let report = world.run(&book(&text), RunMode::NewRevision);
    assert_eq!(outcomes(&report), ["a failed", "b unchanged"]);
    assert_eq!(report.managed, None);
}

#[test]
fn requirement_of_a_held_task_is_not_met() {
    let mut world = World::default();
    world.held.insert("a".into());
    let report = world.run(&book(CONTINUES), RunMode::NewRevision);
    assert_eq!(outcomes(&report), ["a held", "b unchanged", "c skipped", "d skipped"]);
}

#[test]
fn missing_input_holds_the_task_and_ends_the_book() {
    let mut world = World::differs(&["b"]);
    world.held.insert("a".into());
    let report = world.run(&book(TWO), RunMode::NewRevision);
    assert_eq!(world.log, ["record [] observed 0"]);
    assert_eq!(outcomes(&report), ["a held"]);
    assert!(report.gates.is_empty());
    assert_eq!(report.worst(), Outcome::Held);
}

#[test]
fn requirement_carries_out_the_changes_that_wait() {
    let text = r#"
tasks:
  - {name: a, file: {path: /a, content: x}}
  - {name: b, file: {path: /b, content: x}, requires: [a]}
"#;
    let mut world = World::differs(&["a", "b"]);
    world.run(&book(text), RunMode::NewRevision);
    assert_eq!(
        world.log[..6],
        ["check a", "admit correct", "apply files a", "check b", "admit correct began", "apply files b"]
    );
}

#[test]
fn file_below_a_waiting_one_is_checked_after_it_is_written() {
    let text = r#"
tasks:
  - {name: a, file: {path: /etc/app, state: directory}}
  - {name: b, file: {path: /etc/app/b, content: x}}
  - {name: c, file: {path: /etc/appendix, content: x}}
"#;
    let mut world = World::differs(&["a", "b", "c"]);
    world.run(&book(text), RunMode::NewRevision);
    assert_eq!(world.log[1..4], ["admit correct", "apply files a", "check b"]);
    assert_eq!(world.log[4..], ["check c", "admit correct began", "apply files b c", "record [a b c] observed 0"]);
}

#[test]
fn change_that_does_more_than_write_is_made_alone() {
    let mut world = World::differs(&["a", "b"]);
    world.rough.insert("b".into());
    world.run(&book(TWO), RunMode::NewRevision);
    assert_eq!(
        world.log[..6],
        ["check a", "check b", "admit correct", "apply files a", "admit correct began", "apply files b"]
    );
}

#[test]
fn quiet_change_counts_as_unchanged() {
    let mut world = World::differs(&["a"]);
    world.quiet.insert("a".into());
    let report = world.run(&book(TWO), RunMode::NewRevision);
    assert_eq!(outcomes(&report), ["a unchanged", "b unchanged"]);
    assert!(!report.steady);
}

#[test]
fn direct_change_follows_the_files_that_wait() {
    let text = r#"
tasks:
  - {name: a, file: {path: /a, content: x}}
  - {name: s, service: {name: s, state: started}}
"#;
    let mut world = World::differs(&["a", "s"]);
    world.run(&book(text), RunMode::NewRevision);
    assert_eq!(
        world.log[..6],
        ["check a", "admit correct", "apply files a", "check s", "admit correct began", "apply direct s"]
    );
}

const PACKAGES: &str = r#"
tasks:
  - {name: p, package: {name: p}}
  - {name: q, package: {name: q}}
  - {name: a, file: {path: /a, content: x}}
"#;

#[test]
fn adjacent_packages_are_one_transaction() {
    let mut world = World::differs(&["p", "q", "a"]);
    let report = world.run(&book(PACKAGES), RunMode::NewRevision);
    assert_eq!(world.log[..4], ["check p", "check q", "admit correct", "apply direct p q"]);
    assert_eq!(world.log[4..], ["check a", "admit correct began", "apply files a", "record [a p q] observed 0"]);
    assert_eq!(outcomes(&report), ["p changed", "q changed", "a changed"]);
}

#[test]
fn package_that_evaluates_its_result_joins_no_transaction() {
    for more in ["register: r", "success: result.changed", "changed: result.changed"] {
        let text = PACKAGES.replace("package: {name: q}", &format!("package: {{name: q}}, {more}"));
        let mut world = World::differs(&["p", "q"]);
        world.run(&book(&text), RunMode::NewRevision);
        assert_eq!(world.log[3], "apply direct p", "{more}");
        assert_eq!(world.log[5], "apply direct q", "{more}");
    }
}

#[test]
fn package_that_fails_in_a_transaction_ends_the_book() {
    let mut world = World::differs(&["p", "q", "a"]).fails(&["p"]);
    world.left.insert("q".into());
    let report = world.run(&book(PACKAGES), RunMode::NewRevision);
    assert_eq!(outcomes(&report), ["p failed"]);
    assert_eq!(report.managed, None);
}

#[test]
fn change_that_was_not_begun_is_dropped_from_the_report() {
    let mut world = World::differs(&["p", "q"]);
    world.left.insert("q".into());
    let report = world.run(&book(PACKAGES), RunMode::NewRevision);
    assert_eq!(outcomes(&report), ["p changed"]);
    assert_eq!(report.managed, None);
}

#[test]
fn drift_under_report_is_shown_with_its_diff_and_left() {
    let mut world = World::drifted(&["a"]);
    world.drift = Some(Drift::Report);
    let report = world.run(&book(TWO), RunMode::Steady);
    assert_eq!(world.log, ["check a", "check b", "record [a b] observed 1"]);
    assert_eq!(outcomes(&report), ["a unchanged", "b unchanged"]);
    assert!(report.tasks[0].origin == crate::Origin::Drift && report.tasks[0].message.is_some());
    assert_eq!((report.tasks[0].action, report.tasks[0].diff.as_deref()), ("none", Some("-a\n+b\n")));
    assert!(!report.steady);
}

#[test]
fn drift_under_ignore_has_no_message() {
    let mut world = World::drifted(&["a"]);
    world.drift = Some(Drift::Ignore);
    let report = world.run(&book(TWO), RunMode::Steady);
    assert!(report.tasks[0].origin == crate::Origin::Drift && report.tasks[0].message.is_none());
}

#[test]
fn policy_of_a_task_outweighs_that_of_the_run() {
    let text = TWO.replacen("content: x}}", "content: x}, drift: correct}", 1);
    let mut world = World::drifted(&["a", "b"]);
    world.drift = Some(Drift::Ignore);
    let report = world.run(&book(&text), RunMode::Steady);
    assert_eq!(outcomes(&report), ["a changed", "b unchanged"]);
}

#[test]
fn drift_of_a_registered_file_registers_the_result() {
    let text = TWO.replacen("content: x}}", "content: x}, register: r}", 1);
    let mut world = World::drifted(&["a"]);
    world.drift = Some(Drift::Report);
    world.run(&book(&text), RunMode::Steady);
    assert_eq!(world.registered["r"], json!({"changed": false, "outcome": "unchanged"}));
}

#[test]
fn input_that_changed_is_applied_without_admission() {
    let mut world = World::differs(&["a"]).last("a", LastRun::default());
    let report = world.run(&book(TWO), RunMode::Steady);
    assert_eq!(world.log[2], "apply files a");
    assert!(report.tasks[0].origin == crate::Origin::Task && report.tasks[0].message.is_some());
}

#[test]
fn drift_of_a_service_takes_admission() {
    let mut world = World::drifted(&["s"]);
    let report = world.run(&book(SERVICE), RunMode::Steady);
    assert_eq!(world.log[..3], ["check s", "admit correct", "apply direct s"]);
    assert!(report.tasks[0].origin == crate::Origin::Drift);
}

#[test]
fn registered_result_of_a_change_is_there_for_the_next_task() {
    let text = r#"
tasks:
  - {name: a, file: {path: /a, content: x}, register: r}
  - {name: b, file: {path: /b, content: x}}
"#;
    let mut world = World::differs(&["a"]);
    world.needs.insert("b".into(), "r".into());
    let report = world.run(&book(text), RunMode::NewRevision);
    assert_eq!(outcomes(&report), ["a changed", "b unchanged"]);
    assert_eq!(world.registered["r"], json!({"changed": true, "outcome": "changed"}));
}

#[test]
fn result_that_is_missing_fails_the_task() {
    let mut world = World::differs(&["a"]);
    world.needs.insert("b".into(), "r".into());
    let report = world.run(&book(TWO), RunMode::NewRevision);
    assert_eq!(outcomes(&report), ["a changed", "b failed"]);
    assert_eq!(report.managed, None);
}

#[test]
fn result_that_is_missing_carries_out_the_changes_that_wait() {
    let mut world = World::differs(&["a"]);
    world.needs.insert("b".into(), "r".into());
    world.run(&book(TWO), RunMode::NewRevision);
    assert_eq!(world.log, ["check a", "admit correct", "apply files a", "record [a] observed 0"]);
}

#[test]
fn task_does_not_run_after_a_change_that_waited_has_failed() {
    // The first rendering fails, and the second one would succeed.
    let text = r#"
tasks:
  - {name: a, file: {path: /a, content: x}}
  - {name: b, file: {path: /b, content: x}}
"#;
    let mut world = World::differs(&["a", "b"]).fails(&["a"]);
    world.needs.insert("b".into(), "r".into());
    world.registers_on_failure = Some("r");
    let report = world.run(&book(text), RunMode::NewRevision);
    assert_eq!(outcomes(&report), ["a failed"]);
    assert!(!world.log.contains(&"check b".to_owned()), "{:?}", world.log);
}

#[test]
fn result_is_missing_in_a_dry_run_and_the_task_is_unknown() {
    let text = TWO.replacen("content: x}}", "content: x}, register: r}", 1);
    let mut world = World::differs(&["a"]).dry();
    world.needs.insert("b".into(), "r".into());
    let report = world.run(&book(&text), RunMode::NewRevision);
    assert_eq!(outcomes(&report), ["a unchanged", "b unknown"]);
    assert_eq!(report.tasks[0].action, "update");
}

#[test]
fn registered_data_rules_out_the_steady_state() {
    let text = TWO.replacen("content: x}}", "content: x}, register: r}", 1);
    let mut world = World::default().last("a", applied()).last("b", applied());
    world.data.insert("a".into(), json!({"id": 7}));
    let report = world.run(&book(&text), RunMode::Steady);
    assert!(!report.steady);
    assert_eq!(world.registered["r"]["data"], json!({"id": 7}));
}

#[test]
fn data_that_is_not_registered_allows_the_steady_state() {
    let mut world = World::default().last("a", applied()).last("b", applied());
    world.data.insert("a".into(), json!({"id": 7}));
    assert!(world.run(&book(TWO), RunMode::Steady).steady);
}

#[test]
fn dry_run_continues_after_a_failure_and_shows_all_changes() {
    let mut world = World::differs(&["b"]).dry();
    world.check_fails.insert("a".into());
    let report = world.run(&book(TWO), RunMode::NewRevision);
    assert_eq!(outcomes(&report), ["a failed", "b unchanged"]);
    assert_eq!(report.tasks[1].action, "update");
    assert_eq!(report.tasks[1].message, None);
}

#[test]
fn dry_run_shows_a_held_task_and_continues() {
    let mut world = World::differs(&["b"]).dry();
    world.held.insert("a".into());
    let report = world.run(&book(TWO), RunMode::NewRevision);
    assert_eq!(outcomes(&report), ["a held", "b unchanged"]);
}

const THREE: &str = r#"
order: parallel
tasks:
  - {name: a, file: {path: /a, content: x}}
  - {name: b, service: {name: b, state: started}}
  - {name: c, file: {path: /c, content: x}, requires: [b]}
"#;

#[test]
fn parallel_book_gives_several_commands_at_once() {
    let mut world = World::differs(&["a", "b", "c"]);
    let report = world.run(&book(THREE), RunMode::NewRevision);
    assert_eq!(world.at_once, 2);
    assert_eq!(outcomes(&report), ["a changed", "b changed", "c changed"]);
    let position = |text: &str| world.log.iter().position(|line| line == text).unwrap();
    assert!(position("check b") < position("apply files a"), "{:?}", world.log);
    assert!(position("apply direct b") < position("check c"), "{:?}", world.log);
}

#[test]
fn parallel_task_that_fails_ends_the_book_after_its_wave() {
    let mut world = World::differs(&["a", "b", "c"]).fails(&["b"]);
    let report = world.run(&book(THREE), RunMode::NewRevision);
    assert_eq!(outcomes(&report), ["a changed", "b failed"]);
    assert_eq!(report.managed, None);
}

#[test]
fn parallel_task_that_fails_and_continues_skips_those_that_require_it() {
    let text = THREE.replace("state: started}", "state: started}, onFailure: continue");
    let mut world = World::differs(&["a", "b", "c"]).fails(&["b"]);
    let report = world.run(&book(&text), RunMode::NewRevision);
    assert_eq!(outcomes(&report), ["a changed", "b failed", "c skipped"]);
}

#[test]
fn wave_beyond_the_limit_runs_in_parts() {
    let tasks = |count: usize| {
        (0..count).map(|at| format!("  - {{name: t{at}, file: {{path: /t{at}, content: x}}}}\n")).collect::<String>()
    };
    let mut world = World::default();
    let report = world.run(&book(&format!("order: parallel\ntasks:\n{}", tasks(20))), RunMode::Steady);
    assert_eq!(world.at_once, 16);
    assert_eq!(report.tasks.len(), 20);
}

#[test]
fn preempted_wave_does_not_begin_its_next_part() {
    let tasks = (0..20).map(|at| format!("  - {{name: t{at}, file: {{path: /t{at}, content: x}}}}\n"));
    let text = format!("order: parallel\ntasks:\n{}", tasks.collect::<String>());
    let mut world = World::default().preempted_after("check t3");
    let report = world.run(&book(&text), RunMode::Steady);
    assert!(report.preempted);
    assert_eq!(outcomes(&report).len(), 16);
}

#[test]
fn preempted_book_ends_before_its_next_task() {
    let mut world = World::default().preempted_after("check a");
    let report = world.run(&book(TWO), RunMode::Steady);
    assert_eq!(world.log, ["check a", "record [a] observed 1"]);
    assert!(report.preempted && !report.steady);
    assert_eq!(report.managed, None);
}

#[test]
fn preempted_book_writes_the_files_that_wait() {
    let mut world = World::differs(&["a", "b"]).preempted_after("check a");
    let report = world.run(&book(TWO), RunMode::NewRevision);
    assert_eq!(world.log, ["check a", "admit correct", "apply files a", "record [a] observed 0"]);
    assert_eq!(outcomes(&report), ["a changed"]);
}

#[test]
fn task_that_cannot_be_rendered_fails_beside_the_direct_changes_that_wait() {
    let failed = Observation::Rendered(Err(crate::command::NotReady::failed("a division by zero")));
    let mut world = World::differs(&["p"]).fails(&["p"]).answer("render q", failed);
    let report = world.run(&book(PACKAGES), RunMode::NewRevision);
    assert_eq!(outcomes(&report), ["p failed", "q failed"]);
}

#[test]
fn preempted_book_drops_the_direct_changes_that_wait() {
    let mut world = World::differs(&["p", "q"]).preempted_after("check p");
    let report = world.run(&book(PACKAGES), RunMode::NewRevision);
    assert_eq!(world.log, ["check p", "record [p] observed 0"]);
    assert!(outcomes(&report).is_empty() && report.preempted);
}

#[test]
fn preempted_book_runs_no_handler() {
    let text = format!("{TWO}handlers:\n  - {{name: h, command: {{argv: [x]}}}}\n");
    let mut world = World::default().preempted_after("check b").pending(&["h"]);
    let report = world.run(&book(&text), RunMode::Steady);
    // The preemption comes after the last task, so the book ends as usual.
    assert_eq!(outcomes(&report), ["a unchanged", "b unchanged", "h changed"]);
    let mut world = World::default().preempted_after("check a").pending(&["h"]);
    assert_eq!(outcomes(&world.run(&book(&text), RunMode::Steady)), ["a unchanged"]);
}

/// Returns the names and messages of the tasks that were not run.
fn unrun(report: &crate::BookReport) -> Vec<String> {
    let rest = report.tasks.iter().filter(|task| task.origin == crate::Origin::NotRun);
    rest.map(|task| format!("{} {}", task.name, task.message.as_deref().unwrap_or_default())).collect()
}

#[test]
fn task_after_a_failed_one_is_reported_as_not_run() {
    let report = World::differs(&["a", "b"]).fails(&["a"]).run(&book(STOPS), RunMode::NewRevision);
    assert_eq!(unrun(&report), ["b not run: task \"a\" failed"]);
}

#[test]
fn task_after_a_closed_gate_is_reported_as_held_and_not_run() {
    let mut world = World::differs(&["a", "b"]).gates(&[Some("Window")]);
    let report = world.run(&book(STOPS), RunMode::NewRevision);
    assert_eq!(unrun(&report), ["b not run: the book is held (Window)"]);
    assert_eq!(report.tasks[1].outcome, Outcome::Held);
}

#[test]
fn task_after_a_preemption_is_reported_as_not_run() {
    let mut world = World::differs(&["a", "b"]).preempted_after("action a");
    let report = world.run(&book(STOPS), RunMode::NewRevision);
    assert_eq!(unrun(&report), ["b not run: the pass was interrupted"]);
}

#[test]
fn dry_run_reports_no_task_as_not_run() {
    let report = World::differs(&["a", "b"]).fails(&["a"]).dry().run(&book(STOPS), RunMode::NewRevision);
    assert!(unrun(&report).is_empty());
}

const STOPS: &str = "tasks:\n  - {name: a, command: {argv: [a]}}\n  - {name: b, command: {argv: [b]}}\n";
