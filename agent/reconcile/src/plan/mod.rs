//! Decisions about tasks, without I/O: their names, the assessment of checks, batches of changes, and removals.

pub mod assess;
pub mod batch;
pub mod instance;
pub mod order;
pub mod removal;
pub mod unrun;
