//! A source to a verified [`Snapshot`]: a bare mirror, a poll that is one ref advertisement, signatures, and the
//! rules by which a ref may move.
//!
//! The only place that names gix. Does not know what the files of a snapshot mean, nor what a node does with them.

mod audit;
mod connection;
mod counted;
mod deadline;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod history;
mod leftovers;
mod meter;
mod mirror;
mod options;
mod pack;
mod receive;
mod refs;
mod report;
mod shown;
mod snapshot;
mod transport;
mod tree;
mod verify;

pub use history::Movement;
pub use mirror::{Fetched, Mirror, VerifyError};
pub use options::{Auth, Limits, Options, Reference, VerifyMode, VerifyOptions, shown_url, without_secrets};
pub use receive::{isolate, worker};
pub use refs::version;
pub use snapshot::{Blob, BlobKind, Snapshot};
pub use verify::{Signers, Unverified};

use std::path::PathBuf;

use thiserror::Error;

/// What can go wrong with a source.
#[derive(Debug, Error)]
pub enum SourceError {
    /// The remote does not answer, refuses, or breaks off.
    #[error("{url} can't be reached")]
    Unreachable {
        /// The URL, without credentials.
        url: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The remote took longer than it may, and was given up.
    #[error("{url} did not answer within {seconds} s")]
    TimedOut {
        /// The URL, without credentials.
        url: String,
        /// The limit.
        seconds: u64,
    },
    /// The remote sent more than it may.
    #[error("{url} sent more than {limit}")]
    TooMuch {
        /// The URL, without credentials.
        url: String,
        /// The limit, with what it counts.
        limit: String,
    },
    /// A commit whose tree no node may take.
    #[error("the commit {commit} is refused: {message}")]
    Refused {
        /// The commit.
        commit: String,
        /// Why.
        message: String,
    },
    /// The remote has nothing at the ref.
    #[error("{url} has no {wanted}{}", if *.empty { ": it is empty" } else { "" })]
    Missing {
        /// The URL, without credentials.
        url: String,
        /// The ref.
        wanted: String,
        /// Whether the remote has no refs at all.
        empty: bool,
    },
    /// The settings can't be used.
    #[error("{message}")]
    Settings {
        /// What is wrong with them.
        message: String,
    },
    /// What another node sent can't be used.
    #[error("no other node gave it either: {message}")]
    Pack {
        /// Why.
        message: String,
    },
    /// The mirror can't be read.
    #[error("the mirror {path} is damaged: {message}", path = .path.display())]
    Corrupt {
        /// The mirror.
        path: PathBuf,
        /// What was found.
        message: String,
    },
    /// The disk does not take the mirror.
    #[error("the mirror {path} can't be written", path = .path.display())]
    Disk {
        /// The mirror.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}
