//! Records the commit that the remote most recently advertised as the head of the source's branch.
//!
//! A node accepts a commit from another node only if the commit is signed, or if the remote has advertised the commit.
//! If the branch was rewound, a node accepts a commit only if the remote has advertised the commit.

use gix::{ObjectId, Repository};

use crate::{
    Reference, SourceError,
    objects::{Ancestry, history},
    repo::{BareRepo, commit_id},
};

/// The ref in the mirror that names the most recently advertised commit of the branch. The branch in the mirror may
/// name an older commit, because the mirror does not fetch a commit that it already has.
const HEAD: &str = "refs/towpath/head";

/// Records the commit that the remote advertises as the head of the source's branch.
pub(super) fn remember(repo: &BareRepo, repository: &Repository, commit: ObjectId) -> Result<(), SourceError> {
    if !matches!(repo.options.reference, Reference::Branch(_)) || remembered(repository) == Some(commit) {
        return Ok(());
    }
    repo.unlock()?;
    let any = gix::refs::transaction::PreviousValue::Any;
    let set = repository.reference(HEAD, commit, any, "shown by the remote");
    set.map(drop).map_err(|error| repo.corrupt(error.to_string()))
}

/// Returns true if a commit is in the history of the head that the remote most recently advertised.
pub(super) fn contains(repo: &BareRepo, commit: &str) -> Result<bool, SourceError> {
    match &repo.options.reference {
        Reference::Commit(pinned) => Ok(pinned == commit),
        Reference::Tag(_) => Ok(false),
        Reference::Branch(_) => {
            let repository = repo.open()?;
            let (commit, head) = (commit_id(commit)?, remembered(&repository));
            Ok(head.is_some_and(|head| {
                repository.has_object(commit)
                    && matches!(history::ancestry(&repository, Some(commit), head), Ancestry::Same | Ancestry::Forward)
            }))
        }
    }
}

fn remembered(repository: &Repository) -> Option<ObjectId> {
    let mut reference = repository.try_find_reference(HEAD).ok().flatten()?;
    reference.peel_to_id().ok().map(gix::Id::detach)
}
