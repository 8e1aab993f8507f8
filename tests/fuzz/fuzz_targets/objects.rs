//! Trees and tags: any bytes as an object of a repository.
#![no_main]

use std::collections::BTreeSet;

use libfuzzer_sys::fuzz_target;
use towpath_git::fuzzing::{tag_object, tree_names};

fuzz_target!(|bytes: &[u8]| {
    if let Some(names) = tree_names(bytes) {
        let mut seen = BTreeSet::new();
        for name in &names {
            assert!(!name.is_empty() && !name.contains(&b'/') && !name.contains(&0), "{name:?}");
            let plain: String = String::from_utf8_lossy(name).trim_end_matches(['.', ' ']).to_ascii_lowercase();
            // What is left of `.`, `..` and `.git.` leads out of the folder, or into a repository.
            assert!(!plain.is_empty() || name.len() > 2, "{name:?}");
            assert!(!matches!(plain.as_str(), ".git" | "git~1"), "{name:?}");
            assert!(seen.insert(name), "{name:?} is there twice");
        }
    }
    // Without a key nothing counts.
    assert!(tag_object(bytes, "v1", "", 1_800_000_000).is_err());
});
