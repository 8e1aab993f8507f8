//! Records of the store: any records below any keys, as another node of the fleet writes them, and as an attacker who
//! controls the store does.
//!
//! The input is a list: key (kind, node), form, length (two bytes), bytes. By the form, the bytes are signed by a node
//! and stored, are stored as they are, or replace a part of a good record: then the offset (two bytes) and the length
//! (one byte) come first. The reader is node b.
#![no_main]

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, OnceLock},
    time::Duration,
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use tokio::sync::mpsc;
use towpath_coordination::{
    Accepted, LocalStore, Store,
    accept::{self, Link, SCHEMA, Relation, RevisionManifest},
    fleet::{ElectedTask, Fleet},
    keys::{self, Key},
    rollout::{Cut, Election, OnLost, NodeClaims, RolloutSpec, Decision, RunSnapshot, Request, republish, report_rollback, decide, end_recovery, next_maintenance},
    signed::{BookRights, RecordSigner, Rights, SignedStore},
    store::{Change, LeaseId, Op, Outcome, Page, Read, StoreError, Txn},
};
use towpath_host::{
    SystemClock,
    identity::{SigningIdentity, Identity},
};

/// Nodes a, b and c are targets of the book, of which a and b may be elected; git names z too, and does not name g.
const NODES: [&str; 5] = ["a", "b", "c", "z", "g"];
const BOOK: &str = "n/b";
const GOOD: &[u8] = br#"{"at":1,"os":"debian"}"#;
const GENERATION: u64 = 5;

/// A local store that others seem to see too.
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

/// The identity of a node, the same in each run.
fn signing_identity(node: &str) -> SigningIdentity {
    static ALL: OnceLock<BTreeMap<&str, Arc<Identity>>> = OnceLock::new();
    let identity = |node: &'static str| {
        let mut der = b"\x30\x2e\x02\x01\x00\x30\x05\x06\x03\x2b\x65\x70\x04\x22\x04\x20".to_vec();
        der.extend_from_slice(&[node.as_bytes()[0]; 32]);
        let pem = format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", BASE64_STANDARD.encode(der));
        (node, Arc::new(Identity::from_pem(&pem, "key".as_ref()).unwrap()))
    };
    SigningIdentity::Bare(Arc::clone(&ALL.get_or_init(|| NODES.map(identity).into())[node]))
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn rights() -> Rights {
    let book = BookRights {
        budgets: set(&[BOOK]),
        targets: set(&["a", "b", "c"]),
        eligible: BTreeMap::from([("t".to_owned(), set(&["a", "b"]))]),
    };
    let named = ["a", "b", "c", "z"].map(|node| (node.to_owned(), Some(signing_identity(node).keys())));
    Rights { nodes: named.into(), books: BTreeMap::from([(BOOK.to_owned(), book)]) }
}

fn spec(on_lost: OnLost) -> RolloutSpec {
    RolloutSpec {
        book: BOOK.into(),
        budget: BOOK.into(),
        run: "n/b@1".into(),
        accepted: disk().id(),
        members: [("a", 0), ("b", 0), ("c", 1)].map(|(node, wave)| (node.to_owned(), wave)).into(),
        late: vec!["d".into()],
        known: ["a", "b", "c", "z"].map(str::to_owned).into(),
        count: Some(2),
        waves: 2,
        cuts: vec![Cut::Barrier, Cut::Passage],
        on_lost,
        ..RolloutSpec::default()
    }
}

fn store(common: &Arc<Common>, node: &str, first: u64) -> Arc<SignedStore> {
    let signer = Arc::new(RecordSigner::new("c".into(), node.into(), signing_identity(node), first));
    signer.set_rights(rights());
    Arc::new(SignedStore::new(Arc::<Common>::clone(common), signer))
}

fn put(store: &dyn Store, key: &str, value: &[u8]) -> bool {
    store.commit(&Txn { then: vec![Op::put(key, value.to_vec())], ..Txn::default() }).is_ok()
}

/// A key of a kind, of a node. `None` for a kind that is not one.
fn key_of(kind: u8, node: u8) -> Option<String> {
    let node = NODES[usize::from(node) % NODES.len()];
    Some(match kind {
        0 => keys::ACCEPTED.to_owned(),
        1 => keys::progress(BOOK),
        2 => keys::result_notice(BOOK, "t"),
        3 => keys::freed(BOOK),
        4 => keys::manifest("abc", 0),
        5 => keys::link(GENERATION),
        6 => keys::link(GENERATION + 1),
        7 => keys::result_request("b", BOOK, "t", "a", node),
        8 => keys::result_key("b", BOOK, "t", node),
        9 => keys::held("n/other", "-", BOOK, node),
        10 => keys::recovery(node),
        11 => keys::agent(node),
        12 => keys::offer_notice(node, BOOK),
        13 => keys::held(BOOK, "-", BOOK, node),
        14 => keys::queue(BOOK, "-", BOOK, node),
        15 => keys::vote("n/b@1", 0, true, node),
        16 => keys::vote("n/b@1", 1, false, node),
        17 => keys::elected(BOOK, "t", node),
        18 => keys::joined(node),
        19 => keys::write_sequence(node),
        20 => keys::fence(node),
        21 => keys::recovery_ack("r", node),
        22 => keys::alive(node),
        23 => keys::facts(node),
        24 => keys::state(node),
        _ => return None,
    })
}

/// The acceptance of node b.
fn disk() -> &'static Accepted {
    static DISK: OnceLock<Accepted> = OnceLock::new();
    DISK.get_or_init(|| {
        let before = Link { generation: GENERATION - 1, parent: GENERATION - 2, ..Link::default() };
        Accepted {
            schema: SCHEMA,
            generation: GENERATION,
            commits: BTreeMap::from([("fleet".to_owned(), "a".repeat(40))]),
            parent: GENERATION - 1,
            before: Some(before),
            origin: "o".into(),
            ..Accepted::default()
        }
    })
}

/// The store before the input: rows as they were written.
fn begun() -> &'static [(String, Vec<u8>)] {
    static BEGUN: OnceLock<Vec<(String, Vec<u8>)>> = OnceLock::new();
    BEGUN.get_or_init(|| {
        let common = Arc::new(Common::default());
        let [a, b] = ["a", "b"].map(|node| store(&common, node, 1));
        assert!(put(&*a, keys::ACCEPTED, &serde_json::to_vec(disk()).unwrap()));
        assert!(put(&*b, &keys::alive("b"), b"{}") && put(&*a, &keys::alive("a"), b"{}"));
        assert!(put(&*a, &keys::facts("a"), GOOD));
        common.read("", &Page::default()).unwrap().rows.into_iter().map(|row| (row.key, row.value)).collect()
    })
}

fuzz_target!(|bytes: &[u8]| {
    let common = Arc::new(Common::default());
    for (key, value) in begun() {
        assert!(put(&*common, key, value));
    }
    let signers = Signers::new(&common);
    let mut rest = bytes;
    while let [kind, node, form, high, low, more @ ..] = rest {
        let length = usize::from(u16::from_be_bytes([*high, *low])).min(more.len());
        let (value, more) = more.split_at(length);
        rest = more;
        let (key, value) = match key_of(*kind, *node) {
            Some(key) => (key, value),
            // A key of its own, up to the end of the line.
            None => {
                let end = value.iter().position(|byte| *byte == b'\n').unwrap_or(value.len());
                (String::from_utf8_lossy(&value[..end]).into_owned(), value.get(end + 1..).unwrap_or_default())
            }
        };
        match form % 6 {
            0 => _ = put(&*common, &key, value),
            1 => _ = put(&*common, &keys::facts("a"), &changed(&begun_value(&keys::facts("a")), value)),
            form => _ = put(&*signers.of(["a", "c", "z", "g"][usize::from(form) - 2]), &key, value),
        }
    }
    let reader = store(&common, "b", 1_000);
    every_record(&common, &reader);
    decisions(&common, &reader);
});

/// The stores through which the nodes write, made where they are needed.
struct Signers<'a>(&'a Arc<Common>, [OnceLock<Arc<SignedStore>>; 4]);

impl<'a> Signers<'a> {
    fn new(common: &'a Arc<Common>) -> Self {
        Self(common, Default::default())
    }

    fn of(&self, node: &str) -> Arc<SignedStore> {
        let at = ["a", "c", "z", "g"].iter().position(|name| *name == node).unwrap_or_default();
        Arc::clone(self.1[at].get_or_init(|| store(self.0, node, 100)))
    }
}

fn begun_value(key: &str) -> Vec<u8> {
    begun().iter().find(|(known, _)| known == key).map(|(_, value)| value.clone()).unwrap_or_default()
}

fn changed(good: &[u8], change: &[u8]) -> Vec<u8> {
    let mut changed = good.to_vec();
    if let Some(([high, low, length], rest)) = change.split_first_chunk() {
        let from = usize::from(u16::from_be_bytes([*high, *low])).min(good.len());
        let to = from.saturating_add((*length).into()).min(good.len());
        changed.splice(from..to, rest.iter().copied());
    }
    changed
}

/// A record that the reader gets is as a node has signed it, and of a node that may write it (P141).
fn every_record(common: &Arc<Common>, reader: &SignedStore) {
    let written: BTreeMap<String, Vec<u8>> = common
        .read("", &Page { after: None, limit: 10_000 })
        .unwrap()
        .rows
        .into_iter()
        .map(|row| (row.key, row.value))
        .collect();
    for row in reader.read("", &Page { after: None, limit: 10_000 }).unwrap().rows {
        let key = Key::parse(&row.key).expect("a record below no kind of key counts");
        if matches!(key, Key::Manifest { .. } | Key::Link { .. }) {
            continue;
        }
        let raw: Value = serde_json::from_slice(&written[&row.key]).expect("a record that is not JSON counts");
        let signed = raw["signed"].as_object().expect("an unsigned record counts");
        let by = signed["by"].as_str().unwrap();
        let record: Value = serde_json::from_slice(&row.value).unwrap();
        assert!(may(by, &key, &record), "{} counts, written by {by}: {record}", row.key);
        if row.key == keys::facts("a") && signed["seq"].as_u64() < Some(100) {
            assert_eq!(row.value, GOOD, "a change to a signed record counts");
        }
    }
}

/// The nodes that may write a record, as the protocol has it.
fn may(by: &str, key: &Key<'_>, record: &Value) -> bool {
    let target = |book: &str| book == BOOK && ["a", "b", "c"].contains(&by);
    let eligible = |book: &str, task: &str| book == BOOK && task == "t" && ["a", "b"].contains(&by);
    by != "g"
        && match key {
            Key::Accepted | Key::Manifest { .. } | Key::Link { .. } => true,
            Key::Recovery { node }
            | Key::Agent { node }
            | Key::Joined { node }
            | Key::Sequence { node }
            | Key::Fence { node }
            | Key::RecoveryAck { node, .. }
            | Key::Alive { node }
            | Key::Facts { node }
            | Key::State { node } => by == *node,
            Key::Progress { book } | Key::ResultKey { book, .. } => target(book),
            Key::ResultNotice { book, task } => eligible(book, task),
            Key::Elected { book, task, node } => by == *node && eligible(book, task),
            Key::OfferNotice { budget, .. } | Key::Freed { budget } => target(budget),
            Key::ResultRequest { book, from, .. } => by == *from && target(book),
            Key::Queue { book, node, .. } => by == *node && target(book),
            Key::Vote { run, node, .. } => by == *node && target(run.split('@').next().unwrap_or_default()),
            Key::Slot { budget, book, node, .. } => match record["kind"].as_str() {
                _ if by == *node => target(book),
                Some("offer") => target(budget),
                Some("writtenoff" | "lost") => target(book),
                Some("claim" | "failure") => record["lost"] == true && target(book),
                _ => false,
            },
        }
}

/// Every decision of node b upon what it reads. What it writes has to count for the others.
fn decisions(common: &Arc<Common>, reader: &Arc<SignedStore>) {
    let found = accept::current(&**reader, disk()).unwrap();
    if found.relation == Relation::Sound {
        assert!(found.record.generation >= GENERATION, "an older record is followed");
        assert!(found.record.commits.values().all(|id| id.bytes().all(|byte| byte.is_ascii_hexdigit())));
    }
    assert!(!matches!(accept::judge_announced(&found.record, disk()), Relation::Own) || found.record.generation == GENERATION);
    if let Ok(Some(manifest)) = accept::manifest_of(&**reader, &found.record) {
        assert_eq!(manifest.digest(), found.record.manifest, "a manifest of another digest is read");
    }
    let (record, manifest) = (begun_value(keys::ACCEPTED), serde_json::to_vec(&RevisionManifest::default()).unwrap());
    let _ = Accepted::of_announced(&record, &manifest, &found.record.digest());
    accept::joined(&**reader).unwrap();
    for on_lost in [OnLost::Hold, OnLost::Skip] {
        let spec = spec(on_lost);
        let (revision, answers) = reader.commit(&RunSnapshot::reading(&spec, "b")).unwrap().answers();
        let mut snapshot = RunSnapshot::of(&spec, "b", revision, answers);
        snapshot.lost = ["a", "c"].map(str::to_owned).into();
        snapshot.acknowledged = snapshot.recovery.iter().map(|(restored, _)| restored.by.clone()).collect();
        let segments = [0, 1, 2];
        let wants = segments.into_iter().flat_map(|segment| {
            [
                Request::Enter(segment),
                Request::Change(segment),
                Request::Done(segment),
                Request::Failed(segment, true),
                Request::Failed(segment, false),
                Request::Absent(segment, 60),
            ]
        });
        for want in wants.chain([Request::Correct, Request::Leave]) {
            if let Decision::Commit(txn) = decide(&spec, &snapshot, "b", want) {
                writes_its_own(&txn);
            }
        }
        let own = NodeClaims::default();
        let more = [
            next_maintenance(&spec, &snapshot, "b"),
            republish(&spec, &snapshot, "b", &own),
            report_rollback(&snapshot, "b", "r", None),
            end_recovery(&spec.known, &snapshot),
        ];
        more.iter().flatten().for_each(writes_its_own);
        let fleet = Fleet::new(Arc::<SignedStore>::clone(reader), "b".into(), Arc::new(SystemClock));
        fleet.read_as(signing_identity("b"));
        let _ = fleet.rollout(&[&spec], &|_| "alive", &BTreeMap::new(), None);
        let elected_task = ElectedTask { spec: &spec, task: "t", definition: "d" };
        let _ = fleet.answer(|_| Some(spec.clone()));
        if let Ok(Election::Results(results)) = fleet.elect(elected_task, false, 1) {
            let _ = fleet.open(elected_task, &results);
        }
        let _ = fleet.run_maintenance(&spec);
    }
    every_record(common, reader);
}

fn writes_its_own(txn: &Txn) {
    for operation in &txn.then {
        let Op::Put { key, value, .. } = operation else { continue };
        let kind = Key::parse(key).expect("a record below no kind of key is written");
        let record = serde_json::from_slice(value).unwrap_or_default();
        assert!(may("b", &kind, &record), "{key} is written, and counts for no other node: {record}");
    }
}
