//! What came with an acceptance beside its record.

use std::collections::{BTreeMap, BTreeSet};

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

/// What a node makes of the commits that another node has accepted, and what it has on its own disk.
#[derive(Debug, Clone, Copy)]
pub struct Made<'a> {
    /// The digests of the coordinated books.
    pub digests: &'a BTreeMap<String, String>,
    /// The objects, by `Kind/namespace/name`.
    pub objects: &'a BTreeSet<String>,
    /// The node's own acceptance.
    pub disk: &'a Accepted,
    /// The table that came with it.
    pub disk_table: &'a Table,
}

/// The largest page of a table.
const PAGE: usize = 64 << 10;

impl Table {
    /// The table of a generation: what did not change is as it was since its own.
    pub(super) fn next(&self, generation: u64, proposal: &Proposal<'_>) -> Self {
        self.following(generation, proposal.digests, proposal.joined, proposal.objects)
    }

    fn following(
        &self,
        generation: u64,
        digests: &BTreeMap<String, String>,
        joined: &[String],
        objects: &BTreeSet<String>,
    ) -> Self {
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

    /// Checks a table that another node has made against what this node makes of the same commits.
    ///
    /// # Errors
    /// What differs.
    pub fn check(&self, accepted: &Accepted, made: &Made<'_>) -> Result<(), String> {
        let Made { digests, objects, disk, disk_table } = *made;
        let generation = accepted.generation;
        let differs = |what: &str| Err(format!("its table says something else than its commits about {what}"));
        if !self.books.iter().map(|(id, book)| (id, &book.digest)).eq(digests) {
            return differs("which books are coordinated, and what they contain");
        }
        if !self.births.keys().eq(objects.iter()) {
            return differs("which objects there are");
        }
        let since: BTreeSet<u64> = self.books.values().map(|book| book.since).collect();
        if !self.joined.keys().eq(since.iter()) {
            return differs("the generations that its books are the same since");
        }
        let numbers = since.iter().chain(self.births.values());
        if numbers.into_iter().any(|number| *number == 0 || *number > generation) {
            return differs("a generation that has not been");
        }
        // Where it goes on from the table that this node has, everything but who had joined is known.
        if accepted.parent == disk.generation && accepted.table_before == disk.table {
            let joined = self.joined.get(&generation).map(Vec::as_slice).unwrap_or_default();
            if disk_table.following(generation, digests, joined, objects) != *self {
                return differs("the generations that its books and objects are the same since");
            }
        }
        Ok(())
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

    pub(crate) fn put(&self, store: &dyn Store) -> Result<(), StoreError> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_that_differs_from_its_commits_is_refused() {
        let digests = BTreeMap::from([("n/a".to_owned(), "1".to_owned()), ("n/b".to_owned(), "2".to_owned())]);
        let objects = BTreeSet::from(["TaskBook/n/a".to_owned(), "TaskBook/n/b".to_owned()]);
        let old = BTreeMap::from([("n/a".to_owned(), "1".to_owned()), ("n/b".to_owned(), "0".to_owned())]);
        let disk_table = Table::default().following(4, &old, &["x".to_owned()], &objects);
        let disk = Accepted { generation: 4, table: disk_table.digest(), ..Accepted::default() };
        let accepted = Accepted { generation: 5, parent: 4, table_before: disk.table.clone(), ..Accepted::default() };
        let good = disk_table.following(5, &digests, &["x".to_owned(), "y".to_owned()], &objects);
        let made = Made { digests: &digests, objects: &objects, disk: &disk, disk_table: &disk_table };
        assert_eq!(good.check(&accepted, &made), Ok(()));
        type Change = fn(&mut Table);
        let changes: [(&str, Change); 7] = [
            ("another digest", |table| table.books.get_mut("n/a").unwrap().digest = "9".into()),
            ("a book less", |table| {
                table.books.remove("n/a");
            }),
            ("a restart of a run", |table| table.books.get_mut("n/a").unwrap().since = 5),
            ("a run that is not begun", |table| table.books.get_mut("n/b").unwrap().since = 4),
            ("a generation to come", |table| table.books.get_mut("n/a").unwrap().since = u64::MAX),
            ("an object less", |table| {
                table.births.pop_first();
            }),
            ("another birth", |table| {
                table.births.insert("TaskBook/n/a".into(), 3);
            }),
        ];
        for (name, change) in changes {
            let mut table = good.clone();
            change(&mut table);
            assert!(table.check(&accepted, &made).is_err(), "{name}");
        }
        // From another table only the form is known.
        let elsewhere = Accepted { table_before: "other".into(), ..accepted };
        assert_eq!(good.check(&elsewhere, &made), Ok(()));
        assert!(Table::default().check(&elsewhere, &made).is_err());
    }
}
