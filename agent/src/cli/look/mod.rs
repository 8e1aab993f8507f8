//! Commands that show the state of one node.

pub(super) mod events;
pub(super) mod facts;
pub(super) mod objects;
pub(super) mod runs;
pub(super) mod status;
