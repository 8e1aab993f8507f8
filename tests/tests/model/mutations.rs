//! Rules left out, one at a time: each must yield a counterexample, or the rule (or the model) is worth nothing.

use towpath_coordination::{
    keys,
    rollout::{RolloutSpec, RunSnapshot, SlotRecord, SlotState},
    store::{Compare, Op, Txn},
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mutation {
    /// What lets somebody in does not compare the accepted generation.
    NoGeneration,
    /// A free slot is given without comparing anything that was read: neither whether a claim, offer or failure is
    /// newer, nor that its taker still waits. (Each compare alone is enough for one book; both are kept.)
    NothingCompared,
    /// The taker does not compare its offer.
    OfferNotCompared,
    /// Offers do not count as held.
    OffersDoNotCount,
    /// Claims of others do not count.
    NoBudget,
    /// Failures of earlier runs are forgotten.
    FailuresForgotten,
    /// A lease that runs out frees the slot.
    LeaseFreesTheSlot,
    /// A barrier opens one vote early.
    BarrierOneEarly,
    /// A vote of an earlier run counts.
    OldVoteCounts,
    /// Nobody but who votes looks whether something is due.
    NobodyLooksAgain,
    /// Who is written off goes on with what it held.
    WrittenOffGoesOn,
    /// A node that left the targets keeps what it holds.
    LeaversKeep,
    /// A store that has gone back is gone on with.
    NobodySaysAnew,
    /// A node that git no longer knows stays elected.
    RemovedStaysElected,
    /// A segment that is an elected task has waves.
    ElectedHasWaves,
    /// Who goes away on purpose is lost like others.
    AbsenceIsLoss,
    /// Nobody compares that no claim, offer or failure is newer.
    NoneNewerNotCompared,
    /// A snapshot counts as new as its answer: news between the request and the answer are missed.
    NewsInTheAnswer,
    /// A slot that becomes free is neither offered nor rollback_reported.
    NothingOfferedOn,
    /// A node that fails does not look whether that completes a wave.
    FailuresOpenNothing,
}

impl Mutation {
    /// What revisions say, changed.
    pub fn revisions(self, revisions: &mut [Vec<RolloutSpec>]) {
        if self == Self::ElectedHasWaves {
            revisions.iter_mut().flatten().for_each(|spec| spec.elected.clear());
        }
    }

    /// What a node reads, changed.
    pub fn snapshot(self, spec: &RolloutSpec, me: &str, snapshot: &mut RunSnapshot) {
        match self {
            Self::OffersDoNotCount => {
                snapshot.held.retain(|held| held.held.kind != SlotState::Offer || held.node == me)
            }
            Self::NoBudget => snapshot.held.retain(|held| held.held.kind != SlotState::Claim || held.node == me),
            Self::FailuresForgotten => snapshot
                .held
                .retain(|held| held.held.kind != SlotState::Failure || held.held.run == spec.run || held.node == me),
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
                .filter(|held| held.node == me && held.held.kind == SlotState::WrittenOff)
                .for_each(|held| held.held.kind = SlotState::Claim),
            Self::NobodySaysAnew => {
                snapshot.recovery = None;
                snapshot.rolled_back = false;
            }
            Self::AbsenceIsLoss => {
                snapshot.held.iter_mut().filter(|held| held.node != me).for_each(|held| held.held.absent = 0);
            }
            Self::LeaversKeep if !spec.selects(me) => snapshot.held.retain(|held| held.node != me),
            _ => {}
        }
    }

    /// What it is about to commit, changed.
    pub fn txn(self, me: &str, txn: &mut Txn) {
        match self {
            Self::NoGeneration => {
                txn.compare.retain(|compare| !matches!(compare, Compare::Revision(key, _) if key == keys::ACCEPTED))
            }
            Self::NothingCompared => txn.compare.retain(|compare| match compare {
                Compare::NoneNewer(..) => false,
                Compare::Revision(key, _) => !key.starts_with("book/queue/"),
                Compare::Absent(_) => true,
            }),
            Self::NothingOfferedOn => {
                let of_others = |key: &str| {
                    (key.starts_with("book/held/") || key.starts_with("book/queue/") || key.starts_with("inbox/"))
                        && !key.ends_with(me)
                        && !key.starts_with(&keys::inbox(me))
                };
                txn.then.retain(|op| match op {
                    Op::Put { key, .. } | Op::Delete(key) => !of_others(key) && !key.starts_with(keys::ALL_FREED),
                    _ => true,
                });
            }
            Self::NoneNewerNotCompared => txn.compare.retain(|compare| !matches!(compare, Compare::NoneNewer(..))),
            Self::OfferNotCompared => {
                let claims = txn.then.iter().any(|op| matches!(op, Op::Put { key, value, .. }
                    if key.ends_with(me) && serde_json::from_slice::<SlotRecord>(value).is_ok_and(|held| held.kind == SlotState::Claim)));
                if claims {
                    txn.compare.retain(
                        |compare| !matches!(compare, Compare::Revision(key, _) if key.starts_with("book/held/")),
                    );
                }
            }
            _ => {}
        }
    }
}
