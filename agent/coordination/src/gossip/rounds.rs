//! The rounds in which a gossip member sends news to a few other members.

use std::time::{Duration, Instant};

/// The time between two rounds in which a member sends news. `ROUNDS` is the number of rounds in which a member sends
/// the same news.
const ROUND: Duration = Duration::from_millis(200);
const ROUNDS: u8 = 3;

/// The rounds in which this member must still send news.
pub(super) struct Rounds {
    /// The time of the next round.
    round: Instant,
    /// The number of rounds left.
    left: u8,
    /// The number of broadcasts that the gossip library foca still had to send when this member last checked.
    backlog: usize,
    /// True if there was news since the last call of `take_news`.
    news: bool,
}

impl Rounds {
    /// Creates the rounds of a member that has sent no news yet.
    pub(super) fn new(now: Instant) -> Self {
        Self { round: now, left: 0, backlog: 0, news: true }
    }

    /// Returns the time of the next round. `None` if no round is left.
    pub(super) fn next(&self) -> Option<Instant> {
        (self.left > 0).then_some(self.round)
    }

    /// Begins a round if it is due. The next round is due after `ROUND` plus the extra delay `backoff`.
    pub(super) fn take_due(&mut self, now: Instant, backoff: Duration) -> bool {
        let due = self.next().is_some_and(|next| next <= now);
        if due {
            self.left -= 1;
            self.round = now + ROUND + backoff;
        }
        due
    }

    /// Records the number of broadcasts that the gossip library foca must still send after a round.
    pub(super) fn sent(&mut self, backlog: usize) {
        self.backlog = backlog;
    }

    /// Plans rounds of news if the number of broadcasts to send has grown, or if there was an event.
    pub(super) fn note(&mut self, backlog: usize, event: bool) {
        if backlog > self.backlog || event {
            self.left = ROUNDS;
            self.news = true;
        }
        self.backlog = backlog;
    }

    /// Returns true if there was news since the previous call of this function.
    pub(super) fn take_news(&mut self) -> bool {
        std::mem::take(&mut self.news)
    }
}
