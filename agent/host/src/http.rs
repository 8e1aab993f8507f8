//! HTTP requests of tasks.

use std::{collections::BTreeMap, io::Read as _, path::Path, sync::Arc, time::Duration};

use thiserror::Error;

/// How much of an answer is kept.
const KEPT: u64 = 1 << 20;

/// A request.
#[derive(Debug, Clone)]
pub struct Request {
    /// The URL.
    pub url: String,
    /// The method.
    pub method: String,
    /// The body.
    pub body: Option<String>,
    /// The headers.
    pub headers: BTreeMap<String, String>,
    /// A file with the certificate authorities to trust; None: the machine's.
    pub ca_file: Option<String>,
    /// When to give up.
    pub timeout: Duration,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// The body, up to a megabyte.
    pub body: String,
    /// The headers, by their names in lower case.
    pub headers: BTreeMap<String, String>,
}

/// A request that got no answer.
#[derive(Debug, Error)]
#[error("{message}")]
pub struct HttpError {
    message: String,
}

fn failed(message: impl Into<String>) -> HttpError {
    HttpError { message: message.into() }
}

/// Sends a request and reads the answer.
///
/// # Errors
/// When there is no answer within the time.
pub fn send(request: &Request) -> Result<Response, HttpError> {
    let tls = tls(request.ca_file.as_deref())?;
    let client = reqwest::blocking::Client::builder()
        .tls_backend_preconfigured(tls)
        .timeout(request.timeout)
        .user_agent(concat!("towpath/", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(|error| failed(chain(&error)))?;
    let method = reqwest::Method::from_bytes(request.method.as_bytes()).map_err(|error| failed(error.to_string()))?;
    let mut builder = client.request(method, &request.url);
    for (name, value) in &request.headers {
        builder = builder.header(name, value);
    }
    if let Some(body) = &request.body {
        builder = builder.body(body.clone());
    }
    let response = builder.send().map_err(|error| failed(chain(&error)))?;
    let headers = response
        .headers()
        .iter()
        .map(|(name, value)| (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
        .collect();
    let status = response.status().as_u16();
    let mut bytes = Vec::new();
    response.take(KEPT).read_to_end(&mut bytes).map_err(|error| failed(format!("the answer broke off: {error}")))?;
    Ok(Response { status, body: String::from_utf8_lossy(&bytes).into_owned(), headers })
}

fn tls(ca_file: Option<&str>) -> Result<rustls::ClientConfig, HttpError> {
    use rustls::pki_types::{CertificateDer, pem::PemObject as _};
    let mut roots = rustls::RootCertStore::empty();
    match ca_file {
        Some(file) => {
            let certificates = CertificateDer::pem_file_iter(Path::new(file))
                .map_err(|error| failed(format!("caFile {file}: {error}")))?;
            for certificate in certificates {
                let certificate = certificate.map_err(|error| failed(format!("caFile {file}: {error}")))?;
                roots.add(certificate).map_err(|error| failed(format!("caFile {file}: {error}")))?;
            }
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| failed(error.to_string()))?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text.push_str(": ");
            text.push_str(&inner_text);
        }
        cause = inner.source();
    }
    text
}
