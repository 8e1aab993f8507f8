//! The interface of the data store through which nodes agree. Each implementation behaves like etcd.

pub mod etcd;
pub mod local;
pub mod memory;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
    time::Duration,
};

use thiserror::Error;
use tokio::sync::mpsc;
use towpath_state::{Journal, JournalError};

/// A data store with keys, values, revisions, transactions, watches and leases.
///
/// Guarantees: the store applies transactions one after another, each as a whole or not at all. Each transaction that
/// writes gets a higher store revision than all earlier transactions. A watch that begins at a store revision reports
/// all later changes in order.
pub trait Store: fmt::Debug + Send + Sync {
    /// Returns one page of the rows whose keys begin with a prefix, in the order of keys, and the store revision of the
    /// read.
    ///
    /// # Errors
    /// The store does not answer.
    fn read(&self, prefix: &str, page: &Page) -> Result<Read, StoreError>;

    /// Starts a watch of the keys with a prefix. The receiver gets all changes of keys with the prefix, from the store
    /// revision `from` on.
    ///
    /// # Errors
    /// Returns an error if the store does not answer, or has deleted the changes since `from`.
    fn watch(&self, prefix: &str, from: u64) -> Result<mpsc::UnboundedReceiver<Change>, StoreError>;

    /// Creates a lease. When a lease ends, the store deletes the keys that are bound to the lease.
    ///
    /// # Errors
    /// The store does not answer.
    fn lease(&self, ttl: Duration) -> Result<LeaseId, StoreError>;

    /// Renews a lease, which then lasts for its full time to live.
    ///
    /// # Errors
    /// Returns an error if the store does not answer, or if the lease is gone.
    fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError>;

    /// Returns the remaining time of the lease to which a key is bound, or zero if the lease has ended. `None` if the
    /// key does not exist or is not bound to a lease.
    ///
    /// # Errors
    /// The store does not answer.
    fn time_left(&self, key: &str) -> Result<Option<Duration>, StoreError>;

    /// Returns true if other processes use the store too.
    fn shared(&self) -> bool {
        true
    }

    /// Returns true if this node accepts the record in a row. A record that a node rejects does not wake the node.
    fn counts(&self, _row: &Row) -> bool {
        true
    }

    /// Returns the row at a key with the signature, and does not verify the signature. `None` if the key does not
    /// exist.
    ///
    /// # Errors
    /// The store does not answer.
    fn as_written(&self, key: &str) -> Result<Option<Row>, StoreError> {
        let rows = self.read(key, &Page { after: None, limit: 1 })?.rows;
        Ok(rows.into_iter().find(|row| row.key == key))
    }

    /// Returns true if another process has signed a row with this node's key since this process began.
    fn is_of_namesake(&self, _row: &Row) -> bool {
        false
    }

    /// Returns the nodes that present an invalid public key, each with the presented keys.
    fn strangers(&self) -> BTreeMap<String, Vec<String>> {
        BTreeMap::new()
    }

    /// Sets the journal in which a local store keeps its rows. The function has no effect on a store in etcd.
    ///
    /// # Errors
    /// Returns an error if the journal cannot be read.
    fn keep_in(&self, _journal: &Arc<Journal>) -> Result<(), JournalError> {
        Ok(())
    }

    /// Runs a transaction.
    ///
    /// # Errors
    /// If the store does not answer, the store may have applied the transaction or not.
    fn commit(&self, txn: &Txn) -> Result<Outcome, StoreError>;
}

/// The page to read: a part of the rows whose keys begin with a prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// The key after which the page begins. `None` if the page begins at the first key.
    pub after: Option<String>,
    /// The maximum number of rows in the page.
    pub limit: usize,
}

impl Default for Page {
    fn default() -> Self {
        Self { after: None, limit: 500 }
    }
}

/// The rows of one page, and the store revision at which they were read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Read {
    /// The rows of the page.
    pub rows: Vec<Row>,
    /// The store revision at which the rows were read.
    pub revision: u64,
    /// True if there are more rows after this page.
    pub more: bool,
}

/// A store key with its value and its store revisions.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Row {
    /// The key of the row.
    pub key: String,
    /// The value of the row.
    pub value: Vec<u8>,
    /// The revision of the transaction that created the key.
    pub created: u64,
    /// The revision of the transaction that changed the key most recently.
    pub modified: u64,
}

/// A change that a watch reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A key was set.
    Put(Row),
    /// A key was deleted. The variant contains the key and the store revision of the deletion.
    Delete(String, u64),
}

/// The identifier of a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub u64);

/// A transaction of the store. A transaction has conditions, operations that run if all conditions hold, and operations
/// that run otherwise.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Txn {
    /// The conditions of the transaction.
    pub compare: Vec<Compare>,
    /// The operations that run if all conditions hold.
    pub then: Vec<Op>,
    /// The operations that run if at least one condition does not hold.
    pub otherwise: Vec<Op>,
}

/// A condition of a transaction.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Compare {
    /// The key must not exist.
    Absent(String),
    /// The newest change of the key must have the given store revision.
    Revision(String, u64),
    /// All keys with the prefix must be unchanged since the given store revision.
    NoneNewer(String, u64),
}

/// An operation of a transaction.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Op {
    /// Sets a key to a value.
    Put {
        /// The key to set.
        key: String,
        /// The new value of the key.
        value: Vec<u8>,
        /// The lease to which the key is bound. `None` if the key is not bound to a lease.
        lease: Option<LeaseId>,
    },
    /// Deletes a key.
    Delete(String),
    /// Deletes all keys with a prefix.
    DeleteAll(String),
    /// Reads the rows whose keys begin with a prefix. The operation sees the earlier writes of the same transaction.
    Read(String),
    /// Reads the oldest rows whose keys begin with a prefix, up to the given number of rows.
    Oldest(String, usize),
    /// Counts the rows with a prefix.
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
    /// The rows that the operation has read. `rows` is empty if the operation only counts rows.
    pub rows: Vec<Row>,
    /// The number of rows whose keys begin with the prefix.
    pub count: u64,
}

/// The outcome of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// All conditions held, and the store executed the operations in `then`.
    Done {
        /// The store revision after the transaction.
        revision: u64,
        /// The answers to the executed operations that read, in order.
        answers: Vec<Answer>,
    },
    /// At least one condition did not hold, and the store executed the operations in `otherwise`.
    Refused {
        /// The store revision after the transaction.
        revision: u64,
        /// The answers to the executed operations that read, in order.
        answers: Vec<Answer>,
    },
}

impl Outcome {
    /// Returns the store revision and the answers, for both outcomes of the transaction.
    pub fn answers(self) -> (u64, Vec<Answer>) {
        match self {
            Self::Done { revision, answers } | Self::Refused { revision, answers } => (revision, answers),
        }
    }
}

/// The reasons why a request to the data store fails.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum StoreError {
    /// The store does not answer.
    #[error("the data store does not answer: {0}")]
    Unreachable(String),
    /// All attempts at a decision failed, because other nodes changed the same records first. The variant contains the
    /// number of attempts.
    #[error("lost {0} races with other nodes; retrying")]
    LostRaces(usize),
    /// The store has no free space.
    #[error("the data store is full; free space with: {command}")]
    Full {
        /// The command by which an administrator frees space.
        command: String,
    },
    /// The store rejects this node.
    #[error("the data store refuses this node: {0}")]
    Denied(String),
    /// The transaction has more operations than the store permits.
    #[error("cannot run a transaction of {0} operations: the data store permits {MAX_OPERATIONS}")]
    TooLarge(usize),
    /// The transaction writes a key twice, which etcd does not permit.
    #[error("cannot run a transaction that writes {0} twice")]
    WrittenTwice(String),
    /// The node cannot publish a value, because the value is too large.
    #[error("cannot publish {what}: it is larger than {most} bytes")]
    TooMuch {
        /// The kind of the value, such as the result of an elected task.
        what: &'static str,
        /// The maximum size of the value, in bytes.
        most: usize,
    },
    /// The watch cannot begin at the requested store revision, because the store has deleted later changes.
    #[error("the data store no longer has the changes since revision {0}")]
    Compacted(u64),
    /// The lease has ended.
    #[error("the lease of this node has ended")]
    LeaseGone,
}

impl Txn {
    /// Checks two limits of etcd: a transaction must not have too many operations, and must not write a key twice.
    /// `more` is the number of operations that the store itself adds to the transaction.
    ///
    /// # Errors
    /// Returns an error if the transaction has too many operations, or writes a key twice.
    pub(crate) fn check(&self, more: usize) -> Result<(), StoreError> {
        let size = self.then.len().max(self.otherwise.len().saturating_add(more));
        if size > MAX_OPERATIONS {
            return Err(StoreError::TooLarge(size));
        }
        match written_twice(&self.then).or_else(|| written_twice(&self.otherwise)) {
            Some(key) => Err(StoreError::WrittenTwice(key.to_owned())),
            None => Ok(()),
        }
    }
}

/// Returns a key that one operation writes and another operation writes or deletes. `None` if no key is written twice.
fn written_twice(operations: &[Op]) -> Option<&str> {
    let mut written = BTreeSet::new();
    let again = operations.iter().find_map(|operation| match operation {
        Op::Put { key, .. } if !written.insert(key.as_str()) => Some(key.as_str()),
        _ => None,
    });
    again.or_else(|| {
        operations.iter().find_map(|operation| match operation {
            Op::Delete(key) => written.get(key.as_str()).copied(),
            Op::DeleteAll(prefix) => {
                written.range(prefix.as_str()..).next().copied().filter(|key| key.starts_with(prefix))
            }
            _ => None,
        })
    })
}

/// The maximum number of operations in one transaction, which is the default limit of etcd (P7). Conditions do not
/// count.
pub const MAX_OPERATIONS: usize = 128;
