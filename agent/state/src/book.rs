//! The journal record of one TaskBook: the progress of this node in the current run, and the slot of the node.

use serde::{Deserialize, Serialize};

use crate::kinds::{self, Record};

/// The state of a TaskBook on this node. A TaskBook without a record has not started on this node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct BookRecord {
    /// The progress of this node in the current run; `None` for a TaskBook whose nodes are not coordinated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub progress: Option<RunProgress>,
    /// The slot that this node holds, or for which this node waits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slot: Option<SlotRef>,
    /// The phase of a segment with `before` or `after` tasks; `None` if the segment has not begun.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub segment: Option<SegmentPhase>,
    /// True if the last removal of an object of the TaskBook failed. The `after` tasks do not run until the removal
    /// succeeds.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub removal_failed: bool,
}

impl Record for BookRecord {
    type Kind = kinds::Book;
}

/// The progress of this node in a run of a TaskBook.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RunProgress {
    /// The name of the run.
    pub run: String,
    /// The number of segments that this node has voted for.
    pub done: usize,
    /// True if all nodes have completed the run.
    pub completed: bool,
}

/// The phase of a segment with `before` or `after` tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SegmentPhase {
    /// The `before` tasks run, or were interrupted.
    Preparing,
    /// The `before` tasks have succeeded, and changes may follow.
    Changing,
}

/// A slot that a node holds, or for which the node waits.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SlotRef {
    /// The name of the slot's budget.
    pub budget: String,
    /// The partition to which the slot belongs: one value of the node label that divides the budget.
    pub partition: String,
    /// The claim of the node to the slot; `None` while the node waits for the slot.
    pub claim: Option<SlotClaim>,
}

impl SlotRef {
    /// Returns true if this slot and the other slot are in the same budget and partition.
    pub fn is_in(&self, other: &Self) -> bool {
        (&self.budget, &self.partition) == (&other.budget, &other.partition)
    }
}

/// The claim of a node to a slot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotClaim {
    /// The state of the claim.
    pub state: ClaimState,
    /// The name of the run for which the node claims the slot.
    pub run: String,
    /// The number of the segment for which the node claims the slot.
    pub segment: u32,
}

/// The state of a claim to a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClaimState {
    /// The node holds the slot and may change.
    Claim,
    /// The node has failed in the segment, and still holds the slot.
    Failure,
    /// The node has failed in the segment before it got a slot, so the node holds no slot.
    Unadmitted,
}

/// A change of one field of a TaskBook's record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum BookEdit {
    Progress(RunProgress),
    Slot(Option<SlotRef>),
    Segment(Option<SegmentPhase>),
    RemovalFailed(bool),
}

impl BookEdit {
    pub(crate) fn apply(self, record: &mut BookRecord) {
        match self {
            Self::Progress(progress) => record.progress = Some(progress),
            Self::Slot(slot) => record.slot = slot,
            Self::Segment(segment) => record.segment = segment,
            Self::RemovalFailed(failed) => record.removal_failed = failed,
        }
    }
}
