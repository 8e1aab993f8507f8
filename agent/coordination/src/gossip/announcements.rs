//! The announcements of a gossip member: its accepted revision and its held slots.

use std::time::{Duration, Instant};

use super::broadcast::{Announced, Holds};

/// The time after a join at which the last announcements are repeated. Many nodes may join before the announcements are
/// repeated.
const AGAIN: Duration = Duration::from_secs(2);

/// The last announcements of this member, and the announcements of other members that this member has handled.
#[derive(Default)]
pub(super) struct Announcements {
    /// The highest acceptance that this node knows: its own acceptance, or an announced acceptance of another node.
    accepted: Announced,
    /// The last report of this node about the slots that it holds.
    holds: Holds,
    /// The number of changes in slot reports of other nodes that this member has handled.
    changed: u64,
    /// The time at which announcements are repeated for a node that has joined and has not received them.
    again: Option<Instant>,
}

impl Announcements {
    /// Returns whether an acceptance is higher than the highest known acceptance.
    pub(super) fn is_below(&self, announced: &Announced) -> bool {
        announced.generation > self.accepted.generation
    }

    /// Stores an acceptance if it is higher than the highest known acceptance. Returns whether the acceptance was
    /// stored.
    pub(super) fn accept(&mut self, announced: Announced) -> bool {
        let is_higher = self.is_below(&announced);
        if is_higher {
            self.accepted = announced;
        }
        is_higher
    }

    /// Returns the highest known acceptance, which the caller announces now, so that no repetition is due.
    pub(super) fn take_accepted(&mut self) -> Announced {
        self.again = None;
        self.accepted.clone()
    }

    /// Stores the report about the slots of this node if the report is newer than the last one. Returns whether the
    /// report was stored.
    pub(super) fn hold(&mut self, holds: Holds) -> bool {
        let is_newer = holds.number > self.holds.number;
        if is_newer {
            self.holds = holds;
        }
        is_newer
    }

    /// Returns the last report of this node about the slots that it holds.
    pub(super) fn holds(&self) -> &Holds {
        &self.holds
    }

    /// Stores the number of changes of slots that other nodes have reported. Returns whether the number differs from
    /// the last stored number.
    pub(super) fn note_slots(&mut self, changed: u64) -> bool {
        std::mem::replace(&mut self.changed, changed) != changed
    }

    /// Schedules a repetition of the announcements for a node that has joined.
    pub(super) fn note_joined(&mut self, now: Instant) {
        self.again.get_or_insert(now + AGAIN);
    }

    /// Returns the time at which the announcements are repeated.
    pub(super) fn next(&self) -> Option<Instant> {
        self.again
    }

    /// Returns whether the announcements are repeated now.
    pub(super) fn must_repeat(&self, now: Instant) -> bool {
        self.again.is_some_and(|again| again <= now)
    }
}
