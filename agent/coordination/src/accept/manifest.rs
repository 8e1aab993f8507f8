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
pub struct RevisionManifest {
    /// The books, by `namespace/name`.
    pub books: BTreeMap<String, ManifestEntry>,
    /// Who had joined when a generation was accepted that some book is the same since.
    pub joined: BTreeMap<u64, Vec<String>>,
    /// The generation in which each object was born, by `SlotState/namespace/name`.
    pub births: BTreeMap<String, u64>,
}

/// One book of the manifest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestEntry {
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
    /// The objects, by `SlotState/namespace/name`.
    pub objects: &'a BTreeSet<String>,
    /// The node's own acceptance.
    pub disk: &'a Accepted,
    /// The manifest that came with it.
    pub disk_manifest: &'a RevisionManifest,
}

/// The largest page of a manifest.
const PAGE: usize = 64 << 10;

impl RevisionManifest {
    /// The manifest of a generation: what did not change is as it was since its own.
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
        let books: BTreeMap<String, ManifestEntry> = digests
            .iter()
            .map(|(id, digest)| {
                let known = self.books.get(id).filter(|known| known.digest == *digest);
                (id.clone(), known.cloned().unwrap_or(ManifestEntry { digest: digest.clone(), since: generation }))
            })
            .collect();
        let joined = books
            .values()
            .map(|book| book.since)
            .map(|since| (since, self.joined.get(&since).cloned().unwrap_or_else(|| joined.to_vec())))
            .collect();
        Self { books, joined, births }
    }

    /// Checks a manifest that another node has made against what this node makes of the same commits.
    ///
    /// # Errors
    /// What differs.
    pub fn check(&self, accepted: &Accepted, made: &Made<'_>) -> Result<(), String> {
        let Made { digests, objects, disk, .. } = *made;
        let generation = accepted.generation;
        let differs = |what: &str| Err(format!("its manifest says something else than its commits about {what}"));
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
        if disk.generation == 0 {
            return Ok(());
        }
        let follows = accepted.parent == disk.generation
            && accepted.before.as_ref().is_some_and(|before| before.digest() == disk.digest());
        // From the manifest that this node has, the next one is known.
        if accepted.manifest_before == disk.manifest {
            return self.check_next(generation, made);
        }
        // The history of a store that was wiped is another one: nothing is known of the manifests in it.
        if !follows {
            return Ok(());
        }
        // A node that has rejected this node's acceptance starts from the manifest before it.
        if disk.parent == 0 || accepted.manifest_before != disk.manifest_before {
            return Err("it does not start from the manifest of the acceptance before it".into());
        }
        self.check_without_own(made)
    }

    /// Checks that a manifest is the one that comes after this node's own.
    fn check_next(&self, generation: u64, made: &Made<'_>) -> Result<(), String> {
        let Made { digests, objects, disk_manifest, .. } = *made;
        let joined = self.joined.get(&generation).map(Vec::as_slice).unwrap_or_default();
        if disk_manifest.following(generation, digests, joined, objects) != *self {
            return Err("its manifest says something else than its commits about the generations that its books and objects are the same since".into());
        }
        Ok(())
    }

    /// Checks a manifest that comes after the one before this node's own: only what the own acceptance has changed may
    /// begin again.
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
                    "its manifest has another generation than this node for {id}, which is the same since"
                ));
            }
        }
        for (object, birth) in &self.births {
            if !fits(*birth, made.disk_manifest.births.get(object).copied()) {
                return Err(format!("its manifest has another birth than this node for {object}"));
            }
        }
        for (since, names) in self.joined.iter().filter(|(since, _)| **since <= own) {
            if made.disk_manifest.joined.get(since).is_some_and(|known| known != names) {
                return Err(format!("its manifest has other nodes than this node for generation {since}"));
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
        for put in self.pages() {
            store.commit(&Txn { then: vec![put], ..Txn::default() })?;
        }
        Ok(())
    }

    /// The operations that write its pages.
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

/// The manifest that came with an acceptance; None where it is not (or not wholly) there.
///
/// # Errors
/// When the store does not answer.
pub fn manifest_of(store: &dyn Store, accepted: &Accepted) -> Result<Option<RevisionManifest>, StoreError> {
    if accepted.manifest.is_empty() {
        return Ok(Some(RevisionManifest::default()));
    }
    let rows = store.read(&keys::whole_manifest(&accepted.manifest), &Page::default())?.rows;
    let bytes: Vec<u8> = rows.into_iter().flat_map(|row| row.value).collect();
    let manifest: Option<RevisionManifest> = serde_json::from_slice(&bytes).ok();
    Ok(manifest.filter(|manifest| manifest.digest() == accepted.manifest))
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
                manifest.births.pop_first();
            }),
            ("another birth", |manifest| {
                manifest.births.insert("TaskBook/n/a".into(), 3);
            }),
        ];
        for (name, change) in changes {
            let mut manifest = good.clone();
            change(&mut manifest);
            assert!(manifest.check(&accepted, &made).is_err(), "{name}");
        }
        // The writer of a record does not choose the manifest that it starts from.
        for before in ["", "other"] {
            let elsewhere = Accepted { manifest_before: before.into(), ..accepted.clone() };
            assert!(good.check(&elsewhere, &made).is_err(), "{before}");
        }
        // With another history, as after a wipe of the store, only the form is known.
        let elsewhere = Accepted { before: None, manifest_before: "other".into(), ..accepted.clone() };
        assert_eq!(good.check(&elsewhere, &made), Ok(()));
        assert!(RevisionManifest::default().check(&elsewhere, &made).is_err());
        // A node that had rejected generation 4 starts from the manifest before it: what 4 has changed begins again.
        let from_before = Accepted { manifest_before: disk.manifest_before.clone(), ..accepted };
        let begun = RevisionManifest::default().following(5, &digests, &["x".to_owned(), "y".to_owned()], &objects);
        assert_eq!(begun.check(&from_before, &made), Ok(()));
        let older = RevisionManifest::default().following(3, &digests, &["x".to_owned()], &objects);
        let made = Made { disk_manifest: &older, ..made };
        assert!(begun.check(&from_before, &made).is_err(), "what 4 has not changed");
    }
}
