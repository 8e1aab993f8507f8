//! The record of commits that the remote has advertised at the source's ref.
//!
//! A commit from another node is accepted only if the commit is signed, or if the remote has advertised the commit.
//! After a rewind of the ref, the remote must have advertised the commit.

use gix::{ObjectId, Repository};

use crate::{
    Reference, SourceError,
    objects::{Ancestry, history},
    repo::{BareRepo, commit_id},
};

/// The ref in the mirror that names the last advertised commit of the branch. The ref of the branch itself may be
/// older, because a commit that the mirror has is not fetched again.
const HEAD: &str = "refs/towpath/head";

/// Records the commit that the remote advertises at the source's branch.
pub(super) fn remember(repo: &BareRepo, repository: &Repository, commit: ObjectId) -> Result<(), SourceError> {
    if !matches!(repo.options.reference, Reference::Branch(_)) || remembered(repository) == Some(commit) {
        return Ok(());
    }
    repo.unlock()?;
    let any = gix::refs::transaction::PreviousValue::Any;
    let set = repository.reference(HEAD, commit, any, "shown by the remote");
    set.map(drop).map_err(|error| repo.corrupt(error.to_string()))
}

/// Returns true if the last advertised head of the source contains a commit.
pub(super) fn contains(repo: &BareRepo, commit: &str) -> Result<bool, SourceError> {
    match &repo.options.reference {
        Reference::Commit(pinned) => Ok(pinned == commit),
        Reference::Tag(_) => Ok(false),
        Reference::Branch(_) => {
            let repository = repo.open()?;
            let (commit, head) = (commit_id(commit)?, remembered(&repository));
            Ok(head.is_some_and(|head| {
                repository.has_object(commit)
                    && matches!(history::movement(&repository, Some(commit), head), Ancestry::Same | Ancestry::Forward)
            }))
        }
    }
}

fn remembered(repository: &Repository) -> Option<ObjectId> {
    let mut reference = repository.try_find_reference(HEAD).ok().flatten()?;
    reference.peel_to_id().ok().map(gix::Id::detach)
}
