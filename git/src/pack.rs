//! Packs of git objects that one node sends to another node.
//!
//! The requesting node names a commit of its mirror. The pack omits this commit and its history. The receiver computes
//! the id of each object from the content, so the sender cannot forge objects. The receiver must still verify the new
//! commit.

use std::{
    collections::BTreeSet,
    fs,
    io::Write,
    path::{Path, PathBuf},
    str::FromStr as _,
    sync::atomic::{AtomicBool, Ordering},
};

use gix::{ObjectId, Repository, objs::tree::EntryKind};
use gix_pack as pack;

use crate::{Mirror, Options, SourceError, connection, mirror::unlock, receive::Job};

impl Mirror {
    /// Writes a pack with a commit and its history. The objects of the commit `have` and its history are omitted.
    ///
    /// # Errors
    /// When the mirror is damaged, when the mirror lacks an object of the commit, or when a write fails.
    pub fn write_pack(&self, commit: &str, have: Option<&str>, out: &mut dyn Write) -> Result<(), SourceError> {
        let repository = self.open()?;
        let have = have.and_then(|have| ObjectId::from_str(have).ok());
        let have = have.filter(|have| repository.find_commit(*have).is_ok());
        let ids = objects(&repository, self.id(commit)?, have).map_err(|message| self.corrupt(message))?;
        self.write_objects(ids, out)
    }

    /// Writes a pack of the objects with these ids.
    fn write_objects(&self, ids: Vec<ObjectId>, out: &mut dyn Write) -> Result<(), SourceError> {
        let damaged = |error: gix::Error| self.corrupt(error.to_string());
        let mut database =
            gix::odb::at(self.path().join("objects"), gix::hash::Kind::Sha1).map_err(|error| self.disk(error))?;
        // Entries are copied from the packs of the mirror, so the packs must stay loaded.
        database.prevent_pack_unload();
        let (counts, _) = pack::data::output::count::objects_unthreaded(
            &database,
            &mut ids.into_iter().map(Ok),
            &gix::progress::Discard,
            &AtomicBool::new(false),
            pack::data::output::count::objects::ObjectExpansion::AsIs,
        )
        .map_err(damaged)?;
        let count = u32::try_from(counts.len()).map_err(|_| self.corrupt("the mirror has too many objects"))?;
        let options =
            pack::data::output::entry::iter_from_counts::Options { thread_limit: Some(1), ..Default::default() };
        let entries =
            pack::data::output::entry::iter_from_counts(counts, database, Box::new(gix::progress::Discard), options)
                .map_err(damaged)?;
        let chunks = entries.map(|entry| entry.map(|(_, entries)| entries));
        let version = pack::data::Version::V2;
        for written in
            pack::data::output::bytes::FromEntriesIter::new(chunks, out, count, version, gix::hash::Kind::Sha1)
        {
            written.map_err(damaged)?;
        }
        Ok(())
    }

    /// Adds a commit from a pack that `write` writes to a file. If the commit is incomplete with the pack, the pack is
    /// removed.
    ///
    /// # Errors
    /// When `write` fails, when the pack is damaged or incomplete, or when the mirror cannot be written.
    pub fn take_pack(&self, commit: &str, write: impl FnOnce(&Path) -> Result<(), String>) -> Result<(), SourceError> {
        let file = self.path().with_extension("pack.part");
        if let Some(folder) = file.parent() {
            fs::create_dir_all(folder).map_err(|error| self.disk(error))?;
        }
        let taken =
            write(&file).map_err(|message| SourceError::Pack { message }).and_then(|()| self.take_file(&file, commit));
        let _ = fs::remove_file(file);
        taken
    }

    fn take_file(&self, file: &Path, commit: &str) -> Result<(), SourceError> {
        let commit = self.id(commit)?;
        unlock(self.path()).map_err(|error| self.disk(error))?;
        self.prepare(self.path())?;
        let before = self.packs_on_disk();
        let mirror = self.path().to_owned();
        let options = Box::new(self.options().clone());
        let job = Job::Index { mirror, options, file: file.to_owned(), commit: commit.to_string() };
        let lacking = |error: SourceError| match error {
            SourceError::Unreachable { source, .. } => SourceError::Pack { message: source.to_string() },
            SourceError::TimedOut { seconds, .. } => {
                SourceError::Pack { message: format!("indexing the pack took more than {seconds} s") }
            }
            SourceError::TooMuch { limit, .. } => {
                SourceError::Pack { message: format!("the pack has more than {limit}") }
            }
            other => other,
        };
        let work = self.work(self.path(), job).and_then(|()| self.whole(self.path(), commit));
        let kept = work.map_err(lacking).and_then(|()| self.refer(commit));
        if kept.is_err() {
            for path in self.packs_on_disk().difference(&before) {
                let _ = fs::remove_file(path);
            }
        }
        kept
    }

    fn packs_on_disk(&self) -> BTreeSet<PathBuf> {
        let found = fs::read_dir(self.path().join("objects/pack")).into_iter().flatten().flatten();
        found.map(|entry| entry.path()).collect()
    }

    /// Creates a ref for a commit, so that the mirror keeps the commit.
    fn refer(&self, commit: ObjectId) -> Result<(), SourceError> {
        let repository = self.open()?;
        repository
            .reference(
                format!("refs/towpath/{commit}"),
                commit,
                gix::refs::transaction::PreviousValue::Any,
                "from another node",
            )
            .map(drop)
            .map_err(|error| self.corrupt(error.to_string()))
    }
}

/// Checks that gix can walk the new history of a commit, and that no object is missing. The mirror can then send the
/// commit to other nodes.
///
/// The commits of existing refs were in the mirror before, so the history of these commits is not read again.
pub(crate) fn check_history(
    mirror: &Path,
    options: &Options,
    commit: &str,
    stop: &AtomicBool,
) -> Result<(), SourceError> {
    let corrupt = |message: String| SourceError::Corrupt { path: mirror.to_owned(), message };
    let repository = connection::open(mirror, options).map_err(|error| corrupt(error.to_string()))?;
    let refused = |message: String| SourceError::Pack { message };
    let commit = ObjectId::from_str(commit).map_err(|error| refused(error.to_string()))?;
    let references = repository.references().map_err(|error| corrupt(error.to_string()))?;
    let before = references.all().map_err(|error| corrupt(error.to_string()))?;
    let before = before.flatten().filter_map(|mut reference| reference.peel_to_id().ok());
    let before = before.map(gix::Id::detach).filter(|id| repository.find_commit(*id).is_ok());
    let before: BTreeSet<ObjectId> = before.collect();
    let given = walk(&repository, commit, before.into_iter().collect(), &mut BTreeSet::new(), stop)
        // The walk may fail because an older ref is damaged. Then the whole history of the commit is read instead.
        .or_else(|_| walk(&repository, commit, Vec::new(), &mut BTreeSet::new(), stop));
    given.map(drop).map_err(refused)
}

/// Returns the ids of the objects that a node with the commit `have` needs for another commit.
fn objects(repository: &Repository, commit: ObjectId, have: Option<ObjectId>) -> Result<Vec<ObjectId>, String> {
    let mut seen: BTreeSet<ObjectId> = BTreeSet::new();
    if let Some(have) = have {
        gather(repository, tree(repository, have)?, &mut seen, &mut Vec::new())?;
    }
    walk(repository, commit, have.into_iter().collect(), &mut seen, &AtomicBool::new(false))
}

/// Returns the ids of the objects of a commit and its history. Omitted are the hidden commits, their history, and the
/// objects in `seen`.
fn walk(
    repository: &Repository,
    commit: ObjectId,
    hidden: Vec<ObjectId>,
    seen: &mut BTreeSet<ObjectId>,
    stop: &AtomicBool,
) -> Result<Vec<ObjectId>, String> {
    let mut found = Vec::new();
    for info in repository.rev_walk([commit]).with_hidden(hidden).all().map_err(|error| error.to_string())? {
        if stop.load(Ordering::Relaxed) {
            return Err("the check of the history exceeded its time limit".into());
        }
        let id = info.map_err(|error| error.to_string())?.id;
        found.push(id);
        gather(repository, tree(repository, id)?, seen, &mut found)?;
    }
    Ok(found)
}

fn tree(repository: &Repository, commit: ObjectId) -> Result<ObjectId, String> {
    let commit = repository.find_commit(commit).map_err(|error| error.to_string())?;
    commit.tree_id().map(gix::Id::detach).map_err(|error| error.to_string())
}

/// Adds a tree and all objects below it to `found`, except those in `seen`.
fn gather(
    repository: &Repository,
    root: ObjectId,
    seen: &mut BTreeSet<ObjectId>,
    found: &mut Vec<ObjectId>,
) -> Result<(), String> {
    let mut trees = vec![root];
    while let Some(id) = trees.pop() {
        if !seen.insert(id) {
            continue;
        }
        found.push(id);
        let tree = repository.find_tree(id).map_err(|error| error.to_string())?;
        for entry in tree.iter() {
            let entry = entry.map_err(|error| error.to_string())?;
            match entry.mode().kind() {
                EntryKind::Tree => trees.push(entry.oid().to_owned()),
                // The entry of a submodule names a commit in another repository, so there is no object to add.
                EntryKind::Commit => {}
                _ if seen.insert(entry.oid().to_owned()) => {
                    if !repository.has_object(entry.oid()) {
                        return Err(format!("the object {} is missing", entry.oid()));
                    }
                    found.push(entry.oid().to_owned());
                }
                _ => {}
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use gix::objs::{Kind, Write as _};

    use super::*;
    use crate::{Auth, Limits, Options, Reference, VerifyOptions};

    fn mirror(folder: &Path, name: &str) -> Mirror {
        let options = Options {
            name: name.into(),
            url: "https://127.0.0.1:1/none.git".into(),
            reference: Reference::Branch("main".into()),
            path: String::new(),
            auth: Auth::default(),
            verify: VerifyOptions::default(),
            allow_rewind: false,
            limits: Limits::default(),
        };
        let mirror = Mirror::new(options, folder);
        mirror.prepare(mirror.path()).unwrap();
        mirror
    }

    /// Makes a mirror take a pack with two commits, each with a file. The second commit has the text `child`.
    ///
    /// `{}` in the text of the child becomes the id of the first commit. The object with the number `lacks` is missing
    /// in the pack.
    fn taken(child: &str, lacks: Option<usize>) -> Result<(), String> {
        taken_by(|_| {}, child, lacks)
    }

    /// Does the same as `taken`, after `prepare` has changed the mirror.
    fn taken_by(prepare: impl FnOnce(&Mirror), child: &str, lacks: Option<usize>) -> Result<(), String> {
        let folder = tempfile::tempdir().unwrap();
        let [from, to] = ["from", "to"].map(|name| mirror(folder.path(), name));
        prepare(&to);
        let repository = from.open().unwrap();
        let write = |kind, data: &[u8]| repository.write_buf(kind, data).unwrap();
        let mut ids: Vec<ObjectId> = Vec::new();
        for text in ["author a <a@x> 1 +0000\ncommitter a <a@x> 1 +0000\n\nm\n", child] {
            let first = ids.last().map_or(String::new(), ToString::to_string);
            let blob = write(Kind::Blob, text.as_bytes());
            let tree = write(Kind::Tree, &[b"100644 f\0", blob.as_slice()].concat());
            let commit = write(Kind::Commit, format!("tree {tree}\n{}", text.replace("{}", &first)).as_bytes());
            ids.extend([blob, tree, commit]);
        }
        let commit = ids[5].to_string();
        if let Some(number) = lacks {
            ids.remove(number);
        }
        let mut pack = Vec::new();
        from.write_objects(ids, &mut pack).unwrap();
        let taken = to.take_pack(&commit, |file| fs::write(file, &pack).map_err(|error| error.to_string()));
        assert_eq!(to.write_pack(&commit, None, &mut Vec::new()).is_ok(), taken.is_ok());
        taken.map_err(|error| error.to_string())
    }

    const CHILD: &str = "parent {}\nauthor a <a@x> 1 +0000\ncommitter a <a@x> 1 +0000\n\nm\n";

    #[test]
    fn commit_with_a_damaged_parent_is_refused() {
        assert_eq!(taken(CHILD, None), Ok(()));
        for parent in ["parent .16", "parent {}0", "parent\nparent {}"] {
            let refused = taken(&CHILD.replace("parent {}", parent), None);
            assert!(refused.is_err(), "{parent}");
        }
    }

    #[test]
    fn mirror_with_a_damaged_older_ref_takes_a_good_pack() {
        for parent in ["parent .16", "parent 1111111111111111111111111111111111111111"] {
            let damage = |mirror: &Mirror| {
                let repository = mirror.open().unwrap();
                let write = |kind, data: &[u8]| repository.write_buf(kind, data).unwrap();
                let tree = write(Kind::Tree, &[]);
                let text = CHILD.replace("parent {}", parent);
                mirror.refer(write(Kind::Commit, format!("tree {tree}\n{text}").as_bytes())).unwrap();
            };
            assert_eq!(taken_by(damage, CHILD, None), Ok(()), "{parent}");
            assert!(taken_by(damage, CHILD, Some(0)).is_err(), "{parent}");
        }
    }

    #[test]
    fn pack_that_lacks_an_object_of_the_history_is_refused() {
        for lacks in 0..5 {
            assert!(taken(CHILD, Some(lacks)).is_err(), "{lacks}");
        }
    }
}
