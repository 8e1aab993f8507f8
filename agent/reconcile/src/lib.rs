//! Runs of TaskBooks: a pure machine that asks for commands, and the values that it exchanges with its executor.
//!
//! A [`BookRun`] decides; an executor reads and changes the node. The machine sees no file, no clock and no thread. So a
//! dry run is another executor, and a test is a third one.

pub mod command;
pub mod names;
pub mod outcome;
pub mod plan;
pub mod record;
pub mod run;

pub use command::{Command, CommandId, Next, Observation};
pub use outcome::{BookReport, Origin, Outcome, TaskReport};
pub use run::{BookInputs, BookRun};
