//! The times at which a gossip member sends gossip to a few other members. After each change, a member sends gossip in
//! three rounds.

use std::time::{Duration, Instant};

/// The minimum time between two rounds of gossip. `ROUNDS` is the number of rounds of gossip after a change.
const ROUND: Duration = Duration::from_millis(200);
const ROUNDS: u8 = 3;

/// The rounds in which this member must still send gossip.
pub(super) struct Rounds {
    /// The time of the next round.
    round: Instant,
    /// The number of rounds left.
    left: u8,
    /// The number of updates that waited in the gossip library `foca` at the last check.
    backlog: usize,
    /// True if the liveness of a node may have changed since the last call of `take_news`.
    news: bool,
}

impl Rounds {
    /// Creates the rounds of a new gossip member.
    pub(super) fn new(now: Instant) -> Self {
        Self { round: now, left: 0, backlog: 0, news: true }
    }

    /// Returns the time of the next round. `None` if no round is left.
    pub(super) fn next(&self) -> Option<Instant> {
        (self.left > 0).then_some(self.round)
    }

    /// Begins a round if it is due. The next round is due after the time `ROUND` + `backoff`.
    pub(super) fn take_due(&mut self, now: Instant, backoff: Duration) -> bool {
        let due = self.next().is_some_and(|next| next <= now);
        if due {
            self.left -= 1;
            self.round = now + ROUND + backoff;
        }
        due
    }

    /// Records that a round of gossip has ended, and that `backlog` updates still wait in the gossip library `foca`.
    pub(super) fn sent(&mut self, backlog: usize) {
        self.backlog = backlog;
    }

    /// Plans three rounds of gossip if more updates wait in `foca` than at the last check, or if `event` is true.
    pub(super) fn note(&mut self, backlog: usize, event: bool) {
        if backlog > self.backlog || event {
            self.left = ROUNDS;
            self.news = true;
        }
        self.backlog = backlog;
    }

    /// Returns true if the liveness of a node may have changed since the previous call.
    pub(super) fn take_news(&mut self) -> bool {
        std::mem::take(&mut self.news)
    }
}
