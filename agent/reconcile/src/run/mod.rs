//! The state machine of a book run.
//!
//! The run of a book consists of async functions, which wait only for answers of the executor. Instead of an async
//! runtime, [`BookRun::advance`] polls the functions of a run, and returns the commands of the run. Async code states
//! the steps of a run in execution order, and allows tasks of a parallel book to overlap. The state machine is
//! deterministic: the same answers lead to the same commands.

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
