//! The identity of an acceptance: its number and its digest (P26).

use serde::{Deserialize, Serialize};

use super::record::Accepted;

/// The identity of an acceptance. A store that was restored from a backup has lost its newest acceptances. A later
/// acceptance may then get the same number as a lost acceptance. Therefore the number alone does not identify an
/// acceptance (P26).
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct AcceptedId {
    /// The number of the accepted revision, or 0 if no revision is accepted.
    pub generation: u64,
    /// The digest of the acceptance record. The digest is empty if no revision is accepted.
    pub digest: String,
}

impl Accepted {
    /// Returns the identity of the acceptance record. Two records that differ only in their signer have the same
    /// identity.
    pub fn id(&self) -> AcceptedId {
        match self.generation {
            0 => AcceptedId::default(),
            generation => AcceptedId { generation, digest: self.digest() },
        }
    }
}
