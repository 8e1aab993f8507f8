//! The contract of every store implementation: the local one, etcd 3.4 and etcd 3.5.

use std::time::Duration;

use towpath_coordination::{
    keys::{self, Key},
    store::{
        Change, Compare, MAX_OPERATIONS, Op, Outcome, Page, Store, StoreError, Txn,
        etcd::{Access, EtcdOptions, EtcdStore},
        local::LocalStore,
    },
};
use towpath_tests::etcd::{Etcd, programs};

/// A store with the etcd that serves it.
struct Held {
    store: Box<dyn Store>,
    _etcd: Option<(Etcd, tempfile::TempDir)>,
}

impl std::ops::Deref for Held {
    type Target = dyn Store;
    fn deref(&self) -> &Self::Target {
        self.store.as_ref()
    }
}

fn stores() -> Vec<Held> {
    let mut stores = vec![Held { store: Box::new(LocalStore::default()), _etcd: None }];
    for program in programs() {
        let folder = tempfile::tempdir().unwrap();
        let etcd = Etcd::single(folder.path(), &program);
        let options =
            EtcdOptions { endpoints: etcd.endpoints(), prefix: "/towpath/test/".into(), ..EtcdOptions::default() };
        stores.push(Held { store: Box::new(EtcdStore::new(options).unwrap()), _etcd: Some((etcd, folder)) });
    }
    stores
}

/// Returns the next change, which may still be in transit.
fn next(watch: &mut tokio::sync::mpsc::UnboundedReceiver<Change>) -> Change {
    for _ in 0..500 {
        if let Ok(change) = watch.try_recv() {
            return change;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("no change is reported");
}

fn put(key: &str, value: &str) -> Op {
    Op::Put { key: key.into(), value: value.into(), lease: None }
}

fn done(outcome: Outcome) -> (u64, Vec<(String, Vec<u8>)>) {
    match outcome {
        Outcome::Done { revision, answers } => {
            (revision, answers.into_iter().flat_map(|answer| answer.rows).map(|row| (row.key, row.value)).collect())
        }
        Outcome::Refused { .. } => unreachable!("refused"),
    }
}

fn then(operations: Vec<Op>) -> Txn {
    Txn { then: operations, ..Txn::default() }
}

#[test]
fn read_in_a_transaction_sees_the_put_before_it() {
    for store in stores() {
        done(store.commit(&then(vec![put("a/1", "x")])).unwrap());
        let (_, rows) = done(store.commit(&then(vec![put("a/2", "y"), Op::Read("a/".into())])).unwrap());
        assert_eq!(rows.len(), 2);
    }
}

#[test]
fn compares_are_all_or_nothing() {
    for store in stores() {
        let (revision, _) = done(store.commit(&then(vec![put("k", "1")])).unwrap());
        let swap = |expected, value: &str| Txn {
            compare: vec![Compare::Revision("k".into(), expected)],
            then: vec![put("k", value)],
            otherwise: vec![Op::Read("k".into())],
        };
        done(store.commit(&swap(revision, "2")).unwrap());
        let Outcome::Refused { answers, .. } = store.commit(&swap(revision, "3")).unwrap() else {
            panic!("a stale swap was done")
        };
        assert_eq!(answers[0].rows[0].value, b"2");
        let absent = Txn { compare: vec![Compare::Absent("k".into())], then: vec![put("k", "4")], otherwise: vec![] };
        assert!(matches!(store.commit(&absent).unwrap(), Outcome::Refused { .. }));
    }
}

#[test]
fn range_compare_sees_newer_keys() {
    for store in stores() {
        let (revision, _) = done(store.commit(&then(vec![put("c/1", "")])).unwrap());
        let none_newer = |revision| Txn {
            compare: vec![Compare::NoneNewer("c/".into(), revision)],
            then: vec![put("o", "")],
            otherwise: vec![],
        };
        done(store.commit(&none_newer(revision)).unwrap());
        done(store.commit(&then(vec![put("c/2", "")])).unwrap());
        assert!(matches!(store.commit(&none_newer(revision)).unwrap(), Outcome::Refused { .. }));
    }
}

#[test]
fn watch_misses_nothing_since_its_revision() {
    for store in stores() {
        done(store.commit(&then(vec![put("w/0", "")])).unwrap());
        let from = store.read("w/", &Page::default()).unwrap().revision + 1;
        done(store.commit(&then(vec![put("w/1", "")])).unwrap());
        let mut watch = store.watch("w/", from).unwrap();
        done(store.commit(&then(vec![Op::Delete("w/1".into()), put("x/1", "")])).unwrap());
        assert!(matches!(next(&mut watch), Change::Put(row) if row.key == "w/1"));
        assert!(matches!(next(&mut watch), Change::Delete(key, _) if key == "w/1"));
        assert!(watch.try_recv().is_err());
    }
}

#[test]
fn pages_follow_one_another() {
    for store in stores() {
        for number in 0..7 {
            done(store.commit(&then(vec![put(&format!("p/{number}"), "")])).unwrap());
        }
        let mut page = Page { after: None, limit: 3 };
        let mut seen = Vec::new();
        loop {
            let read = store.read("p/", &page).unwrap();
            seen.extend(read.rows.iter().map(|row| row.key.clone()));
            page.after = seen.last().cloned();
            if !read.more {
                break;
            }
        }
        assert_eq!(seen.len(), 7);
        assert!(seen.is_sorted());
    }
}

#[test]
fn oldest_rows_are_first_and_counts_need_no_rows() {
    for store in stores() {
        for key in ["q/c", "q/a", "q/b"] {
            done(store.commit(&then(vec![put(key, "")])).unwrap());
        }
        // A changed row keeps its age.
        done(store.commit(&then(vec![put("q/c", "again")])).unwrap());
        let asked = then(vec![
            Op::Oldest("q/".into(), 2),
            Op::Count("q/".into()),
            Op::Delete("q/c".into()),
            Op::Count("q/".into()),
        ]);
        let (_, answers) = store.commit(&asked).unwrap().answers();
        let keys: Vec<&str> = answers[0].rows.iter().map(|row| row.key.as_str()).collect();
        assert_eq!(keys, ["q/c", "q/a"]);
        assert_eq!((answers[0].count, answers[1].count, answers[2].count), (3, 3, 2));
        assert!(answers[1].rows.is_empty());
    }
}

#[test]
fn absent_range_is_not_newer() {
    for store in stores() {
        let txn =
            Txn { compare: vec![Compare::NoneNewer("none/".into(), 0)], then: vec![put("x", "")], otherwise: vec![] };
        assert!(matches!(store.commit(&txn).unwrap(), Outcome::Done { .. }));
    }
}

#[test]
fn keys_are_deleted_with_their_lease() {
    for store in stores() {
        let lease = store.lease(Duration::from_secs(1)).unwrap();
        let bound = Op::Put { key: "l".into(), value: vec![], lease: Some(lease) };
        done(store.commit(&then(vec![bound.clone()])).unwrap());
        store.keep_alive(lease).unwrap();
        let gone = || store.read("l", &Page::default()).unwrap().rows.is_empty();
        assert!(!gone());
        towpath_tests::wait_until(Duration::from_secs(20), gone, || "the key outlives its lease".into());
        assert_eq!(store.keep_alive(lease), Err(StoreError::LeaseGone));
        assert_eq!(store.commit(&then(vec![bound])), Err(StoreError::LeaseGone));
    }
}

#[test]
fn transaction_that_writes_a_key_twice_is_refused_whole() {
    for store in stores() {
        for second in [put("m/a", "2"), Op::Delete("m/a".into()), Op::DeleteAll("m/".into())] {
            let refused = store.commit(&then(vec![put("m/a", "1"), second]));
            assert_eq!(refused, Err(StoreError::WrittenTwice("m/a".into())));
            assert!(store.read("m/", &Page::default()).unwrap().rows.is_empty());
        }
        let apart = vec![put("m/a", "1"), Op::Delete("m/b".into()), Op::DeleteAll("n/".into())];
        assert!(store.commit(&then(apart)).is_ok());
    }
}

#[test]
fn too_many_operations_are_refused_whole() {
    for store in stores() {
        let many = (0..=MAX_OPERATIONS).map(|number| put(&format!("m/{number}"), "")).collect();
        assert!(matches!(store.commit(&then(many)), Err(StoreError::TooLarge(_))));
        assert!(store.read("m/", &Page::default()).unwrap().rows.is_empty());
    }
}

/// Returns true for a key that only its own node may write. A new kind of key does not compile without a line here.
fn is_confined_to_its_node(key: &Key<'_>) -> bool {
    match key {
        Key::Joined { .. }
        | Key::Alive { .. }
        | Key::Sequence { .. }
        | Key::Fence { .. }
        | Key::Facts { .. }
        | Key::State { .. } => true,
        Key::Accepted
        | Key::Recovery { .. }
        | Key::Progress { .. }
        | Key::Freed { .. }
        | Key::Link { .. }
        | Key::ResultNotice { .. }
        | Key::Agent { .. }
        | Key::OfferNotice { .. }
        | Key::ResultKey { .. }
        | Key::ResultRequest { .. }
        | Key::Slot { .. }
        | Key::Queue { .. }
        | Key::Vote { .. }
        | Key::Elected { .. }
        | Key::RecoveryAck { .. }
        | Key::Manifest { .. } => false,
    }
}

#[test]
fn role_of_a_node_confines_it_to_the_keys_that_it_writes() {
    let folder = tempfile::tempdir().unwrap();
    let etcd = Etcd::start(folder.path(), "etcd", 1, true, &[]);
    let (ca, (root, root_key)) = (etcd.ca().unwrap(), etcd.client("root").unwrap());
    // Names that would share a role if they were joined by a hyphen, or that match one another as patterns.
    for (cluster, node) in
        [("prod", "n1"), ("prod", "n2"), ("prod", "n-1"), ("prod", "n.1"), ("prod", "a-b"), ("prod-a", "b")]
    {
        let mut command = std::process::Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/etcd/node.sh"));
        command.args([cluster, node]).env("ETCDCTL_ENDPOINTS", etcd.endpoints().join(","));
        command.env("ETCDCTL_CACERT", &ca).env("ETCDCTL_CERT", &root).env("ETCDCTL_KEY", &root_key);
        towpath_tests::ok(&mut command);
    }
    let store_of = |node: &str, prefix: &str| {
        let (certificate, key) = etcd.client(node).unwrap();
        let access = Access {
            ca: Some(std::fs::read(&ca).unwrap()),
            identity: Some((std::fs::read(&certificate).unwrap(), std::fs::read(&key).unwrap())),
            ..Access::default()
        };
        EtcdStore::new(EtcdOptions {
            endpoints: etcd.endpoints(),
            node: node.into(),
            prefix: prefix.into(),
            access: std::sync::Arc::new(move || Ok(access.clone())),
        })
        .unwrap()
    };
    let store = |prefix: &str| store_of("n1", prefix);
    let own = store("/towpath/prod/");
    let keys_of = |node: &str| {
        [
            keys::ACCEPTED.to_owned(),
            keys::recovery(node),
            keys::progress("n/b"),
            keys::result_notice("n/b", "t"),
            keys::agent(node),
            keys::offer_notice(node, "n/b"),
            keys::result_key(node, "n/b", "t", "n1"),
            keys::result_request(node, "n/b", "t", "n2", "n1"),
            keys::held("n/b", "-", "n/b", node),
            keys::queue("n/b", "-", "n/b", node),
            keys::vote("n/b@1", 0, true, node),
            keys::elected("n/b", "t", node),
            keys::recovery_ack("id", node),
            keys::manifest("digest", 0),
            keys::joined(node),
            keys::alive(node),
            keys::write_sequence(node),
            keys::fence(node),
            keys::facts(node),
            keys::state(node),
        ]
    };
    let denied = |result: Result<Outcome, StoreError>| matches!(result, Err(StoreError::Denied(_)));
    for (node, other) in [("n1", false), ("n2", true)] {
        for key in keys_of(node) {
            let refused = other && is_confined_to_its_node(&Key::parse(&key).unwrap());
            assert_eq!(denied(own.commit(&then(vec![put(&key, "{}")]))), refused, "write {key}");
            assert_eq!(denied(own.commit(&then(vec![Op::Delete(key.clone())]))), refused, "delete {key}");
            assert!(own.read(&key, &Page::default()).is_ok(), "read {key}");
        }
    }
    for prefix in
        [keys::ALL_RECOVERIES.to_owned(), keys::run_votes("n/b@1"), keys::inbox("n2"), keys::all_recovery_acks("id")]
    {
        assert!(!denied(own.commit(&then(vec![Op::DeleteAll(prefix.clone())]))), "delete all {prefix}");
    }
    let lease = own.lease(Duration::from_secs(5)).unwrap();
    own.keep_alive(lease).unwrap();
    assert!(denied(store("/towpath/test/").commit(&then(vec![put("shared/accepted", "x")]))), "another cluster");
    for (node, cluster, refused) in
        [("b", "prod-a", false), ("b", "prod", true), ("a-b", "prod", false), ("a-b", "prod-a", true)]
    {
        let wrote = store_of(node, &format!("/towpath/{cluster}/")).commit(&then(vec![put("shared/accepted", "{}")]));
        assert_eq!(denied(wrote), refused, "{node} in {cluster}");
    }
    let wrote = store_of("n.1", "/towpath/prod/").commit(&then(vec![put(&keys::write_sequence("n.1"), "{}")]));
    assert!(!denied(wrote), "n.1");
}

/// The script in deploy/etcd confines nodes to the keys of their cluster. The common name of the certificate is the
/// user.
#[test]
fn role_confines_nodes_to_their_cluster() {
    let folder = tempfile::tempdir().unwrap();
    let etcd = Etcd::three(folder.path());
    let (ca, (root, root_key)) = (etcd.ca().unwrap(), etcd.client("root").unwrap());
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/etcd/setup.sh");
    let setup = || {
        let mut command = std::process::Command::new(script);
        command.args(["prod", "nodes"]).env("ETCDCTL_ENDPOINTS", etcd.endpoints().join(","));
        command.env("ETCDCTL_CACERT", &ca).env("ETCDCTL_CERT", &root).env("ETCDCTL_KEY", &root_key);
        towpath_tests::ok(&mut command);
    };
    setup();
    setup();
    let (certificate, key) = etcd.client("nodes").unwrap();
    let store = |prefix: &str| {
        let access = Access {
            ca: Some(std::fs::read(&ca).unwrap()),
            identity: Some((std::fs::read(&certificate).unwrap(), std::fs::read(&key).unwrap())),
            ..Access::default()
        };
        EtcdStore::new(EtcdOptions {
            endpoints: etcd.endpoints(),
            prefix: prefix.into(),
            access: std::sync::Arc::new(move || Ok(access.clone())),
            ..EtcdOptions::default()
        })
        .unwrap()
    };
    done(store("/towpath/prod/").commit(&then(vec![put("shared/accepted", "x")])).unwrap());
    let elsewhere = store("/towpath/test/").commit(&then(vec![put("shared/accepted", "x")]));
    assert!(matches!(&elsewhere, Err(StoreError::Denied(said)) if said.contains("permission denied")), "{elsewhere:?}");
}
