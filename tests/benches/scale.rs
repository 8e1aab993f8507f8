//! How many requests a rollout costs each node, and how soon all know of an acceptance: many nodes in one process, each
//! with its own client, journal, decisions, watches and signatures, on a real etcd; only the work itself is faked. Run by hand: cargo run --release -p towpath-tests --bin scale -- 100 1000

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::mpsc::UnboundedReceiver;
use towpath_coordination::{
    accept::{self, Accepted},
    fleet::{Answer, Fleet, Joined, Wakeup},
    keys,
    rollout::{Cut, Request, RolloutSpec},
    signed::{RecordSigner, SignedStore},
    store::{
        Change, LeaseId, Op, Outcome, Page, Read, Store, StoreError, Txn,
        etcd::{EtcdOptions, EtcdStore},
    },
};
use towpath_host::{
    SystemClock,
    identity::{Identity, SigningIdentity},
};
use towpath_state::{BookId, Changes, ClaimState, Journal, RunProgress, SlotClaim, SlotRef};
use towpath_tests::etcd::Etcd;

/// Counts what a node asks of the store.
#[derive(Debug)]
struct Counted {
    store: EtcdStore,
    requests: AtomicU64,
    kinds: Arc<Mutex<BTreeMap<String, u64>>>,
}

impl Counted {
    fn count(&self, kind: String) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        *self.kinds.lock().unwrap().entry(kind).or_default() += 1;
    }
}

/// What a transaction is for, by the keys that it writes.
fn kind(txn: &Txn) -> String {
    let part = |key: &str| {
        let parts = key.split('/').take(if key.starts_with("inbox") { 1 } else { 2 });
        parts.collect::<Vec<_>>().join("/")
    };
    let written = |op: &Op| match op {
        Op::Put { key, .. } => Some(format!("put {}", part(key))),
        Op::Delete(key) => Some(format!("delete {}", part(key))),
        _ => None,
    };
    let kinds: Vec<String> = txn.then.iter().filter_map(written).collect();
    if kinds.is_empty() { "look".into() } else { kinds.join(", ") }
}

impl Store for Counted {
    fn read(&self, prefix: &str, page: &Page) -> Result<Read, StoreError> {
        let parts: Vec<&str> = prefix.split('/').take(if prefix.starts_with("inbox") { 1 } else { 2 }).collect();
        self.count(format!("read {}", parts.join("/")));
        self.store.read(prefix, page)
    }
    fn watch(&self, prefix: &str, from: u64) -> Result<UnboundedReceiver<Change>, StoreError> {
        self.store.watch(prefix, from)
    }
    fn lease(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        self.store.lease(ttl)
    }
    fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.store.keep_alive(lease)
    }
    fn time_left(&self, key: &str) -> Result<Option<Duration>, StoreError> {
        self.store.time_left(key)
    }
    fn commit(&self, txn: &Txn) -> Result<Outcome, StoreError> {
        let outcome = self.store.commit(txn)?;
        let refused = if matches!(outcome, Outcome::Refused { .. }) { " (refused)" } else { "" };
        self.count(format!("{}{refused}", kind(txn)));
        Ok(outcome)
    }
}

fn record() -> Accepted {
    Accepted { schema: 1, generation: 1, ..Accepted::default() }
}

fn spec(nodes: usize) -> RolloutSpec {
    RolloutSpec {
        book: "n/b".into(),
        budget: "n/b".into(),
        run: "n/b@1".into(),
        accepted: record().id(),
        members: (0..nodes).map(|node| (format!("n{node}"), 0)).collect(),
        known: (0..nodes).map(|node| format!("n{node}")).collect(),
        count: Some(10),
        waves: 1,
        cuts: vec![Cut::Barrier],
        ..RolloutSpec::default()
    }
}

type Bell = Arc<(Mutex<bool>, Condvar)>;

fn wait(bell: &Bell, timeout: Duration) {
    let (rung, condvar) = &**bell;
    let guard = rung.lock().unwrap();
    let (mut guard, _) = condvar.wait_timeout_while(guard, timeout, |rung| !*rung).unwrap();
    *guard = false;
}

/// The store as a node has it: what it writes is signed.
fn signed(store: Arc<dyn Store>, node: &str) -> Arc<dyn Store> {
    let signing_identity = SigningIdentity::Bare(Arc::new(Identity::make().unwrap()));
    let signer = RecordSigner::new("scale".into(), node.into(), signing_identity, 1);
    Arc::new(SignedStore::new(store, Arc::new(signer)))
}

/// The records that a node writes before its first change, and after its vote.
fn remember(journal: &Journal, change: impl FnOnce(&mut Changes, &BookId)) {
    let mut changes = Changes::default();
    change(&mut changes, &BookId::new("n", "b"));
    journal.commit(changes).unwrap();
}

/// One node goes through the rollout; gives how many requests it made, and how many times it looked for the minute.
fn node(
    store: EtcdStore,
    journal: &Journal,
    kinds: Arc<Mutex<BTreeMap<String, u64>>>,
    nodes: usize,
    number: usize,
    start: &std::sync::Barrier,
    known: &Mutex<Vec<Instant>>,
) -> (u64, u64) {
    let name = format!("n{number}");
    let counted = Arc::new(Counted { store, requests: AtomicU64::new(0), kinds });
    let store = signed(Arc::clone(&counted) as Arc<dyn Store>, &name);
    let fleet = Fleet::new(Arc::clone(&store), name, Arc::new(SystemClock));
    let bell: Bell = Arc::default();
    let accepted: Bell = Arc::default();
    let (ring, tell) = (Arc::clone(&bell), Arc::clone(&accepted));
    let joined = Joined { node: format!("n{number}"), machine_id: "one".into(), ..Joined::default() };
    fleet.join(joined, move |wakeup| {
        let bell = if wakeup == Wakeup::Accepted { &tell } else { &ring };
        *bell.0.lock().unwrap() = true;
        bell.1.notify_all();
    });
    start.wait();
    while !accept::current(&*store, &Accepted::default()).is_ok_and(|found| found.record.generation > 0) {
        wait(&accepted, Duration::from_secs(60));
    }
    known.lock().unwrap().push(Instant::now());
    start.wait();
    counted.requests.store(0, Ordering::Relaxed);
    let spec = spec(nodes);
    let mut minutes = 0;
    for segment in 0..spec.segments() {
        while fleet.ask(&spec, Request::Change(segment)) != Answer::Go {
            let begin = Instant::now();
            wait(&bell, Duration::from_secs(60));
            minutes += u64::from(begin.elapsed() >= Duration::from_secs(59));
        }
        let claim = Some(SlotClaim { state: ClaimState::Claim, run: spec.run.clone(), segment });
        let slot = SlotRef { budget: spec.budget.clone(), partition: "-".into(), claim };
        remember(journal, |changes, book| changes.set_slot(book, Some(slot)));
        std::thread::sleep(Duration::from_millis(200));
        while fleet.ask(&spec, Request::Done(segment)) != Answer::Go {
            wait(&bell, Duration::from_secs(1));
        }
        let progress = RunProgress { run: spec.run.clone(), done: segment as usize + 1, completed: false };
        remember(journal, |changes, book| changes.set_progress(book, progress));
    }
    (counted.requests.load(Ordering::Relaxed), minutes)
}

fn main() {
    for nodes in std::env::args().skip(1).filter_map(|argument| argument.parse().ok()) {
        let folder = tempfile::tempdir().unwrap();
        let etcd = Etcd::single(folder.path(), "etcd");
        let options =
            EtcdOptions { endpoints: etcd.endpoints(), prefix: "/towpath/scale/".into(), ..Default::default() };
        let store = Arc::new(EtcdStore::new(options.clone()).unwrap());
        let kinds: Arc<Mutex<BTreeMap<String, u64>>> = Arc::default();
        let start = Arc::new(std::sync::Barrier::new(nodes + 1));
        let known: Arc<Mutex<Vec<Instant>>> = Arc::default();
        let threads: Vec<_> = (0..nodes)
            .map(|number| {
                let (kinds, start, known) = (Arc::clone(&kinds), Arc::clone(&start), Arc::clone(&known));
                let store = EtcdStore::new(EtcdOptions { node: format!("n{number}"), ..options.clone() }).unwrap();
                let state = folder.path().join(format!("state-{number}"));
                std::fs::create_dir(&state).unwrap();
                let (journal, _) = Journal::open(&state).unwrap();
                std::thread::Builder::new()
                    .stack_size(512 << 10)
                    .spawn(move || node(store, &journal, kinds, nodes, number, &start, &known))
                    .unwrap()
            })
            .collect();
        start.wait();
        let put = Op::put(keys::ACCEPTED, serde_json::to_vec(&record()).unwrap());
        let begin = Instant::now();
        signed(Arc::clone(&store) as Arc<dyn Store>, "main")
            .commit(&Txn { then: vec![put], ..Txn::default() })
            .unwrap();
        start.wait();
        let last = known.lock().unwrap().iter().max().map(|at| at.duration_since(begin)).unwrap_or_default();
        println!("{nodes} nodes: an acceptance was known to all after {last:?}");
        kinds.lock().unwrap().clear();
        let begin = Instant::now();
        let counts: Vec<(u64, u64)> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
        let total: u64 = counts.iter().map(|(requests, _)| requests).sum();
        let minutes: u64 = counts.iter().map(|(_, minutes)| minutes).sum();
        let mut spread: BTreeMap<u64, usize> = BTreeMap::new();
        counts.iter().for_each(|(requests, _)| *spread.entry(*requests).or_default() += 1);
        println!(
            "{nodes} nodes, one slot group of 10, one barrier: {:.1} requests a node ({total} in all, {minutes} looks at the minute) in {:?}; spread {spread:?}",
            total as f64 / nodes as f64,
            begin.elapsed()
        );
        for (kind, count) in kinds.lock().unwrap().iter() {
            println!("  {:6.2} a node: {kind}", *count as f64 / nodes as f64);
        }
    }
}
