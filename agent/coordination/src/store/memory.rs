//! Keeps the rows of a store in memory, and applies transactions to the rows. All functions of this file are pure, and
//! a transaction has the same effect as in etcd. The local store, the model checker and the simulation use this file.

use std::collections::BTreeMap;

use super::{Answer, Change, Compare, LeaseId, Op, Outcome, Row, StoreError, Txn};

/// The rows of a store, and the store revision of the newest change.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Memory {
    /// The store revision of the newest change.
    pub revision: u64,
    rows: BTreeMap<String, (Row, Option<LeaseId>)>,
}

impl Memory {
    /// Creates the store from existing rows and the store revision of the newest change.
    pub fn of(rows: impl IntoIterator<Item = Row>, revision: u64) -> Self {
        Self { revision, rows: rows.into_iter().map(|row| (row.key.clone(), (row, None))).collect() }
    }

    /// Returns true if the row of a key is bound to a lease.
    pub fn is_leased(&self, key: &str) -> bool {
        self.rows.get(key).is_some_and(|(_, lease)| lease.is_some())
    }

    /// Returns the lease of the row at a key. `None` if the row does not exist or is not bound to a lease.
    pub fn lease_of(&self, key: &str) -> Option<LeaseId> {
        self.rows.get(key).and_then(|(_, lease)| *lease)
    }

    /// Runs a transaction. Returns the outcome of the transaction, and the rows that it has changed.
    ///
    /// # Errors
    /// Returns an error if the transaction has too many operations, or writes a key twice.
    pub fn apply(&mut self, txn: &Txn) -> Result<(Outcome, Vec<Change>), StoreError> {
        txn.check(0)?;
        let done = txn.compare.iter().all(|compare| self.holds(compare));
        let operations = if done { &txn.then } else { &txn.otherwise };
        if operations.iter().any(Op::writes) {
            self.revision += 1;
        }
        let revision = self.revision;
        let mut answers = Vec::new();
        let mut changes = Vec::new();
        for operation in operations {
            match operation {
                Op::Put { key, value, lease } => {
                    let created = self.rows.get(key).map_or(revision, |(row, _)| row.created);
                    let row = Row { key: key.clone(), value: value.clone(), created, modified: revision };
                    self.rows.insert(key.clone(), (row.clone(), *lease));
                    changes.push(Change::Put(row));
                }
                Op::Delete(key) => {
                    if self.rows.remove(key).is_some() {
                        changes.push(Change::Delete(key.clone(), revision));
                    }
                }
                Op::DeleteAll(prefix) => {
                    let gone: Vec<String> = self.below(prefix).map(|row| row.key.clone()).collect();
                    for key in gone {
                        self.rows.remove(&key);
                        changes.push(Change::Delete(key, revision));
                    }
                }
                reading => answers.extend(self.answer(reading)),
            }
        }
        let outcome = if done { Outcome::Done { revision, answers } } else { Outcome::Refused { revision, answers } };
        Ok((outcome, changes))
    }

    /// Returns the answer to a reading operation. `None` for an operation that writes.
    fn answer(&self, operation: &Op) -> Option<Answer> {
        match operation {
            Op::Read(prefix) => {
                let rows: Vec<Row> = self.below(prefix).cloned().collect();
                Some(Answer { count: rows.len() as u64, rows })
            }
            Op::Oldest(prefix, limit) => {
                let mut rows: Vec<Row> = self.below(prefix).cloned().collect();
                rows.sort_by_key(|row| row.created);
                let count = rows.len() as u64;
                rows.truncate(*limit);
                Some(Answer { rows, count })
            }
            Op::Count(prefix) => Some(Answer { rows: Vec::new(), count: self.below(prefix).count() as u64 }),
            Op::Put { .. } | Op::Delete(_) | Op::DeleteAll(_) => None,
        }
    }

    /// Runs a transaction that only reads. Returns the store revision and the answers.
    pub fn peek(&self, txn: &Txn) -> (u64, Vec<Answer>) {
        (self.revision, txn.then.iter().filter_map(|operation| self.answer(operation)).collect())
    }

    /// Removes the rows whose lease has ended. The closure `kept` returns true if a lease still exists.
    pub fn drop_leased(&mut self, kept: impl Fn(LeaseId) -> bool) -> Vec<Change> {
        let gone: Vec<String> = self
            .rows
            .iter()
            .filter(|(_, (_, lease))| lease.is_some_and(|lease| !kept(lease)))
            .map(|(key, _)| key.clone())
            .collect();
        if gone.is_empty() {
            return Vec::new();
        }
        self.revision += 1;
        gone.into_iter()
            .map(|key| {
                self.rows.remove(&key);
                Change::Delete(key, self.revision)
            })
            .collect()
    }

    /// Returns the rows whose keys begin with a prefix, in the order of keys.
    pub fn below<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = &'a Row> {
        self.rows.range(prefix.to_owned()..).map(|(_, (row, _))| row).take_while(move |row| row.key.starts_with(prefix))
    }

    /// Returns mutable references to all rows, so that the model checker can renumber their store revisions.
    pub fn rows_mut(&mut self) -> impl Iterator<Item = &mut Row> {
        self.rows.values_mut().map(|(row, _)| row)
    }

    fn holds(&self, compare: &Compare) -> bool {
        match compare {
            Compare::Absent(key) => !self.rows.contains_key(key),
            Compare::Revision(key, revision) => self.rows.get(key).is_some_and(|(row, _)| row.modified == *revision),
            Compare::NoneNewer(prefix, revision) => self.below(prefix).all(|row| row.modified <= *revision),
        }
    }
}
