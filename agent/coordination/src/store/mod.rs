//! The store through which nodes agree. Its interface follows etcd, which is one implementation.

pub mod etcd;
pub mod local;
pub mod memory;

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use thiserror::Error;
use tokio::sync::mpsc;
use towpath_state::{Journal, JournalError};

/// A store with keys, values, revisions, transactions, watches and leases.
///
/// Guarantees: transactions are applied one after another, each as a whole or not at all. Each transaction that writes
/// gets its own revision, larger than all before it. A watch from a revision reports every later change, in order.
pub trait Store: fmt::Debug + Send + Sync {
    /// Returns the rows whose keys begin with a prefix, in the order of keys, and the revision of the read.
    ///
    /// # Errors
    /// The store does not answer.
    fn read(&self, prefix: &str, page: &Page) -> Result<Read, StoreError>;

    /// Returns the changes of keys with a prefix, from a revision on.
    ///
    /// # Errors
    /// The store does not answer, or no longer has the changes since that revision.
    fn watch(&self, prefix: &str, from: u64) -> Result<mpsc::UnboundedReceiver<Change>, StoreError>;

    /// Returns a new lease. Keys that are bound to it are deleted when it is not kept alive.
    ///
    /// # Errors
    /// The store does not answer.
    fn lease(&self, ttl: Duration) -> Result<LeaseId, StoreError>;

    /// Keeps a lease alive for its time to live.
    ///
    /// # Errors
    /// The store does not answer, or the lease is gone.
    fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError>;

    /// Returns the time until a key is deleted with its lease. Zero if the lease has ended. `None` if there is no such
    /// key, or it is not bound to a lease.
    ///
    /// # Errors
    /// The store does not answer.
    fn time_left(&self, key: &str) -> Result<Option<Duration>, StoreError>;

    /// Returns whether other processes use this store too.
    fn shared(&self) -> bool {
        true
    }

    /// Returns whether a row counts for readers. A row that does not count wakes no node.
    fn counts(&self, _row: &Row) -> bool {
        true
    }

    /// Returns the row of a key as it was written, with its signature. `None` if there is none.
    ///
    /// # Errors
    /// The store does not answer.
    fn as_written(&self, key: &str) -> Result<Option<Row>, StoreError> {
        let rows = self.read(key, &Page { after: None, limit: 1 })?.rows;
        Ok(rows.into_iter().find(|row| row.key == key))
    }

    /// Returns whether this node's own key has signed a row since the process began.
    fn is_of_namesake(&self, _row: &Row) -> bool {
        false
    }

    /// Returns the nodes that present another key than the known one, with the keys that they show.
    fn strangers(&self) -> BTreeMap<String, Vec<String>> {
        BTreeMap::new()
    }

    /// Keeps the rows in a node's journal, if the store has no other storage.
    ///
    /// # Errors
    /// The journal cannot be read.
    fn keep_in(&self, _journal: &Arc<Journal>) -> Result<(), JournalError> {
        Ok(())
    }

    /// Runs a transaction.
    ///
    /// # Errors
    /// The store does not answer. It is then not known whether the transaction was applied.
    fn commit(&self, txn: &Txn) -> Result<Outcome, StoreError>;
}

/// The range of rows that a read returns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// The key after which the page begins. `None`: at the first key.
    pub after: Option<String>,
    /// The most rows of the page.
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
    /// The store revision of the read.
    pub revision: u64,
    /// True if more rows follow.
    pub more: bool,
}

/// A key and its value.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Row {
    /// The key.
    pub key: String,
    /// The value.
    pub value: Vec<u8>,
    /// The revision that created the key.
    pub created: u64,
    /// The revision that last changed the key.
    pub modified: u64,
}

/// A change that a watch reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A key that was set.
    Put(Row),
    /// A key that was deleted, with the revision.
    Delete(String, u64),
}

/// The identifier of a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub u64);

/// A transaction, as plain data.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Txn {
    /// The conditions, which must all hold.
    pub compare: Vec<Compare>,
    /// The operations that run if the conditions hold.
    pub then: Vec<Op>,
    /// The operations that run otherwise.
    pub otherwise: Vec<Op>,
}

/// A condition of a transaction.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Compare {
    /// The absence of a key.
    Absent(String),
    /// A key, and the revision that must have changed it last.
    Revision(String, u64),
    /// A prefix and a revision. No key with this prefix may be newer.
    NoneNewer(String, u64),
}

/// An operation of a transaction.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Op {
    /// A key to set.
    Put {
        /// The key.
        key: String,
        /// The value.
        value: Vec<u8>,
        /// The lease that the key is bound to.
        lease: Option<LeaseId>,
    },
    /// A key to delete.
    Delete(String),
    /// A prefix whose keys are deleted.
    DeleteAll(String),
    /// A prefix whose rows are read, after the operations before it.
    Read(String),
    /// A prefix whose rows that were created first are read, and the most of them.
    Oldest(String, usize),
    /// A prefix whose rows are counted.
    Count(String),
}

impl Op {
    /// Returns an operation that sets a key without a lease.
    pub fn put(key: impl Into<String>, value: Vec<u8>) -> Self {
        Self::Put { key: key.into(), value, lease: None }
    }

    fn writes(&self) -> bool {
        matches!(self, Self::Put { .. } | Self::Delete(_) | Self::DeleteAll(_))
    }
}

/// The answer to one reading operation of a transaction.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answer {
    /// The rows. Empty if they were only counted.
    pub rows: Vec<Row>,
    /// The number of rows.
    pub count: u64,
}

/// The outcome of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// A transaction whose conditions held.
    Done {
        /// The store revision after the transaction.
        revision: u64,
        /// The answers to its reading operations, in their order.
        answers: Vec<Answer>,
    },
    /// A transaction whose conditions did not hold.
    Refused {
        /// The store revision after the transaction.
        revision: u64,
        /// The answers to its reading operations, in their order.
        answers: Vec<Answer>,
    },
}

impl Outcome {
    /// Returns the revision and the answers of both outcomes.
    pub fn answers(self) -> (u64, Vec<Answer>) {
        match self {
            Self::Done { revision, answers } | Self::Refused { revision, answers } => (revision, answers),
        }
    }
}

/// The reason why the store cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum StoreError {
    /// A store that does not answer.
    #[error("the data store does not answer: {0}")]
    Unreachable(String),
    /// A store without free space.
    #[error("the data store has no room left; free some with: {command}")]
    Full {
        /// The command that frees space. The administrator runs it.
        command: String,
    },
    /// A store that rejects this node.
    #[error("the data store refuses this node: {0}")]
    Denied(String),
    /// A transaction with too many operations.
    #[error("a transaction has {0} operations, and at most {MAX_OPERATIONS} are taken")]
    TooLarge(usize),
    /// A value that is too large to be published.
    #[error("{what} is larger than {most} bytes, which is the most that is passed on")]
    TooMuch {
        /// The kind of the value.
        what: &'static str,
        /// The largest size, in bytes.
        most: usize,
    },
    /// A watch whose first changes the store has deleted.
    #[error("the changes since revision {0} are no longer there")]
    Compacted(u64),
    /// A lease that has ended.
    #[error("the lease is gone")]
    LeaseGone,
}

/// The most operations of one transaction, without its conditions. This is etcd's default (P7).
pub const MAX_OPERATIONS: usize = 128;
