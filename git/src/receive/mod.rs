//! Jobs on untrusted data. A job fetches from a remote, or indexes a pack from another node.
//!
//! A job runs in a child process with a memory limit, so that a hostile pack can only make the fetch fail. Before
//! [`isolate`] is called, a job runs on a thread of the calling process instead. A meter counts the bytes and the
//! objects of each job.

mod audit;
mod child;
mod job;
pub(crate) mod leftovers;
mod report;

pub use child::{isolate, worker};
pub(crate) use {
    child::run,
    job::{Job, Task},
};
