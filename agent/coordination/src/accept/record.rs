//! The acceptance record, and the identity that all nodes of a fleet must share to follow it (P18).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use towpath_state::{Record, kinds};

use super::{AcceptError, Link, RevisionManifest};

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
    /// The generation of the acceptance that this one replaced. The number is always one less than `generation`.
    pub parent: u64,
    /// The link of the parent acceptance. `None` for generation 1.
    pub before: Option<Link>,
    /// The first source, the cluster and the store, as generation 1 recorded them.
    pub origin: String,
    /// The policy by which generation 1 verified the first source. A node with a weaker policy accepts nothing.
    pub verify: VerifyPolicy,
    /// The digest of the manifest of this acceptance.
    pub manifest: String,
    /// The digest of the preceding manifest. The next acceptance deletes that manifest from the store.
    pub manifest_before: String,
    /// The name of the node that wrote the record.
    pub by: String,
}

impl Record for Accepted {
    type Kind = kinds::Accepted;
}

/// The policy that selects the commits of the first source that must be signed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VerifyPolicy {
    /// No commit must be signed.
    #[default]
    None,
    /// The newest commit must be signed.
    Head,
    /// Every commit since the accepted one must be signed.
    Range,
}

impl VerifyPolicy {
    /// Returns the name of the policy as a source's `verify.mode` spells it.
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
    /// The first source, the cluster and the store. Empty if no other process uses the store.
    pub from: String,
    /// The policy by which the node verifies the first source.
    pub verify: VerifyPolicy,
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

    /// Parses an acceptance record and its manifest that another node has sent. `None` if a digest does not match.
    pub fn of_announced(record: &[u8], manifest: &[u8], digest: &str) -> Option<(Self, RevisionManifest)> {
        let accepted: Self = serde_json::from_slice(record).ok()?;
        let manifest: RevisionManifest = serde_json::from_slice(manifest).ok()?;
        (accepted.digest() == digest && accepted.manifest == manifest.digest()).then_some((accepted, manifest))
    }

    /// Checks that a node with the settings `ours` may follow the record.
    ///
    /// # Errors
    /// The reason why the node must not follow the record.
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
