//! Objects of a repository: trees, tags and commits.
//!
//! The first byte is the form of the rest: a tree, a tag, a commit, a change to a signed tag or a signed commit, or the
//! names of a valid tree, one a line. A change begins with the offset (two bytes) and the length (one byte) of what the
//! rest replaces.
#![no_main]

use std::collections::BTreeSet;

use libfuzzer_sys::fuzz_target;
use towpath_git::fuzzing::{commit_names, signed_commit, tag_object, tree_names};

const NOW: u64 = 1_800_000_000;
const SIGNERS: &str = include_str!("../signed/signers");
const TAG: &[u8] = include_bytes!("../signed/tag");
const COMMIT: &[u8] = include_bytes!("../signed/commit");

fuzz_target!(|bytes: &[u8]| {
    let Some((form, rest)) = bytes.split_first() else { return };
    match form % 6 {
        0 => tree(rest),
        1 => assert!(tag_object(rest, "v1", "", NOW).is_err(), "a tag counts without a key"),
        2 => assert!(signed_commit(rest, "", NOW).is_err(), "a commit counts without a key"),
        3 => tag(rest),
        4 => commit(rest),
        _ => tree(&tree_of(rest)),
    }
});

fn tree(bytes: &[u8]) {
    let mut seen = BTreeSet::new();
    for name in tree_names(bytes).unwrap_or_default() {
        assert!(!name.is_empty() && !name.contains(&b'/') && !name.contains(&0), "{name:?}");
        assert!(!matches!(name.as_slice(), b"." | b".."), "{name:?}");
        // NTFS takes a backslash for a slash, drops dots and blanks at the end, and ends a name at the colon of a stream.
        for part in String::from_utf8_lossy(&name).to_ascii_lowercase().split('\\') {
            let plain = part.split(':').next().unwrap_or_default().trim_end_matches(['.', ' ']);
            assert!(!matches!(plain, ".git" | "git~1"), "{name:?}");
        }
        assert!(seen.insert(name.clone()), "{name:?} is there twice");
    }
}

/// A tree of files with the names that the lines have, in the order of git.
fn tree_of(lines: &[u8]) -> Vec<u8> {
    let names: BTreeSet<&[u8]> = lines.split(|byte| *byte == b'\n').collect();
    names.iter().flat_map(|name| [b"100644 ", *name, b"\0", &[1; 20]].concat()).collect()
}

/// The tag counts under its own name alone, and with no other bytes before its signature.
fn tag(change: &[u8]) {
    let Some(changed) = changed(TAG, change) else { return };
    if tag_object(&changed, "v1", SIGNERS, NOW).is_ok() {
        let payload =
            |data: &[u8]| data.windows(11).rposition(|window| window == b"-----BEGIN ").map(|at| data[..at].to_vec());
        assert_eq!(payload(&changed), payload(TAG), "other bytes count");
    }
    assert!(tag_object(&changed, "v2", SIGNERS, NOW).is_err(), "the tag counts as another one");
}

/// The commit counts for its own tree and parents alone.
fn commit(change: &[u8]) {
    let Some(changed) = changed(COMMIT, change) else { return };
    if signed_commit(&changed, SIGNERS, NOW).is_ok() {
        assert_eq!(commit_names(&changed), commit_names(COMMIT), "another tree or parent counts");
    }
}

fn changed(good: &[u8], change: &[u8]) -> Option<Vec<u8>> {
    let ([high, low, length], rest) = change.split_first_chunk()?;
    let from = usize::from(u16::from_be_bytes([*high, *low])).min(good.len());
    let to = from.saturating_add((*length).into()).min(good.len());
    let mut changed = good.to_vec();
    changed.splice(from..to, rest.iter().copied());
    Some(changed)
}
