//! Requests to git servers and to other nodes. The requests run in threads beside the main loop, so that a slow server
//! does not delay the correction of drift.

mod answers;
mod line;

use std::{
    any::Any,
    collections::BTreeMap,
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use towpath_coordination::{Accepted, accept::RevisionManifest};
use towpath_git::{Fetched, Mirror, Reference, SourceError};
use towpath_host::{Clock, clock::rfc3339};

pub(in crate::node) use self::line::PATIENCE;
use self::{
    answers::{Kept, Name, Outcome},
    line::{Line, Running},
};
use crate::node::inbox::Inbox;

/// The key of the map entry that contains the requests to other nodes. The name of a source never equals `/peers`.
const PEERS: &str = "/peers";

/// A function that writes a git pack of another node to a file.
pub(in crate::node) type WritePack = Box<dyn FnOnce(&Path) -> Result<(), String> + Send>;

/// An acceptance record of another node, with its manifest.
pub(in crate::node) type Announced = Result<(Accepted, RevisionManifest), String>;

/// The error of a failed request. Several callers in one refresh can receive the same error.
pub(in crate::node) type RequestError = Arc<SourceError>;

/// The result of a request to a git server.
#[derive(Debug)]
pub(in crate::node) struct Answer<T> {
    pub(in crate::node) result: Result<T, RequestError>,
    /// True if the git server answered. If the git server refuses a pinned commit, the refusal counts as an answer.
    pub(in crate::node) answered: bool,
}

impl<T: Clone> Clone for Answer<T> {
    fn clone(&self) -> Self {
        Self { result: self.result.clone(), answered: self.answered }
    }
}

/// The requests to git servers and to other nodes. At most one request at a time uses a mirror.
#[derive(Debug)]
pub(in crate::node) struct Requests {
    inbox: Inbox,
    clock: Arc<dyn Clock>,
    /// The longest time for which one refresh waits for answers. If `patience` is not set, a refresh waits until each
    /// request ends.
    patience: OnceLock<Duration>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The requests of each mirror, by name of the mirror.
    lines: BTreeMap<String, Line>,
    /// The number that identifies the current refresh.
    refresh: u64,
    /// The time that the current refresh has left to wait for answers.
    left: Duration,
    /// True if the current refresh has used an answer that is older than a change of the source.
    is_stale: bool,
}

/// The error for a request that has not ended. `since` is the start of the request, in milliseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Unanswered {
    since: i64,
}

impl Requests {
    pub(in crate::node) fn new(inbox: Inbox, clock: Arc<dyn Clock>) -> Self {
        Self { inbox, clock, patience: OnceLock::new(), state: Mutex::default() }
    }

    /// Sets the longest time for which each later refresh waits for answers.
    pub(in crate::node) fn limit(&self, patience: Duration) {
        let _ = self.patience.set(patience);
    }

    /// Begins a refresh. If one refresh makes the same request several times, each call receives the same answer.
    pub(in crate::node) fn begin_refresh(&self) {
        let mut state = self.lock();
        state.refresh += 1;
        state.left = self.patience.get().copied().unwrap_or_default();
        state.is_stale = false;
        let (refresh, now) = (state.refresh, self.clock.monotonic());
        state.lines.retain(|name, line| {
            line.begin_refresh(refresh, now, self.inbox.news(name));
            !line.is_forgotten(refresh)
        });
    }

    /// Ends a refresh. If the refresh has used an answer that is older than a change of the source, another refresh
    /// follows.
    pub(in crate::node) fn end_refresh(&self) {
        if std::mem::take(&mut self.lock().is_stale) {
            self.inbox.notify(|work| work.answered = true);
        }
    }

    /// Fetches the head of a source into its mirror.
    pub(in crate::node) fn fetch(&self, mirror: &Mirror, accepted: Option<&str>) -> Answer<Fetched> {
        let accepted = accepted.map(str::to_owned);
        let name = Name::Fetch { origin: origin(mirror), accepted: accepted.clone() };
        self.ask_git(mirror, name, |fetched| Some(&fetched.commit), move |mirror| mirror.fetch(accepted.as_deref()))
    }

    /// Returns the tags of a source that point to a commit, and fetches the first of these tags.
    pub(in crate::node) fn tags_at(&self, mirror: &Mirror, commit: &str) -> Answer<Vec<String>> {
        let commit = commit.to_owned();
        let name = Name::Tags { origin: origin(mirror), commit: commit.clone() };
        self.ask_git(mirror, name, |_| None, move |mirror| mirror.tags_at(&commit))
    }

    /// Replaces a damaged mirror.
    pub(in crate::node) fn renew(&self, mirror: &Mirror) -> Result<(), RequestError> {
        self.ask_git(mirror, Name::Renew, |()| None, Mirror::renew).result
    }

    /// Returns whether a git server answers. Returns `None` if the git server has not answered yet.
    pub(in crate::node) fn answers(&self, mirror: &Mirror) -> Option<bool> {
        let name = Name::Answers { origin: origin(mirror) };
        match self.ask_git(mirror, name, |()| None, Mirror::check_answers).result {
            Ok(()) => Some(true),
            Err(error) if is_pending(&error) => None,
            Err(_) => Some(false),
        }
    }

    /// Adds a commit from another node's git pack to the mirror.
    pub(in crate::node) fn take_pack(
        &self,
        mirror: &Mirror,
        commit: &str,
        write: WritePack,
    ) -> Result<(), RequestError> {
        let commit = commit.to_owned();
        let name = Name::Pack { commit: commit.clone() };
        self.ask_git(mirror, name, |()| None, move |mirror| mirror.take_pack(&commit, write)).result
    }

    /// Requests the acceptance record that other nodes announce, by the digest of the record. Returns `None` if no node
    /// has answered yet.
    pub(in crate::node) fn acceptance(
        &self,
        digest: &str,
        work: impl FnOnce() -> Announced + Send + 'static,
    ) -> Option<Announced> {
        let outcome = |answer: &Announced| Outcome { head: None, has_failed: answer.is_err() };
        self.ask(PEERS, Name::Acceptance { digest: digest.to_owned() }, outcome, work).ok()
    }

    /// Returns an error if a request uses the mirror. While a request uses the mirror, the content of the mirror is not
    /// complete.
    pub(in crate::node) fn check_idle(&self, mirror: &Mirror) -> Result<(), RequestError> {
        let mut state = self.lock();
        let line = state.lines.get_mut(&mirror.options().name);
        let since = line.and_then(|line| {
            line.collect();
            line.running_since()
        });
        since.map_or(Ok(()), |since| Err(pending(mirror, Unanswered { since })))
    }

    fn ask_git<T: Clone + Send + Sync + 'static>(
        &self,
        mirror: &Mirror,
        name: Name,
        head: fn(&T) -> Option<&String>,
        work: impl FnOnce(&Mirror) -> Result<T, SourceError> + Send + 'static,
    ) -> Answer<T> {
        let of_answer = move |answer: &Answer<T>| Outcome {
            head: answer.result.as_ref().ok().and_then(head).cloned(),
            has_failed: answer.result.is_err(),
        };
        let used = mirror.clone();
        let asked = self.ask(&mirror.options().name, name, of_answer, move || answer(&used, work));
        asked.unwrap_or_else(|unanswered| Answer { result: Err(pending(mirror, unanswered)), answered: false })
    }

    /// Sends a request, and waits for the answer until the time limit of the refresh. If the answer arrives after the
    /// time limit, a later refresh receives the answer.
    ///
    /// # Errors
    /// Fails if this request, or another request for the same mirror, has not ended.
    fn ask<T: Clone + Send + Sync + 'static>(
        &self,
        line: &str,
        name: Name,
        outcome: impl Fn(&T) -> Outcome + Send + 'static,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Unanswered> {
        if self.patience.get().is_none() {
            return Ok(work());
        }
        let mut state = self.lock();
        let State { lines, refresh, left, is_stale } = &mut *state;
        let news = self.inbox.news(line);
        let line = lines.entry(line.to_owned()).or_default();
        line.asked(*refresh);
        match line.kept(&name) {
            Some(kept) => {
                // The refresh also uses an answer that is older than a change on the git server. The node then follows
                // a server that changes faster than it answers.
                *is_stale |= kept.news != news && name.is_about_refs();
                if let Some(answer) = kept.answer.downcast_ref::<T>() {
                    return Ok(answer.clone());
                }
            }
            None if line.running_since().is_none() => {
                let wait = if line.is_slow() { Duration::ZERO } else { *left };
                let begin = self.clock.monotonic();
                let running = self.start(name.clone(), line.head().cloned(), news, outcome, work);
                line.wait(running, wait, *refresh);
                *left = left.saturating_sub(self.clock.monotonic().saturating_duration_since(begin));
                if let Some(answer) = line.kept(&name).and_then(|kept| kept.answer.downcast_ref::<T>()) {
                    return Ok(answer.clone());
                }
            }
            None => {}
        }
        Err(Unanswered { since: line.running_since().unwrap_or_else(|| self.clock.wall()) })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a request. `known` is the head commit that the previous fetch found. `news` is the number of changes of the
    /// source that the poller has reported.
    fn start<T: Send + Sync + 'static>(
        &self,
        name: Name,
        known: Option<String>,
        news: u64,
        outcome: impl Fn(&T) -> Outcome + Send + 'static,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Running {
        let (sender, receiver) = mpsc::channel();
        let is_late = Arc::new(AtomicBool::new(false));
        let mut end = End { inbox: self.inbox.clone(), is_late: Arc::clone(&is_late), has_new_head: false };
        let (clock, begin) = (Arc::clone(&self.clock), self.clock.monotonic());
        let thread = thread::spawn(move || {
            let answer = work();
            let outcome = outcome(&answer);
            end.has_new_head = outcome.head.is_some() && outcome.head != known;
            let arrived = clock.monotonic();
            let took = arrived.saturating_duration_since(begin);
            let answer: Arc<dyn Any + Send + Sync> = Arc::new(answer);
            let _ = sender.send(Kept { answer, outcome, arrived, news, took, is_late: false, refresh: None });
            drop(end);
        });
        Running { name, since: self.clock.wall(), answer: receiver, thread, is_late }
    }
}

/// Wakes the main loop when a late request ends. The main loop also wakes if the request panics, because a panic drops
/// the `End` value.
struct End {
    inbox: Inbox,
    is_late: Arc<AtomicBool>,
    has_new_head: bool,
}

impl Drop for End {
    fn drop(&mut self) {
        if self.is_late.load(Ordering::SeqCst) {
            let has_new_head = self.has_new_head;
            self.inbox.notify(|work| match has_new_head {
                // Only a new head preempts the current run.
                true => work.source_changed = true,
                false => work.answered = true,
            });
        }
    }
}

fn origin(mirror: &Mirror) -> String {
    let options = mirror.options();
    format!("{} {:?}", options.url, options.reference)
}

fn pending(mirror: &Mirror, Unanswered { since }: Unanswered) -> RequestError {
    Arc::new(SourceError::Pending { url: mirror.options().display_url(), since: rfc3339(since) })
}

/// Returns true if an error means that a request has not ended.
pub(in crate::node) fn is_pending(error: &SourceError) -> bool {
    matches!(error, SourceError::Pending { .. })
}

/// Sends a request to a git server, and waits for the answer.
fn answer<T>(mirror: &Mirror, work: impl FnOnce(&Mirror) -> Result<T, SourceError>) -> Answer<T> {
    let result = work(mirror);
    let answered = match &result {
        Ok(_) | Err(SourceError::Missing { .. } | SourceError::TooMuch { .. }) => true,
        Err(SourceError::Unreachable { .. }) => {
            matches!(mirror.options().reference, Reference::Commit(_)) && mirror.check_answers().is_ok()
        }
        Err(_) => false,
    };
    Answer { result: result.map_err(Arc::new), answered }
}

#[cfg(test)]
mod tests;
