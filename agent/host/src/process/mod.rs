//! Runs commands with a deadline, and provides the account and the environment of each command.

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
