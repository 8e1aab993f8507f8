//! A store whose records are signed: what a node writes carries its signature, and what carries none that counts is not
//! there for those who read.
//!
//! Whoever controls the store can delay and hide records, and so break the pace; it can't make a node believe what no
//! node has said. Keys are signed with the records, and a number that only grows: none can be used elsewhere, or again.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;
use towpath_host::identity::{Bearer, PublicKeys, Shown, has_signed};

use crate::{
    keys,
    store::{Answer, Change, Compare, LeaseId, Op, Outcome, Page, Read, Row, Store, StoreError, Txn},
};

/// The field of a record that holds its signature.
const FIELD: &str = "signed";
/// How many verdicts are remembered.
const VERDICTS: usize = 4096;

/// What stands in a record about who wrote it.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Signature {
    by: String,
    seq: u64,
    /// The certificate, or the bare key.
    with: String,
    sig: String,
}

/// Who signs here, and whom it believes.
#[derive(Debug)]
pub struct Notary {
    cluster: String,
    node: String,
    bearer: Bearer,
    sequence: AtomicU64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The nodes that git names, with the keys that it gives them; None before the first revision.
    named: Option<BTreeMap<String, Option<[u8; 32]>>>,
    /// The bare keys that nodes were first seen with.
    seen: BTreeMap<String, [u8; 32]>,
    /// The highest number of each record and writer.
    highest: HashMap<(String, String), u64>,
    /// What was found of records, by their digest.
    verdicts: HashMap<[u8; 32], Verdict>,
    /// What does not count, by key.
    refused: BTreeMap<String, String>,
    /// The revisions of records that do not count: for this node they are not there, and it may write over them.
    void: HashMap<String, u64>,
}

/// What is to be thought of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Verdict {
    /// It is the writer's.
    Good { by: String, seq: u64 },
    /// It does not count.
    Bad(String),
}

impl Notary {
    /// A notary whose records are numbered from here on.
    pub fn new(cluster: String, node: String, bearer: Bearer, first: u64) -> Self {
        // Nobody else's key counts for the own name.
        let seen = BTreeMap::from([(node.clone(), bearer.keys().sign)]);
        let state = Mutex::new(State { seen, ..State::default() });
        Self { cluster, node, bearer, sequence: AtomicU64::new(first), state }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says which nodes git names, and which keys it gives them: no other keys count for these, and where nodes have
    /// certificates, no other nodes count. So a certificate is worth nothing once git has forgotten its node.
    pub fn give(&self, named: BTreeMap<String, Option<PublicKeys>>) {
        let named = Some(named.into_iter().map(|(node, keys)| (node, keys.map(|keys| keys.sign))).collect());
        let mut state = self.lock();
        if state.named != named {
            state.named = named;
            state.verdicts.clear();
        }
    }

    /// Takes what did not count since this was asked last: keys and reasons.
    pub fn refused(&self) -> BTreeMap<String, String> {
        std::mem::take(&mut self.lock().refused)
    }

    fn message(&self, key: &str, record: &[u8], by: &str, seq: u64) -> Vec<u8> {
        let mut hash = Sha256::new();
        for part in
            [b"towpath record", self.cluster.as_bytes(), key.as_bytes(), by.as_bytes(), &seq.to_be_bytes(), record]
        {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        hash.finalize().to_vec()
    }

    /// A record with its signature. What is no record (a page of a table, which its digest speaks for) stays as it is.
    fn sign(&self, key: &str, value: &[u8]) -> Vec<u8> {
        let Ok(Value::Object(mut record)) = serde_json::from_slice(value) else { return value.to_vec() };
        record.remove(FIELD);
        let seq = self.sequence.fetch_add(1, Ordering::Relaxed);
        let (with, sig) = self.bearer.sign(&self.message(key, &bytes(&record), &self.node, seq));
        let signature = Signature { by: self.node.clone(), seq, with, sig: STANDARD_NO_PAD.encode(sig) };
        if let Ok(signature) = serde_json::to_value(signature) {
            record.insert(FIELD.into(), signature);
        }
        bytes(&record)
    }

    /// The row as its writer meant it; None where it does not count.
    fn read(&self, mut row: Row) -> Option<Row> {
        let Some(class) = Class::of(&row.key) else { return Some(row) };
        let Ok(Value::Object(mut record)) = serde_json::from_slice(&row.value) else {
            self.refuse(&row.key, "it is no record");
            return None;
        };
        let signature = record.remove(FIELD);
        let digest: [u8; 32] =
            Sha256::new().chain_update(&row.key).chain_update([0]).chain_update(&row.value).finalize().into();
        let known = self.lock().verdicts.get(&digest).cloned();
        let bare = bytes(&record);
        let verdict = known.unwrap_or_else(|| {
            let verdict = self.judge(&row.key, &bare, signature, &class);
            let mut state = self.lock();
            if state.verdicts.len() >= VERDICTS {
                state.verdicts.clear();
            }
            state.verdicts.insert(digest, verdict.clone());
            verdict
        });
        row.value = bare;
        match verdict.and_then_newest(|by, seq| self.is_newest(&row.key, by, seq)) {
            Verdict::Good { .. } => {
                self.lock().void.remove(&row.key);
                Some(row)
            }
            Verdict::Bad(why) => {
                self.refuse(&row.key, &why);
                // A claim or a failure that can't be believed still may stand for a node that is half changed: it counts
                // against the budget, which can only delay.
                let kind = record.get("kind").and_then(Value::as_str);
                let claim = matches!(class, Class::Held) && matches!(kind, Some("claim" | "failure"));
                // Who else has joined under the own name is for the node itself to see.
                let namesake = row.key == keys::joined(&self.node);
                if claim || namesake {
                    return Some(row);
                }
                let mut state = self.lock();
                if state.void.len() >= VERDICTS {
                    state.void.clear();
                }
                state.void.insert(row.key, row.modified);
                None
            }
        }
    }

    /// A condition as the store has to see it: what does not count is not there.
    fn condition(&self, compare: &Compare) -> Compare {
        let void = |key: &String| self.lock().void.get(key).copied();
        match compare {
            Compare::Absent(key) => void(key).map_or_else(|| compare.clone(), |at| Compare::Revision(key.clone(), at)),
            other => other.clone(),
        }
    }

    fn forget_void(&self, compares: &[Compare]) {
        let mut state = self.lock();
        for compare in compares {
            if let Compare::Absent(key) = compare {
                state.void.remove(key);
            }
        }
    }

    fn refuse(&self, key: &str, why: &str) {
        let known = self.lock().refused.insert(key.to_owned(), why.to_owned());
        if known.as_deref() != Some(why) {
            tracing::warn!(key, "a record of the data store does not count: {why}");
        }
    }

    fn judge(&self, key: &str, record: &[u8], signature: Option<Value>, class: &Class) -> Verdict {
        let Some(signature) = signature.and_then(|value| serde_json::from_value::<Signature>(value).ok()) else {
            return Verdict::Bad("nobody has signed it".into());
        };
        let Signature { by, seq, with, sig } = signature;
        if let Class::Own(owner) = class
            && *owner != by
        {
            return Verdict::Bad(format!("it is {owner}'s to write, and {by} has signed it"));
        }
        let Some(Shown { key: signer, proven }) = self.bearer.read(&with, &by, &self.cluster) else {
            return Verdict::Bad(format!("{by} has shown no certificate of a node of that name"));
        };
        let certified = self.bearer.is_certified();
        let expected = {
            let mut state = self.lock();
            let named = state.named.as_ref().map(|named| named.get(&by).copied());
            if certified && by != self.node && named == Some(None) {
                return Verdict::Bad(format!("git names no Node {by}"));
            }
            let given = named.flatten().flatten();
            // Without certificates whoever comes first under a name has it.
            given.or_else(|| (!certified).then(|| *state.seen.entry(by.clone()).or_insert(signer)))
        };
        if certified && !proven && expected.is_none() {
            return Verdict::Bad(format!(
                "{by} has no certificate yet; it counts without one where git names its keys (publicKeys of its Node)"
            ));
        }
        if expected.is_some_and(|expected| expected != signer) {
            return Verdict::Bad(format!(
                "{by} has signed it with another key than it is known by; a new identity comes by commit (publicKeys of its Node)"
            ));
        }
        let sig = STANDARD_NO_PAD.decode(sig).unwrap_or_default();
        if has_signed(&signer, &self.message(key, record, &by, seq), &sig) {
            Verdict::Good { by, seq }
        } else {
            Verdict::Bad(format!("the signature of {by} does not fit it"))
        }
    }

    /// Whether nothing newer was seen there of the same writer.
    fn is_newest(&self, key: &str, by: &str, seq: u64) -> bool {
        let mut state = self.lock();
        if state.highest.len() >= VERDICTS {
            state.highest.clear();
        }
        let highest = state.highest.entry((key.to_owned(), by.to_owned())).or_insert(seq);
        *highest = seq.max(*highest);
        *highest == seq
    }
}

impl Verdict {
    fn and_then_newest(self, newest: impl FnOnce(&str, u64) -> bool) -> Self {
        match self {
            Self::Good { by, seq } if !newest(&by, seq) => {
                Self::Bad(format!("it is older than what {by} has written there since"))
            }
            verdict => verdict,
        }
    }
}

fn bytes(record: &Map<String, Value>) -> Vec<u8> {
    serde_json::to_vec(record).unwrap_or_default()
}

/// Whose a record is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Class {
    /// One node's.
    Own(String),
    /// A claim, or what others make of it.
    Held,
    /// Any node's.
    Any,
}

impl Class {
    /// None: it is not signed. Leases and notices say nothing by themselves; tables are spoken for by their digests.
    fn of(key: &str) -> Option<Self> {
        let own = [
            keys::ALL_JOINED,
            keys::ALL_STATES,
            keys::ALL_FACTS,
            "book/vote/",
            "book/queue/",
            "book/mark/",
            "book/anew/",
        ];
        if own.iter().any(|prefix| key.starts_with(prefix)) {
            return Some(Self::Own(key.rsplit('/').next().unwrap_or_default().to_owned()));
        }
        if key.starts_with("book/held/") {
            return Some(Self::Held);
        }
        let any = key.starts_with("board/") || key.starts_with("book/elect/");
        any.then_some(Self::Any)
    }
}

/// A store through which everything is signed and checked.
pub struct SignedStore {
    inner: Arc<dyn Store>,
    notary: Arc<Notary>,
}

impl fmt::Debug for SignedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SignedStore").field("inner", &self.inner).finish_non_exhaustive()
    }
}

impl SignedStore {
    /// Puts a notary between a store and those who use it.
    pub fn new(inner: Arc<dyn Store>, notary: Arc<Notary>) -> Self {
        Self { inner, notary }
    }

    fn seal(&self, operations: &[Op]) -> Vec<Op> {
        let seal = |operation: &Op| match operation {
            Op::Put { key, value, lease } if Class::of(key).is_some() => {
                Op::Put { key: key.clone(), value: self.notary.sign(key, value), lease: *lease }
            }
            other => other.clone(),
        };
        operations.iter().map(seal).collect()
    }

    fn open(&self, answers: Vec<Answer>) -> Vec<Answer> {
        let open = |answer: Answer| Answer {
            rows: answer.rows.into_iter().filter_map(|row| self.notary.read(row)).collect(),
            count: answer.count,
        };
        answers.into_iter().map(open).collect()
    }
}

impl Store for SignedStore {
    fn read(&self, prefix: &str, page: &Page) -> Result<Read, StoreError> {
        let mut page = page.clone();
        loop {
            let mut read = self.inner.read(prefix, &page)?;
            let last = read.rows.last().map(|row| row.key.clone());
            read.rows = read.rows.into_iter().filter_map(|row| self.notary.read(row)).collect();
            // A page of which nothing counts would look like the end.
            if !read.more || !read.rows.is_empty() {
                return Ok(read);
            }
            page.limit = page.limit.max(Page::default().limit);
            page.after = last;
        }
    }

    fn watch(&self, prefix: &str, from: u64) -> Result<mpsc::UnboundedReceiver<Change>, StoreError> {
        // A watch only wakes: what it tells of is read, and checked, then.
        self.inner.watch(prefix, from)
    }

    fn lease(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        self.inner.lease(ttl)
    }

    fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.inner.keep_alive(lease)
    }

    fn time_left(&self, key: &str) -> Result<Option<Duration>, StoreError> {
        self.inner.time_left(key)
    }

    fn shared(&self) -> bool {
        self.inner.shared()
    }

    fn commit(&self, txn: &Txn) -> Result<Outcome, StoreError> {
        let sealed = Txn {
            compare: txn.compare.iter().map(|compare| self.notary.condition(compare)).collect(),
            then: self.seal(&txn.then),
            otherwise: self.seal(&txn.otherwise),
        };
        let outcome = self.inner.commit(&sealed)?;
        if matches!(outcome, Outcome::Refused { .. }) {
            // What did not count may be gone meanwhile: it is looked at again.
            self.notary.forget_void(&txn.compare);
        }
        Ok(match outcome {
            Outcome::Done { revision, answers } => Outcome::Done { revision, answers: self.open(answers) },
            Outcome::Refused { revision, answers } => Outcome::Refused { revision, answers: self.open(answers) },
        })
    }
}

#[cfg(test)]
mod tests {
    use towpath_host::identity::Identity;

    use super::*;
    use crate::LocalStore;

    fn node(store: &Arc<LocalStore>, name: &str) -> (SignedStore, Arc<Notary>) {
        let identity = Arc::new(Identity::make().unwrap());
        let notary = Arc::new(Notary::new("c".into(), name.into(), Bearer::Bare(identity), 1));
        (SignedStore::new(Arc::<LocalStore>::clone(store), Arc::clone(&notary)), notary)
    }

    fn put(store: &dyn Store, key: &str, value: &str) {
        store.commit(&Txn { then: vec![Op::put(key, value.as_bytes().to_vec())], ..Txn::default() }).unwrap();
    }

    fn values(store: &dyn Store, prefix: &str) -> Vec<String> {
        let rows = store.read(prefix, &Page::default()).unwrap().rows;
        rows.into_iter().map(|row| String::from_utf8(row.value).unwrap()).collect()
    }

    #[test]
    fn only_what_a_node_has_said_itself_is_there() {
        let store = Arc::new(LocalStore::default());
        let ((a, _), (b, refused)) = (node(&store, "a"), node(&store, "b"));
        put(&a, "book/facts/a", r#"{"os":"debian"}"#);
        assert_eq!(values(&b, "book/facts/"), [r#"{"os":"debian"}"#], "as it was written, without the signature");
        let original = store.read("book/facts/a", &Page::default()).unwrap().rows[0].value.clone();

        put(&*store, "book/facts/c", r#"{"os":"forged"}"#);
        put(&a, "book/facts/d", r#"{"os":"not mine to write"}"#);
        assert_eq!(values(&b, "book/facts/").len(), 1);
        let why = refused.refused();
        assert!(why["book/facts/c"].contains("nobody has signed"), "{why:?}");
        assert!(why["book/facts/d"].contains("d's to write"), "{why:?}");

        // The same bytes under another key, changed bytes, and an older record again.
        store.commit(&Txn { then: vec![Op::put("book/state/a", original.clone())], ..Txn::default() }).unwrap();
        assert_eq!(values(&b, "book/state/").len(), 0);
        put(&*store, "book/facts/a", &String::from_utf8(original.clone()).unwrap().replace("debian", "ubuntu"));
        assert_eq!(values(&b, "book/facts/").len(), 0);
        put(&a, "book/facts/a", r#"{"os":"new"}"#);
        assert_eq!(values(&b, "book/facts/"), [r#"{"os":"new"}"#]);
        store.commit(&Txn { then: vec![Op::put("book/facts/a", original)], ..Txn::default() }).unwrap();
        assert_eq!(values(&b, "book/facts/").len(), 0, "an old record that was put back does not count");
    }

    #[test]
    fn many_records_that_do_not_count_are_passed_over() {
        let store = Arc::new(LocalStore::default());
        let (a, _) = node(&store, "a");
        for number in 0..20_000 {
            put(&*store, &format!("board/open/n/{number:05}"), "{}");
        }
        put(&a, "board/open/z", "{}");
        let first = a.read("board/", &Page { after: None, limit: 1 }).unwrap();
        assert_eq!(first.rows.len(), 1, "the one that counts is found behind all others");
    }

    #[test]
    fn what_does_not_count_and_is_gone_is_no_obstacle() {
        let store = Arc::new(LocalStore::default());
        let (a, _) = node(&store, "a");
        put(&*store, "book/held/g/-/n/b/x", r#"{"kind":"offer"}"#);
        assert_eq!(values(&a, "book/held/").len(), 0);
        store.commit(&Txn { then: vec![Op::Delete("book/held/g/-/n/b/x".into())], ..Txn::default() }).unwrap();
        let txn = Txn {
            compare: vec![Compare::Absent("book/held/g/-/n/b/x".into())],
            then: vec![Op::put("book/held/g/-/n/b/x", br#"{"kind":"claim"}"#.to_vec())],
            ..Txn::default()
        };
        assert!(matches!(a.commit(&txn), Ok(Outcome::Refused { .. })));
        assert!(matches!(a.commit(&txn), Ok(Outcome::Done { .. })), "looked at again");
    }

    #[test]
    fn what_does_not_count_can_be_written_over() {
        let store = Arc::new(LocalStore::default());
        let (a, _) = node(&store, "a");
        put(&*store, "board/accepted", r#"{"generation":9}"#);
        let txn = Txn {
            compare: vec![Compare::Absent("board/accepted".into())],
            then: vec![Op::put("board/accepted", br#"{"generation":1}"#.to_vec())],
            ..Txn::default()
        };
        assert_eq!(values(&a, "board/accepted").len(), 0);
        assert!(matches!(a.commit(&txn), Ok(Outcome::Done { .. })));
        assert_eq!(values(&a, "board/accepted"), [r#"{"generation":1}"#]);
        assert!(matches!(a.commit(&txn), Ok(Outcome::Refused { .. })), "what counts is there");
    }

    #[test]
    fn a_node_is_known_by_the_key_that_git_gives_it_or_that_it_came_with() {
        let store = Arc::new(LocalStore::default());
        let ((a, known), (other, _)) = (node(&store, "a"), node(&store, "a"));
        let (b, notary) = node(&store, "b");
        put(&a, "book/facts/a", r#"{"v":1}"#);
        assert_eq!(values(&b, "book/facts/").len(), 1);
        put(&other, "book/facts/a", r#"{"v":2}"#);
        assert_eq!(values(&b, "book/facts/").len(), 0, "another machine of that name");
        notary.give(BTreeMap::from([("a".to_owned(), Some(known.bearer.keys()))]));
        assert_eq!(values(&b, "book/facts/").len(), 0);
        put(&a, "book/facts/a", r#"{"v":3}"#);
        assert_eq!(values(&b, "book/facts/").len(), 1);
    }

    #[test]
    fn a_claim_that_nobody_believes_still_counts_and_an_offer_does_not() {
        let store = Arc::new(LocalStore::default());
        let (b, _) = node(&store, "b");
        put(&*store, "book/held/g/-/n/b/x", r#"{"kind":"claim"}"#);
        put(&*store, "book/held/g/-/n/b/y", r#"{"kind":"offer"}"#);
        assert_eq!(values(&b, "book/held/"), [r#"{"kind":"claim"}"#]);
    }
}
