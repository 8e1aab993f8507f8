//! What the model's fleet is like at one time, and what may happen next.

use std::collections::BTreeSet;

use towpath_coordination::{
    accept::Accepted,
    keys,
    store::{Compare, Op, Txn, memory::Memory},
};

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Phase {
    /// It wants to go on.
    #[default]
    Idle,
    /// It changes things, or runs what it was elected for.
    In,
    /// It has run what it was elected for, and is to say what came of it.
    Sharing(bool),
    /// It has succeeded, and is to say so.
    Succeeded,
    /// It is about to go away on purpose, in the midst of its change.
    Leaving,
    /// It has failed, and is to say so.
    Failing,
    /// It has said so, and tries again later.
    Failed,
}

/// Whether a node looks by itself, or only after news.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Wake {
    #[default]
    Awake,
    /// It has read that it must wait, and is about to sleep: news may arrive between its request and the answer.
    Deciding,
    Asleep,
}

/// How far a node has come in a book.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Progress {
    /// The first segment that it is not done with.
    pub segment: u32,
    /// Whether it is half changed.
    pub away: bool,
    /// Whether it is so because it failed.
    pub failed: bool,
    pub phase: Phase,
    /// Whether its journal knows that it was elected in this run, and how what it ran ended.
    pub elected: Option<Option<bool>>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Node {
    pub up: bool,
    /// The revision that it is at.
    pub at: usize,
    pub books: Vec<Progress>,
    pub wake: Wake,
    /// What it has decided and not carried out yet.
    pub pending: Option<Txn>,
    /// Whether it has written to the store since the backup.
    pub wrote: bool,
    /// Whether it knows that the store is older than what it knows.
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
    /// How many nodes were ever written off.
    pub written_off: u64,
    /// Who has begun to run an elected task, by run.
    pub began: BTreeSet<(String, usize)>,
    /// What must never happen and did.
    pub broken: Option<&'static str>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Action {
    /// A node reads and decides about a book; with `late`, offers have been there for long, waves have held for the
    /// soak, and who went away on purpose is overdue.
    Look {
        node: usize,
        book: usize,
        late: bool,
    },
    /// It sleeps until there are news.
    Sleep(usize),
    /// It carries out what it decided.
    Commit(usize),
    /// It comes to the end of its change.
    Work {
        node: usize,
        well: bool,
    },
    /// It reboots in the midst of its change.
    GoAway(usize),
    Crash(usize),
    /// Who is down loses its journal.
    Forget(usize),
    Restart(usize),
    /// Its lease runs out.
    LoseLease(usize),
    /// It has a lease again.
    Renew(usize),
    /// The next revision is accepted.
    Accept,
    /// A node goes to the accepted revision.
    Follow(usize),
    /// The store is copied.
    Backup,
    /// The copy takes the store's place.
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

pub(crate) fn accept(generation: u64) -> Txn {
    let record = Accepted { schema: 1, generation, ..Accepted::default() };
    Txn { then: vec![Op::put(keys::ACCEPTED, serde_json::to_vec(&record).unwrap())], ..Txn::default() }
}

/// Numbers revisions anew, in the same order: states that differ in nothing else are the same.
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
