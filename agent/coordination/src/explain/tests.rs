//! Tests of the explanations of runs with four nodes.

use std::collections::{BTreeMap, BTreeSet};

use super::{rollout::Observed, *};
use crate::rollout::{Cut, Entry, Queued, RecoveryEpoch, SlotNote, SlotRecord};

fn accepted(generation: u64) -> AcceptedId {
    AcceptedId { generation, digest: "d".into() }
}

fn spec(on_lost: OnLost) -> RolloutSpec {
    let nodes = ["a", "b", "c", "d"].map(str::to_owned);
    RolloutSpec {
        book: "n/b".into(),
        budget: "n/b".into(),
        run: "n/b@1.d".into(),
        accepted: accepted(1),
        members: nodes.clone().map(|node| (node, 0)).into(),
        known: nodes.to_vec(),
        count: Some(1),
        max_failures: 0,
        waves: 1,
        on_lost,
        ..RolloutSpec::default()
    }
}

fn entry(node: &str, kind: SlotState) -> SlotEntry {
    let held = SlotRecord { kind, run: "n/b@1.d".into(), segment: 0, accepted: accepted(1), lost: false, absent: 0 };
    let note = SlotNote { at: Some(1_000), message: (kind == SlotState::Failure).then(|| "it broke".into()) };
    SlotEntry { node: node.into(), partition: "-".into(), book: "n/b".into(), held, modified: 1, note }
}

/// Returns the gates of a run from its slot records, its waiting nodes, the nodes that have voted, and the lost nodes.
fn gates(spec: &RolloutSpec, held: &[SlotEntry], waiting: &[&str], done: &[&str], lost: &[&str]) -> Vec<Gate> {
    let specs = [spec];
    report(&observed(&specs, held, waiting, done, lost)).blocked
}

/// Returns the gates of a run without slot records whose observation is changed.
fn gates_with(spec: &RolloutSpec, lost: &[&str], change: impl FnOnce(&mut Observed<'_>)) -> Vec<Gate> {
    let specs = [spec];
    let mut observed = observed(&specs, &[], &[], &[], lost);
    change(&mut observed);
    report(&observed).blocked
}

/// The published states of no node.
static NO_REPORTS: BTreeMap<String, NodeReport> = BTreeMap::new();

fn observed<'a>(
    specs: &'a [&'a RolloutSpec; 1],
    held: &[SlotEntry],
    waiting: &[&str],
    done: &[&str],
    lost: &[&str],
) -> Observed<'a> {
    let spec = specs[0];
    let names: BTreeSet<String> = done.iter().map(|node| (*node).to_owned()).collect();
    let snapshot = RunSnapshot {
        accepted: Some((accepted(1), 1)),
        votes: vec![done.len() as u64; spec.segments() as usize],
        names: Some((0, names)),
        ..RunSnapshot::default()
    };
    let queued = || Queued { run: "n/b@1.d".into(), segment: 0, accepted: accepted(1) };
    let queue = waiting.iter().map(|node| {
        let (node, partition, book) = ((*node).to_owned(), "-".to_owned(), "n/b".to_owned());
        (
            0,
            Entry {
                node,
                partition,
                book,
                queued: queued(),
                modified: 1,
                note: SlotNote { at: Some(3_000), message: None },
            },
        )
    });
    let word = |node: &&str| Liveness {
        word: if lost.contains(node) { "lost" } else { "alive" },
        lost_since: lost.contains(node).then_some(2_000),
    };
    Observed {
        specs,
        snapshot,
        held: held.iter().map(|held| (0, held.clone())).collect(),
        queue: queue.collect(),
        opened: None,
        elected: Vec::new(),
        liveness: ["a", "b", "c", "d"].iter().map(|node| ((*node).to_owned(), word(node))).collect(),
        reports: &NO_REPORTS,
        rejected: BTreeMap::new(),
        hidden: Some(4_000),
        behind: Some(5_000),
        accepted: Some(6_000),
    }
}

fn reasons(gates: &[Gate]) -> Vec<&str> {
    gates.iter().map(|gate| gate.reason.name()).collect()
}

/// Returns the number of gates that explain the loss of a node, by the time of the loss or by the remedy.
fn explanations(gates: &[Gate], node: &str) -> usize {
    let action = |gate: &Gate| gate.action.as_ref().is_some_and(|action| action.contains(&format!("Start {node}")));
    gates.iter().filter(|gate| action(gate) || gate.opens.contains("lost since")).count()
}

#[test]
fn failed_node_is_not_among_those_that_have_completed_the_wave() {
    let found = gates(&spec(OnLost::Hold), &[entry("a", SlotState::Failure)], &[], &["b"], &[]);
    assert_eq!(reasons(&found), ["Budget", "Wave"]);
    let opens = &found[1].opens;
    assert!(opens.starts_with("waiting for c, d to complete"), "{opens}");
    assert!(opens.contains("(1 of 4 nodes have; failed: a)"), "{opens}");
}

#[test]
fn failed_node_is_not_among_those_that_have_arrived_at_a_barrier() {
    let spec = RolloutSpec { cuts: vec![Cut::Barrier], max_failures: 1, ..spec(OnLost::Hold) };
    let found = gates(&spec, &[entry("a", SlotState::Failure)], &[], &["b", "c"], &[]);
    assert_eq!(reasons(&found), ["Barrier"]);
    assert!(found[0].opens.contains("(2 of 4 nodes have arrived: missing d; failed: a)"), "{}", found[0].opens);
}

#[test]
fn node_that_was_written_off_is_named_as_lost() {
    let found = gates(&spec(OnLost::Skip), &[entry("a", SlotState::WrittenOff)], &[], &["b"], &["a"]);
    assert!(found[0].opens.contains("(1 of 4 nodes have; lost: a)"), "{}", found[0].opens);
}

#[test]
fn waiting_node_counts_no_failed_node_in_its_wave() {
    let spec = RolloutSpec {
        members: [("a", 0), ("b", 0), ("c", 1), ("d", 1)].map(|(node, wave)| (node.to_owned(), wave)).into(),
        waves: 2,
        max_failures: 1,
        ..spec(OnLost::Hold)
    };
    let snapshot = RunSnapshot {
        held: vec![entry("a", SlotState::Failure)],
        votes: vec![0],
        names: Some((0, BTreeSet::new())),
        ..RunSnapshot::default()
    };
    let situation = Situation { spec: &spec, snapshot: &snapshot, lost: &BTreeMap::new() };
    let gate = closed_gate(situation, "c", Some(0), BlockReason::Wave);
    assert!(gate.opens.contains("(0 of 2 nodes have completed it: missing b; failed: a)"), "{}", gate.opens);
}

#[test]
fn lost_holder_is_explained_once() {
    for on_lost in [OnLost::Hold, OnLost::Fail] {
        // The nodes b and c wait for the slot of the lost node, or no node waits for a slot.
        for waiting in [&["b", "c"][..], &[]] {
            let found = gates(&spec(on_lost), &[entry("a", SlotState::Claim)], waiting, &["d"], &["a"]);
            assert_eq!(explanations(&found, "a"), 1, "{on_lost:?} {waiting:?} {found:#?}");
            assert!(found.iter().any(|gate| gate.action.as_deref() == Some("Start a, or remove it from git")));
        }
    }
}

#[test]
fn lost_node_that_has_failed_is_explained_once_in_a_halted_run() {
    let found = gates(&spec(OnLost::Hold), &[entry("a", SlotState::Failure)], &["b"], &[], &["a"]);
    assert_eq!(explanations(&found, "a"), 1, "{found:#?}");
    // No node acquires a slot while the run is halted, so the free slot is not a reason.
    assert_eq!(reasons(&found), ["Budget", "Wave"]);
}

#[test]
fn lost_holder_beyond_the_write_offs_is_explained_once() {
    let spec = spec(OnLost::Skip);
    let held = [entry("d", SlotState::WrittenOff), entry("a", SlotState::Claim)];
    let found = gates(&spec, &held, &["b"], &["c"], &["a"]);
    assert!(found[0].opens.contains("the run is halted: a (lost since"), "{found:#?}");
    let others = found.iter().skip(1).filter(|gate| gate.action.is_some()).count();
    assert_eq!(others, 0, "{found:#?}");
}

#[test]
fn lost_member_without_a_slot_keeps_an_explanation_of_its_own() {
    let found = gates(&spec(OnLost::Hold), &[entry("a", SlotState::Claim)], &["c"], &["d"], &["a", "b"]);
    assert_eq!(explanations(&found, "b"), 2, "one for each node: {found:#?}");
    let own = found.iter().find(|gate| gate.opens.starts_with("waiting for b, lost since")).unwrap();
    assert_eq!(own.action.as_deref(), Some("Start b, or remove it from git"));
}

#[test]
fn every_gate_of_a_run_states_the_time_since_which_it_is_closed() {
    let spec = spec(OnLost::Hold);
    let claim = [entry("a", SlotState::Claim)];
    let restored = |observed: &mut Observed<'_>| {
        let epoch = RecoveryEpoch { id: "1".into(), by: "b".into(), at: Some(7_000) };
        observed.snapshot.recovery = Some((epoch, 1));
    };
    let elected = |observed: &mut Observed<'_>| {
        observed.elected = vec![OpenElection { task: "t".into(), node: "b".into(), since: Some(8_000) }];
    };
    let cases: [(&str, i64, Vec<Gate>); 9] = [
        ("waiting for a slot of book n/b (held by", 1_000, gates(&spec, &claim, &["b"], &[], &[])),
        ("first in the queue", 3_000, gates(&spec, &[], &["b"], &[], &[])),
        ("to complete wave 1 of 1", 6_000, gates(&spec, &[], &[], &["a"], &[])),
        ("lost since", 2_000, gates(&spec, &[], &[], &[], &["d"])),
        ("restored from a backup", 7_000, gates_with(&spec, &[], restored)),
        ("elected task", 8_000, gates_with(&spec, &[], elected)),
        (
            "which the data store does not contain",
            5_000,
            gates_with(&spec, &[], |observed| observed.snapshot.accepted = None),
        ),
        (
            "a slot that gossip reports",
            4_000,
            gates_with(&spec, &[], |observed| {
                observed.snapshot.hidden_claims = ["a".to_owned()].into();
            }),
        ),
        (
            "is rejected and counts as lost",
            2_000,
            gates_with(&spec, &["d"], |observed| {
                observed.rejected = [("d".to_owned(), Vec::new())].into();
            }),
        ),
    ];
    for (text, since, found) in &cases {
        let gate = found.iter().find(|gate| gate.opens.contains(text)).unwrap_or_else(|| panic!("{text}: {found:#?}"));
        assert_eq!(gate.since, Some(*since), "{gate:#?}");
        assert!(found.iter().all(|gate| gate.since.is_some()), "{found:#?}");
    }
}

#[test]
fn gate_of_a_node_that_loads_the_revision_states_when_the_revision_was_accepted() {
    let reports = BTreeMap::from([("d".to_owned(), NodeReport { accepted: AcceptedId::default(), gates: Vec::new() })]);
    let spec = spec(OnLost::Hold);
    let specs = [&spec];
    let found = report(&Observed { reports: &reports, ..observed(&specs, &[], &[], &[], &[]) }).blocked;
    let gate = found.iter().find(|gate| gate.opens.contains("to load generation 1")).unwrap();
    assert_eq!(gate.since, Some(6_000));
}

#[test]
fn halt_by_the_limit_of_write_offs_begins_with_the_later_of_loss_and_last_write_off() {
    let spec = spec(OnLost::Skip);
    for (last, since) in [(1_000, 2_000), (3_000, 3_000)] {
        let mut gone = entry("d", SlotState::WrittenOff);
        gone.note.at = Some(last);
        let found = gates(&spec, &[gone, entry("a", SlotState::Claim)], &[], &["c"], &["a"]);
        assert_eq!((found[0].reason, found[0].since), (GateReason::Budget, Some(since)), "{found:#?}");
    }
}

#[test]
fn other_acceptance_of_the_accepted_number_is_named_as_one() {
    let spec = spec(OnLost::Hold);
    for (accepted, shown) in [
        (accepted(2), "(this node has loaded generation 1)"),
        (AcceptedId { generation: 1, digest: "e".into() }, "(this node has loaded generation 1 with other content)"),
    ] {
        let snapshot = RunSnapshot { accepted: Some((accepted, 1)), ..RunSnapshot::default() };
        assert!(behind(&spec, &snapshot).opens.contains(shown), "{:?}", behind(&spec, &snapshot));
    }
}
