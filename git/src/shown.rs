//! The record of commits that the remote has advertised at the source's ref.
//!
//! A commit from another node is accepted only if the commit is signed, or if the remote has advertised the commit.
//! After a rewind of the ref, the remote must have advertised the commit.

use gix::{ObjectId, Repository};

use crate::{Mirror, Movement, Reference, SourceError, history, mirror::unlock, refs};

/// The ref in the mirror that names the last advertised commit of the branch. The ref of the branch itself may be
/// older, because a commit that the mirror has is not fetched again.
const HEAD: &str = "refs/towpath/head";

impl Mirror {
    /// Records the commit that the remote advertises at the source's branch.
    pub(crate) fn remember_shown(&self, repository: &Repository, commit: ObjectId) -> Result<(), SourceError> {
        if !matches!(self.options().reference, Reference::Branch(_)) || remembered(repository) == Some(commit) {
            return Ok(());
        }
        unlock(self.path()).map_err(|error| self.disk(error))?;
        let any = gix::refs::transaction::PreviousValue::Any;
        let set = repository.reference(HEAD, commit, any, "shown by the remote");
        set.map(drop).map_err(|error| self.corrupt(error.to_string()))
    }

    /// Returns true if the last advertised head of the source contains a commit.
    ///
    /// For a branch, the commit must be the head or an ancestor of the head. For a source that names a commit, the
    /// commit must be this commit. For a tag, the result is always false, because no commit is recorded.
    ///
    /// # Errors
    /// When the mirror is damaged.
    pub fn has_shown(&self, commit: &str) -> Result<bool, SourceError> {
        match &self.options().reference {
            Reference::Commit(pinned) => Ok(pinned == commit),
            Reference::Tag(_) => Ok(false),
            Reference::Branch(_) => {
                let repository = self.open()?;
                let (commit, head) = (self.id(commit)?, remembered(&repository));
                Ok(head.is_some_and(|head| {
                    repository.has_object(commit)
                        && matches!(
                            history::movement(&repository, Some(commit), head),
                            Movement::Same | Movement::Forward
                        )
                }))
            }
        }
    }

    /// Returns true if the remote answers a request for its refs.
    pub fn answers(&self) -> bool {
        self.advertised("HEAD").is_ok()
    }

    /// Returns the remote's tags that match the source's pattern and lead to a commit, highest version first. If the
    /// mirror lacks the first tag or the commit, the tag is fetched.
    ///
    /// # Errors
    /// When the remote does not answer, or sends unusable data.
    pub fn tags_at(&self, commit: &str) -> Result<Vec<String>, SourceError> {
        let Reference::Tag(pattern) = &self.options().reference else { return Ok(Vec::new()) };
        let commit = self.id(commit)?;
        let found = refs::tags_at(&self.advertised("refs/tags/*")?, pattern, commit);
        if let Some(tag) = found.first().filter(|tag| !self.has(tag)) {
            self.receive(self.path(), tag)?;
        }
        Ok(found.iter().filter_map(|tag| Some(tag.name.strip_prefix("refs/tags/")?.to_owned())).collect())
    }
}

fn remembered(repository: &Repository) -> Option<ObjectId> {
    let mut reference = repository.try_find_reference(HEAD).ok().flatten()?;
    reference.peel_to_id().ok().map(gix::Id::detach)
}
