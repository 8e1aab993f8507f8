//! The announcements of a gossip member: its accepted revision and its held slots.

use std::time::{Duration, Instant};

use super::broadcast::{Announced, Holds};

/// The time after a join at which the last announcements are repeated. Many nodes may join in this time.
const AGAIN: Duration = Duration::from_secs(2);

/// The last announcements of this member, and the announcements of others that it has handled.
#[derive(Default)]
pub(super) struct Announcements {
    /// The highest acceptance that this node knows, which is its own or a received one.
    accepted: Announced,
    /// The last report of this node about the slots that it holds.
    holds: Holds,
    /// The number of changes of reported slots that this member has handled.
    changed: u64,
    /// The time at which announcements are repeated, because a node that has joined has not received them.
    again: Option<Instant>,
}

impl Announcements {
    /// Returns whether an acceptance is higher than the known one.
    pub(super) fn is_below(&self, announced: &Announced) -> bool {
        announced.id.generation > self.accepted.id.generation
    }

    /// Stores an acceptance that another node has announced, if it is higher than the known one.
    pub(super) fn hear(&mut self, announced: &Announced) {
        if self.is_below(announced) {
            self.accepted = announced.clone();
        }
    }

    /// Stores the acceptance of this node unless a higher one is known. It replaces an announced acceptance of the same
    /// number, because this node has verified it (P26). Returns whether it is news.
    pub(super) fn adopt(&mut self, own: Announced) -> bool {
        let known = &self.accepted.id;
        let is_news = own.id.generation >= known.generation && own.id != *known;
        if is_news {
            self.accepted = own;
        }
        is_news
    }

    /// Returns the highest known acceptance for an announcement, which then need not be repeated.
    pub(super) fn take_accepted(&mut self) -> Announced {
        self.again = None;
        self.accepted.clone()
    }

    /// Stores the report about the slots of this node if it is newer than the last one. Returns whether it was stored.
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

    /// Stores the number of changes of slots that other nodes have reported. Returns whether it differs from the last
    /// number.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::AcceptedId;

    #[test]
    fn own_acceptance_replaces_an_announced_one_of_the_same_number() {
        let of = |generation, digest: &str, by: &str| Announced {
            id: AcceptedId { generation, digest: digest.into() },
            by: by.into(),
        };
        let mut all = Announcements::default();
        all.hear(&of(7, "x", "a"));
        assert!(!all.adopt(of(6, "w", "me")) && !all.adopt(of(7, "x", "me")), "this is known");
        assert!(all.adopt(of(7, "y", "me")));
        all.hear(&of(7, "x", "a"));
        assert_eq!(all.take_accepted(), of(7, "y", "me"));
        all.hear(&of(8, "z", "a"));
        assert_eq!(all.take_accepted(), of(8, "z", "a"));
    }
}
