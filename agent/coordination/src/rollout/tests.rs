//! Tests of runs in which a few nodes decide about one store in memory: failures, lost nodes, and many segments.

use super::*;
use crate::{
    accept::Accepted,
    keys,
    store::{Op, memory::Memory},
};
use slots::bytes;

const NODES: [&str; 4] = ["a", "b", "c", "d"];

/// Returns an acceptance record. Records of one number differ in their commit.
pub(super) fn record(generation: u64, commit: &str) -> Accepted {
    let commits = [("fleet".to_owned(), commit.to_owned())].into();
    Accepted { schema: 1, generation, commits, ..Accepted::default() }
}

/// Returns the spec of a run with four nodes.
pub(super) fn spec(generation: u64, count: Option<u64>, max_failures: u64) -> RolloutSpec {
    let nodes = NODES.map(str::to_owned);
    RolloutSpec {
        book: "n/b".into(),
        budget: "n/b".into(),
        run: "n/b@1".into(),
        accepted: record(generation, "").id(),
        members: nodes.clone().map(|node| (node, 0)).into(),
        known: nodes.to_vec(),
        count,
        max_failures,
        waves: 1,
        ..RolloutSpec::default()
    }
}

/// Returns the spec of a run with the nodes a and b.
fn of_two(count: Option<u64>, max_failures: u64) -> RolloutSpec {
    let nodes = ["a", "b"].map(str::to_owned);
    let members = nodes.clone().map(|node| (node, 0)).into();
    RolloutSpec { members, known: nodes.to_vec(), ..spec(1, count, max_failures) }
}

/// A store in memory, in which the tests let several nodes decide.
pub(super) struct Fixture(pub(super) Memory);

impl Fixture {
    pub(super) fn new() -> Self {
        let mut fixture = Self(Memory::default());
        for node in NODES {
            fixture.put(&keys::alive(node), Vec::new());
        }
        fixture.accept(1);
        fixture
    }

    fn put(&mut self, key: &str, value: Vec<u8>) {
        self.0.apply(&Txn { then: vec![Op::put(key, value)], ..Txn::default() }).unwrap();
    }

    pub(super) fn accept(&mut self, generation: u64) {
        self.put(keys::ACCEPTED, bytes(&record(generation, "")));
    }

    pub(super) fn snapshot(&self, spec: &RolloutSpec, own_node: &str) -> RunSnapshot {
        look(spec, own_node, |txn| Ok::<_, ()>(self.0.peek(txn))).unwrap()
    }

    /// Repeats the request of a node until the decision is to continue or to wait. Returns true if the decision is to
    /// continue.
    pub(super) fn ask(&mut self, spec: &RolloutSpec, own_node: &str, request: Request) -> bool {
        for _ in 0..20 {
            match decide(spec, &self.snapshot(spec, own_node), own_node, request) {
                Decision::Go => return true,
                Decision::Wait(_) => return false,
                Decision::Commit(txn) => drop(self.0.apply(&txn).unwrap()),
            }
        }
        panic!("{own_node} does not come to an end with {request:?}");
    }

    /// Runs the maintenance that one node finds due, while the nodes in `lost` count as lost.
    fn maintain(&mut self, spec: &RolloutSpec, own_node: &str, lost: &[&str]) {
        for node in lost {
            self.0.apply(&Txn { then: vec![Op::Delete(keys::alive(node))], ..Txn::default() }).unwrap();
        }
        for _ in 0..20 {
            let mut snapshot = self.snapshot(spec, own_node);
            snapshot.lost = lost.iter().map(|node| (*node).to_owned()).collect();
            snapshot.soaked = true;
            if let Some(segment) = segment_to_inspect(spec, &snapshot) {
                let prefix = keys::member_votes(&spec.run, segment);
                let name = |row: &crate::store::Row| row.key.strip_prefix(&prefix).map(str::to_owned);
                snapshot.names = Some((segment, self.0.below(&prefix).filter_map(name).collect()));
            }
            match next_maintenance(spec, &snapshot, own_node) {
                Some(txn) => drop(self.0.apply(&txn).unwrap()),
                None => return,
            }
        }
        panic!("{own_node} does not come to an end with the maintenance");
    }

    pub(super) fn kinds(&self, spec: &RolloutSpec) -> Vec<(String, SlotState)> {
        let snapshot = self.snapshot(spec, "a");
        snapshot.held.into_iter().map(|held| (held.node, held.held.kind)).collect()
    }

    pub(super) fn freed(&self) -> Option<Freed> {
        self.0.below(keys::ALL_FREED).next().map(|row| serde_json::from_slice(&row.value).unwrap())
    }

    fn done(&self, spec: &RolloutSpec) -> bool {
        self.snapshot(spec, "b").done(spec)
    }
}

pub(super) fn is(node: &str, kind: SlotState) -> (String, SlotState) {
    (node.to_owned(), kind)
}

/// Returns the spec of a run of a book that uses the named slot `s`.
fn shared(book: &str, max_failures: u64) -> RolloutSpec {
    let run = format!("{book}@1");
    RolloutSpec { book: book.into(), budget: "n/slot=s".into(), run, shared: true, ..spec(1, Some(1), max_failures) }
}

#[test]
fn failure_in_a_named_slot_halts_every_book_that_shares_it() {
    for max_failures in [0, 1] {
        let mut fixture = Fixture::new();
        let (one, other) = (shared("n/one", max_failures), shared("n/other", max_failures));
        for node in ["a", "b"].into_iter().take(usize::try_from(max_failures).unwrap() + 1) {
            assert!(fixture.ask(&one, node, Request::Change(0)) && fixture.ask(&one, node, Request::Failed(0, true)));
        }
        assert!(!fixture.ask(&one, "c", Request::Change(0)), "its own book is halted");
        assert!(!fixture.ask(&other, "d", Request::Change(0)), "node a is half changed, so node d must wait");
        assert!(fixture.ask(&one, "a", Request::Change(0)) && fixture.ask(&one, "a", Request::Done(0)));
        assert!(fixture.ask(&one, "c", Request::Change(0)) && fixture.ask(&one, "c", Request::Done(0)));
        assert!(fixture.ask(&other, "d", Request::Change(0)), "max_failures {max_failures}");
    }
}

#[test]
fn failure_of_another_book_in_a_named_slot_keeps_no_wave_closed() {
    let mut fixture = Fixture::new();
    let (one, mut other) = (shared("n/one", 0), shared("n/other", 0));
    other.waves = 2;
    other.members.insert("b".into(), 1);
    for node in ["a", "c", "d"] {
        assert!(fixture.ask(&other, node, Request::Change(0)) && fixture.ask(&other, node, Request::Done(0)));
    }
    assert!(fixture.ask(&one, "a", Request::Change(0)) && fixture.ask(&one, "a", Request::Failed(0, true)));
    fixture.maintain(&other, "b", &[]);
    assert_eq!(fixture.snapshot(&other, "b").open_waves(&other, 0), 2);
    assert!(!fixture.ask(&other, "b", Request::Change(0)), "the slot is closed");
    // A node with nothing to change needs no slot.
    assert!(fixture.ask(&other, "b", Request::Enter(0)) && fixture.ask(&other, "b", Request::Done(0)));
    fixture.maintain(&other, "b", &[]);
    assert!(fixture.done(&other) && !fixture.done(&one));
}

#[test]
fn lost_holder_of_another_book_in_a_named_slot_does_not_halt_this_book() {
    let mut fixture = Fixture::new();
    let skip = |book: &str| RolloutSpec { on_lost: OnLost::Skip, ..shared(book, 0) };
    let (one, other) = (skip("n/one"), skip("n/other"));
    assert!(fixture.ask(&other, "c", Request::Change(0)));
    fixture.maintain(&other, "b", &["c"]);
    assert_eq!(fixture.kinds(&other), [is("c", SlotState::WrittenOff)]);
    assert!(fixture.ask(&one, "a", Request::Change(0)));
    let mut snapshot = fixture.snapshot(&other, "b");
    snapshot.lost = ["a".to_owned()].into();
    assert_eq!(snapshot.holder_beyond_budget(&other), None, "node a holds the slot for the other book");
}

#[test]
fn later_wave_opens_after_too_many_failures_under_fail_after_all_targets_ran() {
    for fail_after_all in [false, true] {
        let mut fixture = Fixture::new();
        let mut spec = RolloutSpec { fail_after_all, waves: 2, cuts: vec![Cut::Barrier], ..of_two(None, 0) };
        spec.members.insert("b".into(), 1);
        assert!(fixture.ask(&spec, "a", Request::Failed(0, true)));
        fixture.maintain(&spec, "b", &[]);
        assert_eq!(fixture.ask(&spec, "b", Request::Change(0)), fail_after_all, "the second wave");
        if fail_after_all {
            assert!(fixture.ask(&spec, "b", Request::Done(0)));
            fixture.maintain(&spec, "b", &[]);
            assert!(fixture.ask(&spec, "b", Request::Enter(1)) || spec.waves == 2, "the barrier");
            fixture.maintain(&spec, "b", &[]);
            assert!(fixture.snapshot(&spec, "b").open_waves(&spec, 1) > 0, "the barrier opens");
        }
    }
}

#[test]
fn run_with_too_many_failures_under_fail_after_all_targets_ran_ends_when_they_succeed() {
    let (mut fixture, spec) = (Fixture::new(), RolloutSpec { fail_after_all: true, ..of_two(None, 0) });
    assert!(fixture.ask(&spec, "a", Request::Failed(0, true)) && fixture.ask(&spec, "b", Request::Done(0)));
    fixture.maintain(&spec, "b", &[]);
    assert!(!fixture.done(&spec), "the run has failed");
    assert!(fixture.ask(&spec, "a", Request::Change(0)) && fixture.ask(&spec, "a", Request::Done(0)));
    fixture.maintain(&spec, "b", &[]);
    assert!(fixture.done(&spec));
}

#[test]
fn returned_node_that_waits_for_its_wave_no_longer_counts_as_lost() {
    let mut spec = RolloutSpec { on_lost: OnLost::Fail, waves: 2, ..spec(1, Some(1), 0) };
    spec.members.insert("d".into(), 1);
    let mut fixture = Fixture::new();
    for node in ["a", "b", "c"] {
        assert!(fixture.ask(&spec, node, Request::Change(0)) && fixture.ask(&spec, node, Request::Done(0)));
    }
    let lost = SlotRecord {
        kind: SlotState::Lost,
        run: spec.run.clone(),
        segment: 0,
        accepted: spec.accepted.clone(),
        lost: true,
        absent: 0,
    };
    fixture.put(&keys::held(&spec.budget, "-", &spec.book, "d"), bytes(&lost));
    fixture.maintain(&spec, "a", &[]);
    assert_eq!(fixture.snapshot(&spec, "a").open_waves(&spec, 0), 1, "a lost node counts as failed");
    assert!(!fixture.ask(&spec, "d", Request::Enter(0)));
    assert_eq!(fixture.kinds(&spec), []);
    fixture.maintain(&spec, "d", &[]);
    assert!(fixture.ask(&spec, "d", Request::Enter(0)), "its wave has opened");
}

#[test]
fn failed_node_retries_in_its_segment_after_the_store_has_lost_the_opened_barrier() {
    let spec = RolloutSpec { cuts: vec![Cut::Barrier], ..of_two(Some(1), 0) };
    let failure = |run: &str, segment| SlotRecord {
        kind: SlotState::Failure,
        run: run.into(),
        segment,
        accepted: AcceptedId::default(),
        lost: false,
        absent: 0,
    };
    // A restored store has the failure, which the node has republished, and not the progress of the run.
    for (run, segment, enters) in [(spec.run.as_str(), 1, true), (spec.run.as_str(), 0, false), ("n/b@0", 1, false)] {
        let mut fixture = Fixture::new();
        fixture.put(&keys::held(&spec.budget, "-", &spec.book, "a"), bytes(&failure(run, segment)));
        assert_eq!(fixture.ask(&spec, "a", Request::Enter(1)), enters, "{run} {segment}");
    }
}

#[test]
fn node_that_completes_a_segment_again_keeps_the_claim_of_a_later_segment() {
    for (kind, run) in [(SlotState::Claim, "n/b@1"), (SlotState::Failure, "n/b@1"), (SlotState::Claim, "n/b@0")] {
        let (mut fixture, spec) = (Fixture::new(), RolloutSpec { cuts: vec![Cut::Barrier], ..of_two(Some(1), 1) });
        let record =
            SlotRecord { kind, run: run.into(), segment: 1, accepted: spec.accepted.clone(), lost: false, absent: 0 };
        fixture.put(&keys::held(&spec.budget, "-", &spec.book, "a"), bytes(&record));
        for _ in 0..2 {
            assert!(fixture.ask(&spec, "a", Request::Done(0)));
            assert!(fixture.snapshot(&spec, "a").voted.contains(&0));
            // A claim of an earlier run is released at the first cut (P45).
            let kept = if run == spec.run { vec![is("a", kind)] } else { vec![] };
            assert_eq!(fixture.kinds(&spec), kept, "{kind:?} {run}");
        }
        assert!(fixture.ask(&spec, "b", Request::Done(0)));
        fixture.maintain(&spec, "b", &[]);
        assert!(fixture.ask(&spec, "a", Request::Change(1)) && fixture.ask(&spec, "a", Request::Done(1)));
        assert_eq!(fixture.kinds(&spec), []);
    }
}

#[test]
fn run_of_many_segments_ends() {
    for cuts in [39, 40, 41, 130] {
        let mut fixture = Fixture::new();
        let spec = RolloutSpec { cuts: vec![Cut::Barrier; cuts], ..of_two(Some(1), 0) };
        for segment in 0..spec.segments() {
            for node in ["a", "b"] {
                assert!(fixture.ask(&spec, node, Request::Change(segment)), "{node} in segment {segment}");
                assert!(fixture.ask(&spec, node, Request::Done(segment)));
                assert!(fixture.snapshot(&spec, node).voted.contains(&segment));
            }
            fixture.maintain(&spec, "a", &[]);
        }
        assert!(fixture.done(&spec), "{cuts} cuts");
        let snapshot = fixture.snapshot(&spec, "a");
        assert_eq!(snapshot.votes, vec![2; cuts + 1]);
        let most = RunSnapshot::reading_more(&spec, "a").iter().map(|txn| txn.then.len()).max().unwrap_or(0);
        assert!(most <= crate::store::MAX_OPERATIONS, "{most} operations");
    }
}

#[test]
fn failed_node_that_is_lost_later_is_written_off_under_skip() {
    for (on_lost, after) in
        [(OnLost::Skip, SlotState::WrittenOff), (OnLost::Fail, SlotState::Failure), (OnLost::Hold, SlotState::Failure)]
    {
        let (mut fixture, spec) = (Fixture::new(), RolloutSpec { on_lost, ..of_two(Some(1), 0) });
        assert!(fixture.ask(&spec, "a", Request::Change(0)) && fixture.ask(&spec, "a", Request::Failed(0, true)));
        assert!(!fixture.ask(&spec, "b", Request::Change(0)), "the run is halted");
        fixture.maintain(&spec, "c", &["a"]);
        assert_eq!(fixture.kinds(&spec).first(), Some(&is("a", after)), "{on_lost:?}");
        let goes_on = fixture.ask(&spec, "b", Request::Change(0));
        assert_eq!(goes_on, on_lost == OnLost::Skip, "{on_lost:?}");
        if goes_on {
            assert!(fixture.ask(&spec, "b", Request::Done(0)));
            fixture.maintain(&spec, "b", &["a"]);
            assert!(fixture.done(&spec), "the run ends without the node");
        }
    }
}

#[test]
fn failed_nodes_are_written_off_up_to_the_slot_count() {
    let spec = RolloutSpec { on_lost: OnLost::Skip, ..spec(1, Some(2), 1) };
    let mut fixture = Fixture::new();
    for node in ["a", "b"] {
        assert!(fixture.ask(&spec, node, Request::Change(0)), "{node}");
    }
    for node in ["a", "b"] {
        assert!(fixture.ask(&spec, node, Request::Failed(0, true)));
    }
    fixture.maintain(&spec, "d", &["a", "b"]);
    assert!(fixture.kinds(&spec).iter().all(|(_, kind)| *kind == SlotState::WrittenOff), "{:?}", fixture.kinds(&spec));
    assert!(fixture.ask(&spec, "c", Request::Change(0)));
    fixture.maintain(&spec, "d", &["a", "b", "c"]);
    let mut snapshot = fixture.snapshot(&spec, "d");
    snapshot.lost = ["c".to_owned()].into();
    assert_eq!(snapshot.holder_beyond_budget(&spec), Some("c"));
}

#[test]
fn later_run_does_not_wait_for_a_node_that_an_earlier_run_lost() {
    for on_lost in [OnLost::Skip, OnLost::Fail] {
        for claims in [true, false] {
            let (mut fixture, first) = (Fixture::new(), RolloutSpec { on_lost, ..of_two(Some(1), 1) });
            if claims {
                assert!(fixture.ask(&first, "a", Request::Change(0)));
            }
            for (run, generation) in [("n/b@1", 1), ("n/b@2", 2), ("n/b@3", 3)] {
                let count = Some(2);
                let spec =
                    RolloutSpec { run: run.into(), accepted: record(generation, "").id(), count, ..first.clone() };
                fixture.accept(generation);
                fixture.maintain(&spec, "b", &["a"]);
                assert!(fixture.ask(&spec, "b", Request::Change(0)), "{on_lost:?} {run}");
                assert!(fixture.ask(&spec, "b", Request::Done(0)));
                fixture.maintain(&spec, "b", &["a"]);
                assert!(fixture.done(&spec), "{on_lost:?}, with a claim: {claims}, {run}: {:?}", fixture.kinds(&spec));
            }
        }
    }
}

/// Returns the spec of the same book after a commit that begins a new run.
fn mended(spec: &RolloutSpec) -> RolloutSpec {
    RolloutSpec { run: "n/b@2".into(), accepted: record(2, "").id(), ..spec.clone() }
}

#[test]
fn nodes_that_failed_before_their_admission_queue_for_slots_after_a_fix() {
    for count in [Some(1), None] {
        let (mut fixture, mut spec) = (Fixture::new(), spec(1, count, 0));
        spec.waves = 2;
        spec.members.insert("d".into(), 1);
        for node in ["a", "b", "c"] {
            assert!(fixture.ask(&spec, node, Request::Enter(0)) && fixture.ask(&spec, node, Request::Failed(0, false)));
        }
        assert_eq!(fixture.kinds(&spec), ["a", "b", "c"].map(|node| is(node, SlotState::Unadmitted)));
        assert!(!fixture.ask(&spec, "d", Request::Enter(0)), "the failures keep its wave closed");
        let mut fixed = mended(&spec);
        fixed.members.insert("c".into(), 1);
        fixture.accept(2);
        assert!(!fixture.ask(&fixed, "c", Request::Enter(0)), "it is in the second wave now");
        assert!(fixture.ask(&fixed, "a", Request::Enter(0)) && fixture.ask(&fixed, "b", Request::Enter(0)));
        assert_eq!(fixture.kinds(&fixed), [], "a failure without a change ends with its run");
        assert!(fixture.ask(&fixed, "a", Request::Change(0)));
        assert_eq!(fixture.ask(&fixed, "b", Request::Change(0)), count.is_none(), "{count:?}");
    }
}

#[test]
fn node_that_failed_before_its_admission_takes_a_slot_when_its_check_succeeds() {
    let (mut fixture, spec) = (Fixture::new(), spec(1, Some(1), 0));
    assert!(fixture.ask(&spec, "a", Request::Failed(0, false)));
    assert!(!fixture.ask(&spec, "b", Request::Change(0)), "the run is halted");
    assert!(fixture.ask(&spec, "a", Request::Enter(0)));
    assert_eq!(fixture.kinds(&spec), [is("a", SlotState::Unadmitted)], "its check may fail again");
    assert!(!fixture.ask(&spec, "a", Request::Change(0)), "node b waits longer");
    assert_eq!(fixture.kinds(&spec), [is("b", SlotState::Offer)]);
    assert!(fixture.ask(&spec, "b", Request::Change(0)) && fixture.ask(&spec, "b", Request::Done(0)));
    assert!(fixture.ask(&spec, "a", Request::Change(0)));
    // A node that was admitted and then fails is half changed.
    assert!(fixture.ask(&spec, "a", Request::Failed(0, true)));
    assert_eq!(fixture.kinds(&spec), [is("a", SlotState::Failure)]);
    assert!(fixture.ask(&spec, "a", Request::Failed(0, false)));
    assert_eq!(fixture.kinds(&spec), [is("a", SlotState::Failure)], "it is still half changed");
}

#[test]
fn written_off_node_and_offered_node_that_fail_before_their_admission_need_a_slot() {
    for (kind, admitted, after) in [
        (SlotState::WrittenOff, false, SlotState::WrittenOff),
        // The node was written off while it worked.
        (SlotState::WrittenOff, true, SlotState::WrittenOff),
        (SlotState::Offer, false, SlotState::Unadmitted),
    ] {
        let (mut fixture, spec) = (Fixture::new(), spec(1, Some(1), 1));
        let record = SlotRecord {
            kind,
            run: spec.run.clone(),
            segment: 0,
            accepted: spec.accepted.clone(),
            lost: false,
            absent: 0,
        };
        fixture.put(&keys::held(&spec.budget, "-", &spec.book, "a"), bytes(&record));
        assert!(fixture.ask(&spec, "a", Request::Failed(0, admitted)));
        assert_eq!(fixture.kinds(&spec), [is("a", after)], "{kind:?} {admitted}");
        assert!(fixture.ask(&spec, "b", Request::Change(0)));
        assert!(!fixture.ask(&spec, "a", Request::Change(0)), "{kind:?} {admitted}");
    }
}

#[test]
fn failure_of_a_written_off_node_before_its_admission_does_not_forget_the_write_off() {
    let spec = RolloutSpec { on_lost: OnLost::Skip, ..spec(1, Some(1), 0) };
    let mut fixture = Fixture::new();
    assert!(fixture.ask(&spec, "a", Request::Change(0)));
    fixture.maintain(&spec, "d", &["a"]);
    fixture.put(&keys::alive("a"), Vec::new());
    assert!(fixture.ask(&spec, "a", Request::Failed(0, false)));
    assert_eq!(fixture.snapshot(&spec, "a").written_off(&spec), 1);
    assert!(fixture.ask(&spec, "b", Request::Change(0)));
    fixture.maintain(&spec, "d", &["b"]);
    assert_eq!(fixture.kinds(&spec), [is("a", SlotState::WrittenOff), is("b", SlotState::Claim)], "one is the limit");
}

#[test]
fn claim_of_a_lost_node_from_an_earlier_run_is_released_by_its_first_segment() {
    for on_lost in [OnLost::Fail, OnLost::Skip] {
        let (mut fixture, spec) = (Fixture::new(), RolloutSpec { on_lost, ..of_two(Some(1), 0) });
        let key = keys::held(&spec.budget, "-", &spec.book, "a");
        let run = "n/b@0".into();
        let claim = SlotRecord {
            kind: SlotState::Claim,
            run,
            segment: 3,
            accepted: spec.accepted.clone(),
            lost: false,
            absent: 0,
        };
        fixture.put(&key, bytes(&claim));
        fixture.maintain(&spec, "b", &["a"]);
        fixture.put(&keys::alive("a"), Vec::new());
        assert!(fixture.ask(&spec, "a", Request::Change(0)) && fixture.ask(&spec, "a", Request::Done(0)));
        assert_eq!(fixture.kinds(&spec), [], "{on_lost:?}");
    }
}

#[test]
fn node_that_failed_before_its_admission_is_lost_without_a_claim() {
    for (on_lost, is_late, counts) in [(OnLost::Skip, false, 0), (OnLost::Skip, true, 0), (OnLost::Fail, false, 1)] {
        let (mut fixture, mut spec) = (Fixture::new(), RolloutSpec { on_lost, ..of_two(Some(1), 0) });
        if is_late {
            spec.members.remove("a");
            spec.late.push("a".into());
        }
        assert!(fixture.ask(&spec, "a", Request::Failed(0, false)));
        fixture.maintain(&spec, "b", &["a"]);
        assert_eq!(fixture.kinds(&spec), [is("a", SlotState::Lost)], "{on_lost:?}");
        let snapshot = fixture.snapshot(&spec, "b");
        assert_eq!((snapshot.failures(), snapshot.written_off(&spec)), (counts, 0), "{on_lost:?}");
        // After a change of `onLostNode`, the lost node does not count as failed.
        let changed = RolloutSpec { on_lost: OnLost::Skip, ..spec };
        fixture.maintain(&changed, "b", &["a"]);
        assert_eq!(fixture.snapshot(&changed, "b").failures(), 0);
    }
}

/// Returns the maintenance that one node finds due, while the nodes in `lost` count as lost.
fn due(fixture: &Fixture, spec: &RolloutSpec, own_node: &str, lost: &[&str]) -> Txn {
    let mut snapshot = fixture.snapshot(spec, own_node);
    snapshot.lost = lost.iter().map(|node| (*node).to_owned()).collect();
    let prefix = keys::member_votes(&spec.run, 0);
    let name = |row: &crate::store::Row| row.key.strip_prefix(&prefix).map(str::to_owned);
    snapshot.names = Some((0, fixture.0.below(&prefix).filter_map(name).collect()));
    next_maintenance(spec, &snapshot, own_node).unwrap()
}

#[test]
fn loss_that_is_recorded_at_the_same_time_as_the_vote_of_the_node_is_refused() {
    for votes in [true, false] {
        let (mut fixture, spec) = (Fixture::new(), RolloutSpec { on_lost: OnLost::Fail, ..of_two(Some(1), 0) });
        fixture.0.apply(&Txn { then: vec![Op::Delete(keys::alive("a"))], ..Txn::default() }).unwrap();
        let loss = due(&fixture, &spec, "b", &["a"]);
        if votes {
            assert!(fixture.ask(&spec, "a", Request::Done(0)));
        }
        fixture.0.apply(&loss).unwrap();
        let lost = if votes { vec![] } else { vec![is("a", SlotState::Lost)] };
        assert_eq!(fixture.kinds(&spec), lost);
    }
}

#[test]
fn two_observers_write_off_no_more_nodes_than_the_slot_count() {
    let spec = RolloutSpec { on_lost: OnLost::Skip, ..spec(1, Some(1), 1) };
    let mut fixture = Fixture::new();
    assert!(fixture.ask(&spec, "a", Request::Change(0)) && fixture.ask(&spec, "a", Request::Failed(0, true)));
    assert!(fixture.ask(&spec, "b", Request::Change(0)));
    for node in ["a", "b"] {
        fixture.0.apply(&Txn { then: vec![Op::Delete(keys::alive(node))], ..Txn::default() }).unwrap();
    }
    let (one, other) = (due(&fixture, &spec, "c", &["a"]), due(&fixture, &spec, "d", &["b"]));
    for txn in [one, other] {
        fixture.0.apply(&txn).unwrap();
    }
    assert_eq!(fixture.kinds(&spec), [is("a", SlotState::WrittenOff), is("b", SlotState::Claim)]);
}

#[test]
fn failure_in_a_named_slot_halts_at_the_smallest_limit_of_its_books() {
    let mut fixture = Fixture::new();
    let limit = |spec: RolloutSpec| RolloutSpec { slot_failures: Some(0), ..spec };
    let (one, other) = (limit(shared("n/one", 0)), limit(shared("n/other", 5)));
    assert!(fixture.ask(&other, "a", Request::Change(0)) && fixture.ask(&other, "a", Request::Failed(0, true)));
    assert!(!fixture.ask(&one, "b", Request::Change(0)) && !fixture.ask(&other, "c", Request::Change(0)));
    assert!(fixture.ask(&other, "a", Request::Done(0)));
    assert_eq!(fixture.freed(), Some(Freed::default()), "the waiters of every partition look");
    assert!(fixture.ask(&one, "b", Request::Change(0)));
}

/// Returns the records and specs of two acceptances of generation 2, which define different runs.
fn of_one_number(spec: &RolloutSpec) -> [(Accepted, RolloutSpec); 2] {
    ["x", "y"].map(|commit| {
        let record = record(2, commit);
        let spec = RolloutSpec { run: format!("n/b@2.{commit}"), accepted: record.id(), ..spec.clone() };
        (record, spec)
    })
}

#[test]
fn node_at_another_acceptance_of_the_accepted_number_admits_no_node() {
    let [(_, lost), (kept, spec)] = of_one_number(&spec(1, Some(1), 0));
    let mut fixture = Fixture::new();
    fixture.put(keys::ACCEPTED, bytes(&kept));
    let decided = decide(&lost, &fixture.snapshot(&lost, "a"), "a", Request::Change(0));
    assert_eq!(decided, Decision::Wait(BlockReason::Behind));
    let entry = Queued { run: lost.run.clone(), segment: 0, accepted: lost.accepted.clone() };
    fixture.put(&keys::queue(&lost.budget, "-", &lost.book, "a"), bytes(&entry));
    let is_due = |spec: &RolloutSpec| {
        let snapshot = RunSnapshot { idle: true, ..fixture.snapshot(spec, "b") };
        next_maintenance(spec, &snapshot, "b").is_some()
    };
    assert!(!is_due(&lost), "a slot is free, but the store has lost this acceptance");
    assert!(is_due(&spec), "the entry of the other run is void");
    assert!(fixture.ask(&spec, "b", Request::Change(0)));
}

#[test]
fn offer_under_another_acceptance_of_the_accepted_number_is_void() {
    let [(first, lost), (kept, spec)] = of_one_number(&spec(1, Some(1), 0));
    // The runs have one name, as if the acceptances differed only in another book.
    let lost = RolloutSpec { run: spec.run.clone(), ..lost };
    for of_other in [false, true] {
        let mut fixture = Fixture::new();
        fixture.put(keys::ACCEPTED, bytes(&first));
        assert!(fixture.ask(&lost, "a", Request::Change(0)) && !fixture.ask(&lost, "b", Request::Change(0)));
        assert!(fixture.ask(&lost, "a", Request::Done(0)), "an offer for b");
        fixture.put(keys::ACCEPTED, bytes(&kept));
        assert!(!fixture.ask(&spec, "c", Request::Change(0)));
        if of_other {
            fixture.maintain(&spec, "c", &[]);
        } else {
            assert!(!fixture.ask(&spec, "b", Request::Change(0)), "it queues again, at the end");
        }
        assert_eq!(fixture.kinds(&spec), [is("c", SlotState::Offer)], "{of_other}");
    }
}

#[test]
fn votes_under_another_acceptance_of_the_accepted_number_open_no_barrier() {
    let [(first, lost), (kept, spec)] = of_one_number(&RolloutSpec { cuts: vec![Cut::Barrier], ..of_two(Some(1), 0) });
    let mut fixture = Fixture::new();
    fixture.put(keys::ACCEPTED, bytes(&first));
    assert!(fixture.ask(&lost, "a", Request::Change(0)) && fixture.ask(&lost, "a", Request::Done(0)));
    assert!(fixture.ask(&lost, "b", Request::Change(0)));
    fixture.put(keys::ACCEPTED, bytes(&kept));
    assert!(!fixture.ask(&spec, "a", Request::Change(0)), "b may be half changed, so its claim counts");
    assert!(fixture.ask(&lost, "b", Request::Done(0)), "it ends what it holds");
    fixture.maintain(&lost, "b", &[]);
    fixture.maintain(&spec, "a", &[]);
    for spec in [&lost, &spec] {
        assert_eq!(fixture.snapshot(spec, "a").open_waves(spec, 1), 0, "{}", spec.run);
    }
    for node in ["a", "b"] {
        assert!(fixture.ask(&spec, node, Request::Change(0)) && fixture.ask(&spec, node, Request::Done(0)));
    }
    fixture.maintain(&spec, "a", &[]);
    assert_eq!(fixture.snapshot(&spec, "a").open_waves(&spec, 1), 1);
}
