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

/// Why a node does not go where others have gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Unfollowed {
    /// It can't yet: it lacks something.
    Behind(String),
    /// Its own bootstrap file keeps it from following any.
    Refused(String),
    /// It must not, by its own rules: for it, the acceptance does not exist.
    Poisoned(String),
}

impl Sources {
    /// Loads what other nodes have accepted: each commit is fetched, must descend from what this node knows, and must be
    /// signed as this node asks. Says why it can't be followed.
    pub(super) fn follow(
        &self,
        journal: &Journal,
        known: &BTreeMap<String, String>,
        commits: &BTreeMap<String, String>,
        now: i64,
        peers: &dyn Fn(&Wanted, &Path) -> Result<(), String>,
    ) -> Result<Looked, Unfollowed> {
        let now = u64::try_from(now / 1000).unwrap_or(0);
        let mut sources = self.first.clone();
        let mut checked: BTreeSet<String> = BTreeSet::new();
        for _ in 0..DEPTH {
            for source in &sources {
                if !checked.insert(source.git.name.clone()) {
                    continue;
                }
                let commit = commits.get(&source.git.name).ok_or_else(|| {
                    Unfollowed::Poisoned(format!("it has no commit of the source {}", source.git.name))
                })?;
                self.may_follow(journal, source, known, commit, now, peers)?;
            }
            let looked = self.load_accepted(commits).map_err(|error| match error {
                SourceError::Refused { .. } => Unfollowed::Poisoned(chain(&error)),
                _ => Unfollowed::Behind(chain(&error)),
            })?;
            if looked.sources.len() <= sources.len() || looked.set.is_none() {
                return Ok(looked);
            }
            sources = looked.sources;
        }
        Err(Unfollowed::Poisoned("its sources name one another too deeply".into()))
    }

    /// Asks other nodes for a commit that git does not give.
    fn fetch_from_peers(
        mirror: &Mirror,
        commit: &str,
        floor: Option<&str>,
        peers: &dyn Fn(&Wanted, &Path) -> Result<(), String>,
    ) -> Result<(), String> {
        let options = mirror.options();
        let wanted = Wanted {
            source: options.name.clone(),
            commit: commit.to_owned(),
            have: floor.filter(|floor| mirror.contains(floor)).map(str::to_owned),
            bytes: options.limits.bytes,
            time: options.limits.fetch,
        };
        let taken = mirror.take_pack(commit, |file| peers(&wanted, file)).map_err(|error| chain(&error));
        if taken.is_ok() {
            tracing::info!(source = options.name, commit, "the commit came from another node");
        }
        taken
    }

    /// Whether one commit that others have accepted may be followed here.
    fn may_follow(
        &self,
        journal: &Journal,
        source: &Source,
        known: &BTreeMap<String, String>,
        commit: &str,
        now: u64,
        peers: &dyn Fn(&Wanted, &Path) -> Result<(), String>,
    ) -> Result<(), Unfollowed> {
        let behind = |why: String| Err(Unfollowed::Behind(why));
        let name = &source.git.name;
        let mirror = self.mirror(source);
        let guard: Option<Guard> = journal.get(&format!("guard/{name}")).ok().flatten();
        let anew = guard.as_ref().is_some_and(|guard| guard.origin != origin(source));
        let floor =
            guard.filter(|_| !anew).map(|guard| guard.commit).or_else(|| known.get(name).filter(|_| !anew).cloned());
        if !mirror.contains(commit) {
            let fetched = mirror.fetch(floor.as_deref());
            if !mirror.contains(commit) {
                let git = fetched.err().map_or_else(
                    || format!("{name} does not have the commit {commit} here yet"),
                    |error| format!("{name}: {}", chain(&error)),
                );
                Self::fetch_from_peers(&mirror, commit, floor.as_deref(), peers)
                    .map_err(|why| Unfollowed::Behind(format!("{git}; {why}")))?;
            }
        }
        if let (Some(floor), Reference::Branch(_), false) = (&floor, &source.git.reference, source.git.allow_rewind)
            && floor != commit
            && !matches!(mirror.movement(floor, commit), Ok(Movement::Forward))
        {
            return Err(Unfollowed::Poisoned(format!(
                "{commit} of {name} does not descend from {floor}, which this node has accepted"
            )));
        }
        if let (Some(floor), Reference::Tag(_), false) = (&floor, &source.git.reference, source.git.allow_rewind)
            && matches!(mirror.movement(floor, commit), Ok(Movement::Behind))
        {
            return Err(Unfollowed::Poisoned(format!(
                "{commit} of {name} is an ancestor of {floor}, which this node has accepted"
            )));
        }
        match mirror.verify(floor.as_deref(), commit, now) {
            Ok(_) if floor.as_deref() == Some(commit) => Ok(()),
            Ok(_) => Self::tagged(&mirror, floor.as_deref(), commit, now),
            Err(VerifyError::Unverified(why)) => Err(Unfollowed::Poisoned(format!("{name}: {why}"))),
            Err(VerifyError::Source(error)) => behind(chain(&error)),
        }
    }

    /// Checks that a signed tag names a commit, where the source follows tags and verifies them: another node alone
    /// cannot make a release of a commit. Tags come from git only.
    fn tagged(mirror: &Mirror, floor: Option<&str>, commit: &str, now: u64) -> Result<(), Unfollowed> {
        let options = mirror.options();
        let asked = matches!(options.reference, Reference::Tag(_)) && options.verify.mode != VerifyMode::None;
        let tagged = || matches!(mirror.tag_of(floor, commit, now), Ok(Some(_)));
        // Until a commit is accepted, its signature is enough.
        if !asked || floor.is_none() {
            return Ok(());
        }
        if tagged() {
            return Ok(());
        }
        let fetched = mirror.fetch(floor);
        if tagged() {
            return Ok(());
        }
        let name = &mirror.options().name;
        let why = fetched.err().map_or_else(String::new, |error| format!(": {}", chain(&error)));
        Err(Unfollowed::Behind(format!("{name}: no signed tag names the commit {commit} here yet{why}")))
    }
}
