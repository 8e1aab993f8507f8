//! The manifest of a generation: metadata that is stored next to the acceptance record (P24).

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use towpath_state::{Record, kinds};

use super::record::Accepted;
use crate::{
    keys,
    store::{Op, Page, Store, StoreError, Txn},
};

/// The metadata of an acceptance: the generation in which each coordinated book last changed, and the nodes that had
/// joined before that change.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RevisionManifest {
    /// The coordinated books, by `namespace/name`.
    pub books: BTreeMap<String, ManifestEntry>,
    /// For each generation in which a book of the manifest last changed, the names of the nodes that had joined.
    pub joined: BTreeMap<u64, Vec<String>>,
    /// The generation in which each object first appeared, by `Kind/namespace/name`.
    pub created_in: BTreeMap<String, u64>,
}

impl Record for RevisionManifest {
    type Kind = kinds::Manifest;
}

/// The entry of a manifest for one coordinated book.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestEntry {
    /// The digest of the definition of the book.
    pub digest: String,
    /// The generation in which the definition of the book last changed.
    pub since: u64,
}

/// The number of hexadecimal digits of a definition's digest in the name of a run.
const DIGITS: usize = 12;

impl ManifestEntry {
    /// Returns the name of the book's run. The name contains the first digits of the definition's digest. Runs of
    /// different definitions therefore have different names, even if two acceptances have the same number (P70).
    pub fn run(&self, book: &str) -> String {
        format!("{book}@{}.{}", self.since, self.digest.get(..DIGITS).unwrap_or(&self.digest))
    }
}

/// The data with which this node compares the manifest that another node has written.
#[derive(Debug, Clone, Copy)]
pub struct Made<'a> {
    /// The digest of each coordinated book. This node computes the digests from the commits of the acceptance.
    pub digests: &'a BTreeMap<String, String>,
    /// The objects that this node has loaded from the commits of the acceptance, by `Kind/namespace/name`.
    pub objects: &'a BTreeSet<String>,
    /// The acceptance record on the disk of this node.
    pub disk: &'a Accepted,
    /// The manifest that belongs to the acceptance record on the disk of this node.
    pub disk_manifest: &'a RevisionManifest,
}

/// The maximum size of one page of a manifest, in bytes.
const PAGE: usize = 64 << 10;

impl RevisionManifest {
    /// Derives the manifest of the next acceptance from this manifest. Books and objects that have not changed keep
    /// their generations.
    pub(super) fn following(
        &self,
        generation: u64,
        digests: &BTreeMap<String, String>,
        joined: &[String],
        objects: &BTreeSet<String>,
    ) -> Self {
        // An object that was deleted and created again counts as new (P34).
        let created = |object: &String| self.created_in.get(object).copied().unwrap_or(generation);
        let created_in = objects.iter().map(|object| (object.clone(), created(object))).collect();
        let books: BTreeMap<String, ManifestEntry> = digests
            .iter()
            .map(|(id, digest)| {
                let known = self.books.get(id).filter(|known| known.digest == *digest);
                (id.clone(), known.cloned().unwrap_or(ManifestEntry { digest: digest.clone(), since: generation }))
            })
            .collect();
        // A node that had joined stays in later lists, so that no node can leave it out (P38).
        let newest = self.joined.values().next_back().into_iter().flatten();
        let all: BTreeSet<&String> = joined.iter().chain(newest).collect();
        let all = || all.iter().map(|name| (*name).clone()).collect();
        let joined = books
            .values()
            .map(|book| book.since)
            .map(|since| (since, self.joined.get(&since).cloned().unwrap_or_else(all)))
            .collect();
        Self { books, joined, created_in }
    }

    /// Checks a manifest that another node has written. Compares the manifest with the books and objects in the commits
    /// of the acceptance.
    ///
    /// # Errors
    /// Returns an error if the manifest differs from the books and objects in the commits of the acceptance.
    pub fn check(&self, accepted: &Accepted, made: &Made<'_>) -> Result<(), String> {
        let Made { digests, objects, disk, .. } = *made;
        let generation = accepted.generation;
        let differs =
            |what: &str| Err(format!("the manifest of the record differs from the commits of the record in {what}"));
        if !self.books.iter().map(|(id, book)| (id, &book.digest)).eq(digests) {
            return differs("the coordinated books or their contents");
        }
        if !self.created_in.keys().eq(objects.iter()) {
            return differs("the list of objects");
        }
        let since: BTreeSet<u64> = self.books.values().map(|book| book.since).collect();
        if !self.joined.keys().eq(since.iter()) {
            return differs("the generations in which books last changed");
        }
        let numbers = since.iter().chain(self.created_in.values());
        if numbers.into_iter().any(|number| *number == 0 || *number > generation) {
            return differs("a generation that is 0 or does not exist yet");
        }
        if disk.generation == 0 {
            return Ok(());
        }
        let follows = accepted.parent == disk.generation
            && accepted.before.as_ref().is_some_and(|before| before.digest() == disk.digest());
        // This node has the preceding manifest, so it can compute the expected manifest and compare.
        if accepted.manifest_before == disk.manifest {
            return self.check_next(generation, made);
        }
        // The store was wiped, so its acceptances form another history. This node does not know the manifests of that
        // history.
        if !follows {
            return Ok(());
        }
        // A node that rejected this node's acceptance builds its manifest from the one before that acceptance.
        if disk.parent == 0 || accepted.manifest_before != disk.manifest_before {
            return Err("the manifest of the record is not derived from the manifest of its parent".into());
        }
        self.check_without_own(made)
    }

    /// Checks a manifest that another node has derived from the manifest of this node.
    fn check_next(&self, generation: u64, made: &Made<'_>) -> Result<(), String> {
        let Made { digests, objects, disk_manifest, .. } = *made;
        let joined = self.joined.get(&generation).map(Vec::as_slice).unwrap_or_default();
        if disk_manifest.following(generation, digests, joined, objects) != *self {
            return Err("the manifest of the record differs from the commits of the record in the generations in which books last changed or objects appeared".into());
        }
        Ok(())
    }

    /// Checks a manifest that another node has not derived from the manifest of this node. A book or an object must
    /// have the same generation as in the manifest of this node. Only books and objects that last changed in this
    /// node's own generation may have a later generation in the other manifest.
    fn check_without_own(&self, made: &Made<'_>) -> Result<(), String> {
        let own = made.disk.generation;
        let fits = |since: u64, known: Option<u64>| match known {
            Some(known) if since == known => true,
            Some(known) => known == own && since > own,
            None => true,
        };
        for (id, book) in &self.books {
            let known = made.disk_manifest.books.get(id);
            let same = known.filter(|known| known.digest == book.digest);
            let changed_by_own = known.is_none_or(|known| known.since == own);
            let older = same.is_none() && book.since <= own && !changed_by_own;
            if older || !fits(book.since, same.map(|known| known.since)) {
                return Err(format!(
                    "the manifests of the record and of this node have different generations for book {id}"
                ));
            }
        }
        for (object, created) in &self.created_in {
            if !fits(*created, made.disk_manifest.created_in.get(object).copied()) {
                return Err(format!(
                    "the manifests of the record and of this node have different generations for {object}"
                ));
            }
        }
        for (since, names) in self.joined.iter().filter(|(since, _)| **since <= own) {
            if made.disk_manifest.joined.get(since).is_some_and(|known| known != names) {
                return Err(format!(
                    "the manifests of the record and of this node list different nodes for generation {since}"
                ));
            }
        }
        Ok(())
    }

    fn bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Returns the digest of the manifest. The store key of each manifest page contains this digest. The digest of an
    /// empty manifest is empty, because the store does not keep an empty manifest.
    pub fn digest(&self) -> String {
        use sha2::Digest as _;
        if *self == Self::default() {
            return String::new();
        }
        hex::encode(&sha2::Sha256::digest(self.bytes())[..16])
    }

    pub(crate) fn put(&self, store: &dyn Store) -> Result<(), StoreError> {
        for put in self.pages() {
            store.commit(&Txn { then: vec![put], ..Txn::default() })?;
        }
        Ok(())
    }

    /// Returns the store operations that write the pages of the manifest.
    pub(crate) fn pages(&self) -> Vec<Op> {
        let digest = self.digest();
        if digest.is_empty() {
            return Vec::new();
        }
        let bytes = self.bytes();
        let pages = bytes.chunks(PAGE).enumerate();
        pages.map(|(page, bytes)| Op::put(keys::manifest(&digest, page), bytes.to_vec())).collect()
    }
}

/// Reads the manifest of an acceptance from the store. `None` if a page of the manifest is missing.
///
/// # Errors
/// The store does not answer.
pub fn manifest_of(store: &dyn Store, accepted: &Accepted) -> Result<Option<RevisionManifest>, StoreError> {
    if accepted.manifest.is_empty() {
        return Ok(Some(RevisionManifest::default()));
    }
    let rows = store.read(&keys::whole_manifest(&accepted.manifest), &Page::default())?.rows;
    let bytes: Vec<u8> = rows.into_iter().flat_map(|row| row.value).collect();
    let manifest: Option<RevisionManifest> = serde_json::from_slice(&bytes).ok();
    Ok(manifest.filter(|manifest| manifest.digest() == accepted.manifest))
}

/// Returns the names of the nodes that have joined the fleet (P38).
///
/// # Errors
/// The store does not answer.
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
    fn runs_of_two_definitions_have_different_names_also_in_one_generation() {
        let run = |digest: &str, since| ManifestEntry { digest: digest.repeat(32), since }.run("n/b");
        assert_eq!(run("a", 7), format!("n/b@7.{}", "a".repeat(DIGITS)));
        assert_ne!(run("a", 7), run("b", 7), "two acceptances of one number");
        assert_ne!(run("a", 7), run("a", 9), "a revert to an earlier definition");
    }

    #[test]
    fn manifest_that_differs_from_its_commits_is_refused() {
        let digests = BTreeMap::from([("n/a".to_owned(), "1".to_owned()), ("n/b".to_owned(), "2".to_owned())]);
        let objects = BTreeSet::from(["TaskBook/n/a".to_owned(), "TaskBook/n/b".to_owned()]);
        let old = BTreeMap::from([("n/a".to_owned(), "1".to_owned()), ("n/b".to_owned(), "0".to_owned())]);
        let disk_manifest = RevisionManifest::default().following(4, &old, &["x".to_owned()], &objects);
        let disk = Accepted { generation: 4, manifest: disk_manifest.digest(), ..Accepted::default() };
        let commits = |commit: char| BTreeMap::from([("fleet".to_owned(), commit.to_string())]);
        let disk = Accepted { commits: commits('a'), parent: 3, manifest_before: "before".into(), ..disk };
        let accepted = Accepted {
            generation: 5,
            parent: 4,
            before: Some(disk.link()),
            commits: commits('b'),
            manifest_before: disk.manifest.clone(),
            ..Accepted::default()
        };
        let good = disk_manifest.following(5, &digests, &["x".to_owned(), "y".to_owned()], &objects);
        let made = Made { digests: &digests, objects: &objects, disk: &disk, disk_manifest: &disk_manifest };
        assert_eq!(good.check(&accepted, &made), Ok(()));
        type Change = fn(&mut RevisionManifest);
        let changes: [(&str, Change); 7] = [
            ("another digest", |manifest| manifest.books.get_mut("n/a").unwrap().digest = "9".into()),
            ("a book less", |manifest| {
                manifest.books.remove("n/a");
            }),
            ("a restart of a run", |manifest| manifest.books.get_mut("n/a").unwrap().since = 5),
            ("a run that is not begun", |manifest| manifest.books.get_mut("n/b").unwrap().since = 4),
            ("a generation to come", |manifest| manifest.books.get_mut("n/a").unwrap().since = u64::MAX),
            ("an object less", |manifest| {
                manifest.created_in.pop_first();
            }),
            ("another birth", |manifest| {
                manifest.created_in.insert("TaskBook/n/a".into(), 3);
            }),
        ];
        for (name, change) in changes {
            let mut manifest = good.clone();
            change(&mut manifest);
            assert!(manifest.check(&accepted, &made).is_err(), "{name}");
        }
        // The manifest must be derived from the preceding manifest. The writer of a record cannot choose another start.
        for before in ["", "other"] {
            let elsewhere = Accepted { manifest_before: before.into(), ..accepted.clone() };
            assert!(good.check(&elsewhere, &made).is_err(), "{before}");
        }
        // After a wipe of the store, the acceptances form another history, so only the form of a manifest can be
        // checked.
        let elsewhere = Accepted { before: None, manifest_before: "other".into(), ..accepted.clone() };
        assert_eq!(good.check(&elsewhere, &made), Ok(()));
        assert!(RevisionManifest::default().check(&elsewhere, &made).is_err());
        // A node that rejected generation 4 starts from the manifest of generation 3. The changes of generation 4 then
        // get a new generation.
        let from_before = Accepted { manifest_before: disk.manifest_before.clone(), ..accepted };
        let begun = RevisionManifest::default().following(5, &digests, &["x".to_owned(), "y".to_owned()], &objects);
        assert_eq!(begun.check(&from_before, &made), Ok(()));
        let older = RevisionManifest::default().following(3, &digests, &["x".to_owned()], &objects);
        let made = Made { disk_manifest: &older, ..made };
        assert!(begun.check(&from_before, &made).is_err(), "what 4 has not changed");
    }
}
