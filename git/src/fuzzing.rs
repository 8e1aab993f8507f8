//! Functions for fuzz targets, which test the code that reads untrusted input.

use gix::{ObjectId, objs::CommitRefIter};

use crate::{
    objects::tree,
    verify::{Signers, civil, commit_object, signature_of, tag},
};

/// Reads a git tree object, and returns the names of its entries; `None` if the tree is rejected.
pub fn tree_names(data: &[u8]) -> Option<Vec<Vec<u8>>> {
    let entries = tree::entries(data, 10_000).ok()?;
    Some(entries.iter().map(|entry| entry.name().to_vec()).collect())
}

/// Verifies the signature of a tag object with the public keys in `keys`. The tag must name the commit
/// 1111111111111111111111111111111111111111.
///
/// # Errors
/// Returns an error with the reason if the tag is rejected.
pub fn tag_object(data: &[u8], name: &str, keys: &str, now: u64) -> Result<String, String> {
    let mut signers = Signers::default();
    signers.add(keys)?;
    tag::check(data, name, ObjectId::from_bytes_or_panic(&[0x11; 20]), &signers, now)
}

/// Verifies the signature in a commit object with the public keys in `keys`.
///
/// # Errors
/// Returns an error with the reason if the commit is rejected.
pub fn signed_commit(data: &[u8], keys: &str, now: u64) -> Result<String, String> {
    let mut signers = Signers::default();
    signers.add(keys)?;
    commit_object(data, &signers, now)
}

/// Returns the ids of the tree and the parents of a commit object; `None` if the commit has no tree.
pub fn commit_names(data: &[u8]) -> Option<(String, Vec<String>)> {
    let commit = || CommitRefIter::from_bytes(data, gix::hash::Kind::Sha1);
    let tree = commit().tree_id().ok()?;
    Some((tree.to_string(), commit().parent_ids().map(|id| id.to_string()).collect()))
}

/// Verifies an OpenPGP or SSH signature with the public keys in `keys`.
///
/// # Errors
/// Returns an error with the reason if the signature is rejected.
pub fn signature(keys: &str, signature: &[u8], payload: &[u8], now: u64) -> Result<String, String> {
    let mut signers = Signers::default();
    signers.add(keys)?;
    signature_of(signature, payload, &signers, now)
}

/// Converts a date of an `allowed_signers` file to seconds since 1970; `None` if the date is rejected.
pub fn date(text: &str) -> Option<u64> {
    civil(text)
}

/// Appends the SHA-1 checksum of a pack to the bytes of the pack.
pub fn with_checksum(pack: &[u8]) -> Vec<u8> {
    let mut hasher = gix::hash::hasher(gix::hash::Kind::Sha1);
    hasher.update(pack);
    let mut whole = pack.to_vec();
    if let Ok(digest) = hasher.try_finalize() {
        whole.extend_from_slice(digest.as_slice());
    }
    whole
}

/// Returns the id that git gives to an object with the given kind and content.
pub fn object_id(kind: &str, content: &[u8]) -> [u8; 20] {
    let mut hasher = gix::hash::hasher(gix::hash::Kind::Sha1);
    hasher.update(format!("{kind} {}\0", content.len()).as_bytes());
    hasher.update(content);
    let mut id = [0; 20];
    if let Ok(digest) = hasher.try_finalize() {
        id.copy_from_slice(digest.as_slice());
    }
    id
}
