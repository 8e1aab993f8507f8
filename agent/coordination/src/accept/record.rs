//! The acceptance record, and the identity that all nodes of a fleet must share to follow it (P18).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use towpath_state::{Record, kinds};

use super::{AcceptError, Link, RevisionManifest};

/// The version of the records that this agent writes and understands (P12).
pub const SCHEMA: u32 = 1;

/// The revision that the fleet has agreed on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Accepted {
    /// The version of this record.
    pub schema: u32,
    /// The number of the revision.
    pub generation: u64,
    /// The commits of the revision, by source.
    pub commits: BTreeMap<String, String>,
    /// The number of the acceptance that this one replaced. It is always the own number less one.
    pub parent: u64,
    /// The link of that acceptance. `None` for generation 1.
    pub before: Option<Link>,
    /// The first source, the cluster and the store. Generation 1 fixed them.
    pub origin: String,
    /// The policy that verified the first source at generation 1. A node with a weaker policy accepts nothing.
    pub verify: VerifyPolicy,
    /// The digest of the manifest of this acceptance.
    pub manifest: String,
    /// The digest of the manifest before, which the next acceptance deletes.
    pub manifest_before: String,
    /// The node that accepted the revision.
    pub by: String,
}

impl Record for Accepted {
    type Kind = kinds::Accepted;
}

/// The commits of the first source that must be signed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VerifyPolicy {
    /// No commit.
    #[default]
    None,
    /// The newest commit.
    Head,
    /// Every commit since the accepted one.
    Range,
}

impl VerifyPolicy {
    /// Returns the name of the policy in a source's `verify.mode`.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Head => "head",
            Self::Range => "range",
        }
    }
}

/// The settings of a bootstrap file that all nodes of a fleet must share.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FleetIdentity {
    /// The cluster and the first source. Empty if the store is not shared.
    pub from: String,
    /// The policy that verifies the first source.
    pub verify: VerifyPolicy,
}

impl Accepted {
    /// Returns the record's link in the chain of acceptances.
    pub fn link(&self) -> Link {
        use sha2::Digest as _;
        // The chain has these in its own fields, or leaves them out.
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

    /// Returns the digest of the record, by which nodes refer to it (P26).
    pub fn digest(&self) -> String {
        self.link().digest()
    }

    /// Parses a record and its manifest that another node has sent. `None` if they do not have the announced digest.
    pub fn of_announced(record: &[u8], manifest: &[u8], digest: &str) -> Option<(Self, RevisionManifest)> {
        let accepted: Self = serde_json::from_slice(record).ok()?;
        let manifest: RevisionManifest = serde_json::from_slice(manifest).ok()?;
        (accepted.digest() == digest && accepted.manifest == manifest.digest()).then_some((accepted, manifest))
    }

    /// Checks that a node may follow this record.
    ///
    /// # Errors
    /// The reason why it must not.
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
