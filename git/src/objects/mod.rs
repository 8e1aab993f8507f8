//! Reads the git objects of a mirror: trees, the history of commits, and snapshots.

pub(crate) mod history;
pub(crate) mod reachable;
mod snapshot;
pub(crate) mod tree;

pub use history::Ancestry;
pub use snapshot::{Blob, BlobKind, Snapshot};
