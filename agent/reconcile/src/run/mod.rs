//! The state machine of a book run.
//!
//! A run consists of asynchronous functions that wait only for observations. No runtime polls the functions. Instead,
//! [`BookRun::advance`] polls the functions and returns their commands. The rules therefore read from top to bottom,
//! and tasks of a parallel book run at the same time. The state machine is deterministic: the same observations lead to
//! the same commands.

mod channel;
mod context;
mod lane;
mod machine;
mod removal;
mod rollout;
mod segment;
mod slots;
mod task;

#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) use tests::world as testing;

pub use context::{BookInputs, RolloutPlan, SegmentPlan};
pub use machine::BookRun;
