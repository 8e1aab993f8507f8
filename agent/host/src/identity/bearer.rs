//! What a node shows to be believed: a certificate of the cluster, or, where the cluster has none, its bare keys.

use std::sync::Arc;

use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};

use super::{Credentials, Identity, PublicKeys, Role, Subject, certificate, issue};

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

    /// Whether it has a certificate.
    pub fn is_certified(&self) -> bool {
        matches!(self, Self::Certified(_))
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
    /// it is not what this cluster believes.
    pub fn read(&self, shown: &str, node: &str, cluster: &str) -> Option<[u8; 32]> {
        match self {
            Self::Bare(_) => <[u8; 32]>::try_from(STANDARD_NO_PAD.decode(shown).ok()?).ok(),
            Self::Certified(credentials) => {
                let der = issue::decoded(shown)?;
                // What was signed stays signed when the certificate has run out.
                let end = certificate::not_after(&der)?;
                let subject: Subject = credentials.now().trust.subject(&der, (end - 1).saturating_mul(1000))?;
                let speaks = subject.role == Role::Node && subject.name == node && subject.cluster == cluster;
                speaks.then_some(subject.keys.sign)
            }
        }
    }
}

/// Whether a key has made a signature.
pub fn has_signed(key: &[u8; 32], bytes: &[u8], signature: &[u8]) -> bool {
    PublicKeys { sign: *key, read: [0; 32] }.signed(bytes, signature)
}
