//! The announcements of a gossip member to all other members: its accepted revision and its held slots.

use std::time::{Duration, Instant};

use super::broadcast::{Announced, Holds};

/// The delay after which a member repeats its announcements, so that a node that has just joined receives them. If more
/// nodes join during the delay, one repetition reaches all of them.
const AGAIN: Duration = Duration::from_secs(2);

/// The announcements that this member repeats to new members, and the time of the next repetition.
#[derive(Default)]
pub(super) struct Announcements {
    /// The acceptance with the highest generation that this node has adopted or another node has announced.
    accepted: Announced,
    /// The newest report of this node about the slots that it holds.
    holds: Holds,
    /// The number of slot changes of other nodes that this member has already reported as events.
    changed: u64,
    /// The time of the next repetition of the announcements.
    again: Option<Instant>,
}

impl Announcements {
    /// Returns true if an acceptance has a higher generation than the stored acceptance.
    pub(super) fn is_below(&self, announced: &Announced) -> bool {
        announced.id.generation > self.accepted.id.generation
    }

    /// Stores an acceptance that another node has announced, if the announced generation is above the stored
    /// generation.
    pub(super) fn hear(&mut self, announced: &Announced) {
        if self.is_below(announced) {
            self.accepted = announced.clone();
        }
    }

    /// Stores the acceptance of this node, unless the stored acceptance is equal or has a higher generation. The
    /// acceptance of this node replaces an announced acceptance with the same generation, because this node has
    /// verified it (P26). Returns true if the acceptance was stored.
    pub(super) fn adopt(&mut self, own: Announced) -> bool {
        let known = &self.accepted.id;
        let is_news = own.id.generation >= known.generation && own.id != *known;
        if is_news {
            self.accepted = own;
        }
        is_news
    }

    /// Returns the stored acceptance.
    pub(super) fn accepted(&self) -> &Announced {
        &self.accepted
    }

    /// Stores a report about the slots of this node if the report is newer than the stored report. Returns true if the
    /// report was stored.
    pub(super) fn hold(&mut self, holds: Holds) -> bool {
        let is_newer = holds.number > self.holds.number;
        if is_newer {
            self.holds = holds;
        }
        is_newer
    }

    /// Returns the newest report of this node about the slots that it holds.
    pub(super) fn holds(&self) -> &Holds {
        &self.holds
    }

    /// Stores `changed`, the number of slot changes of other nodes. Returns true if `changed` differs from the
    /// previously stored number.
    pub(super) fn note_slots(&mut self, changed: u64) -> bool {
        std::mem::replace(&mut self.changed, changed) != changed
    }

    /// Plans a repetition of the announcements for a node that has just joined.
    pub(super) fn note_joined(&mut self, now: Instant) {
        self.again.get_or_insert(now + AGAIN);
    }

    /// Returns the time at which this member must repeat its announcements. `None` if no repetition is planned.
    pub(super) fn next(&self) -> Option<Instant> {
        self.again
    }

    /// Returns true if this member must repeat its announcements now. After the function has returned true, no
    /// repetition is planned.
    pub(super) fn take_repetition(&mut self, now: Instant) -> bool {
        self.again.take_if(|again| *again <= now).is_some()
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
        assert_eq!(*all.accepted(), of(7, "y", "me"));
        all.hear(&of(8, "z", "a"));
        assert_eq!(*all.accepted(), of(8, "z", "a"));
    }

    #[test]
    fn new_acceptance_does_not_cancel_the_repetition_for_a_joined_node() {
        let now = towpath_host::Clock::monotonic(&towpath_host::SystemClock);
        let mut all = Announcements::default();
        all.note_joined(now);
        all.adopt(Announced { id: AcceptedId { generation: 7, digest: "x".into() }, by: "me".into() });
        let _ = all.accepted();
        let due = all.next().unwrap();
        assert!(!all.take_repetition(now));
        assert!(all.take_repetition(due) && !all.take_repetition(due));
    }
}
