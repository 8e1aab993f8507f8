//! The bare mirror of a source: poll, fetch, look back.

use std::{
    fs, io,
    path::{Path, PathBuf},
    str::FromStr as _,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use gix::{ObjectId, Repository, ThreadSafeRepository, protocol::transport::client::blocking_io, remote::Direction};

use crate::{
    Limits, Movement, Options, Reference, Snapshot, SourceError, Unverified, VerifyMode,
    deadline::{self, Ended, Watch},
    history, transport,
    verify::{self, Signers},
};

/// The mirror of one source.
#[derive(Debug)]
pub struct Mirror {
    options: Options,
    path: PathBuf,
}

/// A head that is in the mirror.
#[derive(Debug, Clone)]
pub struct Fetched {
    /// Its commit.
    pub commit: String,
    /// How it stands to the accepted commit.
    pub movement: Movement,
    /// The tag that it was found at.
    pub tag: Option<String>,
}

/// What a remote said of its refs.
struct Advertised {
    refs: Vec<(String, ObjectId)>,
}

impl Mirror {
    /// The mirror of a source below a folder.
    pub fn new(options: Options, folder: &Path) -> Self {
        let path = folder.join(format!("{}.git", options.name));
        Self { options, path }
    }

    /// The source.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// The commit at which the source stands: one advertisement, nothing is fetched.
    ///
    /// # Errors
    /// When the remote can't be asked, or has nothing at the ref.
    pub fn poll(&self) -> Result<String, SourceError> {
        if let Reference::Commit(commit) = &self.options.reference {
            return Ok(commit.clone());
        }
        self.resolve().map(|(_, commit)| commit.to_string())
    }

    /// Brings the source's head into the mirror, which is made where it is missing.
    ///
    /// # Errors
    /// When the remote can't be asked, or sends what can't be used.
    pub fn fetch(&self, accepted: Option<&str>) -> Result<Fetched, SourceError> {
        self.put_back()?;
        self.undamaged()?;
        if self.packs() >= self.options.limits.packs {
            self.anew(accepted)?;
        }
        let (name, commit) = self.target()?;
        if !self.has(commit) {
            self.receive(&self.path, name.as_deref(), commit)?;
        }
        let repository = self.open()?;
        let accepted = accepted.map(|accepted| self.id(accepted)).transpose()?;
        let tag = name.as_deref().and_then(|name| name.strip_prefix("refs/tags/")).map(str::to_owned);
        Ok(Fetched { commit: commit.to_string(), movement: history::movement(&repository, accepted, commit), tag })
    }

    /// What the mirror is on disk: names, sizes and times of its packs. Another one may be damaged.
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

    /// The snapshot of a commit that is in the mirror.
    ///
    /// # Errors
    /// When the mirror is damaged, or does not have it.
    pub fn snapshot(&self, commit: &str) -> Result<Snapshot, SourceError> {
        let repository = self.open()?.into_sync();
        Snapshot::read(&self.options.name, &repository, self.path.clone(), self.id(commit)?, &self.options.path)
    }

    /// How one commit of the mirror stands to another that was accepted before it.
    ///
    /// # Errors
    /// When the mirror is damaged.
    pub fn movement(&self, accepted: &str, commit: &str) -> Result<Movement, SourceError> {
        let repository = self.open()?;
        Ok(history::movement(&repository, Some(self.id(accepted)?), self.id(commit)?))
    }

    /// Whether a commit is in the mirror.
    pub fn contains(&self, commit: &str) -> bool {
        self.id(commit).is_ok_and(|commit| self.has(commit))
    }

    /// Makes a damaged mirror anew. Until the remote has sent everything, the damaged one stays where it is.
    ///
    /// # Errors
    /// When the remote can't be asked, or the disk does not take the mirror.
    pub fn renew(&self) -> Result<(), SourceError> {
        self.anew(None)
    }

    /// Checks the signatures that the source asks for, from the accepted commit to a new one.
    ///
    /// # Errors
    /// Which commit is not signed as it must be, and why; or that the mirror is damaged.
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

    /// The commits to verify, each with the one whose list of signers judges it.
    fn steps(
        &self,
        repository: &Repository,
        accepted: Option<&str>,
        head: ObjectId,
    ) -> Result<Vec<(Option<ObjectId>, ObjectId)>, Unverified> {
        let accepted = accepted.and_then(|accepted| ObjectId::from_str(accepted).ok());
        if let Some(lost) = accepted.filter(|accepted| !repository.has_object(accepted)) {
            if self.options.verify.mode == VerifyMode::Range && !self.options.allow_rewind {
                let message = format!("the accepted commit {lost} is not in its history");
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
            // A rewind that was allowed has no line from the accepted commit: its head alone is judged.
            None if self.options.allow_rewind
                && history::movement(repository, Some(accepted), head) == Movement::Rewound =>
            {
                Ok(vec![(Some(accepted), head)])
            }
            None => Err(Unverified {
                commit: head.to_string(),
                message: format!("the accepted commit {accepted} is not among its first parents"),
            }),
        }
    }

    fn in_path(&self, file: &str) -> String {
        let folder = self.options.path.trim_matches('/');
        if folder.is_empty() || folder == "." { file.to_owned() } else { format!("{folder}/{file}") }
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn id(&self, commit: &str) -> Result<ObjectId, SourceError> {
        ObjectId::from_str(commit)
            .map_err(|_| SourceError::Settings { message: format!("{commit:?} is no full commit id") })
    }

    pub(crate) fn disk(&self, source: io::Error) -> SourceError {
        SourceError::Disk { path: self.path.clone(), source }
    }

    pub(crate) fn corrupt(&self, message: impl Into<String>) -> SourceError {
        SourceError::Corrupt { path: self.path.clone(), message: message.into() }
    }

    fn unreachable(&self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> SourceError {
        SourceError::Unreachable { url: self.options.shown_url(), source: source.into() }
    }

    fn packs(&self) -> usize {
        let packs = fs::read_dir(self.path.join("objects/pack")).into_iter().flatten().flatten();
        packs.filter(|entry| entry.path().extension().is_some_and(|ending| ending == "pack")).count()
    }

    fn has(&self, commit: ObjectId) -> bool {
        self.open().is_ok_and(|repository| repository.find_commit(commit).is_ok())
    }

    /// Whether the commits that the mirror's refs name can be read. A remote sends nothing that the mirror claims to
    /// have, so a damaged one would never mend.
    fn undamaged(&self) -> Result<(), SourceError> {
        if !self.path.join("HEAD").exists() {
            return Ok(());
        }
        let repository = self.open()?;
        let platform = repository.references().map_err(|error| self.corrupt(error.to_string()))?;
        for reference in platform.all().map_err(|error| self.corrupt(error.to_string()))? {
            let mut reference = reference.map_err(|error| self.corrupt(error.to_string()))?;
            let id = reference.peel_to_id().map_err(|error| self.corrupt(error.to_string()))?;
            repository.find_commit(id).map_err(|error| self.corrupt(error.to_string()))?;
        }
        Ok(())
    }

    pub(crate) fn open(&self) -> Result<Repository, SourceError> {
        open(&self.path, &self.options).map_err(|error| self.corrupt(error.to_string()))
    }

    /// Makes the mirror anew with one pack, and only then gives up the old one; not where that would lose a commit
    /// that must be kept.
    fn anew(&self, keep: Option<&str>) -> Result<(), SourceError> {
        let fresh = self.path.with_extension("git.new");
        remove(&fresh).map_err(|error| self.disk(error))?;
        let (name, commit) = self.target()?;
        self.receive(&fresh, name.as_deref(), commit)?;
        if let Some(keep) = keep {
            let keep = self.id(keep)?;
            let kept = open(&fresh, &self.options).is_ok_and(|repository| repository.find_commit(keep).is_ok());
            if !kept {
                return remove(&fresh).map_err(|error| self.disk(error));
            }
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

    /// A crash between two renames leaves the mirror under its other name.
    fn put_back(&self) -> Result<(), SourceError> {
        if self.path.exists() || !self.old().exists() {
            return Ok(());
        }
        fs::rename(self.old(), &self.path).map_err(|error| self.disk(error))
    }

    /// The ref (none for a commit) and the commit to have.
    fn target(&self) -> Result<(Option<String>, ObjectId), SourceError> {
        match &self.options.reference {
            Reference::Commit(commit) => Ok((None, self.id(commit)?)),
            _ => self.resolve().map(|(name, commit)| (Some(name), commit)),
        }
    }

    /// The ref and the commit that the source names now.
    fn resolve(&self) -> Result<(String, ObjectId), SourceError> {
        let wanted = match &self.options.reference {
            Reference::Branch(branch) => format!("refs/heads/{branch}"),
            Reference::Tag(_) | Reference::Commit(_) => "refs/tags/*".to_owned(),
        };
        let advertised = self.advertised(&wanted)?;
        match &self.options.reference {
            Reference::Tag(pattern) => {
                highest_tag(&advertised, pattern).ok_or_else(|| self.missing(format!("tag {pattern}"), &advertised))
            }
            _ => {
                let found = advertised.refs.iter().find(|(name, _)| *name == wanted).cloned();
                found.ok_or_else(|| self.missing(wanted.replace("refs/heads/", "branch "), &advertised))
            }
        }
    }

    fn missing(&self, wanted: String, advertised: &Advertised) -> SourceError {
        SourceError::Missing { url: self.options.shown_url(), wanted, empty: advertised.refs.is_empty() }
    }

    /// Asks the remote for its refs.
    fn advertised(&self, wanted: &str) -> Result<Advertised, SourceError> {
        if let Some(local) = local_path(&self.options.url) {
            return self.local_refs(&local);
        }
        self.prepare(&self.path)?;
        let options = self.options.clone();
        let path = self.path.clone();
        let wanted = wanted.to_owned();
        let time = self.options.limits.poll;
        let ended = deadline::run(&Watch { time, growth: None }, move |_| advertise(&path, &options, &wanted, time));
        self.ended(ended, time)?
    }

    /// A repository on this machine is read, without a process between.
    fn local_refs(&self, path: &Path) -> Result<Advertised, SourceError> {
        let unreachable = |error: Box<dyn std::error::Error + Send + Sync>| self.unreachable(error);
        let repository = gix::open_opts(path, gix::open::Options::isolated().open_path_as_is(false))
            .map_err(|error| unreachable(error.into()))?;
        let platform = repository.references().map_err(|error| unreachable(error.into()))?;
        let mut refs = Vec::new();
        for reference in platform.all().map_err(|error| unreachable(error.into()))? {
            let Ok(mut reference) = reference else { continue };
            let name = reference.name().as_bstr().to_string();
            if let Ok(id) = reference.peel_to_id() {
                refs.push((name, id.detach()));
            }
        }
        Ok(Advertised { refs })
    }

    pub(crate) fn prepare(&self, path: &Path) -> Result<(), SourceError> {
        if path.join("HEAD").exists() {
            return Ok(());
        }
        // Made under another name first: what a crash leaves half made must not stand in the way.
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

    /// Fetches a commit, by its ref or by its id.
    fn receive(&self, path: &Path, name: Option<&str>, commit: ObjectId) -> Result<(), SourceError> {
        unlock(path).map_err(|error| self.disk(error))?;
        self.prepare(path)?;
        let Limits { fetch: time, bytes, .. } = self.options.limits;
        let options = self.options.clone();
        let spec = match name {
            Some(name) => format!("+{name}:{name}"),
            None => format!("+{commit}:refs/towpath/{commit}"),
        };
        let mirror = path.to_owned();
        let watch = Watch { time, growth: Some((path.join("objects"), bytes)) };
        let ended = deadline::run(&watch, move |stop| fetch(&mirror, &options, &spec, time, &stop));
        self.ended(ended, time)??;
        self.whole(path, commit)
    }

    /// Whether a commit and all its files are there: what a remote says and what it sends may differ.
    pub(crate) fn whole(&self, path: &Path, commit: ObjectId) -> Result<(), SourceError> {
        let repository = open(path, &self.options).map_err(|error| self.corrupt(error.to_string()))?.into_sync();
        let incomplete = |what: String| self.unreachable(format!("it did not send {what}"));
        if repository.to_thread_local().find_commit(commit).is_err() {
            return Err(incomplete(format!("the commit {commit} that it named")));
        }
        let snapshot = Snapshot::read(&self.options.name, &repository, path.to_owned(), commit, "")
            .map_err(|error| incomplete(error.to_string()))?;
        match snapshot.missing_object() {
            Some(missing) => Err(incomplete(missing)),
            None => Ok(()),
        }
    }

    fn ended<T>(&self, ended: Ended<T>, time: Duration) -> Result<T, SourceError> {
        let url = self.options.shown_url();
        match ended {
            Ended::Done(done) => Ok(done),
            Ended::TimedOut => Err(SourceError::TimedOut { url, seconds: time.as_secs() }),
            Ended::TooMuch => Err(SourceError::TooMuch { url, bytes: self.options.limits.bytes }),
            Ended::Panicked => Err(self.unreachable("what it sent can't be read")),
        }
    }
}

/// Why a commit does not count.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// It is not signed as it must be.
    #[error(transparent)]
    Unverified(Unverified),
    /// It can't be read.
    #[error(transparent)]
    Source(SourceError),
}

fn open(path: &Path, options: &Options) -> gix::Result<Repository> {
    let isolated = gix::open::Options::isolated().config_overrides(transport::overrides(options)).open_path_as_is(true);
    ThreadSafeRepository::open_opts(path, isolated).map(|repository| repository.to_thread_local())
}

type Unreachable = Box<dyn std::error::Error + Send + Sync>;

type Connection<'a, 'b, 'c> = gix::remote::Connection<'a, 'b, 'c, Box<dyn blocking_io::Transport + Send>>;

/// Connects a mirror to its remote, for one refspec.
fn connected<T>(
    path: &Path,
    options: &Options,
    spec: &str,
    time: Duration,
    work: impl FnOnce(Connection<'_, '_, '_>) -> Result<T, Unreachable>,
) -> Result<T, SourceError> {
    let unreachable = |error: Unreachable| SourceError::Unreachable { url: options.shown_url(), source: error };
    let repository = open(path, options)
        .map_err(|error| SourceError::Corrupt { path: path.to_owned(), message: error.to_string() })?;
    let remote = repository
        .remote_at(options.url.as_str())
        .and_then(|remote| {
            remote.with_fetch_tags(gix::remote::fetch::Tags::None).with_refspecs([spec], Direction::Fetch)
        })
        .map_err(|error| unreachable(error.into()))?;
    let mut connection = remote.connect(Direction::Fetch).map_err(|error| unreachable(error.into()))?;
    if transport::is_http(&options.url) {
        connection.set_transport_options(transport::http_options(options, time)?);
    }
    connection.set_credentials(|_| Ok(None));
    work(connection).map_err(unreachable)
}

fn advertise(path: &Path, options: &Options, wanted: &str, time: Duration) -> Result<Advertised, SourceError> {
    connected(path, options, wanted, time, |connection| {
        let (map, _) = connection.ref_map(gix::progress::Discard, gix::remote::ref_map::Options::default())?;
        let refs = map.remote_refs.iter().filter_map(|reference| {
            let (name, target, peeled) = reference.unpack();
            Some((name.to_string(), peeled.or(target)?.to_owned()))
        });
        Ok(Advertised { refs: refs.collect() })
    })
}

fn fetch(
    path: &Path,
    options: &Options,
    spec: &str,
    time: Duration,
    stop: &Arc<AtomicBool>,
) -> Result<(), SourceError> {
    connected(path, options, spec, time, |connection| {
        let prepared = connection.prepare_fetch(gix::progress::Discard, gix::remote::ref_map::Options::default())?;
        prepared.receive(gix::progress::Discard, stop)?;
        Ok(())
    })
}

/// The path of a repository on this machine.
fn local_path(url: &str) -> Option<PathBuf> {
    if let Some(path) = url.strip_prefix("file://") {
        return Some(PathBuf::from(path));
    }
    (url.starts_with('/') || url.starts_with("./") || url.starts_with("../")).then(|| PathBuf::from(url))
}

/// The tag with the highest semantic version that matches a pattern, or the tag of just that name.
fn highest_tag(advertised: &Advertised, pattern: &str) -> Option<(String, ObjectId)> {
    let tags = advertised.refs.iter().filter_map(|(name, id)| Some((name.strip_prefix("refs/tags/")?, name, id)));
    if !pattern.contains('*') {
        return tags.clone().find(|(tag, _, _)| *tag == pattern).map(|(_, name, id)| (name.clone(), *id));
    }
    let matching = tags.filter(|(tag, _, _)| glob_matches(pattern, tag));
    let versions = matching.filter_map(|(tag, name, id)| Some((version(tag)?, name, id)));
    versions.max_by(|a, b| a.0.cmp(&b.0)).map(|(_, name, id)| (name.clone(), *id))
}

/// The semantic version in a tag: behind a leading v, with missing parts as zero.
pub fn version(tag: &str) -> Option<semver::Version> {
    let text = tag.trim_start_matches(['v', 'V']);
    semver::Version::parse(text).ok().or_else(|| {
        let dots = text.bytes().filter(|byte| *byte == b'.').count();
        let plain = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
        (plain && dots < 2).then(|| semver::Version::parse(&format!("{text}{}", ".0".repeat(2 - dots))).ok()).flatten()
    })
}

fn glob_matches(glob: &str, text: &str) -> bool {
    let Some((first, rest)) = glob.split_once('*') else { return glob == text };
    let Some(text) = text.strip_prefix(first) else { return false };
    (0..=text.len()).filter(|at| text.is_char_boundary(*at)).any(|at| glob_matches(rest, &text[at..]))
}

/// Removes the locks that an agent left when it was killed: the state directory, and so the mirror, is this one's alone.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_version_wins() {
        let id = ObjectId::null(gix::hash::Kind::Sha1);
        let refs =
            ["v1.2.0", "v1.10.0", "v2.0.0", "v1.11.0-rc.1", "v1", "latest"].map(|tag| (format!("refs/tags/{tag}"), id));
        let advertised = Advertised { refs: refs.to_vec() };
        let found = |pattern| highest_tag(&advertised, pattern).map(|(name, _)| name);
        assert_eq!(found("v1.*").as_deref(), Some("refs/tags/v1.11.0-rc.1"));
        assert_eq!(found("v*").as_deref(), Some("refs/tags/v2.0.0"));
        assert_eq!(found("latest").as_deref(), Some("refs/tags/latest"));
        assert_eq!(found("v3.*"), None);
    }
}
