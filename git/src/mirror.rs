//! The bare mirror of a source. The mirror polls the remote, fetches commits and verifies their signatures.

mod packs;
mod shown;
mod signatures;

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use gix::ObjectId;

pub use signatures::VerifyError;

use crate::{
    Options, Reference, SourceError,
    objects::{Ancestry, Snapshot, history},
    receive::{self, Job, Task, leftovers},
    repo::{BareRepo, commit_id, remove},
    transport::{
        advertisement::{advertised, target},
        refs::{self, Ref},
    },
};

/// The bare git repository into which one source is fetched.
#[derive(Debug, Clone)]
pub struct Mirror {
    repo: BareRepo,
}

/// The newest commit that the mirror has fetched from the ref of a source.
#[derive(Debug, Clone)]
pub struct Fetched {
    /// The id of the head's commit.
    pub commit: String,
    /// The relation of the source's head to the source's accepted commit, for example descendant.
    pub ancestry: Ancestry,
    /// The name of the tag that points to the head; `None` if the source does not follow tags.
    pub tag: Option<String>,
    /// The id of the object that the tag names: a tag object, or a commit.
    tag_object: Option<ObjectId>,
}

impl Mirror {
    /// Creates a value for the mirror of a source in a folder. The function does not read or write the disk.
    pub fn new(options: Options, folder: &Path) -> Self {
        let path = folder.join(format!("{}.git", options.name));
        Self { repo: BareRepo { path, options } }
    }

    /// Returns the options of the source.
    pub fn options(&self) -> &Options {
        &self.repo.options
    }

    /// Returns the current commit of the source's ref on the remote, without a fetch.
    ///
    /// # Errors
    /// Returns an error if the remote does not answer, or does not have the ref.
    pub fn poll(&self) -> Result<String, SourceError> {
        if let Reference::Commit(commit) = &self.repo.options.reference {
            return Ok(commit.clone());
        }
        Ok(self.wanted()?.commit.to_string())
    }

    /// Fetches the source's head into the mirror. A missing mirror is created.
    ///
    /// After the fetch, `fetch` checks only that the mirror contains the commit. The caller must verify the signature
    /// and the tree of the commit.
    ///
    /// # Errors
    /// Returns an error if the remote does not answer, or sends unusable data.
    pub fn fetch(&self, accepted: Option<&str>) -> Result<Fetched, SourceError> {
        self.put_back()?;
        leftovers::remove_older(&self.repo.path).map_err(|error| self.repo.disk(error))?;
        self.undamaged()?;
        let packs = self.repo.pack_files().into_iter().filter(|path| path.extension().is_some_and(|end| end == "pack"));
        if packs.count() >= self.repo.options.limits.packs {
            self.rebuild(accepted)?;
        }
        let wanted = self.wanted()?;
        if !has(&self.repo, &wanted) {
            fetch_commit(&self.repo, &wanted)?;
        }
        let repository = self.repo.open()?;
        shown::remember(&self.repo, &repository, wanted.commit)?;
        let accepted = accepted.map(commit_id).transpose()?;
        let tag = wanted.name.strip_prefix("refs/tags/").map(str::to_owned);
        Ok(Fetched {
            commit: wanted.commit.to_string(),
            ancestry: history::ancestry(&repository, accepted, wanted.commit),
            tag_object: tag.is_some().then_some(wanted.object),
            tag,
        })
    }

    /// Returns the ref that the mirror fetches, with the commit of the ref. If the source names a commit instead of a
    /// ref, the returned ref has an empty name.
    fn wanted(&self) -> Result<Ref, SourceError> {
        match (target(&self.repo)?, &self.repo.options.reference) {
            (Some(wanted), _) => Ok(wanted),
            (None, Reference::Commit(commit) | Reference::Branch(commit) | Reference::Tag(commit)) => {
                let commit = commit_id(commit)?;
                Ok(Ref { name: String::new(), object: commit, commit })
            }
        }
    }

    /// Returns a text with the names, sizes, inodes and times of the packs on disk. If a later call returns a different
    /// text, a pack was changed on disk, and may be damaged.
    pub fn fingerprint(&self) -> String {
        use std::os::unix::fs::MetadataExt as _;
        let Ok(found) = fs::read_dir(self.repo.pack_folder()) else { return String::new() };
        let mut packs: Vec<String> = found
            .flatten()
            .filter_map(|entry| {
                let meta = entry.metadata().ok()?;
                let name = entry.file_name().to_string_lossy().into_owned();
                Some(format!("{name} {} {} {}", meta.size(), meta.ino(), meta.mtime_nsec()))
            })
            .collect();
        packs.sort();
        packs.join("\n")
    }

    /// Returns the snapshot of a commit in the mirror.
    ///
    /// # Errors
    /// Returns an error if the mirror is damaged, or lacks the commit.
    pub fn snapshot(&self, commit: &str) -> Result<Snapshot, SourceError> {
        Snapshot::read(&self.repo, commit_id(commit)?, &self.repo.options.path)
    }

    /// Returns the relation of a commit in the mirror to an accepted commit.
    ///
    /// # Errors
    /// Returns an error if the mirror is damaged.
    pub fn ancestry(&self, accepted: &str, commit: &str) -> Result<Ancestry, SourceError> {
        let repository = self.repo.open()?;
        Ok(history::ancestry(&repository, Some(commit_id(accepted)?), commit_id(commit)?))
    }

    /// Returns true if the mirror has the commit.
    pub fn contains(&self, commit: &str) -> bool {
        commit_id(commit).is_ok_and(|commit| self.repo.open().is_ok_and(|found| found.find_commit(commit).is_ok()))
    }

    /// Returns true if a commit is in the history of the head that the remote most recently advertised.
    ///
    /// If the source follows a branch, the commit must be the head or an ancestor of the head. If the source names a
    /// commit, the function returns true only for this commit. If the source follows a tag, the function returns false,
    /// because the mirror records only the heads of branches.
    ///
    /// # Errors
    /// Returns an error if the mirror is damaged.
    pub fn has_shown(&self, commit: &str) -> Result<bool, SourceError> {
        shown::contains(&self.repo, commit)
    }

    /// Checks that the remote answers a request for its refs.
    ///
    /// # Errors
    /// Returns an error if the remote does not answer.
    pub fn check_answers(&self) -> Result<(), SourceError> {
        advertised(&self.repo, "HEAD").map(drop)
    }

    /// Returns the tags of the remote that point to a commit and match the source's pattern, highest version first. The
    /// function fetches the tag with the highest version if the mirror lacks the tag or its commit.
    ///
    /// # Errors
    /// Returns an error if the remote does not answer, or sends unusable data.
    pub fn tags_at(&self, commit: &str) -> Result<Vec<String>, SourceError> {
        let Reference::Tag(pattern) = &self.repo.options.reference else { return Ok(Vec::new()) };
        let commit = commit_id(commit)?;
        let found = refs::tags_at(&advertised(&self.repo, "refs/tags/*")?, pattern, commit);
        if let Some(tag) = found.first().filter(|tag| !has(&self.repo, tag)) {
            fetch_commit(&self.repo, tag)?;
        }
        Ok(found.iter().filter_map(|tag| Some(tag.name.strip_prefix("refs/tags/")?.to_owned())).collect())
    }

    /// Replaces a damaged mirror by a newly fetched mirror. The damaged mirror is kept until the new mirror is
    /// complete.
    ///
    /// # Errors
    /// Returns an error if the remote does not answer, or if the mirror cannot be written.
    pub fn renew(&self) -> Result<(), SourceError> {
        self.rebuild(None)
    }

    /// Checks that the commits of all refs of the mirror are readable.
    ///
    /// A fetch cannot repair a damaged commit, because the remote sends no commit that a ref of the mirror names.
    fn undamaged(&self) -> Result<(), SourceError> {
        if !self.repo.path.join("HEAD").exists() {
            return Ok(());
        }
        let repository = self.repo.open()?;
        let platform = repository.references().map_err(|error| self.repo.corrupt(error.to_string()))?;
        for reference in platform.all().map_err(|error| self.repo.corrupt(error.to_string()))? {
            let mut reference = reference.map_err(|error| self.repo.corrupt(error.to_string()))?;
            let id = reference.peel_to_id().map_err(|error| self.repo.corrupt(error.to_string()))?;
            // A ref may also name a tag of a tree. Only commits are checked.
            let found = repository.find_header(id).map_err(|error| self.repo.corrupt(error.to_string()))?;
            if found.kind() == gix::objs::Kind::Commit {
                repository.find_commit(id).map_err(|error| self.repo.corrupt(error.to_string()))?;
            }
        }
        Ok(())
    }

    /// Fetches the head of the source into a new mirror with one pack, and then replaces the old mirror.
    ///
    /// If the new mirror lacks the commit `keep`, the old mirror is not replaced.
    fn rebuild(&self, keep: Option<&str>) -> Result<(), SourceError> {
        let fresh = self.repo.at(self.repo.path.with_extension("git.new"));
        remove(&fresh.path).map_err(|error| self.repo.disk(error))?;
        let wanted = self.wanted()?;
        fetch_commit(&fresh, &wanted)?;
        match keep {
            Some(keep) => {
                let keep = commit_id(keep)?;
                let kept = fresh.open().is_ok_and(|found| found.find_commit(keep).is_ok());
                if !kept {
                    return remove(&fresh.path).map_err(|error| self.repo.disk(error));
                }
            }
            // The new mirror replaces a damaged one, so it must be complete.
            None => Snapshot::check_complete(&fresh, wanted.commit)?,
        }
        let old = self.old();
        let swap = || -> io::Result<()> {
            remove(&old)?;
            match fs::rename(&self.repo.path, &old) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            fs::rename(&fresh.path, &self.repo.path)?;
            remove(&old)
        };
        swap().map_err(|error| self.repo.disk(error))
    }

    fn old(&self) -> PathBuf {
        self.repo.path.with_extension("git.old")
    }

    /// If the agent crashed while it replaced the mirror, restores the mirror. Removes the incomplete mirrors of failed
    /// replacements.
    fn put_back(&self) -> Result<(), SourceError> {
        if !self.repo.path.exists() && self.old().exists() {
            fs::rename(self.old(), &self.repo.path).map_err(|error| self.repo.disk(error))?;
        }
        let half = ["git.new", "git.half", "git.old"].map(|ending| self.repo.path.with_extension(ending));
        half.iter().try_for_each(|path| remove(path)).map_err(|error| self.repo.disk(error))?;
        let part = self.repo.path.with_extension("pack.part");
        leftovers::remove_file(&part).map_err(|error| self.repo.disk(error))
    }
}

fn has(repo: &BareRepo, wanted: &Ref) -> bool {
    repo.open().is_ok_and(|found| found.find_commit(wanted.commit).is_ok() && found.has_object(wanted.object))
}

/// Fetches a commit into a repository, by the ref or the id of the commit. If the repository does not exist, the
/// function creates it.
fn fetch_commit(repo: &BareRepo, wanted: &Ref) -> Result<(), SourceError> {
    repo.unlock()?;
    repo.create()?;
    let Ref { name, commit, .. } = wanted;
    let spec = if name.is_empty() { format!("+{commit}:refs/towpath/{commit}") } else { format!("+{name}:{name}") };
    receive::run(Job { repo: repo.clone(), task: Task::Fetch { spec } })?;
    match repo.open()?.find_commit(*commit) {
        Ok(_) => Ok(()),
        Err(_) => Err(repo.unreachable(format!(
            "the remote did not send the commit {commit}, although a ref of the remote names the commit"
        ))),
    }
}
