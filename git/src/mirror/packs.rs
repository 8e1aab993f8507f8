//! Packs of git objects that one node sends to another node.
//!
//! A node that requests a pack names a commit that the node's own mirror has. The pack omits the named commit and the
//! history of this commit. The requesting node computes the id of each object in the pack from the content, so the
//! sender cannot forge objects. The requesting node must still verify the signature of the new commit.

use std::{fs, io::Write, path::Path, str::FromStr as _, sync::atomic::AtomicBool};

use gix::ObjectId;
use gix_pack as pack;

use super::Mirror;
use crate::{
    SourceError,
    objects::{Snapshot, reachable::needed_objects},
    receive::{self, Job, Task},
    repo::commit_id,
};

impl Mirror {
    /// Writes a pack with a commit and its history. The pack omits the objects of the commit `have` and of the history
    /// of this commit.
    ///
    /// # Errors
    /// Returns an error if the mirror is damaged, if the mirror lacks an object of the commit, or if a write fails.
    pub fn write_pack(&self, commit: &str, have: Option<&str>, out: &mut dyn Write) -> Result<(), SourceError> {
        let repository = self.repo.open()?;
        let have = have.and_then(|have| ObjectId::from_str(have).ok());
        let have = have.filter(|have| repository.find_commit(*have).is_ok());
        let ids =
            needed_objects(&repository, commit_id(commit)?, have).map_err(|message| self.repo.corrupt(message))?;
        self.write_objects(ids, out)
    }

    /// Writes a pack of the objects with the given ids.
    fn write_objects(&self, ids: Vec<ObjectId>, out: &mut dyn Write) -> Result<(), SourceError> {
        let damaged = |error: gix::Error| self.repo.corrupt(error.to_string());
        let mut database = gix::odb::at(self.repo.path.join("objects"), gix::hash::Kind::Sha1)
            .map_err(|error| self.repo.disk(error))?;
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
        let count = u32::try_from(counts.len()).map_err(|_| self.repo.corrupt("the mirror has too many objects"))?;
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

    /// Adds the commit in a pack file to the mirror. The callback `write` writes the pack to a file. If the mirror
    /// lacks an object of the commit after the pack was added, the function removes the pack.
    ///
    /// # Errors
    /// Returns an error if `write` fails, if the pack is damaged or incomplete, or if the mirror cannot be written.
    pub fn take_pack(&self, commit: &str, write: impl FnOnce(&Path) -> Result<(), String>) -> Result<(), SourceError> {
        let file = self.repo.path.with_extension("pack.part");
        if let Some(folder) = file.parent() {
            fs::create_dir_all(folder).map_err(|error| self.repo.disk(error))?;
        }
        let taken =
            write(&file).map_err(|message| SourceError::Pack { message }).and_then(|()| self.take_file(&file, commit));
        let _ = fs::remove_file(file);
        taken
    }

    fn take_file(&self, file: &Path, commit: &str) -> Result<(), SourceError> {
        let commit = commit_id(commit)?;
        self.repo.unlock()?;
        self.repo.create()?;
        let before = self.repo.pack_files();
        let task = Task::Index { file: file.to_owned(), commit: commit.to_string() };
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
        let done = receive::run(Job { repo: self.repo.clone(), task });
        let work = done.and_then(|()| Snapshot::check_complete(&self.repo, commit));
        let kept = work.map_err(lacking).and_then(|()| self.refer(commit));
        if kept.is_err() {
            for path in self.repo.pack_files().difference(&before) {
                let _ = fs::remove_file(path);
            }
        }
        kept
    }

    /// Creates a ref for a commit, so that the mirror keeps the commit.
    fn refer(&self, commit: ObjectId) -> Result<(), SourceError> {
        let repository = self.repo.open()?;
        repository
            .reference(
                format!("refs/towpath/{commit}"),
                commit,
                gix::refs::transaction::PreviousValue::Any,
                "from another node",
            )
            .map(drop)
            .map_err(|error| self.repo.corrupt(error.to_string()))
    }
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
        mirror.repo.create().unwrap();
        mirror
    }

    /// Adds a pack with two commits to a mirror. Each commit of the pack has one file, and `child` is the text of the
    /// second commit.
    ///
    /// In the text `child`, `{}` becomes the id of the first commit. The pack omits the object with the number `lacks`.
    fn taken(child: &str, lacks: Option<usize>) -> Result<(), String> {
        taken_by(|_| {}, child, lacks)
    }

    /// Calls `prepare` to change the mirror, and then does the same as `taken`.
    fn taken_by(prepare: impl FnOnce(&Mirror), child: &str, lacks: Option<usize>) -> Result<(), String> {
        let folder = tempfile::tempdir().unwrap();
        let [from, to] = ["from", "to"].map(|name| mirror(folder.path(), name));
        prepare(&to);
        let repository = from.repo.open().unwrap();
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
                let repository = mirror.repo.open().unwrap();
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
