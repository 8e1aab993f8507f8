//! Tests of the machine: a world of plain values plays the executor.

mod admission;
mod executors;
mod handlers;
mod probes;
mod recovery;
mod removals;
mod rollouts;
mod tasks;
pub(crate) mod world;
