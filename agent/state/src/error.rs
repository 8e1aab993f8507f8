//! The errors of the journal.

use std::path::{Path, PathBuf};

use thiserror::Error;

/// An error of the journal.
#[derive(Debug, Error)]
pub enum JournalError {
    /// The error that the disk or the quota is full.
    #[error("cannot write to the state directory {path}: the disk is full", path = path.display())]
    DiskFull {
        /// The path of the state directory.
        path: PathBuf,
    },
    /// The error that the file system is read-only, or that the agent lacks the permission to write.
    #[error("cannot write to the state directory {path}: read-only, or not permitted", path = path.display())]
    ReadOnly {
        /// The path of the state directory.
        path: PathBuf,
    },
    /// The error that the journal file is damaged.
    #[error("the journal in {path} is damaged: {message}", path = path.display())]
    Damaged {
        /// The path of the state directory.
        path: PathBuf,
        /// The message of the database or the file system that describes the damage.
        message: String,
    },
    /// The error that this version of the agent cannot parse a record.
    #[error("cannot read record {record} of the journal in {path}: {message}", path = path.display())]
    Unreadable {
        /// The path of the state directory.
        path: PathBuf,
        /// The key of the record.
        record: String,
        /// The error of the JSON parser.
        message: String,
    },
    /// Any other error of the database or the file system.
    #[error("cannot use the journal in {path}: {message}", path = path.display())]
    Failed {
        /// The path of the state directory.
        path: PathBuf,
        /// The error message of the database or the file system.
        message: String,
    },
}

impl JournalError {
    /// Converts an I/O error to an error of the journal.
    pub(crate) fn of_io(folder: &Path, error: &std::io::Error) -> Self {
        use std::io::ErrorKind;
        match error.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Self::DiskFull { path: folder.to_owned() },
            ErrorKind::ReadOnlyFilesystem | ErrorKind::PermissionDenied => Self::ReadOnly { path: folder.to_owned() },
            _ => Self::Failed { path: folder.to_owned(), message: error.to_string() },
        }
    }

    /// Converts an error of the database library to an error of the journal.
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
