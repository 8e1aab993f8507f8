//! Templates over other nodes while the data store does not answer.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::sync::mpsc;
use towpath_agent::{
    config,
    node::{Node, Options},
};
use towpath_coordination::{
    LocalStore, Store,
    store::{Change, LeaseId, Outcome, Page, Read, StoreError, Txn},
};
use towpath_host::TestClock;
use towpath_tests::git::Repository;

/// A store in memory that can fall silent.
#[derive(Debug)]
struct Silent {
    store: Arc<LocalStore>,
    is_silent: AtomicBool,
}

impl Silent {
    fn answers(&self) -> Result<&LocalStore, StoreError> {
        if self.is_silent.load(Ordering::SeqCst) {
            return Err(StoreError::Unreachable("it is silent".into()));
        }
        Ok(&self.store)
    }
}

impl Store for Silent {
    fn read(&self, prefix: &str, page: &Page) -> Result<Read, StoreError> {
        self.answers()?.read(prefix, page)
    }

    fn watch(&self, _prefix: &str, _from: u64) -> Result<mpsc::UnboundedReceiver<Change>, StoreError> {
        Err(StoreError::Unreachable("a watch would act at any time".into()))
    }

    fn lease(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        self.answers()?.lease(ttl)
    }

    fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.answers()?.keep_alive(lease)
    }

    fn time_left(&self, key: &str) -> Result<Option<Duration>, StoreError> {
        self.answers()?.time_left(key)
    }

    fn commit(&self, txn: &Txn) -> Result<Outcome, StoreError> {
        self.answers()?.commit(txn)
    }
}

const OBJECTS: &str = r#"
metadata: {apiVersion: v1alpha, kind: Namespace, name: app}
---
metadata: {apiVersion: v1alpha, kind: Node, name: n1}
---
metadata: {apiVersion: v1alpha, kind: Node, name: n2}
---
metadata: {apiVersion: v1alpha, kind: TaskBook, name: web, namespace: app}
spec:
  targets: {nodes: [n1]}
  tasks:
    - name: peers
      file:
        path: /peers
        content: "{% for peer in nodes() %}{{ peer.name }} {{ peer.liveness }} {{ peer.facts.os.family if peer.facts else 'nothing' }}\n{% endfor %}"
"#;

struct Fleet {
    folder: tempfile::TempDir,
    repository: Repository,
    store: Arc<LocalStore>,
    clock: TestClock,
}

impl Fleet {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let repository = Repository::new(folder.path(), "fleet");
        repository.write("objects.yaml", OBJECTS);
        repository.publish("objects");
        Self { folder, repository, store: Arc::default(), clock: TestClock::at(1_767_614_400_000) }
    }

    fn open(&self, name: &str, is_silent: bool) -> (Node, Arc<Silent>) {
        let folder = self.folder.path().join(name);
        fs::create_dir_all(folder.join("root")).unwrap();
        let file = folder.join("agent.yaml");
        let shown = folder.display();
        let text = format!(
            "metadata: {{apiVersion: v1alpha, kind: Config}}\nspec:\n  node: {name}\n  root: {shown}/root\n  stateDir: {shown}/state\n  sources: [{{name: fleet, url: {}}}]\n",
            self.repository.bare.display()
        );
        fs::write(&file, text).unwrap();
        let settings = config::load(&file, name).unwrap();
        let store = Arc::new(Silent { store: Arc::clone(&self.store), is_silent: AtomicBool::new(is_silent) });
        let shared = Arc::clone(&store) as Arc<dyn Store>;
        let clock = Arc::new(self.clock.clone());
        (Node::open(Options { settings, store: shared, clock, credentials: None }).unwrap(), store)
    }

    /// Has a node run once, and returns the file with the other nodes.
    fn once(&self, node: &mut Node) -> String {
        self.clock.advance(5_000);
        node.once();
        fs::read_to_string(self.folder.path().join("n1/root/peers")).unwrap_or_default()
    }
}

/// Returns whether the file names the facts of both nodes.
fn is_whole(text: &str) -> bool {
    text.lines().count() == 2 && text.lines().all(|line| line.contains(" alive ") && !line.contains("nothing"))
}

#[test]
fn last_known_nodes_are_rendered_while_the_store_is_silent() {
    let fleet = Fleet::new();
    let (mut second, _) = fleet.open("n2", false);
    let (mut first, store) = fleet.open("n1", false);
    fleet.once(&mut first);
    fleet.once(&mut second);
    let whole = fleet.once(&mut first);
    assert!(is_whole(&whole), "{whole}");
    store.is_silent.store(true, Ordering::SeqCst);
    for _ in 0..3 {
        assert_eq!(fleet.once(&mut first), whole);
    }
    // Drift is corrected to the last known nodes, too.
    fs::write(fleet.folder.path().join("n1/root/peers"), "drift").unwrap();
    assert_eq!(fleet.once(&mut first), whole);
}

#[test]
fn last_known_nodes_survive_a_restart_while_the_store_is_silent() {
    let fleet = Fleet::new();
    let (mut second, _) = fleet.open("n2", false);
    let (mut first, _) = fleet.open("n1", false);
    fleet.once(&mut first);
    fleet.once(&mut second);
    let whole = fleet.once(&mut first);
    assert!(is_whole(&whole), "{whole}");
    drop(first);
    fs::remove_file(fleet.folder.path().join("n1/root/peers")).unwrap();
    let (mut first, store) = fleet.open("n1", true);
    assert_eq!(fleet.once(&mut first), whole);
    // The store answers again, and a node that has left it is no longer alive.
    store.is_silent.store(false, Ordering::SeqCst);
    assert!(is_whole(&fleet.once(&mut first)));
}
