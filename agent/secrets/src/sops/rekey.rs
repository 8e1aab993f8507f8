//! A file under a new data key: its values and its comments.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};
use towpath_render::document::Path;

use super::{
    cipher::{COMMENT, DataKey, Encrypted},
    error::SopsError,
    rules::Metadata,
    tree::{Leaf, container_paths, decrypted_value, leaves, path_text},
};
use crate::splice::SpliceError;

/// The maximum number of encrypted comments of a file.
const MAX_COMMENTS: usize = 10_000;

/// The maximum number of attempts to decrypt a comment: for each comment, one for each map and list.
const MAX_ATTEMPTS: usize = 10_000_000;

/// The begin of an encrypted value or comment.
const BEGIN: &str = "ENC[";

/// Returns the text of a file with all values and comments encrypted under another key. The MAC keeps the old key.
///
/// # Errors
/// When an encrypted text would keep the old key.
pub(super) fn rekeyed(
    text: &str,
    root: &Map<String, Value>,
    metadata: &Metadata,
    (old, new): (&DataKey, &DataKey),
) -> Result<String, SopsError> {
    let mut values: BTreeMap<&str, (String, Path)> = BTreeMap::new();
    for Leaf { path, keys, value } in leaves(root) {
        let Some(written) = value.as_str().filter(|_| metadata.encrypts(&keys)) else { continue };
        let Some(found) = Encrypted::read(written) else { continue };
        let (bytes, _) = decrypted_value(old, &keys, value)?;
        let sealed = new.encrypt(&bytes, &found.kind, &path_text(&keys)).map_err(SopsError::Encrypt)?;
        values.insert(written, (sealed, path));
    }
    // A comment is encrypted with the path of the map or list that contains it.
    let paths = container_paths(root);
    let comments = text.matches("#ENC[").count();
    if comments > MAX_COMMENTS || comments.saturating_mul(paths.len()) > MAX_ATTEMPTS {
        let limit = MAX_COMMENTS.min(MAX_ATTEMPTS.checked_div(paths.len()).unwrap_or(MAX_COMMENTS));
        return Err(SopsError::TooMany { count: comments, what: "comments", limit });
    }
    let mut edited = String::with_capacity(text.len());
    let mut done = BTreeSet::new();
    let mut rest = text;
    while let Some(at) = rest.find(BEGIN) {
        let (before, found) = rest.split_at(at);
        edited.push_str(before);
        let end = found.find(']').map_or(found.len(), |end| end.saturating_add(1));
        let (found, behind) = found.split_at(end);
        if let Some((sealed, _)) = values.get(found) {
            done.insert(found);
            edited.push_str(sealed);
        } else if found == metadata.mac {
            edited.push_str(found);
        } else if Encrypted::read(found).is_none() && !found.starts_with("ENC[AES256_GCM,") {
            // A readable text, which no data key opens.
            edited.push_str(found);
        } else {
            let comment = Encrypted::read(found).filter(|found| found.kind == COMMENT && before.ends_with('#'));
            let opened = comment
                .and_then(|comment| paths.iter().find_map(|path| Some((path, old.decrypt(&comment, path)?))))
                .ok_or_else(|| SopsError::Stray(edited.matches('\n').count().saturating_add(1)))?;
            let (path, bytes) = opened;
            edited.push_str(&new.encrypt(&bytes, COMMENT, path).map_err(SopsError::Encrypt)?);
        }
        rest = behind;
    }
    edited.push_str(rest);
    // A value that is written with escapes, or in several lines, is not found in the text.
    match values.into_iter().find(|(written, _)| !done.contains(written)) {
        Some((_, (_, path))) => Err(SpliceError::Layout { path }.into()),
        None => Ok(edited),
    }
}
