use towpath_coordination::{Gate, GateReason};

use super::*;
use crate::run::testing::book;

const TWO: &str = "tasks:\n  - {name: a, debug: {message: x}}\n  - {name: b, debug: {message: x}}\n";

fn rest(so_far: &[TaskReport], gates: &[Gate]) -> Vec<(String, Outcome, String)> {
    let rest = unrun(&book(TWO), |task| task.id == "a", so_far, gates);
    assert!(rest.iter().all(|report| report.origin == Origin::NotRun));
    rest.into_iter().map(|report| (report.name, report.outcome, report.message.unwrap_or_default())).collect()
}

fn b(outcome: Outcome, message: &str) -> Vec<(String, Outcome, String)> {
    vec![("b".to_owned(), outcome, message.to_owned())]
}

#[test]
fn task_after_a_failed_one_is_skipped_and_names_it() {
    let failed = [TaskReport::new("a", "debug", Outcome::Failed)];
    assert_eq!(rest(&failed, &[]), b(Outcome::Skipped, "not run: task \"a\" failed"));
}

#[test]
fn task_after_a_held_one_is_skipped_and_names_it() {
    let held = [TaskReport::new("a", "debug", Outcome::Held)];
    assert_eq!(rest(&held, &[]), b(Outcome::Skipped, "not run: task \"a\" is held"));
}

#[test]
fn task_of_a_book_at_a_closed_gate_is_held_and_names_the_gate() {
    let gates = [Gate::new(GateReason::Slot, "waiting for n2"), Gate::new(GateReason::Window, "later")];
    assert_eq!(rest(&[], &gates), b(Outcome::Held, "not run: the book is held (Slot)"));
}

#[test]
fn task_of_an_interrupted_pass_is_skipped() {
    assert_eq!(rest(&[], &[]), b(Outcome::Skipped, "not run: the pass was interrupted"));
}
