//! Losses and failures for people: their times, their messages, and the write-offs.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use towpath_host::clock::rfc3339;

use super::Milestone;
use crate::{
    keys::Key,
    rollout::{OnLost, RolloutSpec, SlotRecord, SlotState},
    store::Op,
};

/// The longest message of a failure in the data store, in characters.
const MESSAGE: usize = 400;

/// The facts about lost and failed nodes that a node keeps in memory.
#[derive(Debug, Default)]
pub(crate) struct Loss {
    /// The nodes that were alive at the last look.
    alive: BTreeSet<String>,
    /// The time since which a node is lost, as this node saw it. Unit: milliseconds since 1970.
    since: BTreeMap<String, i64>,
    /// The error message of this node's failure, by book.
    failures: BTreeMap<String, String>,
    /// The holders that a book waits for, and the time at which this node first saw all of them.
    waits: BTreeMap<String, (BTreeSet<(String, u64)>, Instant)>,
    /// The write-offs by this node since they were last taken.
    written_off: Vec<WrittenOff>,
    /// The milestones that this node has reached since they were last taken.
    milestones: Vec<Milestone>,
}

/// A node that a run continues without.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrittenOff {
    /// The book: `namespace/name`.
    pub book: String,
    /// The node.
    pub node: String,
    /// The message for people.
    pub message: String,
}

impl Loss {
    /// Notes which nodes are alive, and that the others are lost from now on.
    pub(crate) fn note_alive(&mut self, alive: &BTreeSet<String>, now: i64) {
        for node in self.alive.difference(alive) {
            self.since.entry(node.clone()).or_insert(now);
        }
        self.since.retain(|node, _| !alive.contains(node));
        self.alive.clone_from(alive);
    }

    /// Returns the time since which a lost node is lost: from now on, if this node has not seen it before.
    pub(crate) fn lost_at(&mut self, node: &str, now: i64) -> i64 {
        *self.since.entry(node.to_owned()).or_insert(now)
    }

    /// Sets the error message of this node's failure in a book.
    pub(crate) fn describe(&mut self, book: &str, message: &str) {
        self.failures.insert(book.to_owned(), message.chars().take(MESSAGE).collect());
    }

    /// Returns the error message of this node's failure in a book.
    pub(crate) fn message(&self, book: &str) -> Option<&String> {
        self.failures.get(book)
    }

    /// Notes the holders that a book waits for. Returns whether it has waited for the same ones for some time.
    pub(crate) fn waits_long(
        &mut self,
        book: &str,
        holders: BTreeSet<(String, u64)>,
        now: Instant,
        long: Duration,
    ) -> bool {
        let (known, first) = self.waits.entry(book.to_owned()).or_insert_with(|| (holders.clone(), now));
        if *known != holders {
            (*known, *first) = (holders, now);
        }
        now.duration_since(*first) >= long
    }

    /// Notes a write-off.
    pub(crate) fn note_written_off(&mut self, written_off: WrittenOff) {
        self.written_off.push(written_off);
    }

    /// Notes milestones.
    pub(crate) fn note_milestones(&mut self, milestones: Vec<Milestone>) {
        self.milestones.extend(milestones);
    }

    /// Takes the milestones.
    pub(crate) fn take_milestones(&mut self) -> Vec<Milestone> {
        std::mem::take(&mut self.milestones)
    }

    /// Takes the write-offs.
    pub(crate) fn take_written_off(&mut self) -> Vec<WrittenOff> {
        std::mem::take(&mut self.written_off)
    }
}

/// Returns the book, the node and the run of an operation that writes a node off.
pub(crate) fn written_off<'o>(spec: &RolloutSpec, operation: &'o Op) -> Option<(&'o str, &'o str, String)> {
    let Op::Put { key, value, .. } = operation else { return None };
    let Some(Key::Slot { book, node, .. }) = Key::parse(key) else { return None };
    let record: SlotRecord = serde_json::from_slice(value).ok()?;
    let left_out = match record.kind {
        SlotState::WrittenOff => true,
        SlotState::Lost => spec.on_lost == OnLost::Skip,
        _ => false,
    };
    left_out.then_some((book, node, record.run))
}

impl WrittenOff {
    /// Describes a write-off by a node.
    pub(crate) fn new(by: &str, book: &str, node: &str, run: &str, since: i64) -> Self {
        let message = if node == by {
            // A node that finds the slots taken after a restore writes itself off.
            format!(
                "{node} found the slots taken after a restore of the data store; run {run} continues without it, and {node} needs a new slot"
            )
        } else {
            format!(
                "{node} is lost since {}; run {run} continues without it (onLostNode: skip). When {node} is back, it needs a new slot",
                rfc3339(since)
            )
        };
        Self { book: book.to_owned(), node: node.to_owned(), message }
    }
}
