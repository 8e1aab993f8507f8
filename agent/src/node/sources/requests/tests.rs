use std::{net::TcpListener, panic, path::Path, sync::mpsc};

use towpath_git::{Auth, Limits, Options, VerifyOptions};
use towpath_host::TestClock;

use super::*;

/// A wait that ends only if a test fails.
const LONG: Duration = Duration::from_secs(60);

fn options(url: &str) -> Options {
    Options {
        name: "fleet".into(),
        url: url.into(),
        reference: Reference::Branch("main".into()),
        path: String::new(),
        auth: Auth::default(),
        verify: VerifyOptions::default(),
        allow_rewind: false,
        limits: Limits::default(),
    }
}

type Result = std::result::Result<String, SourceError>;

/// The requests of a node whose clock does not advance by itself.
struct World {
    requests: Requests,
    inbox: Inbox,
    clock: TestClock,
}

impl World {
    /// Returns requests whose refreshes wait for a limited time.
    fn patient(patience: Duration) -> Self {
        let (inbox, clock) = (Inbox::default(), TestClock::at(0));
        let requests = Requests::new(inbox.clone(), Arc::new(clock.clone()));
        requests.limit(patience);
        requests.begin_refresh();
        Self { requests, inbox, clock }
    }

    fn impatient() -> Self {
        Self::patient(Duration::ZERO)
    }

    /// Returns the answer or the error. The result is `None` if the request has not ended.
    fn ask_at(&self, url: &str, name: Name, work: impl FnOnce() -> Result + Send + 'static) -> Option<String> {
        let mirror = Mirror::new(options(url), Path::new("/nonexistent"));
        match self.requests.ask_git(&mirror, name, |head| Some(head), |_| work()).result {
            Ok(head) => Some(head),
            Err(error) if is_pending(&error) => None,
            Err(error) => Some(error.to_string()),
        }
    }

    fn ask(&self, name: Name, work: impl FnOnce() -> Result + Send + 'static) -> Option<String> {
        self.ask_at("https://git.example/fleet.git", name, work)
    }

    fn fetch(&self, work: impl FnOnce() -> Result + Send + 'static) -> Option<String> {
        self.ask(fetch(), work)
    }

    /// Sends a request that ends after the refresh has stopped waiting. Waits for that end, and begins a refresh.
    fn answer_late(&self, name: Name, answer: Result) {
        let (end, work) = held(answer);
        assert_eq!(self.ask(name, work), None);
        self.end(end);
        self.requests.begin_refresh();
    }

    /// Returns true if a request is sent, because no answer to it is valid.
    fn is_sent(&self, name: Name) -> bool {
        let (end, work) = held(ok("sent"));
        let is_sent = self.ask(name, work).is_none();
        self.end(end);
        is_sent
    }

    /// Ends the running request.
    fn end(&self, end: mpsc::Sender<()>) {
        drop(end);
        let is_running = || {
            let state = self.requests.lock();
            state.lines["fleet"].is_at_work()
        };
        while is_running() {
            thread::yield_now();
        }
    }
}

fn fetch() -> Name {
    Name::Fetch { origin: "fleet".into(), accepted: None }
}

fn tags() -> Name {
    Name::Tags { origin: "fleet".into(), commit: "c".into() }
}

fn ok(text: &str) -> Result {
    Ok(text.to_owned())
}

fn failed(message: &str) -> Result {
    Err(SourceError::Settings { message: message.into() })
}

fn unasked() -> Result {
    panic!("the request must not be sent")
}

/// Returns a request that ends when the sender is dropped.
fn held(answer: Result) -> (mpsc::Sender<()>, impl FnOnce() -> Result + Send + 'static) {
    let (end, ended) = mpsc::channel::<()>();
    (end, move || {
        let _ = ended.recv();
        answer
    })
}

#[test]
fn request_without_a_limit_lasts_until_its_end() {
    let requests = Requests::new(Inbox::default(), Arc::new(TestClock::at(0)));
    let mirror = Mirror::new(options("https://git.example/fleet.git"), Path::new("/nonexistent"));
    for answer in [7, 8] {
        let asked = requests.ask_git(&mirror, fetch(), |_| None, move |_| Ok(answer));
        assert_eq!(asked.result.ok(), Some(answer));
        assert!(asked.answered);
    }
}

#[test]
fn one_refresh_asks_once_for_the_same_thing() {
    let world = World::patient(LONG);
    assert_eq!(world.fetch(|| ok("a")).as_deref(), Some("a"));
    assert_eq!(world.fetch(unasked).as_deref(), Some("a"));
    assert!(world.inbox.take(Duration::ZERO).is_empty(), "an answer in time does not wake the loop");
    world.requests.begin_refresh();
    assert_eq!(world.fetch(|| failed("down")).as_deref(), Some("down"));
    assert_eq!(world.fetch(unasked).as_deref(), Some("down"));
}

#[test]
fn late_answer_is_for_all_calls_of_the_next_refresh() {
    let world = World::impatient();
    let (end, work) = held(ok("a"));
    assert_eq!(world.fetch(work), None);
    assert_eq!(world.fetch(unasked), None, "the request still runs");
    world.end(end);
    world.requests.begin_refresh();
    for _ in 0..3 {
        assert_eq!(world.fetch(unasked).as_deref(), Some("a"));
    }
}

#[test]
fn late_answer_preempts_only_with_a_new_head() {
    let world = World::impatient();
    for (head, is_new) in [("a", true), ("a", false), ("b", true)] {
        world.answer_late(fetch(), ok(head));
        let work = world.inbox.take(LONG);
        assert_eq!((work.source_changed, work.answered), (is_new, !is_new), "{head}");
        world.inbox.notify_news("fleet", |_| ());
        world.requests.begin_refresh();
    }
}

#[test]
fn late_failure_wakes_the_loop_and_preempts_nothing() {
    let world = World::impatient();
    world.answer_late(fetch(), failed("down"));
    assert!(!world.inbox.should_preempt());
    assert!(world.inbox.take(LONG).answered);
    assert_eq!(world.fetch(unasked).as_deref(), Some("down"));
    // The failure stays valid, so the refreshes of one minute do not ask again.
    world.requests.begin_refresh();
    assert_eq!(world.fetch(unasked).as_deref(), Some("down"));
    assert!(world.inbox.take(Duration::ZERO).is_empty());
    world.clock.advance(60_000);
    world.requests.begin_refresh();
    assert!(world.is_sent(fetch()));
}

#[test]
fn old_answer_is_used_by_one_refresh() {
    let world = World::impatient();
    let (end, work) = held(ok("a"));
    assert_eq!(world.fetch(work), None);
    world.end(end);
    world.clock.advance(600_000);
    world.requests.begin_refresh();
    assert_eq!(world.fetch(unasked).as_deref(), Some("a"), "a task lasted for ten minutes");
    world.requests.begin_refresh();
    assert!(world.is_sent(fetch()));
}

/// The poller reports a change while a request runs.
#[test]
fn answer_older_than_a_change_is_used_and_causes_another_refresh() {
    for (source, is_stale) in [("fleet", true), ("other", false)] {
        let world = World::impatient();
        let (end, work) = held(failed("down"));
        assert_eq!(world.fetch(work), None);
        world.inbox.notify_news(source, |_| ());
        world.end(end);
        world.requests.begin_refresh();
        world.inbox.take(Duration::ZERO);
        assert_eq!(world.fetch(unasked).as_deref(), Some("down"));
        world.requests.end_refresh();
        assert_eq!(world.inbox.take(Duration::ZERO).answered, is_stale, "{source}");
        world.requests.begin_refresh();
        assert_eq!(world.is_sent(fetch()), is_stale, "{source}");
    }
}

#[test]
fn one_request_at_a_time_uses_a_mirror() {
    let world = World::impatient();
    let mirror = Mirror::new(options("https://git.example/fleet.git"), Path::new("/nonexistent"));
    let (end, work) = held(ok("a"));
    assert_eq!(world.fetch(work), None);
    assert_eq!(world.ask(tags(), unasked), None);
    assert!(world.requests.check_idle(&mirror).is_err());
    world.end(end);
    assert!(world.requests.check_idle(&mirror).is_ok());
}

/// A refresh needs three requests for one mirror, and no answer arrives while a refresh waits.
#[test]
fn late_requests_of_one_mirror_do_not_starve_each_other() {
    let world = World::impatient();
    let answers = || Name::Answers { origin: "fleet".into() };
    world.answer_late(tags(), ok("t"));
    assert_eq!(world.ask(tags(), unasked).as_deref(), Some("t"));
    world.answer_late(fetch(), ok("a"));
    assert_eq!(world.ask(tags(), unasked).as_deref(), Some("t"));
    assert_eq!(world.fetch(unasked).as_deref(), Some("a"));
    world.answer_late(answers(), ok(""));
    assert_eq!(world.ask(tags(), unasked).as_deref(), Some("t"));
    assert_eq!(world.fetch(unasked).as_deref(), Some("a"));
    assert_eq!(world.ask(answers(), unasked).as_deref(), Some(""));
}

/// Each of two requests for one mirror takes longer than an answer stays valid.
#[test]
fn answer_does_not_become_too_old_while_the_mirror_is_busy() {
    let world = World::impatient();
    world.answer_late(tags(), ok("t"));
    let (end, work) = held(ok("a"));
    assert_eq!(world.fetch(work), None);
    world.clock.advance(120_000);
    world.requests.begin_refresh();
    assert_eq!(world.ask(tags(), unasked).as_deref(), Some("t"), "the mirror is busy");
    world.end(end);
    world.requests.begin_refresh();
    assert_eq!(world.ask(tags(), unasked).as_deref(), Some("t"), "the mirror was busy");
    assert_eq!(world.fetch(unasked).as_deref(), Some("a"));
    world.clock.advance(60_000);
    world.requests.begin_refresh();
    assert!(world.is_sent(tags()));
}

/// Two includes with different commits have the same URL, or the URL of a source changes.
#[test]
fn answer_belongs_to_its_reference() {
    let world = World::impatient();
    let name = |commit: &str| {
        let options =
            Options { reference: Reference::Commit(commit.into()), ..options("https://git.example/fleet.git") };
        Name::Fetch { origin: origin(&Mirror::new(options, Path::new("/nonexistent"))), accepted: None }
    };
    world.answer_late(name("c1"), ok("c1"));
    assert!(world.is_sent(name("c2")));
    assert_eq!(world.ask(name("c1"), unasked).as_deref(), Some("c1"));
}

#[test]
fn answers_about_a_damaged_mirror_end_with_its_renewal() {
    let world = World::impatient();
    world.answer_late(fetch(), failed("damaged"));
    assert_eq!(world.fetch(unasked).as_deref(), Some("damaged"));
    world.answer_late(Name::Renew, ok(""));
    world.answer_late(fetch(), ok("a"));
    assert!(world.is_sent(Name::Renew), "the mirror may be damaged again");
}

#[test]
fn refresh_does_not_wait_for_a_slow_server() {
    let world = World::patient(Duration::from_secs(2));
    let is_slow = || world.requests.lock().lines["fleet"].is_slow();
    let clock = world.clock.clone();
    world.fetch(move || {
        clock.advance(2_000);
        ok("a")
    });
    assert!(is_slow());
    world.requests.begin_refresh();
    world.inbox.notify_news("fleet", |_| ());
    world.requests.begin_refresh();
    // The server is quick again, but the refresh does not wait for the answer.
    let (end, work) = held(ok("b"));
    assert_eq!(world.fetch(work), None);
    world.end(end);
    world.requests.begin_refresh();
    assert_eq!(world.fetch(unasked).as_deref(), Some("b"));
    assert!(!is_slow());
}

#[test]
fn panic_of_a_request_reaches_the_loop() {
    let world = World::patient(LONG);
    let asked = panic::catch_unwind(panic::AssertUnwindSafe(|| world.fetch(|| panic!("a fault"))));
    assert_eq!(asked.unwrap_err().downcast_ref::<&str>(), Some(&"a fault"));
    assert_eq!(world.fetch(|| ok("a")).as_deref(), Some("a"));
}

#[test]
fn panic_of_a_late_request_wakes_the_loop() {
    let world = World::impatient();
    let (end, ended) = mpsc::channel::<()>();
    world.fetch(move || {
        let _ = ended.recv();
        panic!("a fault")
    });
    drop(end);
    assert!(world.inbox.take(LONG).answered);
    while world.requests.lock().lines["fleet"].is_at_work() {
        thread::yield_now();
    }
    let refresh = panic::catch_unwind(panic::AssertUnwindSafe(|| world.requests.begin_refresh()));
    assert_eq!(refresh.unwrap_err().downcast_ref::<&str>(), Some(&"a fault"));
}

#[test]
fn line_without_requests_is_forgotten() {
    let world = World::patient(LONG);
    world.fetch(|| ok("a"));
    for _ in 0..20 {
        world.requests.begin_refresh();
    }
    assert!(world.requests.lock().lines.is_empty());
}

/// The server accepts the connection, and never answers.
#[test]
fn silent_server_does_not_hold_the_caller() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let world = World::impatient();
    let mirror = Mirror::new(options(&format!("https://{}/fleet.git", server.local_addr().unwrap())), folder.path());
    for _ in 0..2 {
        let answer = world.requests.fetch(&mirror, None);
        assert!(answer.result.is_err_and(|error| is_pending(&error)));
        assert!(!answer.answered);
    }
    assert_eq!(world.requests.answers(&mirror), None);
    let pack = world.requests.take_pack(&mirror, "c0ffee", Box::new(|_| Ok(())));
    assert!(pack.is_err_and(|error| is_pending(&error)));
}
