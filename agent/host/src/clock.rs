//! The clocks of the agent. The wall clock gives the times that people read, and the monotonic clock measures
//! deadlines.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// A source of time.
pub trait Clock: fmt::Debug + Send + Sync {
    /// Returns the time of the wall clock, in milliseconds since 1970. The wall clock may jump.
    fn wall(&self) -> i64;

    /// Returns the time of the monotonic clock. The monotonic clock never goes back.
    fn monotonic(&self) -> Instant;
}

/// The machine's clocks.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the port")]
    fn wall(&self) -> i64 {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        since.map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
    }

    #[expect(clippy::disallowed_methods, reason = "this is the port")]
    fn monotonic(&self) -> Instant {
        Instant::now()
    }
}

/// A clock for tests. The time of the test clock changes only when a test changes the time.
#[derive(Debug, Clone)]
pub struct TestClock {
    start: Instant,
    /// The time of the monotonic clock: the milliseconds since the start of the test.
    passed: Arc<AtomicU64>,
    wall: Arc<AtomicI64>,
}

impl TestClock {
    /// Creates a test clock. The wall clock starts at the time `wall`, in milliseconds since 1970.
    pub fn at(wall: i64) -> Self {
        Self { start: SystemClock.monotonic(), passed: Arc::default(), wall: Arc::new(AtomicI64::new(wall)) }
    }

    /// Moves the wall clock and the monotonic clock forward by the same duration.
    pub fn advance(&self, milliseconds: u32) {
        self.passed.fetch_add(milliseconds.into(), Ordering::SeqCst);
        self.jump(milliseconds.into());
    }

    /// Moves only the wall clock: forward, or back if `milliseconds` is negative.
    pub fn jump(&self, milliseconds: i64) {
        self.wall.fetch_add(milliseconds, Ordering::SeqCst);
    }
}

impl Clock for TestClock {
    fn wall(&self) -> i64 {
        self.wall.load(Ordering::SeqCst)
    }

    fn monotonic(&self) -> Instant {
        self.start + Duration::from_millis(self.passed.load(Ordering::SeqCst))
    }
}

/// Formats a time as RFC 3339 in UTC, with milliseconds.
pub fn rfc3339(milliseconds: i64) -> String {
    let (days, in_day) = (milliseconds.div_euclid(86_400_000), milliseconds.rem_euclid(86_400_000));
    let (year, month, day) = civil(days);
    let (hour, minute) = (in_day / 3_600_000, in_day / 60_000 % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{:02}.{:03}Z", in_day / 1000 % 60, in_day % 1000)
}

/// Converts days since 1970 to a Gregorian date: year, month, day.
///
/// The conversion uses the algorithm `civil_from_days` of Howard Hinnant's paper on calendars.
fn civil(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

/// Converts a duration to seconds for JSON, rounded to milliseconds.
pub fn seconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_formatted_as_rfc3339() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(rfc3339(951_782_400_123), "2000-02-29T00:00:00.123Z");
        assert_eq!(rfc3339(1_795_413_600_000), "2026-11-23T06:00:00.000Z");
        assert_eq!(rfc3339(-1), "1969-12-31T23:59:59.999Z");
    }
}
