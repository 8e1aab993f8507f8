//! The signers of commits and tags: OpenPGP and SSH signatures, checked in process.
//!
//! Guarantees: a signature counts only from a listed key that was neither expired nor revoked, over the whole
//! commit or tag. The judgement of a key's expiry uses the time that the caller gives.

mod openpgp;
mod ssh;
pub(crate) mod tag;

use std::{fs, path::PathBuf};

use gix::{ObjectId, Repository, objs::CommitRefIter};
use thiserror::Error;

#[cfg(feature = "fuzzing")]
pub(crate) use ssh::civil;
pub(crate) use tag::tag;

/// A commit that is not signed as it must be.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("the commit {commit} does not count: {message}")]
pub struct Unverified {
    /// The commit; empty where the keys themselves are wrong.
    pub commit: String,
    /// Why.
    pub message: String,
}

/// Those whose signatures count.
#[derive(Debug, Clone, Default)]
pub struct Signers {
    openpgp: Vec<openpgp::Key>,
    ssh: Vec<ssh::Signer>,
}

impl Signers {
    /// Reads files with OpenPGP keys or SSH signers.
    ///
    /// # Errors
    /// Which file can't be used, and why.
    pub fn read(files: &[PathBuf]) -> Result<Self, Unverified> {
        let mut signers = Self::default();
        for file in files {
            let wrong = |message: String| Unverified {
                commit: String::new(),
                message: format!("verify.keyFiles {}:{message}", file.display()),
            };
            let text = fs::read_to_string(file).map_err(|error| wrong(format!(" {error}")))?;
            signers.add(&text).map_err(wrong)?;
        }
        Ok(signers)
    }

    /// Adds the keys of a text in either format. An error begins with the line's number where it has one, or a blank.
    pub(crate) fn add(&mut self, text: &str) -> Result<(), String> {
        if text.contains("-----BEGIN PGP PUBLIC KEY BLOCK-----") {
            self.openpgp.extend(openpgp::keys(text)?);
        } else {
            self.ssh.extend(ssh::signers(text)?);
        }
        Ok(())
    }

    /// These and others.
    #[must_use]
    pub(crate) fn with(&self, others: &Self) -> Self {
        let mut all = self.clone();
        all.openpgp.extend(others.openpgp.iter().cloned());
        all.ssh.extend(others.ssh.iter().cloned());
        all
    }
}

/// The signers that a file of a commit lists; None where it has no such file.
///
/// A list that can't be read counts for nobody, and says so: dropping it silently would lock its signers out.
pub(crate) fn listed_signers(
    repository: &Repository,
    commit: ObjectId,
    file: &str,
) -> Result<Option<Signers>, Unverified> {
    let unverified = |message: String| Unverified { commit: commit.to_string(), message: format!("{file}:{message}") };
    let tree = repository
        .find_commit(commit)
        .and_then(|commit| commit.tree())
        .map_err(|error| unverified(format!(" {error}")))?;
    let Some(entry) = tree.lookup_entry_by_path(file).map_err(|error| unverified(format!(" {error}")))? else {
        return Ok(None);
    };
    let bytes = entry.object().map_err(|error| unverified(format!(" {error}")))?.detach().data;
    let text = String::from_utf8(bytes).map_err(|_| unverified(" it is not valid UTF-8".into()))?;
    let mut signers = Signers::default();
    signers.add(&text).map_err(unverified)?;
    Ok(Some(signers))
}

/// Checks the signature of one commit; gives who signed it.
pub(crate) fn commit(repository: &Repository, id: ObjectId, signers: &Signers, now: u64) -> Result<String, Unverified> {
    let unverified = |message: String| Unverified { commit: id.to_string(), message };
    let commit = repository.find_commit(id).map_err(|error| unverified(error.to_string()))?;
    commit_object(&commit.data, signers, now).map_err(unverified)
}

/// Checks the signature in the bytes of a commit; gives the signer.
pub(crate) fn commit_object(data: &[u8], signers: &Signers, now: u64) -> Result<String, String> {
    let signature = CommitRefIter::signature(data, gix::hash::Kind::Sha1).map_err(|error| error.to_string())?;
    let Some((signature, signed)) = signature else { return Err("it is not signed".into()) };
    let payload = signed.to_bstring();
    signature_of(&signature, &payload, signers, now)
}

/// Checks one signature over the bytes of a commit or a tag; gives the signer.
pub(crate) fn signature_of(signature: &[u8], payload: &[u8], signers: &Signers, now: u64) -> Result<String, String> {
    let text = std::str::from_utf8(signature).map_err(|_| "its signature is no text".to_owned())?;
    if text.contains("-----BEGIN SSH SIGNATURE-----") {
        ssh::verify(text, payload, &signers.ssh, now)
    } else if text.contains("-----BEGIN PGP SIGNATURE-----") {
        openpgp::verify(text, payload, &signers.openpgp, now)
    } else {
        Err("its signature is neither OpenPGP nor SSH".into())
    }
}
