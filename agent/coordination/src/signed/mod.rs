//! A store whose records are signed. Each record contains the signature of its writer. A read leaves out each record
//! with an invalid signature, and each record whose signer is not allowed to write the record.
//!
//! An attacker who controls the store can delay and hide records, and so delay rollouts or change the order of
//! rollouts. The attacker cannot forge a record of another node. The attacker cannot copy a record to another store key
//! or replay the record, because the signature covers the store key and a growing number (P106, P110).

mod known_writers;
mod signer;
mod writers;

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::sync::mpsc;

use self::writers::Writers;
pub use self::{
    known_writers::KnownWriter,
    signer::RecordSigner,
    writers::{BookRights, Rights},
};
use crate::{
    keys::{self, Key},
    store::{Answer, Change, Compare, LeaseId, Op, Outcome, Page, Read, Row, Store, StoreError, Txn},
};

/// A store that signs every written record and verifies every read record.
pub struct SignedStore {
    inner: Arc<dyn Store>,
    signer: Arc<RecordSigner>,
    /// True if this node has already set its next record number above the numbers of its records in the store.
    adopted: Mutex<bool>,
}

impl fmt::Debug for SignedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SignedStore").field("inner", &self.inner).finish_non_exhaustive()
    }
}

impl SignedStore {
    /// Creates a signed store that keeps the signed records in the store `inner`.
    pub fn new(inner: Arc<dyn Store>, signer: Arc<RecordSigner>) -> Self {
        Self { inner, signer, adopted: Mutex::new(false) }
    }

    fn seal(&self, operations: &[Op]) -> Result<Vec<Op>, StoreError> {
        let seal = |operation: &Op| {
            let Op::Put { key, value, lease } = operation else { return Ok(operation.clone()) };
            let Some(kind) = Key::parse(key) else {
                return Err(StoreError::Denied(format!("no record has a key of the form {key}")));
            };
            if writers::writers(&kind) == Writers::Digest {
                return Ok(operation.clone());
            }
            Ok(Op::Put { key: key.clone(), value: self.signer.sign(key, value), lease: *lease })
        };
        operations.iter().map(seal).collect()
    }

    /// Sets the next record number of this node above the numbers of its records in the store (P146). Only the first
    /// call reads the store.
    fn adopt(&self) -> Result<(), StoreError> {
        let mut adopted = self.adopted.lock().unwrap_or_else(PoisonError::into_inner);
        if *adopted {
            return Ok(());
        }
        let node = self.signer.node();
        let own = [
            keys::joined(node),
            keys::agent(node),
            keys::write_sequence(node),
            keys::alive(node),
            keys::state(node),
            keys::facts(node),
            keys::ACCEPTED.to_owned(),
        ];
        let then = own.into_iter().map(Op::Read).collect();
        let (_, answers) = self.inner.commit(&Txn { then, ..Txn::default() })?.answers();
        self.signer.adopt(answers.iter().flat_map(|answer| &answer.rows));
        *adopted = true;
        Ok(())
    }

    /// Learns the public keys of all nodes from their join records, if this node does not know the writer of a row.
    fn introduce(&self, rows: &[Row]) {
        if !rows.iter().any(|row| self.signer.is_by_unknown(row)) {
            return;
        }
        let mut page = Page::default();
        while let Ok(read) = self.inner.read(keys::ALL_JOINED, &page) {
            self.signer.learn(&read.rows);
            page.after = read.rows.last().map(|row| row.key.clone());
            if !read.more || page.after.is_none() {
                break;
            }
        }
    }

    fn judged(&self, rows: Vec<Row>) -> Vec<Row> {
        self.introduce(&rows);
        rows.into_iter().filter_map(|row| self.signer.read(row)).collect()
    }

    fn open(&self, answers: Vec<Answer>) -> Vec<Answer> {
        let open = |answer: Answer| Answer { rows: self.judged(answer.rows), count: answer.count };
        answers.into_iter().map(open).collect()
    }

    /// Converts a condition for the inner store, which also contains records that this node rejects.
    fn condition(&self, compare: &Compare) -> Result<Compare, StoreError> {
        match compare {
            Compare::Absent(key) => {
                let void = self.signer.void(key).map(|at| Compare::Revision(key.clone(), at));
                Ok(void.unwrap_or_else(|| compare.clone()))
            }
            Compare::NoneNewer(prefix, at) if prefix == keys::ALL_RECOVERIES => {
                self.clear(prefix, *at)?;
                Ok(compare.clone())
            }
            other => Ok(other.clone()),
        }
    }

    /// Deletes from the inner store the rejected records whose keys begin with a prefix, because a condition about the
    /// prefix also counts rejected records.
    fn clear(&self, prefix: &str, after: u64) -> Result<(), StoreError> {
        for (key, at) in self.signer.void_below(prefix) {
            if at > after {
                let compare = vec![Compare::Revision(key.clone(), at)];
                self.inner.commit(&Txn { compare, then: vec![Op::Delete(key.clone())], ..Txn::default() })?;
            }
            self.signer.forget_void([&key]);
        }
        Ok(())
    }
}

impl Store for SignedStore {
    fn read(&self, prefix: &str, page: &Page) -> Result<Read, StoreError> {
        let mut page = page.clone();
        if prefix == keys::ALL_ALIVE && page.after.is_none() {
            self.signer.forget_strangers();
        }
        loop {
            let mut read = self.inner.read(prefix, &page)?;
            let last = read.rows.last().map(|row| row.key.clone());
            read.rows = self.judged(read.rows);
            // A page whose records all do not count would look like the end of the range, so the next page is read.
            if !read.more || !read.rows.is_empty() {
                return Ok(read);
            }
            page.limit = page.limit.max(Page::default().limit);
            page.after = last;
        }
    }

    fn watch(&self, prefix: &str, from: u64) -> Result<mpsc::UnboundedReceiver<Change>, StoreError> {
        // A watch only wakes the node. `counts` decides whether to wake the node, and later reads verify the records.
        self.inner.watch(prefix, from)
    }

    fn counts(&self, row: &Row) -> bool {
        self.introduce(std::slice::from_ref(row));
        self.signer.read(row.clone()).is_some()
    }

    fn as_written(&self, key: &str) -> Result<Option<Row>, StoreError> {
        self.inner.as_written(key)
    }

    fn is_of_namesake(&self, row: &Row) -> bool {
        self.signer.is_of_namesake(row)
    }

    fn strangers(&self) -> BTreeMap<String, Vec<String>> {
        self.signer.strangers()
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
        if txn.then.iter().chain(&txn.otherwise).any(|operation| matches!(operation, Op::Put { .. })) {
            self.adopt()?;
        }
        let sealed = Txn {
            compare: txn.compare.iter().map(|compare| self.condition(compare)).collect::<Result<_, _>>()?,
            then: self.seal(&txn.then)?,
            otherwise: self.seal(&txn.otherwise)?,
        };
        let outcome = self.inner.commit(&sealed)?;
        if matches!(outcome, Outcome::Refused { .. }) {
            // Another node may have deleted a record that did not count, so the next attempt reads the record again.
            self.signer.forget_void(txn.compare.iter().filter_map(|compare| match compare {
                Compare::Absent(key) => Some(key),
                Compare::Revision(..) | Compare::NoneNewer(..) => None,
            }));
        }
        Ok(match outcome {
            Outcome::Done { revision, answers } => Outcome::Done { revision, answers: self.open(answers) },
            Outcome::Refused { revision, answers } => Outcome::Refused { revision, answers: self.open(answers) },
        })
    }
}

#[cfg(test)]
mod forged;
#[cfg(test)]
mod tests;
