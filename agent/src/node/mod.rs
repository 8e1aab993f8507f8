//! A node: its main loop, and the stages between a commit and a pass. Each stage returns values, which the main loop
//! writes.

mod acceptance;
mod error;
mod inbox;
mod main_loop;
mod membership;
mod passes;
mod refresh;
mod sources;
mod writer;

pub use error::NodeError;
pub use inbox::Inbox;
pub use main_loop::{Node, Options, RunResult};
pub use sources::{bad_sources, trees::FolderTree};
