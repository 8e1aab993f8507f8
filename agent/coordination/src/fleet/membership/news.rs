//! The changes in the store that the watches of a node have reported to the node.

use super::touch::Touches;
use crate::store::Row;

/// The changes in the store that the watches of a node have reported: their number, and the notices of free slots.
#[derive(Debug, Default)]
pub(super) struct News {
    /// The number of changes that the watches have reported. A snapshot is outdated if a watch has reported a change
    /// since the node requested the snapshot.
    count: u64,
    touches: Touches,
    /// True if another node has requested the sealing key of a task result from this node.
    asked: bool,
}

impl News {
    /// Returns the number of changes that the watches have reported.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// Counts a change that a watch has reported.
    pub(super) fn add(&mut self) {
        self.count = self.count.wrapping_add(1);
    }

    /// Counts a notice of free slots that a watch has reported. Returns true if the node must react to the notice.
    pub(super) fn receive_touch(&mut self, node: &str, row: &Row) -> bool {
        self.add();
        self.touches.acts_on(node, row)
    }

    /// Returns a mutable reference to the notices of free slots.
    pub(super) fn touches(&mut self) -> &mut Touches {
        &mut self.touches
    }

    /// Records that this node still has to answer requests for the sealing keys of task results.
    pub(super) fn note_asked(&mut self) {
        self.asked = true;
    }

    /// Returns true if another node has requested the sealing key of a task result from this node since the previous
    /// call.
    pub(super) fn take_asked(&mut self) -> bool {
        std::mem::take(&mut self.asked)
    }
}
