//! The reconciler, which brings a server to the state that the git sources define. It contains the main loop of a node,
//! its state and its queries.

mod adoption;
mod advance;
pub mod conditions;
mod execute;
mod facts;
mod fellows;
mod follow;
mod handle;
mod node;
mod others;
pub mod pass;
mod poller;
mod queue;
mod reporting;
mod revision;
mod runs;
mod settled;
mod source_trouble;
mod sources;
mod speech;
mod trees;
mod waiting;

pub use handle::{Handle, OtherNode};
pub use node::{Ended, Node, NodeError, Options};
pub use pass::desired::{Desired, compare};
pub use queue::Queue;
pub use revision::Revision;
pub use sources::bad_sources;
pub use trees::FolderTree;

/// Returns the facts of the host, including the custom facts from some folders.
pub fn host_facts(facts_d: Vec<std::path::PathBuf>) -> (serde_json::Value, Vec<towpath_host::facts::CustomProblem>) {
    facts::facts(&towpath_host::facts::Options { facts_d, ..towpath_host::facts::Options::default() })
}
