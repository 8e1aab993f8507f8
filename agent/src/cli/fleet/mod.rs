//! Commands that show the nodes and the rollouts of the fleet.

pub(super) mod nodes;
pub(super) mod rollouts;
