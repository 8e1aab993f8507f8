//! The state of the model's fleet, and its possible actions.

use std::collections::BTreeSet;

use towpath_coordination::{
    accept::Accepted,
    keys,
    store::{Compare, Op, Txn, memory::Memory},
};
use towpath_tests::course::Course;

/// The sleep state of a node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Wake {
    #[default]
    Awake,
    /// Has read that it must wait, and is about to sleep. A notification may arrive between its request and the answer.
    Deciding,
    Asleep,
}

/// The progress of a node in a book.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct Progress {
    /// The book run, by the machine of the agent.
    pub course: Course,
    /// True if the node is partly changed.
    pub away: bool,
    /// True if the node is about to leave on purpose in the middle of a change.
    pub leaving: bool,
    /// The election in this run according to the journal, with the result of the task. `None` if it was not elected.
    pub elected: Option<Option<bool>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Node {
    pub up: bool,
    /// The index of its revision.
    pub at: usize,
    pub books: Vec<Progress>,
    pub wake: Wake,
    /// The decision that is not committed yet.
    pub pending: Option<Txn>,
    /// True if it has written to the store since the backup.
    pub wrote: bool,
    /// True if it knows that the store was rolled back.
    pub rolled_back: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct State {
    pub store: Memory,
    pub accepted: usize,
    pub nodes: Vec<Node>,
    pub crashes: u8,
    pub leases: u8,
    pub failures: u8,
    pub absences: u8,
    pub forgets: u8,
    pub restores: u8,
    pub backup: Option<Memory>,
    /// The number of nodes that were ever written off.
    pub written_off: u64,
    /// The nodes that have started an elected task, by run.
    pub began: BTreeSet<(String, usize)>,
    /// The invariant that was broken.
    pub broken: Option<&'static str>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Action {
    /// A node reads and decides about a book. With `late`, offers are old, waves have soaked, and planned absences are
    /// overdue.
    Look {
        node: usize,
        book: usize,
        late: bool,
    },
    /// A node sleeps until it is notified.
    Sleep(usize),
    /// A node commits its decision.
    Commit(usize),
    /// A node ends its change.
    Work {
        node: usize,
        well: bool,
    },
    /// A node reboots in the middle of its change.
    GoAway(usize),
    Crash(usize),
    /// A stopped node loses its journal.
    Forget(usize),
    Restart(usize),
    /// The lease of a node expires.
    LoseLease(usize),
    /// A node gets a new lease.
    Renew(usize),
    /// The next revision is accepted.
    Accept,
    /// A node adopts the accepted revision.
    Follow(usize),
    /// The store is backed up.
    Backup,
    /// The backup replaces the store.
    Restore,
}

pub(crate) fn name(node: usize) -> String {
    format!("n{node}")
}

pub(crate) fn alive(node: usize) -> Txn {
    Txn { then: vec![Op::put(keys::alive(&name(node)), Vec::new())], ..Txn::default() }
}

pub(crate) fn is_alive(store: &Memory, node: usize) -> bool {
    let key = keys::alive(&name(node));
    store.below(&key).any(|row| row.key == key)
}

/// Returns the acceptance record of a revision. Two revisions may have the same generation, so the commit is the index.
pub(crate) fn record(index: usize, generation: u64) -> Accepted {
    let commits = [("fleet".to_owned(), index.to_string())].into();
    Accepted { schema: 1, generation, commits, ..Accepted::default() }
}

/// Returns the acceptance record in the store.
pub(crate) fn stored(store: &Memory) -> Accepted {
    let row = store.below(keys::ACCEPTED).next();
    row.and_then(|row| serde_json::from_slice(&row.value).ok()).unwrap_or_default()
}

pub(crate) fn accept(record: &Accepted) -> Txn {
    Txn { then: vec![Op::put(keys::ACCEPTED, serde_json::to_vec(record).unwrap())], ..Txn::default() }
}

/// Renumbers store revisions in the same order, so that states that differ only in these numbers are equal.
pub(crate) fn normalize(state: &mut State) {
    let mut seen: BTreeSet<u64> = BTreeSet::from([0, state.store.revision]);
    for row in state.store.rows_mut() {
        seen.insert(row.created);
        seen.insert(row.modified);
    }
    for node in &state.nodes {
        for compare in node.pending.iter().flat_map(|txn| &txn.compare) {
            if let Compare::Revision(_, revision) | Compare::NoneNewer(_, revision) = compare {
                seen.insert(*revision);
            }
        }
    }
    let order: Vec<u64> = seen.into_iter().collect();
    let rank = |revision: u64| order.binary_search(&revision).unwrap() as u64;
    state.store.revision = rank(state.store.revision);
    for row in state.store.rows_mut() {
        row.created = rank(row.created);
        row.modified = rank(row.modified);
    }
    for node in &mut state.nodes {
        for compare in node.pending.iter_mut().flat_map(|txn| &mut txn.compare) {
            if let Compare::Revision(_, revision) | Compare::NoneNewer(_, revision) = compare {
                *revision = rank(*revision);
            }
        }
    }
}
