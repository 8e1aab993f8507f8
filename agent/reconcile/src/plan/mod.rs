//! Decisions about tasks without I/O: the names of tasks, the results of checks, batches of changes, and removals.

pub mod assess;
pub mod batch;
pub mod instance;
pub mod order;
pub mod removal;
pub mod unrun;
