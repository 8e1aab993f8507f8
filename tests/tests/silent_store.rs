//! A data store that is silent for a while: a node does the rest of its work when the store answers, also if the node has
//! found the steady state meanwhile.
//!
//! The node runs in the process of the test, with a test clock and a store that fails on request.

use std::{
    fs,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tempfile::TempDir;
use tokio::sync::mpsc;
use towpath_agent::{
    config,
    node::{Node, Options},
};
use towpath_coordination::{
    LocalStore,
    store::{Change, LeaseId, Op, Outcome, Page, Read, Store, StoreError, Txn},
};
use towpath_host::TestClock;
use towpath_tests::git::{FLEET, Repository, book};

/// A store that looks as if several processes shared it, and that does not answer while it is away.
#[derive(Debug, Default)]
struct Silent {
    store: LocalStore,
    away: AtomicBool,
    /// The store is away after a transaction that sets a key with this prefix.
    after: Mutex<Option<&'static str>>,
}

impl Silent {
    fn answers(&self) -> Result<(), StoreError> {
        match self.away.load(Ordering::SeqCst) {
            true => Err(StoreError::Unreachable("away".into())),
            false => Ok(()),
        }
    }

    fn set_away(&self, away: bool) {
        self.away.store(away, Ordering::SeqCst);
    }

    /// Returns the rows below a prefix, as text.
    fn rows(&self, prefix: &str) -> Vec<String> {
        let rows = self.store.read(prefix, &Page::default()).unwrap().rows;
        rows.iter().map(|row| format!("{} {}", row.key, String::from_utf8_lossy(&row.value))).collect()
    }
}

impl Store for Silent {
    fn read(&self, prefix: &str, page: &Page) -> Result<Read, StoreError> {
        self.answers()?;
        self.store.read(prefix, page)
    }

    fn watch(&self, prefix: &str, from: u64) -> Result<mpsc::UnboundedReceiver<Change>, StoreError> {
        self.answers()?;
        self.store.watch(prefix, from)
    }

    fn lease(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        self.store.lease(ttl)
    }

    // As in etcd, which keeps leases alive while it cannot write.
    fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.store.keep_alive(lease)
    }

    fn time_left(&self, key: &str) -> Result<Option<Duration>, StoreError> {
        self.answers()?;
        self.store.time_left(key)
    }

    fn commit(&self, txn: &Txn) -> Result<Outcome, StoreError> {
        self.answers()?;
        let outcome = self.store.commit(txn)?;
        let sets = |prefix: &str| {
            let of = |operation: &Op| matches!(operation, Op::Put { key, .. } if key.starts_with(prefix));
            matches!(outcome, Outcome::Done { .. }) && txn.then.iter().any(of)
        };
        if self.after.lock().unwrap().take_if(|prefix| sets(prefix)).is_some() {
            self.set_away(true);
        }
        Ok(outcome)
    }
}

struct Fixture {
    folder: TempDir,
    repository: Repository,
    store: Arc<Silent>,
    clock: TestClock,
    node: Node,
}

impl Fixture {
    /// Creates a node that follows these books.
    fn new(books: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let repository = Repository::new(folder.path(), "fleet");
        let other = "---\nmetadata: {apiVersion: v1alpha, kind: Node, name: n2}\n";
        repository.write("fleet.yaml", format!("{FLEET}{other}"));
        for (name, rest) in books {
            repository.write(&format!("{name}.yaml"), book(name, rest));
        }
        repository.publish("first");
        fs::create_dir_all(folder.path().join("root")).unwrap();
        let text = format!(
            "metadata: {{apiVersion: v1alpha, kind: Config}}
spec:
  node: n1
  root: {0}/root
  stateDir: {0}/state
  listen: {{socket: {0}/s}}
  sources: [{{name: fleet, url: {1}}}]
  dataStore: {{type: etcd, endpoints: [\"http://127.0.0.1:1\"]}}
",
            folder.path().display(),
            repository.bare.display()
        );
        let file = folder.path().join("agent.yaml");
        fs::write(&file, text).unwrap();
        let settings = config::load(&file, "n1").unwrap();
        let (store, clock) = (Arc::<Silent>::default(), TestClock::at(1_900_000_000_000));
        let shared = Arc::clone(&store) as Arc<dyn Store>;
        let node = Node::open(Options { settings, store: shared, clock: Arc::new(clock.clone()), credentials: None });
        Self { folder, repository, store, clock, node: node.unwrap() }
    }

    /// Has the node follow the newest commit.
    fn follow(&mut self) {
        self.clock.advance(1000);
        self.node.refresh_and_propose();
        self.pass();
        self.pass();
    }

    fn pass(&mut self) {
        self.clock.advance(1000);
        self.node.pass();
    }

    /// Has the node find the steady state while the store is away.
    fn settle_without_the_store(&mut self) {
        self.store.set_away(true);
        self.pass();
        self.pass();
        assert_eq!(self.reason("Ready"), "Applied");
    }

    fn reason(&self, kind: &str) -> String {
        let status = self.node.queries().status();
        status.conditions.into_iter().find(|condition| condition.r#type == kind).unwrap().reason
    }
}

const BASE: &str = "  tasks:
    - {name: base, file: {path: /base, content: base}}
";

const SLOT: &str = "  rollout: {serialize: {count: 1}}
  tasks:
    - {name: a, file: {path: /a, content: ours}, notify: [reload]}
  handlers:
    - {name: reload, command: {argv: [\"true\"]}}
";

const FAILS: &str = "  rollout: {serialize: {count: 1}}
  tasks:
    - {name: fails, command: {argv: [\"false\"]}}
";

/// The store becomes silent between the claim of a slot and its release.
#[test]
fn slot_of_a_correction_is_released_when_the_store_answers_again() {
    let mut fixture = Fixture::new(&[("web", SLOT)]);
    fixture.follow();
    let file = fixture.folder.path().join("root/a");
    assert_eq!((fs::read_to_string(&file).unwrap().as_str(), fixture.store.rows("fleet/held/").len()), ("ours", 0));
    fs::write(&file, "drift").unwrap();
    *fixture.store.after.lock().unwrap() = Some("fleet/held/");
    fixture.pass();
    assert_eq!(
        (fs::read_to_string(&file).unwrap().as_str(), fixture.reason("Held").as_str()),
        ("ours", "StoreUnreachable")
    );
    fixture.settle_without_the_store();
    assert_eq!(fixture.store.rows("fleet/held/").len(), 1);
    fixture.store.set_away(false);
    fixture.pass();
    assert_eq!(fixture.store.rows("fleet/held/"), [""; 0]);
}

#[test]
fn slot_of_a_removed_book_is_released_when_the_store_answers_again() {
    let mut fixture = Fixture::new(&[("base", BASE), ("web", FAILS)]);
    fixture.follow();
    assert_eq!(fixture.store.rows("fleet/held/").len(), 1, "the record of the failure");
    fs::remove_file(fixture.repository.work.join("web.yaml")).unwrap();
    fixture.repository.publish("without the book");
    fixture.clock.advance(1000);
    fixture.node.refresh_and_propose();
    fixture.settle_without_the_store();
    assert_eq!(fixture.store.rows("fleet/held/").len(), 1);
    fixture.store.set_away(false);
    fixture.pass();
    assert_eq!(fixture.store.rows("fleet/held/"), [""; 0]);
}

#[test]
fn state_of_a_node_is_published_when_the_store_answers_again() {
    let mut fixture = Fixture::new(&[("base", BASE)]);
    fixture.follow();
    let published = |fixture: &Fixture| fixture.store.rows("fleet/state/n1")[0].clone();
    assert!(published(&fixture).contains("\"generation\":1"), "{}", published(&fixture));
    fixture.repository.write("base.yaml", book("base", &BASE.replace("content: base", "content: next")));
    fixture.repository.publish("next");
    fixture.clock.advance(1000);
    fixture.node.refresh_and_propose();
    fixture.settle_without_the_store();
    assert!(published(&fixture).contains("\"generation\":1"));
    fixture.store.set_away(false);
    fixture.pass();
    assert!(published(&fixture).contains("\"generation\":2"), "{}", published(&fixture));
}

#[test]
fn node_that_is_alone_is_reported_also_in_the_steady_state() {
    let mut fixture = Fixture::new(&[("base", BASE)]);
    fixture.follow();
    let reports = |fixture: &Fixture| {
        let events = fixture.node.queries().events().recorded();
        events.iter().filter(|event| event.r#type == "node.never-joined").count()
    };
    assert_eq!(reports(&fixture), 0, "the others have a minute to join");
    fixture.clock.advance(61_000);
    for _ in 0..3 {
        fixture.pass();
        assert_eq!(reports(&fixture), 1);
    }
}

/// A correction of content needs no slot, also beside a change that waits for one (P90).
#[test]
fn drift_of_plain_files_is_corrected_beside_a_file_that_waits_for_the_store() {
    let plain = "    - {name: plain, file: {path: /plain, content: ours}}\n  handlers:";
    let mut fixture = Fixture::new(&[("web", &SLOT.replace("  handlers:", plain))]);
    fixture.follow();
    let root = fixture.folder.path().join("root");
    let read = |name: &str| fs::read_to_string(root.join(name)).unwrap();
    for name in ["a", "plain"] {
        fs::write(root.join(name), "drift").unwrap();
    }
    fixture.store.set_away(true);
    fixture.pass();
    assert_eq!((read("a").as_str(), read("plain").as_str()), ("drift", "ours"));
    assert_eq!(fixture.reason("Held"), "StoreUnreachable");
}
