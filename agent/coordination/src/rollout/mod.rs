//! Rollouts: the slots, waves, barriers, failures and lost nodes of the runs of a book.
//!
//! Decisions are pure functions. The inputs of a decision are a [`RolloutSpec`] (the rollout as the revision defines
//! it) and a [`RunSnapshot`] (the state in the store). The result is a [`Decision`], which may contain a transaction
//! for the store. The agent, the model checker and the simulation call the same functions, and differ only in how they
//! run the transaction (P2).

mod decide;
mod elect;
mod maintenance;
mod offer;
mod recovery;
mod slots;
mod snapshot;
mod spec;
#[cfg(test)]
mod tests;

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{accept::AcceptedId, store::Txn};

pub use decide::{Request, decide};
pub use elect::{
    ElectStep, Elected, Election, ElectionContext, Record, SealedResult, elect, publish, republish_election,
};
pub use maintenance::{complete, end_recovery, frontier, next_maintenance, segment_to_inspect};
pub use offer::{Freed, idle};
pub use recovery::{NodeClaims, acknowledge, report_rollback, republish};
pub use snapshot::{Entry, RunSnapshot, SlotEntry, SlotNote, WriteSequence, look, newest_recovery};
pub(crate) use snapshot::{queue_entry, slot_entry};
pub use spec::{Cut, OnLost, RolloutSpec, drift_of};

/// The time for which slots that only gossip reports may block other nodes (P104).
pub const HIDDEN_CLAIM_LIMIT: Duration = Duration::from_secs(120);

/// The state of a slot record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SlotState {
    /// The slot is offered to the node, which may take it (P55).
    Offer,
    /// The node holds the slot from its first change in a segment until it has applied the segment (P48).
    Claim,
    /// The node has failed. The node retries, and counts as failed until it succeeds (P62).
    Failure,
    /// The node has failed before it was admitted, so it has changed nothing. It counts as failed, but needs a slot for
    /// its first change (P62).
    Unadmitted,
    /// The run continues without the node, for example because it was lost with a claim. A returning node needs a new
    /// slot (P61).
    WrittenOff,
    /// The node was lost without a claim. The record is removed when the node returns (P60).
    Lost,
}

/// The slot record of one node: its claim, offer, failure, loss or write-off.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SlotRecord {
    /// The state of the slot record.
    pub kind: SlotState,
    /// The name of the run that created the record.
    pub run: String,
    /// The number of the segment that the record belongs to, counted from 0.
    pub segment: u32,
    /// The acceptance under which the record was created.
    #[serde(default)]
    pub accepted: AcceptedId,
    /// True if the node was lost under `onLostNode: fail`. The node counts as failed until it returns.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub lost: bool,
    /// The announced duration of the node's absence, in seconds. The node does not count as lost in that time. 0 if no
    /// absence was announced (P59).
    #[serde(default, skip_serializing_if = "is_zero")]
    pub absent: u64,
}

impl SlotRecord {
    /// Returns whether the node of the record counts as failed. All books of a budget agree about this.
    pub fn is_failed(&self) -> bool {
        matches!(self.kind, SlotState::Failure | SlotState::Unadmitted) || self.lost
    }
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// An entry in the queue for a slot.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Queued {
    /// The name of the run in which the node waits.
    pub run: String,
    /// The number of the segment for which the node waits, counted from 0.
    pub segment: u32,
    /// The acceptance under which the entry was created.
    #[serde(default)]
    pub accepted: AcceptedId,
}

/// The vote of a node: the record that it has completed a segment (P72).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Vote {
    /// The name of the run that the vote belongs to.
    pub run: String,
    /// The number of the completed segment, counted from 0.
    pub segment: u32,
    /// The acceptance under which the vote was created.
    #[serde(default)]
    pub accepted: AcceptedId,
}

/// The record of the open waves of a run.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RolloutProgress {
    /// The name of the run.
    pub run: String,
    /// The acceptance under which the record was written.
    #[serde(default)]
    pub accepted: AcceptedId,
    /// The number of open waves of each segment.
    pub waves: Vec<u32>,
    /// True if all segments are complete.
    pub done: bool,
    /// The name of the preceding run, or empty. The votes of that run are deleted when this run completes (P10).
    #[serde(default)]
    pub before: String,
}

/// A recovery after the store was rolled back. A recovery lasts until every node has republished its claims (P17).
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RecoveryEpoch {
    /// The random identifier of the recovery.
    pub id: String,
    /// The node that reported the rollback. The name is part of the key, not of the value.
    #[serde(skip)]
    pub by: String,
}

/// The result of a decision about a node's request.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Decision {
    /// The node may continue.
    Go,
    /// The node must wait, for this reason.
    Wait(BlockReason),
    /// The node must commit this transaction, and then decide again from the new snapshot.
    Commit(Txn),
}

/// The reason why a node's request must wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BlockReason {
    /// No slot is free, or other nodes are first in the queue.
    Slot,
    /// The wave of the node is not open yet.
    Wave,
    /// The barrier before the segment is not open yet.
    Barrier,
    /// The run is halted, because more nodes have failed than `max_failures` permits.
    Halted,
    /// The node has not loaded the accepted revision.
    Behind,
    /// The node has no lease, so other nodes may be about to write it off.
    Lease,
    /// The store was rolled back, and some nodes have not republished their claims.
    Recovery,
    /// The node has connected to the store only a moment ago.
    Stabilizing,
    /// Nodes report slots that the store does not contain.
    HiddenClaims,
}
