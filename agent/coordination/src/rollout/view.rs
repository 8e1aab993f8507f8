//! What was read of a run: small, whatever the fleet's size.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{Held, Kind, Opening, Queued, Restored, Spec};
use crate::{
    accept::Accepted,
    keys,
    store::{Answer, Compare, Op, Row, Txn},
};

/// How many of those who wait longest are read.
const HEADS: usize = 16;

/// The number of what a node wrote last.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// It only grows.
    pub number: u64,
}

/// A claim, offer or failure, whose it is, and when it was written.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HeldBy {
    /// The node.
    pub node: String,
    /// The part of the budget.
    pub part: String,
    /// The book.
    pub book: String,
    /// The record.
    pub held: Held,
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
pub struct View {
    /// The revision of the store at which it was read.
    pub revision: u64,
    /// The accepted generation, and the revision that wrote it.
    pub accepted: Option<(u64, u64)>,
    /// That the store has gone back, and the revision that wrote it.
    pub restored: Option<(Restored, u64)>,
    /// Who has said anew what it holds since then, where that was read.
    pub anew: BTreeSet<String>,
    /// Whether the store is older than this node knows, and nobody has said so yet.
    pub fallen: bool,
    /// Whether the node has only just reached the store: those who know more of its past may be about to say that it has
    /// gone back.
    pub unsure: bool,
    /// The number of what this node wrote last, as the store has it.
    pub mark: u64,
    /// How far the run is open, and the revision that wrote it.
    pub opening: Option<(Opening, u64)>,
    /// All claims, offers and failures of the group.
    pub held: Vec<HeldBy>,
    /// Those who wait longest.
    pub queue: Vec<Entry>,
    /// The own place in the queue, and the revision that wrote it.
    pub queued: Option<(Queued, u64)>,
    /// Whether the node has a lease: without one, others may be about to write it off.
    pub leased: bool,
    /// The stretches of the run in which this node has voted.
    pub voted: BTreeSet<u32>,
    /// How many members have voted in each stretch.
    pub votes: Vec<u64>,
    /// Who has voted in a stretch, where that was read too.
    pub names: Option<(u32, BTreeSet<String>)>,
    /// Offers that have been there for long, and nodes that seem lost: by this node's own clock and ears.
    pub stale: BTreeSet<(String, u64)>,
    /// Claims of nodes that went away on purpose and have not come back in the time they said, by this node's own clock.
    pub overdue: BTreeSet<(String, u64)>,
    /// Whether a slot has been free for long while somebody waited for it, by this node's own clock.
    pub idle: bool,
    /// Nodes that say that they hold a slot of this node's part, of which the store shows neither that nor the end of it.
    pub unseen: BTreeSet<String>,
    /// Nodes that seem lost.
    pub lost: BTreeSet<String>,
    /// Whether the wave that is complete has been so for the soak, on this node's own clock.
    pub soaked: bool,
}

impl View {
    /// The transaction that reads it.
    pub fn reading(spec: &Spec, me: &str) -> Txn {
        let mut then = vec![
            Op::Read(keys::ACCEPTED.to_owned()),
            Op::Read(keys::ALL_RESTORED.to_owned()),
            Op::Read(keys::mark(me)),
            Op::Read(keys::opening(&spec.book)),
            Op::Read(keys::all_held(&spec.group)),
            Op::Oldest(keys::part_of_queue(&spec.group, spec.part(me)), HEADS),
            Op::Read(keys::queue(&spec.group, spec.part(me), &spec.book, me)),
            Op::Read(keys::alive(me)),
        ];
        for stretch in 0..spec.stretches().min(40) {
            then.push(Op::Count(keys::member_votes(&spec.run, stretch)));
            then.push(Op::Read(keys::vote(&spec.run, stretch, spec.is_member(me), me)));
        }
        Txn { compare: Vec::new(), then, otherwise: Vec::new() }
    }

    /// The view of what was read.
    pub fn of(spec: &Spec, me: &str, revision: u64, answers: Vec<Answer>) -> Self {
        let mut answers = answers.into_iter();
        let mut rows = || answers.next().unwrap_or_default();
        let exactly = |answer: Answer, key: &str| answer.rows.into_iter().find(|row| row.key == key);
        let mut view = Self { revision, ..Self::default() };
        view.accepted = exactly(rows(), keys::ACCEPTED).and_then(|row| {
            let accepted: Accepted = parse(&row)?;
            Some((accepted.generation, row.modified))
        });
        view.restored = newest_restore(&rows().rows);
        view.mark = exactly(rows(), &keys::mark(me)).and_then(|row| parse::<Mark>(&row)).map_or(0, |mark| mark.number);
        view.opening = exactly(rows(), &keys::opening(&spec.book)).and_then(|row| Some((parse(&row)?, row.modified)));
        let prefix = keys::all_held(&spec.group);
        view.held = rows().rows.iter().filter_map(|row| held(row, &prefix)).collect();
        let prefix = keys::whole_queue(&spec.group);
        view.queue = rows().rows.iter().filter_map(|row| entry(row, &prefix)).collect();
        view.queued = exactly(rows(), &keys::queue(&spec.group, spec.part(me), &spec.book, me))
            .and_then(|row| Some((parse(&row)?, row.modified)));
        view.leased = exactly(rows(), &keys::alive(me)).is_some();
        for stretch in 0..spec.stretches().min(40) {
            view.votes.push(rows().count);
            let key = keys::vote(&spec.run, stretch, spec.is_member(me), me);
            if exactly(rows(), &key).is_some() {
                view.voted.insert(stretch);
            }
        }
        view
    }

    /// The own claim, offer or failure for the book.
    pub fn mine(&self, spec: &Spec, me: &str) -> Option<&HeldBy> {
        self.held.iter().find(|held| held.node == me && held.book == spec.book)
    }

    /// How many waves of a stretch are open.
    pub fn open_waves(&self, spec: &Spec, stretch: u32) -> u32 {
        self.opening
            .as_ref()
            .filter(|(opening, _)| opening.run == spec.run)
            .and_then(|(opening, _)| opening.waves.get(stretch as usize).copied())
            .unwrap_or(0)
            .max(spec.open_at_first(stretch))
    }

    /// Whether the run is through.
    pub fn done(&self, spec: &Spec) -> bool {
        self.opening.as_ref().is_some_and(|(opening, _)| opening.run == spec.run && opening.done)
    }

    /// Whether the node is at the accepted revision; then also the revision that wrote it.
    pub fn current(&self, spec: &Spec) -> Option<u64> {
        self.accepted.filter(|(generation, _)| *generation == spec.generation).map(|(_, modified)| modified)
    }

    /// Whether this node has to say anew what it holds before it is let in anywhere.
    pub fn owes(&self, me: &str) -> bool {
        self.fallen || self.restored.is_some() && !self.anew.contains(me)
    }

    /// Whether everybody whom git knows has said anew what it holds, or is written off, where the store has gone back.
    pub fn is_whole(&self, spec: &Spec) -> bool {
        let said = |node: &String| {
            self.anew.contains(node)
                || self
                    .held
                    .iter()
                    .any(|held| held.node == *node && held.book == spec.book && held.held.kind == Kind::WrittenOff)
        };
        !self.fallen && (self.restored.is_none() || spec.known.iter().all(said))
    }

    /// What must be as it was read for anybody to be let in or on: the accepted revision, and that the store has not
    /// gone back meanwhile. None where nobody may be let in now.
    pub fn lets_in(&self, spec: &Spec) -> Option<Vec<Compare>> {
        let accepted = self.current(spec).filter(|_| self.is_whole(spec) && !self.unsure)?;
        let accepted = Compare::Revision(keys::ACCEPTED.to_owned(), accepted);
        Some([accepted].into_iter().chain(self.same_restore()).collect())
    }

    /// Holds while no node reports a restore that this view does not have, also after the store has gone back.
    pub fn same_restore(&self) -> Vec<Compare> {
        let none_since = |at| Compare::NoneNewer(keys::ALL_RESTORED.to_owned(), at);
        match &self.restored {
            Some((restored, at)) => vec![Compare::Revision(keys::restored(&restored.by), *at), none_since(*at)],
            None => vec![none_since(0)],
        }
    }

    /// How many slots of a part of the budget are taken or offered.
    pub fn taken(&self, part: &str) -> u64 {
        let slots = |held: &&HeldBy| matches!(held.held.kind, Kind::Claim | Kind::Offer) && held.part == part;
        self.held.iter().filter(slots).count() as u64
    }

    /// How many nodes have failed, those that are lost and count as such included.
    pub fn failures(&self, spec: &Spec) -> u64 {
        let failed = |held: &&HeldBy| {
            held.held.kind == Kind::Failure
                || held.held.lost
                || held.held.kind == Kind::Lost && spec.on_lost == super::OnLost::Fail
        };
        self.held.iter().filter(failed).count() as u64
    }

    /// Whether a claim's node has said that it goes away, and is not overdue.
    pub fn is_away_on_purpose(&self, held: &HeldBy) -> bool {
        held.held.absent > 0 && !self.overdue.contains(&(held.node.clone(), held.modified))
    }

    /// How many nodes this run goes on without.
    pub fn written_off(&self, spec: &Spec) -> u64 {
        let gone = |held: &&HeldBy| held.held.kind == Kind::WrittenOff && held.held.run == spec.run;
        self.held.iter().filter(gone).count() as u64
    }

    /// Who is lost with a slot that this run may not go on without: as many as it may have been written off already.
    pub fn one_too_many(&self, spec: &Spec) -> Option<&str> {
        let spent = spec.on_lost == super::OnLost::Skip && self.written_off(spec) >= spec.count.unwrap_or(1);
        let holds = |held: &&HeldBy| {
            held.held.kind == Kind::Claim && self.lost.contains(&held.node) && !self.is_away_on_purpose(held)
        };
        self.held.iter().find(holds).filter(|_| spent).map(|held| held.node.as_str())
    }

    /// Whether too many have failed.
    pub fn halted(&self, spec: &Spec) -> bool {
        !spec.after_all && self.failures(spec) > spec.max_failures
    }

    /// Whether a node may be in a stretch: its wave is open, or it has something to end there.
    pub fn may_enter(&self, spec: &Spec, node: &str, stretch: u32) -> bool {
        let open = self.open_waves(spec, stretch);
        let carries = self.held.iter().any(|held| {
            held.node == node && held.book == spec.book && matches!(held.held.kind, Kind::Claim | Kind::Failure)
        });
        spec.wave(node) < open || carries && (stretch == 0 || open > 0)
    }
}

/// One reading of everything that a decision needs, through whoever runs transactions.
pub fn look<E>(spec: &Spec, me: &str, run: impl FnOnce(&Txn) -> Result<(u64, Vec<Answer>), E>) -> Result<View, E> {
    let (revision, answers) = run(&View::reading(spec, me))?;
    Ok(View::of(spec, me, revision, answers))
}

fn parse<T: DeserializeOwned>(row: &Row) -> Option<T> {
    serde_json::from_slice(&row.value).ok()
}

/// The newest report that the store was restored, and the revision that wrote it.
pub fn newest_restore(rows: &[Row]) -> Option<(Restored, u64)> {
    let newest = rows.iter().max_by_key(|row| row.modified)?;
    let by = newest.key.strip_prefix(keys::ALL_RESTORED)?.to_owned();
    Some((Restored { by, ..parse(newest)? }, newest.modified))
}

/// `PART/NAMESPACE/BOOK/NODE` behind the prefix.
fn owner(row: &Row, prefix: &str) -> Option<(String, String, String)> {
    match keys::parts(&row.key, prefix)[..] {
        [part, namespace, book, node] => Some((part.to_owned(), format!("{namespace}/{book}"), node.to_owned())),
        _ => None,
    }
}

fn held(row: &Row, prefix: &str) -> Option<HeldBy> {
    let (part, book, node) = owner(row, prefix)?;
    Some(HeldBy { node, part, book, held: parse(row)?, modified: row.modified })
}

fn entry(row: &Row, prefix: &str) -> Option<Entry> {
    let (part, book, node) = owner(row, prefix)?;
    Some(Entry { node, part, book, queued: parse(row)?, modified: row.modified })
}
