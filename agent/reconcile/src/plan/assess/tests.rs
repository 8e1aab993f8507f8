use super::*;

fn facts(kind: ModuleKind) -> Facts {
    Facts { kind, applies_directly: false, interrupts: false, managed: Vec::new(), path: None, batch: None }
}

fn direct() -> Facts {
    Facts { applies_directly: true, ..facts(ModuleKind::State) }
}

fn last(same_definition: bool, finished: bool) -> Option<LastRun> {
    Some(LastRun { same_definition, finished, ..LastRun::default() })
}

fn differs() -> Check {
    Check::Differs(Preview::default())
}

fn of(facts: &Facts, check: Check, last: Option<LastRun>, policy: Drift, mode: RunMode) -> Assessment {
    assess(facts, &Checked { check, last, shown: None }, policy, mode, false)
}

const KINDS: [ModuleKind; 4] =
    [ModuleKind::State, ModuleKind::Action, ModuleKind::ConditionalAction, ModuleKind::UnconditionalAction];
const POLICIES: [Drift; 3] = [Drift::Correct, Drift::Report, Drift::Ignore];
const MODES: [RunMode; 2] = [RunMode::NewRevision, RunMode::Steady];

/// Returns one last run for each state of a task that the journal can record.
fn journals() -> [Option<LastRun>; 5] {
    [None, last(false, false), last(true, false), last(false, true), last(true, true)]
}

/// Returns true if a predicate is true for every drift policy and every run mode.
fn always(holds: impl Fn(Drift, RunMode) -> bool) -> bool {
    POLICIES.iter().all(|policy| MODES.iter().all(|mode| holds(*policy, *mode)))
}

#[test]
fn failed_check_of_any_kind_is_a_failure() {
    for kind in KINDS {
        for journal in journals() {
            let why = Check::Failed("why".into());
            let failed = Assessment::Failed("why".into());
            assert!(always(|policy, mode| of(&facts(kind), why.clone(), journal.clone(), policy, mode) == failed));
        }
    }
}

#[test]
fn unknown_state_stays_unknown_with_any_record() {
    for journal in journals() {
        let unknown = Assessment::Unknown("why".into());
        let check = || Check::Unknown("why".into());
        let state = facts(ModuleKind::State);
        assert!(always(|policy, mode| of(&state, check(), journal.clone(), policy, mode) == unknown));
    }
}

#[test]
fn state_in_sync_without_a_record_is_recorded() {
    let state = facts(ModuleKind::State);
    let record = Assessment::InSync { record: true };
    assert!(always(|policy, mode| of(&state, Check::InSync(None), None, policy, mode) == record));
}

#[test]
fn state_in_sync_with_another_definition_is_recorded() {
    let state = facts(ModuleKind::State);
    let record = Assessment::InSync { record: true };
    assert!(always(|policy, mode| of(&state, Check::InSync(None), last(false, false), policy, mode) == record));
}

#[test]
fn state_in_sync_with_the_same_definition_is_not_recorded_again() {
    let state = facts(ModuleKind::State);
    let known = Assessment::InSync { record: false };
    assert!(always(|policy, mode| of(&state, Check::InSync(None), last(true, false), policy, mode) == known));
}

#[test]
fn state_that_differs_and_was_never_applied_is_a_change_of_the_commit() {
    let state = facts(ModuleKind::State);
    for mode in MODES {
        let found = of(&state, differs(), None, Drift::Correct, mode);
        assert!(matches!(found, Assessment::Change(Cause::Commit, _)), "{mode:?}: {found:?}");
    }
}

#[test]
fn state_with_a_new_definition_in_a_new_revision_is_a_change_of_the_commit() {
    let found = of(&facts(ModuleKind::State), differs(), last(false, false), Drift::Correct, RunMode::NewRevision);
    assert_eq!(found, Assessment::Change(Cause::Commit, Admission::SlotAndWindow));
}

#[test]
fn state_with_a_new_definition_in_the_same_revision_is_a_change_of_an_input() {
    let found = of(&facts(ModuleKind::State), differs(), last(false, false), Drift::Correct, RunMode::Steady);
    assert_eq!(found, Assessment::Change(Cause::Input, Admission::Free));
}

#[test]
fn state_with_the_applied_definition_is_drift_in_both_modes() {
    for mode in MODES {
        let found = of(&facts(ModuleKind::State), differs(), last(true, false), Drift::Correct, mode);
        assert!(matches!(found, Assessment::Change(Cause::Drift, _)), "{mode:?}: {found:?}");
    }
}

#[test]
fn drift_of_content_needs_no_admission() {
    let found = of(&facts(ModuleKind::State), differs(), last(true, false), Drift::Correct, RunMode::Steady);
    assert_eq!(found, Assessment::Change(Cause::Drift, Admission::Free));
}

#[test]
fn drift_of_a_direct_change_needs_slot_and_window() {
    let found = of(&direct(), differs(), last(true, false), Drift::Correct, RunMode::Steady);
    assert_eq!(found, Assessment::Change(Cause::Drift, Admission::SlotAndWindow));
}

#[test]
fn drift_of_an_interrupting_file_needs_slot_and_window() {
    let unit = Facts { interrupts: true, ..facts(ModuleKind::State) };
    let found = of(&unit, differs(), last(true, false), Drift::Correct, RunMode::Steady);
    assert_eq!(found, Assessment::Change(Cause::Drift, Admission::SlotAndWindow));
}

#[test]
fn input_of_a_direct_change_needs_slot_and_window() {
    let found = of(&direct(), differs(), last(false, false), Drift::Correct, RunMode::Steady);
    assert_eq!(found, Assessment::Change(Cause::Input, Admission::SlotAndWindow));
}

#[test]
fn change_of_content_in_a_new_revision_needs_slot_and_window() {
    for journal in [None, last(false, false), last(true, false)] {
        let found = of(&facts(ModuleKind::State), differs(), journal, Drift::Correct, RunMode::NewRevision);
        assert!(matches!(found, Assessment::Change(_, Admission::SlotAndWindow)), "{found:?}");
    }
}

#[test]
fn content_that_notifies_a_handler_needs_slot_and_window() {
    let checked = Checked { check: differs(), last: last(true, false), shown: None };
    let found = assess(&facts(ModuleKind::State), &checked, Drift::Correct, RunMode::Steady, true);
    assert_eq!(found, Assessment::Change(Cause::Drift, Admission::SlotAndWindow));
}

#[test]
fn quiet_content_that_notifies_no_handler_needs_no_admission() {
    let check = Check::Differs(Preview { quiet: true, ..Preview::default() });
    let checked = Checked { check, last: last(true, false), shown: None };
    let found = assess(&facts(ModuleKind::State), &checked, Drift::Correct, RunMode::Steady, true);
    assert_eq!(found, Assessment::Change(Cause::Drift, Admission::Free));
}

#[test]
fn quiet_direct_change_still_needs_slot_and_window() {
    let check = Check::Differs(Preview { quiet: true, ..Preview::default() });
    let found = of(&direct(), check, last(true, false), Drift::Correct, RunMode::Steady);
    assert_eq!(found, Assessment::Change(Cause::Drift, Admission::SlotAndWindow));
}

#[test]
fn drift_under_report_is_left_and_reported() {
    for mode in MODES {
        let found = of(&facts(ModuleKind::State), differs(), last(true, false), Drift::Report, mode);
        assert_eq!(found, Assessment::Left(true));
        assert_eq!(of(&direct(), differs(), last(true, false), Drift::Report, mode), Assessment::Left(true));
    }
}

#[test]
fn drift_under_ignore_is_left_and_not_reported() {
    for mode in MODES {
        let found = of(&facts(ModuleKind::State), differs(), last(true, false), Drift::Ignore, mode);
        assert_eq!(found, Assessment::Left(false));
    }
}

#[test]
fn policy_leaves_neither_commits_nor_inputs() {
    for policy in POLICIES {
        for journal in [None, last(false, false)] {
            for mode in MODES {
                let found = of(&facts(ModuleKind::State), differs(), journal.clone(), policy, mode);
                assert!(matches!(found, Assessment::Change(Cause::Commit | Cause::Input, _)), "{found:?}");
            }
        }
    }
}

#[test]
fn action_without_a_finished_run_runs() {
    let action = facts(ModuleKind::Action);
    for journal in [None, last(false, false), last(true, false)] {
        for check in [differs(), Check::InSync(None), Check::Unknown("why".into())] {
            let of = |policy, mode| of(&action, check.clone(), journal.clone(), policy, mode);
            assert!(always(|policy, mode| of(policy, mode) == Assessment::Run));
        }
    }
}

#[test]
fn finished_action_does_not_run_again() {
    let action = facts(ModuleKind::Action);
    for check in [differs(), Check::InSync(None), Check::Unknown("why".into())] {
        let of = |policy, mode| of(&action, check.clone(), last(true, true), policy, mode);
        assert!(always(|policy, mode| of(policy, mode) == Assessment::InSync { record: false }));
    }
}

#[test]
fn conditional_action_in_sync_does_not_run() {
    let action = facts(ModuleKind::ConditionalAction);
    for journal in journals() {
        let of = |policy, mode| of(&action, Check::InSync(None), journal.clone(), policy, mode);
        assert!(always(|policy, mode| of(policy, mode) == Assessment::InSync { record: false }));
    }
}

#[test]
fn conditional_action_that_never_finished_runs_under_each_policy() {
    let action = facts(ModuleKind::ConditionalAction);
    for journal in [None, last(true, false)] {
        let of = |policy, mode| of(&action, differs(), journal.clone(), policy, mode);
        assert!(always(|policy, mode| of(policy, mode) == Assessment::Run));
    }
}

#[test]
fn conditional_action_that_has_finished_runs_again_under_correct() {
    let action = facts(ModuleKind::ConditionalAction);
    for mode in MODES {
        assert_eq!(of(&action, differs(), last(true, true), Drift::Correct, mode), Assessment::Run);
    }
}

#[test]
fn conditional_action_that_has_finished_is_left_under_other_policies() {
    let action = facts(ModuleKind::ConditionalAction);
    for mode in MODES {
        assert_eq!(of(&action, differs(), last(true, true), Drift::Report, mode), Assessment::Left(true));
        assert_eq!(of(&action, differs(), last(true, true), Drift::Ignore, mode), Assessment::Left(false));
    }
}

#[test]
fn conditional_action_with_an_unknown_check_runs() {
    let action = facts(ModuleKind::ConditionalAction);
    let found = of(&action, Check::Unknown("why".into()), None, Drift::Correct, RunMode::Steady);
    assert_eq!(found, Assessment::Run);
}

#[test]
fn unconditional_action_runs_in_every_pass() {
    let action = facts(ModuleKind::UnconditionalAction);
    for journal in journals() {
        let of = |policy, mode| of(&action, differs(), journal.clone(), policy, mode);
        assert!(always(|policy, mode| of(policy, mode) == Assessment::Run));
    }
}

#[test]
fn unconditional_action_whose_conditions_hold_does_not_run() {
    let action = facts(ModuleKind::UnconditionalAction);
    let found = of(&action, Check::InSync(None), last(true, true), Drift::Correct, RunMode::Steady);
    assert_eq!(found, Assessment::InSync { record: false });
}
