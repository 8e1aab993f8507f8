//! The pace of the main loop: the schedule of retries, and the pauses between passes. All functions are pure: the time
//! is a parameter.

use std::time::{Duration, Instant};

/// The shortest pause after an error (P136).
const SOONEST: Duration = Duration::from_secs(2);
/// The longest pause after an error (P136).
const LATEST: Duration = Duration::from_secs(15);

/// The schedule of the refreshes that find out whether an error has ended.
#[derive(Debug, Clone, Default)]
pub(in crate::node) struct Retry {
    due: Option<Instant>,
    pause: Duration,
}

impl Retry {
    /// Schedules the next refresh while an error exists, or clears the schedule after the error has ended. The pauses
    /// between refreshes grow from 2 to 15 s. A due refresh stays due until the main loop runs it, because a pass can
    /// delay the refresh.
    pub(in crate::node) fn noted(&mut self, failing: bool, now: Instant) {
        if !failing {
            *self = Self::default();
        } else if self.due.is_none() {
            self.pause = self.pause.saturating_mul(2).clamp(SOONEST, LATEST);
            self.due = Some(now + self.pause);
        }
    }

    /// Removes the refresh from the schedule if the refresh is due. Returns whether the refresh was due.
    pub(in crate::node) fn take(&mut self, now: Instant) -> bool {
        self.due.take_if(|due| *due <= now).is_some()
    }

    /// Returns the time of the next refresh. Returns `None` if there is no error.
    pub(in crate::node) fn due(&self) -> Option<Instant> {
        self.due
    }
}

/// The time after a pass in which a change of a managed file counts as a result of the pass.
const ECHO: Duration = Duration::from_secs(2);

/// The maximum number of consecutive passes that start without a pause after changes of managed files.
const AT_ONCE: u32 = 8;

/// Limits the number of passes that changes of managed files cause. The limit prevents endless passes if a task changes
/// a managed file in each pass.
#[derive(Debug, Clone, Default)]
pub(in crate::node) struct TouchPace {
    /// The number of consecutive passes that were started by changes of managed files.
    rounds: u32,
    /// The end of the most recent pass; the second value is true if a file change after this pass was counted.
    ended: Option<(Instant, bool)>,
}

impl TouchPace {
    /// Records the end of a pass.
    pub(in crate::node) fn pass_ended(&mut self, now: Instant) {
        self.ended = Some((now, false));
    }

    /// Records a change of a managed file. Returns the pause before the next pass.
    pub(in crate::node) fn touched(&mut self, now: Instant) -> Duration {
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

    /// Simulates passes of 20 s that follow each other immediately.
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
