//! The errors that prevent the start of a node.

use std::path::PathBuf;

use thiserror::Error;
use towpath_host::{identity::IdentityError, lock::LockError};
use towpath_state::JournalError;

/// An error that prevents the start of a node.
#[derive(Debug, Error)]
pub enum NodeError {
    /// The state directory cannot be locked.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The journal cannot be opened or read.
    #[error("cannot start the node")]
    Journal(#[from] JournalError),
    /// The identity of the node cannot be read or created.
    #[error("cannot load the identity of the node")]
    Identity(#[from] IdentityError),
    /// The root directory of the managed files cannot be created or opened.
    #[error("cannot open the root {root}", root = .root.display())]
    Root {
        /// The path of the root directory.
        root: PathBuf,
        /// The error of the operating system.
        source: std::io::Error,
    },
}
