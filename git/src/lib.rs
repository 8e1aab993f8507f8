//! Sources and their verified [`Snapshot`]s: a bare mirror, polling by ref advertisement, signatures, and the ancestry
//! of refs.
//!
//! Only this crate uses gix. It does not know the meaning of a snapshot's files, nor what a node does with them.

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

/// An error of a source.
#[derive(Debug, Error)]
pub enum SourceError {
    /// A remote that does not answer, rejects the request, or breaks the connection.
    #[error("cannot reach {url}")]
    Unreachable {
        /// The URL, without credentials.
        url: String,
        /// The cause.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A remote that missed the deadline.
    #[error("{url} did not answer within {seconds} s")]
    TimedOut {
        /// The URL, without credentials.
        url: String,
        /// The deadline, in seconds.
        seconds: u64,
    },
    /// A remote that exceeded a limit.
    #[error("{url} sent more than {limit}")]
    TooMuch {
        /// The URL, without credentials.
        url: String,
        /// The limit, with its unit.
        limit: String,
    },
    /// A commit with a tree that is not allowed.
    #[error("the commit {commit} is refused: {message}")]
    Refused {
        /// The commit.
        commit: String,
        /// The reason.
        message: String,
    },
    /// A remote without the configured ref.
    #[error("{url} has no {wanted}{}", if *.empty { ": it is empty" } else { "" })]
    Missing {
        /// The URL, without credentials.
        url: String,
        /// The kind and the name of the ref.
        wanted: String,
        /// True if the remote advertised no refs. A remote with protocol v2 advertises only refs that match the
        /// request.
        empty: bool,
    },
    /// A wrong setting of the source.
    #[error("{message}")]
    Settings {
        /// The reason.
        message: String,
    },
    /// A pack of another node that cannot be used.
    #[error("no other node supplied it: {message}")]
    Pack {
        /// The reason.
        message: String,
    },
    /// A mirror that cannot be read.
    #[error("the mirror {path} is damaged: {message}", path = .path.display())]
    Corrupt {
        /// The mirror.
        path: PathBuf,
        /// The problem that was found.
        message: String,
    },
    /// A mirror that cannot be written.
    #[error("cannot write the mirror {path}", path = .path.display())]
    Disk {
        /// The mirror.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
}
