//! The record of a book in the journal.

use serde::{Deserialize, Serialize};

/// The state of a book. The journal keeps this state across restarts of the agent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct BookRecord {
    /// The id of the rollout's run.
    pub run: String,
    /// The number of segments that this node has completed in the run.
    pub done: u32,
    /// True if all nodes have completed the run.
    pub completed: bool,
    /// The slot that this node holds or waits for.
    pub slot: Option<SlotRef>,
    /// The progress of a segment that has begun to change the node. `frame` is `None` if no segment has begun to change
    /// the node.
    pub frame: Option<Frame>,
    /// True if the most recent removal of items failed. After a failed removal, the node stays out of service until a
    /// removal succeeds.
    pub removal_failed: bool,
}

/// The progress of a segment in a book with `before` or `after` tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Frame {
    /// The `before` tasks are running, or were interrupted.
    Preparing,
    /// The `before` tasks have succeeded, so changes may follow.
    Changing,
}

/// A slot, identified by its budget and its partition.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Slot {
    /// The name of the budget.
    pub budget: String,
    /// The partition of this node within the budget.
    pub partition: String,
}

/// The slot that a node holds or waits for, with its state.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SlotRef {
    /// The budget and the partition of the slot.
    pub slot: Slot,
    /// The state of the slot.
    pub state: SlotState,
}

/// The state of a slot that a node holds or waits for.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum SlotState {
    /// The node waits for the slot.
    Waiting,
    /// The node holds the slot for a segment of a run; the values are the run and the segment. The segment is `None`
    /// for a corrective change.
    Claimed(String, Option<u32>),
    /// The node failed in a segment of a run, and keeps its slot; the values are the run and the segment.
    Failed(String, u32),
    /// The node failed before the changes of a segment were admitted, so the node holds no slot.
    Unadmitted(String, u32),
}
