//! Rollouts: slots, waves, barriers, failures, and lost nodes.
//!
//! Decisions are pure functions. Their inputs are a [`RolloutSpec`] (the rollout as the revision defines it) and a
//! [`RunSnapshot`] (the state in the store). Their result is a [`Decision`], which holds the transaction for the store.
//! The agent, the model checker and the simulation call the same functions. They differ only in how the transaction is
//! run (P2).

mod decide;
mod elect;
mod maintenance;
mod offer;
mod recovery;
mod snapshot;
mod spec;
#[cfg(test)]
mod tests;

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::store::Txn;

pub use decide::{Request, decide, drift_of};
pub use elect::{
    ElectStep, Elected, Election, ElectionContext, Record, SealedResult, elect, publish, republish_election,
};
pub use maintenance::{complete, end_recovery, frontier, next_maintenance, segment_to_inspect};
pub use offer::{Freed, idle};
pub use recovery::{NodeClaims, acknowledge, report_rollback, republish};
pub use snapshot::{Entry, RunSnapshot, SlotEntry, SlotNote, WriteSequence, look, newest_recovery};
pub(crate) use snapshot::{queue_entry, slot_entry};
pub use spec::{Cut, OnLost, RolloutSpec};

/// The time for which slots that only gossip reports may block other nodes (P104).
pub const HIDDEN_CLAIM_LIMIT: Duration = Duration::from_secs(120);

/// The state of a slot record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SlotState {
    /// A slot that is offered to a node, which may take it (P55).
    Offer,
    /// A slot that a node holds. The node takes it before its first change and releases it when the segment is
    /// applied (P48).
    Claim,
    /// A failed node. It is retried, and counts as failed until it has succeeded (P62).
    Failure,
    /// A node that the run continues without, for example because it was lost with a claim. It needs a new slot (P61).
    WrittenOff,
    /// A node that was lost without a claim. The record is removed when the node returns (P60).
    Lost,
}

/// The claim, offer or failure of one node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SlotRecord {
    /// The state of the slot.
    pub kind: SlotState,
    /// The run that created the record.
    pub run: String,
    /// The segment of the run.
    pub segment: u32,
    /// The generation that created the record.
    pub generation: u64,
    /// True for a claim whose node was lost. The node counts as failed until it returns.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub lost: bool,
    /// The announced absence of a claim's node. The node does not count as lost before it ends. 0: none. Unit:
    /// seconds (P59).
    #[serde(default, skip_serializing_if = "is_zero")]
    pub absent: u64,
}

impl SlotRecord {
    /// Returns whether the node counts as failed.
    pub fn is_failed(&self, on_lost: OnLost) -> bool {
        self.kind == SlotState::Failure || self.lost || self.kind == SlotState::Lost && on_lost == OnLost::Fail
    }
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// An entry in the queue for a slot.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Queued {
    /// The run.
    pub run: String,
    /// The segment.
    pub segment: u32,
    /// The generation that created the entry.
    pub generation: u64,
}

/// The record that a node has completed a segment (P72).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Vote {
    /// The run.
    pub run: String,
    /// The segment.
    pub segment: u32,
    /// The generation that created the vote.
    pub generation: u64,
}

/// The waves of a run that are open.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RolloutProgress {
    /// The run.
    pub run: String,
    /// The generation that wrote this record.
    pub generation: u64,
    /// The number of open waves of each segment.
    pub waves: Vec<u32>,
    /// True if all segments are complete.
    pub done: bool,
    /// The run before this one. Its votes are deleted when this run completes. Empty: none (P10).
    #[serde(default)]
    pub before: String,
}

/// A recovery after the store was rolled back. It lasts until every node has republished its claims (P17).
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RecoveryEpoch {
    /// The random identifier of the recovery.
    pub id: String,
    /// The node that reported the rollback. It is part of the key, not of the value.
    #[serde(skip)]
    pub by: String,
}

/// The result of a decision.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Decision {
    /// The permission to continue.
    Go,
    /// The reason to wait.
    Wait(BlockReason),
    /// The transaction to run next. The node then decides again from the new snapshot.
    Commit(Txn),
}

/// The reason why a request waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BlockReason {
    /// The lack of a free slot.
    Slot,
    /// A wave that is not open yet.
    Wave,
    /// A barrier that is not open yet.
    Barrier,
    /// A halted run: more nodes failed than `max_failures` allows.
    Halted,
    /// An accepted revision that the node has not loaded.
    Behind,
    /// The lack of a lease: other nodes may be about to write this node off.
    Lease,
    /// A store that was rolled back, while some nodes have not republished their claims.
    Recovery,
    /// A connection to the store that is too recent.
    Stabilizing,
    /// Slots that nodes report and the store does not contain.
    HiddenClaims,
}
