//! The transactions of a recovery, after etcd was restored from a backup. Each node republishes the claims in its
//! journal, because the restored store may lack these claims. No node gets a slot until every node has republished its
//! claims or is written off (P14 to P17).

use std::collections::BTreeSet;

use super::{
    RecoveryEpoch, RolloutSpec, RunSnapshot, SlotEntry, SlotRecord, SlotState, Vote,
    slots::{bytes, delete, own_held, replace},
};
use crate::{
    keys,
    store::{Compare, Op, Txn},
};

/// The claim and the votes of this node in one run, from the journal of the node.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeClaims {
    /// The claim or the failure of the node, with the name of the run and the number of the segment. `None` if the node
    /// has no claim and no failure.
    pub away: Option<(SlotState, String, u32)>,
    /// The numbers of the segments that the node has completed in the run.
    pub voted: BTreeSet<u32>,
}

/// Returns the transaction that reports a rollback of the store. `None` if another node has already reported the
/// rollback. `known` is the identifier of the most recent recovery that this node has read.
pub fn report_rollback(snapshot: &RunSnapshot, own_node: &str, id: &str, known: Option<&str>) -> Option<Txn> {
    if snapshot.recovery.as_ref().is_some_and(|(restored, _)| Some(restored.id.as_str()) != known) {
        return None;
    }
    let put =
        Op::put(keys::recovery(own_node), bytes(&RecoveryEpoch { id: id.to_owned(), ..RecoveryEpoch::default() }));
    Some(Txn { compare: snapshot.same_recovery(), then: vec![put], otherwise: Vec::new() })
}

/// Returns the transaction that writes one record of this node, if the store lacks the record or contains another
/// version. `None` if the store already contains all records in the journal.
pub fn republish(spec: &RolloutSpec, snapshot: &RunSnapshot, own_node: &str, own: &NodeClaims) -> Option<Txn> {
    let vote = own.voted.iter().find(|segment| !snapshot.voted.contains(segment)).map(|segment| {
        let key = keys::vote(&spec.run, *segment, spec.is_member(own_node), own_node);
        let vote = Vote { run: spec.run.clone(), segment: *segment, accepted: spec.accepted.clone() };
        Txn {
            compare: vec![Compare::Absent(key.clone())],
            then: vec![Op::put(key, bytes(&vote))],
            otherwise: Vec::new(),
        }
    });
    vote.or_else(|| republish_slot(spec, snapshot, own_node, own))
}

fn republish_slot(spec: &RolloutSpec, snapshot: &RunSnapshot, own_node: &str, own: &NodeClaims) -> Option<Txn> {
    let own_slot = snapshot.own_slot(spec, own_node);
    let Some((kind, run, segment)) = &own.away else {
        // The journal contains no disruption, so any slot record of this node in the store is obsolete.
        let mut txn = delete(spec, own_slot?);
        txn.then.push(Op::Delete(keys::offer_notice(own_node, &spec.budget)));
        return Some(txn);
    };
    let is = |wanted: SlotState| own_slot.is_some_and(|own_slot| own_slot.held.kind == wanted);
    if is(*kind) && (!is(SlotState::Claim) || !crowded(spec, snapshot, own_node, own_slot)) || is(SlotState::WrittenOff)
    {
        return None;
    }
    let kind = if *kind == SlotState::Claim && crowded(spec, snapshot, own_node, own_slot) {
        SlotState::WrittenOff
    } else {
        *kind
    };
    let held = SlotRecord {
        kind,
        run: run.clone(),
        segment: *segment,
        accepted: spec.accepted.clone(),
        lost: false,
        absent: 0,
    };
    let mut txn = match own_slot {
        Some(own_slot) => replace(spec, own_slot, &held),
        None => {
            let key = own_held(spec, own_node);
            Txn {
                compare: vec![Compare::Absent(key.clone())],
                then: vec![Op::put(key, bytes(&held))],
                otherwise: Vec::new(),
            }
        }
    };
    txn.compare.push(Compare::NoneNewer(keys::all_held(&spec.budget), snapshot.revision));
    Some(txn)
}

/// Returns true if other nodes hold all slots of the partition. In a full partition, this node cannot republish its
/// claim, and needs a new slot (P16).
fn crowded(spec: &RolloutSpec, snapshot: &RunSnapshot, own_node: &str, own_slot: Option<&SlotEntry>) -> bool {
    let partition = own_slot.map_or_else(|| spec.partition(own_node), |own_slot| own_slot.partition.as_str());
    let claims =
        |held: &&SlotEntry| held.held.kind == SlotState::Claim && held.node != own_node && held.partition == partition;
    spec.count.is_some_and(|count| snapshot.held.iter().filter(claims).count() as u64 >= count)
}

/// Returns the transaction that writes this node's acknowledgement: the node has republished all its claims. `None` if
/// the store already contains the acknowledgement.
pub fn acknowledge(snapshot: &RunSnapshot, own_node: &str) -> Option<Txn> {
    let (restored, _) = snapshot.recovery.as_ref().filter(|_| !snapshot.acknowledged.contains(own_node))?;
    Some(Txn {
        compare: snapshot.same_recovery(),
        then: vec![Op::put(keys::recovery_ack(&restored.id, own_node), b"{}".to_vec())],
        otherwise: Vec::new(),
    })
}
