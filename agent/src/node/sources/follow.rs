//! Checks the accepted revisions of other nodes against the rules in the bootstrap file of this node.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use towpath_coordination::gossip::PackRequest;
use towpath_git::{Ancestry, Mirror, Reference, SourceError, VerifyError, VerifyMode};
use towpath_state::{Journal, SourceCheckpoint};

use super::{
    DEPTH, RefreshReport, Sources, origin,
    requests::{Answer, RequestError, Requests, WritePack, is_pending},
};
use crate::{config::Source, error_chain::error_chain};

/// The reason why a node does not adopt an accepted revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::node) enum AdoptionError {
    /// A temporary failure: the node cannot use the data store, a mirror or a source at the moment.
    Behind(String),
    /// A git server has not answered a request yet. Until the git server answers, the node keeps its previous decision
    /// about the revision.
    Pending(String),
    /// The node lacks a commit, a manifest, a valid acceptance record or a newer agent. The node waits for a limited
    /// time, and then rejects the revision. The wait counts only the time in which the supplier (git server or data
    /// store) answers.
    Missing {
        /// The text of the cause, for messages.
        why: String,
        /// True if the supplier of the missing part (git server or data store) has answered.
        answered: bool,
        /// The kind of the missing part.
        what: Lacking,
    },
    /// The bootstrap file of this node contradicts the acceptance record of the revision. The node adopts no revision
    /// until an administrator resolves the conflict.
    Refused(String),
    /// The rules of this node reject the revision. The node ignores the acceptance record of a rejected revision.
    Rejected(String),
    /// The acceptance record of the revision is invalid, and every node rejects the record.
    Void(String),
}

/// A missing part that a node needs to adopt a revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::node) enum Lacking {
    /// A commit that is not in the mirror.
    Commit,
    /// The manifest that the acceptance record names.
    Manifest,
    /// A newer agent, because the agent of this node does not know the schema of the acceptance record.
    Agent,
    /// A valid acceptance record, for a node that has not accepted a revision yet. Other nodes overwrite an invalid
    /// record with their own valid record.
    Record,
}

/// The time limit for one peer to send a git pack. While a peer sends the git pack, no other request uses the mirror.
const PEER: Duration = Duration::from_secs(60);

/// A function that prepares a request to peers for a git pack.
type AskPeers<'a> = &'a dyn Fn(PackRequest) -> WritePack;

/// A commit that other nodes have accepted, and the state of the commit's source on this node.
struct Step<'a> {
    source: &'a Source,
    requests: &'a Requests,
    mirror: Mirror,
    commit: &'a str,
    /// The newest commit of the source that this node has accepted. The commit of the other nodes must descend from
    /// `floor`. `floor` is `None` if this node has not accepted a commit of the source yet.
    floor: Option<String>,
    /// The git tag of the `floor` commit.
    tag: Option<String>,
    peers: AskPeers<'a>,
    now: u64,
}

impl Sources {
    /// Fetches and loads a revision that other nodes have accepted. Each commit must descend from the newest commit of
    /// its source that this node has accepted. Each commit must be signed as the settings of this node require.
    ///
    /// # Errors
    /// Fails with the reason why this node cannot adopt the revision.
    pub(in crate::node) fn follow(
        &self,
        journal: &Journal,
        known: &BTreeMap<String, String>,
        commits: &BTreeMap<String, String>,
        now: i64,
        peers: AskPeers<'_>,
    ) -> Result<RefreshReport, AdoptionError> {
        let now = u64::try_from(now / 1000).unwrap_or(0);
        let mut sources = self.first.clone();
        let mut checked: BTreeSet<String> = BTreeSet::new();
        for _ in 0..DEPTH {
            for source in &sources {
                let name = &source.git.name;
                if !checked.insert(name.clone()) {
                    continue;
                }
                let commit = commits.get(name).ok_or_else(|| {
                    AdoptionError::Rejected(format!("the revision has no commit of the source {name}"))
                })?;
                let checkpoint: Option<SourceCheckpoint> = journal.get_readable(name).ok().flatten();
                let (floor, tag) = match checkpoint {
                    // A checkpoint of another URL or ref is ignored. The source then starts without a floor commit.
                    Some(checkpoint) if checkpoint.origin != origin(source) => (None, None),
                    Some(checkpoint) => (Some(checkpoint.commit), checkpoint.tag),
                    None => (known.get(name).cloned(), None),
                };
                let (requests, mirror) = (&self.requests, self.mirror(source));
                let step = Step { source, requests, mirror, commit, floor, tag, peers, now };
                if let Err(error) = step.requests.check_idle(&step.mirror) {
                    // The mirror is not complete while a request writes the mirror.
                    step.settled(&error)?;
                }
                // A commit that this node has already accepted is not checked again, even if the rules have changed.
                if known.get(name) != Some(commit) || !step.mirror.contains(commit) {
                    step.check()?;
                }
            }
            let report = self.load_accepted(commits).map_err(|error| match *error {
                SourceError::Refused { .. } => AdoptionError::Rejected(error_chain(&*error)),
                SourceError::Pending { .. } => AdoptionError::Pending(error_chain(&*error)),
                _ => AdoptionError::Behind(error_chain(&*error)),
            })?;
            if report.sources.len() <= sources.len() || report.set.is_none() {
                let unknown = commits.keys().find(|name| report.sources.iter().all(|source| source.git.name != **name));
                return match unknown.filter(|_| report.set.is_some()) {
                    Some(name) => Err(AdoptionError::Rejected(format!(
                        "the revision has a commit of {name:?}, which is not a source of this node"
                    ))),
                    None => Ok(report),
                };
            }
            sources = report.sources;
        }
        Err(AdoptionError::Rejected("the sources of the revision are nested too deeply".into()))
    }
}

impl Step<'_> {
    /// Fetches the commit, and checks whether this node may adopt the commit.
    fn check(&self) -> Result<(), AdoptionError> {
        let name = &self.source.git.name;
        let signed = self.source.git.verify.mode != VerifyMode::None;
        let accepted = self.floor.as_deref() == Some(self.commit);
        match &self.source.git.reference {
            Reference::Commit(pinned) if pinned != self.commit && !accepted => {
                return self.rejected(format!("the source is pinned to {pinned}"));
            }
            Reference::Commit(_) => self.fetch()?,
            Reference::Branch(_) | Reference::Tag(_) if accepted => self.fetch()?,
            Reference::Branch(_) => self.fetch_branch(signed)?,
            Reference::Tag(_) => self.fetch_tag(signed)?,
        }
        if accepted {
            return Ok(());
        }
        self.check_ancestry()?;
        match self.mirror.verify(self.floor.as_deref(), self.commit, self.now) {
            Ok(_) => self.check_tag(),
            Err(VerifyError::Unverified(why)) => Err(AdoptionError::Rejected(format!("{name}: {why}"))),
            Err(VerifyError::Source(error)) => Err(AdoptionError::Behind(error_chain(&error))),
        }
    }

    fn rejected(&self, why: String) -> Result<(), AdoptionError> {
        Err(AdoptionError::Rejected(format!("{} of {}: {why}", self.commit, self.source.git.name)))
    }

    fn missing(&self, why: String, answered: bool) -> Result<(), AdoptionError> {
        Err(AdoptionError::Missing { why: format!("{}: {why}", self.source.git.name), answered, what: Lacking::Commit })
    }

    /// Fetches a commit that needs no proof except its id: a pinned commit, or a commit that this node has accepted.
    fn fetch(&self) -> Result<(), AdoptionError> {
        if self.mirror.contains(self.commit) {
            return Ok(());
        }
        let Answer { result: fetched, answered } = self.requests.fetch(&self.mirror, self.floor.as_deref());
        if self.mirror.contains(self.commit) {
            return Ok(());
        }
        let git = self.not_shown(fetched.err())?;
        self.fetch_from_peers(&git, answered)
    }

    /// Fetches a commit of a branch into the mirror. The commit must be reachable from the ref on the git server
    /// (P140). A signature alone does not prove that a commit belongs to the branch. While the git server does not
    /// answer, a signed commit may come from another node.
    fn fetch_branch(&self, signed: bool) -> Result<(), AdoptionError> {
        let shown = || self.mirror.contains(self.commit) && self.mirror.has_shown(self.commit).unwrap_or(false);
        if shown() {
            return Ok(());
        }
        let Answer { result: fetched, answered } = self.requests.fetch(&self.mirror, self.floor.as_deref());
        if shown() {
            return Ok(());
        }
        let git = self.not_shown(fetched.err())?;
        if answered || !signed {
            return self.missing(format!("{git}; this node accepts the commit only from the git server"), answered);
        }
        if self.mirror.contains(self.commit) {
            return Ok(());
        }
        self.fetch_from_peers(&git, answered)
    }

    /// Returns the reason why the git server did not supply the commit.
    ///
    /// # Errors
    /// Fails if the git server has not answered yet.
    fn not_shown(&self, error: Option<RequestError>) -> Result<String, AdoptionError> {
        match error {
            None => Ok(format!("the source's ref on the git server does not contain the commit {}", self.commit)),
            Some(error) => self.settled(&error),
        }
    }

    /// Returns the error of an ended request as text.
    ///
    /// # Errors
    /// Fails if the request has not ended.
    fn settled(&self, error: &SourceError) -> Result<String, AdoptionError> {
        let text = error_chain(error);
        if is_pending(error) {
            return Err(AdoptionError::Pending(format!("{}: {text}", self.source.git.name)));
        }
        Ok(text)
    }

    /// Fetches the commit of a tag into the mirror. The git server must have a tag that points to the commit and
    /// matches the source's pattern. The version of the tag must not be lower than the accepted version. If the git
    /// server does not answer, a signed commit may come from another node.
    fn fetch_tag(&self, signed: bool) -> Result<(), AdoptionError> {
        let Answer { result: tags, answered } = self.requests.tags_at(&self.mirror, self.commit);
        match tags {
            Ok(tags) => {
                let Some(tag) = tags.first() else {
                    return self
                        .missing(format!("the git server has no matching tag for the commit {}", self.commit), true);
                };
                let version = |tag: &str| towpath_git::version(tag);
                let lower = self.tag.as_deref().and_then(version).zip(version(tag)).is_some_and(|(old, new)| new < old);
                if lower && !self.source.git.allow_rewind {
                    return self.rejected(format!("the tag {tag} is lower than the accepted tag"));
                }
                Ok(())
            }
            Err(error) => {
                let git = self.settled(&error)?;
                match signed {
                    true if self.mirror.contains(self.commit) => Ok(()),
                    true => self.fetch_from_peers(&git, answered),
                    false => self.missing(git, answered),
                }
            }
        }
    }

    /// Fetches from other nodes a commit that the git server does not supply (P33). `git` is the error of the git
    /// server; `answered` is true if the git server answered.
    fn fetch_from_peers(&self, git: &str, answered: bool) -> Result<(), AdoptionError> {
        let options = self.mirror.options();
        let wanted = PackRequest {
            source: options.name.clone(),
            commit: self.commit.to_owned(),
            have: self.floor.clone().filter(|floor| self.mirror.contains(floor)),
            bytes: options.limits.bytes,
            time: options.limits.fetch.min(PEER),
        };
        match self.requests.take_pack(&self.mirror, self.commit, (self.peers)(wanted)) {
            Ok(()) => {
                tracing::info!(source = options.name, commit = self.commit, "the commit came from another node");
                Ok(())
            }
            Err(error) => self.missing(format!("{git}; {}", self.settled(&error)?), answered),
        }
    }

    /// Checks that the commit does not rewind the source, unless a rewind is permitted (P28).
    fn check_ancestry(&self) -> Result<(), AdoptionError> {
        let Some(floor) = &self.floor else { return Ok(()) };
        let ancestry = self.mirror.ancestry(floor, self.commit);
        let back = match self.source.git.reference {
            Reference::Branch(_) => !matches!(ancestry, Ok(Ancestry::Forward)),
            // Tags may be on different branches, so a tag need not descend from an earlier tag.
            Reference::Tag(_) => matches!(ancestry, Ok(Ancestry::Behind)),
            Reference::Commit(_) => false,
        };
        if !back {
            return Ok(());
        }
        if !self.source.git.allow_rewind {
            return self.rejected(format!("the commit does not descend from {floor}, which this node has accepted"));
        }
        // A rewind is valid only if the git server no longer shows the commit that this node has accepted (P28).
        let shown = |commit: &str| self.mirror.has_shown(commit).unwrap_or(false);
        let is_branch = matches!(self.source.git.reference, Reference::Branch(_));
        if is_branch && (shown(floor) || !shown(self.commit)) {
            let Answer { result, answered } = self.requests.fetch(&self.mirror, None);
            if let Err(error) = result {
                return self.missing(self.settled(&error)?, answered);
            }
            if shown(floor) || !shown(self.commit) {
                return self.missing(
                    format!("cannot rewind the source: the ref on its git server has {floor}, or lacks the new commit"),
                    true,
                );
            }
        }
        Ok(())
    }

    /// Checks that a signed tag points to the commit, if the source follows tags and verifies signatures. If the node
    /// has not accepted a commit of the source yet, a lightweight tag is sufficient. Tags come only from the git
    /// server, so that another node cannot mark a commit as a release.
    fn check_tag(&self) -> Result<(), AdoptionError> {
        let verified = self.source.git.verify.mode != VerifyMode::None;
        if !verified || !matches!(self.source.git.reference, Reference::Tag(_)) {
            return Ok(());
        }
        let floor = self.floor.as_deref();
        let tagged = || matches!(self.mirror.tag_of(floor, self.commit, self.now), Ok(Some(_)));
        if tagged() {
            return Ok(());
        }
        let Answer { result: fetched, answered } = self.requests.fetch(&self.mirror, floor);
        if tagged() {
            return Ok(());
        }
        let error = fetched.err().map(|error| self.settled(&error)).transpose()?;
        let why = error.map_or_else(String::new, |error| format!(": {error}"));
        self.missing(format!("the mirror has no signed tag for the commit {} yet{why}", self.commit), answered)
    }
}
