//! The machine of a book run.
//!
//! A run is written as ordinary asynchronous functions, which wait for observations and for nothing else. No runtime
//! polls them: [`BookRun::advance`] does, and returns the commands that they ask for. So a rule reads from top to bottom,
//! tasks of a parallel book run side by side, and the machine stays pure: the same observations lead to the same
//! commands.

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
