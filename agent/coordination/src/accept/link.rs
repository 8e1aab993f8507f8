//! The link of an acceptance record: the fields that the next acceptance record copies.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::{keys, store::Op};

/// The fields of an acceptance record that form the chain of acceptances.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Link {
    /// The generation of the acceptance.
    pub generation: u64,
    /// The generation of the parent, which is the preceding acceptance.
    pub parent: u64,
    /// The digest of the parent's link. The digest is empty if the acceptance has no parent.
    pub parent_digest: String,
    /// The digest of the fields of the acceptance record that are not in the link. The digest does not cover the name
    /// of the signer.
    pub body: String,
    /// The node that wrote the acceptance record.
    pub by: String,
}

impl Link {
    /// Returns the digest of the acceptance. The digest does not cover the signer, so two nodes that accept the same
    /// content get the same digest. The digest stays the same if another node writes the same record again.
    pub fn digest(&self) -> String {
        let mut hash = Sha256::new();
        for part in [
            self.generation.to_be_bytes().as_slice(),
            &self.parent.to_be_bytes(),
            self.parent_digest.as_bytes(),
            self.body.as_bytes(),
        ] {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        hex::encode(&hash.finalize()[..16])
    }

    /// Returns the operation that writes the link to the store. `None` for generation 0.
    pub(super) fn put(&self) -> Option<Op> {
        let bytes = serde_json::to_vec(self).ok().filter(|_| self.generation > 0)?;
        Some(Op::put(keys::link(self.generation), bytes))
    }
}
