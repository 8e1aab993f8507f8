//! The journal record of a TaskBook. The record of a TaskBook contains the progress of this node in the current run,
//! and the slot of the node.

use serde::{Deserialize, Serialize};

use crate::kinds::{self, Record};

/// The state of a TaskBook on this node. A TaskBook without a record has not started on this node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct BookRecord {
    /// The progress of this node in the current run; `None` if the run needs no coordination with other nodes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub progress: Option<RunProgress>,
    /// The slot that this node holds or waits for; `None` if the node needs no slot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slot: Option<SlotRef>,
    /// The phase of the current segment of a TaskBook with `before` or `after` tasks. The phase is `None` if the
    /// current segment has not begun.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub segment: Option<SegmentPhase>,
    /// True if the agent could not remove an object that was deleted from the TaskBook. The `after` tasks do not run
    /// until the removal succeeds.
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
    /// The number of segments that this node has completed. For each completed segment, the node has published a vote.
    pub done: usize,
    /// True if all nodes of the TaskBook have completed the run.
    pub completed: bool,
}

/// The phase of a segment with `before` or `after` tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SegmentPhase {
    /// The `before` tasks have begun, but have not all succeeded.
    Preparing,
    /// The `before` tasks have succeeded, and the node may change its resources.
    Changing,
}

/// A slot that a node holds or waits for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SlotRef {
    /// The name of the slot's budget.
    pub budget: String,
    /// The partition of the slot's budget. The partition is the node's value of the label in `per`; empty for a budget
    /// without `per`.
    pub partition: String,
    /// The claim of the node to the slot; `None` while the node waits for the slot.
    pub claim: Option<SlotClaim>,
}

impl SlotRef {
    /// Returns true if two slots belong to the same budget and the same partition.
    pub fn is_in(&self, other: &Self) -> bool {
        (&self.budget, &self.partition) == (&other.budget, &other.partition)
    }
}

/// The claim of a node to a slot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotClaim {
    /// The state of the claim.
    pub state: ClaimState,
    /// The name of the run in which the node needs the slot.
    pub run: String,
    /// The number of the segment in which the node needs the slot.
    pub segment: u32,
}

/// The state of a node's claim to a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClaimState {
    /// The node holds the slot, so the node may change its resources.
    Claim,
    /// The node has failed in the segment, and still holds the slot.
    Failure,
    /// The node has failed in the segment, and does not hold a slot.
    Unadmitted,
}

/// A change of one field in the record of a TaskBook.
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
