//! The durable record of a book.

use serde::{Deserialize, Serialize};

/// The durable record of a book on one node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct BookRecord {
    /// The run of the rollout.
    pub run: String,
    /// Number of segments that this node has completed.
    pub done: u32,
    /// True if all nodes have completed the run.
    pub completed: bool,
    /// The slot that this node holds or waits for.
    pub slot: Option<SlotRef>,
    /// The frame of the segment that has begun to change the node.
    pub frame: Option<Frame>,
    /// True if a removal failed: the node stays out of service until it succeeds.
    pub removal_failed: bool,
}

/// The progress of a segment with tasks before or after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Frame {
    /// The tasks before the first change run, or were interrupted.
    Preparing,
    /// The tasks before the first change have succeeded.
    Changing,
}

/// A slot: a budget, and the partition of this node in it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Slot {
    /// The budget.
    pub budget: String,
    /// The partition.
    pub partition: String,
}

/// The slot that a node holds or waits for.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SlotRef {
    /// The slot.
    pub slot: Slot,
    /// The state.
    pub state: SlotState,
}

/// The state of a node's slot.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum SlotState {
    /// The node waits for it.
    Waiting,
    /// The node holds it for a segment of a run. `None` for a corrective change.
    Claimed(String, Option<u32>),
    /// The node has failed in a segment of a run, and keeps it as a failure.
    Failed(String, u32),
}
