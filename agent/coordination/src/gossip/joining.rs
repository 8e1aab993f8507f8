//! Selects the nodes to which a gossip member sends requests to join, and the time of each request.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

/// The pause between two requests to join while this member knows no other member. `SELDOM` is the maximum pause
/// between two requests to join while this member knows other members. `SEEDS_ASKED` is the number of nodes that a
/// member without any known member asks at the same time.
const ALONE: Duration = Duration::from_secs(2);
const SELDOM: Duration = Duration::from_secs(60);
const SEEDS_ASKED: usize = 3;

/// The nodes that this member may ask to join, and the time of the next request.
pub(super) struct Joining {
    seeds: Vec<String>,
    /// A number that selects the node that this member asks next.
    turn: usize,
    /// The time of the next request.
    ask: Instant,
    pause: Duration,
}

impl Joining {
    /// Creates the state of a member that knows no node yet. The value of `seed` differs from node to node, so that the
    /// nodes do not all ask the same node.
    pub(super) fn new(seed: u64, now: Instant) -> Self {
        Self { seeds: Vec::new(), turn: usize::try_from(seed % 1_000_003).unwrap_or(0), ask: now, pause: ALONE }
    }

    /// Sets the names of the nodes that this member may ask to join.
    pub(super) fn seeds(&mut self, seeds: Vec<String>, now: Instant) {
        if self.seeds != seeds {
            self.pause = ALONE;
            self.ask = self.ask.min(now + ALONE);
        }
        self.seeds = seeds;
    }

    /// Returns the time of the next request to join. `None` if no node is known.
    pub(super) fn next(&self) -> Option<Instant> {
        (!self.seeds.is_empty()).then_some(self.ask)
    }

    /// Returns true if a request to join is due.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.next().is_some_and(|next| next <= now)
    }

    /// Returns the nodes to which this member must send a request to join now, and sets the time of the next request.
    /// `known` contains the nodes about which gossip has received data, or is `None` if no other member is alive. If
    /// other members are alive, the result contains only nodes that are not in `known`. Nodes that start at the same
    /// time may form separate groups. Requests to unknown nodes unite groups of nodes that started separately.
    pub(super) fn choose(&mut self, known: Option<&BTreeSet<&str>>, now: Instant) -> Vec<String> {
        let is_new = |seed: &&String| known.is_none_or(|known| !known.contains(seed.as_str()));
        let candidates: Vec<&String> = self.seeds.iter().filter(is_new).collect();
        self.pause = if known.is_none() { ALONE } else { (self.pause * 2).min(SELDOM) };
        self.ask = now + self.pause;
        let mut chosen = Vec::new();
        for _ in 0..if known.is_none() { SEEDS_ASKED } else { 1 }.min(candidates.len()) {
            // The large step prevents that nodes which start together all ask the same nodes.
            self.turn = self.turn.wrapping_add(7919);
            chosen.push(candidates[self.turn % candidates.len()].clone());
        }
        chosen
    }
}
