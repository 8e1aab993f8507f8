//! Turns git repositories into verified [`Snapshot`]s. The crate polls a remote, fetches its commits into a bare
//! mirror, verifies signatures, and checks the ancestry of commits.
//!
//! Only this crate uses gix. This crate does not interpret the files of a snapshot.

mod deadline;
mod error;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod meter;
mod mirror;
mod objects;
mod options;
mod receive;
mod repo;
mod transport;
mod verify;

pub use error::SourceError;
pub use mirror::{Fetched, Mirror, VerifyError};
pub use objects::{Ancestry, Blob, BlobKind, Snapshot};
pub use options::{Auth, Limits, Options, Reference, VerifyMode, VerifyOptions, display_url, without_secrets};
pub use receive::{isolate, worker};
pub use transport::version;
pub use verify::{Signers, Unverified};
