//! Limits the TLS handshakes in progress. Each address has a limit, so that silent connections do not block other
//! addresses.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    time::{Duration, Instant},
};

/// The maximum number of concurrent handshakes from all addresses.
const AT_ONCE: usize = 256;
/// The maximum number of concurrent handshakes from one address.
const SHARE: usize = 64;
/// The minimum time between two log lines about rejected connections.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// The number of a handshake. Later handshakes have larger numbers.
pub(super) type Number = u64;

#[derive(Debug)]
struct Handshake<E> {
    origin: IpAddr,
    /// True if the peer has sent at least one byte.
    heard: bool,
    /// The handshake ends when this value is dropped.
    end: E,
}

/// The handshakes in progress, in the order of their start. A handshake ends when its value of type `E` is dropped.
#[derive(Debug)]
pub(super) struct Handshakes<E> {
    next: Number,
    running: BTreeMap<Number, Handshake<E>>,
}

impl<E> Default for Handshakes<E> {
    fn default() -> Self {
        Self { next: 0, running: BTreeMap::new() }
    }
}

impl<E> Handshakes<E> {
    /// Adds a handshake, and returns the number of the handshake. If a limit is reached, the function also returns the
    /// value of an older handshake, which the caller must drop.
    pub(super) fn begin(&mut self, address: IpAddr, end: E) -> (Number, Option<E>) {
        let origin = origin(address);
        let ended = if self.count(origin) >= SHARE {
            self.oldest_of(origin)
        } else if self.running.len() >= AT_ONCE {
            self.busiest().and_then(|busiest| self.oldest_of(busiest))
        } else {
            None
        };
        let ended = ended.and_then(|number| self.running.remove(&number)).map(|handshake| handshake.end);
        let number = self.next;
        self.next = self.next.wrapping_add(1);
        self.running.insert(number, Handshake { origin, heard: false, end });
        (number, ended)
    }

    /// Records that the peer has sent data.
    pub(super) fn heard(&mut self, number: Number) {
        if let Some(handshake) = self.running.get_mut(&number) {
            handshake.heard = true;
        }
    }

    /// Removes a handshake that has ended.
    pub(super) fn end(&mut self, number: Number) {
        self.running.remove(&number);
    }

    fn count(&self, origin: IpAddr) -> usize {
        self.running.values().filter(|handshake| handshake.origin == origin).count()
    }

    /// Returns the oldest handshake of an origin (address or network) whose peer has sent nothing. If all peers of the
    /// origin have sent data, the function returns the oldest handshake of the origin.
    fn oldest_of(&self, origin: IpAddr) -> Option<Number> {
        let of_origin = || self.running.iter().filter(move |(_, handshake)| handshake.origin == origin);
        let silent = of_origin().find(|(_, handshake)| !handshake.heard);
        silent.or_else(|| of_origin().next()).map(|(number, _)| *number)
    }

    /// Returns the origin (address or network) with the most handshakes.
    fn busiest(&self) -> Option<IpAddr> {
        let mut counts: BTreeMap<IpAddr, usize> = BTreeMap::new();
        for handshake in self.running.values() {
            *counts.entry(handshake.origin).or_default() += 1;
        }
        counts.into_iter().max_by_key(|(_, count)| *count).map(|(origin, _)| origin)
    }
}

/// Returns the origin of an address: the IPv4 address, or the /64 network of an IPv6 address. A /64 network usually
/// belongs to one machine.
fn origin(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::V6([a, b, c, d, 0, 0, 0, 0].into())
        }
        v4 => v4,
    }
}

/// The rejected connections that were not logged yet.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    logged: Option<Instant>,
    count: u64,
    last: String,
}

/// A summary of rejected connections for one log line.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Summary {
    /// The number of rejected connections.
    pub(super) count: u64,
    /// The address of the most recently rejected connection, with the reason.
    pub(super) last: String,
}

impl Refusals {
    /// Counts a rejected connection.
    pub(super) fn add(&mut self, last: String) {
        self.count = self.count.saturating_add(1);
        self.last = last;
    }

    /// Returns the summary that is due for the log. The first rejection is logged at once, and later rejections are
    /// logged at most once a minute. Returns `None` if no summary is due.
    pub(super) fn due(&mut self, now: Instant) -> Option<Summary> {
        let early = self.logged.is_some_and(|logged| now.saturating_duration_since(logged) < LOG_INTERVAL);
        if self.count == 0 || early {
            return None;
        }
        self.logged = Some(now);
        Some(Summary { count: std::mem::take(&mut self.count), last: std::mem::take(&mut self.last) })
    }
}

#[cfg(test)]
mod tests {
    use towpath_host::{Clock as _, SystemClock};

    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn address_over_its_share_loses_its_oldest_silent_handshake() {
        let mut handshakes = Handshakes::default();
        let (other, _) = handshakes.begin(address("192.0.2.1"), 1000);
        let (first, _) = handshakes.begin(address("192.0.2.9"), 0);
        handshakes.heard(first);
        for n in 1..SHARE {
            assert_eq!(handshakes.begin(address("192.0.2.9"), n).1, None);
        }
        // The peer of the first handshake has sent data, so the second handshake ends.
        assert_eq!(handshakes.begin(address("192.0.2.9"), 500).1, Some(1));
        assert_eq!(handshakes.begin(address("::ffff:192.0.2.9"), 501).1, Some(2));
        assert_eq!(handshakes.count(address("192.0.2.9")), SHARE);
        assert!(handshakes.running.contains_key(&other) && handshakes.running.contains_key(&first));
    }

    #[test]
    fn crowd_of_addresses_loses_a_handshake_of_the_busiest_one() {
        let mut handshakes = Handshakes::default();
        let (alone, _) = handshakes.begin(address("198.51.100.1"), 0);
        for n in 0..AT_ONCE - 1 {
            // Addresses of one /64 are one origin.
            handshakes.begin(address(&format!("2001:db8:0:{}::{n:x}", n % 5)), n);
        }
        assert!(handshakes.begin(address("203.0.113.1"), 9).1.is_some());
        assert_eq!(handshakes.running.len(), AT_ONCE);
        assert!(handshakes.running.contains_key(&alone));
    }

    #[test]
    fn address_whose_handshakes_all_sent_something_loses_the_oldest() {
        let mut handshakes = Handshakes::default();
        for n in 0..SHARE {
            let (number, _) = handshakes.begin(address("192.0.2.9"), n);
            handshakes.heard(number);
        }
        assert_eq!(handshakes.begin(address("192.0.2.9"), 99).1, Some(0));
        handshakes.end(1);
        assert_eq!(handshakes.begin(address("192.0.2.9"), 100).1, None);
    }

    #[test]
    fn refusals_are_logged_at_once_and_then_once_a_minute_with_their_count() {
        let mut refusals = Refusals::default();
        let now = SystemClock.monotonic();
        assert_eq!(refusals.due(now), None);
        refusals.add("a".into());
        assert_eq!(refusals.due(now), Some(Summary { count: 1, last: "a".into() }));
        for _ in 0..500 {
            refusals.add("b".into());
            assert_eq!(refusals.due(now + Duration::from_secs(59)), None);
        }
        assert_eq!(refusals.due(now + Duration::from_secs(60)), Some(Summary { count: 500, last: "b".into() }));
        assert_eq!(refusals.due(now + Duration::from_secs(200)), None);
    }
}
