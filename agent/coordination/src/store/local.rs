//! A store in memory that behaves like etcd, for the nodes of one process. The journal of the first node keeps a copy
//! of the rows (P13).

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use tokio::sync::mpsc;
use towpath_state::{Changes, Journal, JournalError, StoreRevision, StoreRow, kinds};

use super::{Change, LeaseId, Op, Outcome, Page, Read, Row, Store, StoreError, Txn, memory::Memory};

/// The number of past changes that the store keeps, so that a watch can begin at an earlier revision.
const HISTORY: usize = 10_000;

/// A store in memory for the nodes of one process.
#[derive(Debug, Default)]
pub struct LocalStore {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    memory: Memory,
    watches: Vec<(String, mpsc::UnboundedSender<Change>)>,
    history: std::collections::VecDeque<(u64, Change)>,
    /// The store revision of the newest change that was removed from the history.
    compacted: u64,
    leases: BTreeMap<LeaseId, (Duration, Instant)>,
    last_lease: u64,
    journal: Option<Arc<Journal>>,
}

impl LocalStore {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.expire(now());
        inner
    }

    /// Ends a lease before its time to live has passed.
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
        changes.into_iter().for_each(|change| self.notify_watchers(change));
    }

    /// Writes the changes of a transaction to the journal, except rows with a lease, because leases end with the
    /// process.
    fn keep(&self, outcome: &Outcome, changes: &[Change]) -> Result<(), StoreError> {
        let (Some(journal), Outcome::Done { revision, .. }) = (&self.journal, outcome) else { return Ok(()) };
        let mut kept = Changes::default();
        for change in changes {
            match change {
                Change::Put(row) if !self.memory.is_leased(&row.key) => {
                    kept.put(&row.key, &StoreRow(STANDARD.encode(&row.value), row.created, row.modified));
                }
                Change::Put(_) => {}
                Change::Delete(key, _) => kept.delete::<kinds::StoreRow>(key),
            }
        }
        if kept.is_empty() {
            return Ok(());
        }
        kept.set(&StoreRevision(*revision));
        journal.commit(kept).map_err(|error| StoreError::Unreachable(error.to_string()))
    }

    fn notify_watchers(&mut self, change: Change) {
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

    fn keep_in(&self, journal: &Arc<Journal>) -> Result<(), JournalError> {
        let mut inner = self.lock();
        if inner.journal.is_some() {
            return Ok(());
        }
        let rows = journal.all::<StoreRow>()?;
        let rows = rows.into_iter().filter_map(|(key, StoreRow(value, created, modified))| {
            Some(Row { key, value: STANDARD.decode(value).ok()?, created, modified })
        });
        let StoreRevision(revision) = journal.get_readable(&())?.unwrap_or_default();
        inner.memory = Memory::of(rows, revision);
        inner.compacted = inner.memory.revision;
        inner.journal = Some(Arc::clone(journal));
        Ok(())
    }

    fn read(&self, prefix: &str, page: &Page) -> Result<Read, StoreError> {
        let inner = self.lock();
        let following = |row: &&Row| page.after.as_ref().is_none_or(|after| row.key > *after);
        let mut rows: Vec<Row> = inner.memory.below(prefix).filter(following).take(page.limit + 1).cloned().collect();
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
                // The receiver still exists here, so the send cannot fail.
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

    fn time_left(&self, key: &str) -> Result<Option<Duration>, StoreError> {
        let inner = self.lock();
        let lease = inner.memory.lease_of(key).and_then(|lease| inner.leases.get(&lease).copied());
        Ok(lease.map(|(ttl, kept)| ttl.saturating_sub(now().duration_since(kept))))
    }

    fn commit(&self, txn: &Txn) -> Result<Outcome, StoreError> {
        let mut inner = self.lock();
        let missing_lease = txn.then.iter().chain(&txn.otherwise).any(
            |operation| matches!(operation, Op::Put { lease: Some(lease), .. } if !inner.leases.contains_key(lease)),
        );
        if missing_lease {
            return Err(StoreError::LeaseGone);
        }
        let before = inner.journal.is_some().then(|| inner.memory.clone());
        let (outcome, changes) = inner.memory.apply(txn)?;
        if let Err(error) = inner.keep(&outcome, &changes) {
            // A change that could not be written to the journal must not be visible.
            inner.memory = before.unwrap_or_default();
            return Err(error);
        }
        changes.into_iter().for_each(|change| inner.notify_watchers(change));
        Ok(outcome)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Compare;

    #[test]
    fn rows_outlive_the_process_and_leases_do_not() {
        let folder = tempfile::tempdir().unwrap();
        let open = || {
            let store = LocalStore::default();
            store.keep_in(&Arc::new(Journal::open(folder.path()).unwrap().0)).unwrap();
            store
        };
        let put = |key: &str, lease| Op::Put { key: key.into(), value: vec![0xff, b'{'], lease };
        let store = open();
        let lease = store.lease(Duration::from_secs(60)).unwrap();
        for operation in [put("a/1", None), put("a/2", None), put("a/3", Some(lease)), Op::Delete("a/1".into())] {
            store.commit(&Txn { then: vec![operation], ..Txn::default() }).unwrap();
        }
        let before = store.read("a/2", &Page::default()).unwrap();
        drop(store);
        let store = open();
        let after = store.read("a/", &Page::default()).unwrap();
        assert_eq!((&after.rows, after.revision >= 2), (&before.rows, true));
        let compare = vec![Compare::Revision("a/2".into(), before.rows[0].modified)];
        let outcome = store.commit(&Txn { compare, then: vec![put("a/4", None)], ..Txn::default() }).unwrap();
        assert!(matches!(outcome, Outcome::Done { .. }));
    }
}
