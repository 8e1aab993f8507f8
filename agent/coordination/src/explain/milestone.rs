//! The milestones of a rollout. The node whose transaction causes a milestone also reports the milestone.

use crate::{
    keys::Key,
    rollout::{RolloutProgress, RolloutSpec, RunSnapshot, SlotRecord, SlotState},
    store::{Op, Txn},
};

/// A milestone of a rollout, such as an opened wave or a halt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Milestone {
    /// The book of the rollout, as `namespace/name`.
    pub book: String,
    /// The name of the run, as `namespace/name@generation.digest`.
    pub run: String,
    /// The kind of the milestone.
    pub kind: MilestoneKind,
}

/// The kinds of milestones that a rollout reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MilestoneKind {
    /// A wave of a segment has opened. Segments and waves are counted from 1.
    Wave {
        /// The number of the segment in which the wave has opened.
        segment: u32,
        /// The number of the opened wave.
        wave: u32,
    },
    /// A barrier has opened, because all nodes have completed the segments before the barrier.
    Barrier {
        /// The number of the segment after the barrier, counted from 1.
        segment: u32,
    },
    /// The reporting node was elected to run a task.
    Elected {
        /// The id of the elected task.
        task: String,
    },
    /// A failed or lost node has halted the run.
    Halted,
    /// All nodes that the run waits for have completed the run.
    Finished,
}

impl Milestone {
    /// Creates a milestone of the run that `spec` describes.
    pub(crate) fn new(spec: &RolloutSpec, kind: MilestoneKind) -> Self {
        Self { book: spec.book.clone(), run: spec.run.clone(), kind }
    }
}

/// Returns true if a transaction may cause a milestone, such as an opened wave. The caller compares the snapshots
/// before and after the transaction only if the result is true.
pub(crate) fn may_reach(node: &str, txn: &Txn) -> bool {
    txn.then.iter().any(|operation| progress(operation).is_some() || failure(node, operation).is_some())
}

/// Returns the milestones that a transaction has caused. The function compares the snapshots before and after the
/// transaction.
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

/// Returns the name of the failed or lost node if an operation records a failure or a loss. The function ignores
/// failures of nodes other than `own_node`.
fn failure<'o>(own_node: &str, operation: &'o Op) -> Option<&'o str> {
    let Op::Put { key, value, .. } = operation else { return None };
    let Some(Key::Slot { node, .. }) = Key::parse(key) else { return None };
    let record: SlotRecord = serde_json::from_slice(value).ok()?;
    let is_lost = record.lost || record.kind == SlotState::Lost;
    (is_lost || node == own_node && record.is_failed()).then_some(node)
}

/// Returns true if a run is halted, but would continue without the slot record of a node. The function does not use the
/// snapshot before the transaction, because the failure in that snapshot may belong to a previous run.
fn has_halted(spec: &RolloutSpec, node: &str, after: &RunSnapshot) -> bool {
    let mut without = after.clone();
    without.held.retain(|entry| entry.node != node);
    after.halted(spec) && !without.halted(spec)
}
