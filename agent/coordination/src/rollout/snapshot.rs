//! What was read of a run: small, whatever the fleet's size.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{Queued, RecoveryEpoch, RolloutProgress, RolloutSpec, SlotRecord, SlotState};
use crate::{
    accept::Accepted,
    keys,
    store::{Answer, Compare, Op, Row, Txn},
};

/// How many of those who wait longest are read.
const HEADS: usize = 16;

/// The number of what a node wrote last.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WriteSequence {
    /// It only grows.
    pub number: u64,
}

/// A claim, offer or failure, whose it is, and when it was written.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlotEntry {
    /// The node.
    pub node: String,
    /// The part of the budget.
    pub part: String,
    /// The book.
    pub book: String,
    /// The record.
    pub held: SlotRecord,
    /// The revision that wrote it.
    pub modified: u64,
}

/// Somebody who waits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Entry {
    /// The node.
    pub node: String,
    /// The part of the budget.
    pub part: String,
    /// The book.
    pub book: String,
    /// The record.
    pub queued: Queued,
    /// The revision that wrote it.
    pub modified: u64,
}

/// What was read.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RunSnapshot {
    /// The revision of the store at which it was read.
    pub revision: u64,
    /// The accepted generation, and the revision that wrote it.
    pub accepted: Option<(u64, u64)>,
    /// That the store has gone back, and the revision that wrote it.
    pub recovery: Option<(RecoveryEpoch, u64)>,
    /// Who has said anew what it holds since then, where that was read.
    pub acknowledged: BTreeSet<String>,
    /// Whether the store is older than this node knows, and nobody has said so yet.
    pub rolled_back: bool,
    /// Whether the node has only just reached the store: those who know more of its past may be about to say that it has
    /// gone back.
    pub stabilizing: bool,
    /// The number of what this node wrote last, as the store has it.
    pub sequence: u64,
    /// How far the run is open, and the revision that wrote it.
    pub progress: Option<(RolloutProgress, u64)>,
    /// All claims, offers and failures of the group.
    pub held: Vec<SlotEntry>,
    /// Those who wait longest.
    pub queue: Vec<Entry>,
    /// The own place in the queue, and the revision that wrote it.
    pub queued: Option<(Queued, u64)>,
    /// Whether the node has a lease: without one, others may be about to write it off.
    pub leased: bool,
    /// The segments of the run in which this node has voted.
    pub voted: BTreeSet<u32>,
    /// How many members have voted in each segment.
    pub votes: Vec<u64>,
    /// Who has voted in a segment, where that was read too.
    pub names: Option<(u32, BTreeSet<String>)>,
    /// Offers that have been there for long, and nodes that seem lost: by this node's own clock and ears.
    pub stale: BTreeSet<(String, u64)>,
    /// Claims of nodes that went away on purpose and have not come back in the time they said, by this node's own clock.
    pub overdue: BTreeSet<(String, u64)>,
    /// Whether a slot has been free for long while somebody waited for it, by this node's own clock.
    pub idle: bool,
    /// Nodes that say that they hold a slot of this node's part, of which the store shows neither that nor the end of it.
    pub hidden_claims: BTreeSet<String>,
    /// Nodes that seem lost.
    pub lost: BTreeSet<String>,
    /// Whether the wave that is complete has been so for the soak, on this node's own clock.
    pub soaked: bool,
}

impl RunSnapshot {
    /// The transaction that reads it.
    pub fn reading(spec: &RolloutSpec, me: &str) -> Txn {
        let mut then = vec![
            Op::Read(keys::ACCEPTED.to_owned()),
            Op::Read(keys::ALL_RECOVERIES.to_owned()),
            Op::Read(keys::write_sequence(me)),
            Op::Read(keys::progress(&spec.book)),
            Op::Read(keys::all_held(&spec.group)),
            Op::Oldest(keys::partition_queue(&spec.group, spec.part(me)), HEADS),
            Op::Read(keys::queue(&spec.group, spec.part(me), &spec.book, me)),
            Op::Read(keys::alive(me)),
        ];
        for segment in 0..spec.segments().min(40) {
            then.push(Op::Count(keys::member_votes(&spec.run, segment)));
            then.push(Op::Read(keys::vote(&spec.run, segment, spec.is_member(me), me)));
        }
        Txn { compare: Vec::new(), then, otherwise: Vec::new() }
    }

    /// The snapshot of what was read.
    pub fn of(spec: &RolloutSpec, me: &str, revision: u64, answers: Vec<Answer>) -> Self {
        let mut answers = answers.into_iter();
        let mut rows = || answers.next().unwrap_or_default();
        let exactly = |answer: Answer, key: &str| answer.rows.into_iter().find(|row| row.key == key);
        let mut snapshot = Self { revision, ..Self::default() };
        snapshot.accepted = exactly(rows(), keys::ACCEPTED).and_then(|row| {
            let accepted: Accepted = parse(&row)?;
            Some((accepted.generation, row.modified))
        });
        snapshot.recovery = newest_recovery(&rows().rows);
        snapshot.sequence = exactly(rows(), &keys::write_sequence(me))
            .and_then(|row| parse::<WriteSequence>(&row))
            .map_or(0, |mark| mark.number);
        snapshot.progress =
            exactly(rows(), &keys::progress(&spec.book)).and_then(|row| Some((parse(&row)?, row.modified)));
        let prefix = keys::all_held(&spec.group);
        snapshot.held = rows().rows.iter().filter_map(|row| held(row, &prefix)).collect();
        let prefix = keys::whole_queue(&spec.group);
        snapshot.queue = rows().rows.iter().filter_map(|row| entry(row, &prefix)).collect();
        snapshot.queued = exactly(rows(), &keys::queue(&spec.group, spec.part(me), &spec.book, me))
            .and_then(|row| Some((parse(&row)?, row.modified)));
        snapshot.leased = exactly(rows(), &keys::alive(me)).is_some();
        for segment in 0..spec.segments().min(40) {
            snapshot.votes.push(rows().count);
            let key = keys::vote(&spec.run, segment, spec.is_member(me), me);
            if exactly(rows(), &key).is_some() {
                snapshot.voted.insert(segment);
            }
        }
        snapshot
    }

    /// The own claim, offer or failure for the book.
    pub fn mine(&self, spec: &RolloutSpec, me: &str) -> Option<&SlotEntry> {
        self.held.iter().find(|held| held.node == me && held.book == spec.book)
    }

    /// How many waves of a segment are open.
    pub fn open_waves(&self, spec: &RolloutSpec, segment: u32) -> u32 {
        self.progress
            .as_ref()
            .filter(|(progress, _)| progress.run == spec.run)
            .and_then(|(progress, _)| progress.waves.get(segment as usize).copied())
            .unwrap_or(0)
            .max(spec.open_at_first(segment))
    }

    /// Whether the run is through.
    pub fn done(&self, spec: &RolloutSpec) -> bool {
        self.progress.as_ref().is_some_and(|(progress, _)| progress.run == spec.run && progress.done)
    }

    /// Whether the node is at the accepted revision; then also the revision that wrote it.
    pub fn current(&self, spec: &RolloutSpec) -> Option<u64> {
        self.accepted.filter(|(generation, _)| *generation == spec.generation).map(|(_, modified)| modified)
    }

    /// Whether this node has to say anew what it holds before it is let in anywhere.
    pub fn needs_republish(&self, me: &str) -> bool {
        self.rolled_back || self.recovery.is_some() && !self.acknowledged.contains(me)
    }

    /// Whether everybody whom git knows has said anew what it holds, or is written off, where the store has gone back.
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

    /// What must be as it was read for anybody to be let in or on: the accepted revision, and that the store has not
    /// gone back meanwhile. None where nobody may be let in now.
    pub fn admission_guards(&self, spec: &RolloutSpec) -> Option<Vec<Compare>> {
        let accepted = self.current(spec).filter(|_| self.recovery_complete(spec) && !self.stabilizing)?;
        let accepted = Compare::Revision(keys::ACCEPTED.to_owned(), accepted);
        Some([accepted].into_iter().chain(self.same_recovery()).collect())
    }

    /// Holds while no node reports a restore that this snapshot does not have, also after the store has gone back.
    pub fn same_recovery(&self) -> Vec<Compare> {
        let none_since = |at| Compare::NoneNewer(keys::ALL_RECOVERIES.to_owned(), at);
        match &self.recovery {
            Some((restored, at)) => vec![Compare::Revision(keys::recovery(&restored.by), *at), none_since(*at)],
            None => vec![none_since(0)],
        }
    }

    /// How many slots of a part of the budget are taken or offered.
    pub fn taken(&self, part: &str) -> u64 {
        let slots =
            |held: &&SlotEntry| matches!(held.held.kind, SlotState::Claim | SlotState::Offer) && held.part == part;
        self.held.iter().filter(slots).count() as u64
    }

    /// How many nodes have failed, those that are lost and count as such included.
    pub fn failures(&self, spec: &RolloutSpec) -> u64 {
        let failed = |held: &&SlotEntry| {
            held.held.kind == SlotState::Failure
                || held.held.lost
                || held.held.kind == SlotState::Lost && spec.on_lost == super::OnLost::Fail
        };
        self.held.iter().filter(failed).count() as u64
    }

    /// Whether a claim's node has said that it goes away, and is not overdue.
    pub fn is_away_on_purpose(&self, held: &SlotEntry) -> bool {
        held.held.absent > 0 && !self.overdue.contains(&(held.node.clone(), held.modified))
    }

    /// How many nodes this run goes on without.
    pub fn written_off(&self, spec: &RolloutSpec) -> u64 {
        let gone = |held: &&SlotEntry| held.held.kind == SlotState::WrittenOff && held.held.run == spec.run;
        self.held.iter().filter(gone).count() as u64
    }

    /// Who is lost with a slot that this run may not go on without: as many as it may have been written off already.
    pub fn holder_beyond_budget(&self, spec: &RolloutSpec) -> Option<&str> {
        let spent = spec.on_lost == super::OnLost::Skip && self.written_off(spec) >= spec.count.unwrap_or(1);
        let holds = |held: &&SlotEntry| {
            held.held.kind == SlotState::Claim && self.lost.contains(&held.node) && !self.is_away_on_purpose(held)
        };
        self.held.iter().find(holds).filter(|_| spent).map(|held| held.node.as_str())
    }

    /// Whether too many have failed.
    pub fn halted(&self, spec: &RolloutSpec) -> bool {
        !spec.after_all && self.failures(spec) > spec.max_failures
    }

    /// Whether a node may be in a segment: its wave is open, or it has something to end there.
    pub fn may_enter(&self, spec: &RolloutSpec, node: &str, segment: u32) -> bool {
        let open = self.open_waves(spec, segment);
        let carries = self.held.iter().any(|held| {
            held.node == node
                && held.book == spec.book
                && matches!(held.held.kind, SlotState::Claim | SlotState::Failure)
        });
        spec.wave(node) < open || carries && (segment == 0 || open > 0)
    }
}

/// One reading of everything that a decision needs, through whoever runs transactions.
pub fn look<E>(
    spec: &RolloutSpec,
    me: &str,
    run: impl FnOnce(&Txn) -> Result<(u64, Vec<Answer>), E>,
) -> Result<RunSnapshot, E> {
    let (revision, answers) = run(&RunSnapshot::reading(spec, me))?;
    Ok(RunSnapshot::of(spec, me, revision, answers))
}

fn parse<T: DeserializeOwned>(row: &Row) -> Option<T> {
    serde_json::from_slice(&row.value).ok()
}

/// The newest report that the store was restored, and the revision that wrote it.
pub fn newest_recovery(rows: &[Row]) -> Option<(RecoveryEpoch, u64)> {
    let newest = rows.iter().max_by_key(|row| row.modified)?;
    let by = newest.key.strip_prefix(keys::ALL_RECOVERIES)?.to_owned();
    Some((RecoveryEpoch { by, ..parse(newest)? }, newest.modified))
}

/// `PART/NAMESPACE/BOOK/NODE` behind the prefix.
fn owner(row: &Row, prefix: &str) -> Option<(String, String, String)> {
    match keys::parts(&row.key, prefix)[..] {
        [part, namespace, book, node] => Some((part.to_owned(), format!("{namespace}/{book}"), node.to_owned())),
        _ => None,
    }
}

fn held(row: &Row, prefix: &str) -> Option<SlotEntry> {
    let (part, book, node) = owner(row, prefix)?;
    Some(SlotEntry { node, part, book, held: parse(row)?, modified: row.modified })
}

fn entry(row: &Row, prefix: &str) -> Option<Entry> {
    let (part, book, node) = owner(row, prefix)?;
    Some(Entry { node, part, book, queued: parse(row)?, modified: row.modified })
}
