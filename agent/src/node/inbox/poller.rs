//! Polls the sources in a separate thread, so that a newer commit can preempt a run.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use towpath_host::{Clock, process::Cancel};

use super::Inbox;
use crate::config::Source;

/// The sources and their heads, as found by the most recent refresh.
#[derive(Debug, Clone, Default)]
pub(in crate::node) struct Polled(Arc<Mutex<Known>>);

#[derive(Debug, Default)]
struct Known {
    sources: Vec<Source>,
    heads: BTreeMap<String, String>,
}

impl Polled {
    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets the sources to poll, and the heads that a refresh found. The poller wakes the node only if a head differs
    /// from the head that the refresh found. The poller polls all sources, even after an incomplete refresh.
    pub(in crate::node) fn set(&self, sources: &[Source], heads: BTreeMap<String, String>, is_complete: bool) {
        let mut known = self.lock();
        let named = |source: &Source| sources.iter().any(|other| other.git.name == source.git.name);
        known.sources.retain(|source| !is_complete && !named(source));
        known.sources.extend(sources.iter().cloned());
        known.heads.extend(heads);
    }

    /// Records a polled head. Polls a source. Wakes the main loop if the head has changed, or if the poll fails for the
    /// first time. Returns the number of consecutive failed polls of the source.
    fn head(&self, inbox: &Inbox, name: &str, head: Result<String, towpath_git::SourceError>, failures: u32) -> u32 {
        match head {
            Ok(head) => {
                let source_changed = self.lock().heads.insert(name.to_owned(), head.clone()) != Some(head);
                if source_changed || failures > 0 {
                    inbox.notify_news(name, |work| work.source_changed = true);
                }
                0
            }
            Err(_) => {
                if failures == 0 {
                    inbox.notify_news(name, |work| work.poll = true);
                }
                failures.saturating_add(1)
            }
        }
    }
}

/// The thread that polls the sources. The polling thread stops when this handle is dropped.
#[derive(Debug)]
pub(in crate::node) struct Poller(Cancel);

impl Poller {
    /// Starts the thread that polls the sources.
    pub(in crate::node) fn start(
        polled: Polled,
        inbox: Inbox,
        clock: Arc<dyn Clock>,
        mirrors: PathBuf,
        node: String,
    ) -> Self {
        let stop = Cancel::default();
        let flag = stop.clone();
        thread::spawn(move || {
            let mut due: BTreeMap<String, (Instant, u32)> = BTreeMap::new();
            while !flag.is_cancelled() {
                thread::sleep(Duration::from_millis(100));
                let sources = polled.lock().sources.clone();
                for source in sources {
                    let name = source.git.name.clone();
                    let now = clock.monotonic();
                    let first = now + source.interval.min(Duration::from_secs(1));
                    let (at, failures) = due.get(&name).copied().unwrap_or((first, 0));
                    if now < at {
                        due.insert(name, (at, failures));
                        continue;
                    }
                    let head = towpath_git::Mirror::new(source.git.clone(), &mirrors).poll();
                    let failures = polled.head(&inbox, &name, head, failures);
                    let pause = jittered(backed_off(source.interval, failures), 10, &node, clock.wall());
                    due.insert(name, (clock.monotonic() + pause, failures));
                }
            }
        });
        Self(stop)
    }
}

impl Drop for Poller {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

/// Returns the pause between two polls. The pause doubles with each consecutive failure, up to ten times the poll
/// interval.
fn backed_off(interval: Duration, failures: u32) -> Duration {
    interval.saturating_mul(1 << failures.min(4)).min(interval.saturating_mul(10))
}

/// Returns the interval, lengthened or shortened by up to `percent` percent. The length of the interval depends on the
/// node and the time.
pub(in crate::node) fn jittered(interval: Duration, percent: u64, node: &str, now: i64) -> Duration {
    use sha2::Digest as _;
    let digest = sha2::Sha256::digest(format!("{node} {now}"));
    let spread = interval.as_millis() as u64 * percent.min(100) / 100;
    if spread == 0 {
        return interval;
    }
    let random =
        u64::from_le_bytes([digest[0], digest[1], digest[2], digest[3], digest[4], digest[5], digest[6], digest[7]]);
    interval.saturating_sub(Duration::from_millis(spread)) + Duration::from_millis(random % (2 * spread + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn head_that_a_refresh_has_found_wakes_no_node() {
        let (polled, inbox) = (Polled::default(), Inbox::default());
        let source_changed = |head: &str| {
            polled.head(&inbox, "fleet", Ok(head.into()), 0);
            inbox.take(Duration::ZERO).source_changed
        };
        let looked = |head: &str| polled.set(&[], BTreeMap::from([("fleet".to_owned(), head.to_owned())]), true);
        assert!(source_changed("a"), "no look has found it");
        looked("b");
        assert!(!source_changed("b"));
        assert!(source_changed("c") && !source_changed("c"));
        // This refresh began before the head changed.
        looked("b");
        assert!(source_changed("c"));
    }

    #[test]
    fn back_off_is_bounded_and_jitter_stays_near() {
        let minute = Duration::from_secs(60);
        assert_eq!(backed_off(minute, 0), minute);
        assert_eq!(backed_off(minute, 1), 2 * minute);
        assert_eq!(backed_off(minute, 60), 10 * minute);
        for now in 0..100 {
            let jittered = jittered(minute, 10, "web1", now);
            assert!((Duration::from_secs(54)..=Duration::from_secs(66)).contains(&jittered));
        }
    }
}
