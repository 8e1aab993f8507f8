//! The acceptance record, and the settings that must be equal on all nodes of a fleet (P18).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use thiserror::Error;
use towpath_state::{Record, kinds};

use super::link::Link;
use crate::store::StoreError;

/// The schema version of the store records that this agent writes and understands (P12).
pub const SCHEMA: u32 = 1;

/// The acceptance record: the revision that the fleet has agreed on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Accepted {
    /// The schema version of the record.
    pub schema: u32,
    /// The number of the accepted revision.
    pub generation: u64,
    /// The commit of each source, by the name of the source.
    pub commits: BTreeMap<String, String>,
    /// The generation of the parent, which is the preceding acceptance. The parent's generation is always one less than
    /// `generation`.
    pub parent: u64,
    /// The link of the parent acceptance. `None` for generation 1.
    pub before: Option<Link>,
    /// The identity of the fleet (first source, cluster and store), as the acceptance record of generation 1 states it.
    pub origin: String,
    /// The verification policy of the first source, as the acceptance record of generation 1 states it. A node whose
    /// bootstrap file has a weaker verification policy accepts no revision.
    pub verify: VerifyPolicy,
    /// The digest of the manifest of this acceptance.
    pub manifest: String,
    /// The digest of the manifest of the preceding acceptance. The next acceptance deletes the preceding manifest from
    /// the store.
    pub manifest_before: String,
    /// The name of the node that wrote the record.
    pub by: String,
}

impl Record for Accepted {
    type Kind = kinds::Accepted;
}

/// The verification policy of the first source, which states the commits that must be signed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VerifyPolicy {
    /// No commit must be signed.
    #[default]
    None,
    /// Only the newest commit must be signed.
    Head,
    /// Every commit that is newer than the accepted commit must be signed.
    Range,
}

impl VerifyPolicy {
    /// Returns the value of the field `verify.mode` of a source that selects this policy.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Head => "head",
            Self::Range => "range",
        }
    }
}

/// The settings that must be equal in the bootstrap files of all nodes of a fleet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FleetIdentity {
    /// The identity of the node's fleet: the first source, the cluster and the store, as one text. The field `from` is
    /// empty if only this node uses the store.
    pub from: String,
    /// The policy by which the node verifies the commits of the first source.
    pub verify: VerifyPolicy,
}

/// The reasons for which a node cannot accept a revision.
#[derive(Debug, Error)]
pub enum AcceptError {
    /// A request to the data store has failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The acceptance record has a newer schema than this agent knows (P12).
    #[error(
        "cannot read the acceptance record: its schema is {0}, and this agent knows schemas up to {SCHEMA}; upgrade the agent"
    )]
    TooOld(u32),
    /// The identity of the fleet differs from the identity in the bootstrap file of this node (P18).
    #[error(
        "cannot follow the fleet: it began with {theirs}, and this node is configured with {ours}; correct the bootstrap file"
    )]
    OtherOrigin {
        /// The identity of the fleet (first source, cluster and store), as the acceptance record of generation 1 states
        /// it.
        theirs: String,
        /// The identity of the fleet (first source, cluster and store) in the bootstrap file of this node.
        ours: String,
    },
    /// The verification policy of the fleet is stricter than the policy in the bootstrap file of this node.
    #[error(
        "cannot follow the fleet: it requires verify.mode {theirs} for the first source, and this node is configured with {ours}; set verify.mode to {theirs} or stricter in the bootstrap file"
    )]
    Weaker {
        /// The verification policy of the first source, as the acceptance record of generation 1 states it.
        theirs: &'static str,
        /// The verification policy of the first source in the bootstrap file of this node.
        ours: &'static str,
    },
    /// The node cannot write the acceptance record, for the reason that the variant contains.
    #[error("cannot write the acceptance record: {0}")]
    Unwritable(String),
}

impl Accepted {
    /// Returns the link of the record in the chain of acceptances.
    pub fn link(&self) -> Link {
        use sha2::Digest as _;
        // The digest `body` leaves out these fields, because the link contains them separately or excludes them.
        let body = Self { generation: 0, parent: 0, before: None, by: String::new(), ..self.clone() };
        let body = serde_json::to_vec(&body).unwrap_or_default();
        Link {
            generation: self.generation,
            parent: self.parent,
            parent_digest: self.before.as_ref().map(Link::digest).unwrap_or_default(),
            body: hex::encode(&sha2::Sha256::digest(body)[..16]),
            by: self.by.clone(),
        }
    }

    /// Returns the digest by which nodes refer to the record (P26).
    pub fn digest(&self) -> String {
        self.link().digest()
    }

    /// Checks that a node with the settings `ours` may follow the acceptance record.
    ///
    /// # Errors
    /// Returns an error with the reason if the node cannot follow the record.
    pub fn admits(&self, ours: &FleetIdentity) -> Result<(), AcceptError> {
        if self.schema > SCHEMA {
            return Err(AcceptError::TooOld(self.schema));
        }
        if !self.origin.is_empty() && self.origin != ours.from {
            return Err(AcceptError::OtherOrigin { theirs: self.origin.clone(), ours: ours.from.clone() });
        }
        if !ours.from.is_empty() && self.verify > ours.verify {
            return Err(AcceptError::Weaker { theirs: self.verify.name(), ours: ours.verify.name() });
        }
        Ok(())
    }
}
