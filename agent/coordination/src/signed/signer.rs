//! The signatures of records. A node signs its own records. For each record that a node reads, the node verifies the
//! signature, the rights of the signer, and the record number.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};
use towpath_host::identity::{PresentedKey, PublicKeys, Revoked, SigningIdentity, has_signed};

use super::{
    known_writers::{KnownWriter, Writers as Known},
    writers::{BookRights, Books, Rights, Writers, is_remembered, writers},
};
use crate::{keys::Key, store::Row};

/// The name of the JSON field that contains the signature of a record.
const FIELD: &str = "signed";
/// The maximum number of verified signatures in each of the two maps of the cache. When the newer map is full, it
/// replaces the older map.
const SIGNATURES: usize = 8192;
/// The maximum number of store keys with a rejected record that this node remembers.
const VOID: usize = 4096;

/// The field of a record that contains the signature of the record.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Signature {
    by: String,
    seq: u64,
    /// The certificate of the signer, or the public key of a signer that has no certificate.
    with: String,
    sig: String,
}

/// Signs the records of this node, and verifies the records that this node reads.
#[derive(Debug)]
pub struct RecordSigner {
    cluster: String,
    node: String,
    signing_identity: SigningIdentity,
    revoked: Revoked,
    sequence: AtomicU64,
    /// The highest number of a record that this node signed before this process began.
    floor: AtomicU64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The names of the Node objects in git, each with the public keys that the object lists. `None` before the first
    /// revision is loaded.
    named: Option<BTreeMap<String, Option<PublicKeys>>>,
    books: Books,
    known: Known,
    /// The cache of verified signatures, by the digest of the record. The first map has the newer entries, and the
    /// second map has the older entries.
    checked: [HashMap<[u8; 32], Checked>; 2],
    /// The store keys of rejected records that were not reported yet, each with the reason for the rejection.
    refused: BTreeMap<String, String>,
    /// The store revision of each rejected record, by store key. For this node, a rejected record does not exist, so
    /// that this node may overwrite the record.
    void: HashMap<String, u64>,
    /// The nodes that present an invalid public key, each with the presented keys.
    strangers: BTreeMap<String, Vec<String>>,
}

/// The result of the verification of one record, for the cache.
#[derive(Debug, Clone)]
struct Checked {
    signed: Result<Signed, String>,
    /// True if the signer had the right to write the record when this node accepted the record. A later revision does
    /// not revoke the right to write the record.
    entitled: bool,
}

/// The signer of a record with a valid signature.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Signed {
    by: String,
    seq: u64,
    shown: PresentedKey,
}

/// The reason why a public key is not the valid key of the signer.
enum Doubt {
    /// The public key was valid before a commit replaced it.
    Former,
    /// The public key is not valid, for the reason that the variant contains.
    Refused(String),
}

/// The reason why this node rejects a record.
enum Void {
    /// The node of the slot signed the claim or failure with a former public key of the node. The slot still counts as
    /// taken.
    Taken,
    /// The record counts as absent, for the reason that the variant contains.
    Refused(String),
}

impl State {
    fn checked(&mut self, digest: &[u8; 32]) -> Option<Checked> {
        let [newer, older] = &mut self.checked;
        newer.get(digest).cloned().or_else(|| older.get(digest).cloned())
    }

    fn remember(&mut self, digest: [u8; 32], checked: Checked) {
        let [newer, older] = &mut self.checked;
        if newer.len() >= SIGNATURES {
            *older = std::mem::take(newer);
        }
        newer.insert(digest, checked);
    }
}

impl RecordSigner {
    /// Creates a signer whose first record gets the number `first`.
    pub fn new(cluster: String, node: String, signing_identity: SigningIdentity, first: u64) -> Self {
        let mut state = State::default();
        // Only this node's own key counts for its own name.
        state.known.pin(&node, signing_identity.keys().sign);
        Self {
            cluster,
            node,
            revoked: signing_identity.revoked(),
            signing_identity,
            sequence: AtomicU64::new(first),
            floor: AtomicU64::new(first.saturating_sub(1)),
            state: Mutex::new(state),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Restores the remembered writers and the rights of earlier revisions from the journal.
    pub fn resume(&self, writers: Vec<(String, KnownWriter)>, former: BTreeMap<String, BookRights>) {
        let mut state = self.lock();
        let own = self.signing_identity.keys().sign;
        state.known.load(writers.into_iter().filter(|(name, writers)| *name != self.node || writers.sign == own));
        state.books.remember(former);
    }

    /// Sets the rights that a new revision defines: the nodes with their public keys, and the targets of each book.
    pub fn set_rights(&self, rights: Rights) {
        let mut state = self.lock();
        for (node, keys) in &rights.nodes {
            if let Some(keys) = keys.filter(|_| *node != self.node) {
                state.known.pin(node, keys.sign);
            }
        }
        state.named = Some(rights.nodes);
        state.books.set_books(rights.books);
    }

    /// Returns the rights of the current revision and of earlier revisions, so that the journal can store these rights.
    pub fn rights(&self) -> BTreeMap<String, BookRights> {
        self.lock().books.all()
    }

    /// Returns the public keys of this node's identity.
    pub fn keys(&self) -> PublicKeys {
        self.signing_identity.keys()
    }

    /// Returns the reason to reject a caller: its certificate or key is revoked, or the caller is a node that has
    /// another valid key (P143). `None` if the caller is permitted. `is_node` is true if the caller is a node, and not
    /// an administrator.
    pub fn refuses(&self, caller: &str, is_node: bool, key: &[u8; 32], serial: Option<&str>) -> Option<String> {
        // The TLS connection has proven that the caller owns the certificate and the key.
        self.revoked.saw(serial, key);
        if let Some(why) = self.revoked.refuses_use(caller, serial, key) {
            return Some(why);
        }
        let node = is_node.then_some(caller)?;
        let state = self.lock();
        let given = state.named.as_ref().and_then(|named| named.get(node).copied()).flatten();
        let known = given.map(|keys| keys.sign).or_else(|| state.known.of(node).map(|known| known.sign))?;
        (known != *key).then(|| {
            format!("the certificate of node {node} does not have the valid key of the node; to replace the key, commit the new key to `publicKeys` of the Node object {node}")
        })
    }

    /// Returns the revoked certificates and keys.
    pub fn revoked(&self) -> &Revoked {
        &self.revoked
    }

    /// Returns the number of writers whose data has changed since the last write to the journal.
    pub fn changed(&self) -> usize {
        self.lock().known.changed()
    }

    /// Returns the writers whose data has changed since the previous call, so that the journal can store the data.
    pub fn take_changed(&self) -> Vec<(String, KnownWriter)> {
        self.lock().known.take_changed()
    }

    /// Returns the number that this node gives to its next record.
    pub fn next(&self) -> u64 {
        self.sequence.load(Ordering::Relaxed)
    }

    /// Returns the store keys of records that this node has rejected since the previous call, each with the reason.
    pub fn refused(&self) -> BTreeMap<String, String> {
        std::mem::take(&mut self.lock().refused)
    }

    /// Returns the nodes that present an invalid public key, each with the presented keys.
    pub fn strangers(&self) -> BTreeMap<String, Vec<String>> {
        self.lock().strangers.clone()
    }

    pub(super) fn forget_strangers(&self) {
        self.lock().strangers.clear();
    }

    pub(super) fn node(&self) -> &str {
        &self.node
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

    /// Adds this node's signature to a record. If the value is not a JSON object, the function returns the value
    /// unchanged.
    pub(super) fn sign(&self, key: &str, value: &[u8]) -> Vec<u8> {
        let Ok(Value::Object(mut record)) = serde_json::from_slice(value) else { return value.to_vec() };
        record.remove(FIELD);
        let seq = self.sequence.fetch_add(1, Ordering::Relaxed);
        let (with, sig) = self.signing_identity.sign(&self.message(key, &bytes(&record), &self.node, seq));
        let signature = Signature { by: self.node.clone(), seq, with, sig: STANDARD_NO_PAD.encode(sig) };
        if let Ok(signature) = serde_json::to_value(signature) {
            record.insert(FIELD.into(), signature);
        }
        bytes(&record)
    }

    /// Sets the next record number of this node above the numbers of its records in the store (P146).
    pub(super) fn adopt<'r>(&self, rows: impl IntoIterator<Item = &'r Row>) {
        let own = rows.into_iter().filter_map(|row| self.own_number(row)).max();
        let highest = own.unwrap_or(0);
        self.sequence.fetch_max(highest.saturating_add(1), Ordering::Relaxed);
        self.floor.fetch_max(highest, Ordering::Relaxed);
    }

    /// Returns the number of a record that is signed with this node's own key. `None` for any other record.
    fn own_number(&self, row: &Row) -> Option<u64> {
        let (record, signature) = split(&row.value)?;
        let own = self.signing_identity.keys().sign;
        let signed = self.check(&row.key, &bytes(&record), signature).ok()?;
        (signed.by == self.node && signed.shown.key == own).then_some(signed.seq)
    }

    /// Returns true if another process has signed a row with this node's key since this process began. The caller must
    /// not have written the row itself. If the result is true, the next record of this node gets a higher number, so
    /// that the other process accepts it.
    pub(super) fn is_of_namesake(&self, row: &Row) -> bool {
        let newer = self.own_number(row).filter(|number| *number > self.floor.load(Ordering::Relaxed));
        if let Some(number) = newer {
            self.sequence.fetch_max(number.saturating_add(1), Ordering::Relaxed);
        }
        newer.is_some()
    }

    /// Returns true if a row has a valid signature in the name of a node. The function does not check that the public
    /// key belongs to the node.
    fn is_signed_as(&self, row: &Row, name: &str) -> bool {
        let Some((record, signature)) = split(&row.value) else { return false };
        self.check(&row.key, &bytes(&record), signature).is_ok_and(|signed| signed.by == name)
    }

    /// Returns true if this node does not know the public key of the writer that has signed a row.
    pub(super) fn is_by_unknown(&self, row: &Row) -> bool {
        // The text is searched without parsing, because most rows are by known writers and were verified before.
        let begin = "\"signed\":{\"by\":\"";
        let Ok(text) = std::str::from_utf8(&row.value) else { return false };
        let Some(by) = text.find(begin).and_then(|at| text.get(at + begin.len()..)?.split('"').next()) else {
            return false;
        };
        self.lock().known.of(by).is_none()
    }

    /// Remembers the public keys of nodes from their join records.
    pub(super) fn learn<'r>(&self, joined: impl IntoIterator<Item = &'r Row>) {
        for row in joined {
            let Some(Key::Joined { node }) = Key::parse(&row.key) else { continue };
            let Some((record, signature)) = split(&row.value) else { continue };
            if let Ok(signed) = self.check(&row.key, &bytes(&record), signature)
                && signed.by == node
            {
                // The call of `identify` stores the key if the signer may have it.
                let _ = self.identify(&signed);
            }
        }
    }

    /// Verifies the record in a row, and returns the row without the signature. `None` if this node rejects the record.
    pub(super) fn read(&self, mut row: Row) -> Option<Row> {
        let Some(key) = Key::parse(&row.key) else {
            self.refuse(&row, "no record has a key of this form");
            return None;
        };
        let of = writers(&key);
        if of == Writers::Digest {
            return Some(row);
        }
        let namesake = match &key {
            Key::Joined { node } | Key::Agent { node } => *node == self.node,
            _ => false,
        };
        let Some((record, signature)) = split(&row.value) else {
            self.refuse(&row, "the value is not a JSON object");
            self.note_void(row.key, row.modified);
            return None;
        };
        row.value = match self.judge(&row, &key, &of, &record, signature) {
            Ok(()) => {
                self.lock().void.remove(&row.key);
                bytes(&record)
            }
            Err(Void::Taken) => bytes(&record),
            Err(Void::Refused(why)) => {
                self.refuse(&row, &why);
                // This node must see a record that another key has signed in this node's name.
                if !(namesake && self.is_signed_as(&row, &self.node)) {
                    self.note_void(row.key, row.modified);
                    return None;
                }
                bytes(&record)
            }
        };
        Some(row)
    }

    fn note_void(&self, key: String, modified: u64) {
        let mut state = self.lock();
        if state.void.len() >= VOID {
            state.void.clear();
        }
        state.void.insert(key, modified);
    }

    /// Checks a record: its signature, its signer, the rights of the signer, and the record number.
    fn judge(
        &self,
        row: &Row,
        key: &Key<'_>,
        of: &Writers<'_>,
        record: &Map<String, Value>,
        signature: Option<Value>,
    ) -> Result<(), Void> {
        let digest: [u8; 32] =
            Sha256::new().chain_update(&row.key).chain_update([0]).chain_update(&row.value).finalize().into();
        let known = self.lock().checked(&digest);
        let fresh = known.is_none();
        let mut checked = known
            .unwrap_or_else(|| Checked { signed: self.check(&row.key, &bytes(record), signature), entitled: false });
        let verdict = checked.signed.clone().map_err(Doubt::Refused).and_then(|signed| {
            if let Err(doubt) = self.identify(&signed) {
                self.note_stranger(key, &signed, record);
                return Err(doubt);
            }
            if !checked.entitled {
                of.check(&signed.by, record, &self.lock().books).map_err(Doubt::Refused)?;
            }
            // This node's own sequence number must stay visible even if it is old, because that proves a restore of the
            // store (P14).
            let own_mark = *key == (Key::Sequence { node: &self.node });
            if is_remembered(key) && !own_mark && !self.lock().known.take(&signed.by, &row.key, signed.seq) {
                return Err(Doubt::Refused(format!("node {} has written a newer record at this key", signed.by)));
            }
            Ok(signed.by)
        });
        let entitled = verdict.is_ok();
        if fresh || entitled && !checked.entitled {
            checked.entitled |= entitled;
            self.lock().remember(digest, checked.clone());
        }
        match verdict {
            Ok(by) => {
                if *key == (Key::Alive { node: &by }) {
                    self.lock().strangers.remove(&by);
                }
                Ok(())
            }
            // The node may be half changed although its key was replaced, so its slot counts as taken (P145).
            Err(Doubt::Former) if is_own_claim(key, record, checked.signed.as_ref().ok()) => Err(Void::Taken),
            Err(Doubt::Former) => {
                Err(Void::Refused("a commit has replaced the key of the signer (publicKeys of its Node object)".into()))
            }
            Err(Doubt::Refused(why)) => Err(Void::Refused(why)),
        }
    }

    /// Verifies the signature of a record. The function does not check the rights of the signer.
    fn check(&self, key: &str, record: &[u8], signature: Option<Value>) -> Result<Signed, String> {
        let signature = signature.and_then(|value| serde_json::from_value::<Signature>(value).ok());
        let Some(Signature { by, seq, with, sig }) = signature else { return Err("the record is not signed".into()) };
        let Some(shown) = self.signing_identity.read(&with, &by, &self.cluster) else {
            return Err(format!("the signature contains no valid certificate of node {by}"));
        };
        let sig = STANDARD_NO_PAD.decode(sig).unwrap_or_default();
        if !has_signed(&shown.key, &self.message(key, record, &by, seq), &sig) {
            return Err(format!("the signature of node {by} does not match the record"));
        }
        Ok(Signed { by, seq, shown })
    }

    /// Checks that a record is signed with the valid key of the node that the signature names. The first key of a node
    /// is valid until git lists another key (P143).
    fn identify(&self, signed: &Signed) -> Result<(), Doubt> {
        let Signed { by, shown, .. } = signed;
        if shown.proven {
            self.revoked.saw(shown.serial.as_deref(), &shown.key);
        }
        if let Some(why) = self.revoked.refuses(shown.serial.as_deref(), &shown.key) {
            return Err(Doubt::Refused(why));
        }
        let certified = self.signing_identity.is_certified();
        let mut state = self.lock();
        let named = state.named.as_ref().map(|named| (named.is_empty(), named.get(by).copied()));
        if let Some((none, None)) = named
            && *by != self.node
            && (certified || !none)
        {
            return Err(Doubt::Refused(format!("git has no Node object {by}")));
        }
        let given = named.and_then(|(_, named)| named).flatten();
        let expected = given.map(|keys| keys.sign).or_else(|| state.known.of(by).map(|known| known.sign));
        match expected {
            Some(expected) if expected == shown.key => Ok(()),
            Some(_) if state.known.of(by).is_some_and(|known| known.former.contains(&shown.key)) => Err(Doubt::Former),
            Some(_) => Err(Doubt::Refused(format!(
                "node {by} has not signed the record with its valid key; to replace the key, commit the new key to `publicKeys` of the Node object {by}"
            ))),
            None if certified && !shown.proven => Err(Doubt::Refused(format!(
                "node {by} has no certificate; issue a certificate, or commit the keys of the node to `publicKeys` of the Node object {by}"
            ))),
            None if state.known.pin(by, shown.key) => Ok(()),
            None => Err(Doubt::Refused(format!("cannot remember the key of node {by}: the list of keys is full"))),
        }
    }

    /// Records that a node presents an invalid public key.
    fn note_stranger(&self, key: &Key<'_>, signed: &Signed, record: &Map<String, Value>) {
        if *key != (Key::Alive { node: &signed.by }) || signed.by == self.node {
            return;
        }
        let shown = record.get("publicKeys").and_then(Value::as_array);
        let shown: Vec<String> = shown.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect();
        // The node may only present public keys with which it has signed.
        let fits = PublicKeys::read(&shown).is_some_and(|keys| keys.sign == signed.shown.key);
        self.lock().strangers.insert(signed.by.clone(), if fits { shown } else { Vec::new() });
    }

    /// Returns the store revision of the rejected record at a store key. `None` if this node has not rejected a record
    /// at the store key.
    pub(super) fn void(&self, key: &str) -> Option<u64> {
        self.lock().void.get(key).copied()
    }

    /// Returns the store key and the store revision of each rejected record whose store key begins with a prefix.
    pub(super) fn void_below(&self, prefix: &str) -> Vec<(String, u64)> {
        let state = self.lock();
        let below = state.void.iter().filter(|(key, _)| key.starts_with(prefix));
        below.map(|(key, at)| (key.clone(), *at)).collect()
    }

    pub(super) fn forget_void<'k>(&self, keys: impl IntoIterator<Item = &'k String>) {
        let mut state = self.lock();
        for key in keys {
            state.void.remove(key);
        }
    }

    fn refuse(&self, row: &Row, why: &str) {
        let known = self.lock().refused.insert(row.key.clone(), why.to_owned());
        if known.as_deref() != Some(why) {
            tracing::warn!(key = row.key, "ignored a record of the data store: {why}");
        }
    }
}

/// Returns true if a record is a claim or a failure of the node that has signed the record.
fn is_own_claim(key: &Key<'_>, record: &Map<String, Value>, signed: Option<&Signed>) -> bool {
    let Key::Slot { node, .. } = key else { return false };
    let kind = record.get("kind").and_then(Value::as_str);
    signed.is_some_and(|signed| signed.by == *node) && matches!(kind, Some("claim" | "failure"))
}

/// Splits a value into a record and its signature. `None` if the value is not a JSON object.
fn split(value: &[u8]) -> Option<(Map<String, Value>, Option<Value>)> {
    let Ok(Value::Object(mut record)) = serde_json::from_slice(value) else { return None };
    let signature = record.remove(FIELD);
    Some((record, signature))
}

fn bytes(record: &Map<String, Value>) -> Vec<u8> {
    serde_json::to_vec(record).unwrap_or_default()
}
