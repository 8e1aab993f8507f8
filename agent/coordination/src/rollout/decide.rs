//! What a node does next with what it wants of a run: a slot, a vote, or to be out of it.

use serde::Serialize;

use super::{
    BlockReason, Decision, Queued, RolloutSpec, RunSnapshot, SlotEntry, SlotRecord, SlotState, Vote,
    offer::{eligible, offer_on},
};
use crate::{
    keys,
    store::{Compare, Op, Txn},
};

/// What a node wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Request {
    /// To be in a segment.
    Enter(u32),
    /// To change something in a segment.
    Change(u32),
    /// To change something outside of segments: what interrupts, and is not the run's.
    Correct,
    /// To say that it is done with a segment.
    Done(u32),
    /// To say that it failed in a segment.
    Failed(u32),
    /// To go away for a while (seconds), in the midst of a segment: nobody is to take it for lost before that.
    Absent(u32, u64),
    /// To hold nothing: it is no target any more, or has put right what it wanted to.
    Leave,
}

/// What comes next.
pub fn decide(spec: &RolloutSpec, snapshot: &RunSnapshot, me: &str, want: Request) -> Decision {
    match want {
        Request::Enter(segment) => match enter(spec, snapshot, me, segment) {
            Ok(()) => Decision::Go,
            Err(hold) => Decision::Wait(hold),
        },
        Request::Change(segment) => change(spec, snapshot, me, Some(segment)),
        Request::Correct => change(spec, snapshot, me, None),
        Request::Done(segment) => done(spec, snapshot, me, segment),
        Request::Failed(segment) => failed(spec, snapshot, me, segment),
        Request::Absent(segment, seconds) => absent(spec, snapshot, me, segment, seconds),
        Request::Leave => leave(spec, snapshot, me),
    }
}

/// Whether a node may be in a segment.
fn enter(spec: &RolloutSpec, snapshot: &RunSnapshot, me: &str, segment: u32) -> Result<(), BlockReason> {
    if snapshot.needs_republish(me) {
        return Err(BlockReason::Recovery);
    }
    if snapshot.may_enter(spec, me, segment) {
        return Ok(());
    }
    Err(if snapshot.open_waves(spec, segment) == 0 { BlockReason::Barrier } else { BlockReason::Wave })
}

fn change(spec: &RolloutSpec, snapshot: &RunSnapshot, me: &str, segment: Option<u32>) -> Decision {
    if !snapshot.leased {
        return Decision::Wait(BlockReason::Lease);
    }
    // A claim that came back with a backup may be of a node that was written off since: who holds one waits like others
    // until all have said what they hold.
    if snapshot.needs_republish(me) || !snapshot.recovery_complete(spec) {
        return Decision::Wait(BlockReason::Recovery);
    }
    let mine = snapshot.mine(spec, me);
    match mine.map(|mine| (mine.held.kind, mine)) {
        Some((SlotState::Claim, mine)) if mine.held.lost || mine.held.absent > 0 => {
            // It is back: what it holds no longer counts as a failure, nor as something that is away on purpose.
            let held = SlotRecord { lost: false, absent: 0, ..mine.held.clone() };
            let mut txn = replace(spec, mine, &held);
            offer_on(spec, snapshot, me, mine, Some(&held), &mut txn);
            return Decision::Commit(txn);
        }
        // Who is away already goes on: with its claim, or trying again what failed.
        Some((SlotState::Claim | SlotState::Failure, _)) => return Decision::Go,
        Some((SlotState::Lost, mine)) => return Decision::Commit(release(spec, snapshot, me, mine)),
        _ => {}
    }
    if let Some(segment) = segment
        && let Err(hold) = enter(spec, snapshot, me, segment)
    {
        return Decision::Wait(hold);
    }
    // Who is behind lets nobody in, itself included.
    let Some(unmoved) = snapshot.admission_guards(spec) else {
        return Decision::Wait(if snapshot.stabilizing { BlockReason::Stabilizing } else { BlockReason::Behind });
    };
    let hidden_claims = u64::try_from(snapshot.hidden_claims.len()).unwrap_or(u64::MAX);
    if let Some(mine) = mine.filter(|mine| mine.held.kind == SlotState::Offer) {
        if spec.count.is_some_and(|count| snapshot.taken(&mine.part).saturating_add(hidden_claims) > count) {
            return Decision::Wait(BlockReason::HiddenClaims);
        }
        return Decision::Commit(take(spec, snapshot, me, mine, unmoved, segment));
    }
    if spec.count.is_none() {
        return if snapshot.halted(spec) { Decision::Wait(BlockReason::Halted) } else { Decision::Go };
    }
    let run = run_of(spec, segment);
    match &snapshot.queued {
        // A place in the queue of an earlier run, or of an earlier segment, is given up.
        Some((queued, modified)) if queued.run != run || queued.segment != segment.unwrap_or(0) => {
            let key = own_queue(spec, me);
            Decision::Commit(Txn {
                compare: vec![Compare::Revision(key.clone(), *modified)],
                then: vec![Op::Delete(key)],
                otherwise: Vec::new(),
            })
        }
        // It waits in the queue, so that the end of the halt offers it a slot.
        Some(_) if snapshot.halted(spec) => Decision::Wait(BlockReason::Halted),
        Some((_, modified)) => {
            // As many as there are free slots take one each, those first who wait longest.
            let count = spec.count.unwrap_or(0).saturating_sub(snapshot.taken(spec.part(me)));
            let mut first = eligible(spec, snapshot, spec.part(me), None).take(usize::try_from(count).unwrap_or(0));
            if first.any(|entry| entry.node == me && entry.book == spec.book) {
                if hidden_claims > 0
                    && snapshot.taken(spec.part(me)).saturating_add(hidden_claims) >= spec.count.unwrap_or(0)
                {
                    return Decision::Wait(BlockReason::HiddenClaims);
                }
                Decision::Commit(claim_free(spec, snapshot, me, *modified, unmoved, segment))
            } else {
                Decision::Wait(BlockReason::Slot)
            }
        }
        None => Decision::Commit(enqueue(spec, me, mine, unmoved, &run, segment)),
    }
}

pub(super) fn run_of(spec: &RolloutSpec, segment: Option<u32>) -> String {
    segment.map_or_else(|| drift_of(&spec.book), |_| spec.run.clone())
}

/// The name by which drift of a book is put right: it belongs to no run.
pub fn drift_of(book: &str) -> String {
    format!("{book}!drift")
}

fn enqueue(
    spec: &RolloutSpec,
    me: &str,
    mine: Option<&SlotEntry>,
    unmoved: Vec<Compare>,
    run: &str,
    segment: Option<u32>,
) -> Txn {
    let key = own_queue(spec, me);
    let queued = Queued { run: run.to_owned(), segment: segment.unwrap_or(0), generation: spec.generation };
    // A node whose label has changed may hold something of another part.
    let unchanged = match mine {
        Some(mine) => Compare::Revision(keys::held(&spec.group, &mine.part, &spec.book, me), mine.modified),
        None => Compare::Absent(own_held(spec, me)),
    };
    let mut compare = unmoved;
    compare.extend([Compare::Absent(key.clone()), unchanged]);
    Txn { compare, then: vec![Op::put(key, bytes(&queued))], otherwise: Vec::new() }
}

/// Takes a slot that was offered. An offer of another generation, or of a part that the node has left, is void: it goes
/// to the next waiter, and the node queues again, at the end.
fn take(
    spec: &RolloutSpec,
    snapshot: &RunSnapshot,
    me: &str,
    mine: &SlotEntry,
    unmoved: Vec<Compare>,
    segment: Option<u32>,
) -> Txn {
    if mine.held.generation != spec.generation || mine.part != spec.part(me) {
        return release(spec, snapshot, me, mine);
    }
    let key = own_held(spec, me);
    let mut compare = unmoved;
    compare.push(Compare::Revision(key.clone(), mine.modified));
    let then = vec![Op::put(key, bytes(&claim(spec, segment))), Op::Delete(keys::offer_notice(me, &spec.group))];
    Txn { compare, then, otherwise: Vec::new() }
}

fn claim(spec: &RolloutSpec, segment: Option<u32>) -> SlotRecord {
    SlotRecord {
        kind: SlotState::Claim,
        run: run_of(spec, segment),
        segment: segment.unwrap_or(0),
        generation: spec.generation,
        lost: false,
        absent: 0,
    }
}

/// Writes into the own claim that the node goes away for a while; where there are no slots it gets one for that.
fn absent(spec: &RolloutSpec, snapshot: &RunSnapshot, me: &str, segment: u32, seconds: u64) -> Decision {
    match snapshot.mine(spec, me) {
        Some(mine) if mine.held.kind == SlotState::Claim && mine.held.absent == seconds => Decision::Go,
        Some(mine) if mine.held.kind == SlotState::Claim => {
            Decision::Commit(replace(spec, mine, &SlotRecord { absent: seconds, ..mine.held.clone() }))
        }
        // Who failed, or was written off, counts as it is.
        Some(mine) if mine.held.kind != SlotState::Offer => Decision::Go,
        None if spec.count.is_none() => {
            let key = own_held(spec, me);
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

/// Takes a free slot, as who waits longest: no claim, offer or failure may be newer than what was read.
fn claim_free(
    spec: &RolloutSpec,
    snapshot: &RunSnapshot,
    me: &str,
    queued: u64,
    unmoved: Vec<Compare>,
    segment: Option<u32>,
) -> Txn {
    let queue = own_queue(spec, me);
    let mut compare = unmoved;
    compare.push(Compare::NoneNewer(keys::all_held(&spec.group), snapshot.revision));
    compare.push(Compare::Revision(queue.clone(), queued));
    let then = vec![Op::Delete(queue), Op::put(own_held(spec, me), bytes(&claim(spec, segment)))];
    Txn { compare, then, otherwise: Vec::new() }
}

/// Votes and gives back what it holds, to who waits longest.
fn done(spec: &RolloutSpec, snapshot: &RunSnapshot, me: &str, segment: u32) -> Decision {
    let mine = snapshot.mine(spec, me);
    let vote = keys::vote(&spec.run, segment, spec.is_member(me), me);
    let put = Op::put(vote.clone(), bytes(&Vote { run: spec.run.clone(), segment, generation: spec.generation }));
    match mine {
        None if snapshot.voted.contains(&segment) => withdraw(spec, snapshot, me),
        None => Decision::Commit(Txn {
            compare: vec![Compare::Absent(vote), Compare::Absent(own_held(spec, me))],
            then: vec![put],
            otherwise: Vec::new(),
        }),
        Some(mine) => {
            let mut txn = release(spec, snapshot, me, mine);
            if !snapshot.voted.contains(&segment) {
                txn.then.push(put);
            }
            Decision::Commit(txn)
        }
    }
}

/// Gives back a claim, an offer or a failure. The slots that are free after it go to the next waiters.
pub(super) fn release(spec: &RolloutSpec, snapshot: &RunSnapshot, me: &str, mine: &SlotEntry) -> Txn {
    let mut txn = delete(spec, mine);
    if mine.held.kind == SlotState::Offer {
        txn.then.push(Op::Delete(keys::offer_notice(me, &spec.group)));
    }
    offer_on(spec, snapshot, me, mine, None, &mut txn);
    txn
}

fn failed(spec: &RolloutSpec, snapshot: &RunSnapshot, me: &str, segment: u32) -> Decision {
    let failure = SlotRecord {
        kind: SlotState::Failure,
        run: spec.run.clone(),
        segment,
        generation: spec.generation,
        lost: false,
        absent: 0,
    };
    let put = |key: String, compare: Compare| Txn {
        compare: vec![compare],
        then: vec![Op::put(key, bytes(&failure)), Op::Delete(keys::offer_notice(me, &spec.group))],
        otherwise: Vec::new(),
    };
    match snapshot.mine(spec, me) {
        Some(mine) if mine.held.kind == SlotState::Failure && mine.held.run == spec.run => withdraw(spec, snapshot, me),
        Some(mine) => {
            // A node whose label has changed holds a slot of its former part.
            let key = keys::held(&spec.group, &mine.part, &spec.book, me);
            let mut txn = put(key.clone(), Compare::Revision(key, mine.modified));
            offer_on(spec, snapshot, me, mine, Some(&failure), &mut txn);
            Decision::Commit(txn)
        }
        None => {
            let key = own_held(spec, me);
            Decision::Commit(put(key.clone(), Compare::Absent(key)))
        }
    }
}

/// Holds nothing any more.
fn leave(spec: &RolloutSpec, snapshot: &RunSnapshot, me: &str) -> Decision {
    match snapshot.mine(spec, me) {
        Some(mine) => Decision::Commit(release(spec, snapshot, me, mine)),
        None => withdraw(spec, snapshot, me),
    }
}

/// Leaves the queue, where it is in it.
fn withdraw(spec: &RolloutSpec, snapshot: &RunSnapshot, me: &str) -> Decision {
    let Some((_, modified)) = &snapshot.queued else { return Decision::Go };
    let key = own_queue(spec, me);
    Decision::Commit(Txn {
        compare: vec![Compare::Revision(key.clone(), *modified)],
        then: vec![Op::Delete(key)],
        otherwise: Vec::new(),
    })
}

/// A record takes the place of another.
pub(super) fn replace(spec: &RolloutSpec, old: &SlotEntry, new: &SlotRecord) -> Txn {
    let key = keys::held(&spec.group, &old.part, &old.book, &old.node);
    Txn {
        compare: vec![Compare::Revision(key.clone(), old.modified)],
        then: vec![Op::put(key, bytes(new))],
        otherwise: Vec::new(),
    }
}

/// A record goes.
pub(super) fn delete(spec: &RolloutSpec, old: &SlotEntry) -> Txn {
    let key = keys::held(&spec.group, &old.part, &old.book, &old.node);
    Txn {
        compare: vec![Compare::Revision(key.clone(), old.modified)],
        then: vec![Op::Delete(key)],
        otherwise: Vec::new(),
    }
}

pub(super) fn own_held(spec: &RolloutSpec, me: &str) -> String {
    keys::held(&spec.group, spec.part(me), &spec.book, me)
}

fn own_queue(spec: &RolloutSpec, me: &str) -> String {
    keys::queue(&spec.group, spec.part(me), &spec.book, me)
}

pub(super) fn bytes<T: Serialize>(record: &T) -> Vec<u8> {
    // Plain structs always have a form.
    serde_json::to_vec(record).unwrap_or_default()
}
