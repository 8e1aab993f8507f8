//! Secret values in git: envelopes that only their readers can open, and edits of the YAML files that hold them.
//!
//! An [`envelope`] encrypts one value to the [`Recipients`] of its Secret, and is bound to the name of the value. The
//! crate is pure, apart from random bytes for keys: it reads and writes no files.
//!
//! This crate does not know the nodes that may read a Secret, and the files of a state repository. The caller resolves
//! the readers from git, and hands over their keys.

pub mod editing;
pub mod envelope;
mod identities;
mod plaintext;
mod recipients;
pub mod sops;
pub mod splice;

pub use identities::{Identities, IdentityFileError, NewIdentity};
pub use plaintext::Plaintext;
pub use recipients::{Fingerprint, Recipient, RecipientError, Recipients};
