//! Verifies OpenPGP and SSH signatures of commits and tags, without a gpg or ssh-keygen process.
//!
//! A valid signature covers the whole commit or tag, and is made by a listed key that is neither expired nor revoked.
//! The caller passes the current time, which decides whether a key is expired.

mod openpgp;
mod ssh;
pub(crate) mod tag;

use std::{fs, path::PathBuf};

use gix::{ObjectId, Repository, objs::CommitRefIter};
use thiserror::Error;

#[cfg(feature = "fuzzing")]
pub(crate) use ssh::civil;
pub(crate) use tag::tag;

/// An error because a commit has no valid signature, although the source requires a signature.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("cannot verify {}: {message}", subject(commit))]
pub struct Unverified {
    /// The id of the commit; empty if a key file cannot be used.
    pub commit: String,
    /// The reason for the rejection.
    pub message: String,
}

/// Returns the subject of an error message: `the commit ID`, or `commits` if the id is empty.
fn subject(commit: &str) -> String {
    if commit.is_empty() { "commits".to_owned() } else { format!("the commit {commit}") }
}

/// The signers whose signatures are accepted.
#[derive(Debug, Clone, Default)]
pub struct Signers {
    openpgp: Vec<openpgp::Key>,
    ssh: Vec<ssh::Signer>,
}

impl Signers {
    /// Reads the signers from files with OpenPGP keys or SSH `allowed_signers`.
    ///
    /// # Errors
    /// Returns an error with the name of the file that cannot be used, and the reason.
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

    /// Adds the signers in a text with OpenPGP keys or SSH `allowed_signers`. An error message begins with a line
    /// number or a blank, because the caller puts the name of the file before the message.
    pub(crate) fn add(&mut self, text: &str) -> Result<(), String> {
        if text.contains("-----BEGIN PGP PUBLIC KEY BLOCK-----") {
            self.openpgp.extend(openpgp::keys(text)?);
        } else {
            self.ssh.extend(ssh::signers(text)?);
        }
        Ok(())
    }

    /// Returns the union of this set of signers and the set `others`.
    #[must_use]
    pub(crate) fn with(&self, others: &Self) -> Self {
        let mut all = self.clone();
        all.openpgp.extend(others.openpgp.iter().cloned());
        all.ssh.extend(others.ssh.iter().cloned());
        all
    }
}

/// Returns the signers that a file in a commit lists; `None` if the commit does not contain the file.
///
/// If the file with the signers cannot be read, the function returns an error. The error shows the administrator why
/// commits of the listed signers are rejected.
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
    let text = String::from_utf8(bytes).map_err(|_| unverified(" the file is not valid UTF-8".into()))?;
    let mut signers = Signers::default();
    signers.add(&text).map_err(unverified)?;
    Ok(Some(signers))
}

/// Verifies the signature of one commit, and returns the signer.
pub(crate) fn commit(repository: &Repository, id: ObjectId, signers: &Signers, now: u64) -> Result<String, Unverified> {
    let unverified = |message: String| Unverified { commit: id.to_string(), message };
    let commit = repository.find_commit(id).map_err(|error| unverified(error.to_string()))?;
    commit_object(&commit.data, signers, now).map_err(unverified)
}

/// Verifies the signature in the bytes of a commit, and returns the signer.
pub(crate) fn commit_object(data: &[u8], signers: &Signers, now: u64) -> Result<String, String> {
    let signature = CommitRefIter::signature(data, gix::hash::Kind::Sha1).map_err(|error| error.to_string())?;
    let Some((signature, signed)) = signature else { return Err("the commit is not signed".into()) };
    let payload = signed.to_bstring();
    signature_of(&signature, &payload, signers, now)
}

/// Verifies one signature over the bytes of a commit or a tag, and returns the signer.
pub(crate) fn signature_of(signature: &[u8], payload: &[u8], signers: &Signers, now: u64) -> Result<String, String> {
    let text = std::str::from_utf8(signature).map_err(|_| "the signature is not text".to_owned())?;
    if text.contains("-----BEGIN SSH SIGNATURE-----") {
        ssh::verify(text, payload, &signers.ssh, now)
    } else if text.contains("-----BEGIN PGP SIGNATURE-----") {
        openpgp::verify(text, payload, &signers.openpgp, now)
    } else {
        Err("the signature is neither OpenPGP nor SSH; sign with an OpenPGP or SSH key".into())
    }
}
