//! Tests of the events that wake a waiting node. Two nodes decide about one store.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use tokio::sync::mpsc;
use towpath_host::{Clock as _, SystemClock, TestClock};

use super::{Answer, ElectedTask, Fleet, Joined, backed_off};
use crate::{
    GateReason, LocalStore,
    accept::Accepted,
    keys,
    rollout::{
        Cut, Election, OnLost, Queued, Request, RolloutSpec, RunSnapshot, SlotEntry, SlotNote, SlotRecord, SlotState,
    },
    store::{Change, LeaseId, Op, Outcome, Page, Read, Store, StoreError, Txn},
};

type Between = Box<dyn FnOnce() + Send>;

/// A shared store. A test can run a closure after a chosen key is written, and before the answer of that request.
#[derive(Default)]
struct Shared {
    store: Arc<LocalStore>,
    between: Mutex<Option<(String, Between)>>,
    away: Mutex<bool>,
    leases: Mutex<Vec<LeaseId>>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

impl Shared {
    fn reached(&self) -> Result<(), StoreError> {
        if *self.away.lock().unwrap() { Err(StoreError::Unreachable("away".into())) } else { Ok(()) }
    }
}

impl Store for Shared {
    fn read(&self, prefix: &str, page: &Page) -> Result<Read, StoreError> {
        self.reached()?;
        self.store.read(prefix, page)
    }
    fn watch(&self, prefix: &str, from: u64) -> Result<mpsc::UnboundedReceiver<Change>, StoreError> {
        self.store.watch(prefix, from)
    }
    fn lease(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        let lease = self.store.lease(ttl)?;
        self.leases.lock().unwrap().push(lease);
        Ok(lease)
    }
    fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.reached()?;
        self.store.keep_alive(lease)
    }
    fn time_left(&self, key: &str) -> Result<Option<Duration>, StoreError> {
        self.store.time_left(key)
    }
    fn commit(&self, txn: &Txn) -> Result<Outcome, StoreError> {
        self.reached()?;
        let outcome = self.store.commit(txn);
        let writes =
            |prefix: &str| txn.then.iter().any(|op| matches!(op, Op::Put { key, .. } if key.starts_with(prefix)));
        let next = self.between.lock().unwrap().take_if(|(prefix, _)| writes(prefix));
        if let Some((_, next)) = next {
            next();
        }
        outcome
    }
}

fn spec(on_lost: OnLost) -> RolloutSpec {
    let nodes = ["a", "b"].map(str::to_owned);
    RolloutSpec {
        book: "n/b".into(),
        budget: "n/b".into(),
        run: "n/b@1".into(),
        accepted: record().id(),
        members: nodes.clone().map(|node| (node, 0)).into(),
        known: nodes.to_vec(),
        count: Some(1),
        on_lost,
        waves: 1,
        ..RolloutSpec::default()
    }
}

fn record() -> Accepted {
    Accepted { schema: 1, generation: 1, ..Accepted::default() }
}

fn accept(store: &dyn Store) {
    let accepted = serde_json::to_vec(&record()).unwrap();
    store.commit(&Txn { then: vec![Op::put(keys::ACCEPTED, accepted)], ..Txn::default() }).unwrap();
}

/// Creates a node that has joined, with a counter of its wake-ups.
fn node(store: &Arc<Shared>, name: &str) -> (Arc<Fleet>, Arc<AtomicUsize>) {
    let fleet = Fleet::new(Arc::clone(store) as Arc<dyn Store>, name.into(), Arc::new(SystemClock));
    let woken = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&woken);
    fleet.join(Joined { node: name.into(), ..Joined::default() }, move |_| _ = count.fetch_add(1, Ordering::SeqCst));
    (Arc::new(fleet), woken)
}

fn wait_for(what: impl Fn() -> bool) {
    for _ in 0..1000 {
        if what() {
            return;
        }
        thread::sleep(Duration::from_millis(10));
    }
    panic!("it does not happen");
}

fn kind_of(store: &Shared, spec: &RolloutSpec, node: &str) -> Option<SlotState> {
    let (revision, answers) = store.store.commit(&RunSnapshot::reading(spec, node)).unwrap().answers();
    RunSnapshot::of(spec, node, revision, answers).own_slot(spec, node).map(|own_slot| own_slot.held.kind)
}

#[test]
fn acceptance_wakes_all_nodes_but_the_one_that_wrote_it() {
    let store = Arc::new(Shared::default());
    let ((_first, a), (_second, b)) = (node(&store, "a"), node(&store, "b"));
    let write = |key: &str, value: Vec<u8>| {
        store.store.commit(&Txn { then: vec![Op::put(key, value)], ..Txn::default() }).unwrap();
    };
    let accept = |by: &str| {
        let record = Accepted { schema: 1, generation: 1, by: by.into(), ..Accepted::default() };
        write(keys::ACCEPTED, serde_json::to_vec(&record).unwrap());
    };
    // Watches report changes in their order. A node that was woken by a later record has also received the earlier one.
    let woken_by = |by: &str| {
        let before = (a.load(Ordering::SeqCst), b.load(Ordering::SeqCst));
        accept(by);
        for node in ["a", "b"] {
            write(&keys::offer_notice(node, "n/b"), b"{}".to_vec());
        }
        let count = || (a.load(Ordering::SeqCst) - before.0, b.load(Ordering::SeqCst) - before.1);
        wait_for(|| count().0.min(count().1) > 0 && count().0 + count().1 >= if by == "c" { 4 } else { 3 });
        count()
    };
    assert_eq!(woken_by("c"), (2, 2));
    assert_eq!(woken_by("a"), (1, 2));
    assert_eq!(woken_by("b"), (2, 1));
}

#[test]
fn offer_between_request_and_answer_is_followed() {
    let (store, spec) = (Arc::new(Shared::default()), spec(OnLost::Hold));
    accept(&*store);
    let ((a, _), (b, woken)) = (node(&store, "a"), node(&store, "b"));
    assert_eq!(a.ask(&spec, Request::Change(0)), Answer::Go);
    let (before, done) = (woken.load(Ordering::SeqCst), spec.clone());
    *store.between.lock().unwrap() = Some((
        keys::whole_queue(&spec.budget),
        Box::new(move || {
            // Node b has queued and waits for the answer. Node a offers its slot to b, and b receives the notice.
            assert_eq!(a.ask(&done, Request::Done(0)), Answer::Go);
            wait_for(|| woken.load(Ordering::SeqCst) > before);
        }),
    ));
    assert_eq!(b.ask(&spec, Request::Change(0)), Answer::Go, "it does not sleep on an offer");
    assert_eq!(kind_of(&store, &spec, "b"), Some(SlotState::Claim));
}

#[test]
fn waiter_without_gossip_looks_again_when_lease_of_holder_ends() {
    for (on_lost, after) in [(OnLost::Skip, Some(SlotState::Claim)), (OnLost::Hold, None)] {
        let (store, spec) = (Arc::new(Shared::default()), spec(on_lost));
        accept(&*store);
        let ((a, _), (b, _)) = (node(&store, "a"), node(&store, "b"));
        assert_eq!(a.ask(&spec, Request::Change(0)), Answer::Go);
        let _ = b.due();
        assert!(matches!(b.ask(&spec, Request::Change(0)), Answer::Hold(_)));
        let due = b.due().map(|due| due.saturating_duration_since(SystemClock.monotonic()));
        let soon = due.is_some_and(|due| due <= Duration::from_secs(27));
        assert_eq!(soon, on_lost == OnLost::Skip, "{on_lost:?}: {due:?}");
        let lease = store.leases.lock().unwrap()[0];
        store.store.revoke(lease);
        b.lock().lease_end = Some(SystemClock.monotonic());
        let _ = b.ask(&spec, Request::Change(0));
        assert_eq!(kind_of(&store, &spec, "b"), after, "{on_lost:?}");
    }
}

#[test]
fn error_makes_node_look_again_soon_and_later_each_time() {
    let (store, spec) = (Arc::new(Shared::default()), spec(OnLost::Hold));
    accept(&*store);
    let (a, _) = node(&store, "a");
    let _ = a.due();
    *store.away.lock().unwrap() = true;
    let pause = || a.due().unwrap().saturating_duration_since(SystemClock.monotonic());
    assert!(
        matches!(a.ask(&spec, Request::Change(0)), Answer::Hold(gate) if gate.reason == GateReason::StoreUnreachable)
    );
    let first = pause();
    assert!(a.run_maintenance(&spec).is_err());
    let second = pause();
    assert!(first <= Duration::from_millis(2500) && first < second, "{first:?} {second:?}");
    assert!(a.progress("n/b").is_err());
    assert!(pause() > second, "a book that waits for this one is held");
    for errors in 0..100 {
        let pause = backed_off(errors, u64::MAX);
        assert!((Duration::from_secs(2)..=Duration::from_secs(15)).contains(&pause), "{errors}: {pause:?}");
    }
}

#[test]
fn node_that_waits_is_woken_once_when_the_store_goes_away() {
    let (store, spec) = (Arc::new(Shared::default()), spec(OnLost::Hold));
    accept(&*store);
    let ((a, _), (b, woken)) = (node(&store, "a"), node(&store, "b"));
    assert_eq!(a.ask(&spec, Request::Change(0)), Answer::Go);
    assert!(matches!(b.ask(&spec, Request::Change(0)), Answer::Hold(gate) if gate.reason == GateReason::Slot));
    let before = woken.load(Ordering::SeqCst);
    *store.away.lock().unwrap() = true;
    // The lease is kept alive every 10 s.
    for _ in 0..150 {
        if woken.load(Ordering::SeqCst) > before {
            break;
        }
        thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(woken.load(Ordering::SeqCst), before + 1);
    assert!(
        matches!(b.ask(&spec, Request::Change(0)), Answer::Hold(gate) if gate.reason == GateReason::StoreUnreachable)
    );
}

#[test]
fn run_of_many_segments_is_done_for_every_node() {
    let (store, mut spec) = (Arc::new(Shared::default()), spec(OnLost::Hold));
    spec.cuts = vec![Cut::Barrier; 44];
    accept(&*store);
    let ((a, _), (b, _)) = (node(&store, "a"), node(&store, "b"));
    for segment in 0..spec.segments() {
        for fleet in [&a, &b] {
            // The watch reports the opened barrier with a delay, so the test repeats the request.
            let entered = (0..100).any(|_| {
                let answer = fleet.ask(&spec, Request::Change(segment));
                if answer != Answer::Go {
                    thread::sleep(Duration::from_millis(50));
                }
                answer == Answer::Go
            });
            assert!(entered, "segment {segment}");
            assert_eq!(fleet.ask(&spec, Request::Done(segment)), Answer::Go, "segment {segment}");
        }
    }
    for fleet in [&a, &b] {
        let ended = (0..100).any(|_| {
            let ended = fleet.run_maintenance(&spec).unwrap();
            if !ended {
                thread::sleep(Duration::from_millis(50));
            }
            ended
        });
        assert!(ended);
    }
}

#[test]
fn failure_shows_its_last_message() {
    let (store, spec) = (Arc::new(Shared::default()), spec(OnLost::Hold));
    accept(&*store);
    let (a, _) = node(&store, "a");
    assert_eq!(a.ask(&spec, Request::Change(0)), Answer::Go);
    for message in ["first", "second", "second"] {
        a.describe_failure(&spec.book, message);
        assert_eq!(a.ask(&spec, Request::Failed(0, true)), Answer::Go);
        let failed = a.rollout(&[&spec], &|_| "alive", &BTreeMap::new(), None).failed;
        assert_eq!(failed.iter().map(|failed| failed.message.as_str()).collect::<Vec<_>>(), [message]);
    }
}

#[test]
fn waits_for_election_queue_recovery_and_store_name_their_begin() {
    let (store, mut spec) = (Arc::new(Shared::default()), spec(OnLost::Hold));
    spec.elected = [0].into();
    accept(&*store);
    let clock = TestClock::at(1_000);
    let fleet = |name: &str| Fleet::new(Arc::clone(&store) as Arc<dyn Store>, name.into(), Arc::new(clock.clone()));
    let (a, b) = (fleet("a"), fleet("b"));
    let task = ElectedTask { spec: &spec, task: "t", definition: "d" };
    assert_eq!(a.elect(task, true, 1).unwrap(), Election::Run);
    clock.advance(1_000);
    let waits = Queued { run: spec.run.clone(), segment: 0, accepted: spec.accepted.clone() };
    let put = |key: String, value: Vec<u8>| Txn { then: vec![Op::put(key, value)], ..Txn::default() };
    let queued = put(keys::queue("n/b", "-", "n/b", "b"), serde_json::to_vec(&waits).unwrap());
    b.commit(&spec, queued).unwrap();
    clock.advance(1_000);
    b.commit(&spec, put(keys::recovery("b"), br#"{"id":"1"}"#.to_vec())).unwrap();
    clock.advance(5_000);
    let since = |text: &str| {
        let found = a.rollout(&[&spec], &|_| "alive", &BTreeMap::new(), None).blocked;
        found.iter().find(|gate| gate.opens.contains(text)).unwrap_or_else(|| panic!("{text}: {found:#?}")).since
    };
    assert_eq!(since("elected task"), Some(1_000));
    assert_eq!(since("first in the queue"), Some(2_000));
    assert_eq!(since("restored from a backup"), Some(3_000));
    *store.away.lock().unwrap() = true;
    assert_eq!(since("rollouts are paused"), Some(8_000));
    clock.advance(1_000);
    assert_eq!(since("rollouts are paused"), Some(8_000), "the wait began with the first request");
}

#[test]
fn node_is_behind_while_its_views_show_another_accepted_revision_or_none() {
    let (store, spec) = (Arc::new(Shared::default()), spec(OnLost::Hold));
    let (a, _) = node(&store, "a");
    a.begin_pass();
    assert!(matches!(a.ask(&spec, Request::Change(0)), Answer::Hold(_)));
    assert!(a.is_behind(), "there is none");
    accept(&*store);
    a.begin_pass();
    assert!(!a.is_behind());
    a.look(&spec).unwrap();
    assert!(!a.is_behind(), "{:?}", a.look(&spec).unwrap().accepted);
    let newer = RolloutSpec { accepted: Accepted { generation: 2, ..record() }.id(), ..spec.clone() };
    a.look(&newer).unwrap();
    assert!(a.is_behind(), "the store has an older one");
    // A later snapshot of the whole fleet, or of another book, does not reset the result of `is_behind`.
    a.acknowledge_recovery(&[]).unwrap();
    assert!(a.is_behind());
}

#[test]
fn requests_for_keys_that_were_not_answered_are_kept() {
    let store = Arc::new(Shared::default());
    let (a, _) = node(&store, "a");
    wait_for(|| a.is_asked());
    // The watch of the inbox may begin later than the other watch.
    thread::sleep(Duration::from_millis(200));
    let _ = a.is_asked();
    *store.away.lock().unwrap() = true;
    assert!(a.answer(|_| None).is_err());
    assert!(a.is_asked());
    *store.away.lock().unwrap() = false;
    a.answer(|_| None).unwrap();
    assert!(!a.is_asked());
}

/// A snapshot covers one budget. A node that waits in two books reads the snapshots of both books in each pass.
#[test]
fn offers_and_absences_end_although_the_node_waits_in_another_budget_too() {
    let clock = TestClock::at(0);
    let store = Arc::new(Shared::default());
    let fleet = Fleet::new(store, "c".into(), Arc::new(clock.clone()));
    let spec = spec(OnLost::Hold);
    let other = RolloutSpec { book: "n/other".into(), budget: "n/other".into(), ..spec.clone() };
    let entry = |node: &str, kind: SlotState, absent: u64, modified: u64| SlotEntry {
        node: node.into(),
        partition: "-".into(),
        book: spec.book.clone(),
        held: SlotRecord {
            kind,
            run: spec.run.clone(),
            segment: 0,
            accepted: spec.accepted.clone(),
            lost: false,
            absent,
        },
        modified,
        note: SlotNote::default(),
    };
    let held = vec![entry("a", SlotState::Offer, 0, 7), entry("b", SlotState::Claim, 8, 9)];
    let shown = RunSnapshot { held, ..RunSnapshot::default() };
    let none = RunSnapshot::default();
    for second in 0..=10 {
        let (stale, overdue) = (fleet.stale_offers(&spec, &shown), fleet.overdue_absences(&spec, &shown));
        assert_eq!(stale.contains(&("a".to_owned(), 7)), second >= 10, "{second}");
        assert_eq!(overdue.contains(&("b".to_owned(), 9)), second >= 8, "{second}");
        fleet.stale_offers(&other, &none);
        fleet.overdue_absences(&other, &none);
        clock.advance(1000);
    }
    // Records that are no longer shown are forgotten. Later records are measured from their own beginning.
    fleet.stale_offers(&spec, &none);
    fleet.overdue_absences(&spec, &none);
    assert!(fleet.stale_offers(&spec, &shown).is_empty() && fleet.overdue_absences(&spec, &shown).is_empty());
}
