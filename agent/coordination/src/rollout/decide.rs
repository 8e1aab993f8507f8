//! Decides the next step of a node in a rollout: the node takes a slot, votes, waits, or does another step.

use super::{
    BlockReason, Decision, Entry, Queued, RolloutSpec, RunSnapshot, SlotEntry, SlotRecord, SlotState, Vote,
    offer::{eligible, offer_on},
    slots::{bytes, delete, own_held, replace},
    spec::run_of,
};
use crate::{
    keys,
    store::{Compare, Op, Txn},
};

/// The action that a node wants to take in a rollout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Request {
    /// The node wants to enter a segment.
    Enter(u32),
    /// The node wants to change something in a segment.
    Change(u32),
    /// The node wants to correct drift with a disruptive change. The change is not part of a run.
    Correct,
    /// The node has completed a segment.
    Done(u32),
    /// The node has failed in a segment. The variant also states whether the node already had the permission to change
    /// something in the segment.
    Failed(u32, bool),
    /// The node announces that it will be absent during a segment, for the given number of seconds. A node does not
    /// count as lost during its announced absence.
    Absent(u32, u64),
    /// The node wants to delete its slot record and its queue entry. A node leaves when it is no longer a target, or
    /// after it has corrected drift.
    Leave,
}

impl Request {
    /// Returns the segment that the request names. `None` for a request without a segment.
    pub fn segment(self) -> Option<u32> {
        match self {
            Self::Enter(segment)
            | Self::Change(segment)
            | Self::Done(segment)
            | Self::Failed(segment, _)
            | Self::Absent(segment, _) => Some(segment),
            Self::Correct | Self::Leave => None,
        }
    }
}

/// Decides the next step of the node `own_node`, which has made a request.
pub fn decide(spec: &RolloutSpec, snapshot: &RunSnapshot, own_node: &str, request: Request) -> Decision {
    match request {
        Request::Enter(segment) => match (returned(spec, snapshot, own_node), enter(spec, snapshot, own_node, segment))
        {
            (Some(release), _) => Decision::Commit(release),
            (None, Ok(())) => Decision::Go,
            (None, Err(reason)) => Decision::Wait(reason),
        },
        Request::Change(segment) => change(spec, snapshot, own_node, Some(segment)),
        Request::Correct => change(spec, snapshot, own_node, None),
        Request::Done(segment) => done(spec, snapshot, own_node, segment),
        Request::Failed(segment, admitted) => failed(spec, snapshot, own_node, segment, admitted),
        Request::Absent(segment, seconds) => absent(spec, snapshot, own_node, segment, seconds),
        Request::Leave => leave(spec, snapshot, own_node),
    }
}

/// Returns the transaction that removes an outdated slot record of this node. A slot record is outdated if it records a
/// loss, or a failure in an earlier run in which the node changed nothing. `None` if the node has no outdated record.
/// With the outdated record, the node still counts as failed, so that no wave opens (P60).
fn returned(spec: &RolloutSpec, snapshot: &RunSnapshot, own_node: &str) -> Option<Txn> {
    let is_over = |held: &SlotRecord| match held.kind {
        SlotState::Lost => true,
        SlotState::Unadmitted => held.run != spec.run,
        _ => false,
    };
    let own_slot = snapshot.own_slot(spec, own_node).filter(|own_slot| is_over(&own_slot.held))?;
    // Without a lease, other nodes are about to record the loss again.
    let may_write = snapshot.leased && !snapshot.needs_republish(own_node);
    may_write.then(|| release(spec, snapshot, own_node, own_slot))
}

/// Checks that a node may enter a segment. Returns the reason if the node must wait.
fn enter(spec: &RolloutSpec, snapshot: &RunSnapshot, own_node: &str, segment: u32) -> Result<(), BlockReason> {
    if snapshot.needs_republish(own_node) {
        return Err(BlockReason::Recovery);
    }
    if snapshot.may_enter(spec, own_node, segment) {
        return Ok(());
    }
    Err(if snapshot.open_waves(spec, segment) == 0 { BlockReason::Barrier } else { BlockReason::Wave })
}

fn change(spec: &RolloutSpec, snapshot: &RunSnapshot, own_node: &str, segment: Option<u32>) -> Decision {
    if !snapshot.leased {
        return Decision::Wait(BlockReason::Lease);
    }
    // A claim from a backup may belong to a node that was written off after the backup. Therefore even a node with a
    // claim waits until every node has republished its claims.
    if snapshot.needs_republish(own_node) || !snapshot.recovery_complete(spec) {
        return Decision::Wait(BlockReason::Recovery);
    }
    let own_slot = snapshot.own_slot(spec, own_node);
    match own_slot.map(|own_slot| (own_slot.held.kind, own_slot)) {
        Some((SlotState::Claim | SlotState::Failure, own_slot)) if own_slot.held.lost || own_slot.held.absent > 0 => {
            // The node has returned, so it no longer counts as lost or absent.
            let held = SlotRecord { lost: false, absent: 0, ..own_slot.held.clone() };
            let mut txn = replace(spec, own_slot, &held);
            offer_on(spec, snapshot, own_node, own_slot, Some(&held), &mut txn);
            return Decision::Commit(txn);
        }
        // A node with a claim or a failure is already disrupted, so it continues without a new slot (P49).
        Some((SlotState::Claim | SlotState::Failure, _)) => return Decision::Go,
        // The check that failed before the admission succeeds now. The node has changed nothing, so it queues.
        Some((SlotState::Lost | SlotState::Unadmitted, own_slot)) => {
            return Decision::Commit(release(spec, snapshot, own_node, own_slot));
        }
        _ => {}
    }
    if let Some(segment) = segment
        && let Err(reason) = enter(spec, snapshot, own_node, segment)
    {
        return Decision::Wait(reason);
    }
    // A node that has not loaded the accepted revision admits no node, including itself (P52).
    let Some(guards) = snapshot.admission_guards(spec) else {
        return Decision::Wait(if snapshot.stabilizing { BlockReason::Stabilizing } else { BlockReason::Behind });
    };
    let hidden_claims = u64::try_from(snapshot.hidden_claims.len()).unwrap_or(u64::MAX);
    if let Some(own_slot) = own_slot.filter(|own_slot| own_slot.held.kind == SlotState::Offer) {
        if spec.count.is_some_and(|count| snapshot.taken(&own_slot.partition).saturating_add(hidden_claims) > count) {
            return Decision::Wait(BlockReason::HiddenClaims);
        }
        return Decision::Commit(take(spec, snapshot, own_node, own_slot, guards, segment));
    }
    if spec.count.is_none() {
        return if snapshot.halted(spec) { Decision::Wait(BlockReason::Halted) } else { Decision::Go };
    }
    let run = run_of(spec, segment);
    match &snapshot.queued {
        // A queue entry of an earlier run or segment is void.
        Some((queued, modified)) if queued.run != run || queued.segment != segment.unwrap_or(0) => {
            let key = own_queue(spec, own_node);
            Decision::Commit(Txn {
                compare: vec![Compare::Revision(key.clone(), *modified)],
                then: vec![Op::Delete(key)],
                otherwise: Vec::new(),
            })
        }
        // The entry stays in the queue, so that the writer that ends the halt can offer a slot to this node.
        Some(_) if snapshot.halted(spec) => Decision::Wait(BlockReason::Halted),
        Some((_, modified)) => {
            // Each of the first waiters takes one free slot.
            let count = spec.count.unwrap_or(0).saturating_sub(snapshot.taken(spec.partition(own_node)));
            let first =
                eligible(spec, snapshot, spec.partition(own_node), None).take(usize::try_from(count).unwrap_or(0));
            let first: Vec<&Entry> = first.collect();
            let own = |entry: &Entry| entry.node == own_node && entry.book == spec.book;
            // With more free slots than the snapshot has waiters, a waiter that it leaves out takes one, too.
            let is_left_out = snapshot.queue_is_cut() && !snapshot.queue.iter().any(own);
            if first.iter().any(|entry| own(entry)) || is_left_out && (first.len() as u64) < count {
                if hidden_claims > 0
                    && snapshot.taken(spec.partition(own_node)).saturating_add(hidden_claims) >= spec.count.unwrap_or(0)
                {
                    return Decision::Wait(BlockReason::HiddenClaims);
                }
                Decision::Commit(claim_free(spec, snapshot, own_node, *modified, guards, segment))
            } else {
                Decision::Wait(BlockReason::Slot)
            }
        }
        None => Decision::Commit(enqueue(spec, own_node, own_slot, guards, &run, segment)),
    }
}

fn enqueue(
    spec: &RolloutSpec,
    own_node: &str,
    own_slot: Option<&SlotEntry>,
    guards: Vec<Compare>,
    run: &str,
    segment: Option<u32>,
) -> Txn {
    let key = own_queue(spec, own_node);
    let queued = Queued { run: run.to_owned(), segment: segment.unwrap_or(0), accepted: spec.accepted.clone() };
    // A node whose label has changed may still hold a slot of its former partition.
    let unchanged = match own_slot {
        Some(own_slot) => {
            Compare::Revision(keys::held(&spec.budget, &own_slot.partition, &spec.book, own_node), own_slot.modified)
        }
        None => Compare::Absent(own_held(spec, own_node)),
    };
    let mut compare = guards;
    compare.extend([Compare::Absent(key.clone()), unchanged]);
    Txn { compare, then: vec![Op::put(key, bytes(&queued))], otherwise: Vec::new() }
}

/// Returns the transaction that takes an offered slot. If the offer belongs to another acceptance or to the node's
/// former partition, the node passes the slot to the next waiter, and then joins the end of the queue (P54).
fn take(
    spec: &RolloutSpec,
    snapshot: &RunSnapshot,
    own_node: &str,
    own_slot: &SlotEntry,
    guards: Vec<Compare>,
    segment: Option<u32>,
) -> Txn {
    if own_slot.held.accepted != spec.accepted || own_slot.partition != spec.partition(own_node) {
        return release(spec, snapshot, own_node, own_slot);
    }
    let key = own_held(spec, own_node);
    let mut compare = guards;
    compare.push(Compare::Revision(key.clone(), own_slot.modified));
    let then = vec![Op::put(key, bytes(&claim(spec, segment))), Op::Delete(keys::offer_notice(own_node, &spec.budget))];
    Txn { compare, then, otherwise: Vec::new() }
}

fn claim(spec: &RolloutSpec, segment: Option<u32>) -> SlotRecord {
    SlotRecord {
        kind: SlotState::Claim,
        run: run_of(spec, segment),
        segment: segment.unwrap_or(0),
        accepted: spec.accepted.clone(),
        lost: false,
        absent: 0,
    }
}

/// Decides how a node announces an absence: the node writes the announcement into its claim (P59). In a book without a
/// slot limit, the node first creates a claim.
fn absent(spec: &RolloutSpec, snapshot: &RunSnapshot, own_node: &str, segment: u32, seconds: u64) -> Decision {
    match snapshot.own_slot(spec, own_node) {
        Some(own_slot) if own_slot.held.kind == SlotState::Claim && own_slot.held.absent == seconds => Decision::Go,
        Some(own_slot) if own_slot.held.kind == SlotState::Claim => {
            Decision::Commit(replace(spec, own_slot, &SlotRecord { absent: seconds, ..own_slot.held.clone() }))
        }
        // A node that failed or was written off already counts as away, so its record needs no change.
        Some(own_slot) if own_slot.held.kind != SlotState::Offer => Decision::Go,
        None if spec.count.is_none() => {
            let key = own_held(spec, own_node);
            let held = SlotRecord { absent: seconds, ..claim(spec, Some(segment)) };
            Decision::Commit(Txn {
                compare: vec![Compare::Absent(key.clone())],
                then: vec![Op::put(key, bytes(&held))],
                otherwise: Vec::new(),
            })
        }
        _ => Decision::Wait(BlockReason::Slot),
    }
}

/// Returns the transaction that takes a free slot for a waiting node. The transaction fails if a slot record of the
/// budget has changed since the snapshot (P56).
fn claim_free(
    spec: &RolloutSpec,
    snapshot: &RunSnapshot,
    own_node: &str,
    queued: u64,
    guards: Vec<Compare>,
    segment: Option<u32>,
) -> Txn {
    let queue = own_queue(spec, own_node);
    let mut compare = guards;
    compare.push(Compare::NoneNewer(keys::all_held(&spec.budget), snapshot.revision));
    compare.push(Compare::Revision(queue.clone(), queued));
    let then = vec![Op::Delete(queue), Op::put(own_held(spec, own_node), bytes(&claim(spec, segment)))];
    Txn { compare, then, otherwise: Vec::new() }
}

/// Decides how a node ends a completed segment: the node votes, and passes its slot to the next waiters (P53).
fn done(spec: &RolloutSpec, snapshot: &RunSnapshot, own_node: &str, segment: u32) -> Decision {
    let own_slot = snapshot.own_slot(spec, own_node);
    let vote = keys::vote(&spec.run, segment, spec.is_member(own_node), own_node);
    let put = Op::put(vote.clone(), bytes(&Vote { run: spec.run.clone(), segment, accepted: spec.accepted.clone() }));
    // A node that has lost its journal, or repeats a vote, completes a segment again. Then a record of a later segment
    // of the run is still valid (P49).
    let is_later = |held: &SlotRecord| held.kind != SlotState::Lost && held.run == spec.run && held.segment > segment;
    if let Some(later) = own_slot.filter(|own_slot| is_later(&own_slot.held)) {
        if snapshot.voted.contains(&segment) {
            return Decision::Go;
        }
        let key = keys::held(&spec.budget, &later.partition, &spec.book, own_node);
        let compare = vec![Compare::Absent(vote), Compare::Revision(key, later.modified)];
        return Decision::Commit(Txn { compare, then: vec![put], otherwise: Vec::new() });
    }
    match own_slot {
        None if snapshot.voted.contains(&segment) => withdraw(spec, snapshot, own_node),
        None => Decision::Commit(Txn {
            compare: vec![Compare::Absent(vote), Compare::Absent(own_held(spec, own_node))],
            then: vec![put],
            otherwise: Vec::new(),
        }),
        Some(own_slot) => {
            let mut txn = release(spec, snapshot, own_node, own_slot);
            if !snapshot.voted.contains(&segment) {
                txn.then.push(put);
            }
            Decision::Commit(txn)
        }
    }
}

/// Returns the transaction that deletes this node's slot record (a claim, an offer or a failure), and offers the free
/// slots to the next waiters.
pub(super) fn release(spec: &RolloutSpec, snapshot: &RunSnapshot, own_node: &str, own_slot: &SlotEntry) -> Txn {
    let mut txn = delete(spec, own_slot);
    if own_slot.held.kind == SlotState::Offer {
        txn.then.push(Op::Delete(keys::offer_notice(own_node, &spec.budget)));
    }
    offer_on(spec, snapshot, own_node, own_slot, None, &mut txn);
    txn
}

fn failed(spec: &RolloutSpec, snapshot: &RunSnapshot, own_node: &str, segment: u32, admitted: bool) -> Decision {
    // Only a node that was admitted may have changed something, so only such a node continues without a new slot.
    let kind = match snapshot.own_slot(spec, own_node).map(|own_slot| own_slot.held.kind) {
        Some(SlotState::Claim | SlotState::Failure) => SlotState::Failure,
        // The node may be half changed, and a run has used one of its write-offs for it (P60, P61).
        Some(SlotState::WrittenOff) => return withdraw(spec, snapshot, own_node),
        _ if admitted => SlotState::Failure,
        _ => SlotState::Unadmitted,
    };
    let failure =
        SlotRecord { kind, run: spec.run.clone(), segment, accepted: spec.accepted.clone(), lost: false, absent: 0 };
    let put = |key: String, compare: Compare| Txn {
        compare: vec![compare],
        then: vec![Op::put(key, bytes(&failure)), Op::Delete(keys::offer_notice(own_node, &spec.budget))],
        otherwise: Vec::new(),
    };
    match snapshot.own_slot(spec, own_node) {
        Some(own_slot) if own_slot.held.kind == kind && own_slot.held.run == spec.run => {
            withdraw(spec, snapshot, own_node)
        }
        Some(own_slot) => {
            // A node whose label has changed holds a slot of its former partition.
            let key = keys::held(&spec.budget, &own_slot.partition, &spec.book, own_node);
            let mut txn = put(key.clone(), Compare::Revision(key, own_slot.modified));
            offer_on(spec, snapshot, own_node, own_slot, Some(&failure), &mut txn);
            Decision::Commit(txn)
        }
        None => {
            let key = own_held(spec, own_node);
            Decision::Commit(put(key.clone(), Compare::Absent(key)))
        }
    }
}

/// Decides how a node leaves the rollout: the node deletes its slot record or its queue entry (P66).
fn leave(spec: &RolloutSpec, snapshot: &RunSnapshot, own_node: &str) -> Decision {
    match snapshot.own_slot(spec, own_node) {
        Some(own_slot) => Decision::Commit(release(spec, snapshot, own_node, own_slot)),
        None => withdraw(spec, snapshot, own_node),
    }
}

/// Decides how a node leaves the queue: the node deletes its queue entry.
fn withdraw(spec: &RolloutSpec, snapshot: &RunSnapshot, own_node: &str) -> Decision {
    let Some((_, modified)) = &snapshot.queued else { return Decision::Go };
    let key = own_queue(spec, own_node);
    Decision::Commit(Txn {
        compare: vec![Compare::Revision(key.clone(), *modified)],
        then: vec![Op::Delete(key)],
        otherwise: Vec::new(),
    })
}

fn own_queue(spec: &RolloutSpec, own_node: &str) -> String {
    keys::queue(&spec.budget, spec.partition(own_node), &spec.book, own_node)
}
