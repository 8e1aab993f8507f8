//! Following what other nodes have accepted: by this node's own rules.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use towpath_coordination::gossip::Wanted;
use towpath_git::{Mirror, Movement, Reference, SourceError, VerifyError, VerifyMode};
use towpath_host::journal::Journal;

use super::sources::{DEPTH, Guard, Looked, Sources, origin};
use crate::{config::Source, report::chain};

/// Why a node does not follow a record of acceptance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Unfollowed {
    /// It can't yet: it lacks something.
    Behind(String),
    /// It lacks a commit, or what came with the record. The wait for that is bounded while whoever should give it
    /// answers.
    Missing {
        /// What is missing.
        why: String,
        /// Whether the git server, or the data store, has answered.
        answered: bool,
        /// What is waited for.
        what: Lacking,
    },
    /// Its own bootstrap file keeps it from following any.
    Refused(String),
    /// It must not, by its own rules: for it, the acceptance does not exist.
    Rejected(String),
    /// It is not a valid acceptance for any node.
    Void(String),
}

/// What a node lacks of an acceptance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lacking {
    /// A commit.
    Commit,
    /// The manifest that its record names.
    Manifest,
    /// An agent that knows the schema of its record.
    Agent,
    /// A record that is not void, on a node that has none of its own: nodes that have one put theirs back.
    Record,
}

/// What a node asks its peers for, and how.
type AskPeers<'a> = &'a dyn Fn(&Wanted, &Path) -> Result<(), String>;

/// One commit that other nodes have accepted, and what this node has of its source.
struct Step<'a> {
    source: &'a Source,
    mirror: Mirror,
    commit: &'a str,
    /// The commit that it must descend from.
    floor: Option<String>,
    /// The tag at which that commit was accepted.
    tag: Option<String>,
    peers: AskPeers<'a>,
    now: u64,
}

impl Sources {
    /// Loads what other nodes have accepted: each commit is fetched, must descend from what this node knows, and must be
    /// signed as this node asks.
    ///
    /// # Errors
    /// Why it can't be followed.
    pub(super) fn follow(
        &self,
        journal: &Journal,
        known: &BTreeMap<String, String>,
        commits: &BTreeMap<String, String>,
        now: i64,
        peers: AskPeers<'_>,
    ) -> Result<Looked, Unfollowed> {
        let now = u64::try_from(now / 1000).unwrap_or(0);
        let mut sources = self.first.clone();
        let mut checked: BTreeSet<String> = BTreeSet::new();
        for _ in 0..DEPTH {
            for source in &sources {
                let name = &source.git.name;
                if !checked.insert(name.clone()) {
                    continue;
                }
                let commit = commits
                    .get(name)
                    .ok_or_else(|| Unfollowed::Rejected(format!("it has no commit of the source {name}")))?;
                let guard: Option<Guard> = journal.get(&format!("guard/{name}")).ok().flatten();
                let (floor, tag) = match guard {
                    // Another URL or ref begins without a floor.
                    Some(guard) if guard.origin != origin(source) => (None, None),
                    Some(guard) => (Some(guard.commit), guard.tag),
                    None => (known.get(name).cloned(), None),
                };
                let step = Step { source, mirror: self.mirror(source), commit, floor, tag, peers, now };
                // What this node has accepted itself needs no other proof, whatever its rules are now.
                if known.get(name) != Some(commit) || !step.mirror.contains(commit) {
                    step.check()?;
                }
            }
            let looked = self.load_accepted(commits).map_err(|error| match error {
                SourceError::Refused { .. } => Unfollowed::Rejected(chain(&error)),
                _ => Unfollowed::Behind(chain(&error)),
            })?;
            if looked.sources.len() <= sources.len() || looked.set.is_none() {
                let unknown = commits.keys().find(|name| looked.sources.iter().all(|source| source.git.name != **name));
                return match unknown.filter(|_| looked.set.is_some()) {
                    Some(name) => {
                        Err(Unfollowed::Rejected(format!("it has a commit of {name:?}, which is not a source")))
                    }
                    None => Ok(looked),
                };
            }
            sources = looked.sources;
        }
        Err(Unfollowed::Rejected("its sources name one another too deeply".into()))
    }
}

impl Step<'_> {
    /// Fetches the commit, and checks whether this node may follow it.
    fn check(&self) -> Result<(), Unfollowed> {
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
        self.check_movement()?;
        match self.mirror.verify(self.floor.as_deref(), self.commit, self.now) {
            Ok(_) => self.check_tag(),
            Err(VerifyError::Unverified(why)) => Err(Unfollowed::Rejected(format!("{name}: {why}"))),
            Err(VerifyError::Source(error)) => Err(Unfollowed::Behind(chain(&error))),
        }
    }

    fn rejected(&self, why: String) -> Result<(), Unfollowed> {
        Err(Unfollowed::Rejected(format!("{} of {}: {why}", self.commit, self.source.git.name)))
    }

    fn missing(&self, why: String, answered: bool) -> Result<(), Unfollowed> {
        Err(Unfollowed::Missing { why: format!("{}: {why}", self.source.git.name), answered, what: Lacking::Commit })
    }

    /// Brings a commit into the mirror that its own name proves: a pinned one, or one that this node has accepted.
    fn fetch(&self) -> Result<(), Unfollowed> {
        if self.mirror.contains(self.commit) {
            return Ok(());
        }
        let fetched = self.mirror.fetch(self.floor.as_deref());
        if self.mirror.contains(self.commit) {
            return Ok(());
        }
        let answered = self.answered(fetched.as_ref().err());
        self.fetch_from_peers()
            .or_else(|why| self.missing(format!("{}; {why}", self.not_shown(fetched.err())), answered))
    }

    /// Brings the commit of a branch into the mirror. It must be reachable from the ref that the git server shows (P140):
    /// a signature alone does not tell a commit of this branch from one of another branch. While the git server does not
    /// answer, a signed commit may come from another node.
    fn fetch_branch(&self, signed: bool) -> Result<(), Unfollowed> {
        let shown = || self.mirror.contains(self.commit) && self.mirror.has_shown(self.commit).unwrap_or(false);
        if shown() {
            return Ok(());
        }
        let fetched = self.mirror.fetch(self.floor.as_deref());
        if shown() {
            return Ok(());
        }
        let answered = self.answered(fetched.as_ref().err());
        let git = self.not_shown(fetched.err());
        if answered || !signed {
            return self.missing(format!("{git}; a commit counts only from there"), answered);
        }
        if self.mirror.contains(self.commit) {
            return Ok(());
        }
        self.fetch_from_peers().or_else(|why| self.missing(format!("{git}; {why}"), answered))
    }

    /// The reason why the git server did not give the commit.
    fn not_shown(&self, error: Option<SourceError>) -> String {
        error.map_or_else(
            || format!("the git server does not show the commit {} at the source's ref", self.commit),
            |error| chain(&error),
        )
    }

    /// Whether the git server has answered: also where it refused the one commit that it was asked for.
    fn answered(&self, error: Option<&SourceError>) -> bool {
        match error {
            None | Some(SourceError::Missing { .. } | SourceError::TooMuch { .. }) => true,
            Some(SourceError::Unreachable { .. }) => {
                matches!(self.source.git.reference, Reference::Commit(_)) && self.mirror.answers()
            }
            Some(_) => false,
        }
    }

    /// Brings the commit of a tag into the mirror: one that the git server shows at a tag of the source's pattern, of
    /// no lower version than the one before.
    fn fetch_tag(&self, signed: bool) -> Result<(), Unfollowed> {
        match self.mirror.tags_at(self.commit) {
            Ok(tags) => {
                let Some(tag) = tags.first() else {
                    return self.missing(format!("the git server shows no matching tag at {}", self.commit), true);
                };
                let version = |tag: &str| towpath_git::version(tag);
                let lower = self.tag.as_deref().and_then(version).zip(version(tag)).is_some_and(|(old, new)| new < old);
                if lower && !self.source.git.allow_rewind {
                    return self.rejected(format!("its tag {tag} is lower than the accepted one"));
                }
                Ok(())
            }
            Err(error) if signed => match self.mirror.contains(self.commit) {
                true => Ok(()),
                false => self
                    .fetch_from_peers()
                    .or_else(|why| self.missing(format!("{}; {why}", chain(&error)), self.answered(Some(&error)))),
            },
            Err(error) => self.missing(chain(&error), self.answered(Some(&error))),
        }
    }

    /// Asks other nodes for a commit that git does not give.
    fn fetch_from_peers(&self) -> Result<(), String> {
        let options = self.mirror.options();
        let wanted = Wanted {
            source: options.name.clone(),
            commit: self.commit.to_owned(),
            have: self.floor.clone().filter(|floor| self.mirror.contains(floor)),
            bytes: options.limits.bytes,
            time: options.limits.fetch,
        };
        let taken =
            self.mirror.take_pack(self.commit, |file| (self.peers)(&wanted, file)).map_err(|error| chain(&error));
        if taken.is_ok() {
            tracing::info!(source = options.name, commit = self.commit, "the commit came from another node");
        }
        taken
    }

    /// Checks that the commit does not lead back from what this node has accepted.
    fn check_movement(&self) -> Result<(), Unfollowed> {
        let Some(floor) = &self.floor else { return Ok(()) };
        let movement = self.mirror.movement(floor, self.commit);
        let back = match self.source.git.reference {
            Reference::Branch(_) => !matches!(movement, Ok(Movement::Forward)),
            // Tags of several branches need not descend from one another.
            Reference::Tag(_) => matches!(movement, Ok(Movement::Behind)),
            Reference::Commit(_) => false,
        };
        if !back {
            return Ok(());
        }
        if !self.source.git.allow_rewind {
            return self.rejected(format!("it does not descend from {floor}, which this node has accepted"));
        }
        // A rewind counts only from the git server: it must have given up what this node has accepted (P28).
        let shown = |commit: &str| self.mirror.has_shown(commit).unwrap_or(false);
        let is_branch = matches!(self.source.git.reference, Reference::Branch(_));
        if is_branch && (shown(floor) || !shown(self.commit)) {
            if let Err(error) = self.mirror.fetch(None) {
                return self.missing(chain(&error), self.answered(Some(&error)));
            }
            if shown(floor) || !shown(self.commit) {
                return self.missing(format!("the git server does not show that {floor} was given up"), true);
            }
        }
        Ok(())
    }

    /// Checks that a signed tag names the commit, where the source follows tags and verifies them: another node alone
    /// cannot make a release of a commit. Tags come from git only.
    fn check_tag(&self) -> Result<(), Unfollowed> {
        let verified = self.source.git.verify.mode != VerifyMode::None;
        if !verified || !matches!(self.source.git.reference, Reference::Tag(_)) {
            return Ok(());
        }
        let floor = self.floor.as_deref();
        let tagged = || matches!(self.mirror.tag_of(floor, self.commit, self.now), Ok(Some(_)));
        if tagged() {
            return Ok(());
        }
        let fetched = self.mirror.fetch(floor);
        if tagged() {
            return Ok(());
        }
        let answered = self.answered(fetched.as_ref().err());
        let why = fetched.err().map_or_else(String::new, |error| format!(": {}", chain(&error)));
        self.missing(format!("no signed tag names the commit {} here yet{why}", self.commit), answered)
    }
}
