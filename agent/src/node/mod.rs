//! The main loop of a node, and the stages of its work: the sources, the accepted revision, and the passes. Each stage
//! returns its results, and the main loop writes these results.

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
