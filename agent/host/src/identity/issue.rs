//! The cluster's certificate authority, which issues certificates for nodes, viewers and operators.

use std::{fs, io::Write as _, path::Path, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ED25519, SanType, SerialNumber, SubjectPublicKeyInfo,
};

use super::{Identity, IdentityError, PublicKeys, Role, Subject, Trust, certificate::validity, unusable};

/// The time for which the authority's own certificate is valid.
const TEN_YEARS: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// The time between the start of a new certificate's validity and its issue. The clock of a new machine is often slow.
const BEFORE: Duration = Duration::from_secs(3600);
/// The bytes that precede an ed25519 key in a SubjectPublicKeyInfo (RFC 8410).
const SPKI: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// A request for a certificate.
#[derive(Debug, Clone)]
pub struct Request {
    /// The name of the node or the person.
    pub name: String,
    /// The role of the certificate's owner.
    pub role: Role,
    /// The additional host names and addresses for which the node's certificate is valid.
    pub addresses: Vec<String>,
    /// The public keys of the certificate's owner.
    pub keys: PublicKeys,
    /// The time for which a new certificate is valid.
    pub lifetime: Duration,
}

/// The certificate authority, with its secret key.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: String,
    cluster: String,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").field("cluster", &self.cluster).finish_non_exhaustive()
    }
}

fn failed(what: &str) -> impl FnOnce(rcgen::Error) -> IdentityError {
    let what = what.to_owned();
    move |error| IdentityError::Certificate { what, why: error.to_string() }
}

impl Authority {
    /// Returns the paths of the authority's certificate and of the authority's secret key in a folder.
    pub fn files(folder: &Path) -> (std::path::PathBuf, std::path::PathBuf) {
        (folder.join("ca.crt"), folder.join("ca.key"))
    }

    /// Creates a new authority in a folder. The current time `now` is in milliseconds since 1970.
    ///
    /// # Errors
    /// Returns an error if the folder already contains an authority, or a file cannot be written.
    pub fn init(folder: &Path, cluster: &str, now: i64) -> Result<Self, IdentityError> {
        may_be_named(cluster)?;
        fs::create_dir_all(folder).map_err(unusable(folder))?;
        let (certificate_file, key_file) = Self::files(folder);
        if certificate_file.exists() {
            let there = std::io::Error::new(std::io::ErrorKind::AlreadyExists, "the folder has an authority already");
            return Err(unusable(&certificate_file)(there));
        }
        Identity::make().map_err(unusable(&key_file))?.write(&key_file)?;
        let key = key_pair(&key_file)?;
        let mut params = dated(CertificateParams::default(), now, TEN_YEARS);
        params.distinguished_name.push(DnType::CommonName, format!("{cluster} (Towpath)"));
        // `open` reads the name of the cluster from the organization name.
        params.distinguished_name.push(DnType::OrganizationName, cluster);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let made = params.self_signed(&key).map_err(failed("the authority's certificate"))?;
        write_new(&certificate_file, made.pem().as_bytes())?;
        Self::open(folder)
    }

    /// Opens the authority in a folder.
    ///
    /// # Errors
    /// Returns an error if the folder contains no authority, or a file cannot be read.
    pub fn open(folder: &Path) -> Result<Self, IdentityError> {
        let (certificate_file, key_file) = Self::files(folder);
        let certificate = fs::read_to_string(&certificate_file).map_err(unusable(&certificate_file))?;
        let shown = certificate_file.display().to_string();
        let issuer = Issuer::from_ca_cert_pem(&certificate, key_pair(&key_file)?).map_err(failed(&shown))?;
        let cluster = cluster_of(&certificate)
            .ok_or_else(|| IdentityError::Certificate { what: shown, why: "it lacks the name of a cluster".into() })?;
        Ok(Self { issuer, certificate, cluster })
    }

    /// Returns the name of the cluster.
    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    /// Issues a certificate, and returns the certificate in PEM. The current time `now` is in milliseconds since 1970.
    ///
    /// # Errors
    /// Returns an error if a name, an address or a key is not valid in a certificate.
    pub fn issue(&self, request: &Request, now: i64) -> Result<String, IdentityError> {
        let Request { name, role, addresses, keys, lifetime } = request;
        may_be_named(name)?;
        let subject = Subject { cluster: self.cluster.clone(), role: *role, name: name.clone(), keys: *keys };
        let what = format!("the certificate of {name}");
        let mut names = vec![name.clone()];
        names.extend(addresses.iter().filter(|address| *address != name).cloned());
        let mut serial = [0_u8; 16];
        rustix::rand::getrandom(&mut serial, rustix::rand::GetRandomFlags::empty())
            .map_err(|error| IdentityError::Certificate { what: what.clone(), why: error.to_string() })?;
        // RFC 5280 requires that the serial number is positive.
        serial[0] &= 0x7f;
        let mut params = dated(CertificateParams::new(names).map_err(failed(&what))?, now, *lifetime);
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        params.subject_alt_names.push(SanType::URI(subject.url().try_into().map_err(failed(&what))?));
        params.distinguished_name.push(DnType::CommonName, name);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        if *role == Role::Node {
            params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
        }
        let key = SubjectPublicKeyInfo::from_der(&[&SPKI[..], &keys.sign[..]].concat()).map_err(failed(&what))?;
        Ok(params.signed_by(&key, &self.issuer).map_err(failed(&what))?.pem())
    }

    /// Renews a certificate. The new certificate has the names, the role and the keys of the old certificate, but
    /// expires later.
    ///
    /// # Errors
    /// Returns an error if another authority issued the certificate.
    pub fn renew(&self, file: &Path, lifetime: Duration, now: i64) -> Result<(Subject, String), IdentityError> {
        use rustls::pki_types::{CertificateDer, pem::PemObject as _};
        let wrong = |why: &str| IdentityError::Certificate { what: file.display().to_string(), why: why.to_owned() };
        let pem = fs::read(file).map_err(unusable(file))?;
        let der = CertificateDer::from_pem_slice(&pem).map_err(|error| wrong(&error.to_string()))?;
        // An expired certificate can be renewed. So an expired certificate is checked as of its last valid second.
        let good_at = validity(&der).map_or(now, |(_, end)| now.min((end - 1).saturating_mul(1000)));
        let trust = Trust::read(self.certificate.as_bytes(), "the authority")?;
        let subject = trust.subject(&der, good_at).ok_or_else(|| wrong("this authority did not issue it"))?;
        let (name, addresses) = (subject.name.clone(), addresses_of(&der));
        let request = Request { name, role: subject.role, addresses, keys: subject.keys, lifetime };
        let pem = self.issue(&request, now)?;
        Ok((subject, pem))
    }
}

/// Checks the name of a cluster, a node or a person. The name of a cluster, a node or a person must also be a valid
/// name of a Node object.
///
/// # Errors
/// Returns an error if the name is not valid.
pub fn may_be_named(name: &str) -> Result<(), IdentityError> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    if name.len() <= 253
        && name.bytes().all(allowed)
        && name.bytes().next().is_some_and(|first| first.is_ascii_alphanumeric())
    {
        return Ok(());
    }
    Err(IdentityError::Certificate {
        what: format!("{name:?} is not a valid name"),
        why: "use letters, digits, '-', '.' and '_', beginning with a letter or digit".into(),
    })
}

fn key_pair(file: &Path) -> Result<KeyPair, IdentityError> {
    let pem = fs::read_to_string(file).map_err(unusable(file))?;
    KeyPair::from_pkcs8_pem_and_sign_algo(&pem, &PKCS_ED25519)
        .map_err(|error| IdentityError::NoKey { file: file.to_owned(), why: error.to_string() })
}

fn dated(mut params: CertificateParams, now: i64, lifetime: Duration) -> CertificateParams {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let now = Duration::from_millis(u64::try_from(now).unwrap_or(0));
    params.not_before = epoch + now.saturating_sub(BEFORE);
    params.not_after = epoch + now + lifetime;
    params.use_authority_key_identifier_extension = true;
    params
}

fn cluster_of(pem: &str) -> Option<String> {
    use rustls::pki_types::{CertificateDer, pem::PemObject as _};
    use x509_parser::prelude::FromDer as _;
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).ok()?;
    let (_, certificate) = x509_parser::certificate::X509Certificate::from_der(&der).ok()?;
    certificate.subject().iter_organization().next()?.as_str().ok().map(str::to_owned)
}

fn addresses_of(der: &[u8]) -> Vec<String> {
    use x509_parser::prelude::{FromDer as _, GeneralName};
    let Ok((_, certificate)) = x509_parser::certificate::X509Certificate::from_der(der) else { return Vec::new() };
    let names = certificate.subject_alternative_name().ok().flatten();
    let names = names.map(|names| names.value.general_names.clone()).unwrap_or_default();
    let address = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => match bytes.len() {
            4 => <[u8; 4]>::try_from(*bytes).ok().map(|four| std::net::IpAddr::from(four).to_string()),
            _ => <[u8; 16]>::try_from(*bytes).ok().map(|sixteen| std::net::IpAddr::from(sixteen).to_string()),
        },
        _ => None,
    };
    names.iter().filter_map(address).collect()
}

/// Writes a certificate file. The function replaces an existing file atomically.
///
/// # Errors
/// Returns an error if the file cannot be written.
pub fn write_certificate(file: &Path, pem: &str) -> Result<(), IdentityError> {
    let beside = file.with_extension("crt.new");
    fs::write(&beside, pem).and_then(|()| fs::rename(&beside, file)).map_err(unusable(file))
}

/// Writes a new file. An existing file is an error.
fn write_new(file: &Path, bytes: &[u8]) -> Result<(), IdentityError> {
    let mut made = fs::OpenOptions::new().write(true).create_new(true).open(file).map_err(unusable(file))?;
    made.write_all(bytes).and_then(|()| made.sync_all()).map_err(unusable(file))
}

/// Decodes a certificate from base64, the form in signed records, to DER.
pub(super) fn decoded(text: &str) -> Option<Vec<u8>> {
    STANDARD.decode(text).ok()
}

/// Encodes a DER certificate as base64, the form in signed records.
pub(super) fn encoded(der: &[u8]) -> String {
    STANDARD.encode(der)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_790_000_000_000;
    const DAY: Duration = Duration::from_secs(24 * 3600);

    fn der(pem: &str) -> Vec<u8> {
        use rustls::pki_types::{CertificateDer, pem::PemObject as _};
        CertificateDer::from_pem_slice(pem.as_bytes()).unwrap().to_vec()
    }

    #[test]
    fn issued_certificate_is_recognized_and_renewal_keeps_the_identity() {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::init(folder.path(), "prod", NOW).unwrap();
        assert!(Authority::init(folder.path(), "prod", NOW).unwrap_err().to_string().contains("ca.crt"));
        let keys = Identity::make().unwrap().keys();
        let request = Request {
            name: "web1".into(),
            role: Role::Node,
            addresses: vec!["10.0.0.5".into(), "web1.example.org".into()],
            keys,
            lifetime: DAY,
        };
        let pem = authority.issue(&request, NOW).unwrap();
        let trust = Trust::read(authority.certificate.as_bytes(), "ca.crt").unwrap();
        let expected = Subject { cluster: "prod".into(), role: Role::Node, name: "web1".into(), keys };
        assert_eq!(trust.subject(&der(&pem), NOW), Some(expected.clone()));
        let later = NOW + 2 * 24 * 3600 * 1000;
        assert_eq!(trust.subject(&der(&pem), later), None, "it has run out");
        let file = folder.path().join("web1.crt");
        write_certificate(&file, &pem).unwrap();
        let (_, renewed) = authority.renew(&file, DAY, later).unwrap();
        assert_eq!(trust.subject(&der(&renewed), later), Some(expected));
        assert_eq!(addresses_of(&der(&renewed)), ["web1", "10.0.0.5", "web1.example.org"]);

        let evil = Request { name: "../evil".into(), ..request.clone() };
        assert!(authority.issue(&evil, NOW).unwrap_err().to_string().contains("is not a valid name"));
        let other = tempfile::tempdir().unwrap();
        let stranger = Authority::init(other.path(), "prod", NOW).unwrap().issue(&request, NOW).unwrap();
        assert_eq!(trust.subject(&der(&stranger), NOW), None, "another authority's");
        write_certificate(&file, &stranger).unwrap();
        assert!(authority.renew(&file, DAY, NOW).unwrap_err().to_string().contains("this authority did not issue"));
    }
}
