//! Requests to git servers. The requests run beside the main loop, so that a git server that answers slowly, or never,
//! does not keep the node from correcting drift.

use std::{
    any::Any,
    collections::BTreeMap,
    panic,
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, Receiver, RecvTimeoutError},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use towpath_git::{Fetched, Mirror, Reference, SourceError};
use towpath_host::{Clock, clock::rfc3339};

use crate::node::inbox::Inbox;

/// The longest time for which the main loop waits for the answer to one request.
pub(in crate::node) const PATIENCE: Duration = Duration::from_secs(2);

/// The maximum age of an answer that arrived after the main loop stopped waiting for the answer.
const FRESH: Duration = Duration::from_secs(60);

/// A function that writes a git pack of another node to a file.
pub(in crate::node) type WritePack = Box<dyn FnOnce(&Path) -> Result<(), String> + Send>;

/// The result of a request to a git server.
#[derive(Debug)]
pub(in crate::node) struct Answer<T> {
    pub(in crate::node) result: Result<T, SourceError>,
    /// True if the git server answered. A refusal of a pinned commit counts as an answer.
    pub(in crate::node) answered: bool,
}

/// The names of the requests, each with its parameters. Requests of one name have answers of one type.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Name {
    Answers,
    Fetch(Option<String>),
    Pack(String),
    Renew,
    Tags(String),
}

/// The requests to git servers. At most one request at a time uses a mirror.
#[derive(Debug)]
pub(in crate::node) struct Requests {
    inbox: Inbox,
    clock: Arc<dyn Clock>,
    /// The longest wait for an answer. Without a value, a request lasts until its end.
    patience: OnceLock<Duration>,
    /// The requests of each mirror, by name of the mirror.
    mirrors: Mutex<BTreeMap<String, Line>>,
}

/// The requests to the git server of one mirror.
#[derive(Debug, Default)]
struct Line {
    running: Option<Running>,
    /// The answers that arrived late, with the time of their arrival. Each answer has the type that belongs to its name.
    late: BTreeMap<Name, (Instant, Box<dyn Any + Send>)>,
    /// True if the last request that ended was late. The main loop then does not wait for the next request.
    is_slow: bool,
    /// True if the last request that ended failed.
    is_failing: bool,
    /// The head commit of the last fetch.
    head: Option<String>,
}

/// A request for which the main loop does not wait any more.
#[derive(Debug)]
struct Running {
    name: Name,
    /// The start of the request, in milliseconds since 1970.
    since: i64,
    answer: Receiver<(Instant, Box<dyn Any + Send>)>,
    thread: JoinHandle<()>,
    /// True if the end of the request wakes the main loop.
    is_late: Arc<AtomicBool>,
}

/// The effect of a late answer on the main loop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wake {
    /// The source has a new head, so the current run is preempted.
    Preempt,
    /// The sources are refreshed after the current run.
    Refresh,
    /// The failure is already known.
    Nothing,
}

impl Requests {
    pub(in crate::node) fn new(inbox: Inbox, clock: Arc<dyn Clock>) -> Self {
        Self { inbox, clock, patience: OnceLock::new(), mirrors: Mutex::default() }
    }

    /// Limits the wait for each answer from now on.
    pub(in crate::node) fn limit(&self, patience: Duration) {
        let _ = self.patience.set(patience);
    }

    /// Fetches the head of a source into its mirror.
    pub(in crate::node) fn fetch(&self, mirror: &Mirror, accepted: Option<&str>) -> Answer<Fetched> {
        let accepted = accepted.map(str::to_owned);
        let name = Name::Fetch(accepted.clone());
        self.ask(mirror, name, |fetched| Some(&fetched.commit), move |mirror| mirror.fetch(accepted.as_deref()))
    }

    /// Returns the tags of a source that lead to a commit, and fetches the first tag.
    pub(in crate::node) fn tags_at(&self, mirror: &Mirror, commit: &str) -> Answer<Vec<String>> {
        let commit = commit.to_owned();
        self.ask(mirror, Name::Tags(commit.clone()), |_| None, move |mirror| mirror.tags_at(&commit))
    }

    /// Replaces a damaged mirror.
    pub(in crate::node) fn renew(&self, mirror: &Mirror) -> Result<(), SourceError> {
        self.ask(mirror, Name::Renew, |()| None, Mirror::renew).result
    }

    /// Returns whether a git server answers. `None` if the git server has not answered yet.
    pub(in crate::node) fn answers(&self, mirror: &Mirror) -> Option<bool> {
        match self.ask(mirror, Name::Answers, |()| None, Mirror::check_answers).result {
            Ok(()) => Some(true),
            Err(SourceError::Pending { .. }) => None,
            Err(_) => Some(false),
        }
    }

    /// Takes a commit from the git pack of another node.
    pub(in crate::node) fn take_pack(
        &self,
        mirror: &Mirror,
        commit: &str,
        write: WritePack,
    ) -> Result<(), SourceError> {
        let commit = commit.to_owned();
        self.ask(mirror, Name::Pack(commit.clone()), |()| None, move |mirror| mirror.take_pack(&commit, write)).result
    }

    /// Sends a request, and waits for its answer for a limited time. The result is the error `Pending` as long as a
    /// request of the mirror has not ended. A call after that end, with the same name, returns the late answer.
    fn ask<T: Send + 'static>(
        &self,
        mirror: &Mirror,
        name: Name,
        head: fn(&T) -> Option<&String>,
        work: impl FnOnce(&Mirror) -> Result<T, SourceError> + Send + 'static,
    ) -> Answer<T> {
        let Some(patience) = self.patience.get() else { return answer(mirror, work) };
        let mut mirrors = self.lock();
        let line = mirrors.entry(mirror.options().name.clone()).or_default();
        line.collect();
        let now = self.clock.monotonic();
        line.late.retain(|_, (at, _)| now.saturating_duration_since(*at) < FRESH);
        let late = line.late.remove(&name).and_then(|(_, answer)| answer.downcast::<Answer<T>>().ok());
        let found = match late {
            Some(late) => Some(*late),
            None if line.running.is_none() => {
                let running = self.start(mirror, name, line, head, work);
                let wait = if line.is_slow { Duration::ZERO } else { *patience };
                line.wait(running, wait).and_then(|answer| answer.downcast::<Answer<T>>().ok()).map(|answer| *answer)
            }
            None => None,
        };
        match found {
            Some(answer) => {
                line.note(&answer, head);
                answer
            }
            None => {
                let since = line.running.as_ref().map_or_else(|| self.clock.wall(), |running| running.since);
                let url = mirror.options().shown_url();
                Answer { result: Err(SourceError::Pending { url, since: rfc3339(since) }), answered: false }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Line>> {
        self.mirrors.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn start<T: Send + 'static>(
        &self,
        mirror: &Mirror,
        name: Name,
        line: &Line,
        head: fn(&T) -> Option<&String>,
        work: impl FnOnce(&Mirror) -> Result<T, SourceError> + Send + 'static,
    ) -> Running {
        let (sender, receiver) = mpsc::channel();
        let is_late = Arc::new(AtomicBool::new(false));
        let (mirror, inbox, clock, late) =
            (mirror.clone(), self.inbox.clone(), Arc::clone(&self.clock), Arc::clone(&is_late));
        let (known, was_failing) = (line.head.clone(), line.is_failing);
        let thread = thread::spawn(move || {
            let answer = answer(&mirror, work);
            let found = answer.result.as_ref().map(head);
            let wake = wake(found.map(|head| head.is_some_and(|head| Some(head) != known.as_ref())), was_failing);
            let answer: Box<dyn Any + Send> = Box::new(answer);
            let _ = sender.send((clock.monotonic(), answer));
            if late.load(Ordering::SeqCst) {
                match wake {
                    Wake::Preempt => inbox.notify(|work| work.moved = true),
                    Wake::Refresh => inbox.notify(|work| work.poll = true),
                    Wake::Nothing => {}
                }
            }
        });
        Running { name, since: self.clock.wall(), answer: receiver, thread, is_late }
    }
}

/// Returns the effect of a late answer. `has_new_head` is an error if the request failed.
fn wake<E>(has_new_head: Result<bool, E>, was_failing: bool) -> Wake {
    match has_new_head {
        Ok(true) => Wake::Preempt,
        Ok(false) => Wake::Refresh,
        Err(_) if was_failing => Wake::Nothing,
        Err(_) => Wake::Refresh,
    }
}

/// Sends a request, and waits for the answer.
fn answer<T>(mirror: &Mirror, work: impl FnOnce(&Mirror) -> Result<T, SourceError>) -> Answer<T> {
    let result = work(mirror);
    let answered = match &result {
        Ok(_) | Err(SourceError::Missing { .. } | SourceError::TooMuch { .. }) => true,
        Err(SourceError::Unreachable { .. }) => {
            matches!(mirror.options().reference, Reference::Commit(_)) && mirror.check_answers().is_ok()
        }
        Err(_) => false,
    };
    Answer { result, answered }
}

impl Line {
    /// Takes the answer of a request that has ended. A panic of the request continues here.
    fn collect(&mut self) {
        let Some(running) = self.running.take() else { return };
        match running.answer.try_recv() {
            Ok(answer) => {
                self.is_slow = true;
                self.late.insert(running.name, answer);
            }
            Err(mpsc::TryRecvError::Empty) => self.running = Some(running),
            Err(mpsc::TryRecvError::Disconnected) => running.panicked(),
        }
    }

    /// Waits for the answer of a new request.
    fn wait(&mut self, running: Running, patience: Duration) -> Option<Box<dyn Any + Send>> {
        let first = running.answer.recv_timeout(patience).or_else(|error| match error {
            RecvTimeoutError::Timeout => {
                running.is_late.store(true, Ordering::SeqCst);
                // The request may have ended just before.
                running.answer.recv_timeout(Duration::ZERO)
            }
            RecvTimeoutError::Disconnected => Err(error),
        });
        match first {
            Ok((_, answer)) => {
                self.is_slow = false;
                Some(answer)
            }
            Err(RecvTimeoutError::Timeout) => {
                tracing::info!("a git server has not answered yet; the agent continues with other work");
                self.running = Some(running);
                None
            }
            Err(RecvTimeoutError::Disconnected) => {
                running.panicked();
                None
            }
        }
    }

    /// Remembers whether the git server works. The main loop waits again for a git server that has answered.
    fn note<T>(&mut self, answer: &Answer<T>, head: fn(&T) -> Option<&String>) {
        self.is_failing = answer.result.is_err();
        self.is_slow &= self.is_failing;
        if let Some(head) = answer.result.as_ref().ok().and_then(head) {
            self.head = Some(head.clone());
        }
    }
}

impl Running {
    fn panicked(self) {
        if let Err(cause) = self.thread.join() {
            panic::resume_unwind(cause);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use towpath_git::{Auth, Limits, Options, VerifyOptions};
    use towpath_host::TestClock;

    use super::*;

    /// A wait that ends only if a test fails.
    const LONG: Duration = Duration::from_secs(60);

    fn options(url: String) -> Options {
        Options {
            name: "fleet".into(),
            url,
            reference: Reference::Branch("main".into()),
            path: String::new(),
            auth: Auth::default(),
            verify: VerifyOptions::default(),
            allow_rewind: false,
            limits: Limits::default(),
        }
    }

    struct World {
        requests: Requests,
        inbox: Inbox,
        clock: TestClock,
        mirror: Mirror,
    }

    impl World {
        /// Returns requests whose caller waits for a limited time.
        fn patient(patience: Duration) -> Self {
            let (inbox, clock) = (Inbox::default(), TestClock::at(0));
            let requests = Requests::new(inbox.clone(), Arc::new(clock.clone()));
            requests.limit(patience);
            let mirror = Mirror::new(options("https://git.example/fleet.git".into()), Path::new("/nonexistent"));
            Self { requests, inbox, clock, mirror }
        }

        fn impatient() -> Self {
            Self::patient(Duration::ZERO)
        }

        fn ask(
            &self,
            name: Name,
            work: impl FnOnce() -> Result<String, SourceError> + Send + 'static,
        ) -> Option<String> {
            let answer = self.requests.ask(&self.mirror, name, |head| Some(head), |_| work());
            match answer.result {
                Ok(head) => Some(head),
                Err(SourceError::Pending { .. }) => None,
                Err(error) => Some(error.to_string()),
            }
        }

        /// Starts a request that ends after the caller has stopped waiting. Waits for that end.
        fn ask_late(&self, result: Result<&str, &str>) {
            let (end, work) = held(result.map(str::to_owned).map_err(str::to_owned));
            assert_eq!(self.ask(fetch(), work), None);
            drop(end);
            while !self.has_ended() {
                thread::yield_now();
            }
        }

        fn has_ended(&self) -> bool {
            let mut mirrors = self.requests.lock();
            let line = mirrors.get_mut("fleet").unwrap();
            let is_over = line.running.as_ref().is_none_or(|running| running.thread.is_finished());
            if is_over {
                line.collect();
            }
            is_over
        }
    }

    fn fetch() -> Name {
        Name::Fetch(None)
    }

    fn failed(message: &str) -> SourceError {
        SourceError::Settings { message: message.into() }
    }

    fn unasked() -> Result<String, SourceError> {
        panic!("the request must not be sent")
    }

    /// Returns work that ends when the sender is dropped.
    fn held(
        result: Result<String, String>,
    ) -> (mpsc::Sender<()>, impl FnOnce() -> Result<String, SourceError> + Send + 'static) {
        let (end, ended) = mpsc::channel::<()>();
        (end, move || {
            let _ = ended.recv();
            result.map_err(|message| failed(&message))
        })
    }

    #[test]
    fn request_without_a_limit_lasts_until_its_end() {
        let world = World::impatient();
        let requests = Requests::new(world.inbox.clone(), Arc::new(world.clock.clone()));
        let answer = requests.ask(&world.mirror, fetch(), |_| None, |_| Ok(7));
        assert_eq!(answer.result.ok(), Some(7));
        assert!(answer.answered);
    }

    #[test]
    fn answer_in_time_does_not_wake_the_loop() {
        let world = World::patient(LONG);
        assert_eq!(world.ask(fetch(), || Ok("a".into())).as_deref(), Some("a"));
        assert!(world.inbox.take(Duration::ZERO).is_empty());
    }

    #[test]
    fn late_answer_is_returned_once() {
        let world = World::impatient();
        let (end, work) = held(Ok("a".into()));
        assert_eq!(world.ask(fetch(), work), None);
        assert_eq!(world.ask(fetch(), unasked), None, "the first request still runs");
        drop(end);
        assert!(!world.inbox.take(LONG).is_empty());
        assert_eq!(world.ask(fetch(), unasked).as_deref(), Some("a"));
        assert_eq!(world.ask(fetch(), || Err(failed("asked again"))), None);
    }

    #[test]
    fn late_answer_preempts_only_with_a_new_head() {
        let world = World::impatient();
        world.ask_late(Ok("a"));
        assert!(world.inbox.take(LONG).moved);
        world.ask(fetch(), unasked).unwrap();
        world.ask_late(Ok("a"));
        let work = world.inbox.take(LONG);
        assert!(work.poll && !work.moved && !world.inbox.wants_way());
        world.ask(fetch(), unasked).unwrap();
        world.ask_late(Ok("b"));
        assert!(world.inbox.take(LONG).moved);
    }

    #[test]
    fn late_failure_wakes_the_loop_once() {
        let world = World::impatient();
        world.ask_late(Err("down"));
        let work = world.inbox.take(LONG);
        assert!(work.poll && !work.moved);
        assert_eq!(world.ask(fetch(), unasked).as_deref(), Some("down"));
        for _ in 0..3 {
            world.ask_late(Err("down"));
            assert_eq!(world.ask(fetch(), unasked).as_deref(), Some("down"));
        }
        assert!(world.inbox.take(Duration::ZERO).is_empty(), "the failure is known");
        world.ask_late(Ok("a"));
        assert!(!world.inbox.take(LONG).is_empty(), "the failure has ended");
    }

    #[test]
    fn one_request_at_a_time_uses_a_mirror() {
        let world = World::impatient();
        let (end, work) = held(Ok("a".into()));
        assert_eq!(world.ask(fetch(), work), None);
        assert_eq!(world.ask(Name::Tags("t".into()), unasked), None);
        drop(end);
        while !world.has_ended() {
            thread::yield_now();
        }
        // The answer to one request is kept while another request of the mirror runs.
        let (end, work) = held(Ok("t".into()));
        assert_eq!(world.ask(Name::Tags("t".into()), work), None);
        assert_eq!(world.ask(fetch(), unasked).as_deref(), Some("a"));
        drop(end);
    }

    #[test]
    fn old_answer_is_not_used() {
        let world = World::impatient();
        world.ask_late(Ok("a"));
        world.clock.advance(60_000);
        let (end, work) = held(Ok("b".into()));
        assert_eq!(world.ask(fetch(), work), None);
        drop(end);
    }

    #[test]
    fn loop_waits_again_for_a_server_that_has_answered() {
        let world = World::impatient();
        let is_slow = || world.requests.lock()["fleet"].is_slow;
        world.ask_late(Err("down"));
        world.ask(fetch(), unasked).unwrap();
        assert!(is_slow());
        world.ask_late(Ok("a"));
        world.ask(fetch(), unasked).unwrap();
        assert!(!is_slow());
    }

    #[test]
    fn panic_of_a_request_reaches_the_loop() {
        let world = World::patient(LONG);
        let asked = panic::catch_unwind(panic::AssertUnwindSafe(|| world.ask(fetch(), || panic!("a fault"))));
        assert_eq!(asked.unwrap_err().downcast_ref::<&str>(), Some(&"a fault"));
        assert_eq!(world.ask(fetch(), || Ok("a".into())).as_deref(), Some("a"));
    }

    /// The server accepts the connection, and never answers.
    #[test]
    fn silent_server_does_not_hold_the_caller() {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let folder = tempfile::tempdir().unwrap();
        let url = format!("https://{}/fleet.git", server.local_addr().unwrap());
        let world = World::impatient();
        let mirror = Mirror::new(options(url), folder.path());
        for _ in 0..2 {
            let answer = world.requests.fetch(&mirror, None);
            assert!(matches!(answer.result, Err(SourceError::Pending { .. })));
            assert!(!answer.answered);
        }
        assert_eq!(world.requests.answers(&mirror), None);
        let pack = world.requests.take_pack(&mirror, "c0ffee", Box::new(|_| Ok(())));
        assert!(matches!(pack, Err(SourceError::Pending { .. })));
    }
}
