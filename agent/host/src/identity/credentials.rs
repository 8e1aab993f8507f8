//! The TLS credentials of a node: the node's certificate, the secret key of the certificate, and the trusted authority.
//! The agent reloads the credentials when a credential file changes.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use rustls::{
    ClientConfig, ServerConfig,
    client::Resumption,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::NoServerSessionStorage,
};

use super::{Identity, IdentityError, Revoked, Subject, Trust, unusable};
use crate::Clock;

/// The minimum time between two checks for changed credential files.
const LOOK: Duration = Duration::from_secs(1);

/// The paths of three credential files: the node's certificate, the node's secret key and the authority's certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The file with the certificate of the authority.
    pub ca: PathBuf,
    /// The file with the certificate of this node.
    pub cert: PathBuf,
    /// The file with the secret key of the node's certificate. The agent derives the node's identity from the secret
    /// key.
    pub key: PathBuf,
}

/// The certificates and keys that the process has loaded from the credential files.
#[derive(Debug)]
pub struct Loaded {
    /// The trusted certificate authority.
    pub trust: Trust,
    /// The subject of the node's certificate.
    pub subject: Subject,
    /// The node's certificate, in DER.
    pub certificate: Vec<u8>,
    /// The time at which the node's certificate expires, in seconds since 1970.
    pub not_after: i64,
    /// The secret keys of the node.
    pub identity: Arc<Identity>,
    /// The TLS settings for incoming connections.
    pub server: Arc<ServerConfig>,
    /// The TLS settings for outgoing connections.
    pub client: Arc<ClientConfig>,
}

type Stamp = Vec<Option<(SystemTime, u64)>>;

/// The TLS credentials of the running process. If the credential files change, the process uses the new files within a
/// second.
#[derive(Debug)]
pub struct Credentials {
    files: TlsFiles,
    clock: Arc<dyn Clock>,
    revoked: Revoked,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    loaded: Arc<Loaded>,
    stamp: Stamp,
    looked: Instant,
}

impl Credentials {
    /// Loads the credentials from the files.
    ///
    /// # Errors
    /// Returns an error if a file cannot be read, or the certificate, the key and the authority do not match.
    pub fn read(files: TlsFiles, clock: Arc<dyn Clock>) -> Result<Self, IdentityError> {
        let stamp = stamp(&files);
        let loaded = Arc::new(load(&files, &*clock)?);
        let looked = clock.monotonic();
        Ok(Self { files, clock, revoked: Revoked::default(), state: Mutex::new(State { loaded, stamp, looked }) })
    }

    /// Returns the list of revoked certificates and keys.
    pub fn revoked(&self) -> &Revoked {
        &self.revoked
    }

    /// Returns the current credentials. If a credential file has changed, the function first loads all credential files
    /// again.
    ///
    /// If the new credential files do not match each other, the agent logs a warning and keeps the previous
    /// credentials.
    pub fn now(&self) -> Arc<Loaded> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.clock.monotonic();
        if now.duration_since(state.looked) < LOOK {
            return Arc::clone(&state.loaded);
        }
        state.looked = now;
        let stamp = stamp(&self.files);
        if stamp != state.stamp {
            match load(&self.files, &*self.clock) {
                Ok(loaded) => {
                    tracing::info!(name = loaded.subject.name, "loaded the new certificate");
                    state.loaded = Arc::new(loaded);
                    state.stamp = stamp;
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot use the new certificate; the agent keeps the previous certificate")
                }
            }
        }
        Arc::clone(&state.loaded)
    }
}

fn stamp(files: &TlsFiles) -> Stamp {
    let of = |file: &Path| fs::metadata(file).ok().and_then(|meta| Some((meta.modified().ok()?, meta.len())));
    [&files.ca, &files.cert, &files.key].into_iter().map(|file| of(file)).collect()
}

fn load(files: &TlsFiles, clock: &dyn Clock) -> Result<Loaded, IdentityError> {
    let read = |file: &Path| fs::read(file).map_err(unusable(file));
    let shown = files.cert.display().to_string();
    let wrong = |why: String| IdentityError::Certificate { what: shown.clone(), why };
    let trust = Trust::read(&read(&files.ca)?, &files.ca.display().to_string())?;
    let certificate =
        CertificateDer::from_pem_slice(&read(&files.cert)?).map_err(|error| wrong(error.to_string()))?.into_owned();
    let key = read(&files.key)?;
    let identity = Identity::from_pem(&String::from_utf8_lossy(&key), &files.key)?;
    // With an expired certificate or a wrong clock, the node must still be able to correct itself. So the agent only
    // logs a warning. Other nodes reject the certificate.
    let (begin, end) = super::certificate::validity(&certificate).unwrap_or((0, 0));
    let now = clock.wall() / 1000;
    if now < begin || now >= end {
        tracing::warn!(
            certificate = shown,
            "the certificate is not valid at the time of this machine's clock, so other nodes reject it; set the clock, or renew the certificate (towpath pki renew)"
        );
    }
    let good_at = now.clamp(begin, (end - 1).max(begin)).saturating_mul(1000);
    let subject = trust.subject(&certificate, good_at).ok_or_else(|| {
        wrong(format!(
            "the authority {} did not issue this certificate; issue a certificate with `towpath pki issue`",
            files.ca.display()
        ))
    })?;
    if subject.keys != identity.keys() {
        return Err(wrong(format!("the certificate in this file does not belong to the key {}", files.key.display())));
    }
    let key = PrivateKeyDer::from_pem_slice(&key).map_err(|error| wrong(error.to_string()))?;
    let tls = |error: rustls::Error| wrong(error.to_string());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let versions = &[&rustls::version::TLS13];
    let chain = vec![certificate.clone()];
    let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(versions)
        .map_err(tls)?
        .with_client_cert_verifier(trust.verifier())
        .with_single_cert(chain.clone(), key.clone_key())
        .map_err(tls)?;
    server.alpn_protocols = vec![b"h2".to_vec()];
    // Session resumption is off, so that every connection presents its certificate: the certificate may have expired.
    server.session_storage = Arc::new(NoServerSessionStorage {});
    server.send_tls13_tickets = 0;
    let mut client = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .map_err(tls)?
        .with_root_certificates(Arc::clone(&trust.roots))
        .with_client_auth_cert(chain, key)
        .map_err(tls)?;
    client.alpn_protocols = vec![b"h2".to_vec()];
    client.resumption = Resumption::disabled();
    Ok(Loaded {
        trust,
        subject,
        certificate: certificate.to_vec(),
        not_after: end,
        identity: Arc::new(identity),
        server: Arc::new(server),
        client: Arc::new(client),
    })
}

impl Loaded {
    /// Returns the node's certificate in base64, the form that signed records contain.
    pub fn encoded(&self) -> String {
        super::issue::encoded(&self.certificate)
    }
}
