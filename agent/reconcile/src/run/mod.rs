//! The state machine of a book run.
//!
//! The run of a book consists of async functions, which wait only for answers of the executor. Instead of an async
//! runtime, [`BookRun::advance`] polls the functions of a run, and returns the commands of the run. In async code, the
//! rules are written in the order of execution, and the tasks of a parallel book can overlap. The state machine is
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
