//! Runs of TaskBooks: a state machine without I/O, and the values that it exchanges with its executor.
//!
//! A [`BookRun`] decides. An executor reads and changes the node. The state machine uses no files, no clock and no
//! threads, so a dry run and a test are only other executors.

pub mod command;
pub mod names;
pub mod outcome;
pub mod plan;
pub mod record;
pub mod run;

pub use command::{Command, CommandId, Next, Observation};
pub use outcome::{BookReport, Origin, Outcome, TaskReport};
pub use run::{BookInputs, BookRun};
