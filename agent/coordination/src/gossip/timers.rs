//! The timers of a gossip member, and the lateness with which the member handles them.

use std::{
    cmp::Ordering,
    collections::BinaryHeap,
    time::{Duration, Instant},
};

use super::member_id::MemberId;

/// The minimum lateness of a timer at which a member counts as stalled, because the machine slept or is overloaded.
const STALL: Duration = Duration::from_millis(100);
/// The pause that a late member adds between two rounds of gossip, as a multiple of the member's lateness.
const BACKOFF_FACTOR: u32 = 50;
const MAX_BACKOFF: Duration = Duration::from_secs(10);

/// The timers that the gossip library `foca` has requested.
#[derive(Default)]
pub(super) struct Timers {
    waiting: BinaryHeap<Timer>,
    numbered: u64,
    /// The time by which this member recently handled its timers too late. A late member sends gossip less often, so
    /// that it still answers probes in time.
    late: Duration,
}

impl Timers {
    /// Adds a timer.
    pub(super) fn schedule(&mut self, at: Instant, timer: foca::Timer<MemberId>) {
        self.numbered += 1;
        self.waiting.push(Timer { at, number: self.numbered, timer });
    }

    /// Returns the time of the earliest timer.
    pub(super) fn next(&self) -> Option<Instant> {
        self.waiting.peek().map(|timer| timer.at)
    }

    /// Measures the lateness of this member, up to `most`. If this member was stalled, the function postpones all
    /// timers by the lateness. A stalled member could not receive answers, so other members must not count as silent.
    pub(super) fn measure_delay(&mut self, now: Instant, most: Duration) {
        let late = self.next().map_or(Duration::ZERO, |first| now.saturating_duration_since(first));
        self.late = late.max(self.late / 2).min(most);
        let late = late.min(most);
        if late >= STALL {
            self.waiting = self.waiting.drain().map(|timer| Timer { at: timer.at + late, ..timer }).collect();
        }
    }

    /// Removes and returns the earliest timer if it is due.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<foca::Timer<MemberId>> {
        self.waiting.peek().filter(|timer| timer.at <= now)?;
        self.waiting.pop().map(|timer| timer.timer)
    }

    /// Returns the duration by which this member delays work that is not urgent. The delay is zero if this member
    /// handles its timers in time.
    pub(super) fn backoff(&self) -> Duration {
        (self.late * BACKOFF_FACTOR).min(MAX_BACKOFF)
    }
}

/// A timer of `foca`. The earliest timer compares as the greatest, because the heap returns the greatest element first.
struct Timer {
    at: Instant,
    number: u64,
    timer: foca::Timer<MemberId>,
}

impl PartialEq for Timer {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.number) == (other.at, other.number)
    }
}

impl Eq for Timer {}

impl PartialOrd for Timer {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Timer {
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.number).cmp(&(self.at, self.number))
    }
}
