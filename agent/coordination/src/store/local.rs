//! The store of the nodes of one process: in memory, with the semantics of etcd.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::mpsc;

use super::{Change, LeaseId, Op, Outcome, Page, Read, Row, Store, StoreError, Txn, memory::Memory};

/// How many changes are kept for watches that begin in the past.
const HISTORY: usize = 10_000;

/// A store in memory.
#[derive(Debug, Default)]
pub struct LocalStore {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    memory: Memory,
    watches: Vec<(String, mpsc::UnboundedSender<Change>)>,
    history: std::collections::VecDeque<(u64, Change)>,
    /// The newest revision that is no longer in the history.
    compacted: u64,
    leases: BTreeMap<LeaseId, (Duration, Instant)>,
    last_lease: u64,
}

impl LocalStore {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.expire(now());
        inner
    }

    /// Lets a lease run out, as if its time had passed.
    pub fn revoke(&self, lease: LeaseId) {
        let mut inner = self.lock();
        inner.leases.remove(&lease);
        inner.drop_leased();
    }
}

#[expect(clippy::disallowed_methods, reason = "leases run on the monotonic clock of this process")]
fn now() -> Instant {
    Instant::now()
}

impl Inner {
    fn expire(&mut self, now: Instant) {
        let before = self.leases.len();
        self.leases.retain(|_, (ttl, kept)| now.duration_since(*kept) <= *ttl);
        if self.leases.len() != before {
            self.drop_leased();
        }
    }

    fn drop_leased(&mut self) {
        let leases = &self.leases;
        let changes = self.memory.drop_leased(|lease| leases.contains_key(&lease));
        changes.into_iter().for_each(|change| self.tell(change));
    }

    fn tell(&mut self, change: Change) {
        let (key, revision) = match &change {
            Change::Put(row) => (row.key.clone(), row.modified),
            Change::Delete(key, revision) => (key.clone(), *revision),
        };
        self.watches
            .retain(|(prefix, sender)| !key.starts_with(prefix.as_str()) || sender.send(change.clone()).is_ok());
        self.history.push_back((revision, change));
        if self.history.len() > HISTORY
            && let Some((revision, _)) = self.history.pop_front()
        {
            self.compacted = revision;
        }
    }
}

impl Store for LocalStore {
    fn shared(&self) -> bool {
        false
    }

    fn read(&self, prefix: &str, page: &Page) -> Result<Read, StoreError> {
        let inner = self.lock();
        let behind = |row: &&Row| page.after.as_ref().is_none_or(|after| row.key > *after);
        let mut rows: Vec<Row> = inner.memory.below(prefix).filter(behind).take(page.limit + 1).cloned().collect();
        let more = rows.len() > page.limit;
        rows.truncate(page.limit);
        Ok(Read { rows, revision: inner.memory.revision, more })
    }

    fn watch(&self, prefix: &str, from: u64) -> Result<mpsc::UnboundedReceiver<Change>, StoreError> {
        let mut inner = self.lock();
        if from <= inner.compacted && inner.compacted > 0 {
            return Err(StoreError::Compacted(from));
        }
        let (sender, receiver) = mpsc::unbounded_channel();
        for (revision, change) in &inner.history {
            let key = match change {
                Change::Put(row) => &row.key,
                Change::Delete(key, _) => key,
            };
            if *revision >= from && key.starts_with(prefix) {
                // The receiver is right here.
                let _ = sender.send(change.clone());
            }
        }
        inner.watches.push((prefix.to_owned(), sender));
        Ok(receiver)
    }

    fn lease(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        let mut inner = self.lock();
        inner.last_lease += 1;
        let lease = LeaseId(inner.last_lease);
        inner.leases.insert(lease, (ttl, now()));
        Ok(lease)
    }

    fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        let mut inner = self.lock();
        let entry = inner.leases.get_mut(&lease).ok_or(StoreError::LeaseGone)?;
        entry.1 = now();
        Ok(())
    }

    fn commit(&self, txn: &Txn) -> Result<Outcome, StoreError> {
        let mut inner = self.lock();
        let missing_lease = txn.then.iter().chain(&txn.otherwise).any(
            |operation| matches!(operation, Op::Put { lease: Some(lease), .. } if !inner.leases.contains_key(lease)),
        );
        if missing_lease {
            return Err(StoreError::LeaseGone);
        }
        let (outcome, changes) = inner.memory.apply(txn)?;
        changes.into_iter().for_each(|change| inner.tell(change));
        Ok(outcome)
    }
}
