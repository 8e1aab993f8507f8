//! The errors of the journal.

use std::path::{Path, PathBuf};

use thiserror::Error;

/// An error of the journal.
#[derive(Debug, Error)]
pub enum JournalError {
    /// A full disk.
    #[error("the disk that holds {path} is full", path = path.display())]
    DiskFull {
        /// The state directory.
        path: PathBuf,
    },
    /// A read-only file system, or a write without permission.
    #[error("{path} can't be written", path = path.display())]
    ReadOnly {
        /// The state directory.
        path: PathBuf,
    },
    /// A corrupt journal.
    #[error("the journal {path} is damaged: {message}", path = path.display())]
    Damaged {
        /// The state directory.
        path: PathBuf,
        /// The problem that was found.
        message: String,
    },
    /// A record that this version cannot parse.
    #[error("cannot read record {record} of the journal in {path}: {message}", path = path.display())]
    Unreadable {
        /// The state directory.
        path: PathBuf,
        /// The key of the record.
        record: String,
        /// The problem that was found.
        message: String,
    },
    /// Any other error.
    #[error("the journal {path} failed: {message}", path = path.display())]
    Failed {
        /// The state directory.
        path: PathBuf,
        /// The cause.
        message: String,
    },
}

impl JournalError {
    /// Classifies an error of the file system.
    pub(crate) fn of_io(folder: &Path, error: &std::io::Error) -> Self {
        use std::io::ErrorKind;
        match error.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Self::DiskFull { path: folder.to_owned() },
            ErrorKind::ReadOnlyFilesystem | ErrorKind::PermissionDenied => Self::ReadOnly { path: folder.to_owned() },
            _ => Self::Failed { path: folder.to_owned(), message: error.to_string() },
        }
    }

    /// Classifies an error of the database.
    pub(crate) fn of_database(folder: &Path, error: &redb::Error) -> Self {
        match error {
            redb::Error::Io(inner) if inner.kind() == std::io::ErrorKind::InvalidData => {
                Self::Damaged { path: folder.to_owned(), message: inner.to_string() }
            }
            redb::Error::Io(inner) => Self::of_io(folder, inner),
            redb::Error::Corrupted(_) | redb::Error::UpgradeRequired(_) => {
                Self::Damaged { path: folder.to_owned(), message: error.to_string() }
            }
            other => Self::Failed { path: folder.to_owned(), message: other.to_string() },
        }
    }
}
