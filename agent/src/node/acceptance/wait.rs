//! Measures the time that a node waits for missing parts of an accepted revision. All functions are pure: the time is a
//! parameter.

use std::time::{Duration, Instant};

use crate::node::sources::follow::Lacking;

/// The maximum waiting time that the interval between two refreshes can add. During a longer interval, the git server
/// may have been unreachable.
const STEP: Duration = Duration::from_secs(60);

impl Lacking {
    /// Returns the time after which a node stops waiting for a missing part of a revision. Only time in which the
    /// supplier (git server or data store) answers counts as waiting.
    fn limit(self) -> Duration {
        match self {
            // The agents of a fleet are upgraded before records use a newer schema (P139).
            Self::Commit | Self::Agent => Duration::from_secs(600),
            // The writer of a record stores the manifest before the record, so a short wait is sufficient.
            Self::Manifest | Self::Record => Duration::from_secs(60),
        }
    }
}

/// The time that a node has waited for a missing part of an accepted revision.
#[derive(Debug, Clone, Default)]
pub(super) struct LackingWait {
    /// The id of the acceptance record of the revision.
    id: String,
    /// The total time in which the supplier answered, but did not supply the missing part.
    waited: Duration,
    /// The time of the supplier's most recent answer. `answered` is `None` if the supplier did not answer the most
    /// recent refresh.
    answered: Option<Instant>,
}

impl LackingWait {
    /// Records that a part of the revision was missing at a refresh. Returns whether the wait has expired. After the
    /// wait has expired, the node rejects the acceptance record while the part is missing.
    pub(super) fn look(&mut self, id: &str, what: Lacking, answered: bool, now: Instant) -> bool {
        if self.id != id {
            *self = Self { id: id.to_owned(), ..Self::default() };
        }
        if let Some(before) = self.answered.filter(|_| answered) {
            self.waited = self.waited.saturating_add(now.saturating_duration_since(before).min(STEP));
        }
        self.answered = answered.then_some(now);
        self.waited >= what.limit()
    }

    /// Ends the wait, because the node has adopted the acceptance record, or the fleet has replaced it.
    pub(super) fn end(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use towpath_host::{Clock as _, SystemClock};

    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// Simulates a refresh every 15 s. Returns the seconds until the wait expires. Returns `None` if the wait lasts
    /// longer than two hours.
    fn over(wait: &mut LackingWait, id: &str, begin: Instant, answered: impl Fn(u64) -> bool) -> Option<u64> {
        (0..480).map(|look| look * 15).find(|at| wait.look(id, Lacking::Commit, answered(*at), begin + seconds(*at)))
    }

    #[test]
    fn wait_for_a_commit_is_over_after_ten_minutes_of_answers() {
        let begin = SystemClock.monotonic();
        assert_eq!(over(&mut LackingWait::default(), "a", begin, |_| true), Some(600));
        assert_eq!(over(&mut LackingWait::default(), "a", begin, |_| false), None, "no answer rejects nothing");
        // The git server is unreachable for half an hour in the middle.
        let away = |at: u64| !(300..2100).contains(&at);
        assert_eq!(over(&mut LackingWait::default(), "a", begin, away), Some(2100 + 600 - 285));
        // Every other refresh has no answer, so no time counts.
        assert_eq!(over(&mut LackingWait::default(), "a", begin, |at| at % 30 == 0), None);
    }

    #[test]
    fn wait_begins_again_for_another_record() {
        let begin = SystemClock.monotonic();
        let mut wait = LackingWait::default();
        assert_eq!(over(&mut wait, "a", begin, |_| true), Some(600));
        assert!(wait.look("a", Lacking::Commit, true, begin + seconds(615)), "it stays over");
        assert!(wait.look("a", Lacking::Commit, false, begin + seconds(630)), "also when the server is away then");
        assert!(!wait.look("b", Lacking::Commit, true, begin + seconds(645)));
        wait.end();
        assert!(!wait.look("a", Lacking::Commit, true, begin + seconds(660)));
    }

    #[test]
    fn long_pause_between_two_refreshes_is_not_a_wait() {
        let begin = SystemClock.monotonic();
        let mut wait = LackingWait::default();
        assert!(!wait.look("a", Lacking::Commit, true, begin));
        assert!(!wait.look("a", Lacking::Commit, true, begin + seconds(86_400)), "the node slept meanwhile");
        // The clock of a test may not advance.
        assert!(!wait.look("a", Lacking::Commit, true, begin));
    }
}
