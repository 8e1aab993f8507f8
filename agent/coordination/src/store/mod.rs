//! The store that nodes agree through: shaped like etcd, which implements it too.

pub mod etcd;
pub mod local;
pub mod memory;

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use thiserror::Error;
use tokio::sync::mpsc;
use towpath_host::journal::{Journal, JournalError};

/// Keys, values, revisions, transactions, watches and leases.
///
/// Guarantees: transactions are applied one after another, each whole or not at all; every applied one that writes
/// has a revision of its own, larger than those before it; a watch from a revision gives every later change, in order.
pub trait Store: fmt::Debug + Send + Sync {
    /// The rows whose keys begin with a prefix, in the order of keys, and the revision at which they were read.
    ///
    /// # Errors
    /// When the store does not answer.
    fn read(&self, prefix: &str, page: &Page) -> Result<Read, StoreError>;

    /// Changes to keys with a prefix, from a revision on.
    ///
    /// # Errors
    /// When the store does not answer, or no longer has the changes since that revision.
    fn watch(&self, prefix: &str, from: u64) -> Result<mpsc::UnboundedReceiver<Change>, StoreError>;

    /// A lease: keys that are bound to it go when it is not kept alive.
    ///
    /// # Errors
    /// When the store does not answer.
    fn lease(&self, ttl: Duration) -> Result<LeaseId, StoreError>;

    /// Keeps a lease alive for its time to live.
    ///
    /// # Errors
    /// When the store does not answer, or the lease is gone.
    fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError>;

    /// Returns the time until a key goes with its lease; zero if the lease has ended. None: there is no such key, or it
    /// goes with no lease.
    ///
    /// # Errors
    /// When the store does not answer.
    fn time_left(&self, key: &str) -> Result<Option<Duration>, StoreError>;

    /// Whether other processes see it too.
    fn shared(&self) -> bool {
        true
    }

    /// Whether a row counts for those who read: nothing wakes for one that does not.
    fn counts(&self, _row: &Row) -> bool {
        true
    }

    /// The row of a key as it was written, with its signature. `None` if there is none.
    ///
    /// # Errors
    /// When the store does not answer.
    fn as_written(&self, key: &str) -> Result<Option<Row>, StoreError> {
        let rows = self.read(key, &Page { after: None, limit: 1 })?.rows;
        Ok(rows.into_iter().find(|row| row.key == key))
    }

    /// Whether this node's own key has signed a row since the process began.
    fn is_of_namesake(&self, _row: &Row) -> bool {
        false
    }

    /// The nodes that came with another key than the one they are known by, with the keys that they show.
    fn strangers(&self) -> BTreeMap<String, Vec<String>> {
        BTreeMap::new()
    }

    /// Keeps what it holds in a node's journal, where nothing else does.
    ///
    /// # Errors
    /// When the journal can't be read.
    fn keep_in(&self, _journal: &Arc<Journal>) -> Result<(), JournalError> {
        Ok(())
    }

    /// Runs a transaction.
    ///
    /// # Errors
    /// When the store does not answer: it is then not known whether the transaction was applied.
    fn commit(&self, txn: &Txn) -> Result<Outcome, StoreError>;
}

/// Which part of the rows is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// Only keys behind this one.
    pub after: Option<String>,
    /// At most so many rows.
    pub limit: usize,
}

impl Default for Page {
    fn default() -> Self {
        Self { after: None, limit: 500 }
    }
}

/// Rows and the revision at which they were read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Read {
    /// The rows.
    pub rows: Vec<Row>,
    /// The revision of the store.
    pub revision: u64,
    /// Whether there are more rows behind these.
    pub more: bool,
}

/// One key and its value.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Row {
    /// The key.
    pub key: String,
    /// The value.
    pub value: Vec<u8>,
    /// The revision that created it.
    pub created: u64,
    /// The revision that changed it last.
    pub modified: u64,
}

/// A change that a watch tells of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A key was set.
    Put(Row),
    /// A key was deleted, at a revision.
    Delete(String, u64),
}

/// A lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub u64);

/// A transaction, as plain data.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Txn {
    /// What must all hold.
    pub compare: Vec<Compare>,
    /// What is done then.
    pub then: Vec<Op>,
    /// What is done otherwise.
    pub otherwise: Vec<Op>,
}

/// A condition of a transaction.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Compare {
    /// There is no such key.
    Absent(String),
    /// The key was last changed at this revision.
    Revision(String, u64),
    /// No key with this prefix was changed after this revision.
    NoneNewer(String, u64),
}

/// One operation of a transaction.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Op {
    /// Sets a key.
    Put {
        /// The key.
        key: String,
        /// The value.
        value: Vec<u8>,
        /// The lease that it goes with.
        lease: Option<LeaseId>,
    },
    /// Deletes a key.
    Delete(String),
    /// Deletes all keys with a prefix.
    DeleteAll(String),
    /// Reads the rows with a prefix, as they are behind the operations before it.
    Read(String),
    /// Reads the rows with a prefix that were created first.
    Oldest(String, usize),
    /// Counts the rows with a prefix.
    Count(String),
}

impl Op {
    /// Sets a key that goes with no lease.
    pub fn put(key: impl Into<String>, value: Vec<u8>) -> Self {
        Self::Put { key: key.into(), value, lease: None }
    }

    fn writes(&self) -> bool {
        matches!(self, Self::Put { .. } | Self::Delete(_) | Self::DeleteAll(_))
    }
}

/// What one reading operation of a transaction gave.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answer {
    /// The rows; none where they were only counted.
    pub rows: Vec<Row>,
    /// How many there are.
    pub count: u64,
}

/// What came of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The conditions held.
    Done {
        /// The revision of the store behind it.
        revision: u64,
        /// What its reading operations gave, in their order.
        answers: Vec<Answer>,
    },
    /// They did not.
    Refused {
        /// The revision of the store.
        revision: u64,
        /// What its reading operations gave, in their order.
        answers: Vec<Answer>,
    },
}

impl Outcome {
    /// The answers and the revision, whether the conditions held or not.
    pub fn answers(self) -> (u64, Vec<Answer>) {
        match self {
            Self::Done { revision, answers } | Self::Refused { revision, answers } => (revision, answers),
        }
    }
}

/// A store that could not be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum StoreError {
    /// It does not answer.
    #[error("the data store does not answer: {0}")]
    Unreachable(String),
    /// It has no room left.
    #[error("the data store has no room left; free some with: {command}")]
    Full {
        /// What the administrator runs.
        command: String,
    },
    /// It does not let this node in.
    #[error("the data store refuses this node: {0}")]
    Denied(String),
    /// A transaction is larger than the store takes.
    #[error("a transaction has {0} operations, and at most {MAX_OPERATIONS} are taken")]
    TooLarge(usize),
    /// A value is larger than may be passed on.
    #[error("{what} is larger than {most} bytes, which is the most that is passed on")]
    TooMuch {
        /// What it is.
        what: &'static str,
        /// The most.
        most: usize,
    },
    /// The changes since a revision are gone.
    #[error("the changes since revision {0} are no longer there")]
    Compacted(u64),
    /// A lease is gone.
    #[error("the lease is gone")]
    LeaseGone,
}

/// The operations that one transaction may have, conditions not counted: etcd's default.
pub const MAX_OPERATIONS: usize = 128;
