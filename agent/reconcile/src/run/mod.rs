//! The state machine of a book run.
//!
//! A run consists of asynchronous functions that wait only for observations. No runtime polls these functions. Instead,
//! [`BookRun::advance`] polls them and returns the commands that they give. The rules therefore read from top to
//! bottom, and tasks of a parallel book run at the same time. The state machine is deterministic: the same observations
//! lead to the same commands.

mod channel;
mod context;
mod flush;
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
