//! The signing identity of a node. A node signs with the key of its certificate. A node without a certificate signs
//! with a bare key.

use std::sync::Arc;

use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};

use super::{
    CertificateTerm, Credentials, Identity, PublicKeys, Revoked, Role, SealKey, Subject, certificate, issue, revoked,
};

/// The keys with which a node signs, and the certificate of the keys if the node has a certificate.
#[derive(Debug, Clone)]
pub enum SigningIdentity {
    /// A certificate of the cluster's authority proves that the keys belong to the node.
    Certified(Arc<Credentials>),
    /// The node has bare keys, without a certificate.
    Bare(Arc<Identity>),
}

impl SigningIdentity {
    /// Returns the public keys of the identity.
    pub fn keys(&self) -> PublicKeys {
        match self {
            Self::Certified(credentials) => credentials.now().subject.keys,
            Self::Bare(identity) => identity.keys(),
        }
    }

    /// Returns the list of revoked certificates and keys. The agent checks both signed records and connections against
    /// the revocation list.
    pub fn revoked(&self) -> Revoked {
        match self {
            Self::Certified(credentials) => credentials.revoked().clone(),
            Self::Bare(_) => Revoked::default(),
        }
    }

    /// Returns the serial number of the node's certificate; `None` for a node without a certificate.
    pub fn serial(&self) -> Option<String> {
        match self {
            Self::Certified(credentials) => revoked::serial(&credentials.now().certificate),
            Self::Bare(_) => None,
        }
    }

    /// Returns the serial number and the validity of the node's certificate. Returns `None` for a node without a
    /// certificate.
    pub fn term(&self) -> Option<CertificateTerm> {
        match self {
            Self::Certified(credentials) => CertificateTerm::of(&credentials.now().certificate),
            Self::Bare(_) => None,
        }
    }

    /// Returns true if the node has a certificate.
    pub fn is_certified(&self) -> bool {
        matches!(self, Self::Certified(_))
    }

    /// Returns the secret keys of the node.
    fn identity(&self) -> Arc<Identity> {
        match self {
            Self::Certified(credentials) => Arc::clone(&credentials.now().identity),
            Self::Bare(identity) => Arc::clone(identity),
        }
    }

    /// Decrypts a random key that was encrypted for this node and for one purpose. Returns `None` if the key was
    /// encrypted for another node or purpose.
    pub fn unwrap_key(&self, wrapped: &str, purpose: &str) -> Option<SealKey> {
        self.identity().unwrap_key(wrapped, purpose)
    }

    /// Signs bytes. Returns the signature over the bytes, and the node's certificate or bare key in base64.
    pub fn sign(&self, bytes: &[u8]) -> (String, [u8; 64]) {
        match self {
            Self::Certified(credentials) => {
                let present = credentials.now();
                (present.encoded(), present.identity.sign(bytes))
            }
            Self::Bare(identity) => (STANDARD_NO_PAD.encode(identity.keys().sign), identity.sign(bytes)),
        }
    }

    /// Reads the certificate or the bare key that a node presents with a signature. Returns `None` if the certificate
    /// belongs to another node.
    ///
    /// Every node accepts both certificates and bare keys, so the nodes of a fleet can get certificates one after the
    /// other.
    pub fn read(&self, shown: &str, node: &str, cluster: &str) -> Option<PresentedKey> {
        if let Some(key) = STANDARD_NO_PAD.decode(shown).ok().and_then(|bytes| <[u8; 32]>::try_from(bytes).ok()) {
            return Some(PresentedKey { key, proven: false, serial: None });
        }
        let der = issue::decoded(shown)?;
        let subject: Subject = match self {
            Self::Bare(_) => Subject::of(&der)?,
            // A record stays valid after its certificate has expired. So an expired certificate is checked as of its
            // last valid second.
            Self::Certified(credentials) => {
                let end = certificate::validity(&der)?.1;
                credentials.now().trust.subject(&der, (end - 1).saturating_mul(1000))?
            }
        };
        let speaks = subject.role == Role::Node && subject.name == node && subject.cluster == cluster;
        speaks.then(|| PresentedKey {
            key: subject.keys.sign,
            proven: self.is_certified(),
            serial: revoked::serial(&der),
        })
    }
}

/// The public key that a node presents together with a signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PresentedKey {
    /// The public signing key.
    pub key: [u8; 32],
    /// True if a certificate of the cluster's authority proves that the key belongs to the node.
    pub proven: bool,
    /// The serial number of the certificate; `None` for a bare key.
    pub serial: Option<String>,
}

/// Returns true if the signature over the bytes matches the presented key.
pub fn has_signed(key: &[u8; 32], bytes: &[u8], signature: &[u8]) -> bool {
    PublicKeys { sign: *key, read: [0; 32] }.signed(bytes, signature)
}
