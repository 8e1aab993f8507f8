//! The state of a simulation: the fleet, its store, and the events to come.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap},
    sync::Arc,
};

use towpath_coordination::{
    accept::Accepted,
    rollout::RolloutSpec,
    store::{Txn, memory::Memory},
};
use towpath_tests::course::Course;

use super::chance::Chance;

/// Milliseconds of virtual time.
pub type Time = u64;

/// A second.
pub const SECOND: Time = 1000;

/// Returns the acceptance record of a generation.
pub fn record(generation: u64) -> Accepted {
    Accepted { schema: 1, generation, ..Accepted::default() }
}

/// A node, with its view of the store.
#[derive(Debug, Clone)]
pub struct Node {
    pub up: bool,
    pub at: usize,
    /// The book run, by the machine of the agent.
    pub course: Course,
    /// True if it is partly changed.
    pub away: bool,
    /// True if it is cut off from the store.
    pub cut: bool,
    /// The highest store revision that it has seen, and the number of its last write.
    pub position: (u64, u64),
    /// True if the store is older than `horizon`.
    pub rolled_back: bool,
    /// The last recovery epoch that it has seen.
    pub recovery_id: Option<String>,
    /// The time of its last reconnection to the store.
    pub reached: Option<Time>,
    /// The incarnation of the node and its plan. Events of an earlier incarnation are ignored.
    pub incarnation: u64,
    /// Until when a request is in flight: a node waits for its answer, or for the verdict that it has none.
    pub asks_until: Time,
    /// Offers and waits of others, since when it sees them.
    pub offers: BTreeMap<(String, u64), Time>,
    /// The waiter that has not taken a free slot, with the time when the node first saw it.
    pub idle: Option<((String, u64), Time)>,
}

/// An event of the simulation.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Event {
    Look(usize, u64),
    /// A request to the store, valid until the next restore: node, number of restores, transaction.
    Commit(usize, u64, Box<Txn>),
    Worked(usize, u64, bool),
    Crash(usize),
    Restart(usize),
    LeaseEnds(usize),
    Cut(usize),
    Heal(usize),
    Accept,
    Backup,
    Restore,
}

/// A fleet, its store, and the events to come.
pub struct Simulation {
    pub chance: Chance,
    pub now: Time,
    pub number: u64,
    pub events: BinaryHeap<Reverse<(Time, u64, Event)>>,
    pub store: Memory,
    pub backup: Option<Memory>,
    pub restores: u64,
    pub nodes: Vec<Node>,
    pub revisions: Vec<Arc<RolloutSpec>>,
    /// The nodes whose checks fail in each revision. None fails in the last revision.
    pub check_fails: Vec<BTreeSet<usize>>,
    pub accepted: usize,
    pub failures: u64,
    pub written_off: u64,
}

/// Returns the name of a node.
pub fn name(node: usize) -> String {
    format!("n{node}")
}
