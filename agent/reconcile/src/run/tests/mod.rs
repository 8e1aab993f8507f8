//! Tests of the state machine of a book run, with an executor that works on values in memory.

mod admission;
mod executors;
mod handlers;
mod probes;
mod recovery;
mod removals;
mod rollouts;
mod tasks;
pub(crate) mod world;
