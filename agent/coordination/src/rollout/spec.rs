//! The rollout of a book, as one revision defines it. All nodes that have loaded the same revision compute the same
//! rollout.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use crate::accept::AcceptedId;

/// The cut between two segments of a book.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Cut {
    /// A barrier. The segment after the barrier opens when all waves have completed the segment before the barrier
    /// (P74).
    Barrier,
    /// A cut without a barrier. A node may enter the segment after the cut before other nodes have completed the
    /// segment before the cut.
    Passage,
}

/// The value of the field `onLostNode`, which states how a run reacts to a lost node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OnLost {
    /// `hold`: the run waits for the lost node.
    #[default]
    Hold,
    /// `skip`: the run writes off the lost node and continues without the node.
    Skip,
    /// `fail`: the lost node counts as failed.
    Fail,
}

/// The rollout of a book, as one revision defines it.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RolloutSpec {
    /// The book, as `namespace/name`.
    pub book: String,
    /// The name of the budget: the name of the book, or the name of a slot that several books share.
    pub budget: String,
    /// The name of the run. The name contains the book, the generation that last changed the book, and the digest of
    /// its definition (P35, P70).
    pub run: String,
    /// The acceptance of the revision that defines the rollout.
    pub accepted: AcceptedId,
    /// The nodes that the run waits for, each with the number of the node's wave (P38).
    pub members: BTreeMap<String, u32>,
    /// The targets that joined after the acceptance that started the run. Late targets belong to the last wave, and the
    /// run does not wait for late targets (P39).
    pub late: Vec<String>,
    /// The names of all nodes in git.
    pub known: Vec<String>,
    /// For each node, the partition of the budget: the value of the node label that the field `per` names. `partitions`
    /// is empty if the budget has no partitions.
    pub partitions: BTreeMap<String, String>,
    /// The maximum number of nodes that hold a slot of one partition at the same time. `None` if there is no limit.
    pub count: Option<u64>,
    /// The maximum number of failed nodes with which the run continues. If more nodes fail, the run halts.
    pub max_failures: u64,
    /// The value of the field `failAfterAllTargetsRan`: true if other nodes and later waves continue in spite of
    /// failures. A run with too many failures completes only after enough failed nodes have succeeded. If several books
    /// share the slot, the failure limit of the other books still applies.
    pub fail_after_all: bool,
    /// The failure limit of all books that share the slot: the smallest `max_failures` of these books. `None` if the
    /// `max_failures` of this book applies.
    pub slot_failures: Option<u64>,
    /// True if several books or tasks share the budget. A shared budget may have partitions that are not in
    /// `partitions`.
    pub shared: bool,
    /// The value of the field `onLostNode`, which states how the run reacts to a lost node.
    pub on_lost: OnLost,
    /// The number of waves, at least one.
    pub waves: u32,
    /// The soak time: the pause between the completion of a wave and the start of the next wave.
    pub soak: Duration,
    /// The cuts between the segments: the first cut is between the first and the second segment.
    pub cuts: Vec<Cut>,
    /// The numbers of the segments that consist of an elected task. All waves of an elected segment open together,
    /// because the elected node may belong to any wave (P85).
    pub elected: BTreeSet<u32>,
}

impl RolloutSpec {
    /// Returns the number of segments.
    pub fn segments(&self) -> u32 {
        u32::try_from(self.cuts.len()).unwrap_or(u32::MAX - 1) + 1
    }

    /// Returns true if the run waits for a node.
    pub fn is_member(&self, node: &str) -> bool {
        self.members.contains_key(node)
    }

    /// Returns true if a node is a target of the book.
    pub fn selects(&self, node: &str) -> bool {
        self.is_member(node) || self.late.iter().any(|late| late == node)
    }

    /// Returns the wave of a node, counted from 0. A late target, which joined after the start of the run, is in the
    /// last wave.
    pub fn wave(&self, node: &str) -> u32 {
        self.members.get(node).copied().unwrap_or(self.waves.saturating_sub(1))
    }

    /// Returns the partition of a node, or `-` if the node has none.
    pub fn partition(&self, node: &str) -> &str {
        self.partitions.get(node).map_or("-", String::as_str)
    }

    /// Returns the name by which messages show the budget.
    pub fn budget_name(&self) -> String {
        match self.budget.split_once("/slot=") {
            Some((namespace, slot)) => format!("slot {slot} of namespace {namespace}"),
            None => format!("book {}", self.budget),
        }
    }

    /// Returns the name by which messages show a partition of the budget.
    pub fn partition_name(&self, partition: &str) -> String {
        let budget = self.budget_name();
        let Some(value) = partition.strip_prefix('=') else { return budget };
        let digits = value.find(|character: char| !character.is_ascii_digit()).unwrap_or(0);
        // A task with its own limit has separate partitions in the budget of the book: `=SEGMENT-` or `=SEGMENT=VALUE`.
        match value.split_at(digits) {
            ("", _) => format!("{budget} for {value}"),
            (_, "-") => format!("a task of {budget}"),
            (_, own) if own.starts_with('=') => format!("a task of {budget} for {}", &own[1..]),
            _ => format!("{budget} for {value}"),
        }
    }

    /// Returns the number of waves of a segment that are already open at the start of the run.
    pub fn open_at_first(&self, segment: u32) -> u32 {
        match segment.checked_sub(1).and_then(|before| self.cuts.get(before as usize)) {
            None | Some(Cut::Passage) => self.open_at_once(segment),
            Some(Cut::Barrier) => 0,
        }
    }

    /// Returns the number of waves that open when a segment opens.
    pub fn open_at_once(&self, segment: u32) -> u32 {
        if self.elected.contains(&segment) { self.waves } else { 1 }
    }

    /// Returns the maximum number of failed nodes in the budget at which nodes still get slots. `None` if failures do
    /// not stop the run.
    pub fn failure_limit(&self) -> Option<u64> {
        self.slot_failures.or_else(|| (!self.fail_after_all).then_some(self.max_failures))
    }

    /// Returns the members in the waves 0 to `wave`.
    pub fn up_to(&self, wave: u32) -> impl Iterator<Item = &str> {
        self.members.iter().filter(move |(_, own)| **own <= wave).map(|(node, _)| node.as_str())
    }
}

/// Returns the name of the run for the slot record of a change. `segment` is `None` if the change corrects drift.
pub(super) fn run_of(spec: &RolloutSpec, segment: Option<u32>) -> String {
    segment.map_or_else(|| drift_of(&spec.book), |_| spec.run.clone())
}

/// Returns the text that the slot record of a corrective change contains instead of the name of a run (P91).
pub fn drift_of(book: &str) -> String {
    format!("{book}!drift")
}
