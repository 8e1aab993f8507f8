//! What a node shows to be believed: a certificate of the cluster, or, where the cluster has none, its bare keys.

use std::sync::Arc;

use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};

use super::{Credentials, Identity, PublicKeys, Revoked, Role, SealKey, Subject, certificate, issue, revoked};

/// Who speaks for a node.
#[derive(Debug, Clone)]
pub enum Bearer {
    /// A node with a certificate.
    Certified(Arc<Credentials>),
    /// A node of a cluster without certificates.
    Bare(Arc<Identity>),
}

impl Bearer {
    /// The public half of its identity.
    pub fn keys(&self) -> PublicKeys {
        match self {
            Self::Certified(credentials) => credentials.now().subject.keys,
            Self::Bare(identity) => identity.keys(),
        }
    }

    /// The certificates and keys that the configuration revokes: one list for records and for connections.
    pub fn revoked(&self) -> Revoked {
        match self {
            Self::Certified(credentials) => credentials.revoked().clone(),
            Self::Bare(_) => Revoked::default(),
        }
    }

    /// The serial number of its certificate; `None` without one.
    pub fn serial(&self) -> Option<String> {
        match self {
            Self::Certified(credentials) => revoked::serial(&credentials.now().certificate),
            Self::Bare(_) => None,
        }
    }

    /// Whether it has a certificate.
    pub fn is_certified(&self) -> bool {
        matches!(self, Self::Certified(_))
    }

    /// The secret half.
    fn identity(&self) -> Arc<Identity> {
        match self {
            Self::Certified(credentials) => Arc::clone(&credentials.now().identity),
            Self::Bare(identity) => Arc::clone(identity),
        }
    }

    /// The key that was wrapped for this node and a purpose; None where it was not.
    pub fn unwrap_key(&self, wrapped: &str, purpose: &str) -> Option<SealKey> {
        self.identity().unwrap_key(wrapped, purpose)
    }

    /// Signs, and says with what: a certificate, or a bare key.
    pub fn sign(&self, bytes: &[u8]) -> (String, [u8; 64]) {
        match self {
            Self::Certified(credentials) => {
                let present = credentials.now();
                (present.encoded(), present.identity.sign(bytes))
            }
            Self::Bare(identity) => (STANDARD_NO_PAD.encode(identity.keys().sign), identity.sign(bytes)),
        }
    }

    /// Whose signature it would be that was made with this: a node of the cluster, or whoever has a bare key. None where
    /// it is neither. Both are read by all, so that a fleet can get its certificates one by one.
    pub fn read(&self, shown: &str, node: &str, cluster: &str) -> Option<Shown> {
        if let Some(key) = STANDARD_NO_PAD.decode(shown).ok().and_then(|bytes| <[u8; 32]>::try_from(bytes).ok()) {
            return Some(Shown { key, proven: false, serial: None });
        }
        let der = issue::decoded(shown)?;
        let subject: Subject = match self {
            Self::Bare(_) => Subject::of(&der)?,
            // What was signed stays signed when the certificate has run out.
            Self::Certified(credentials) => {
                let end = certificate::validity(&der)?.1;
                credentials.now().trust.subject(&der, (end - 1).saturating_mul(1000))?
            }
        };
        let speaks = subject.role == Role::Node && subject.name == node && subject.cluster == cluster;
        speaks.then(|| Shown { key: subject.keys.sign, proven: self.is_certified(), serial: revoked::serial(&der) })
    }
}

/// A key that somebody has shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// The key.
    pub key: [u8; 32],
    /// Whether the authority says that it is the node's.
    pub proven: bool,
    /// The serial number of the certificate; `None` for a bare key.
    pub serial: Option<String>,
}

/// Whether a key has made a signature.
pub fn has_signed(key: &[u8; 32], bytes: &[u8], signature: &[u8]) -> bool {
    PublicKeys { sign: *key, read: [0; 32] }.signed(bytes, signature)
}
