//! Requests to the store that are not part of a decision about a rollout.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::Fleet;
use crate::{
    keys,
    rollout::RolloutProgress,
    store::{Op, Page, Row, StoreError, Txn},
};

/// The maximum age of the cached list of alive nodes.
const ALIVE: Duration = Duration::from_secs(5);

impl Fleet {
    /// Returns the names of the nodes that have a lease.
    ///
    /// # Errors
    /// The store does not answer.
    pub fn alive(&self) -> Result<BTreeSet<String>, StoreError> {
        let now = self.clock.monotonic();
        {
            let inner = self.lock();
            if let Some((read, alive)) = &inner.alive
                && now.duration_since(*read) < ALIVE
                && inner.lease_end.is_none_or(|end| now < end || end <= *read)
            {
                return Ok(alive.clone());
            }
        }
        let alive = self.names(keys::ALL_ALIVE)?;
        let wall = self.clock.wall();
        let mut inner = self.lock();
        inner.loss.note_alive(&alive, wall);
        inner.alive = Some((now, alive.clone()));
        drop(inner);
        Ok(alive)
    }

    /// Returns the names of all nodes that have joined the fleet, now or in the past.
    ///
    /// # Errors
    /// The store does not answer.
    pub fn joined(&self) -> Result<BTreeSet<String>, StoreError> {
        self.names(keys::ALL_JOINED)
    }

    /// Returns the store keys that begin with a prefix. The prefix is removed from each key.
    pub(super) fn names(&self, prefix: &str) -> Result<BTreeSet<String>, StoreError> {
        let mut page = Page::default();
        let mut names = BTreeSet::new();
        loop {
            let read = self.store.read(prefix, &page)?;
            page.after = read.rows.last().map(|row| row.key.clone());
            names.extend(read.rows.iter().filter_map(|row| Some(row.key.strip_prefix(prefix)?.to_owned())));
            if !read.more {
                return Ok(names);
            }
        }
    }

    /// Returns the open waves of a book's run. `None` if no wave of the book was ever opened.
    ///
    /// # Errors
    /// The store does not answer.
    pub fn progress(&self, book: &str) -> Result<Option<RolloutProgress>, StoreError> {
        let key = keys::progress(book);
        let read = self.store.read(&key, &Page { after: None, limit: 1 }).inspect_err(|_| self.look_soon())?;
        Ok(read.rows.into_iter().find(|row| row.key == key).and_then(|row| serde_json::from_slice(&row.value).ok()))
    }

    /// Writes a value to the store, so that other nodes can read it.
    ///
    /// # Errors
    /// The store does not answer.
    pub fn publish(&self, key: &str, value: Vec<u8>) -> Result<(), StoreError> {
        self.write(&Txn { then: vec![Op::put(key, value)], ..Txn::default() }).map(drop)
    }

    /// Returns the values of all keys with a prefix, by the part of the key after the prefix.
    ///
    /// # Errors
    /// The store does not answer.
    pub fn rows(&self, prefix: &str) -> Result<BTreeMap<String, Vec<u8>>, StoreError> {
        let (_, rows) = self.all_rows(prefix)?;
        let rest = |row: Row| Some((row.key.strip_prefix(prefix)?.to_owned(), row.value));
        Ok(rows.into_iter().filter_map(rest).collect())
    }

    /// Returns all rows whose key has a prefix, and the store revision at which the first page was read. A row that
    /// changes while the pages are read has a higher store revision than the first page.
    pub(super) fn all_rows(&self, prefix: &str) -> Result<(u64, Vec<Row>), StoreError> {
        let mut page = Page::default();
        let (mut first, mut found) = (None, Vec::new());
        loop {
            let read = self.store.read(prefix, &page)?;
            page.after = read.rows.last().map(|row| row.key.clone());
            found.extend(read.rows);
            let revision = *first.get_or_insert(read.revision);
            if !read.more {
                return Ok((revision, found));
            }
        }
    }
}
