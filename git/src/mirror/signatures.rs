//! Verifies the signatures of commits and tags in a mirror, as the `verify` settings of the source require.

use std::str::FromStr as _;

use gix::{ObjectId, Repository};

use super::{Fetched, Mirror};
use crate::{
    Ancestry, Reference, SourceError, Unverified, VerifyMode,
    objects::history,
    repo::commit_id,
    transport::refs,
    verify::{self, Signers},
};

/// The reason why a commit cannot be verified.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// An error because a signature is missing or invalid.
    #[error(transparent)]
    Unverified(Unverified),
    /// An error because the source cannot be read.
    #[error(transparent)]
    Source(SourceError),
}

impl Mirror {
    /// Verifies the signatures of the commits from the accepted commit to a new commit, as the source requires. Returns
    /// the signer of the new commit, or `None` if the source requires no signatures.
    ///
    /// # Errors
    /// Returns an error that names the first commit without a valid signature, and the reason. Returns
    /// [`VerifyError::Source`] if the mirror cannot be read.
    pub fn verify(&self, accepted: Option<&str>, commit: &str, now: u64) -> Result<Option<String>, VerifyError> {
        let options = &self.repo.options.verify;
        if options.mode == VerifyMode::None {
            return Ok(None);
        }
        let repository = self.repo.open().map_err(VerifyError::Source)?;
        let root = Signers::read(&options.key_files).map_err(VerifyError::Unverified)?;
        let head = commit_id(commit).map_err(VerifyError::Source)?;
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

    /// Verifies the signatures of the new commits up to a head, and of the head's tag. Returns the signer of the head.
    ///
    /// Before the source has an accepted commit, a tag that is not annotated is valid if its commit is signed. An
    /// annotated tag must always have a valid signature. Before the source has an accepted commit, only the signers in
    /// the key files may sign the tag.
    ///
    /// # Errors
    /// If the commit or its tag has no valid signature, returns an error that names the commit and the reason. Returns
    /// [`VerifyError::Source`] if the mirror cannot be read.
    pub fn verify_head(&self, accepted: Option<&str>, head: &Fetched, now: u64) -> Result<Option<String>, VerifyError> {
        let signer = self.verify(accepted, &head.commit, now)?;
        let (Some(tag), Some(object)) = (&head.tag, head.tag_object) else { return Ok(signer) };
        let commit = commit_id(&head.commit).map_err(VerifyError::Source)?;
        if self.repo.options.verify.mode == VerifyMode::None || (accepted.is_none() && object == commit) {
            return Ok(signer);
        }
        let repository = self.repo.open().map_err(VerifyError::Source)?;
        let signers = self.tag_signers(&repository, accepted).map_err(VerifyError::Unverified)?;
        verify::tag(&repository, tag, object, commit, &signers, now).map(Some).map_err(VerifyError::Unverified)
    }

    /// Returns a tag that points to a commit and that the source may follow. If the source may follow several tags of
    /// the commit, returns the tag with the highest version. If the source requires signatures, the signature of the
    /// tag must be valid, as in [`Self::verify_head`]. Returns `None` if the source may follow no tag of the commit.
    ///
    /// # Errors
    /// Returns an error if the keys or the mirror cannot be read.
    pub fn tag_of(&self, accepted: Option<&str>, commit: &str, now: u64) -> Result<Option<String>, VerifyError> {
        let Reference::Tag(pattern) = &self.repo.options.reference else { return Ok(None) };
        let repository = self.repo.open().map_err(VerifyError::Source)?;
        let id = commit_id(commit).map_err(VerifyError::Source)?;
        let mut tags =
            refs::matching_tags(&repository, pattern).map_err(|why| VerifyError::Source(self.repo.corrupt(why)))?;
        tags.retain(|tag| tag.commit == id);
        let mut names: Vec<(String, ObjectId)> = tags
            .into_iter()
            .filter_map(|tag| Some((tag.name.strip_prefix("refs/tags/")?.to_owned(), tag.object)))
            .collect();
        names.sort_by_key(|(name, _)| std::cmp::Reverse(refs::version(name)));
        if self.repo.options.verify.mode != VerifyMode::None {
            let signers = self.tag_signers(&repository, accepted).map_err(VerifyError::Unverified)?;
            names.retain(|(name, object)| {
                (accepted.is_none() && *object == id)
                    || verify::tag(&repository, name, *object, id, &signers, now).is_ok()
            });
        }
        Ok(names.into_iter().next().map(|(name, _)| name))
    }

    /// Returns the accepted signers of tags: the signers in the key files, and the signers that the accepted commit
    /// lists.
    fn tag_signers(&self, repository: &Repository, accepted: Option<&str>) -> Result<Signers, Unverified> {
        let signers = Signers::read(&self.repo.options.verify.key_files)?;
        let judge = accepted.and_then(|accepted| ObjectId::from_str(accepted).ok());
        let judge = judge.filter(|judge| repository.has_object(judge));
        let (Some(file), Some(judge)) = (&self.repo.options.verify.signers, judge) else { return Ok(signers) };
        let listed = verify::listed_signers(repository, judge, &self.in_path(file))?;
        Ok(listed.map_or(signers.clone(), |listed| signers.with(&listed)))
    }

    /// Returns the commits to verify. Each returned pair also names the earlier commit that lists the accepted signers.
    fn steps(
        &self,
        repository: &Repository,
        accepted: Option<&str>,
        head: ObjectId,
    ) -> Result<Vec<(Option<ObjectId>, ObjectId)>, Unverified> {
        let accepted = accepted.and_then(|accepted| ObjectId::from_str(accepted).ok());
        if let Some(lost) = accepted.filter(|accepted| !repository.has_object(accepted)) {
            if self.repo.options.verify.mode == VerifyMode::Range && !self.repo.options.allow_rewind {
                let message = format!("the accepted commit {lost} is not in the history of the new commit");
                return Err(Unverified { commit: head.to_string(), message });
            }
            return Ok(vec![(None, head)]);
        }
        let Some(accepted) = accepted.filter(|accepted| *accepted != head) else { return Ok(vec![(None, head)]) };
        if self.repo.options.verify.mode == VerifyMode::Head {
            return Ok(vec![(Some(accepted), head)]);
        }
        match history::first_parents(repository, accepted, head) {
            Some(line) => {
                let judges = std::iter::once(accepted).chain(line.iter().copied());
                Ok(judges.map(Some).zip(line.iter().copied()).collect())
            }
            // After a permitted rewind, the first parents of the head do not lead to the accepted commit. So only the
            // head is verified.
            None if self.repo.options.allow_rewind
                && history::ancestry(repository, Some(accepted), head) == Ancestry::Rewound =>
            {
                Ok(vec![(Some(accepted), head)])
            }
            None => Err(Unverified {
                commit: head.to_string(),
                message: format!("the accepted commit {accepted} is not among the first parents of the new commit"),
            }),
        }
    }

    fn in_path(&self, file: &str) -> String {
        let folder = self.repo.options.path.trim_matches('/');
        if folder.is_empty() || folder == "." { file.to_owned() } else { format!("{folder}/{file}") }
    }
}
