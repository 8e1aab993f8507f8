//! The properties that hold at each step, and the records of the store that they read.

use towpath_coordination::{
    keys,
    rollout::{RolloutProgress, SlotRecord},
    store::{Change, memory::Memory},
};

use super::state::{Simulation, name};

impl Simulation {
    /// Checks that all nodes that the accepted revision waits for have arrived when a barrier opens.
    pub(super) fn check_opening(&self, was_open: &RolloutProgress, changes: &[Change]) {
        let spec = &self.revisions[self.accepted];
        for change in changes {
            let Change::Put(row) = change else { continue };
            if !row.key.starts_with("shared/progress/") {
                continue;
            }
            let progress: RolloutProgress = serde_json::from_slice(&row.value).unwrap();
            let open = |progress: &RolloutProgress, segment: u32| {
                progress.run == spec.run && progress.waves.get(segment as usize).is_some_and(|open| *open > 0)
            };
            let opened = (1..spec.segments()).filter(|segment| {
                spec.open_at_first(*segment) == 0 && open(&progress, *segment) && !open(was_open, *segment)
            });
            for segment in opened {
                for (node, own) in self.nodes.iter().enumerate() {
                    let came = own.course.record.run == progress.run && own.course.record.done >= segment;
                    let key = keys::held(&spec.budget, "-", &spec.book, &name(node));
                    let excused = self.store.below(&key).any(|row| row.key == key);
                    let voted = keys::vote(&progress.run, segment - 1, true, &name(node));
                    let voted = self.store.below(&voted).any(|row| row.key == voted);
                    assert!(came || excused || voted, "segment {segment} opened without {}", name(node));
                }
            }
        }
    }
}

/// Returns the open waves.
pub fn opening(store: &Memory) -> RolloutProgress {
    store.below("shared/progress/").find_map(|row| serde_json::from_slice(&row.value).ok()).unwrap_or_default()
}

/// Returns the content of the store, for a failing seed.
pub fn shown(store: &Memory) -> String {
    store.below("").map(|row| format!("{} {}\n", row.key, String::from_utf8_lossy(&row.value))).collect()
}

/// Returns the records of slots.
pub fn held(store: &Memory) -> Vec<SlotRecord> {
    store.below("fleet/held/").filter_map(|row| serde_json::from_slice(&row.value).ok()).collect()
}
