//! The offers of free slots. The transaction that releases a slot also offers the slot to the next waiter, so that a
//! waiter need not read the store at intervals. A node that is not allowed to offer slots, such as a node that has not
//! loaded the accepted revision, writes a notice of free slots. The notice wakes waiting nodes, which then take the
//! free slots (P135).

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{Entry, RolloutSpec, RunSnapshot, SlotEntry, SlotRecord, SlotState, slots::bytes, spec::run_of};
use crate::{
    keys,
    store::{Compare, Op, Txn},
};

/// The maximum number of offers in one transaction. The number of offers is limited, because each offer needs several
/// of the 128 operations of a transaction.
const OFFERS: usize = 8;

/// The maximum number of waiting nodes that one notice of free slots names.
const NAMED: usize = 16;

/// The maximum number of slot records for which a transaction has a condition on the single record. If a transaction
/// would need conditions for more than 32 slot records, the transaction wakes all waiters instead.
const COMPARED: usize = 32;

/// A notice that a budget may have free slots that no node has offered.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Freed {
    /// The nodes that the notice wakes. If `nodes` is empty, the notice wakes every node that waits for a slot of the
    /// budget.
    pub nodes: Vec<String>,
}

/// Returns true if a slot in a node's partition is free and the run is not halted.
pub(super) fn free(spec: &RolloutSpec, snapshot: &RunSnapshot, node: &str) -> bool {
    spec.count.is_some_and(|count| snapshot.taken(spec.partition(node)) < count) && !snapshot.halted(spec)
}

/// Returns the queue entries of a partition whose nodes may take a slot, in the order of the queue. Nodes whose wave is
/// closed cannot take a slot. Nodes that already hold a slot cannot take a second slot.
pub(super) fn eligible<'v>(
    spec: &'v RolloutSpec,
    snapshot: &'v RunSnapshot,
    partition: &'v str,
    except: Option<&'v str>,
) -> impl Iterator<Item = &'v Entry> {
    snapshot.queue.iter().filter(move |entry| {
        let own_book = entry.book == spec.book;
        let may_enter = if own_book && entry.queued.run == spec.run {
            snapshot.may_enter(spec, &entry.node, entry.queued.segment)
        } else {
            // A waiter of another book that shares the budget has passed the gates of that book. A corrective change
            // has no wave.
            !own_book || entry.queued.run == run_of(spec, None)
        };
        let holds = snapshot.held.iter().any(|held| held.node == entry.node && held.book == entry.book);
        // A node whose label has changed cannot take a slot of its former partition.
        let takes = !own_book || spec.selects(&entry.node) && spec.partition(&entry.node) == entry.partition;
        entry.partition == partition
            && except != Some(entry.node.as_str())
            && may_enter
            && takes
            && (!holds || written_off(snapshot, entry))
            && !snapshot.lost.contains(&entry.node)
    })
}

fn written_off(snapshot: &RunSnapshot, entry: &Entry) -> bool {
    snapshot
        .held
        .iter()
        .all(|held| held.node != entry.node || held.book != entry.book || held.held.kind == SlotState::WrittenOff)
}

/// Returns a copy of the snapshot in which `new` replaces the slot record `old`. If `new` is `None`, `old` is removed.
fn after(snapshot: &RunSnapshot, old: &SlotEntry, new: Option<&SlotRecord>) -> RunSnapshot {
    let mut after = snapshot.clone();
    after.held.retain(|held| held != old);
    after.held.extend(new.map(|new| SlotEntry { held: new.clone(), ..old.clone() }));
    after
}

/// Adds offers of the free slots to a transaction that replaces or removes one slot record (P53). If this node is not
/// allowed to offer slots, or has not read the queue of the partition, the function adds a notice of free slots.
/// Records of other nodes, such as failures that halt the run, may reduce the number of offers. The transaction
/// requires that the records of other nodes are unchanged, so that no free slot stays without an offer (P135).
pub(super) fn offer_on(
    spec: &RolloutSpec,
    snapshot: &RunSnapshot,
    own_node: &str,
    old: &SlotEntry,
    new: Option<&SlotRecord>,
    txn: &mut Txn,
) {
    let after = after(snapshot, old, new);
    let released = snapshot.taken(&old.partition).saturating_sub(after.taken(&old.partition));
    let succeeds = after.failures() < snapshot.failures();
    let whole_queue = Compare::NoneNewer(keys::whole_queue(&spec.budget), snapshot.revision);
    let Some(guards) = snapshot.admission_guards(spec) else {
        // The accepted revision may permit more failures than this writer knows. The transaction must fail if another
        // node queues at the same time, because the touch would not wake that node.
        if released > 0 || succeeds {
            txn.compare.push(whole_queue);
            touch(spec, &after, own_node, old, succeeds || after.failures() > 0, txn);
        }
        return;
    };
    let resumes = snapshot.halted(spec) && !after.halted(spec);
    if after.halted(spec) {
        if released > 0 || succeeds {
            stays_halted(spec, snapshot, old, txn);
        }
        return;
    }
    if succeeds && spec.failure_limit().is_some() {
        // If more nodes fail before the commit, this compare fails, because this success could end the halt that they
        // cause.
        txn.compare.push(Compare::NoneNewer(keys::all_held(&spec.budget), snapshot.revision));
    }
    if released == 0 && !resumes {
        return;
    }
    let has_parts = spec.shared || !spec.partitions.is_empty();
    let count = spec.count.filter(|_| old.partition == spec.partition(own_node) && !(resumes && has_parts));
    let Some(count) = count else {
        // The writer has read only the queue of its own partition, so it cannot offer slots of another partition.
        txn.compare.push(whole_queue);
        return touch(spec, &after, own_node, old, resumes, txn);
    };
    let free = usize::try_from(count.saturating_sub(after.taken(&old.partition))).unwrap_or(usize::MAX);
    let slots = |held: &&SlotEntry| {
        matches!(held.held.kind, SlotState::Claim | SlotState::Offer) && held.partition == old.partition && *held != old
    };
    if resumes {
        if free > OFFERS || snapshot.held.iter().filter(slots).count() > COMPARED {
            return touch_all(spec, txn);
        }
        // A slot that is released while the run is halted is offered by the writer that ends the halt.
        txn.compare.extend(snapshot.held.iter().filter(slots).map(|held| unchanged(spec, held)));
    }
    let free = free.min(OFFERS);
    // Holders that finish at the same time offer to different waiters, each by its rank among the holders (P53).
    let own = matches!(old.held.kind, SlotState::Claim | SlotState::Offer);
    let holders = snapshot.held.iter().filter(slots).count() + usize::from(own);
    let rank = snapshot.held.iter().filter(slots).filter(|held| held.node < old.node).count();
    // Each node has one inbox key for a budget, so a node that waits with two books gets one offer at a time. The store
    // refuses a transaction that writes a key twice.
    let mut named = BTreeSet::new();
    let once = |entry: &&Entry| named.insert(entry.node.clone());
    let mut first: Vec<&Entry> =
        eligible(spec, &after, &old.partition, Some(&old.node)).filter(once).take(holders.max(free)).collect();
    let rank = rank % first.len().max(1);
    first.rotate_left(rank);
    first.truncate(free);
    if first.len() < free {
        if snapshot.queue_is_cut() {
            // Later waiters of the queue, which the snapshot leaves out, may be admitted.
            touch_all(spec, txn);
        }
        txn.compare.push(whole_queue);
    }
    if first.is_empty() {
        return;
    }
    let fails = after.failures() > snapshot.failures();
    if fails || first.len() as u64 > released {
        // If one release makes several offers or adds a failure, no slot record may have changed since the read.
        txn.compare.push(Compare::NoneNewer(keys::all_held(&spec.budget), snapshot.revision));
    }
    txn.compare.extend(guards);
    for next in first {
        offer_to(spec, snapshot, next, txn);
    }
}

/// Returns the condition that a slot record has not changed since the snapshot.
fn unchanged(spec: &RolloutSpec, held: &SlotEntry) -> Compare {
    Compare::Revision(keys::held(&spec.budget, &held.partition, &held.book, &held.node), held.modified)
}

/// Adds the condition that the failures of other nodes are unchanged, so that the run is still halted. If two nodes
/// succeed at the same time, the transaction of one node fails, and that node offers the slots at the next attempt.
fn stays_halted(spec: &RolloutSpec, snapshot: &RunSnapshot, old: &SlotEntry, txn: &mut Txn) {
    let enough = usize::try_from(spec.failure_limit().unwrap_or(0).saturating_add(1)).unwrap_or(usize::MAX);
    if enough > COMPARED {
        return touch_all(spec, txn);
    }
    let failures = snapshot.held.iter().filter(|held| *held != old && held.held.is_failed());
    txn.compare.extend(failures.take(enough).map(|held| unchanged(spec, held)));
}

/// Adds a notice of free slots to a transaction, for all nodes that wait for a slot of the budget.
fn touch_all(spec: &RolloutSpec, txn: &mut Txn) {
    txn.then.push(Op::put(keys::freed(&spec.budget), bytes(&Freed::default())));
}

/// Adds a notice of free slots to a transaction. The notice names the first waiters of the partition. All waiters act on
/// the notice if it names no waiter. It names no waiter if this node does not know the queue, or if a halted run resumes.
fn touch(spec: &RolloutSpec, snapshot: &RunSnapshot, own_node: &str, old: &SlotEntry, resumes: bool, txn: &mut Txn) {
    let mut freed = Freed::default();
    if old.partition == spec.partition(own_node) && !resumes {
        let count = spec.count.unwrap_or_else(|| snapshot.taken(&old.partition).saturating_add(1)).max(1);
        let count = usize::try_from(count).unwrap_or(NAMED).min(NAMED);
        // The writer and the waiters may have different revisions, so only waiters that certainly cannot enter are left
        // out.
        let waits = |entry: &&Entry| {
            entry.node != old.node
                && (entry.book != spec.book
                    || entry.queued.run != spec.run
                    || snapshot.may_enter(spec, &entry.node, entry.queued.segment))
        };
        for entry in snapshot.queue.iter().filter(waits).take(count) {
            let key = keys::queue(&spec.budget, &entry.partition, &entry.book, &entry.node);
            txn.compare.push(Compare::Revision(key, entry.modified));
            freed.nodes.push(entry.node.clone());
        }
        if freed.nodes.is_empty() {
            // A node that queues later reads the snapshot and finds that the slot is free.
            return;
        }
    }
    txn.then.push(Op::put(keys::freed(&spec.budget), bytes(&freed)));
}

/// Adds to a transaction the offer of a slot to the waiter `next`.
fn offer_to(spec: &RolloutSpec, snapshot: &RunSnapshot, next: &Entry, txn: &mut Txn) {
    let queue = keys::queue(&spec.budget, &next.partition, &next.book, &next.node);
    let held = keys::held(&spec.budget, &next.partition, &next.book, &next.node);
    let offer = SlotRecord {
        kind: SlotState::Offer,
        run: next.queued.run.clone(),
        segment: next.queued.segment,
        accepted: spec.accepted.clone(),
        lost: false,
        absent: 0,
    };
    txn.compare.push(Compare::Revision(queue.clone(), next.modified));
    // The node's slot record may have changed since the read. The compare prevents that the offer overwrites the
    // change.
    let known = snapshot.held.iter().find(|old| old.node == next.node && old.book == next.book);
    txn.compare.push(match known {
        Some(old) => Compare::Revision(held.clone(), old.modified),
        None => Compare::Absent(held.clone()),
    });
    txn.then.push(Op::Delete(queue));
    txn.then.push(Op::put(held, bytes(&offer)));
    txn.then.push(Op::put(keys::offer_notice(&next.node, &spec.budget), bytes(&spec.accepted)));
}

/// Returns the first other waiter that may take a free slot, and the store revision of that waiter's queue entry.
pub fn idle(spec: &RolloutSpec, snapshot: &RunSnapshot, own_node: &str) -> Option<(String, u64)> {
    first_waiting(spec, snapshot, own_node).map(|entry| (entry.node.clone(), entry.modified))
}

fn first_waiting<'v>(spec: &'v RolloutSpec, snapshot: &'v RunSnapshot, own_node: &'v str) -> Option<&'v Entry> {
    spec.count?;
    let partitions = snapshot.queue.iter().map(|entry| entry.partition.as_str());
    partitions
        .filter_map(|partition| eligible(spec, snapshot, partition, Some(own_node)).next())
        .find(|next| free(spec, snapshot, &next.node))
}

/// Returns the transaction that offers a free slot to the first waiter. Waiters usually take free slots themselves.
/// This node therefore makes the offer only after a delay, or after a notice of free slots. The delay differs from node
/// to node, so that not all nodes make the same offer.
pub(super) fn offer_free(
    spec: &RolloutSpec,
    snapshot: &RunSnapshot,
    own_node: &str,
    guards: Vec<Compare>,
) -> Option<Txn> {
    let next = first_waiting(spec, snapshot, own_node).filter(|_| snapshot.idle)?;
    let mut compare = guards;
    compare.push(Compare::NoneNewer(keys::all_held(&spec.budget), snapshot.revision));
    let mut txn = Txn { compare, then: Vec::new(), otherwise: Vec::new() };
    offer_to(spec, snapshot, next, &mut txn);
    Some(txn)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        rollout::{
            Decision, OnLost, Request, decide, next_maintenance,
            tests::{Fixture, is, spec},
        },
        store::Outcome,
    };

    #[test]
    fn failure_within_max_failures_offers_slot_to_next_waiter() {
        let (mut fixture, spec) = (Fixture::new(), spec(1, Some(1), 1));
        assert!(fixture.ask(&spec, "a", Request::Change(0)));
        assert!(!fixture.ask(&spec, "b", Request::Change(0)) && !fixture.ask(&spec, "c", Request::Change(0)));
        assert!(fixture.ask(&spec, "a", Request::Failed(0, true)));
        assert_eq!(fixture.kinds(&spec), [is("a", SlotState::Failure), is("b", SlotState::Offer)]);
        assert!(fixture.ask(&spec, "b", Request::Change(0)));
        assert!(fixture.ask(&spec, "b", Request::Failed(0, true)), "the second failure halts the run");
        assert_eq!(fixture.kinds(&spec), [is("a", SlotState::Failure), is("b", SlotState::Failure)]);
    }

    #[test]
    fn success_that_ends_halt_offers_every_free_slot() {
        let (mut fixture, spec) = (Fixture::new(), spec(1, Some(2), 0));
        assert!(fixture.ask(&spec, "a", Request::Change(0)));
        assert!(fixture.ask(&spec, "a", Request::Failed(0, true)));
        for waiter in ["b", "c", "d"] {
            assert!(!fixture.ask(&spec, waiter, Request::Change(0)), "the run is halted");
        }
        assert!(fixture.ask(&spec, "a", Request::Change(0)), "it tries again");
        assert!(fixture.ask(&spec, "a", Request::Done(0)));
        assert_eq!(fixture.kinds(&spec), [is("b", SlotState::Offer), is("c", SlotState::Offer)]);
    }

    /// Returns the transaction of a node for a request, from the current snapshot.
    fn prepared(fixture: &Fixture, spec: &RolloutSpec, own_node: &str, request: Request) -> Txn {
        match decide(spec, &fixture.snapshot(spec, own_node), own_node, request) {
            Decision::Commit(txn) => txn,
            other => panic!("{own_node}: {other:?}"),
        }
    }

    fn is_refused(fixture: &mut Fixture, txn: &Txn) -> bool {
        matches!(fixture.0.apply(txn).unwrap().0, Outcome::Refused { .. })
    }

    #[test]
    fn second_of_two_nodes_that_end_a_halt_together_offers_a_slot() {
        let (mut fixture, spec) = (Fixture::new(), spec(1, Some(2), 0));
        for node in ["a", "b"] {
            assert!(fixture.ask(&spec, node, Request::Change(0)));
        }
        for node in ["a", "b"] {
            assert!(fixture.ask(&spec, node, Request::Failed(0, true)));
        }
        let [a, b] = ["a", "b"].map(|node| prepared(&fixture, &spec, node, Request::Done(0)));
        assert!(!is_refused(&mut fixture, &a));
        assert!(!fixture.ask(&spec, "c", Request::Change(0)), "the failure of b halts the run");
        assert!(is_refused(&mut fixture, &b), "b has read the failure of a");
        assert!(fixture.ask(&spec, "b", Request::Done(0)));
        assert_eq!(fixture.kinds(&spec), [is("c", SlotState::Offer)]);
    }

    #[test]
    fn success_within_max_failures_is_compared_with_failures_that_follow() {
        let (mut fixture, spec) = (Fixture::new(), spec(1, Some(2), 1));
        assert!(fixture.ask(&spec, "a", Request::Change(0)) && fixture.ask(&spec, "a", Request::Failed(0, true)));
        let a = prepared(&fixture, &spec, "a", Request::Done(0));
        assert!(fixture.ask(&spec, "b", Request::Change(0)) && fixture.ask(&spec, "b", Request::Failed(0, true)));
        assert!(!fixture.ask(&spec, "c", Request::Change(0)), "two failures halt the run");
        assert!(is_refused(&mut fixture, &a));
        assert!(fixture.ask(&spec, "a", Request::Done(0)));
        assert_eq!(fixture.kinds(&spec), [is("b", SlotState::Failure), is("c", SlotState::Offer)]);
    }

    #[test]
    fn slot_that_is_released_during_a_halt_is_offered_by_the_later_of_two_writers() {
        for first in ["a", "b"] {
            let (mut fixture, spec) = (Fixture::new(), spec(1, Some(2), 0));
            for node in ["a", "b"] {
                assert!(fixture.ask(&spec, node, Request::Change(0)));
            }
            assert!(fixture.ask(&spec, "a", Request::Failed(0, true)));
            assert!(!fixture.ask(&spec, "c", Request::Change(0)) && !fixture.ask(&spec, "d", Request::Change(0)));
            let second = if first == "a" { "b" } else { "a" };
            let [one, other] = [first, second].map(|node| prepared(&fixture, &spec, node, Request::Done(0)));
            assert!(!is_refused(&mut fixture, &one) && is_refused(&mut fixture, &other), "{first} first");
            assert!(fixture.ask(&spec, second, Request::Done(0)));
            assert_eq!(fixture.kinds(&spec), [is("c", SlotState::Offer), is("d", SlotState::Offer)], "{first} first");
        }
    }

    #[test]
    fn node_that_waits_with_two_books_gets_one_offer_in_a_transaction() {
        let own = RolloutSpec { budget: "n/slot=s".into(), ..spec(1, Some(2), 0) };
        let other = RolloutSpec { book: "n/c".into(), run: "n/c@1".into(), ..own.clone() };
        let mut fixture = Fixture::new();
        assert!(fixture.ask(&own, "a", Request::Change(0)) && fixture.ask(&own, "a", Request::Failed(0, true)));
        assert!(!fixture.ask(&own, "b", Request::Change(0)) && !fixture.ask(&other, "b", Request::Change(0)));
        let txn = prepared(&fixture, &own, "a", Request::Done(0));
        let puts: Vec<&String> =
            txn.then.iter().filter_map(|op| if let Op::Put { key, .. } = op { Some(key) } else { None }).collect();
        assert_eq!(puts.len(), puts.iter().collect::<BTreeSet<_>>().len(), "{puts:?}");
        assert!(!is_refused(&mut fixture, &txn));
        assert_eq!(fixture.kinds(&own), [is("b", SlotState::Offer)]);
    }

    #[test]
    fn success_under_too_many_failures_to_compare_touches_every_waiter() {
        let most = COMPARED as u64;
        for (max_failures, touches) in [(most - 1, false), (most, true)] {
            let mut spec = spec(1, Some(100), max_failures);
            let nodes: Vec<String> = (0..=max_failures + 1).map(|number| format!("n{number}")).collect();
            spec.members = nodes.iter().map(|node| (node.clone(), 0)).collect();
            spec.known.clone_from(&nodes);
            let mut fixture = Fixture::new();
            for node in &nodes {
                assert!(fixture.ask(&spec, node, Request::Failed(0, true)));
            }
            assert!(fixture.ask(&spec, "n0", Request::Done(0)));
            assert_eq!(fixture.freed(), touches.then(Freed::default), "{max_failures}");
        }
    }

    #[test]
    fn end_of_a_halt_with_more_free_slots_than_offers_touches_every_waiter() {
        for (count, touches) in [(OFFERS as u64, false), (OFFERS as u64 + 1, true)] {
            let (mut fixture, spec) = (Fixture::new(), spec(1, Some(count), 0));
            assert!(fixture.ask(&spec, "a", Request::Failed(0, true)));
            assert!(!fixture.ask(&spec, "b", Request::Change(0)));
            assert!(fixture.ask(&spec, "a", Request::Done(0)));
            assert_eq!(fixture.freed(), touches.then(Freed::default), "{count} slots");
        }
    }

    #[test]
    fn success_that_ends_halt_of_book_without_slots_touches_every_waiter() {
        let (mut fixture, spec) = (Fixture::new(), spec(1, None, 0));
        assert!(fixture.ask(&spec, "a", Request::Failed(0, true)));
        assert!(!fixture.ask(&spec, "b", Request::Change(0)));
        assert!(fixture.ask(&spec, "a", Request::Done(0)));
        assert_eq!(fixture.freed(), Some(Freed::default()));
    }

    #[test]
    fn holder_at_older_generation_touches_first_waiters() {
        let (mut fixture, old, new) = (Fixture::new(), spec(1, Some(1), 0), spec(2, Some(1), 0));
        assert!(fixture.ask(&old, "a", Request::Change(0)));
        fixture.accept(2);
        assert!(!fixture.ask(&new, "c", Request::Change(0)) && !fixture.ask(&new, "b", Request::Change(0)));
        assert!(fixture.ask(&old, "a", Request::Done(0)));
        assert_eq!(fixture.kinds(&old), [], "it may not admit");
        assert_eq!(fixture.freed(), Some(Freed { nodes: vec!["c".into()] }), "one slot, one waiter");
    }

    #[test]
    fn offer_of_older_generation_goes_to_next_waiter_when_it_is_refused() {
        let (mut fixture, old, new) = (Fixture::new(), spec(1, Some(1), 0), spec(2, Some(1), 0));
        assert!(fixture.ask(&old, "a", Request::Change(0)) && !fixture.ask(&old, "b", Request::Change(0)));
        assert!(fixture.ask(&old, "a", Request::Done(0)), "an offer for b");
        fixture.accept(2);
        assert!(!fixture.ask(&new, "c", Request::Change(0)));
        assert!(!fixture.ask(&new, "b", Request::Change(0)), "it queues again, at the end");
        assert_eq!(fixture.kinds(&new), [is("c", SlotState::Offer)]);
    }

    #[test]
    fn relabelled_holder_touches_waiters_of_its_former_partition_and_can_fail() {
        let partitions = |of_a: &str| {
            ["a", "b", "c", "d"].map(|node| (node.to_owned(), if node == "a" { of_a } else { "x" }.to_owned())).into()
        };
        let old = RolloutSpec { partitions: partitions("x"), ..spec(1, Some(1), 2) };
        let new = RolloutSpec { partitions: partitions("y"), ..spec(2, Some(1), 2) };
        for request in [Request::Done(0), Request::Failed(0, true)] {
            let mut fixture = Fixture::new();
            assert!(fixture.ask(&old, "a", Request::Change(0)));
            fixture.accept(2);
            assert!(!fixture.ask(&new, "b", Request::Change(0)));
            assert!(fixture.ask(&new, "a", request));
            assert_eq!(fixture.freed(), Some(Freed::default()), "{request:?}");
            assert!(fixture.ask(&new, "b", Request::Change(0)), "{request:?}");
        }
    }

    #[test]
    fn relabelled_waiter_refuses_offer_of_its_former_partition() {
        let partitions = |of_b: &str| {
            ["a", "b", "c", "d"].map(|node| (node.to_owned(), if node == "b" { of_b } else { "x" }.to_owned())).into()
        };
        let old = RolloutSpec { partitions: partitions("x"), ..spec(1, Some(1), 0) };
        let new = RolloutSpec { partitions: partitions("y"), ..spec(1, Some(1), 0) };
        let mut fixture = Fixture::new();
        assert!(fixture.ask(&old, "a", Request::Change(0)) && !fixture.ask(&old, "b", Request::Change(0)));
        assert!(fixture.ask(&old, "a", Request::Done(0)), "an offer for b");
        assert!(fixture.ask(&new, "b", Request::Change(0)), "it takes a slot of its own part");
        assert_eq!(
            fixture.snapshot(&new, "b").own_slot(&new, "b").map(|own_slot| own_slot.partition.as_str()),
            Some("y")
        );
    }

    #[test]
    fn write_off_and_removal_of_holder_offer_its_slot() {
        let skip = RolloutSpec { on_lost: OnLost::Skip, ..spec(1, Some(1), 0) };
        let mut gone = skip.clone();
        gone.known.retain(|node| node != "a");
        gone.members.remove("a");
        for (spec, lost) in [(&skip, true), (&gone, false)] {
            let mut fixture = Fixture::new();
            assert!(fixture.ask(&skip, "a", Request::Change(0)) && !fixture.ask(&skip, "b", Request::Change(0)));
            fixture.0.apply(&Txn { then: vec![Op::Delete(keys::alive("a"))], ..Txn::default() }).unwrap();
            let mut snapshot = fixture.snapshot(spec, "c");
            snapshot.lost.extend(lost.then(|| "a".to_owned()));
            fixture.0.apply(&next_maintenance(spec, &snapshot, "c").unwrap()).unwrap();
            let offers: Vec<_> =
                fixture.kinds(spec).into_iter().filter(|(_, kind)| *kind == SlotState::Offer).collect();
            assert_eq!(offers, [is("b", SlotState::Offer)], "lost: {lost}");
        }
    }

    #[test]
    fn writer_that_may_not_admit_wakes_every_waiter_while_nodes_have_failed() {
        let (mut fixture, spec) = (Fixture::new(), spec(1, Some(1), 1));
        for node in ["a", "b"] {
            assert!(fixture.ask(&spec, node, Request::Change(0)) && fixture.ask(&spec, node, Request::Failed(0, true)));
        }
        assert!(!fixture.ask(&spec, "c", Request::Change(0)), "the run is halted");
        // A node that left the targets knows only its slot.
        let minimal = RolloutSpec { book: spec.book.clone(), budget: spec.budget.clone(), ..RolloutSpec::default() };
        assert!(fixture.ask(&minimal, "a", Request::Leave));
        assert_eq!(fixture.freed(), Some(Freed::default()));
    }

    #[test]
    fn end_of_a_halt_in_a_budget_with_tasks_of_their_own_touches_every_waiter() {
        let (mut fixture, book) = (Fixture::new(), RolloutSpec { shared: true, ..spec(1, Some(1), 0) });
        let partitions = ["a", "b", "c", "d"].map(|node| (node.to_owned(), "=1-".to_owned())).into();
        let task = RolloutSpec { partitions, ..book.clone() };
        assert!(fixture.ask(&book, "a", Request::Change(0)) && fixture.ask(&book, "a", Request::Failed(0, true)));
        assert!(!fixture.ask(&task, "b", Request::Change(0)), "the run is halted");
        assert!(fixture.ask(&book, "a", Request::Done(0)));
        assert_eq!(fixture.freed(), Some(Freed::default()));
    }

    /// Returns a spec with 40 nodes, and a store in which these nodes are alive.
    fn crowd(count: u64) -> (Fixture, RolloutSpec, Vec<String>) {
        let nodes: Vec<String> = (0..40).map(|number| format!("n{number:02}")).collect();
        let members = nodes.iter().map(|node| (node.clone(), 0)).collect();
        let spec = RolloutSpec { members, known: nodes.clone(), ..spec(1, Some(count), 0) };
        let mut fixture = Fixture::new();
        let then = nodes.iter().map(|node| Op::put(keys::alive(node), Vec::new())).collect();
        fixture.0.apply(&Txn { then, ..Txn::default() }).unwrap();
        (fixture, spec, nodes)
    }

    /// Puts a node into the queue without an admission.
    fn queue(fixture: &mut Fixture, spec: &RolloutSpec, node: &str, run: &str) {
        let entry = crate::rollout::Queued { run: run.to_owned(), segment: 0, accepted: spec.accepted.clone() };
        let key = keys::queue(&spec.budget, "-", &spec.book, node);
        fixture.0.apply(&Txn { then: vec![Op::put(key, bytes(&entry))], ..Txn::default() }).unwrap();
    }

    #[test]
    fn waiters_beyond_the_window_of_the_queue_take_the_slots_that_it_leaves_free() {
        let (mut fixture, spec, nodes) = crowd(20);
        for node in &nodes {
            queue(&mut fixture, &spec, node, &spec.run);
        }
        let late = nodes.iter().rev().filter(|node| fixture.ask(&spec, node, Request::Change(0))).count();
        assert_eq!(late, 20, "as many as there are slots");
    }

    #[test]
    fn release_after_a_window_of_void_queue_entries_touches_every_waiter() {
        let (mut fixture, spec, nodes) = crowd(1);
        assert!(fixture.ask(&spec, "n39", Request::Change(0)));
        for node in &nodes[..20] {
            queue(&mut fixture, &spec, node, "n/b@0");
        }
        assert!(!fixture.ask(&spec, "n30", Request::Change(0)));
        assert!(fixture.ask(&spec, "n39", Request::Done(0)));
        assert_eq!(fixture.freed(), Some(Freed::default()));
        assert!(fixture.ask(&spec, "n30", Request::Change(0)));
    }

    #[test]
    fn release_of_a_lost_claim_is_compared_with_failures_that_follow() {
        let (mut fixture, spec) = (Fixture::new(), RolloutSpec { on_lost: OnLost::Fail, ..spec(1, Some(2), 1) });
        for node in ["a", "b"] {
            assert!(fixture.ask(&spec, node, Request::Change(0)));
        }
        let lost = SlotRecord { lost: true, ..fixture.snapshot(&spec, "a").own_slot(&spec, "a").unwrap().held.clone() };
        let key = keys::held(&spec.budget, "-", &spec.book, "a");
        fixture.0.apply(&Txn { then: vec![Op::put(key, bytes(&lost))], ..Txn::default() }).unwrap();
        for node in ["c", "d"] {
            assert!(!fixture.ask(&spec, node, Request::Change(0)));
        }
        let success = prepared(&fixture, &spec, "a", Request::Done(0));
        assert!(fixture.ask(&spec, "b", Request::Failed(0, true)), "it halts the run");
        assert!(is_refused(&mut fixture, &success));
        assert!(fixture.ask(&spec, "a", Request::Done(0)));
        let offers = fixture.kinds(&spec).into_iter().filter(|(_, kind)| *kind == SlotState::Offer).count();
        assert_eq!(offers, 2);
    }
}
