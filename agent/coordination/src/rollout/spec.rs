//! What a revision says of a book's run: the same on every node that has the generation.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

/// What divides two segments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Cut {
    /// All wait for all: the next segment opens when the last wave of the one before has passed.
    Barrier,
    /// Each goes on when it has what it waits for.
    Passage,
}

/// What is done when a node is lost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OnLost {
    /// The others wait.
    #[default]
    Hold,
    /// They go on without it.
    Skip,
    /// It counts as a failure.
    Fail,
}

/// A run of a book, as one revision has it.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RolloutSpec {
    /// The book: `namespace/name`.
    pub book: String,
    /// Whose budget it is: the book's own, or a named slot that several books share.
    pub group: String,
    /// The run: the book and the generation since which its definition is as it is.
    pub run: String,
    /// The revision.
    pub generation: u64,
    /// The nodes that the run waits for, each with the wave that it is in.
    pub members: BTreeMap<String, u32>,
    /// Further targets, which joined later: they belong to the last wave, and nobody waits for them.
    pub late: Vec<String>,
    /// All nodes that git knows.
    pub known: Vec<String>,
    /// The value of the label that the budget is `per`, by node; empty where it is for all.
    pub parts: BTreeMap<String, String>,
    /// How many change at one time; None: all.
    pub count: Option<u64>,
    /// How many failures do not halt the run.
    pub max_failures: u64,
    /// Whether all targets run before failures count.
    pub after_all: bool,
    /// What is done when a node is lost.
    pub on_lost: OnLost,
    /// How many waves there are; at least one.
    pub waves: u32,
    /// How long a wave must hold before the next begins.
    pub soak: Duration,
    /// What comes before each segment but the first.
    pub cuts: Vec<Cut>,
    /// The segments that are an elected task: they have no waves, else wave 1 would wait for the result of a node that
    /// waits for its wave.
    pub elected: BTreeSet<u32>,
}

impl RolloutSpec {
    /// How many segments the book has.
    pub fn segments(&self) -> u32 {
        u32::try_from(self.cuts.len()).unwrap_or(u32::MAX - 1) + 1
    }

    /// Whether a node is one that the run waits for.
    pub fn is_member(&self, node: &str) -> bool {
        self.members.contains_key(node)
    }

    /// Whether the revision selects a node.
    pub fn selects(&self, node: &str) -> bool {
        self.is_member(node) || self.late.iter().any(|late| late == node)
    }

    /// The wave of a node: who joined later is in the last.
    pub fn wave(&self, node: &str) -> u32 {
        self.members.get(node).copied().unwrap_or(self.waves.saturating_sub(1))
    }

    /// The part of the budget that a node draws on.
    pub fn part(&self, node: &str) -> &str {
        self.parts.get(node).map_or("-", String::as_str)
    }

    /// How many waves of a segment are open before anybody has opened one.
    pub fn open_at_first(&self, segment: u32) -> u32 {
        match segment.checked_sub(1).and_then(|before| self.cuts.get(before as usize)) {
            None | Some(Cut::Passage) => self.open_at_once(segment),
            Some(Cut::Barrier) => 0,
        }
    }

    /// How many waves of a segment open together, once it opens.
    pub fn open_at_once(&self, segment: u32) -> u32 {
        if self.elected.contains(&segment) { self.waves } else { 1 }
    }

    /// The members of a segment's waves up to one.
    pub fn up_to(&self, wave: u32) -> impl Iterator<Item = &str> {
        self.members.iter().filter(move |(_, own)| **own <= wave).map(|(node, _)| node.as_str())
    }
}
