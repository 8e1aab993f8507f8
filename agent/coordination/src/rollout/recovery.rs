//! The store has gone back: a backup was put in its place. What a node has on its own disk is newer than what it finds,
//! so it says anew what it holds; and nobody is let in anywhere until all have, or are written off.

use std::collections::BTreeSet;

use super::{
    RecoveryEpoch, RolloutSpec, RunSnapshot, SlotEntry, SlotRecord, SlotState, Vote,
    decide::{bytes, delete, own_held, replace},
};
use crate::{
    keys,
    store::{Compare, Op, Txn},
};

/// What a node knows of itself in a run, by its own disk.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeClaims {
    /// Whether it is half changed (a claim) or has failed, the run and the segment in which.
    pub away: Option<(SlotState, String, u32)>,
    /// The segments of the run that it is through with.
    pub voted: BTreeSet<u32>,
}

/// Says that the store has gone back: the first transaction of who notices, unless somebody else has said so since.
/// `known` is the recovery_id that the node has heard of before.
pub fn report_rollback(snapshot: &RunSnapshot, me: &str, id: &str, known: Option<&str>) -> Option<Txn> {
    if snapshot.recovery.as_ref().is_some_and(|(restored, _)| Some(restored.id.as_str()) != known) {
        return None;
    }
    let put = Op::put(keys::recovery(me), bytes(&RecoveryEpoch { id: id.to_owned(), by: String::new() }));
    Some(Txn { compare: snapshot.same_recovery(), then: vec![put], otherwise: Vec::new() })
}

/// The next thing of a run that the store lacks, or has wrongly; None where it is as the node knows it.
pub fn republish(spec: &RolloutSpec, snapshot: &RunSnapshot, me: &str, own: &NodeClaims) -> Option<Txn> {
    let vote = own.voted.iter().find(|segment| !snapshot.voted.contains(segment)).map(|segment| {
        let key = keys::vote(&spec.run, *segment, spec.is_member(me), me);
        let vote = Vote { run: spec.run.clone(), segment: *segment, generation: spec.generation };
        Txn {
            compare: vec![Compare::Absent(key.clone())],
            then: vec![Op::put(key, bytes(&vote))],
            otherwise: Vec::new(),
        }
    });
    vote.or_else(|| republish_slot(spec, snapshot, me, own))
}

fn republish_slot(spec: &RolloutSpec, snapshot: &RunSnapshot, me: &str, own: &NodeClaims) -> Option<Txn> {
    let mine = snapshot.mine(spec, me);
    let Some((kind, run, segment)) = &own.away else {
        // Whatever is said of it there is over: it is here, and whole.
        let mut txn = delete(spec, mine?);
        txn.then.push(Op::Delete(keys::offer_notice(me, &spec.group)));
        return Some(txn);
    };
    let is = |wanted: SlotState| mine.is_some_and(|mine| mine.held.kind == wanted);
    if is(*kind) && (is(SlotState::Failure) || !crowded(spec, snapshot, me, mine)) || is(SlotState::WrittenOff) {
        return None;
    }
    let kind =
        if *kind == SlotState::Claim && crowded(spec, snapshot, me, mine) { SlotState::WrittenOff } else { *kind };
    let held =
        SlotRecord { kind, run: run.clone(), segment: *segment, generation: spec.generation, lost: false, absent: 0 };
    let mut txn = match mine {
        Some(mine) => replace(spec, mine, &held),
        None => {
            let key = own_held(spec, me);
            Txn {
                compare: vec![Compare::Absent(key.clone())],
                then: vec![Op::put(key, bytes(&held))],
                otherwise: Vec::new(),
            }
        }
    };
    txn.compare.push(Compare::NoneNewer(keys::all_held(&spec.group), snapshot.revision));
    Some(txn)
}

/// Whether others hold as many slots as there are: then who is half changed goes on only with a new one.
fn crowded(spec: &RolloutSpec, snapshot: &RunSnapshot, me: &str, mine: Option<&SlotEntry>) -> bool {
    let part = mine.map_or_else(|| spec.part(me), |mine| mine.part.as_str());
    let claims = |held: &&SlotEntry| held.held.kind == SlotState::Claim && held.node != me && held.part == part;
    spec.count.is_some_and(|count| snapshot.held.iter().filter(claims).count() as u64 >= count)
}

/// Says that this node has said anew all that it holds, in all books.
pub fn acknowledge(snapshot: &RunSnapshot, me: &str) -> Option<Txn> {
    let (restored, _) = snapshot.recovery.as_ref().filter(|_| !snapshot.acknowledged.contains(me))?;
    Some(Txn {
        compare: snapshot.same_recovery(),
        then: vec![Op::put(keys::recovery_ack(&restored.id, me), b"{}".to_vec())],
        otherwise: Vec::new(),
    })
}
