//! Any bytes as a file of a state repository: loaded with all checks, or refused.
#![no_main]

use std::{collections::BTreeMap, sync::Arc};

use libfuzzer_sys::fuzz_target;
use towpath_render::{
    objects::{SourceTree, load},
    tree::MemoryTree,
};

fuzz_target!(|bytes: &[u8]| {
    let tree: MemoryTree = [("fuzzed.yaml", bytes.to_vec())].into_iter().collect();
    let source = SourceTree { name: "f".into(), tree: Arc::new(tree), library: false, globals: true };
    for problem in load(&[source], &BTreeMap::new()).errors {
        assert!(problem.line >= 1);
        let _ = problem.to_string();
    }
});
