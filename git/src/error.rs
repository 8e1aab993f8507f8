//! The errors of a source.

use std::path::PathBuf;

use thiserror::Error;

/// An error of a source.
#[derive(Debug, Error)]
pub enum SourceError {
    /// An error because a remote does not answer, rejects the request, or breaks the connection.
    #[error("cannot reach {url}")]
    Unreachable {
        /// The URL of the remote, without credentials.
        url: String,
        /// The cause.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// An error because a remote did not complete a request within the time limit.
    #[error("{url} did not answer within {seconds} s")]
    TimedOut {
        /// The URL of the remote, without credentials.
        url: String,
        /// The deadline, in seconds.
        seconds: u64,
    },
    /// An error because an earlier request to a remote has not ended. Only one request at a time writes to a mirror.
    #[error("{url} has not answered since {since}")]
    Pending {
        /// The URL of the remote, without credentials.
        url: String,
        /// The time at which the earlier request began.
        since: String,
    },
    /// An error because a remote sent more data than a limit allows.
    #[error("{url} sent more than {limit}")]
    TooMuch {
        /// The URL of the remote, without credentials.
        url: String,
        /// The limit that the remote exceeded, with its unit.
        limit: String,
    },
    /// An error because the agent rejects the git tree of a commit.
    #[error("rejected the commit {commit}: {message}")]
    Refused {
        /// The id of the commit.
        commit: String,
        /// The reason for the rejection.
        message: String,
    },
    /// An error because the configured ref does not exist on the remote.
    #[error("{url} has no {wanted}{}", if *.empty { ": it is empty" } else { "" })]
    Missing {
        /// The URL of the remote, without credentials.
        url: String,
        /// The kind and the name of the configured ref.
        wanted: String,
        /// True if the remote advertised no refs. With protocol v2, a remote advertises only refs that match the
        /// request.
        empty: bool,
    },
    /// An error because a setting of the source is wrong.
    #[error("{message}")]
    Settings {
        /// The name of the setting, and the reason why the setting is wrong.
        message: String,
    },
    /// An error because a pack from another node cannot be used.
    #[error("cannot get the commit from another node: {message}")]
    Pack {
        /// The reason why the pack cannot be used.
        message: String,
    },
    /// An error because the mirror of a source cannot be read.
    #[error("the mirror {path} is damaged: {message}", path = .path.display())]
    Corrupt {
        /// The path of the mirror.
        path: PathBuf,
        /// The problem that was found.
        message: String,
    },
    /// An error because the mirror of a source cannot be written.
    #[error("cannot write the mirror {path}", path = .path.display())]
    Disk {
        /// The path of the mirror.
        path: PathBuf,
        /// The I/O error.
        source: std::io::Error,
    },
}
