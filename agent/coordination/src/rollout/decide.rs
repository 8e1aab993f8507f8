//! What a node does next with what it wants of a run: a slot, a vote, or to be out of it.

use serde::Serialize;

use super::{
    Held, HeldBy, Hold, Kind, Queued, Spec, Step, View, Vote,
    offer::{eligible, offer_on},
};
use crate::{
    keys,
    store::{Compare, Op, Txn},
};

/// What a node wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Want {
    /// To be in a stretch.
    Enter(u32),
    /// To change something in a stretch.
    Change(u32),
    /// To change something outside of stretches: what interrupts, and is not the run's.
    Correct,
    /// To say that it is done with a stretch.
    Done(u32),
    /// To say that it failed in a stretch.
    Failed(u32),
    /// To go away for a while (seconds), in the midst of a stretch: nobody is to take it for lost before that.
    Absent(u32, u64),
    /// To hold nothing: it is no target any more, or has put right what it wanted to.
    Leave,
}

/// What comes next.
pub fn decide(spec: &Spec, view: &View, me: &str, want: Want) -> Step {
    match want {
        Want::Enter(stretch) => match enter(spec, view, me, stretch) {
            Ok(()) => Step::Go,
            Err(hold) => Step::Hold(hold),
        },
        Want::Change(stretch) => change(spec, view, me, Some(stretch)),
        Want::Correct => change(spec, view, me, None),
        Want::Done(stretch) => done(spec, view, me, stretch),
        Want::Failed(stretch) => failed(spec, view, me, stretch),
        Want::Absent(stretch, seconds) => absent(spec, view, me, stretch, seconds),
        Want::Leave => leave(spec, view, me),
    }
}

/// Whether a node may be in a stretch.
fn enter(spec: &Spec, view: &View, me: &str, stretch: u32) -> Result<(), Hold> {
    if view.owes(me) {
        return Err(Hold::Restored);
    }
    if view.may_enter(spec, me, stretch) {
        return Ok(());
    }
    Err(if view.open_waves(spec, stretch) == 0 { Hold::Barrier } else { Hold::Wave })
}

fn change(spec: &Spec, view: &View, me: &str, stretch: Option<u32>) -> Step {
    if !view.leased {
        return Step::Hold(Hold::Lease);
    }
    // A claim that came back with a backup may be of a node that was written off since: who holds one waits like others
    // until all have said what they hold.
    if view.owes(me) || !view.is_whole(spec) {
        return Step::Hold(Hold::Restored);
    }
    let mine = view.mine(spec, me);
    match mine.map(|mine| (mine.held.kind, mine)) {
        Some((Kind::Claim, mine)) if mine.held.lost || mine.held.absent > 0 => {
            // It is back: what it holds no longer counts as a failure, nor as something that is away on purpose.
            let held = Held { lost: false, absent: 0, ..mine.held.clone() };
            let mut txn = replace(spec, mine, &held);
            offer_on(spec, view, me, mine, Some(&held), &mut txn);
            return Step::Commit(txn);
        }
        // Who is away already goes on: with its claim, or trying again what failed.
        Some((Kind::Claim | Kind::Failure, _)) => return Step::Go,
        Some((Kind::Lost, mine)) => return Step::Commit(release(spec, view, me, mine)),
        _ => {}
    }
    if let Some(stretch) = stretch
        && let Err(hold) = enter(spec, view, me, stretch)
    {
        return Step::Hold(hold);
    }
    // Who is behind lets nobody in, itself included.
    let Some(unmoved) = view.lets_in(spec) else {
        return Step::Hold(if view.unsure { Hold::Unsure } else { Hold::Behind });
    };
    let unseen = u64::try_from(view.unseen.len()).unwrap_or(u64::MAX);
    if let Some(mine) = mine.filter(|mine| mine.held.kind == Kind::Offer) {
        if spec.count.is_some_and(|count| view.taken(&mine.part).saturating_add(unseen) > count) {
            return Step::Hold(Hold::Unseen);
        }
        return Step::Commit(take(spec, view, me, mine, unmoved, stretch));
    }
    if spec.count.is_none() {
        return if view.halted(spec) { Step::Hold(Hold::Halted) } else { Step::Go };
    }
    let run = run_of(spec, stretch);
    match &view.queued {
        // A place in the queue of an earlier run, or of an earlier stretch, is given up.
        Some((queued, modified)) if queued.run != run || queued.stretch != stretch.unwrap_or(0) => {
            let key = own_queue(spec, me);
            Step::Commit(Txn {
                compare: vec![Compare::Revision(key.clone(), *modified)],
                then: vec![Op::Delete(key)],
                otherwise: Vec::new(),
            })
        }
        // It waits in the queue, so that the end of the halt offers it a slot.
        Some(_) if view.halted(spec) => Step::Hold(Hold::Halted),
        Some((_, modified)) => {
            // As many as there are free slots take one each, those first who wait longest.
            let count = spec.count.unwrap_or(0).saturating_sub(view.taken(spec.part(me)));
            let mut first = eligible(spec, view, spec.part(me), None).take(usize::try_from(count).unwrap_or(0));
            if first.any(|entry| entry.node == me && entry.book == spec.book) {
                if unseen > 0 && view.taken(spec.part(me)).saturating_add(unseen) >= spec.count.unwrap_or(0) {
                    return Step::Hold(Hold::Unseen);
                }
                Step::Commit(claim_free(spec, view, me, *modified, unmoved, stretch))
            } else {
                Step::Hold(Hold::Slot)
            }
        }
        None => Step::Commit(enqueue(spec, me, mine, unmoved, &run, stretch)),
    }
}

pub(super) fn run_of(spec: &Spec, stretch: Option<u32>) -> String {
    stretch.map_or_else(|| drift_of(&spec.book), |_| spec.run.clone())
}

/// The name by which drift of a book is put right: it belongs to no run.
pub fn drift_of(book: &str) -> String {
    format!("{book}!drift")
}

fn enqueue(
    spec: &Spec,
    me: &str,
    mine: Option<&HeldBy>,
    unmoved: Vec<Compare>,
    run: &str,
    stretch: Option<u32>,
) -> Txn {
    let key = own_queue(spec, me);
    let queued = Queued { run: run.to_owned(), stretch: stretch.unwrap_or(0), generation: spec.generation };
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
fn take(spec: &Spec, view: &View, me: &str, mine: &HeldBy, unmoved: Vec<Compare>, stretch: Option<u32>) -> Txn {
    if mine.held.generation != spec.generation || mine.part != spec.part(me) {
        return release(spec, view, me, mine);
    }
    let key = own_held(spec, me);
    let mut compare = unmoved;
    compare.push(Compare::Revision(key.clone(), mine.modified));
    let then = vec![Op::put(key, bytes(&claim(spec, stretch))), Op::Delete(keys::offer_notice(me, &spec.group))];
    Txn { compare, then, otherwise: Vec::new() }
}

fn claim(spec: &Spec, stretch: Option<u32>) -> Held {
    Held {
        kind: Kind::Claim,
        run: run_of(spec, stretch),
        stretch: stretch.unwrap_or(0),
        generation: spec.generation,
        lost: false,
        absent: 0,
    }
}

/// Writes into the own claim that the node goes away for a while; where there are no slots it gets one for that.
fn absent(spec: &Spec, view: &View, me: &str, stretch: u32, seconds: u64) -> Step {
    match view.mine(spec, me) {
        Some(mine) if mine.held.kind == Kind::Claim && mine.held.absent == seconds => Step::Go,
        Some(mine) if mine.held.kind == Kind::Claim => {
            Step::Commit(replace(spec, mine, &Held { absent: seconds, ..mine.held.clone() }))
        }
        // Who failed, or was written off, counts as it is.
        Some(mine) if mine.held.kind != Kind::Offer => Step::Go,
        None if spec.count.is_none() => {
            let key = own_held(spec, me);
            let held = Held { absent: seconds, ..claim(spec, Some(stretch)) };
            Step::Commit(Txn {
                compare: vec![Compare::Absent(key.clone())],
                then: vec![Op::put(key, bytes(&held))],
                otherwise: Vec::new(),
            })
        }
        _ => Step::Hold(Hold::Slot),
    }
}

/// Takes a free slot, as who waits longest: no claim, offer or failure may be newer than what was read.
fn claim_free(spec: &Spec, view: &View, me: &str, queued: u64, unmoved: Vec<Compare>, stretch: Option<u32>) -> Txn {
    let queue = own_queue(spec, me);
    let mut compare = unmoved;
    compare.push(Compare::NoneNewer(keys::all_held(&spec.group), view.revision));
    compare.push(Compare::Revision(queue.clone(), queued));
    let then = vec![Op::Delete(queue), Op::put(own_held(spec, me), bytes(&claim(spec, stretch)))];
    Txn { compare, then, otherwise: Vec::new() }
}

/// Votes and gives back what it holds, to who waits longest.
fn done(spec: &Spec, view: &View, me: &str, stretch: u32) -> Step {
    let mine = view.mine(spec, me);
    let vote = keys::vote(&spec.run, stretch, spec.is_member(me), me);
    let put = Op::put(vote.clone(), bytes(&Vote { run: spec.run.clone(), stretch, generation: spec.generation }));
    match mine {
        None if view.voted.contains(&stretch) => withdraw(spec, view, me),
        None => Step::Commit(Txn {
            compare: vec![Compare::Absent(vote), Compare::Absent(own_held(spec, me))],
            then: vec![put],
            otherwise: Vec::new(),
        }),
        Some(mine) => {
            let mut txn = release(spec, view, me, mine);
            if !view.voted.contains(&stretch) {
                txn.then.push(put);
            }
            Step::Commit(txn)
        }
    }
}

/// Gives back a claim, an offer or a failure. The slots that are free after it go to the next waiters.
pub(super) fn release(spec: &Spec, view: &View, me: &str, mine: &HeldBy) -> Txn {
    let mut txn = delete(spec, mine);
    if mine.held.kind == Kind::Offer {
        txn.then.push(Op::Delete(keys::offer_notice(me, &spec.group)));
    }
    offer_on(spec, view, me, mine, None, &mut txn);
    txn
}

fn failed(spec: &Spec, view: &View, me: &str, stretch: u32) -> Step {
    let failure = Held {
        kind: Kind::Failure,
        run: spec.run.clone(),
        stretch,
        generation: spec.generation,
        lost: false,
        absent: 0,
    };
    let put = |key: String, compare: Compare| Txn {
        compare: vec![compare],
        then: vec![Op::put(key, bytes(&failure)), Op::Delete(keys::offer_notice(me, &spec.group))],
        otherwise: Vec::new(),
    };
    match view.mine(spec, me) {
        Some(mine) if mine.held.kind == Kind::Failure && mine.held.run == spec.run => withdraw(spec, view, me),
        Some(mine) => {
            // A node whose label has changed holds a slot of its former part.
            let key = keys::held(&spec.group, &mine.part, &spec.book, me);
            let mut txn = put(key.clone(), Compare::Revision(key, mine.modified));
            offer_on(spec, view, me, mine, Some(&failure), &mut txn);
            Step::Commit(txn)
        }
        None => {
            let key = own_held(spec, me);
            Step::Commit(put(key.clone(), Compare::Absent(key)))
        }
    }
}

/// Holds nothing any more.
fn leave(spec: &Spec, view: &View, me: &str) -> Step {
    match view.mine(spec, me) {
        Some(mine) => Step::Commit(release(spec, view, me, mine)),
        None => withdraw(spec, view, me),
    }
}

/// Leaves the queue, where it is in it.
fn withdraw(spec: &Spec, view: &View, me: &str) -> Step {
    let Some((_, modified)) = &view.queued else { return Step::Go };
    let key = own_queue(spec, me);
    Step::Commit(Txn {
        compare: vec![Compare::Revision(key.clone(), *modified)],
        then: vec![Op::Delete(key)],
        otherwise: Vec::new(),
    })
}

/// A record takes the place of another.
pub(super) fn replace(spec: &Spec, old: &HeldBy, new: &Held) -> Txn {
    let key = keys::held(&spec.group, &old.part, &old.book, &old.node);
    Txn {
        compare: vec![Compare::Revision(key.clone(), old.modified)],
        then: vec![Op::put(key, bytes(new))],
        otherwise: Vec::new(),
    }
}

/// A record goes.
pub(super) fn delete(spec: &Spec, old: &HeldBy) -> Txn {
    let key = keys::held(&spec.group, &old.part, &old.book, &old.node);
    Txn {
        compare: vec![Compare::Revision(key.clone(), old.modified)],
        then: vec![Op::Delete(key)],
        otherwise: Vec::new(),
    }
}

pub(super) fn own_held(spec: &Spec, me: &str) -> String {
    keys::held(&spec.group, spec.part(me), &spec.book, me)
}

fn own_queue(spec: &Spec, me: &str) -> String {
    keys::queue(&spec.group, spec.part(me), &spec.book, me)
}

pub(super) fn bytes<T: Serialize>(record: &T) -> Vec<u8> {
    // Plain structs always have a form.
    serde_json::to_vec(record).unwrap_or_default()
}
