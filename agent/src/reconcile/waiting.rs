//! Waits for missing parts of an accepted revision, and the schedule of retries. All functions are pure: the time is a
//! parameter.

use std::time::{Duration, Instant};

use super::follow::Lacking;

/// The maximum time between two refreshes that is added to a wait. During a longer time, the git server may have been
/// unreachable.
const STEP: Duration = Duration::from_secs(60);

/// The shortest pause after an error (P136).
const SOONEST: Duration = Duration::from_secs(2);
/// The longest pause after an error (P136).
const LATEST: Duration = Duration::from_secs(15);

impl Lacking {
    /// Returns the maximum time of the wait. Only the time in which the supplier answers counts.
    pub(super) fn patience(self) -> Duration {
        match self {
            // The agents of a fleet are upgraded before records use a newer schema (P139).
            Self::Commit | Self::Agent => Duration::from_secs(600),
            // The writer of a record stores the manifest before the record, so a short wait is sufficient.
            Self::Manifest | Self::Record => Duration::from_secs(60),
        }
    }
}

/// The wait for the thing that a node lacks to adopt one accepted revision.
#[derive(Debug, Clone, Default)]
pub(super) struct LackingWait {
    /// The id of the record of the revision.
    id: String,
    /// The time in which the supplier answered without supplying the missing thing.
    waited: Duration,
    /// The time of the last answer of the supplier. `None` if the last refresh had no answer.
    answered: Option<Instant>,
}

impl LackingWait {
    /// Records that a refresh found something missing. Returns whether the wait has expired. The record is then
    /// rejected as long as refreshes find something missing.
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

    /// Ends the wait, because the record was adopted or replaced.
    pub(super) fn end(&mut self) {
        *self = Self::default();
    }
}

/// The schedule of refreshes after an error whose end is not reported by an event.
#[derive(Debug, Clone, Default)]
pub(super) struct Retry {
    due: Option<Instant>,
    pause: Duration,
}

impl Retry {
    /// Records whether the error persists. The pauses grow from 2 to 15 s. A due refresh stays due until it is taken,
    /// because passes may last longer than the pause.
    pub(super) fn noted(&mut self, failing: bool, now: Instant) {
        if !failing {
            *self = Self::default();
        } else if self.due.is_none() {
            self.pause = self.pause.saturating_mul(2).clamp(SOONEST, LATEST);
            self.due = Some(now + self.pause);
        }
    }

    /// Takes the refresh if it is due. Returns whether the refresh was due.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        self.due.take_if(|due| *due <= now).is_some()
    }

    /// Returns the time of the next refresh. `None` if there is no error.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }
}

/// A change of a managed file within this time after a pass counts as a result of the pass.
const ECHO: Duration = Duration::from_secs(2);

/// The number of consecutive passes that may follow changes of managed files without a pause.
const AT_ONCE: u32 = 8;

/// The pace of passes that follow changes of managed files. The pace limits the passes if a task changes a managed file
/// in each pass.
#[derive(Debug, Clone, Default)]
pub(super) struct TouchPace {
    /// The number of consecutive passes that each followed a change during or directly after the previous pass.
    rounds: u32,
    /// The end of the last pass, and whether a change after that pass was counted.
    ended: Option<(Instant, bool)>,
}

impl TouchPace {
    /// Records the end of a pass.
    pub(super) fn pass_ended(&mut self, now: Instant) {
        self.ended = Some((now, false));
    }

    /// Records a change of a managed file. Returns the pause before the next pass.
    pub(super) fn touched(&mut self, now: Instant) -> Duration {
        match &mut self.ended {
            Some((ended, counted)) if now.saturating_duration_since(*ended) < ECHO => {
                if !std::mem::replace(counted, true) {
                    self.rounds = self.rounds.saturating_add(1);
                }
            }
            _ => self.rounds = 0,
        }
        match self.rounds.saturating_sub(AT_ONCE) {
            0 => Duration::ZERO,
            late => Duration::from_secs(1_u64.checked_shl(late).unwrap_or(u64::MAX)),
        }
    }
}

#[cfg(test)]
mod tests {
    use towpath_host::{Clock as _, SystemClock};

    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// Simulates a refresh every 15 s. Returns the seconds until the wait expires. `None` if the wait lasts longer than
    /// two hours.
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
    fn one_long_pause_between_two_looks_is_not_a_wait() {
        let begin = SystemClock.monotonic();
        let mut wait = LackingWait::default();
        assert!(!wait.look("a", Lacking::Commit, true, begin));
        assert!(!wait.look("a", Lacking::Commit, true, begin + seconds(86_400)), "the node slept meanwhile");
        // The clock of a test may not advance.
        assert!(!wait.look("a", Lacking::Commit, true, begin));
    }

    #[test]
    fn pauses_grow_while_each_pass_is_followed_by_a_change() {
        let mut now = SystemClock.monotonic();
        let mut pace = TouchPace::default();
        let mut pauses = Vec::new();
        for _ in 0..13 {
            let pause = pace.touched(now);
            pauses.push(pause.as_secs());
            now += pause;
            pace.pass_ended(now);
            now += Duration::from_millis(5);
        }
        assert_eq!(pauses, [0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 4, 8, 16]);
        // A change that comes later is not caused by the pass.
        now += ECHO;
        assert_eq!(pace.touched(now), Duration::ZERO);
        pace.rounds = u32::MAX;
        pace.pass_ended(now);
        assert_eq!(pace.touched(now), Duration::from_secs(u64::MAX), "the interval comes first");
    }

    #[test]
    fn many_changes_after_one_pass_count_once() {
        let mut now = SystemClock.monotonic();
        let mut pace = TouchPace::default();
        let mut pauses = Vec::new();
        for _ in 0..11 {
            pace.pass_ended(now);
            let mut pause = Duration::ZERO;
            for _ in 0..20 {
                now += Duration::from_millis(50);
                pause = pace.touched(now);
            }
            pauses.push(pause.as_secs());
            now += pause;
        }
        assert_eq!(pauses, [0, 0, 0, 0, 0, 0, 0, 0, 2, 4, 8]);
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
            assert!(!retry.take(now + seconds(1)));
            now = due;
            assert!(retry.take(now) && !retry.take(now));
        }
        assert_eq!(pauses, [2, 4, 8, 15, 15, 15]);
        retry.noted(false, now);
        assert_eq!(retry.due(), None);
        retry.noted(true, now);
        assert_eq!(retry.due(), Some(now + seconds(2)));
    }

    /// Each pass takes 20 s, and the next pass follows immediately.
    #[test]
    fn refresh_that_became_due_in_a_long_pass_is_not_put_off() {
        let mut now = SystemClock.monotonic();
        let mut retry = Retry::default();
        retry.noted(true, now);
        for _ in 0..5 {
            now += seconds(20);
            retry.noted(true, now);
            assert!(retry.take(now), "it is due in the first wait after the pass");
            retry.noted(true, now);
        }
    }
}
