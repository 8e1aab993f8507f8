//! The options of the HTTP transport: TLS settings and headers.

use std::{
    any::Any,
    fs,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use gix::protocol::transport::client::blocking_io::http;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};

use crate::{Auth, Options, SourceError};

fn settings(message: impl Into<String>) -> SourceError {
    SourceError::Settings { message: message.into() }
}

/// Returns true if the scheme of a URL is http or https.
pub(crate) fn is_http(url: &str) -> bool {
    url.starts_with("http://") || url.starts_with("https://")
}

/// Returns the options of the HTTP transport: the TLS settings, and a header with the credentials for all requests.
pub(crate) fn http_options(options: &Options, time: Duration) -> Result<Box<dyn Any>, SourceError> {
    let tls = tls(&options.auth)?;
    let configure_client = move |builder: reqwest::blocking::ClientBuilder| {
        Ok(builder.tls_backend_preconfigured(tls.clone()).timeout(time).connect_timeout(Duration::from_secs(15)))
    };
    let backend =
        http::reqwest::Options { configure_client: Some(Box::new(configure_client)), configure_request: None };
    let transport = http::Options {
        extra_headers: authorization(options)?.into_iter().collect(),
        // A redirect could carry the credentials to another host.
        follow_redirects: http::options::FollowRedirects::None,
        backend: Some(Arc::new(Mutex::new(backend))),
        user_agent: Some(concat!("git/2 towpath/", env!("CARGO_PKG_VERSION")).to_owned()),
        ..http::Options::default()
    };
    Ok(Box::new(transport))
}

fn authorization(options: &Options) -> Result<Option<String>, SourceError> {
    let auth = &options.auth;
    if let Some(file) = &auth.token_file {
        return Ok(Some(format!("Authorization: Bearer {}", secret("tokenFile", file)?)));
    }
    let Some(password_file) = &auth.password_file else { return Ok(None) };
    let user = match &auth.username_file {
        Some(file) => secret("usernameFile", file)?,
        None => "git".to_owned(),
    };
    let both = format!("{user}:{}", secret("passwordFile", password_file)?);
    Ok(Some(format!("Authorization: Basic {}", BASE64_STANDARD.encode(both))))
}

/// Reads a secret from a file, without its trailing newline.
fn secret(setting: &str, file: &Path) -> Result<String, SourceError> {
    let text =
        fs::read_to_string(file).map_err(|error| settings(format!("auth.{setting} {}: {error}", file.display())))?;
    let text = text.trim_end_matches(['\n', '\r']);
    if text.contains(['\n', '\r']) {
        return Err(settings(format!("`auth.{setting}`: the file {} has more than one line", file.display())));
    }
    Ok(text.to_owned())
}

fn tls(auth: &Auth) -> Result<rustls::ClientConfig, SourceError> {
    let mut roots = rustls::RootCertStore::empty();
    match &auth.ca_file {
        Some(file) => {
            for certificate in certificates("caFile", file)? {
                roots.add(certificate).map_err(|error| settings(format!("auth.caFile {}: {error}", file.display())))?;
            }
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| settings(error.to_string()))?
        .with_root_certificates(roots);
    match (&auth.client_cert_file, &auth.client_key_file) {
        (Some(cert), Some(key)) => {
            let chain = certificates("clientCertFile", cert)?;
            let key = PrivateKeyDer::from_pem_file(key)
                .map_err(|error| settings(format!("auth.clientKeyFile {}: {error}", key.display())))?;
            builder.with_client_auth_cert(chain, key).map_err(|error| settings(format!("auth.clientCertFile: {error}")))
        }
        (None, None) => Ok(builder.with_no_client_auth()),
        _ => Err(settings("auth.clientCertFile and auth.clientKeyFile belong together; set both or neither")),
    }
}

fn certificates(setting: &str, file: &Path) -> Result<Vec<CertificateDer<'static>>, SourceError> {
    let wrong = |error: &dyn std::fmt::Display| settings(format!("auth.{setting} {}: {error}", file.display()));
    let read = CertificateDer::pem_file_iter(file).map_err(|error| wrong(&error))?;
    let all = read.collect::<Result<Vec<_>, _>>().map_err(|error| wrong(&error))?;
    if all.is_empty() {
        return Err(wrong(&"the file contains no certificate"));
    }
    Ok(all)
}
