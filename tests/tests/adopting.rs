//! The record of acceptance that one node writes, and its treatment by the others.
//!
//! The nodes run in one process with a shared store and a test clock. A third node signs records that it should not,
//! with a key that counts.

use std::{
    fs,
    path::Path,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::mpsc;
use towpath_agent::{
    config,
    node::{Node, Options},
};
use towpath_coordination::{
    Accepted, LocalStore,
    accept::{RevisionManifest, current, manifest_of},
    keys,
    signed::{RecordSigner, SignedStore},
    store::{Change, LeaseId, Op, Outcome, Page, Read, Store, StoreError, Txn},
};
use towpath_host::{
    Clock,
    identity::{Identity, SigningIdentity},
};
use towpath_tests::{
    git::{Repository, SshSigner, change, git, one_file},
    ok,
};

/// A store that looks as if several processes shared it.
#[derive(Debug, Default)]
struct Shared(LocalStore);

impl Store for Shared {
    fn read(&self, prefix: &str, page: &Page) -> Result<Read, StoreError> {
        self.0.read(prefix, page)
    }

    fn watch(&self, prefix: &str, from: u64) -> Result<mpsc::UnboundedReceiver<Change>, StoreError> {
        self.0.watch(prefix, from)
    }

    fn lease(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        self.0.lease(ttl)
    }

    fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.0.keep_alive(lease)
    }

    fn time_left(&self, key: &str) -> Result<Option<Duration>, StoreError> {
        self.0.time_left(key)
    }

    fn commit(&self, txn: &Txn) -> Result<Outcome, StoreError> {
        self.0.commit(txn)
    }
}

/// A clock that advances when the test sets it.
#[derive(Debug)]
struct TestClock(Instant, Mutex<Duration>);

impl TestClock {
    fn passed(&self) -> Duration {
        *self.1.lock().unwrap()
    }
}

impl Clock for TestClock {
    fn wall(&self) -> i64 {
        1_900_000_000_000 + i64::try_from(self.passed().as_millis()).unwrap()
    }

    fn monotonic(&self) -> Instant {
        self.0 + self.passed()
    }
}

/// A fleet of two honest nodes, n0 and n1, and the key of a third one, n2.
struct Fleet {
    folder: TempDir,
    repository: Repository,
    alice: SshSigner,
    store: Arc<Shared>,
    clock: Arc<TestClock>,
    nodes: Vec<Node>,
    /// The store, signed with the key of n2.
    insider: SignedStore,
}

impl Fleet {
    /// Creates a fleet that has accepted a first signed commit, with the tag v1. `source` holds the settings of the
    /// source after its URL.
    fn new(source: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let repository = one_file(folder.path());
        let alice = SshSigner::new(folder.path(), "alice");
        fs::write(folder.path().join("keys"), alice.line("")).unwrap();
        let names = ["n0", "n2"].map(|name| format!("metadata: {{apiVersion: v1alpha, kind: Node, name: {name}}}\n"));
        repository.write("nodes.yaml", names.join("---\n"));
        repository.write("slots.yaml", coordinated("one"));
        let head = alice.commit(&repository, "one");
        repository.push();
        repository.git(&["push", "-q", "origin", "HEAD:refs/tags/v1"]);
        let source = source.replace("PINNED", &head);
        let store = Arc::<Shared>::default();
        let clock = Arc::new(TestClock(Instant::now(), Mutex::default()));
        let key = Identity::open(&folder.path().join("n2.key")).unwrap();
        let signer = RecordSigner::new("default".into(), "n2".into(), SigningIdentity::Bare(Arc::new(key)), 1 << 60);
        let insider = SignedStore::new(Arc::clone(&store) as Arc<dyn Store>, Arc::new(signer));
        let mut fleet = Self { folder, repository, alice, store, clock, nodes: Vec::new(), insider };
        for name in ["n0", "n1"] {
            let node = fleet.open(name, &source);
            fleet.nodes.push(node);
        }
        fleet.look(2);
        let says = fleet.nodes[0].queries().status();
        assert_eq!(fleet.at(), [(1, head.clone()), (1, head)], "{says:#?}");
        fleet
    }

    /// Creates a fleet whose commits must be signed.
    fn signed() -> Self {
        Self::new("branch: main, verify: {mode: range, keyFiles: [FOLDER/keys]}")
    }

    fn open(&self, name: &str, source: &str) -> Node {
        let folder = self.folder.path().join(name);
        fs::create_dir_all(folder.join("root")).unwrap();
        let source = source.replace("FOLDER", &self.folder.path().display().to_string());
        let text = format!(
            "metadata: {{apiVersion: v1alpha, kind: Config}}
spec:
  node: {name}
  root: {0}/root
  stateDir: {0}/state
  listen: {{socket: {0}/s}}
  sources: [{{name: fleet, url: {1}, {source}}}]
  dataStore: {{type: etcd, endpoints: [\"http://127.0.0.1:1\"]}}
",
            folder.display(),
            self.repository.bare.display()
        );
        let file = folder.join("agent.yaml");
        fs::write(&file, text).unwrap();
        let settings = config::load(&file, name).unwrap();
        let store = Arc::clone(&self.store) as Arc<dyn Store>;
        let clock = Arc::clone(&self.clock) as Arc<dyn Clock>;
        Node::open(Options { settings, store, clock, credentials: None }).unwrap()
    }

    /// Lets each node refresh that many times, 15 s apart.
    fn look(&mut self, times: usize) {
        for _ in 0..times {
            *self.clock.1.lock().unwrap() += Duration::from_secs(15);
            for node in &mut self.nodes {
                node.refresh_and_propose();
            }
        }
    }

    /// Returns the generation and the commit of each node.
    fn at(&self) -> Vec<(u64, String)> {
        let of = |node: &Node| {
            let status = node.queries().status();
            (status.generation, status.commits.get("fleet").cloned().unwrap_or_default())
        };
        self.nodes.iter().map(of).collect()
    }

    /// Returns the reason of a condition of n1. `None` if the condition is false.
    fn reason(&self, kind: &str) -> Option<String> {
        let status = self.nodes[1].queries().status();
        let found = status.conditions.into_iter().find(|condition| condition.r#type == kind);
        found.filter(|condition| condition.status).map(|condition| condition.reason)
    }

    /// Publishes a signed commit and returns it.
    fn publish(&self, text: &str) -> String {
        let head = self.alice.commit(&self.repository, text);
        self.repository.push();
        head
    }

    /// Signs a tag of the head, and pushes it.
    fn sign_tag(&self, name: &str) {
        let settings = self.alice.settings();
        let settings = settings.iter().flat_map(|setting| ["-c", setting.as_str()]);
        ok(git(&self.repository.work).args(settings).args(["tag", "-s", "-m", name, name]));
        self.repository.git(&["push", "-q", "origin", name]);
    }

    /// Returns the record in the store, as any node reads it.
    fn stored(&self) -> Accepted {
        current(&self.insider, &Accepted::default()).unwrap().record
    }

    /// Writes a record that n2 signs.
    fn forge(&self, record: &Value) {
        let put = Op::put(keys::ACCEPTED, serde_json::to_vec(record).unwrap());
        self.insider.commit(&Txn { then: vec![put], ..Txn::default() }).unwrap();
    }

    /// Writes a record that n2 signs and that continues the chain of the stored record.
    fn forge_next(&self, change: impl FnOnce(&mut Accepted)) {
        let last = self.stored();
        let mut next = Accepted {
            generation: last.generation + 1,
            parent: last.generation,
            before: Some(last.link()),
            by: "n2".into(),
            ..last
        };
        change(&mut next);
        self.forge(&serde_json::to_value(next).unwrap());
    }

    /// Publishes a commit and expects that all nodes adopt it. The generation grows by at least 1 and at most `most`.
    fn goes_on(&mut self, text: &str, most: u64) {
        let before = self.at()[0].0;
        let head = self.publish(text);
        self.look(4);
        for (generation, commit) in self.at() {
            assert_eq!(commit, head, "{text}");
            assert!((before + 1..=before + most).contains(&generation), "{text}: {generation} after {before}");
        }
        assert_eq!(self.reason("Stalled"), None, "{text}");
    }
}

fn coordinated(text: &str) -> String {
    format!(
        "metadata: {{apiVersion: v1alpha, kind: TaskBook, name: slots, namespace: app}}
spec:
  targets: {{nodes: [n0, n1]}}
  rollout: {{serialize: {{count: 1}}}}
  tasks:
    - name: a
      file: {{path: /slots, content: \"{text}\"}}
"
    )
}

fn commit_of(record: &mut Accepted, commit: &str) {
    record.commits.insert("fleet".into(), commit.to_owned());
}

#[test]
fn forged_generation_number_stops_no_fleet() {
    let mut fleet = Fleet::signed();
    let first = fleet.repository.head();
    fleet.goes_on("two", 1);
    let numbers = ["9223372036854775807", "9223372036854775808", "18446744073709551615", "9007199254740993", "1000000"];
    let others = ["0", "-1", "1.5", "1e400", "null", "[]", "\"3\"", "18446744073709551616"];
    for (round, number) in numbers.into_iter().chain(others).enumerate() {
        let last = Accepted { by: "n2".into(), ..fleet.stored() };
        let head = last.commits["fleet"].clone();
        for commit in [&first, &head] {
            let text = serde_json::to_string(&last).unwrap();
            let text =
                text.replace(&format!("\"generation\":{}", last.generation), &format!("\"generation\":{number}"));
            // serde_json cannot parse some of these numbers. A record with the generation -1 replaces them.
            let text = text.replace(&head, commit);
            let forged: Value = serde_json::from_str(&text).unwrap_or_else(|_| serde_json::json!({ "generation": -1 }));
            fleet.forge(&forged);
            fleet.look(1);
            assert_eq!(fleet.at()[1].1, head, "{number}");
        }
        fleet.goes_on(&format!("round {round}"), 1);
    }
    // A matching parent, but no chain that leads to it.
    for number in [1_000_000, (1 << 53) + 1, u64::MAX / 2, u64::MAX] {
        fleet.forge_next(|record| {
            let parent = Accepted { generation: number - 1, parent: number - 2, ..record.clone() };
            (record.generation, record.parent, record.before) = (number, number - 1, Some(parent.link()));
        });
        fleet.look(1);
        fleet.goes_on(&number.to_string(), 1);
    }
}

#[test]
fn void_record_is_written_over_without_a_new_commit() {
    let mut fleet = Fleet::signed();
    let good = fleet.stored();
    fleet.forge(&serde_json::json!({ "generation": u64::MAX, "commits": {} }));
    fleet.look(1);
    assert_eq!(fleet.stored().digest(), good.digest());
    fleet.look(1);
    assert_eq!(fleet.reason("Stalled"), None);
}

#[test]
fn missing_commit_is_rejected_after_ten_minutes_of_git_answers() {
    let mut fleet = Fleet::signed();
    let first = fleet.at();
    fleet.forge_next(|record| commit_of(record, &"f".repeat(40)));
    fleet.look(1);
    assert_eq!((fleet.at(), fleet.reason("Reconciling").as_deref()), (first.clone(), Some("Progressing")));
    // Half an hour without an answer of git rejects nothing.
    let gone = fleet.repository.bare.with_extension("gone");
    fs::rename(&fleet.repository.bare, &gone).unwrap();
    fleet.look(120);
    assert_eq!((fleet.at(), fleet.reason("Stalled")), (first.clone(), None));
    fs::rename(&gone, &fleet.repository.bare).unwrap();
    fleet.look(38);
    assert_eq!(fleet.reason("Stalled"), None, "ten minutes are not over");
    fleet.look(5);
    assert_eq!(fleet.reason("Stalled").as_deref(), Some("RejectedLocally"));
    assert_eq!(fleet.at(), first);
    // The next commit gets the number after the rejected one.
    fleet.goes_on("two", 2);
    assert_eq!(fleet.at()[0].0, 3);
}

#[test]
fn record_of_a_newer_schema_is_rejected_after_ten_minutes_in_which_git_answers() {
    for schema in [2, 1000] {
        let mut fleet = Fleet::signed();
        let before = fleet.at();
        fleet.forge_next(|record| record.schema = schema);
        fleet.look(38);
        assert_eq!((fleet.at(), fleet.reason("Stalled")), (before.clone(), None), "{schema}");
        assert_eq!(fleet.reason("Held").as_deref(), Some("AgentTooOld"), "{schema}");
        fleet.look(8);
        assert_eq!(fleet.reason("Held"), None, "{schema}");
        assert_eq!((fleet.at(), fleet.reason("Stalled").as_deref()), (before, Some("RejectedLocally")), "{schema}");
        fleet.goes_on("the fleet goes on", 2);
    }
}

/// The data store has lost the links of both nodes, as it loses the link of a node that was away for long.
#[test]
fn node_older_than_the_kept_chain_never_overwrites_a_record() {
    let mut fleet = Fleet::signed();
    let first = fleet.at();
    let links = Txn { then: vec![Op::DeleteAll(keys::LINKS.to_owned())], ..Txn::default() };
    fleet.insider.commit(&links).unwrap();
    fleet.forge_next(|record| {
        let parent = Accepted { generation: 8, parent: 7, ..record.clone() };
        (record.generation, record.parent, record.before) = (9, 8, Some(parent.link()));
        commit_of(record, &"f".repeat(40));
    });
    let record = fleet.stored();
    fleet.look(45);
    assert_eq!((fleet.at(), fleet.reason("Stalled").as_deref()), (first.clone(), Some("RejectedLocally")));
    fleet.publish("two");
    fleet.look(2);
    assert_eq!((fleet.at(), fleet.stored().digest()), (first, record.digest()));
    // A record whose commits verify is followed.
    let two = fleet.repository.head();
    fleet.forge_next(|record| {
        commit_of(record, &two);
        record.manifest_before = record.manifest.clone();
    });
    fleet.look(2);
    assert_eq!(fleet.at(), [(10, two.clone()), (10, two)]);
}

#[test]
fn new_node_replaces_a_record_that_its_git_server_does_not_confirm() {
    let mut fleet = Fleet::signed();
    let head = fleet.repository.head();
    fleet.forge_next(|record| commit_of(record, &"f".repeat(40)));
    let node = fleet.open("n3", "branch: main, verify: {mode: range, keyFiles: [FOLDER/keys]}");
    fleet.nodes = vec![node];
    fleet.look(38);
    assert_eq!(fleet.stored().generation, 2, "ten minutes are not over");
    fleet.look(8);
    assert_eq!(fleet.at(), [(3, head)]);
}

#[test]
fn rejection_ends_if_the_commit_appears() {
    let mut fleet = Fleet::signed();
    let late = fleet.alice.commit(&fleet.repository, "late");
    fleet.forge_next(|record| {
        commit_of(record, &late);
        // As an honest node with another view writes it.
        record.manifest_before = record.manifest.clone();
    });
    fleet.look(45);
    assert_eq!(fleet.reason("Stalled").as_deref(), Some("RejectedLocally"));
    fleet.repository.push();
    fleet.look(2);
    assert_eq!(fleet.reason("Stalled"), None);
    assert!(fleet.at().iter().all(|(_, commit)| *commit == late), "{:?}", fleet.at());
}

#[test]
fn record_that_goes_back_or_names_other_sources_is_rejected() {
    let mut fleet = Fleet::signed();
    let first = fleet.repository.head();
    fleet.goes_on("two", 1);
    type Change = fn(&mut Accepted, &str);
    let changes: [(&str, Change); 7] = [
        ("a rewind", |record, first| commit_of(record, first)),
        ("an unknown source", |record, first| drop(record.commits.insert("other".into(), first.into()))),
        ("many sources", |record, first| {
            record.commits.extend((0..5000).map(|number| (format!("s{number}"), first.to_owned())));
        }),
        ("no source", |record, _| record.commits.clear()),
        ("another first source", |record, _| record.origin = "elsewhere".into()),
        ("another verify.mode", |record, _| record.verify = Default::default()),
        ("no commit id", |record, _| commit_of(record, "HEAD")),
    ];
    for (name, change) in changes {
        let before = fleet.at();
        fleet.forge_next(|record| change(record, &first));
        fleet.look(1);
        assert_eq!(fleet.at(), before, "{name}");
        fleet.goes_on(name, 2);
    }
}

#[test]
fn manifest_that_is_missing_or_differs_from_the_commits_is_rejected() {
    let mut fleet = Fleet::signed();
    // A table without pages: the wait is short.
    fleet.forge_next(|record| record.manifest = "0".repeat(32));
    fleet.look(8);
    assert_eq!(fleet.reason("Stalled").as_deref(), Some("RejectedLocally"));
    fleet.goes_on("two", 2);
    // Tables in which a run starts again, a book is missing, or objects have other births.
    type Change = fn(&mut RevisionManifest, u64);
    let changes: [Change; 3] = [
        |manifest, next| {
            manifest.books.get_mut("app/slots").unwrap().since = next;
            manifest.joined = [(next, vec!["n0".to_owned()])].into();
        },
        |manifest, _| manifest.books.clear(),
        |manifest, _| manifest.created_in.values_mut().for_each(|created| *created = u64::MAX),
    ];
    for (round, change) in changes.into_iter().enumerate() {
        let last = fleet.stored();
        let mut manifest = manifest_of(&fleet.insider, &last).unwrap().unwrap();
        change(&mut manifest, last.generation + 1);
        let page = Op::put(keys::manifest(&manifest.digest(), 0), serde_json::to_vec(&manifest).unwrap());
        fleet.insider.commit(&Txn { then: vec![page], ..Txn::default() }).unwrap();
        let before = fleet.at();
        fleet.forge_next(|record| {
            record.manifest_before = record.manifest.clone();
            record.manifest = manifest.digest();
        });
        fleet.look(1);
        assert_eq!((fleet.at(), fleet.reason("Stalled").as_deref()), (before, Some("RejectedLocally")), "{round}");
        fleet.goes_on(&format!("after {round}"), 2);
    }
}

/// Puts a commit into the mirrors of all nodes, as a pack of a peer would. The git server does not have it.
fn smuggle(fleet: &Fleet, commit: &str) {
    for name in ["n0", "n1"] {
        let mirror = fleet.folder.path().join(name).join("state/mirrors/fleet.git");
        ok(git(Path::new(&fleet.repository.work))
            .args(["push", "-q"])
            .arg(mirror)
            .arg(format!("{commit}:refs/towpath/{commit}")));
    }
}

#[test]
fn unverified_commit_counts_only_from_the_own_git_server() {
    for (name, source, refspec) in [
        ("branch", "branch: main", "HEAD:main"),
        ("tag", "tag: \"v*\"", "HEAD:refs/tags/v2"),
        ("rewind", "branch: main, allowRewind: true", "HEAD:main"),
    ] {
        let mut fleet = Fleet::new(source);
        let before = fleet.at();
        if name == "rewind" {
            fleet.repository.git(&["commit", "-q", "--amend", "-m", "another first one"]);
        }
        change(&fleet.repository, "smuggled");
        let evil = fleet.repository.commit("smuggled");
        smuggle(&fleet, &evil);
        fleet.forge_next(|record| commit_of(record, &evil));
        fleet.look(5);
        assert_eq!(fleet.at(), before, "{name}");
        // The commit counts once the git server has it, so a pack of a peer still saves traffic.
        ok(git(Path::new(&fleet.repository.work)).args(["push", "-q", "-f", "origin", refspec]));
        fleet.look(2);
        assert!(fleet.at().iter().all(|(_, commit)| *commit == evil), "{name}: {:?}", fleet.at());
    }
}

/// The node n1 has the accepted commit only from another node, while its git server does not answer.
#[test]
fn rewind_is_proposed_only_by_a_node_whose_git_server_has_shown_the_accepted_commit() {
    for shown in [false, true] {
        let source = "branch: main, allowRewind: true, verify: {mode: head, keyFiles: [FOLDER/keys]}";
        let mut fleet = Fleet::new(source);
        let first = fleet.repository.head();
        let two = fleet.publish("two");
        fleet.nodes[0].refresh_and_propose();
        let gone = fleet.repository.bare.with_extension("gone");
        fs::rename(&fleet.repository.bare, &gone).unwrap();
        smuggle(&fleet, &two);
        fleet.nodes[1].refresh_and_propose();
        assert_eq!(fleet.at(), [(2, two.clone()), (2, two.clone())], "{shown}");
        fs::rename(&gone, &fleet.repository.bare).unwrap();
        if shown {
            fleet.nodes[1].refresh_and_propose();
        }
        fleet.repository.git(&["reset", "-q", "--hard", &first]);
        let other = fleet.alice.commit(&fleet.repository, "another second one");
        fleet.repository.git(&["push", "-q", "-f", "origin", "HEAD:main"]);
        fleet.nodes[1].refresh_and_propose();
        if shown {
            assert_eq!(fleet.at()[1], (3, other.clone()));
        } else {
            assert_eq!((fleet.at()[1].clone(), fleet.reason("Stalled").as_deref()), ((2, two), Some("Rewound")));
        }
        fleet.look(2);
        assert_eq!(fleet.at(), [(3, other.clone()), (3, other)], "{shown}");
        assert_eq!(fleet.reason("Stalled"), None, "{shown}");
    }
}

/// The signature of a commit does not name a branch.
#[test]
fn signed_commit_of_another_branch_is_rejected_after_ten_minutes() {
    for pushed in [true, false] {
        let mut fleet = Fleet::signed();
        let before = fleet.at();
        let head = fleet.repository.head();
        let feature = fleet.alice.commit(&fleet.repository, "feature");
        if pushed {
            fleet.repository.git(&["push", "-q", "origin", "HEAD:feature"]);
        }
        fleet.repository.git(&["reset", "-q", "--hard", &head]);
        smuggle(&fleet, &feature);
        fleet.forge_next(|record| commit_of(record, &feature));
        fleet.look(38);
        assert_eq!((fleet.at(), fleet.reason("Stalled")), (before.clone(), None), "{pushed}");
        fleet.look(8);
        assert_eq!((fleet.at(), fleet.reason("Stalled").as_deref()), (before, Some("RejectedLocally")), "{pushed}");
        fleet.goes_on("main goes on", 2);
    }
}

#[test]
fn pinned_source_follows_no_other_commit() {
    let mut fleet = Fleet::new("commit: PINNED");
    let before = fleet.at();
    let next = fleet.publish("next");
    smuggle(&fleet, &next);
    fleet.forge_next(|record| commit_of(record, &next));
    fleet.look(1);
    assert_eq!((fleet.at(), fleet.reason("Stalled").as_deref()), (before, Some("RejectedLocally")));
}

/// The tags v1 and v1.1.0 are not annotated, so they cannot be signed.
#[test]
fn unsigned_tag_counts_for_a_new_node_alone() {
    let mut fleet = Fleet::new("tag: \"v*\"");
    let first = fleet.repository.head();
    let node = fleet.open("n3", "tag: \"v*\", verify: {mode: range, keyFiles: [FOLDER/keys]}");
    fleet.nodes.push(node);
    fleet.look(2);
    assert_eq!(fleet.at()[2].1, first, "{:#?}", fleet.nodes[2].queries().status());
    let next = fleet.publish("next");
    fleet.repository.git(&["push", "-q", "origin", "HEAD:refs/tags/v1.1.0"]);
    fleet.look(4);
    let commits: Vec<String> = fleet.at().into_iter().map(|(_, commit)| commit).collect();
    assert_eq!(commits, [next.clone(), next.clone(), first]);
    fleet.sign_tag("v1.2.0");
    fleet.look(3);
    assert_eq!(fleet.at()[2].1, next, "{:#?}", fleet.nodes[2].queries().status());
}
