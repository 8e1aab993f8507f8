//! Maintenance windows: the times at which a node may begin changes. The code compares instants in UTC, so that the
//! start or end of daylight saving time does not skip or repeat a window.

use chrono::{DateTime, Datelike as _, Days, NaiveDate, NaiveDateTime, NaiveTime, Utc, Weekday};
use tz::TimeZoneRef;

use crate::{Gate, GateReason};

/// The number of days after today in which the code searches for the next window.
const AHEAD: u64 = 370;

/// A time zone, with its offsets from UTC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Zone {
    name: String,
    rules: &'static TimeZoneRef<'static>,
}

impl Zone {
    /// Returns the time zone with the given name, such as `Europe/Berlin`. `None` if the name is unknown.
    pub fn read(name: &str) -> Option<Self> {
        Some(Self { name: name.to_owned(), rules: tzdb_data::find_tz(name.as_bytes())? })
    }

    /// Returns the offset of the time zone from UTC at an instant, in seconds. The offset is positive for zones to the
    /// east of Greenwich.
    fn ahead(&self, at: i64) -> i64 {
        self.rules.find_local_time_type(at).map_or(0, |kind| i64::from(kind.ut_offset()))
    }

    fn local(&self, at: DateTime<Utc>) -> NaiveDateTime {
        at.naive_utc() + chrono::Duration::seconds(self.ahead(at.timestamp()))
    }

    /// Returns the instants at which local clocks show the given time, earliest first. A time in an hour that daylight
    /// saving time skips has no instant, and a time in a repeated hour has two instants.
    fn instants(&self, local: NaiveDateTime) -> Vec<DateTime<Utc>> {
        let shown = local.and_utc().timestamp();
        // The offset changes at most once within these two days, so no third offset can apply.
        let mut found: Vec<i64> = [self.ahead(shown - 86_400), self.ahead(shown + 86_400)]
            .into_iter()
            .map(|ahead| shown - ahead)
            .filter(|at| at + self.ahead(*at) == shown)
            .collect();
        found.sort_unstable();
        found.dedup();
        found.into_iter().filter_map(|at| DateTime::from_timestamp(at, 0)).collect()
    }
}

/// A maintenance window of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    /// The days of the week on which the window begins. An empty list means every day.
    pub days: Vec<Weekday>,
    /// The local time at which the window begins.
    pub from: NaiveTime,
    /// The local time at which the window ends. If `to` is not after `from`, the window ends on the next day.
    pub to: NaiveTime,
    /// The time zone of `from` and `to`.
    pub zone: Zone,
    /// True if a change that began inside the window may continue after the end of the window.
    pub finish: bool,
}

/// The maintenance windows of a node. If the list is empty, changes may begin at any time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Windows(pub Vec<Window>);

impl Window {
    /// Parses a maintenance window. `None` if a day, a time or the time zone is invalid.
    pub fn read(days: &[String], from: &str, to: &str, zone: &str, finish: bool) -> Option<Self> {
        let time = |text: &str| NaiveTime::parse_from_str(text, "%H:%M").ok();
        let days = days.iter().map(|day| day.parse().ok()).collect::<Option<Vec<Weekday>>>()?;
        Some(Self { days, from: time(from)?, to: time(to)?, zone: Zone::read(zone)?, finish })
    }

    /// Returns the beginning and the end of the window on the given day. `None` if the window does not begin on that
    /// day.
    fn on(&self, day: NaiveDate) -> Option<(DateTime<Utc>, DateTime<Utc>)> {
        if !self.days.is_empty() && !self.days.contains(&day.weekday()) {
            return None;
        }
        let last = if self.to <= self.from { day.checked_add_days(Days::new(1))? } else { day };
        Some((self.instant(day, self.from, false), self.instant(last, self.to, true)))
    }

    /// Converts a local time, at which a window begins or ends, into an instant. A local time in an hour that daylight
    /// saving time skips becomes the first instant after that hour. A repeated local time becomes the first instant for
    /// the start of a window, and the last instant for the end of a window.
    fn instant(&self, day: NaiveDate, time: NaiveTime, end: bool) -> DateTime<Utc> {
        let mut local = day.and_time(time);
        for _ in 0..24 * 60 {
            let instants = self.zone.instants(local);
            match if end { instants.last() } else { instants.first() } {
                Some(at) => return *at,
                None => local += chrono::Duration::minutes(1),
            }
        }
        day.and_time(time).and_utc()
    }

    /// Returns `Ok` if the window is open at `now`. If the window is closed, the error contains the time at which the
    /// window opens next. `None` if it never opens.
    fn at(&self, now: DateTime<Utc>) -> Result<(), Option<DateTime<Utc>>> {
        let today = self.zone.local(now).date();
        let first = today.checked_sub_days(Days::new(1)).unwrap_or(today);
        let mut next = None;
        for (begin, end) in first.iter_days().take(usize::try_from(AHEAD).unwrap_or(370)).filter_map(|day| self.on(day))
        {
            if begin <= now && now < end {
                return Ok(());
            }
            if begin > now {
                next = Some(begin);
                break;
            }
        }
        Err(next)
    }
}

impl Windows {
    /// Checks that changes may begin: a window is open at `now`. Unit of `now`: milliseconds since 1970.
    ///
    /// # Errors
    /// If no window is open, returns the closed gate, whose message contains the time at which the next window opens.
    pub fn open(&self, now: i64) -> Result<(), Gate> {
        if self.0.is_empty() {
            return Ok(());
        }
        let now = DateTime::from_timestamp_millis(now).unwrap_or_default();
        let mut next: Option<(DateTime<Utc>, &Window)> = None;
        for window in &self.0 {
            match window.at(now) {
                Ok(()) => return Ok(()),
                Err(Some(opens)) if next.is_none_or(|(known, _)| opens < known) => next = Some((opens, window)),
                Err(_) => {}
            }
        }
        let Some((opens, window)) = next else {
            let never = "waiting for a maintenance window, but no window of this node ever opens";
            return Err(Gate::new(GateReason::Window, never).action("Correct `maintenanceWindows` in git"));
        };
        Err(Gate::new(
            GateReason::Window,
            format!(
                "waiting for a maintenance window; the next one opens at {} (local time {} in {})",
                opens.format("%Y-%m-%dT%H:%M:%SZ"),
                window.zone.local(opens).format("%a %H:%M"),
                window.zone.name
            ),
        ))
    }

    /// Returns true if all windows permit a change to continue after the end of the window in which the change began.
    pub fn finish(&self) -> bool {
        self.0.iter().all(|window| window.finish)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> i64 {
        DateTime::parse_from_rfc3339(text).unwrap().timestamp_millis()
    }

    fn windows(days: &[&str], from: &str, to: &str) -> Windows {
        let days: Vec<String> = days.iter().map(|day| (*day).to_owned()).collect();
        Windows(vec![Window::read(&days, from, to, "Europe/Berlin", true).unwrap()])
    }

    #[test]
    fn window_over_midnight_belongs_to_the_day_it_begins_on() {
        let windows = windows(&["mon", "tue"], "22:00", "04:00");
        // 2026-11-23 is a Monday, and local time in Berlin is one hour ahead of UTC.
        assert!(windows.open(at("2026-11-23T20:59:59Z")).is_err());
        assert!(windows.open(at("2026-11-23T21:00:00Z")).is_ok());
        assert!(windows.open(at("2026-11-24T02:59:59Z")).is_ok());
        assert!(windows.open(at("2026-11-24T03:00:00Z")).is_err());
        assert!(windows.open(at("2026-11-25T02:00:00Z")).is_ok(), "Tuesday's, on Wednesday morning");
        let gate = windows.open(at("2026-11-25T12:00:00Z")).unwrap_err();
        assert!(gate.opens.contains("2026-11-30T21:00:00Z (local time Mon 22:00 in Europe/Berlin)"), "{}", gate.opens);
    }

    #[test]
    fn window_in_a_missing_or_repeated_hour_opens_once() {
        // On 2026-03-29 the local clock jumps from 2:00 to 3:00. On 2026-10-25 it returns from 3:00 to 2:00.
        let windows = windows(&[], "02:30", "03:30");
        assert!(windows.open(at("2026-03-29T00:59:00Z")).is_err());
        assert!(windows.open(at("2026-03-29T01:00:00Z")).is_ok(), "the first instant after the gap");
        assert!(windows.open(at("2026-03-29T01:30:00Z")).is_err());
        assert!(windows.open(at("2026-10-25T00:30:00Z")).is_ok(), "the first half past two");
        assert!(windows.open(at("2026-10-25T01:45:00Z")).is_ok(), "and the second");
        assert!(windows.open(at("2026-10-25T02:30:00Z")).is_err());
    }
}
