//! Packs from node to node: what one has of a source and another lacks.
//!
//! Who asks says what it has: of that commit, and of all before it, nothing is sent. What comes is indexed anew, so that
//! every object bears the name that its bytes give it; whether a commit counts is a matter of its signature.

use std::{
    collections::BTreeSet,
    fs,
    io::Write,
    path::{Path, PathBuf},
    str::FromStr as _,
    sync::atomic::AtomicBool,
};

use gix::{ObjectId, Repository, objs::tree::EntryKind};
use gix_pack as pack;

use crate::{Mirror, SourceError, mirror::unlock, receive::Job};

impl Mirror {
    /// Writes a pack with a commit and all that it descends from, without what the one that asks has already.
    ///
    /// # Errors
    /// When the mirror does not have the commit whole, is damaged, or the pack is not taken.
    pub fn write_pack(&self, commit: &str, have: Option<&str>, out: &mut dyn Write) -> Result<(), SourceError> {
        let repository = self.open()?;
        let damaged = |error: gix::Error| self.corrupt(error.to_string());
        let have = have.and_then(|have| ObjectId::from_str(have).ok());
        let have = have.filter(|have| repository.find_commit(*have).is_ok());
        let ids = objects(&repository, self.id(commit)?, have).map_err(|message| self.corrupt(message))?;
        let mut database =
            gix::odb::at(self.path().join("objects"), gix::hash::Kind::Sha1).map_err(|error| self.disk(error))?;
        // What is found in a pack is copied out of it.
        database.prevent_pack_unload();
        let (counts, _) = pack::data::output::count::objects_unthreaded(
            &database,
            &mut ids.into_iter().map(Ok),
            &gix::progress::Discard,
            &AtomicBool::new(false),
            pack::data::output::count::objects::ObjectExpansion::AsIs,
        )
        .map_err(damaged)?;
        let count = u32::try_from(counts.len()).map_err(|_| self.corrupt("it has too many objects"))?;
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

    /// Takes a commit from a pack that is written to a file. Nothing stays of one that does not make the commit whole.
    ///
    /// # Errors
    /// When there is no such pack, it can't be read or lacks something, or the disk does not take it.
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
        let job = Job::Index { mirror, options: Box::new(self.options().clone()), file: file.to_owned() };
        let lacking = |error: SourceError| match error {
            SourceError::Unreachable { source, .. } => SourceError::Pack { message: source.to_string() },
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

    /// Gives a commit a ref, as if it had been fetched by its id.
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

/// Every object that a commit needs and one that has another commit lacks.
fn objects(repository: &Repository, commit: ObjectId, have: Option<ObjectId>) -> Result<Vec<ObjectId>, String> {
    fn told(error: impl std::fmt::Display) -> String {
        error.to_string()
    }
    let mut seen: BTreeSet<ObjectId> = BTreeSet::new();
    if let Some(have) = have {
        gather(repository, tree(repository, have)?, &mut seen, &mut Vec::new())?;
    }
    let mut found = Vec::new();
    for info in repository.rev_walk([commit]).with_hidden(have).all().map_err(told)? {
        let id = info.map_err(told)?.id;
        found.push(id);
        gather(repository, tree(repository, id)?, &mut seen, &mut found)?;
    }
    Ok(found)
}

fn tree(repository: &Repository, commit: ObjectId) -> Result<ObjectId, String> {
    let commit = repository.find_commit(commit).map_err(|error| error.to_string())?;
    commit.tree_id().map(gix::Id::detach).map_err(|error| error.to_string())
}

/// A tree and all below it that was not seen yet.
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
                // A submodule's commit is in a repository of its own.
                EntryKind::Commit => {}
                _ if seen.insert(entry.oid().to_owned()) => found.push(entry.oid().to_owned()),
                _ => {}
            }
        }
    }
    Ok(())
}
