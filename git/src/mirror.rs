//! The bare mirror of a source. The mirror polls the remote, fetches commits and verifies their signatures.

use std::{
    fs, io,
    path::{Path, PathBuf},
    str::FromStr as _,
    time::Duration,
};

use gix::{ObjectId, Repository};

use crate::{
    Movement, Options, Reference, Snapshot, SourceError, Unverified, VerifyMode, connection,
    deadline::Ended,
    history, leftovers,
    receive::Job,
    refs::{self, Ref},
    verify::{self, Signers},
};

/// The bare git repository into which one source is fetched.
#[derive(Debug)]
pub struct Mirror {
    options: Options,
    path: PathBuf,
}

/// The head of a source after its fetch into the mirror.
#[derive(Debug, Clone)]
pub struct Fetched {
    /// The id of the head's commit.
    pub commit: String,
    /// The relation of the head to the accepted commit.
    pub movement: Movement,
    /// The name of the tag that leads to the head; `None` if the source does not follow tags.
    pub tag: Option<String>,
    /// The id of the object that the tag names: a tag object, or a commit.
    tag_object: Option<ObjectId>,
}

impl Mirror {
    /// Returns the mirror of a source in a folder. The function does not access the disk.
    pub fn new(options: Options, folder: &Path) -> Self {
        let path = folder.join(format!("{}.git", options.name));
        Self { options, path }
    }

    /// Returns the options of the source.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// Returns the current commit of the source on the remote, from a ref advertisement. Nothing is fetched.
    ///
    /// # Errors
    /// When the remote does not answer, or does not have the ref.
    pub fn poll(&self) -> Result<String, SourceError> {
        if let Reference::Commit(commit) = &self.options.reference {
            return Ok(commit.clone());
        }
        Ok(self.wanted()?.commit.to_string())
    }

    /// Fetches the source's head into the mirror. A missing mirror is created.
    ///
    /// The function only checks that the commit is present. The caller must verify the signature and the tree of the
    /// commit.
    ///
    /// # Errors
    /// When the remote does not answer, or sends unusable data.
    pub fn fetch(&self, accepted: Option<&str>) -> Result<Fetched, SourceError> {
        self.put_back()?;
        leftovers::remove_older(&self.path).map_err(|error| self.disk(error))?;
        self.undamaged()?;
        if self.packs() >= self.options.limits.packs {
            self.rebuild(accepted)?;
        }
        let wanted = self.wanted()?;
        if !self.has(&wanted) {
            self.receive(&self.path, &wanted)?;
        }
        let repository = self.open()?;
        self.remember_shown(&repository, wanted.commit)?;
        let accepted = accepted.map(|accepted| self.id(accepted)).transpose()?;
        let tag = wanted.name.strip_prefix("refs/tags/").map(str::to_owned);
        Ok(Fetched {
            commit: wanted.commit.to_string(),
            movement: history::movement(&repository, accepted, wanted.commit),
            tag_object: tag.is_some().then_some(wanted.object),
            tag,
        })
    }

    /// Returns the ref and the commit to fetch. For a source that names a commit, the name of the ref is empty.
    fn wanted(&self) -> Result<Ref, SourceError> {
        match (self.target()?, &self.options.reference) {
            (Some(wanted), _) => Ok(wanted),
            (None, Reference::Commit(commit) | Reference::Branch(commit) | Reference::Tag(commit)) => {
                let commit = self.id(commit)?;
                Ok(Ref { name: String::new(), object: commit, commit })
            }
        }
    }

    /// Returns the names, sizes, inodes and times of the packs on disk. If this text changes, the mirror may be
    /// damaged.
    pub fn fingerprint(&self) -> String {
        use std::os::unix::fs::MetadataExt as _;
        let Ok(found) = fs::read_dir(self.path.join("objects/pack")) else { return String::new() };
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
    /// When the mirror is damaged, or lacks the commit.
    pub fn snapshot(&self, commit: &str) -> Result<Snapshot, SourceError> {
        let repository = self.open()?.into_sync();
        Snapshot::read(&self.options.name, &repository, self.path.clone(), self.id(commit)?, &self.options.path)
    }

    /// Returns the relation of a commit in the mirror to an accepted commit.
    ///
    /// # Errors
    /// When the mirror is damaged.
    pub fn movement(&self, accepted: &str, commit: &str) -> Result<Movement, SourceError> {
        let repository = self.open()?;
        Ok(history::movement(&repository, Some(self.id(accepted)?), self.id(commit)?))
    }

    /// Returns true if the mirror has the commit.
    pub fn contains(&self, commit: &str) -> bool {
        self.id(commit).is_ok_and(|commit| self.open().is_ok_and(|found| found.find_commit(commit).is_ok()))
    }

    /// Replaces a damaged mirror by a newly fetched mirror. The damaged mirror remains until the new mirror is
    /// complete.
    ///
    /// # Errors
    /// When the remote does not answer, or the mirror cannot be written.
    pub fn renew(&self) -> Result<(), SourceError> {
        self.rebuild(None)
    }

    /// Verifies the signatures of the commits from the accepted commit to a new commit, as the source requires. Returns
    /// the signer of the new commit; `None` if the source requires no signatures.
    ///
    /// # Errors
    /// The commit without a valid signature, with the reason; or an error of the mirror.
    pub fn verify(&self, accepted: Option<&str>, commit: &str, now: u64) -> Result<Option<String>, VerifyError> {
        let options = &self.options.verify;
        if options.mode == VerifyMode::None {
            return Ok(None);
        }
        let repository = self.open().map_err(VerifyError::Source)?;
        let root = Signers::read(&options.key_files).map_err(VerifyError::Unverified)?;
        let head = self.id(commit).map_err(VerifyError::Source)?;
        let steps = self.steps(&repository, accepted, head).map_err(VerifyError::Unverified)?;
        let mut signer = None;
        for (judge, step) in steps {
            let listed = match (&options.signers, judge) {
                (Some(file), Some(judge)) => {
                    verify::listed_signers(&repository, judge, &self.in_path(file)).map_err(VerifyError::Unverified)?
                }
                _ => None,
            };
            let signers = match &listed {
                Some(listed) => root.with(listed),
                None => root.clone(),
            };
            signer = Some(verify::commit(&repository, step, &signers, now).map_err(VerifyError::Unverified)?);
        }
        Ok(signer)
    }

    /// Verifies the signatures of a head's commits and the signature of the head's tag. Returns the signer.
    ///
    /// Before the source has an accepted commit, a tag that is not annotated is valid if its commit is signed. An
    /// annotated tag is always verified. Without an accepted commit, only signers of the key files may sign the tag.
    ///
    /// # Errors
    /// The commit without a valid signature of the commit or its tag, with the reason; or an error of the mirror.
    pub fn verify_head(&self, accepted: Option<&str>, head: &Fetched, now: u64) -> Result<Option<String>, VerifyError> {
        let signer = self.verify(accepted, &head.commit, now)?;
        let (Some(tag), Some(object)) = (&head.tag, head.tag_object) else { return Ok(signer) };
        let commit = self.id(&head.commit).map_err(VerifyError::Source)?;
        if self.options.verify.mode == VerifyMode::None || (accepted.is_none() && object == commit) {
            return Ok(signer);
        }
        let repository = self.open().map_err(VerifyError::Source)?;
        let signers = self.tag_signers(&repository, accepted).map_err(VerifyError::Unverified)?;
        verify::tag(&repository, tag, object, commit, &signers, now).map(Some).map_err(VerifyError::Unverified)
    }

    /// Returns the tag with the highest version in the mirror that leads to a commit and that the source may follow. If
    /// the source requires signatures, [`Self::verify_head`] must accept the tag. Returns `None` without such a tag.
    ///
    /// # Errors
    /// When the keys or the mirror cannot be read.
    pub fn tag_of(&self, accepted: Option<&str>, commit: &str, now: u64) -> Result<Option<String>, VerifyError> {
        let Reference::Tag(pattern) = &self.options.reference else { return Ok(None) };
        let repository = self.open().map_err(VerifyError::Source)?;
        let id = self.id(commit).map_err(VerifyError::Source)?;
        let mut tags =
            refs::matching_tags(&repository, pattern).map_err(|why| VerifyError::Source(self.corrupt(why)))?;
        tags.retain(|tag| tag.commit == id);
        let mut names: Vec<(String, ObjectId)> = tags
            .into_iter()
            .filter_map(|tag| Some((tag.name.strip_prefix("refs/tags/")?.to_owned(), tag.object)))
            .collect();
        names.sort_by_key(|(name, _)| std::cmp::Reverse(refs::version(name)));
        if self.options.verify.mode != VerifyMode::None {
            let signers = self.tag_signers(&repository, accepted).map_err(VerifyError::Unverified)?;
            names.retain(|(name, object)| {
                (accepted.is_none() && *object == id)
                    || verify::tag(&repository, name, *object, id, &signers, now).is_ok()
            });
        }
        Ok(names.into_iter().next().map(|(name, _)| name))
    }

    /// Returns the accepted signers of tags: the signers in the key files and in the accepted commit's list.
    fn tag_signers(&self, repository: &Repository, accepted: Option<&str>) -> Result<Signers, Unverified> {
        let signers = Signers::read(&self.options.verify.key_files)?;
        let judge = accepted.and_then(|accepted| ObjectId::from_str(accepted).ok());
        let judge = judge.filter(|judge| repository.has_object(judge));
        let (Some(file), Some(judge)) = (&self.options.verify.signers, judge) else { return Ok(signers) };
        let listed = verify::listed_signers(repository, judge, &self.in_path(file))?;
        Ok(listed.map_or(signers.clone(), |listed| signers.with(&listed)))
    }

    /// Returns the commits to verify, each with the earlier commit that lists the accepted signers.
    fn steps(
        &self,
        repository: &Repository,
        accepted: Option<&str>,
        head: ObjectId,
    ) -> Result<Vec<(Option<ObjectId>, ObjectId)>, Unverified> {
        let accepted = accepted.and_then(|accepted| ObjectId::from_str(accepted).ok());
        if let Some(lost) = accepted.filter(|accepted| !repository.has_object(accepted)) {
            if self.options.verify.mode == VerifyMode::Range && !self.options.allow_rewind {
                let message = format!("the accepted commit {lost} is not in the history of the commit");
                return Err(Unverified { commit: head.to_string(), message });
            }
            return Ok(vec![(None, head)]);
        }
        let Some(accepted) = accepted.filter(|accepted| *accepted != head) else { return Ok(vec![(None, head)]) };
        if self.options.verify.mode == VerifyMode::Head {
            return Ok(vec![(Some(accepted), head)]);
        }
        match history::first_parents(repository, accepted, head) {
            Some(line) => {
                let judges = std::iter::once(accepted).chain(line.iter().copied());
                Ok(judges.map(Some).zip(line.iter().copied()).collect())
            }
            // After a permitted rewind, the first parents of the head do not lead to the accepted commit. So only the
            // head is verified.
            None if self.options.allow_rewind
                && history::movement(repository, Some(accepted), head) == Movement::Rewound =>
            {
                Ok(vec![(Some(accepted), head)])
            }
            None => Err(Unverified {
                commit: head.to_string(),
                message: format!("the accepted commit {accepted} is not among the first parents of the commit"),
            }),
        }
    }

    fn in_path(&self, file: &str) -> String {
        let folder = self.options.path.trim_matches('/');
        if folder.is_empty() || folder == "." { file.to_owned() } else { format!("{folder}/{file}") }
    }

    /// Returns the path of the mirror.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn id(&self, commit: &str) -> Result<ObjectId, SourceError> {
        ObjectId::from_str(commit)
            .map_err(|_| SourceError::Settings { message: format!("{commit:?} is not a full commit id") })
    }

    pub(crate) fn disk(&self, source: io::Error) -> SourceError {
        SourceError::Disk { path: self.path.clone(), source }
    }

    pub(crate) fn corrupt(&self, message: impl Into<String>) -> SourceError {
        SourceError::Corrupt { path: self.path.clone(), message: message.into() }
    }

    pub(crate) fn too_much(&self, limit: String) -> SourceError {
        SourceError::TooMuch { url: self.options.shown_url(), limit }
    }

    pub(crate) fn unreachable(&self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> SourceError {
        SourceError::Unreachable { url: self.options.shown_url(), source: source.into() }
    }

    fn packs(&self) -> usize {
        let packs = fs::read_dir(self.path.join("objects/pack")).into_iter().flatten().flatten();
        packs.filter(|entry| entry.path().extension().is_some_and(|ending| ending == "pack")).count()
    }

    pub(crate) fn has(&self, wanted: &Ref) -> bool {
        self.open().is_ok_and(|found| found.find_commit(wanted.commit).is_ok() && found.has_object(wanted.object))
    }

    /// Checks that the mirror can read the commits of its refs.
    ///
    /// A remote omits commits that the refs of the mirror name, so a fetch would not repair a damaged commit.
    fn undamaged(&self) -> Result<(), SourceError> {
        if !self.path.join("HEAD").exists() {
            return Ok(());
        }
        let repository = self.open()?;
        let platform = repository.references().map_err(|error| self.corrupt(error.to_string()))?;
        for reference in platform.all().map_err(|error| self.corrupt(error.to_string()))? {
            let mut reference = reference.map_err(|error| self.corrupt(error.to_string()))?;
            let id = reference.peel_to_id().map_err(|error| self.corrupt(error.to_string()))?;
            // A ref may also name a tag of a tree. Only commits are checked.
            let found = repository.find_header(id).map_err(|error| self.corrupt(error.to_string()))?;
            if found.kind() == gix::objs::Kind::Commit {
                repository.find_commit(id).map_err(|error| self.corrupt(error.to_string()))?;
            }
        }
        Ok(())
    }

    pub(crate) fn open(&self) -> Result<Repository, SourceError> {
        connection::open(&self.path, &self.options).map_err(|error| self.corrupt(error.to_string()))
    }

    /// Fetches a new mirror with one pack, and then replaces the old mirror.
    ///
    /// If the new mirror lacks the commit `keep`, the old mirror remains.
    fn rebuild(&self, keep: Option<&str>) -> Result<(), SourceError> {
        let fresh = self.path.with_extension("git.new");
        remove(&fresh).map_err(|error| self.disk(error))?;
        let wanted = self.wanted()?;
        self.receive(&fresh, &wanted)?;
        match keep {
            Some(keep) => {
                let keep = self.id(keep)?;
                let kept = connection::open(&fresh, &self.options).is_ok_and(|found| found.find_commit(keep).is_ok());
                if !kept {
                    return remove(&fresh).map_err(|error| self.disk(error));
                }
            }
            // The new mirror replaces a damaged one, so it must be complete.
            None => self.whole(&fresh, wanted.commit)?,
        }
        let old = self.old();
        let swap = || -> io::Result<()> {
            remove(&old)?;
            match fs::rename(&self.path, &old) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            fs::rename(&fresh, &self.path)?;
            remove(&old)
        };
        swap().map_err(|error| self.disk(error))
    }

    fn old(&self) -> PathBuf {
        self.path.with_extension("git.old")
    }

    /// Restores the mirror after a crash during its replacement, and removes incomplete mirrors of earlier attempts.
    fn put_back(&self) -> Result<(), SourceError> {
        if !self.path.exists() && self.old().exists() {
            fs::rename(self.old(), &self.path).map_err(|error| self.disk(error))?;
        }
        let half = ["git.new", "git.half", "git.old"].map(|ending| self.path.with_extension(ending));
        half.iter().try_for_each(|path| remove(path)).map_err(|error| self.disk(error))?;
        let part = self.path.with_extension("pack.part");
        leftovers::remove_file(&part).map_err(|error| self.disk(error))
    }

    pub(crate) fn prepare(&self, path: &Path) -> Result<(), SourceError> {
        if path.join("HEAD").exists() {
            return Ok(());
        }
        // The mirror is created under a temporary name, so that a crash leaves no incomplete mirror.
        let half = path.with_extension("git.half");
        let make = || -> io::Result<()> {
            remove(&half)?;
            remove(path)?;
            if let Some(parent) = path.parent() {
                fs::create_dir_all(parent)?;
            }
            gix::init_bare(&half).map_err(|error| io::Error::other(error.to_string()))?;
            fs::rename(&half, path)
        };
        make().map_err(|error| self.disk(error))
    }

    /// Fetches a commit into a mirror, by the ref or by the id of the commit.
    pub(crate) fn receive(&self, path: &Path, wanted: &Ref) -> Result<(), SourceError> {
        unlock(path).map_err(|error| self.disk(error))?;
        self.prepare(path)?;
        let Ref { name, commit, .. } = wanted;
        let spec = if name.is_empty() { format!("+{commit}:refs/towpath/{commit}") } else { format!("+{name}:{name}") };
        let job = Job::Fetch { mirror: path.to_owned(), options: Box::new(self.options.clone()), spec };
        let done = self.work(path, job);
        done?;
        let repository = connection::open(path, &self.options).map_err(|error| self.corrupt(error.to_string()))?;
        match repository.find_commit(*commit) {
            Ok(_) => Ok(()),
            Err(_) => Err(self.unreachable(format!("the remote did not send the commit {commit} of its ref"))),
        }
    }

    /// Runs a job on a mirror, and removes the temporary files of the job.
    pub(crate) fn work(&self, path: &Path, job: Job) -> Result<(), SourceError> {
        let done = job.run();
        leftovers::remove(path).map_err(|error| self.disk(error))?;
        done
    }

    /// Checks that the mirror has a commit and all its files, because a remote may omit objects.
    pub(crate) fn whole(&self, path: &Path, commit: ObjectId) -> Result<(), SourceError> {
        let repository =
            connection::open(path, &self.options).map_err(|error| self.corrupt(error.to_string()))?.into_sync();
        let incomplete = |what: String| self.unreachable(format!("the remote did not send {what}"));
        let snapshot = Snapshot::read(&self.options.name, &repository, path.to_owned(), commit, "");
        match snapshot {
            Ok(snapshot) => snapshot.missing_object().map_or(Ok(()), |missing| Err(incomplete(missing))),
            Err(error @ SourceError::Refused { .. }) => Err(error),
            Err(error) => Err(incomplete(error.to_string())),
        }
    }

    pub(crate) fn ended<T>(&self, ended: Ended<T>, time: Duration) -> Result<T, SourceError> {
        let url = self.options.shown_url();
        match ended {
            Ended::Done(done) => Ok(done),
            Ended::TimedOut => Err(SourceError::TimedOut { url, seconds: time.as_secs() }),
            Ended::Panicked => Err(self.unreachable("cannot parse the data")),
        }
    }
}

/// The reason why a commit cannot be verified.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The error that a signature is missing or invalid.
    #[error(transparent)]
    Unverified(Unverified),
    /// The error that the source cannot be read.
    #[error(transparent)]
    Source(SourceError),
}

/// Removes the lock files of a killed agent. No other agent can be using the lock files, because the state directory
/// is locked.
pub(crate) fn unlock(path: &Path) -> io::Result<()> {
    let mut folders = vec![path.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries = match fs::read_dir(&folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            let below = folder != path || entry.file_name() == "refs";
            if entry.file_type()?.is_dir() && below {
                folders.push(entry.path());
            } else if entry.path().extension().is_some_and(|end| end == "lock") {
                fs::remove_file(entry.path())?;
            }
        }
    }
    Ok(())
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
