//! The reasons why a SOPS file cannot be used.

use thiserror::Error;

use crate::{envelope::OpenError, splice::SpliceError};

/// The reason why a SOPS file cannot be used. No error contains a value.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum SopsError {
    /// The error that the file is not encrypted with SOPS.
    #[error("the file is not encrypted with sops: it has no complete metadata (`sops:`)")]
    NoMetadata,
    /// The error that the file is not one map.
    #[error("the file is not one YAML or JSON map; convert it with sops")]
    NoMap,
    /// The error that the file has no recipient of age.
    #[error("the file has no age recipient (it has: {0}); add one with `sops updatekeys`")]
    NoAge(String),
    /// The error that all recipients of the file are post-quantum.
    #[error(
        "the recipients of the file are post-quantum (age1pq…), which Towpath does not support yet; add an X25519 recipient (age1…) with `sops updatekeys`"
    )]
    PostQuantum,
    /// The error that the file uses an unsupported feature.
    #[error("the file uses {0}, which Towpath does not support")]
    Unsupported(&'static str),
    /// The error that the list of the age recipients is malformed.
    #[error("the list of the age recipients of the file (`sops.age`) is malformed: {0}")]
    Recipients(&'static str),
    /// The error that more than one rule chooses the encrypted values.
    #[error("the file has the rules {0}, and sops allows only one of them; remove the others from `sops:`")]
    Rules(String),
    /// The error that the file has too many values or comments.
    #[error("the file has {count} {what}, and at most {limit} are read; divide the file")]
    TooMany {
        /// The number of values or comments.
        count: usize,
        /// The counted things: values or comments.
        what: &'static str,
        /// The maximum number.
        limit: usize,
    },
    /// The error that the data key does not open.
    #[error("cannot decrypt the data key of the file: {0}")]
    Key(#[source] OpenError),
    /// The error that a value does not decrypt.
    #[error("cannot decrypt the value at {0}: it is damaged, or was moved from another path")]
    Value(String),
    /// The error that the values are not those that were encrypted.
    #[error("the MAC of the file does not match its values: a value was added, removed, moved or changed without sops")]
    Mac,
    /// The error that an encrypted text is neither a value nor a readable comment.
    #[error(
        "line {0} has an encrypted text that is not a value of the file, and not a comment that can be decrypted; remove the text, because it would keep the old data key"
    )]
    Stray(usize),
    /// The error that an edit adds values which the rules of the file leave readable.
    #[error(
        "the rules of the file (`sops:`) leave {0} readable, so new values there would be written in plain text; correct the rules, or allow it with `--allow-plain`"
    )]
    Readable(String),
    /// The error that a text cannot be edited.
    #[error(transparent)]
    Layout(#[from] SpliceError),
    /// The error that an encryption failed.
    #[error("cannot encrypt: {0}")]
    Encrypt(String),
    /// The error that an edited text is not a map.
    #[error("the edited text is not valid: {0}")]
    Edited(String),
}
