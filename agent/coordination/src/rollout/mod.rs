//! How a change goes through the fleet: slots, waves, barriers, failures, and nodes that are lost.
//!
//! Decisions are pure: from a [`RolloutSpec`] (what the revision says) and a [`RunSnapshot`] (what was read) to a [`Decision`], which
//! holds the very transaction that the store runs. The agent, the model checker and the simulation call the same
//! functions and differ only in who runs the transaction.

mod decide;
mod elect;
mod maintenance;
mod offer;
mod recovery;
mod snapshot;
mod spec;

use serde::{Deserialize, Serialize};

use crate::store::Txn;

pub use decide::{Request, decide, drift_of};
pub use elect::{
    ElectStep, Elected, Election, ElectionContext, Record, SealedResult, elect, publish, republish_election,
};
pub use maintenance::{complete, end_recovery, frontier, next_maintenance, segment_to_inspect};
pub use offer::{Freed, idle};
pub use recovery::{NodeClaims, acknowledge, report_rollback, republish};
pub use snapshot::{Entry, RunSnapshot, SlotEntry, WriteSequence, look, newest_recovery};
pub use spec::{Cut, OnLost, RolloutSpec};

/// What stands in a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SlotState {
    /// A slot that a node may take.
    Offer,
    /// A slot that a node has: taken before its first change, given back when it is whole again.
    Claim,
    /// A node that failed and is tried again; it counts until it has succeeded.
    Failure,
    /// A node that was lost with a claim and that the run goes on without; it needs a new slot.
    WrittenOff,
    /// A node that was lost without a claim; it counts until it is back.
    Lost,
}

/// The claim, offer or failure of one node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SlotRecord {
    /// What it is.
    pub kind: SlotState,
    /// The run that it was made in.
    pub run: String,
    /// The segment.
    pub segment: u32,
    /// The generation that it was made under.
    pub generation: u64,
    /// Of a claim: its node was lost, and counts as failed until it is back.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub lost: bool,
    /// Of a claim: its node goes away for a while, at most so many seconds, and is not lost before that.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub absent: u64,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// A place in the queue.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Queued {
    /// The run.
    pub run: String,
    /// The segment.
    pub segment: u32,
    /// The generation that it was made under.
    pub generation: u64,
}

/// A node that is done with a segment.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Vote {
    /// The run.
    pub run: String,
    /// The segment.
    pub segment: u32,
    /// The generation that it was made under.
    pub generation: u64,
}

/// How far a run is open.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RolloutProgress {
    /// The run.
    pub run: String,
    /// The generation under which it was opened last.
    pub generation: u64,
    /// How many waves of each segment are open.
    pub waves: Vec<u32>,
    /// Whether all segments are through.
    pub done: bool,
    /// The run before: its records go when this one ends.
    #[serde(default)]
    pub before: String,
}

/// The store has gone back: a recovery_id, until all have said anew what they hold.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RecoveryEpoch {
    /// Which one.
    pub id: String,
    /// The node that reports it: the key names it.
    #[serde(skip)]
    pub by: String,
}

/// What comes of a decision.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Decision {
    /// It may go on.
    Go,
    /// It waits.
    Wait(BlockReason),
    /// This transaction comes next; then it is looked at again.
    Commit(Txn),
}

/// What a node waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BlockReason {
    /// A slot.
    Slot,
    /// Its wave.
    Wave,
    /// A barrier.
    Barrier,
    /// The run is halted: too many failed, or too many were written off.
    Halted,
    /// The node is behind the accepted revision.
    Behind,
    /// It has no lease: others may be about to write it off.
    Lease,
    /// The store has gone back, and not all have said anew what they hold.
    Recovery,
    /// The node has only just reached the store.
    Stabilizing,
    /// Nodes say that they hold slots, and the store does not show them.
    HiddenClaims,
}
