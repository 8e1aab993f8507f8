//! Collects data about lost and failed nodes for messages: times, causes and write-offs.

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

/// The maximum length of a failure message in the data store, in characters.
const MESSAGE: usize = 400;

/// The data that this node keeps in memory about lost and failed nodes: times, error messages and write-offs.
#[derive(Debug, Default)]
pub(crate) struct Loss {
    /// The nodes that had a lease when this node last read the leases.
    alive: BTreeSet<String>,
    /// For each lost node, the time at which this node noticed the loss. Unit: milliseconds since 1970.
    since: BTreeMap<String, i64>,
    /// The error message of this node's most recent failure in each book.
    failures: BTreeMap<String, String>,
    /// For each book, the slot holders that the book waits for, and the time since which this list has not changed.
    waits: BTreeMap<String, (BTreeSet<(String, u64)>, Instant)>,
    /// The write-offs that this node has committed, but has not reported as events yet.
    written_off: Vec<WrittenOff>,
    /// The milestones that transactions of this node have caused, but that are not reported as events yet.
    milestones: Vec<Milestone>,
}

/// A node that a run has written off, so that the run continues without the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrittenOff {
    /// The book of the run, as `namespace/name`.
    pub book: String,
    /// The name of the node that was written off.
    pub node: String,
    /// The message of the event about the write-off.
    pub message: String,
}

impl Loss {
    /// Stores the names of the nodes that are alive now. A node that was alive at the previous call, and is not alive
    /// now, counts as lost since `now`.
    pub(crate) fn note_alive(&mut self, alive: &BTreeSet<String>, now: i64) {
        for node in self.alive.difference(alive) {
            self.since.entry(node.clone()).or_insert(now);
        }
        self.since.retain(|node, _| !alive.contains(node));
        self.alive.clone_from(alive);
    }

    /// Returns the time at which this node first noticed the loss of another node. Returns `now` if this node has not
    /// noticed the loss before.
    pub(crate) fn lost_at(&mut self, node: &str, now: i64) -> i64 {
        *self.since.entry(node.to_owned()).or_insert(now)
    }

    /// Stores the error message of this node's failure in a book.
    pub(crate) fn describe(&mut self, book: &str, message: &str) {
        self.failures.insert(book.to_owned(), message.chars().take(MESSAGE).collect());
    }

    /// Returns the error message of this node's failure in a book.
    pub(crate) fn message(&self, book: &str) -> Option<&String> {
        self.failures.get(book)
    }

    /// Stores the slot holders that a book waits for. Returns true if the book has waited for the same slot holders for
    /// the duration `long` or longer.
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

    /// Stores a write-off until the node reports it as an event.
    pub(crate) fn note_written_off(&mut self, written_off: WrittenOff) {
        self.written_off.push(written_off);
    }

    /// Stores milestones until the node reports them as events.
    pub(crate) fn note_milestones(&mut self, milestones: Vec<Milestone>) {
        self.milestones.extend(milestones);
    }

    /// Removes the stored milestones and returns them.
    pub(crate) fn take_milestones(&mut self) -> Vec<Milestone> {
        std::mem::take(&mut self.milestones)
    }

    /// Removes the stored write-offs and returns them.
    pub(crate) fn take_written_off(&mut self) -> Vec<WrittenOff> {
        std::mem::take(&mut self.written_off)
    }
}

/// Returns the book, the node and the run of the write-off in an operation. `None` if the operation does not write off
/// a node.
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
    /// Creates the report of a write-off that the node `by` has committed.
    pub(crate) fn new(by: &str, book: &str, node: &str, run: &str, since: i64) -> Self {
        let message = if node == by {
            // A node that finds all slots taken after a restore of the store writes itself off.
            format!(
                "{node} found all slots taken after a restore of the data store; run {run} continues without {node}, which needs a new slot"
            )
        } else {
            format!(
                "{node} has been lost since {}; run {run} continues without {node} (`onLostNode: skip`). When {node} returns, it needs a new slot",
                rfc3339(since)
            )
        };
        Self { book: book.to_owned(), node: node.to_owned(), message }
    }
}
