//! Decisions about the runs of a book: slots, waves, barriers, failures, lost nodes and elections.
//!
//! Decisions are pure functions. The inputs of a decision are a [`RolloutSpec`] (from the accepted revision) and a
//! [`RunSnapshot`] (from the store). The result of a decision is a [`Decision`], which may contain a transaction for
//! the store. The agent, the model checker and the simulation call the same decision functions. The agent, the model
//! checker and the simulation differ only in the code that runs a transaction (P2).

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

/// The time for which a slot that only gossip reports counts as taken (P104).
pub const HIDDEN_CLAIM_LIMIT: Duration = Duration::from_secs(120);

/// The state of a slot record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SlotState {
    /// Another node has offered the slot to the node of the record. The node of the record may take the slot (P55).
    Offer,
    /// The node holds the slot from the first change in a segment until the node has applied the segment (P48).
    Claim,
    /// The node has failed. The node retries, and counts as failed until it succeeds (P62).
    Failure,
    /// The node has failed before it got a slot, and has changed nothing. The node counts as failed, and needs a slot
    /// for its first change (P62).
    Unadmitted,
    /// The run has written off the node, for example because the node was lost while it had a claim. The run continues
    /// without the node. A written-off node that returns needs a new slot (P61).
    WrittenOff,
    /// The node had no claim and was lost. When the node returns, the node removes the record of the loss (P60).
    Lost,
}

/// The slot record of one node: its claim, offer, failure, loss or write-off.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SlotRecord {
    /// The state of the slot record.
    pub kind: SlotState,
    /// The name of the run that the record belongs to.
    pub run: String,
    /// The number of the segment that the record belongs to, counted from 0.
    pub segment: u32,
    /// The acceptance that the creator of the record had loaded.
    #[serde(default)]
    pub accepted: AcceptedId,
    /// True if the node was lost under `onLostNode: fail`. The node counts as failed until it returns.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub lost: bool,
    /// The announced duration of the node's absence, in seconds. A node does not count as lost during its announced
    /// absence (P59). `absent` is 0 if the node has not announced an absence.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub absent: u64,
}

impl SlotRecord {
    /// Returns true if the node of the record counts as failed. A failed node counts as failed for all books that share
    /// the budget.
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
    /// The acceptance that the waiting node had loaded when it queued.
    #[serde(default)]
    pub accepted: AcceptedId,
}

/// The vote of a node: a record that states that the node has completed a segment (P72).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Vote {
    /// The name of the run that the vote belongs to.
    pub run: String,
    /// The number of the completed segment, counted from 0.
    pub segment: u32,
    /// The acceptance that the voting node had loaded.
    #[serde(default)]
    pub accepted: AcceptedId,
}

/// The record that contains the open waves of a run.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RolloutProgress {
    /// The name of the run.
    pub run: String,
    /// The acceptance that the creator of the record had loaded.
    #[serde(default)]
    pub accepted: AcceptedId,
    /// The number of open waves of each segment.
    pub waves: Vec<u32>,
    /// True if all segments are complete.
    pub done: bool,
    /// The name of the preceding run. The transaction that completes this run deletes the votes of the preceding run
    /// (P10). The name is empty if there is no preceding run.
    #[serde(default)]
    pub before: String,
}

/// A recovery after the store was rolled back. A recovery lasts until every node has republished its claims (P17).
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RecoveryEpoch {
    /// The random identifier of the recovery.
    pub id: String,
    /// The node that reported the rollback. The name of the reporting node is part of the store key, and not of the
    /// stored value.
    #[serde(skip)]
    pub by: String,
    /// The time of the report, by the clock of the node that reported. No decision reads the time. Unit: milliseconds
    /// since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<i64>,
}

/// The result of a decision about a node's request.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Decision {
    /// The node may continue.
    Go,
    /// The node must wait, for the reason that the variant contains.
    Wait(BlockReason),
    /// The node must commit the transaction that the variant contains, and then decide again from a new snapshot.
    Commit(Txn),
}

/// The reason why a node's request must wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BlockReason {
    /// No slot is free, or other nodes are earlier in the queue.
    Slot,
    /// The wave of the node is not open yet.
    Wave,
    /// The barrier before the segment is not open yet.
    Barrier,
    /// The run is halted, because more nodes have failed than `max_failures` permits.
    Halted,
    /// The node has not loaded the accepted revision.
    Behind,
    /// The node has no lease, so other nodes may write the node off at any moment.
    Lease,
    /// The store was rolled back, and some nodes have not republished their claims.
    Recovery,
    /// The node has connected to the store less than 3 s ago.
    Stabilizing,
    /// Gossip reports slots that the store does not contain.
    HiddenClaims,
}
