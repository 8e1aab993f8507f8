//! The state of a run, as one node has read it from the store. The size of a snapshot does not depend on the size of
//! the fleet (P4).

use std::{collections::BTreeSet, ops::Range};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{Queued, RecoveryEpoch, RolloutProgress, RolloutSpec, SlotRecord, SlotState};
use crate::{
    accept::{Accepted, AcceptedId},
    keys,
    store::{Answer, Compare, Op, Row, Txn},
};

/// The maximum number of queue entries in a snapshot. The snapshot contains the oldest queue entries.
const HEADS: usize = 16;

/// The number of segments whose votes the first request of a snapshot reads. The first request is limited because a
/// transaction has at most 128 operations.
const FIRST_SEGMENTS: u32 = 40;

/// The number of segments whose votes each later request of the same snapshot reads.
const MORE_SEGMENTS: u32 = 60;

/// The record of a node that numbers the writes of the node to the store.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WriteSequence {
    /// The sequence number of the newest write. The number grows with each write.
    pub number: u64,
}

/// A slot record, with the node, partition and book from the store key, and the store revision at which the record was
/// written.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlotEntry {
    /// The name of the node that the record is about.
    pub node: String,
    /// The partition of the budget that the slot belongs to.
    pub partition: String,
    /// The book for which the node holds the slot.
    pub book: String,
    /// The slot record itself.
    pub held: SlotRecord,
    /// The store revision at which the record was written.
    pub modified: u64,
    /// The time of the write and the error message. Decisions do not read `note`.
    pub note: SlotNote,
}

/// The fields of a record that `rollouts` shows, but that no decision reads.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct SlotNote {
    /// The time of the write, by the clock of the node that wrote the record. Unit: milliseconds since 1970.
    pub at: Option<i64>,
    /// The error message of a failed node.
    pub message: Option<String>,
}

/// A queue entry, with the node, partition and book from the store key, and the store revision at which the entry was
/// written.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Entry {
    /// The name of the waiting node.
    pub node: String,
    /// The partition of the budget for which the node waits.
    pub partition: String,
    /// The book for which the node waits.
    pub book: String,
    /// The queue entry itself.
    pub queued: Queued,
    /// The store revision at which the entry was written.
    pub modified: u64,
    /// The time of the write. Decisions do not read `note`.
    pub note: SlotNote,
}

/// The state of one run, as one node has read it from the store.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RunSnapshot {
    /// The store revision at which the snapshot was read.
    pub revision: u64,
    /// The acceptance in the store, and the store revision at which the acceptance was written.
    pub accepted: Option<(AcceptedId, u64)>,
    /// The open recovery, and the store revision at which the recovery record was written. `None` if no recovery is
    /// open.
    pub recovery: Option<(RecoveryEpoch, u64)>,
    /// The nodes that have republished their claims in the open recovery. `acknowledged` is empty if this node has not
    /// read the acknowledgements.
    pub acknowledged: BTreeSet<String>,
    /// True if this node has detected a rollback of the store, and no other node has reported it.
    pub rolled_back: bool,
    /// True during the first 3 s after the node has connected to the store. Shortly after a connection, a node that has
    /// seen a later state of the store can report a rollback.
    pub stabilizing: bool,
    /// The sequence number of this node's newest write, according to the store. 0 if the store does not contain the
    /// number.
    pub sequence: u64,
    /// The open waves of the book's run, and the store revision at which the record of the open waves was written.
    pub progress: Option<(RolloutProgress, u64)>,
    /// All slot records of the budget, including the records of other books that share the budget.
    pub held: Vec<SlotEntry>,
    /// The oldest queue entries of this node's partition.
    pub queue: Vec<Entry>,
    /// The queue entry of this node, and the store revision at which it was written. `None` if the node does not wait.
    pub queued: Option<(Queued, u64)>,
    /// True if this node has a lease. Other nodes may write off a node without a lease.
    pub leased: bool,
    /// The segments of the run for which this node has voted.
    pub voted: BTreeSet<u32>,
    /// For each segment, the number of members that have voted.
    pub votes: Vec<u64>,
    /// The number of one segment, and the names of the members that have voted for the segment. `None` if this node has
    /// not read the names.
    pub names: Option<(u32, BTreeSet<String>)>,
    /// The offers that other nodes have not taken within 10 s, by this node's clock. Each element contains the node and
    /// the store revision of the offer.
    pub stale: BTreeSet<(String, u64)>,
    /// The claims of nodes that are absent for longer than they announced, by this node's clock.
    pub overdue: BTreeSet<(String, u64)>,
    /// True if this node may offer a free slot to another node: the slot was free for long, or a notice arrived.
    pub idle: bool,
    /// The nodes that hold a slot in this node's partition according to gossip, but not according to the store.
    pub hidden_claims: BTreeSet<String>,
    /// The nodes that count as lost.
    pub lost: BTreeSet<String>,
    /// True if the soak time after the completion of a wave has passed, by this node's clock.
    pub soaked: bool,
}

impl RunSnapshot {
    /// Returns the transaction with which a node reads a snapshot.
    pub fn reading(spec: &RolloutSpec, own_node: &str) -> Txn {
        let mut then = vec![
            Op::Read(keys::ACCEPTED.to_owned()),
            Op::Read(keys::ALL_RECOVERIES.to_owned()),
            Op::Read(keys::write_sequence(own_node)),
            Op::Read(keys::progress(&spec.book)),
            Op::Read(keys::all_held(&spec.budget)),
            Op::Oldest(keys::partition_queue(&spec.budget, spec.partition(own_node)), HEADS),
            Op::Read(keys::queue(&spec.budget, spec.partition(own_node), &spec.book, own_node)),
            Op::Read(keys::alive(own_node)),
        ];
        then.extend(reading_votes(spec, own_node, 0..spec.segments().min(FIRST_SEGMENTS)));
        Txn { compare: Vec::new(), then, otherwise: Vec::new() }
    }

    /// Returns the transactions that read the votes of all segments after the first 40, which [`RunSnapshot::reading`]
    /// leaves out. The result is empty for a run with at most 40 segments. A node may read votes later than the rest of
    /// the snapshot, because a vote is never withdrawn.
    pub fn reading_more(spec: &RolloutSpec, own_node: &str) -> Vec<Txn> {
        let mut reads = Vec::new();
        let mut from = FIRST_SEGMENTS;
        while from < spec.segments() {
            let to = from.saturating_add(MORE_SEGMENTS).min(spec.segments());
            reads.push(Txn { then: reading_votes(spec, own_node, from..to), ..Txn::default() });
            from = to;
        }
        reads
    }

    /// Adds to the snapshot the votes that one transaction of [`RunSnapshot::reading_more`] has read. The caller must
    /// add the votes in the order of the transactions.
    #[must_use]
    pub fn with_votes(mut self, spec: &RolloutSpec, own_node: &str, answers: Vec<Answer>) -> Self {
        let mut answers = answers.into_iter();
        while let Some(count) = answers.next() {
            let segment = u32::try_from(self.votes.len()).unwrap_or(u32::MAX);
            self.votes.push(count.count);
            let key = keys::vote(&spec.run, segment, spec.is_member(own_node), own_node);
            if answers.next().is_some_and(|own| own.rows.iter().any(|row| row.key == key)) {
                self.voted.insert(segment);
            }
        }
        self
    }

    /// Builds the snapshot from the answers to [`RunSnapshot::reading`].
    pub fn of(spec: &RolloutSpec, own_node: &str, revision: u64, answers: Vec<Answer>) -> Self {
        let mut answers = answers.into_iter();
        let mut rows = || answers.next().unwrap_or_default();
        let exactly = |answer: Answer, key: &str| answer.rows.into_iter().find(|row| row.key == key);
        let mut snapshot = Self { revision, ..Self::default() };
        snapshot.accepted = exactly(rows(), keys::ACCEPTED).and_then(|row| {
            let accepted: Accepted = parse(&row)?;
            Some((accepted.id(), row.modified))
        });
        snapshot.recovery = newest_recovery(&rows().rows);
        snapshot.sequence = exactly(rows(), &keys::write_sequence(own_node))
            .and_then(|row| parse::<WriteSequence>(&row))
            .map_or(0, |mark| mark.number);
        snapshot.progress =
            exactly(rows(), &keys::progress(&spec.book)).and_then(|row| Some((parse(&row)?, row.modified)));
        let prefix = keys::all_held(&spec.budget);
        snapshot.held = rows().rows.iter().filter_map(|row| slot_entry(row, &prefix)).collect();
        let prefix = keys::whole_queue(&spec.budget);
        snapshot.queue = rows().rows.iter().filter_map(|row| queue_entry(row, &prefix)).collect();
        snapshot.queued = exactly(rows(), &keys::queue(&spec.budget, spec.partition(own_node), &spec.book, own_node))
            .and_then(|row| Some((parse(&row)?, row.modified)));
        snapshot.leased = exactly(rows(), &keys::alive(own_node)).is_some();
        snapshot = snapshot.with_votes(spec, own_node, answers.collect());
        snapshot
    }

    /// Returns this node's slot record for the book. `None` if this node has no slot record for the book.
    pub fn own_slot(&self, spec: &RolloutSpec, own_node: &str) -> Option<&SlotEntry> {
        self.held.iter().find(|held| held.node == own_node && held.book == spec.book)
    }

    /// Returns true if the queue of the partition may be longer than the queue in the snapshot.
    pub fn queue_is_cut(&self) -> bool {
        self.queue.len() >= HEADS
    }

    /// Returns the number of open waves of a segment.
    pub fn open_waves(&self, spec: &RolloutSpec, segment: u32) -> u32 {
        self.progress
            .as_ref()
            .filter(|(progress, _)| progress.run == spec.run)
            .and_then(|(progress, _)| progress.waves.get(segment as usize).copied())
            .unwrap_or(0)
            .max(spec.open_at_first(segment))
    }

    /// Returns true if the run is complete.
    pub fn done(&self, spec: &RolloutSpec) -> bool {
        self.progress.as_ref().is_some_and(|(progress, _)| progress.run == spec.run && progress.done)
    }

    /// Returns the store revision at which the acceptance in the store was written. `None` if the spec belongs to
    /// another acceptance, even to an acceptance with the same number (P26).
    pub fn current(&self, spec: &RolloutSpec) -> Option<u64> {
        self.accepted.as_ref().filter(|(accepted, _)| *accepted == spec.accepted).map(|(_, modified)| *modified)
    }

    /// Returns true if this node must republish its claims before it may enter a segment.
    pub fn needs_republish(&self, own_node: &str) -> bool {
        self.rolled_back || self.recovery.is_some() && !self.acknowledged.contains(own_node)
    }

    /// Returns true unless an open recovery blocks the slots of the book. A recovery blocks all slots until every node
    /// in git has republished its claims or is written off (P17).
    pub fn recovery_complete(&self, spec: &RolloutSpec) -> bool {
        let said = |node: &String| {
            self.acknowledged.contains(node)
                || self
                    .held
                    .iter()
                    .any(|held| held.node == *node && held.book == spec.book && held.held.kind == SlotState::WrittenOff)
        };
        !self.rolled_back && (self.recovery.is_none() || spec.known.iter().all(said))
    }

    /// Returns the conditions under which a transaction may grant a slot: the accepted revision is unchanged, and no
    /// node has reported a rollback since the snapshot. `None` if this node is not allowed to grant a slot now (P51).
    pub fn admission_guards(&self, spec: &RolloutSpec) -> Option<Vec<Compare>> {
        let accepted = self.current(spec).filter(|_| self.recovery_complete(spec) && !self.stabilizing)?;
        let accepted = Compare::Revision(keys::ACCEPTED.to_owned(), accepted);
        Some([accepted].into_iter().chain(self.same_recovery()).collect())
    }

    /// Returns the condition that no node has reported a rollback since the snapshot.
    pub fn same_recovery(&self) -> Vec<Compare> {
        let none_since = |at| Compare::NoneNewer(keys::ALL_RECOVERIES.to_owned(), at);
        match &self.recovery {
            Some((restored, at)) => vec![Compare::Revision(keys::recovery(&restored.by), *at), none_since(*at)],
            None => vec![none_since(0)],
        }
    }

    /// Returns the number of slots of a partition that are claimed or offered (P55).
    pub fn taken(&self, partition: &str) -> u64 {
        let slots = |held: &&SlotEntry| {
            matches!(held.held.kind, SlotState::Claim | SlotState::Offer) && held.partition == partition
        };
        self.held.iter().filter(slots).count() as u64
    }

    /// Returns the number of failed nodes in the budget, including lost nodes that count as failed. The number includes
    /// failures in other books that share the budget, because each failed node is half changed (P63).
    pub fn failures(&self) -> u64 {
        self.held.iter().filter(|held| held.held.is_failed()).count() as u64
    }

    /// Returns the number of failed nodes of this book in the budget (P64).
    pub fn own_failures(&self, spec: &RolloutSpec) -> u64 {
        let failed = |held: &&SlotEntry| held.book == spec.book && held.held.is_failed();
        self.held.iter().filter(failed).count() as u64
    }

    /// Returns true if the run does not wait for the node of a slot record, because the record shows a failure or a
    /// loss in this run (P65).
    pub fn is_excused(&self, spec: &RolloutSpec, held: &SlotEntry) -> bool {
        held.book == spec.book
            && held.held.run == spec.run
            && match held.held.kind {
                SlotState::Failure | SlotState::Unadmitted | SlotState::WrittenOff => true,
                SlotState::Lost => spec.on_lost != super::OnLost::Hold,
                SlotState::Claim => held.held.lost && spec.on_lost == super::OnLost::Fail,
                SlotState::Offer => false,
            }
    }

    /// Returns true if the node of a claim has announced an absence, and the announced time has not passed (P59).
    pub fn is_away_on_purpose(&self, held: &SlotEntry) -> bool {
        held.held.absent > 0 && !self.overdue.contains(&(held.node.clone(), held.modified))
    }

    /// Returns the number of nodes that this run has written off.
    pub fn written_off(&self, spec: &RolloutSpec) -> u64 {
        let gone = |held: &&SlotEntry| held.held.kind == SlotState::WrittenOff && held.held.run == spec.run;
        self.held.iter().filter(gone).count() as u64
    }

    /// Returns a lost node that halts the run, because the run has already written off `count` nodes (P60). The node
    /// has a claim, or a failure that blocks the run. The function ignores records of other books.
    pub fn holder_beyond_budget(&self, spec: &RolloutSpec) -> Option<&str> {
        let spent = spec.on_lost == super::OnLost::Skip && self.written_off(spec) >= spec.count.unwrap_or(1);
        let halted = self.failures() > spec.failure_limit().unwrap_or(spec.max_failures);
        let holds = |held: &&SlotEntry| {
            let blocks = match held.held.kind {
                SlotState::Claim => true,
                SlotState::Failure => halted || held.held.run != spec.run,
                _ => false,
            };
            held.book == spec.book && blocks && self.lost.contains(&held.node) && !self.is_away_on_purpose(held)
        };
        self.held.iter().find(holds).filter(|_| spent).map(|held| held.node.as_str())
    }

    /// Returns true if too many nodes have failed, so that the run is halted (P62).
    pub fn halted(&self, spec: &RolloutSpec) -> bool {
        spec.failure_limit().is_some_and(|limit| self.failures() > limit)
    }

    /// Returns true if a node may enter a segment. The wave of the node must be open, or the node must have a claim or
    /// a failure (P64). A node that has changed something in the segment may enter the segment again, even if a
    /// restored store shows a barrier as closed.
    pub fn may_enter(&self, spec: &RolloutSpec, node: &str, segment: u32) -> bool {
        let open = self.open_waves(spec, segment);
        let mut carried = self.held.iter().filter(|held| {
            held.node == node
                && held.book == spec.book
                && matches!(held.held.kind, SlotState::Claim | SlotState::Failure | SlotState::Unadmitted)
        });
        let reached = |held: &SlotRecord| held.kind != SlotState::Unadmitted && (segment == 0 || open > 0);
        spec.wave(node) < open
            || carried.any(|held| reached(&held.held) || held.held.run == spec.run && held.held.segment == segment)
    }
}

/// Returns the operations that read the number of votes, and this node's vote, for each of the segments.
fn reading_votes(spec: &RolloutSpec, own_node: &str, segments: Range<u32>) -> Vec<Op> {
    let of = |segment| {
        let own = keys::vote(&spec.run, segment, spec.is_member(own_node), own_node);
        [Op::Count(keys::member_votes(&spec.run, segment)), Op::Read(own)]
    };
    segments.flat_map(of).collect()
}

/// Reads a complete snapshot. The argument `run` is a closure that executes the transactions. A run with more than 40
/// segments needs several transactions.
pub fn look<E>(
    spec: &RolloutSpec,
    own_node: &str,
    mut run: impl FnMut(&Txn) -> Result<(u64, Vec<Answer>), E>,
) -> Result<RunSnapshot, E> {
    let (revision, answers) = run(&RunSnapshot::reading(spec, own_node))?;
    let mut snapshot = RunSnapshot::of(spec, own_node, revision, answers);
    for txn in RunSnapshot::reading_more(spec, own_node) {
        snapshot = snapshot.with_votes(spec, own_node, run(&txn)?.1);
    }
    Ok(snapshot)
}

fn parse<T: DeserializeOwned>(row: &Row) -> Option<T> {
    serde_json::from_slice(&row.value).ok()
}

/// Returns the newest report about a rollback, and the store revision at which the report was written. `None` if no
/// rollback was reported.
pub fn newest_recovery(rows: &[Row]) -> Option<(RecoveryEpoch, u64)> {
    let newest = rows.iter().max_by_key(|row| row.modified)?;
    let by = newest.key.strip_prefix(keys::ALL_RECOVERIES)?.to_owned();
    Some((RecoveryEpoch { by, ..parse(newest)? }, newest.modified))
}

/// Parses the part `PARTITION/NAMESPACE/BOOK/NODE` of a store key, which follows the prefix. Returns the partition, the
/// book and the node.
fn owner(row: &Row, prefix: &str) -> Option<(String, String, String)> {
    match keys::parts(&row.key, prefix)[..] {
        [partition, namespace, book, node] => {
            Some((partition.to_owned(), format!("{namespace}/{book}"), node.to_owned()))
        }
        _ => None,
    }
}

/// Parses the row of a slot record. `prefix` is the prefix of all slot records of the budget.
pub(crate) fn slot_entry(row: &Row, prefix: &str) -> Option<SlotEntry> {
    let (partition, book, node) = owner(row, prefix)?;
    let note = parse(row).unwrap_or_default();
    Some(SlotEntry { node, partition, book, held: parse(row)?, modified: row.modified, note })
}

/// Parses the row of a queue entry. `prefix` is the prefix of all queue entries of the budget.
pub(crate) fn queue_entry(row: &Row, prefix: &str) -> Option<Entry> {
    let (partition, book, node) = owner(row, prefix)?;
    let note = parse(row).unwrap_or_default();
    Some(Entry { node, partition, book, queued: parse(row)?, modified: row.modified, note })
}
