//! What the remote itself shows at the source's ref: objects that came from another node do not count by themselves
//! where no signature is required, nor where a ref has gone back.

use gix::{ObjectId, Repository};

use crate::{Mirror, Movement, Reference, SourceError, history, mirror::unlock, refs};

/// Marks the commit that the remote showed last at a branch. The branch's own ref is not it: a commit that the mirror
/// has already is not fetched again.
const HEAD: &str = "refs/towpath/head";

impl Mirror {
    /// Remembers the commit that the remote shows at the source's branch.
    pub(crate) fn remember_shown(&self, repository: &Repository, commit: ObjectId) -> Result<(), SourceError> {
        if !matches!(self.options().reference, Reference::Branch(_)) || remembered(repository) == Some(commit) {
            return Ok(());
        }
        unlock(self.path()).map_err(|error| self.disk(error))?;
        let any = gix::refs::transaction::PreviousValue::Any;
        let set = repository.reference(HEAD, commit, any, "shown by the remote");
        set.map(drop).map_err(|error| self.corrupt(error.to_string()))
    }

    /// Whether the remote, when it answered last, showed a commit of the mirror at the source's ref: for a branch, its
    /// head or an ancestor of it; for a tag, nothing is remembered; for a pinned commit, that one.
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

    /// Whether the remote answers at all.
    pub fn answers(&self) -> bool {
        self.advertised("HEAD").is_ok()
    }

    /// The tags that match the source's pattern and that the remote shows at a commit, highest version first. Fetches
    /// the first of them where the mirror lacks the commit.
    ///
    /// # Errors
    /// When the remote can't be asked, or sends what can't be used.
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
