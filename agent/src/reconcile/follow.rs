//! Following what other nodes have accepted: by this node's own rules.

use std::collections::{BTreeMap, BTreeSet};

use towpath_git::{Movement, Reference, VerifyError};
use towpath_host::journal::Journal;

use super::sources::{DEPTH, Guard, Looked, Sources, origin};
use crate::{config::Source, report::chain};

/// Why a node does not go where others have gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Unfollowed {
    /// It can't yet: it lacks something.
    Behind(String),
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
                self.may_follow(journal, source, known, commit, now)?;
            }
            let looked = self.load_accepted(commits).map_err(|error| Unfollowed::Behind(chain(&error)))?;
            if looked.sources.len() <= sources.len() || looked.set.is_none() {
                return Ok(looked);
            }
            sources = looked.sources;
        }
        Err(Unfollowed::Poisoned("its sources name one another too deeply".into()))
    }

    /// Whether one commit that others have accepted may be followed here.
    fn may_follow(
        &self,
        journal: &Journal,
        source: &Source,
        known: &BTreeMap<String, String>,
        commit: &str,
        now: u64,
    ) -> Result<(), Unfollowed> {
        let behind = |why: String| Err(Unfollowed::Behind(why));
        let name = &source.git.name;
        let mirror = self.mirror(source);
        let guard: Option<Guard> = journal.get(&format!("guard/{name}")).ok().flatten();
        let anew = guard.as_ref().is_some_and(|guard| guard.origin != origin(source));
        let floor =
            guard.filter(|_| !anew).map(|guard| guard.commit).or_else(|| known.get(name).filter(|_| !anew).cloned());
        if !mirror.contains(commit) {
            mirror.fetch(floor.as_deref()).map_err(|error| Unfollowed::Behind(chain(&error)))?;
        }
        if !mirror.contains(commit) {
            return behind(format!("{name} does not have the commit {commit} here yet"));
        }
        if let (Some(floor), Reference::Branch(_), false) = (&floor, &source.git.reference, source.git.allow_rewind)
            && floor != commit
            && !matches!(mirror.movement(floor, commit), Ok(Movement::Forward))
        {
            return Err(Unfollowed::Poisoned(format!(
                "{commit} of {name} does not descend from {floor}, which this node has accepted"
            )));
        }
        match mirror.verify(floor.as_deref(), commit, now) {
            Ok(_) => Ok(()),
            Err(VerifyError::Unverified(why)) => Err(Unfollowed::Poisoned(format!("{name}: {why}"))),
            Err(VerifyError::Source(error)) => behind(chain(&error)),
        }
    }
}
