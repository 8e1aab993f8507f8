//! Tests of forged records: for each kind of store key, a node signs a record that it is not allowed to write. Each
//! test checks that decisions ignore the forged record, and accept the record of a node with the right to write it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use tokio::sync::mpsc;
use towpath_host::{
    SystemClock,
    identity::{Identity, SigningIdentity},
};

use super::{BookRights, RecordSigner, Rights, SignedStore};
use crate::{
    LocalStore,
    accept::{self, Accepted, RevisionManifest},
    fleet::{Answer, ElectedTask, Fleet, Joined, TaskResult},
    keys::{self, Key},
    rollout::{Cut, Election, OnLost, Request, RolloutSpec},
    store::{Change, LeaseId, Op, Outcome, Page, Read, Store, StoreError, Txn},
};

/// A local store that reports that other processes also use the store.
#[derive(Debug, Default)]
struct Common(LocalStore);

impl Store for Common {
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

/// A node with its signed store.
struct Node {
    store: Arc<SignedStore>,
    fleet: Fleet,
    keys: Vec<String>,
}

/// A fleet in which a test forges records. The nodes `a`, `b` and `c` are targets of one book, and `a` and `b` may be
/// elected. The node `z` is in git, but is not a target. The node `ghost` is not in git.
struct Forgery {
    common: Arc<Common>,
    nodes: BTreeMap<&'static str, Node>,
    spec: RolloutSpec,
}

const ALL: [&str; 5] = ["a", "b", "c", "z", "ghost"];

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn rights() -> Rights {
    let book = BookRights {
        budgets: set(&["n/b"]),
        targets: set(&["a", "b", "c"]),
        eligible: BTreeMap::from([("t".to_owned(), set(&["a", "b"]))]),
    };
    let named = ["a", "b", "c", "z"].map(|node| (node.to_owned(), None));
    Rights { nodes: named.into(), books: BTreeMap::from([("n/b".to_owned(), book)]) }
}

impl Forgery {
    fn new() -> Self {
        let common = Arc::<Common>::default();
        let clock = Arc::new(SystemClock);
        let node = |name: &'static str| {
            let signing_identity = SigningIdentity::Bare(Arc::new(Identity::make().unwrap()));
            let keys = signing_identity.keys().texts().to_vec();
            let signer = Arc::new(RecordSigner::new("c".into(), name.into(), signing_identity.clone(), 1));
            signer.set_rights(rights());
            let store = Arc::new(SignedStore::new(Arc::<Common>::clone(&common), signer));
            let fleet = Fleet::new(Arc::<SignedStore>::clone(&store), name.into(), Arc::<SystemClock>::clone(&clock));
            fleet.read_as(signing_identity);
            (name, Node { store, fleet, keys })
        };
        let nodes = ALL.map(node).into();
        let members = ["a", "b", "c"].map(|node| (node.to_owned(), 0)).into();
        let spec = RolloutSpec {
            book: "n/b".into(),
            budget: "n/b".into(),
            run: "n/b@1".into(),
            accepted: accepted().id(),
            members,
            known: ["a", "b", "c", "z"].map(str::to_owned).into(),
            count: Some(1),
            waves: 1,
            cuts: vec![Cut::Barrier],
            ..RolloutSpec::default()
        };
        let it = Self { common, nodes, spec };
        it.put("a", keys::ACCEPTED, r#"{"schema":1,"generation":1}"#);
        it
    }

    fn joined(self, names: &[&str]) -> Self {
        for name in names {
            let node = &self.nodes[name];
            node.fleet
                .join(Joined { node: (*name).into(), public_keys: node.keys.clone(), ..Joined::default() }, |_| {});
            assert_eq!(node.fleet.refused(), None);
        }
        self
    }

    fn put(&self, by: &str, key: &str, value: &str) {
        let txn = Txn { then: vec![Op::put(key, value.as_bytes().to_vec())], ..Txn::default() };
        self.nodes[by].store.commit(&txn).unwrap();
    }

    fn fleet(&self, name: &str) -> &Fleet {
        &self.nodes[name].fleet
    }

    fn elected_task(&self) -> ElectedTask<'_> {
        ElectedTask { spec: &self.spec, task: "t", definition: "d" }
    }

    fn held_at(node: &str) -> String {
        keys::held("n/b", "-", "n/b", node)
    }
}

/// Returns the acceptance record that all nodes of the test follow.
fn accepted() -> Accepted {
    Accepted { schema: 1, generation: 1, ..Accepted::default() }
}

fn claim() -> String {
    let accepted = serde_json::to_string(&accepted().id()).unwrap();
    format!(r#"{{"kind":"claim","run":"n/b@1","segment":0,"accepted":{accepted}}}"#)
}

fn is_hold(answer: &Answer, reason: &str) -> bool {
    matches!(answer, Answer::Hold(gate) if gate.reason.name() == reason)
}

/// Returns the test for a kind of store key.
#[expect(dead_code, reason = "a kind of key without a test does not compile")]
fn test_of(key: &Key<'_>) -> fn() {
    match key {
        Key::Accepted => acceptance_by_an_unnamed_node_or_in_the_name_of_another_is_not_adopted,
        Key::Recovery { .. } => restore_reported_in_the_name_of_another_pauses_nothing,
        Key::Progress { .. } => progress_by_an_outsider_opens_no_barrier,
        Key::ResultNotice { .. } | Key::OfferNotice { .. } | Key::Freed { .. } => notice_by_an_outsider_wakes_no_node,
        Key::Agent { .. } => agent_record_of_another_node_rejects_no_node,
        Key::ResultKey { .. } => result_key_by_an_outsider_opens_nothing,
        Key::ResultRequest { .. } => key_request_by_an_outsider_is_not_answered,
        Key::Slot { .. } => claim_offer_failure_and_write_off_by_an_outsider_do_not_count,
        Key::Queue { .. } => queue_entry_by_an_outsider_gets_no_slot,
        Key::Vote { .. } => vote_in_the_name_of_another_passes_no_barrier,
        Key::Elected { .. } => election_by_an_outsider_elects_no_node,
        Key::Joined { .. } => join_record_by_another_joins_no_node,
        Key::Sequence { .. } => write_sequence_by_another_reports_no_restore,
        Key::RecoveryAck { .. } => acknowledgement_in_the_name_of_another_ends_no_recovery,
        Key::Alive { .. } => lease_record_by_another_keeps_no_node_alive,
        // The tests for links of the chain of acceptances are in accept/chain.rs.
        Key::Manifest { .. } | Key::Link { .. } => manifest_of_another_digest_is_not_read,
        // No node reads the value of a fence. The store compares its revision, and etcd restricts its writers
        // (deploy/etcd).
        Key::Fence { .. } | Key::Facts { .. } | Key::State { .. } => facts_and_state_by_another_are_not_shown,
    }
}

#[test]
fn acceptance_by_an_unnamed_node_or_in_the_name_of_another_is_not_adopted() {
    let it = Forgery::new();
    let found = || accept::current(&*it.nodes["b"].store, &Accepted::default()).unwrap();
    // Node b considers a record in its own name as written by itself.
    for (by, record) in [
        ("ghost", r#"{"schema":1,"generation":9,"by":"ghost"}"#),
        ("a", r#"{"schema":1,"generation":9,"by":"b"}"#),
        ("a", r#"{"schema":1,"generation":9,"by":"z"}"#),
        ("a", r#"{"schema":1,"generation":9,"by":""}"#),
    ] {
        it.put(by, keys::ACCEPTED, record);
        assert_eq!((found().relation, found().record), (accept::Relation::Nothing, Accepted::default()), "{record}");
    }
    it.put("z", keys::ACCEPTED, r#"{"schema":1,"generation":2,"by":"z"}"#);
    assert_eq!(found().record.generation, 2);
}

#[test]
fn restore_reported_in_the_name_of_another_pauses_nothing() {
    let it = Forgery::new().joined(&["a"]);
    for (by, of) in [("z", "b"), ("ghost", "ghost"), ("b", "a")] {
        it.put(by, &keys::recovery(of), r#"{"id":"x"}"#);
    }
    assert_eq!(it.fleet("a").ask(&it.spec, Request::Change(0)), Answer::Go);
    assert!(!it.fleet("a").check_needs_republish().unwrap());
    it.put("b", &keys::recovery("b"), r#"{"id":"y"}"#);
    assert!(it.fleet("a").check_needs_republish().unwrap());
    let says = it.fleet("a").rollout(&[&it.spec], &|_| "alive", &BTreeMap::new(), None).blocked;
    assert!(says.iter().any(|gate| gate.opens.contains("reported by b")), "{says:?}");
}

#[test]
fn progress_by_an_outsider_opens_no_barrier() {
    let opening = r#"{"run":"n/b@1","waves":[1,1],"done":false}"#;
    for (by, opens) in [("z", false), ("ghost", false), ("b", true)] {
        let it = Forgery::new().joined(&["a"]);
        it.put(by, &keys::progress("n/b"), opening);
        let answer = it.fleet("a").ask(&it.spec, Request::Enter(1));
        assert_eq!(answer == Answer::Go, opens, "{by}: {answer:?}");
        assert_eq!(is_hold(&answer, "Barrier"), !opens, "{by}: {answer:?}");
    }
}

#[test]
fn notice_by_an_outsider_wakes_no_node() {
    let it = Forgery::new();
    let counts = |by: &str, key: &str| {
        it.put(by, key, "{}");
        let row = it.common.read(key, &Page::default()).unwrap().rows.remove(0);
        it.nodes["b"].store.counts(&row)
    };
    let (offer, result) = (keys::offer_notice("b", "n/b"), keys::result_notice("n/b", "t"));
    assert!(!counts("z", &offer) && !counts("ghost", &offer) && counts("c", &offer));
    let freed = keys::freed("n/b");
    assert!(!counts("z", &freed) && !counts("ghost", &freed) && counts("c", &freed));
    assert!(!counts("z", &result) && !counts("c", &result) && counts("a", &result));
}

#[test]
fn agent_record_of_another_node_rejects_no_node() {
    let it = Forgery::new().joined(&["a"]);
    for by in ["b", "z", "ghost"] {
        it.put(by, &keys::agent("a"), r#"{"id":"other"}"#);
        std::thread::sleep(Duration::from_millis(100));
        assert_eq!(it.fleet("a").refused(), None, "{by}");
    }
    // The record is signed with the node's own key, but this process has not written it.
    it.put("a", &keys::agent("a"), r#"{"id":"other"}"#);
    let waits = std::iter::repeat_with(|| std::thread::sleep(Duration::from_millis(50)));
    let refused = waits.take(60).find_map(|()| it.fleet("a").refused());
    assert!(refused.is_some_and(|why| why.contains("another agent")));
}

#[test]
fn result_key_by_an_outsider_opens_nothing() {
    let it = Forgery::new().joined(&["a", "b", "c"]);
    let found = TaskResult { ok: true, result: "good".into(), message: None };
    it.fleet("a").elect(it.elected_task(), true, 1).unwrap();
    it.fleet("a").publish_result(it.elected_task(), &found).unwrap();
    let Election::Results(results) = it.fleet("c").elect(it.elected_task(), false, 1).unwrap() else { panic!() };
    let place = keys::result_key("c", "n/b", "t", "a");
    let good = it.common.read(&place, &Page::default()).unwrap().rows.remove(0).value;
    // An outsider signs a record with the same wrapped key, so only the writer differs.
    let record: serde_json::Value = serde_json::from_slice(&good).unwrap();
    for by in ["z", "ghost"] {
        it.put(by, &place, &record.to_string());
        assert_eq!(it.fleet("c").open(it.elected_task(), &results).unwrap(), Err(vec!["a".to_owned()]), "{by}");
    }
    it.put("b", &place, &record.to_string());
    assert_eq!(it.fleet("c").open(it.elected_task(), &results).unwrap().unwrap()["a"], found);
}

#[test]
fn key_request_by_an_outsider_is_not_answered() {
    let it = Forgery::new().joined(&["a", "b", "c", "z"]);
    let found = TaskResult { ok: true, result: "good".into(), message: None };
    it.fleet("a").elect(it.elected_task(), true, 1).unwrap();
    it.fleet("a").publish_result(it.elected_task(), &found).unwrap();
    let place = keys::result_key("c", "n/b", "t", "a");
    it.common.commit(&Txn { then: vec![Op::Delete(place.clone())], ..Txn::default() }).unwrap();
    let there = |key: &str| !it.common.read(key, &Page::default()).unwrap().rows.is_empty();
    let wanted = r#"{"definition":"d"}"#;
    for (by, from) in [("z", "c"), ("b", "c"), ("z", "z"), ("ghost", "ghost")] {
        it.put(by, &keys::result_request("a", "n/b", "t", "a", from), wanted);
        it.fleet("a").answer(|_| Some(it.spec.clone())).unwrap();
        assert!(!there(&keys::result_key(from, "n/b", "t", "a")), "{by} for {from}");
    }
    it.put("c", &keys::result_request("a", "n/b", "t", "a", "c"), wanted);
    it.fleet("a").answer(|_| Some(it.spec.clone())).unwrap();
    assert!(there(&place));
}

#[test]
fn claim_offer_failure_and_write_off_by_an_outsider_do_not_count() {
    for by in ["z", "ghost"] {
        let it = Forgery::new().joined(&["a"]);
        // The outsider forges the record in the name of another target, of the node itself, and of the outsider.
        for node in ["b", "a", by] {
            it.put(by, &Forgery::held_at(node), &claim());
        }
        assert_eq!(it.fleet("a").ask(&it.spec, Request::Change(0)), Answer::Go, "{by}");
        let row = it.common.read(&Forgery::held_at("a"), &Page::default()).unwrap().rows.remove(0);
        assert!(it.nodes["a"].store.counts(&row), "it has taken the slot itself");
    }
    let offer = claim().replace("claim", "offer");
    for (kind, by, node, slot) in [
        (&*claim(), "b", "c", false),
        (&*claim().replace("claim", "failure"), "b", "c", false),
        (&*claim().replace("claim", "writtenoff"), "z", "c", false),
        (&*offer, "z", "c", false),
        (&*offer, "b", "c", true),
        (&*claim(), "c", "c", true),
    ] {
        let it = Forgery::new().joined(&["a"]);
        it.put(by, &Forgery::held_at(node), kind);
        let answer = it.fleet("a").ask(&it.spec, Request::Change(0));
        assert_eq!(answer != Answer::Go, slot, "{kind} of {node} by {by}: {answer:?}");
        let written_off = it.fleet("b").rollout(&[&it.spec], &|_| "alive", &BTreeMap::new(), None);
        assert!(written_off.failed.is_empty(), "{kind} of {node} by {by}");
    }
    // A failure that a node reports about itself halts the run.
    let it = Forgery::new().joined(&["a"]);
    it.put("c", &Forgery::held_at("c"), &claim().replace("claim", "failure"));
    assert!(is_hold(&it.fleet("a").ask(&it.spec, Request::Change(0)), "Budget"));
}

#[test]
fn queue_entry_by_an_outsider_gets_no_slot() {
    let entry = r#"{"run":"n/b@1","segment":0}"#;
    for (by, node, first) in [("z", "z", false), ("z", "b", false), ("b", "c", false), ("c", "c", true)] {
        let it = Forgery::new().joined(&["a"]);
        it.put(by, &keys::queue("n/b", "-", "n/b", node), entry);
        // The first waiter takes the free slot.
        let answer = it.fleet("a").ask(&it.spec, Request::Change(0));
        assert_eq!(is_hold(&answer, "Slot"), first, "{node} by {by}: {answer:?}");
    }
}

#[test]
fn vote_in_the_name_of_another_passes_no_barrier() {
    let vote = r#"{"run":"n/b@1","segment":0}"#;
    let at = |node: &str| keys::vote("n/b@1", 0, true, node);
    let it = Forgery::new().joined(&["a"]);
    it.put("a", &at("a"), vote);
    it.put("b", &at("b"), vote);
    for by in ["b", "z", "ghost"] {
        it.put(by, &at("c"), vote);
        it.fleet("a").run_maintenance(&it.spec).unwrap();
        assert_eq!(it.fleet("a").progress("n/b").unwrap(), None, "{by}");
    }
    it.put("c", &at("c"), vote);
    it.fleet("a").run_maintenance(&it.spec).unwrap();
    assert_eq!(it.fleet("a").progress("n/b").unwrap().map(|progress| progress.waves), Some(vec![1, 1]));
}

#[test]
fn election_by_an_outsider_elects_no_node() {
    let result = r#"{"definition":"d","run":"n/b@1","since":1,"share":{"ok":true,"body":"{}"}}"#;
    let begun = r#"{"definition":"d","run":"n/b@1","since":1,"share":null}"#;
    // The writers are outsiders, an unnamed node, a target that is not eligible, and eligible nodes in another node's
    // name.
    for (by, node) in [("z", "a"), ("z", "z"), ("ghost", "ghost"), ("c", "c"), ("c", "a"), ("b", "a")] {
        for record in [result, begun] {
            let it = Forgery::new().joined(&["b"]);
            it.put(by, &keys::elected("n/b", "t", node), record);
            let election = it.fleet("b").elect(it.elected_task(), true, 1).unwrap();
            assert_eq!(election, Election::Run, "{node} by {by}");
            let again = it.fleet("a").elect(it.elected_task(), true, 1).unwrap();
            assert_eq!(again, Election::Wait(vec!["b".into()]), "{node} by {by}");
        }
    }
    let it = Forgery::new().joined(&["b"]);
    it.put("a", &keys::elected("n/b", "t", "a"), begun);
    assert_eq!(it.fleet("b").elect(it.elected_task(), true, 1).unwrap(), Election::Wait(vec!["a".into()]));
}

#[test]
fn join_record_by_another_joins_no_node() {
    let it = Forgery::new().joined(&["a"]);
    for by in ["a", "z", "ghost"] {
        it.put(by, &keys::joined("c"), r#"{"node":"c"}"#);
        assert_eq!(it.fleet("a").joined().unwrap(), set(&["a"]), "{by}");
    }
    // The forged record does not prevent the join of the node itself.
    let it = it.joined(&["c"]);
    assert_eq!(it.fleet("a").joined().unwrap(), set(&["a", "c"]));
}

#[test]
fn write_sequence_by_another_reports_no_restore() {
    let it = Forgery::new().joined(&["a"]);
    assert_eq!(it.fleet("a").ask(&it.spec, Request::Change(0)), Answer::Go);
    assert!(it.fleet("a").known().1 > 1, "it has written with a mark");
    for by in ["b", "z", "ghost"] {
        it.put(by, &keys::write_sequence("a"), r#"{"number":1}"#);
        assert!(!it.fleet("a").check_needs_republish().unwrap(), "{by}");
    }
    it.put("a", &keys::write_sequence("a"), r#"{"number":1}"#);
    assert!(it.fleet("a").check_needs_republish().unwrap(), "its own older number is a restore");
}

#[test]
fn acknowledgement_in_the_name_of_another_ends_no_recovery() {
    let it = Forgery::new().joined(&["a"]);
    it.put("b", &keys::recovery("b"), r#"{"id":"x"}"#);
    for node in ["a", "b", "c"] {
        it.put(node, &keys::recovery_ack("x", node), "{}");
    }
    for by in ["a", "c", "ghost"] {
        it.put(by, &keys::recovery_ack("x", "z"), "{}");
        it.fleet("a").run_maintenance(&it.spec).unwrap();
        assert!(it.fleet("a").rows(keys::ALL_RECOVERIES).unwrap().contains_key("b"), "{by}");
    }
    it.put("z", &keys::recovery_ack("x", "z"), "{}");
    it.fleet("a").run_maintenance(&it.spec).unwrap();
    assert!(it.fleet("a").rows(keys::ALL_RECOVERIES).unwrap().is_empty());
}

#[test]
fn lease_record_by_another_keeps_no_node_alive() {
    let mut it = Forgery::new().joined(&["a"]);
    it.spec.on_lost = OnLost::Skip;
    it.put("c", &Forgery::held_at("c"), &claim());
    it.put("z", &keys::alive("c"), "{}");
    assert!(!it.fleet("a").alive().unwrap().contains("c"));
    // The lost holder is written off, although a forged lease record has its name.
    assert_eq!(it.fleet("a").ask(&it.spec, Request::Change(0)), Answer::Go);
    let row = it.common.read(&Forgery::held_at("c"), &Page::default()).unwrap().rows.remove(0);
    assert!(String::from_utf8(row.value).unwrap().contains("writtenoff"));
    let it = Forgery::new().joined(&["a"]);
    it.put("c", &keys::alive("c"), "{}");
    assert!(it.fleet("a").alive().unwrap().contains("c"));
}

#[test]
fn manifest_of_another_digest_is_not_read() {
    let it = Forgery::new();
    let manifest = RevisionManifest {
        created_in: BTreeMap::from([("TaskBook/n/b".to_owned(), 1)]),
        ..RevisionManifest::default()
    };
    let accepted = Accepted { generation: 1, manifest: manifest.digest(), ..Accepted::default() };
    it.put("z", &keys::manifest(&manifest.digest(), 0), r#"{"books":{"n/b":{"digest":"x","since":9}}}"#);
    assert_eq!(accept::manifest_of(&*it.nodes["b"].store, &accepted).unwrap(), None);
    manifest.put(&*it.nodes["z"].store).unwrap();
    assert_eq!(accept::manifest_of(&*it.nodes["b"].store, &accepted).unwrap(), Some(manifest));
}

#[test]
fn facts_and_state_by_another_are_not_shown() {
    let it = Forgery::new();
    for (key, prefix) in [(keys::facts("a"), keys::ALL_FACTS), (keys::state("a"), keys::ALL_STATES)] {
        for by in ["b", "z", "ghost"] {
            it.put(by, &key, r#"{"ready":true}"#);
            assert!(it.fleet("b").rows(prefix).unwrap().is_empty(), "{key} by {by}");
        }
        it.put("a", &key, r#"{"ready":false}"#);
        assert_eq!(it.fleet("b").rows(prefix).unwrap()["a"], br#"{"ready":false}"#);
    }
}
