//! The record that a fleet has agreed on, and what all its nodes must have in common to follow it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{AcceptError, Link, RevisionManifest};

/// The version of the records that this agent writes and understands.
pub const SCHEMA: u32 = 1;

/// What the fleet has agreed to go to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Accepted {
    /// The version of this record.
    pub schema: u32,
    /// The number of the revision.
    pub generation: u64,
    /// Its commits, by source.
    pub commits: BTreeMap<String, String>,
    /// The number of the acceptance that it replaced: always its own number less one.
    pub parent: u64,
    /// The link of that acceptance. `None` for generation 1.
    pub before: Option<Link>,
    /// The first source, the cluster and the store, written down with generation 1.
    pub origin: String,
    /// How strictly the first source was verified then: a node that asks for less accepts nothing.
    pub verify: VerifyPolicy,
    /// The digest of the manifest that came with it.
    pub manifest: String,
    /// The digest of the manifest before, which goes with the next acceptance.
    pub manifest_before: String,
    /// The node that accepted it.
    pub by: String,
}

/// Which commits of the first source must be signed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VerifyPolicy {
    /// None.
    #[default]
    None,
    /// The newest.
    Head,
    /// Every one from the accepted commit.
    Range,
}

impl VerifyPolicy {
    /// How it is written in a source's `verify.mode`.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Head => "head",
            Self::Range => "range",
        }
    }
}

/// What a node's bootstrap file says that all nodes of a fleet must have in common.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FleetIdentity {
    /// The cluster and the first source; empty where there is nobody to differ.
    pub from: String,
    /// How strictly the first source is verified.
    pub verify: VerifyPolicy,
}

impl Accepted {
    /// The record's link in the chain of acceptances.
    pub fn link(&self) -> Link {
        use sha2::Digest as _;
        // The chain has these in fields of their own, or leaves them out.
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

    /// The digest of the record, by which nodes name it to one another.
    pub fn digest(&self) -> String {
        self.link().digest()
    }

    /// Reads a record and its manifest as another node has sent them; None where they are not what was told of.
    pub fn told(record: &[u8], manifest: &[u8], digest: &str) -> Option<(Self, RevisionManifest)> {
        let accepted: Self = serde_json::from_slice(record).ok()?;
        let manifest: RevisionManifest = serde_json::from_slice(manifest).ok()?;
        (accepted.digest() == digest && accepted.manifest == manifest.digest()).then_some((accepted, manifest))
    }

    /// Whether a node may follow this record at all.
    ///
    /// # Errors
    /// Why it must not.
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
