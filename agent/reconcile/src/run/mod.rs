//! The state machine of a book run.
//!
//! The run of a book consists of async functions that wait only for answers of the executor. No async runtime polls the
//! functions of a run. [`BookRun::advance`] polls the functions, and returns the commands of the run.
//! [`BookRun::advance`] polls the functions of a run, and returns the commands of the run. Async code keeps the rules
//! in reading order, and lets the tasks of a parallel book overlap. The state machine is deterministic: the same
//! observations lead to the same commands.

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
