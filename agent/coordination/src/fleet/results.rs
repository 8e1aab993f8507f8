//! The results of elected tasks. A node seals (encrypts) a task result once. For each target, the node wraps (encrypts)
//! the sealing key, and writes the wrapped key to the inbox of the target. A target that joined later requests the
//! sealing key from other targets. A target that can read the result answers the request (P123, P126).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use towpath_host::identity::{PublicKeys, SealKey, seal};
use towpath_state::PublishedResult;

use super::{Fleet, Joined};
use crate::{
    keys,
    rollout::{RolloutSpec, SealedResult},
    store::{MAX_OPERATIONS, Op, Page, StoreError, Txn},
};

/// The maximum size of a published result, in bytes (P126).
const LARGEST: usize = 64 << 10;

/// The maximum number of targets that a node asks for a sealing key, besides the node that made the result.
const TARGETS_ASKED: usize = 3;

/// The decrypted result of an elected task on one node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskResult {
    /// True if the task succeeded.
    pub ok: bool,
    /// The value of the variable that the field `register` of the task names.
    pub result: Value,
    /// The message of the task. `None` if the task gave none.
    pub message: Option<String>,
}

impl From<PublishedResult> for TaskResult {
    fn from(published: PublishedResult) -> Self {
        let PublishedResult { ok, result, message, .. } = published;
        Self { ok, result, message }
    }
}

/// The sealing key of a result, encrypted (wrapped) for one node.
#[derive(Debug, Serialize, Deserialize)]
struct Wrapped {
    definition: String,
    key: String,
}

/// A request for the sealing key of a result.
#[derive(Debug, Serialize, Deserialize)]
struct KeyRequest {
    definition: String,
}

/// An elected task, with the digest of its definition.
#[derive(Debug, Clone, Copy)]
pub struct ElectedTask<'a> {
    /// The rollout of the book that contains the task.
    pub spec: &'a RolloutSpec,
    /// The id of the task.
    pub task: &'a str,
    /// The digest of the task and of the variables that the task reads.
    pub definition: &'a str,
}

impl ElectedTask<'_> {
    /// Returns the text that identifies a sealed result: the task, and the node that made the result. A node can
    /// decrypt a result only with the same text that was used to seal the result.
    fn purpose(&self, by: &str) -> String {
        purpose(&self.spec.book, self.task, self.definition, by)
    }
}

fn purpose(book: &str, task: &str, definition: &str, by: &str) -> String {
    format!("result of {book}/{task} {definition} by {by}")
}

fn failed(error: &std::io::Error) -> StoreError {
    StoreError::Unreachable(format!("cannot seal the result of an elected task: {error}"))
}

impl Fleet {
    /// Seals (encrypts) a task result for all targets. The result is not sealed if only this node uses the store, or if
    /// this node has no keys.
    pub(super) fn sealed(&self, elected_task: ElectedTask<'_>, found: &TaskResult) -> Result<SealedResult, StoreError> {
        let bytes = serde_json::to_vec(found).unwrap_or_default();
        if bytes.len() > LARGEST {
            return Err(StoreError::TooMuch { what: "the result of an elected task", most: LARGEST });
        }
        if !self.store.shared() || self.signing_identity.get().is_none() {
            return Ok(SealedResult { ok: found.ok, body: String::from_utf8_lossy(&bytes).into_owned() });
        }
        let (body, key) = seal(&bytes, &elected_task.purpose(&self.node)).map_err(|error| failed(&error))?;
        let targets = elected_task.spec.members.keys().chain(&elected_task.spec.late).cloned();
        self.wrap_for(elected_task, &self.node, &key, &targets.collect::<Vec<_>>())?;
        Ok(SealedResult { ok: found.ok, body })
    }

    /// Wraps the sealing key of a result for each given node, and writes the wrapped key to the inbox of that node.
    fn wrap_for(
        &self,
        elected_task: ElectedTask<'_>,
        by: &str,
        key: &SealKey,
        nodes: &[String],
    ) -> Result<(), StoreError> {
        let readers = self.readers()?;
        let mut puts = Vec::new();
        for node in nodes {
            // A node that has not joined has no public key yet. Such a node requests the sealing key after it has
            // joined.
            let Some(reader) = readers.get(node) else { continue };
            let wrapped = key.wrap(&reader.read, &elected_task.purpose(by)).map_err(|error| failed(&error))?;
            let record = Wrapped { definition: elected_task.definition.to_owned(), key: wrapped };
            let place = keys::result_key(node, &elected_task.spec.book, elected_task.task, by);
            puts.push(Op::put(place, serde_json::to_vec(&record).unwrap_or_default()));
        }
        for some in puts.chunks(MAX_OPERATIONS - 1) {
            self.write(&Txn { then: some.to_vec(), ..Txn::default() })?;
        }
        Ok(())
    }

    /// Reads the public keys of all nodes from their join records.
    fn readers(&self) -> Result<BTreeMap<String, PublicKeys>, StoreError> {
        let joined = self.rows(keys::ALL_JOINED)?;
        let keys = |value: &[u8]| PublicKeys::read(&serde_json::from_slice::<Joined>(value).ok()?.public_keys);
        Ok(joined.into_iter().filter_map(|(node, value)| Some((node, keys(&value)?))).collect())
    }

    /// Decrypts the results of an elected task. The function requests missing sealing keys, and returns the nodes whose
    /// results this node cannot decrypt yet.
    ///
    /// # Errors
    /// The store does not answer.
    pub fn open(
        &self,
        elected_task: ElectedTask<'_>,
        results: &BTreeMap<String, SealedResult>,
    ) -> Result<Result<BTreeMap<String, TaskResult>, Vec<String>>, StoreError> {
        let mut found = BTreeMap::new();
        let mut closed = Vec::new();
        for (by, result) in results {
            let plain = (!self.store.shared() || self.signing_identity.get().is_none())
                .then(|| result.body.clone().into_bytes());
            let bytes = match plain {
                Some(bytes) => Some(bytes),
                None => {
                    self.key_of(elected_task, by)?.and_then(|key| key.open(&result.body, &elected_task.purpose(by)))
                }
            };
            match bytes.and_then(|bytes| serde_json::from_slice::<TaskResult>(&bytes).ok()) {
                Some(one) => drop(found.insert(by.clone(), one)),
                None => closed.push(by.clone()),
            }
        }
        if closed.is_empty() {
            return Ok(Ok(found));
        }
        self.ask_for(elected_task, &closed)?;
        Ok(Err(closed))
    }

    /// Reads from this node's inbox the sealing key of a result. `None` if the inbox does not contain the key.
    fn key_of(&self, elected_task: ElectedTask<'_>, by: &str) -> Result<Option<SealKey>, StoreError> {
        let Some(signing_identity) = self.signing_identity.get() else { return Ok(None) };
        let place = keys::result_key(&self.node, &elected_task.spec.book, elected_task.task, by);
        let rows = self.store.read(&place, &Page { after: None, limit: 1 })?.rows;
        let row = rows.into_iter().find(|row| row.key == place);
        let wrapped: Option<Wrapped> = row.and_then(|row| serde_json::from_slice(&row.value).ok());
        let wrapped = wrapped.filter(|wrapped| wrapped.definition == elected_task.definition);
        Ok(wrapped.and_then(|wrapped| signing_identity.unwrap_key(&wrapped.key, &elected_task.purpose(by))))
    }

    /// Requests the sealing key of each result from the node that made the result, and from up to three other targets.
    fn ask_for(&self, elected_task: ElectedTask<'_>, closed: &[String]) -> Result<(), StoreError> {
        let alive = self.alive()?;
        let targets = elected_task.spec.members.keys().chain(&elected_task.spec.late);
        let others = targets.filter(|node| **node != self.node && alive.contains(*node) && !closed.contains(node));
        // The node that made a result may have lost the key of it, so other targets are asked too.
        let asked: Vec<&String> =
            closed.iter().filter(|by| alive.contains(*by)).chain(others.take(TARGETS_ASKED)).collect();
        let mut then: Vec<Op> = Vec::new();
        for node in asked {
            for by in closed {
                let place = keys::result_request(node, &elected_task.spec.book, elected_task.task, by, &self.node);
                let wanted = KeyRequest { definition: elected_task.definition.to_owned() };
                then.push(Op::put(place, serde_json::to_vec(&wanted).unwrap_or_default()));
            }
        }
        then.truncate(MAX_OPERATIONS - 1);
        self.write(&Txn { then, ..Txn::default() }).map(drop)
    }

    /// Returns true if another node has requested the sealing key of a task result from this node since the previous
    /// call.
    pub fn is_asked(&self) -> bool {
        self.membership.is_asked()
    }

    /// Answers the requests of other nodes for the sealing keys of task results. The closure `spec_of` returns the
    /// rollout of a book, or `None` if this node is not a target of the book.
    ///
    /// # Errors
    /// The store does not answer.
    pub fn answer(&self, spec_of: impl Fn(&str) -> Option<RolloutSpec>) -> Result<(), StoreError> {
        // No watch reports the same request a second time, so the node remembers a failed answer.
        self.answer_all(spec_of).inspect_err(|_| self.membership.note_asked())
    }

    fn answer_all(&self, spec_of: impl Fn(&str) -> Option<RolloutSpec>) -> Result<(), StoreError> {
        let prefix = keys::result_requests(&self.node);
        for (rest, definition) in self.rows(&prefix)? {
            let [namespace, name, task, by, from] = rest.split('/').collect::<Vec<_>>()[..] else { continue };
            let Ok(KeyRequest { definition }) = serde_json::from_slice(&definition) else { continue };
            let task = keys::unescaped(task);
            // Only nodes that this node's own revision selects as targets of the book get the key.
            let spec = spec_of(&format!("{namespace}/{name}")).filter(|spec| spec.selects(from));
            if let Some(spec) = &spec {
                let elected_task = ElectedTask { spec, task: &task, definition: &definition };
                if let Some(key) = self.key_of(elected_task, by)? {
                    self.wrap_for(elected_task, by, &key, &[from.to_owned()])?;
                }
            }
            let then = vec![Op::Delete(format!("{prefix}{rest}"))];
            self.write(&Txn { then, ..Txn::default() })?;
        }
        Ok(())
    }
}
