//! Makes a TLS handshake to find out why an etcd member rejects this node's certificate.
//!
//! In TLS 1.3, the client sends its first request before the server has verified the client's certificate. If the
//! server rejects the certificate, the client often sees only a closed connection, without the alert that contains the
//! reason. This module gets the alert, because this module sends no request after the handshake.

use std::{io, sync::Arc, time::Duration};

use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
};
use tokio::{io::AsyncReadExt as _, net::TcpStream};
use tokio_rustls::TlsConnector;

use super::{access::Access, verdict::Said};

/// The time that this module waits for a member to reject the certificate.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(1);

/// Returns the error with which an etcd member rejects a TLS handshake. `None` if the member accepts the handshake or
/// does not answer.
pub(super) async fn refusal(endpoint: &str, access: &Access) -> Option<Said> {
    let authority = endpoint.strip_prefix("https://")?;
    let refused = tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake(authority, access)).await.ok()?.err()?;
    let said = Said::of(&refused);
    said.chain.contains("received fatal alert").then_some(said)
}

async fn handshake(authority: &str, access: &Access) -> io::Result<()> {
    let (host, address) = match authority.rsplit_once(':').filter(|(_, port)| !port.contains(']')) {
        Some((host, _)) => (host, authority.to_owned()),
        None => (authority, format!("{authority}:443")),
    };
    let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned()).map_err(io::Error::other)?;
    let config = config(access).map_err(io::Error::other)?;
    let stream = TcpStream::connect(address).await?;
    let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
    // A member that accepts the certificate sends its HTTP/2 settings.
    stream.read(&mut [0; 1]).await.map(drop)
}

fn config(access: &Access) -> Result<ClientConfig, Box<dyn std::error::Error + Send + Sync>> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(access.ca.as_deref().unwrap_or_default()) {
        roots.add(certificate?)?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots);
    let mut config = match &access.identity {
        Some((certificate, key)) => {
            let chain = CertificateDer::pem_slice_iter(certificate).collect::<Result<Vec<_>, _>>()?;
            builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(key)?)?
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols.push(b"h2".to_vec());
    Ok(config)
}
