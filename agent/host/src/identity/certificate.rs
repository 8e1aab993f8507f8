//! Reads the subject of a cluster certificate, and checks that the cluster's authority issued the certificate.

use std::sync::Arc;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, UnixTime, pem::PemObject as _},
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
};
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use super::{IdentityError, PublicKeys};

/// The role of a certificate's owner: `node`, `viewer` or `operator`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// A server of the fleet.
    Node,
    /// A person with read access.
    Viewer,
    /// A person with read access. An operator can also start work that a commit defines, such as a rotation of secrets.
    Operator,
}

impl Role {
    /// All roles.
    pub const ALL: [Self; 3] = [Self::Node, Self::Viewer, Self::Operator];

    /// Returns the role as the word that a certificate contains: `node`, `viewer` or `operator`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::Viewer => "viewer",
            Self::Operator => "operator",
        }
    }

    /// Parses the name of a role.
    pub fn read(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.name() == text)
    }
}

/// The subject of a certificate. The certificate contains the subject as `towpath://CLUSTER/ROLE/NAME?x25519=KEY`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// The name of the cluster.
    pub cluster: String,
    /// The role of the certificate's owner.
    pub role: Role,
    /// The name of the node or the person.
    pub name: String,
    /// The public keys of the certificate's owner.
    pub keys: PublicKeys,
}

impl Subject {
    /// Formats the subject as the URL that a certificate contains.
    pub(super) fn url(&self) -> String {
        let read = URL_SAFE_NO_PAD.encode(self.keys.read);
        format!("towpath://{}/{}/{}?x25519={read}", self.cluster, self.role.name(), self.name)
    }

    fn from_url(url: &str, sign: [u8; 32]) -> Option<Self> {
        let (path, read) = url.strip_prefix("towpath://")?.split_once("?x25519=")?;
        let mut parts = path.split('/');
        let (cluster, role, name) = (parts.next()?, Role::read(parts.next()?)?, parts.next()?);
        let read = <[u8; 32]>::try_from(URL_SAFE_NO_PAD.decode(read).ok()?).ok()?;
        let whole = parts.next().is_none() && !name.is_empty();
        whole.then(|| Self { cluster: cluster.into(), role, name: name.into(), keys: PublicKeys { sign, read } })
    }

    /// Reads the subject of a certificate. The function does not check the issuer of the certificate. [`Trust`] checks
    /// the issuer.
    ///
    /// Returns `None` if the certificate has no Towpath subject.
    pub fn of(der: &[u8]) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let sign = <[u8; 32]>::try_from(certificate.public_key().subject_public_key.data.as_ref()).ok()?;
        let names = certificate.subject_alternative_name().ok()??;
        names.value.general_names.iter().find_map(|name| match name {
            GeneralName::URI(url) => Self::from_url(url, sign),
            _ => None,
        })
    }
}

/// The serial number and the validity of a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateTerm {
    /// The serial number, in the spelling of `towpath pki`.
    pub serial: String,
    /// The first moment at which the certificate is valid, in seconds since 1970.
    pub begin: i64,
    /// The last moment at which the certificate is valid, in seconds since 1970.
    pub end: i64,
}

impl CertificateTerm {
    /// Reads the serial number and the validity of a certificate in DER. Returns `None` if the bytes are not a
    /// certificate.
    pub(super) fn of(der: &[u8]) -> Option<Self> {
        let (begin, end) = validity(der)?;
        Some(Self { serial: super::serial(der)?, begin, end })
    }
}

/// Returns the first and the last moment of a certificate's validity, in seconds since 1970.
pub(super) fn validity(der: &[u8]) -> Option<(i64, i64)> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    Some((certificate.validity().not_before.timestamp(), certificate.validity().not_after.timestamp()))
}

/// Returns the expiry time of the first certificate in a PEM text, in seconds since 1970. Returns `None` if the text
/// contains no certificate.
pub fn valid_until(pem: &[u8]) -> Option<i64> {
    let first = CertificateDer::pem_slice_iter(pem).next()?.ok()?;
    validity(&first).map(|(_, until)| until)
}

/// The trusted certificate of the cluster's authority. The agent checks the certificates of nodes and people against
/// the authority's certificate.
#[derive(Debug, Clone)]
pub struct Trust {
    pub(super) roots: Arc<RootCertStore>,
    verifier: Arc<dyn ClientCertVerifier>,
}

impl Trust {
    /// Reads the authority's certificate from PEM. Error messages use the text `what` as the name of the certificate.
    ///
    /// # Errors
    /// Returns an error if the text does not contain a valid certificate.
    pub fn read(pem: &[u8], what: &str) -> Result<Self, IdentityError> {
        let wrong = |why: String| IdentityError::Certificate { what: what.to_owned(), why };
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(pem) {
            let certificate = certificate.map_err(|error| wrong(error.to_string()))?;
            roots.add(certificate).map_err(|error| wrong(error.to_string()))?;
        }
        if roots.is_empty() {
            return Err(wrong("the text does not contain a certificate in PEM".into()));
        }
        let roots = Arc::new(roots);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), provider)
            .build()
            .map_err(|error| wrong(error.to_string()))?;
        Ok(Self { roots, verifier })
    }

    /// Checks that the authority issued a certificate, and returns the subject of the certificate.
    ///
    /// Returns `None` if the authority did not issue the certificate, or if the certificate is not valid at `now`. The
    /// time `now` is in milliseconds since 1970.
    pub fn subject(&self, der: &[u8], now: i64) -> Option<Subject> {
        let now = UnixTime::since_unix_epoch(std::time::Duration::from_millis(u64::try_from(now).ok()?));
        self.verifier.verify_client_cert(&CertificateDer::from(der), &[], now).ok()?;
        Subject::of(der)
    }

    pub(super) fn verifier(&self) -> Arc<dyn ClientCertVerifier> {
        Arc::clone(&self.verifier)
    }
}
