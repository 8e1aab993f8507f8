//! HTTP requests of tasks.

use std::{
    collections::BTreeMap,
    io::Read as _,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use thiserror::Error;

use crate::{Clock as _, SystemClock};

/// How much of an answer is kept.
const KEPT: u64 = 1 << 20;
/// How long a server that is fetched from may say nothing.
const SILENCE: Duration = Duration::from_secs(60);
/// How many times it may lead on.
const REDIRECTS: usize = 10;

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
    let client = client(request.ca_file.as_deref(), request.timeout, false)?;
    let method = reqwest::Method::from_bytes(request.method.as_bytes()).map_err(|error| failed(error.to_string()))?;
    let mut builder = client.request(method, &request.url);
    for (name, value) in &request.headers {
        builder = builder.header(name, value);
    }
    if let Some(body) = &request.body {
        builder = builder.body(body.clone());
    }
    // A URL may open doors: it is not told again.
    let response = builder.send().map_err(|error| failed(chain(&error.without_url())))?;
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

fn client(ca_file: Option<&str>, timeout: Duration, https_only: bool) -> Result<reqwest::blocking::Client, HttpError> {
    reqwest::blocking::Client::builder()
        .tls_backend_preconfigured(tls(ca_file)?)
        .timeout(timeout)
        .https_only(https_only)
        .referer(false)
        // Where a file is fetched from is followed step by step.
        .redirect(if https_only { reqwest::redirect::Policy::none() } else { reqwest::redirect::Policy::default() })
        .user_agent(concat!("towpath/", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(|error| failed(chain(&error)))
}

/// A file to fetch over https.
#[derive(Debug, Clone)]
pub struct Fetch<'a> {
    /// The URL.
    pub url: &'a str,
    /// The headers.
    pub headers: &'a BTreeMap<String, String>,
    /// A file with the certificate authorities to trust; None: the machine's.
    pub ca_file: Option<&'a str>,
    /// When to give up.
    pub timeout: Duration,
    /// How many of its bytes are there already.
    pub from: u64,
}

/// A file that comes.
#[derive(Debug)]
pub struct Fetched {
    /// Whether it goes on behind the bytes that are there; else it comes from its beginning.
    pub goes_on: bool,
    deadline: Instant,
    response: reqwest::blocking::Response,
}

impl Fetched {
    /// How many bytes are to come, where the server says so.
    pub fn length(&self) -> Option<u64> {
        self.response.content_length()
    }
}

impl std::io::Read for Fetched {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if SystemClock.monotonic() >= self.deadline {
            return Err(std::io::Error::other("it takes longer than the task may; timeout sets more"));
        }
        self.response.read(buffer)
    }
}

/// Asks for a file, and for its rest where a part of it is there.
///
/// # Errors
/// When the server does not give it, or is led to from or by anything but https.
pub fn fetch(fetch: &Fetch<'_>) -> Result<Fetched, HttpError> {
    let client = client(fetch.ca_file, fetch.timeout.min(SILENCE), true)?;
    let deadline = SystemClock.monotonic() + fetch.timeout;
    let mut response = follow(&client, fetch, fetch.from)?;
    let mut goes_on = fetch.from > 0 && is_rest(&response, fetch.from);
    if fetch.from > 0 && !goes_on && response.status() != reqwest::StatusCode::OK {
        // What is there is no part of what the server has, or the server does not know parts.
        response = follow(&client, fetch, 0)?;
        goes_on = false;
    }
    if !response.status().is_success() || response.status() == reqwest::StatusCode::PARTIAL_CONTENT && !goes_on {
        return Err(failed(format!("the server answered with status {}", response.status().as_u16())));
    }
    Ok(Fetched { goes_on, deadline, response })
}

/// Whether an answer is what was asked for from this byte on.
fn is_rest(response: &reqwest::blocking::Response, from: u64) -> bool {
    let range = response.headers().get("content-range").and_then(|range| range.to_str().ok()).unwrap_or_default();
    response.status() == reqwest::StatusCode::PARTIAL_CONTENT && range.starts_with(&format!("bytes {from}-"))
}

/// Asks, and goes where the server says, a few times; another server is not told the headers that were for the first.
fn follow(
    client: &reqwest::blocking::Client,
    fetch: &Fetch<'_>,
    from: u64,
) -> Result<reqwest::blocking::Response, HttpError> {
    let first = reqwest::Url::parse(fetch.url).map_err(|error| failed(format!("the URL can't be read: {error}")))?;
    let mut url = first.clone();
    for _ in 0..REDIRECTS {
        let mut builder = client.get(url.clone());
        for (name, value) in fetch.headers.iter().filter(|_| url.origin() == first.origin()) {
            builder = builder.header(name, value);
        }
        if from > 0 {
            builder = builder.header("range", format!("bytes={from}-"));
        }
        let response = builder.send().map_err(|error| failed(chain(&error.without_url())))?;
        if !response.status().is_redirection() {
            return Ok(response);
        }
        let to = response.headers().get("location").and_then(|to| to.to_str().ok()).unwrap_or_default();
        url = url.join(to).map_err(|error| failed(format!("the server leads to nowhere: {error}")))?;
    }
    Err(failed(format!("the server leads on more than {REDIRECTS} times")))
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
