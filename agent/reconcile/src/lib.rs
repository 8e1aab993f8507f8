//! Runs TaskBooks as a state machine without I/O.
//!
//! A [`BookRun`] decides. An executor carries out the commands of the state machine on the node. The state machine uses
//! no files, clock or threads. A dry run or a test uses the same state machine with a different executor.

pub mod command;
pub mod names;
pub mod outcome;
pub mod plan;
pub mod record;
pub mod run;

pub use command::{Command, CommandId, Next, Observation};
pub use outcome::{BookReport, Origin, Outcome, TaskReport};
pub use run::{BookInputs, BookRun};
