//! What came with an acceptance beside its record.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Accepted, Proposal};
use crate::{
    keys,
    store::{Op, Page, Store, StoreError, Txn},
};

/// What a generation says of its coordinated books: since when each is as it is, and who had joined by then.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Table {
    /// The books, by `namespace/name`.
    pub books: BTreeMap<String, BookEntry>,
    /// Who had joined when a generation was accepted that some book is the same since.
    pub joined: BTreeMap<u64, Vec<String>>,
    /// The generation in which each object was born, by `Kind/namespace/name`.
    pub births: BTreeMap<String, u64>,
}

/// One book of the table.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BookEntry {
    /// The digest of its definition.
    pub digest: String,
    /// The generation since which it is as it is.
    pub since: u64,
}

/// The largest page of a table.
const PAGE: usize = 64 << 10;

impl Table {
    /// The table of a generation: what did not change is as it was since its own.
    pub(super) fn next(&self, generation: u64, proposal: &Proposal<'_>) -> Self {
        let Proposal { digests, joined, objects, .. } = *proposal;
        // What was gone and is back is born again.
        let birth = |object: &String| self.births.get(object).copied().unwrap_or(generation);
        let births = objects.iter().map(|object| (object.clone(), birth(object))).collect();
        let books: BTreeMap<String, BookEntry> = digests
            .iter()
            .map(|(id, digest)| {
                let known = self.books.get(id).filter(|known| known.digest == *digest);
                (id.clone(), known.cloned().unwrap_or(BookEntry { digest: digest.clone(), since: generation }))
            })
            .collect();
        let joined = books
            .values()
            .map(|book| book.since)
            .map(|since| (since, self.joined.get(&since).cloned().unwrap_or_else(|| joined.to_vec())))
            .collect();
        Self { books, joined, births }
    }

    fn bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// The digest under which it stands in the store; empty where there is nothing to say.
    pub fn digest(&self) -> String {
        use sha2::Digest as _;
        if *self == Self::default() {
            return String::new();
        }
        hex::encode(&sha2::Sha256::digest(self.bytes())[..16])
    }

    pub(super) fn put(&self, store: &dyn Store) -> Result<(), StoreError> {
        let digest = self.digest();
        for (page, bytes) in self.bytes().chunks(PAGE).enumerate().filter(|_| !digest.is_empty()) {
            let put = Op::put(keys::table(&digest, page), bytes.to_vec());
            store.commit(&Txn { then: vec![put], ..Txn::default() })?;
        }
        Ok(())
    }
}

/// The table that came with an acceptance; None where it is not (or not wholly) there.
///
/// # Errors
/// When the store does not answer.
pub fn table_of(store: &dyn Store, accepted: &Accepted) -> Result<Option<Table>, StoreError> {
    if accepted.table.is_empty() {
        return Ok(Some(Table::default()));
    }
    let rows = store.read(&keys::whole_table(&accepted.table), &Page::default())?.rows;
    let bytes: Vec<u8> = rows.into_iter().flat_map(|row| row.value).collect();
    let table: Option<Table> = serde_json::from_slice(&bytes).ok();
    Ok(table.filter(|table| table.digest() == accepted.table))
}

/// Who has joined.
///
/// # Errors
/// When the store does not answer.
pub fn joined(store: &dyn Store) -> Result<Vec<String>, StoreError> {
    let mut page = Page::default();
    let mut names = Vec::new();
    loop {
        let read = store.read(keys::ALL_JOINED, &page)?;
        page.after = read.rows.last().map(|row| row.key.clone());
        names.extend(read.rows.iter().map(|row| row.key[keys::ALL_JOINED.len()..].to_owned()));
        if !read.more {
            return Ok(names);
        }
    }
}
