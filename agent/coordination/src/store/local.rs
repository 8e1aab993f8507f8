//! The store of the nodes of one process: in memory, with the semantics of etcd.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::mpsc;

use super::{Answer, Change, Compare, LeaseId, MAX_OPERATIONS, Op, Outcome, Page, Read, Row, Store, StoreError, Txn};

/// How many changes are kept for watches that begin in the past.
const HISTORY: usize = 10_000;

/// A store in memory.
#[derive(Debug, Default)]
pub struct LocalStore {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    revision: u64,
    rows: BTreeMap<String, (Row, Option<LeaseId>)>,
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
        let gone: Vec<String> = self
            .rows
            .iter()
            .filter(|(_, (_, lease))| lease.is_some_and(|lease| !self.leases.contains_key(&lease)))
            .map(|(key, _)| key.clone())
            .collect();
        if !gone.is_empty() {
            self.revision += 1;
            for key in gone {
                self.rows.remove(&key);
                self.tell(Change::Delete(key, self.revision));
            }
        }
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

    fn holds(&self, compare: &Compare) -> bool {
        match compare {
            Compare::Absent(key) => !self.rows.contains_key(key),
            Compare::Revision(key, revision) => self.rows.get(key).is_some_and(|(row, _)| row.modified == *revision),
            Compare::NoneNewer(prefix, revision) => self.below(prefix).all(|row| row.modified <= *revision),
        }
    }

    fn below<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = &'a Row> {
        self.rows.range(prefix.to_owned()..).map(|(_, (row, _))| row).take_while(move |row| row.key.starts_with(prefix))
    }
}

impl Store for LocalStore {
    fn read(&self, prefix: &str, page: &Page) -> Result<Read, StoreError> {
        let inner = self.lock();
        let behind = |row: &&Row| page.after.as_ref().is_none_or(|after| row.key > *after);
        let mut rows: Vec<Row> = inner.below(prefix).filter(behind).take(page.limit + 1).cloned().collect();
        let more = rows.len() > page.limit;
        rows.truncate(page.limit);
        Ok(Read { rows, revision: inner.revision, more })
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
        let size = txn.then.len().max(txn.otherwise.len());
        if size > MAX_OPERATIONS {
            return Err(StoreError::TooLarge(size));
        }
        let done = txn.compare.iter().all(|compare| inner.holds(compare));
        let operations = if done { &txn.then } else { &txn.otherwise };
        let missing_lease = operations.iter().any(
            |operation| matches!(operation, Op::Put { lease: Some(lease), .. } if !inner.leases.contains_key(lease)),
        );
        if missing_lease {
            return Err(StoreError::LeaseGone);
        }
        if operations.iter().any(Op::writes) {
            inner.revision += 1;
        }
        let revision = inner.revision;
        let mut answers = Vec::new();
        for operation in operations {
            match operation {
                Op::Put { key, value, lease } => {
                    let created = inner.rows.get(key).map_or(revision, |(row, _)| row.created);
                    let row = Row { key: key.clone(), value: value.clone(), created, modified: revision };
                    inner.rows.insert(key.clone(), (row.clone(), *lease));
                    inner.tell(Change::Put(row));
                }
                Op::Delete(key) => {
                    if inner.rows.remove(key).is_some() {
                        inner.tell(Change::Delete(key.clone(), revision));
                    }
                }
                Op::Read(prefix) => answers.push(answer(inner.below(prefix).cloned().collect())),
                Op::Oldest(prefix, limit) => {
                    let mut rows: Vec<Row> = inner.below(prefix).cloned().collect();
                    rows.sort_by_key(|row| row.created);
                    let count = rows.len() as u64;
                    rows.truncate(*limit);
                    answers.push(Answer { rows, count });
                }
                Op::Count(prefix) => {
                    answers.push(Answer { rows: Vec::new(), count: inner.below(prefix).count() as u64 });
                }
            }
        }
        Ok(if done { Outcome::Done { revision, answers } } else { Outcome::Refused { revision, answers } })
    }
}

fn answer(rows: Vec<Row>) -> Answer {
    Answer { count: rows.len() as u64, rows }
}
