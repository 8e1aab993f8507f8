//! Processes on the machine: commands with a deadline, the accounts that run them, and their environment.

mod account;
mod environment;
mod launch;
mod program;
mod run;
mod tree;

pub use account::{Account, group, user};
pub use environment::environment;
pub use program::{ScriptFile, Sealed};
pub use run::{Cancel, Invocation, Output, run, run_watched};
