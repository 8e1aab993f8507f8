//! The answers to the requests of one mirror, and the time for which each answer is valid.

use std::{
    any::Any,
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

/// The time for which later refreshes use a late answer, if nothing has changed on the git servers.
const VALID: Duration = Duration::from_secs(60);

/// The name of a request, with its parameters. Requests with the same name have answers of the same type.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Name {
    Acceptance { digest: String },
    Answers { origin: String },
    Fetch { origin: String, accepted: Option<String> },
    Pack { commit: String },
    Renew,
    Tags { origin: String, commit: String },
}

impl Name {
    /// Returns true if a change on the git server makes an earlier answer wrong.
    pub(super) fn is_about_refs(&self) -> bool {
        matches!(self, Self::Answers { .. } | Self::Fetch { .. } | Self::Tags { .. })
    }
}

/// The answer to a request.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) answer: Arc<dyn Any + Send + Sync>,
    pub(super) outcome: Outcome,
    pub(super) arrived: Instant,
    /// The number of changes that the poller had reported at the start of the request.
    pub(super) news: u64,
    /// The duration of the request.
    pub(super) took: Duration,
    /// True if the answer arrived after the refresh had stopped waiting for the answer.
    pub(super) is_late: bool,
    /// The number of the first refresh that may use the answer. The number is `None` until that refresh begins.
    pub(super) refresh: Option<u64>,
}

/// The parts of an answer that affect later requests.
#[derive(Debug)]
pub(super) struct Outcome {
    /// The head commit that a fetch has found.
    pub(super) head: Option<String>,
    pub(super) has_failed: bool,
}

/// The answers of one mirror, by name of the request.
#[derive(Debug, Default)]
pub(super) struct Answers(BTreeMap<Name, Kept>);

impl Answers {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn get(&self, name: &Name) -> Option<&Kept> {
        self.0.get(name)
    }

    /// Begins a refresh. Each answer is valid for the first refresh after the answer arrives. A late answer stays valid
    /// for some time, unless the poller has reported a change of the source since the request began. `news` is the
    /// number of changes that the poller has reported. While another request for the mirror runs (`is_busy`), no late
    /// answer expires.
    pub(super) fn begin_refresh(&mut self, refresh: u64, now: Instant, news: u64, is_busy: bool) {
        self.0.retain(|name, kept| {
            let is_young = is_busy || now.saturating_duration_since(kept.arrived) < VALID;
            // A mirror that was renewed may be damaged again.
            let may_repeat = *name != Name::Renew || kept.outcome.has_failed;
            kept.refresh.is_none() || kept.is_late && is_young && may_repeat && kept.news == news
        });
        for kept in self.0.values_mut() {
            kept.refresh.get_or_insert(refresh);
        }
    }

    pub(super) fn keep(&mut self, name: Name, kept: Kept) {
        if name == Name::Renew && !kept.outcome.has_failed {
            // The answers to earlier requests describe the damaged mirror.
            self.0.clear();
        }
        for other in self.0.values_mut() {
            // The time in which the mirror was busy does not make an answer older.
            other.arrived = other.arrived.checked_add(kept.took).unwrap_or(other.arrived);
        }
        self.0.insert(name, kept);
    }
}
