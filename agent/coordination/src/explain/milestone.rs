//! Milestones of a rollout, each noted by the one node whose transaction reached it.

use crate::{
    keys::Key,
    rollout::{RolloutProgress, RolloutSpec, RunSnapshot, SlotRecord, SlotState},
    store::{Op, Txn},
};

/// A milestone of a rollout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Milestone {
    /// The book: `namespace/name`.
    pub book: String,
    /// The run.
    pub run: String,
    /// The kind.
    pub kind: MilestoneKind,
}

/// The kind of a milestone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MilestoneKind {
    /// A wave of a segment is open. Both count from 1.
    Wave {
        /// The segment.
        segment: u32,
        /// The wave.
        wave: u32,
    },
    /// A barrier is open: all nodes have completed the segment before this one. It counts from 1.
    Barrier {
        /// The segment after the barrier.
        segment: u32,
    },
    /// This node is elected for a task.
    Elected {
        /// The id of the task.
        task: String,
    },
    /// The failure or the loss of a node has halted the run.
    Halted,
    /// All nodes have completed the run.
    Finished,
}

impl Milestone {
    /// Creates a milestone of a run.
    pub(crate) fn new(spec: &RolloutSpec, kind: MilestoneKind) -> Self {
        Self { book: spec.book.clone(), run: spec.run.clone(), kind }
    }
}

/// Returns whether a transaction may reach a milestone, so that the snapshots before and after it are compared.
pub(crate) fn may_reach(node: &str, txn: &Txn) -> bool {
    txn.then.iter().any(|operation| progress(operation).is_some() || failure(node, operation).is_some())
}

/// Returns the milestones that a committed transaction of a node has reached.
pub(crate) fn reached(
    spec: &RolloutSpec,
    node: &str,
    before: &RunSnapshot,
    txn: &Txn,
    after: &RunSnapshot,
) -> Vec<Milestone> {
    let mut kinds = Vec::new();
    for operation in &txn.then {
        if let Some(progress) = progress(operation).filter(|progress| progress.run == spec.run) {
            for (segment, open) in (0_u32..).zip(&progress.waves) {
                let known = before.open_waves(spec, segment);
                match known {
                    0 if *open > 0 => kinds.push(MilestoneKind::Barrier { segment: segment.saturating_add(1) }),
                    _ if *open > known => {
                        kinds.push(MilestoneKind::Wave { segment: segment.saturating_add(1), wave: *open });
                    }
                    _ => {}
                }
            }
            if progress.done && !before.done(spec) {
                kinds.push(MilestoneKind::Finished);
            }
        } else if let Some(failed) = failure(node, operation)
            && has_halted(spec, failed, after)
        {
            kinds.push(MilestoneKind::Halted);
        }
    }
    kinds.into_iter().map(|kind| Milestone::new(spec, kind)).collect()
}

fn progress(operation: &Op) -> Option<RolloutProgress> {
    let Op::Put { key, value, .. } = operation else { return None };
    matches!(Key::parse(key), Some(Key::Progress { .. })).then(|| serde_json::from_slice(value).ok())?
}

/// Returns the node whose failure an operation records: the failure of this node, or the loss of another one.
fn failure<'o>(me: &str, operation: &'o Op) -> Option<&'o str> {
    let Op::Put { key, value, .. } = operation else { return None };
    let Some(Key::Slot { node, .. }) = Key::parse(key) else { return None };
    let record: SlotRecord = serde_json::from_slice(value).ok()?;
    let is_lost = record.lost || record.kind == SlotState::Lost;
    (is_lost || node == me && record.kind == SlotState::Failure).then_some(node)
}

/// Returns whether the failure of a node has halted a run: without it, the run would not be halted. The record of an
/// earlier run may have been there before, so the earlier snapshot does not decide.
fn has_halted(spec: &RolloutSpec, node: &str, after: &RunSnapshot) -> bool {
    let mut without = after.clone();
    without.held.retain(|entry| entry.node != node);
    after.halted(spec) && !without.halted(spec)
}
