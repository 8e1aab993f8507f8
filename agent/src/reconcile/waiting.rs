//! How long a node waits for what an acceptance lacks, and when it looks again after an error: pure, with the time as a
//! parameter.

use std::time::{Duration, Instant};

use super::follow::Lacking;

/// How much of the time between two looks counts at most: how the git server was in between, no look has shown.
const STEP: Duration = Duration::from_secs(60);

/// The shortest and the longest pause after an error (P136).
const SOONEST: Duration = Duration::from_secs(2);
const LATEST: Duration = Duration::from_secs(15);

impl Lacking {
    /// How long a node waits for it while whoever should give it answers.
    pub(super) fn patience(self) -> Duration {
        match self {
            // P139. A fleet is upgraded before its records are.
            Self::Commit | Self::Agent => Duration::from_secs(600),
            // Its writer has put it there before the record.
            Self::Manifest | Self::Record => Duration::from_secs(60),
        }
    }
}

/// The wait for what one record of acceptance lacks.
#[derive(Debug, Clone, Default)]
pub(super) struct LackingWait {
    /// The record.
    id: String,
    /// For how long whoever should give it has answered without giving it.
    waited: Duration,
    /// When it answered last. `None` after a look without an answer.
    answered: Option<Instant>,
}

impl LackingWait {
    /// Notes a look at a record that found something missing. Returns whether the wait is over: then the record is
    /// rejected, for as long as the looks find the same.
    pub(super) fn look(&mut self, id: &str, what: Lacking, answered: bool, now: Instant) -> bool {
        if self.id != id {
            *self = Self { id: id.to_owned(), ..Self::default() };
        }
        if let Some(before) = self.answered.filter(|_| answered) {
            self.waited = self.waited.saturating_add(now.saturating_duration_since(before).min(STEP));
        }
        self.answered = answered.then_some(now);
        self.waited >= what.patience()
    }

    /// Forgets the wait: the record is followed, or gone.
    pub(super) fn end(&mut self) {
        *self = Self::default();
    }
}

/// The next look after an error that nobody will report the end of.
#[derive(Debug, Clone, Default)]
pub(super) struct Retry {
    due: Option<Instant>,
    pause: Duration,
}

impl Retry {
    /// Notes whether the error lasts: the pauses grow from 2 to 15 s.
    pub(super) fn noted(&mut self, failing: bool, now: Instant) {
        if !failing {
            *self = Self::default();
        } else if self.due.is_none_or(|due| due <= now) {
            self.pause = self.pause.saturating_mul(2).clamp(SOONEST, LATEST);
            self.due = Some(now + self.pause);
        }
    }

    /// When to look again. `None` without an error.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }
}

#[cfg(test)]
mod tests {
    use towpath_host::{Clock as _, SystemClock};

    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// Looks every 15 s from a time on; gives when the wait is over, at most after two hours.
    fn over(wait: &mut LackingWait, id: &str, begin: Instant, answered: impl Fn(u64) -> bool) -> Option<u64> {
        (0..480).map(|look| look * 15).find(|at| wait.look(id, Lacking::Commit, answered(*at), begin + seconds(*at)))
    }

    #[test]
    fn wait_for_a_commit_is_over_after_ten_minutes_of_answers() {
        let begin = SystemClock.monotonic();
        assert_eq!(over(&mut LackingWait::default(), "a", begin, |_| true), Some(600));
        assert_eq!(over(&mut LackingWait::default(), "a", begin, |_| false), None, "no answer rejects nothing");
        // Away for half an hour in the middle.
        let away = |at: u64| !(300..2100).contains(&at);
        assert_eq!(over(&mut LackingWait::default(), "a", begin, away), Some(2100 + 600 - 285));
        // Every other look without an answer: never for sure.
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
    fn one_long_pause_between_two_looks_is_not_a_wait() {
        let begin = SystemClock.monotonic();
        let mut wait = LackingWait::default();
        assert!(!wait.look("a", Lacking::Commit, true, begin));
        assert!(!wait.look("a", Lacking::Commit, true, begin + seconds(86_400)), "the node slept meanwhile");
        // The clock of a test may even stand.
        assert!(!wait.look("a", Lacking::Commit, true, begin));
    }

    #[test]
    fn pauses_after_an_error_grow_to_fifteen_seconds_and_begin_again() {
        let mut now = SystemClock.monotonic();
        let mut retry = Retry::default();
        let mut pauses = Vec::new();
        for _ in 0..6 {
            retry.noted(true, now);
            let due = retry.due().unwrap();
            pauses.push((due - now).as_secs());
            retry.noted(true, now + seconds(1));
            assert_eq!(retry.due(), Some(due), "looks in between put nothing off");
            now = due;
        }
        assert_eq!(pauses, [2, 4, 8, 15, 15, 15]);
        retry.noted(false, now);
        assert_eq!(retry.due(), None);
        retry.noted(true, now);
        assert_eq!(retry.due(), Some(now + seconds(2)));
    }
}
