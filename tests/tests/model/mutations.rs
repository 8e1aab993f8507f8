//! Mutations, each of which leaves out one rule. A mutation without a counterexample shows that the rule or the model
//! is useless.

use towpath_coordination::{
    keys,
    rollout::{RolloutSpec, RunSnapshot, SlotRecord, SlotState},
    store::{Compare, Op, Txn},
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mutation {
    /// An admission does not compare the accepted generation.
    NoGeneration,
    /// Two acceptances of one number count as the same acceptance.
    DigestNotCompared,
    /// A free slot is given without comparing what was read: that no claim, offer or failure is newer, and that the
    /// taker still waits. (For one book each compare alone is sufficient; both are kept.)
    NothingCompared,
    /// A taker does not compare its offer.
    OfferNotCompared,
    /// Offers do not count as held slots.
    OffersDoNotCount,
    /// Claims of other nodes do not count.
    NoBudget,
    /// Failures of earlier runs are forgotten.
    FailuresForgotten,
    /// A node that failed before its admission continues without a slot.
    UnadmittedNeedsNoSlot,
    /// An expired lease frees the slot.
    LeaseFreesTheSlot,
    /// A barrier opens one vote too early.
    BarrierOneEarly,
    /// A vote of an earlier run counts.
    OldVoteCounts,
    /// Only a node that votes checks for due maintenance.
    NoLaterLook,
    /// A node that was written off continues with its slot.
    WrittenOffGoesOn,
    /// A node that left the targets keeps its slots.
    LeaversKeep,
    /// A rolled-back store is used without recovery.
    NoRepublish,
    /// A removed node stays elected.
    RemovedStaysElected,
    /// A segment that is an elected task has waves.
    ElectedHasWaves,
    /// A planned absence counts as a loss.
    AbsenceIsLoss,
    /// Transactions do not compare that no claim, offer or failure is newer.
    NoneNewerNotCompared,
    /// A release does not compare the slot records of other nodes that it relies on.
    OtherSlotsNotCompared,
    /// A view counts as new as its answer, so a notification between request and answer is missed.
    NewsInTheAnswer,
    /// A freed slot is neither offered nor announced.
    NothingOfferedOn,
    /// A failed node does not check whether its failure completes a wave.
    FailuresOpenNothing,
}

impl Mutation {
    /// Changes the revisions.
    pub fn revisions(self, revisions: &mut [Vec<RolloutSpec>]) {
        if self == Self::ElectedHasWaves {
            revisions.iter_mut().flatten().for_each(|spec| spec.elected.clear());
        }
    }

    /// Changes the view of a node.
    pub fn snapshot(self, spec: &RolloutSpec, own_node: &str, snapshot: &mut RunSnapshot) {
        match self {
            Self::OffersDoNotCount => {
                snapshot.held.retain(|held| held.held.kind != SlotState::Offer || held.node == own_node)
            }
            Self::NoBudget => snapshot.held.retain(|held| held.held.kind != SlotState::Claim || held.node == own_node),
            Self::FailuresForgotten => snapshot.held.retain(|held| {
                held.held.kind != SlotState::Failure || held.held.run == spec.run || held.node == own_node
            }),
            Self::BarrierOneEarly => {
                if let Some((_, names)) = &mut snapshot.names
                    && let Some(missing) = spec.members.keys().find(|node| !names.contains(*node))
                {
                    names.insert(missing.clone());
                }
            }
            Self::WrittenOffGoesOn => snapshot
                .held
                .iter_mut()
                .filter(|held| held.node == own_node && held.held.kind == SlotState::WrittenOff)
                .for_each(|held| held.held.kind = SlotState::Claim),
            Self::UnadmittedNeedsNoSlot => snapshot
                .held
                .iter_mut()
                .filter(|held| held.node == own_node && held.held.kind == SlotState::Unadmitted)
                .for_each(|held| held.held.kind = SlotState::Failure),
            Self::NoRepublish => {
                snapshot.recovery = None;
                snapshot.rolled_back = false;
            }
            Self::AbsenceIsLoss => {
                snapshot.held.iter_mut().filter(|held| held.node != own_node).for_each(|held| held.held.absent = 0);
            }
            Self::DigestNotCompared => {
                let held = snapshot.held.iter_mut().map(|held| &mut held.held.accepted);
                let accepted = snapshot.accepted.iter_mut().map(|(accepted, _)| accepted);
                for id in accepted.chain(held).filter(|id| id.generation == spec.accepted.generation) {
                    id.digest.clone_from(&spec.accepted.digest);
                }
            }
            Self::LeaversKeep if !spec.selects(own_node) => snapshot.held.retain(|held| held.node != own_node),
            _ => {}
        }
    }

    /// Changes the transaction of a node.
    pub fn txn(self, own_node: &str, txn: &mut Txn) {
        match self {
            Self::NoGeneration => {
                txn.compare.retain(|compare| !matches!(compare, Compare::Revision(key, _) if key == keys::ACCEPTED))
            }
            Self::NothingCompared => txn.compare.retain(|compare| match compare {
                Compare::NoneNewer(..) => false,
                Compare::Revision(key, _) => !key.starts_with("fleet/queue/"),
                Compare::Absent(_) => true,
            }),
            Self::NothingOfferedOn => {
                let of_others = |key: &str| {
                    (key.starts_with("fleet/held/") || key.starts_with("fleet/queue/") || key.starts_with("inbox/"))
                        && !key.ends_with(own_node)
                        && !key.starts_with(&keys::inbox(own_node))
                };
                txn.then.retain(|op| match op {
                    Op::Put { key, .. } | Op::Delete(key) => !of_others(key) && !key.starts_with(keys::ALL_FREED),
                    _ => true,
                });
            }
            Self::OtherSlotsNotCompared => txn.compare.retain(|compare| match compare {
                Compare::Revision(key, _) => !key.starts_with("fleet/held/") || key.ends_with(own_node),
                _ => true,
            }),
            Self::NoneNewerNotCompared => txn.compare.retain(|compare| !matches!(compare, Compare::NoneNewer(..))),
            Self::OfferNotCompared => {
                let claims = txn.then.iter().any(|op| matches!(op, Op::Put { key, value, .. }
                    if key.ends_with(own_node) && serde_json::from_slice::<SlotRecord>(value).is_ok_and(|held| held.kind == SlotState::Claim)));
                if claims {
                    txn.compare.retain(
                        |compare| !matches!(compare, Compare::Revision(key, _) if key.starts_with("fleet/held/")),
                    );
                }
            }
            _ => {}
        }
    }
}
