//! Entry points for the fuzz targets of this project, which read what an attacker sends.

use gix::ObjectId;

use crate::{
    tree,
    verify::{Signers, civil, signature_of, tag},
};

/// Reads a tree object; gives the names that it has. `None` when it is refused.
pub fn tree_names(data: &[u8]) -> Option<Vec<Vec<u8>>> {
    let entries = tree::entries(data, 10_000).ok()?;
    Some(entries.iter().map(|entry| entry.name().to_vec()).collect())
}

/// Checks a tag object of the commit `11…11`, with the keys of a text.
///
/// # Errors
/// Why it does not count.
pub fn tag_object(data: &[u8], name: &str, keys: &str, now: u64) -> Result<String, String> {
    let mut signers = Signers::default();
    signers.add(keys)?;
    tag::check(data, name, ObjectId::from_bytes_or_panic(&[0x11; 20]), &signers, now)
}

/// Checks a signature of either kind, with the keys of a text.
///
/// # Errors
/// Why it does not count.
pub fn signature(keys: &str, signature: &[u8], payload: &[u8], now: u64) -> Result<String, String> {
    let mut signers = Signers::default();
    signers.add(keys)?;
    signature_of(signature, payload, &signers, now)
}

/// Seconds since 1970 of a date in an allowed_signers file. `None` when it is refused.
pub fn date(text: &str) -> Option<u64> {
    civil(text)
}

/// A pack with the checksum that it needs.
pub fn with_checksum(pack: &[u8]) -> Vec<u8> {
    let mut hasher = gix::hash::hasher(gix::hash::Kind::Sha1);
    hasher.update(pack);
    let mut whole = pack.to_vec();
    if let Ok(digest) = hasher.try_finalize() {
        whole.extend_from_slice(digest.as_slice());
    }
    whole
}
