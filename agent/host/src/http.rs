//! HTTP requests of tasks.
//!
//! Rules for redirects:
//! - Headers and body are sent only to the scheme, host and port of the first URL.
//! - After a redirect to another scheme, host or port, headers and body are never sent again, even to the first host.
//! - A redirect from https to http is rejected.
//! - The user and the password in a Location header are ignored.

use std::{
    collections::BTreeMap,
    io::Read as _,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use thiserror::Error;

use crate::{Clock as _, SystemClock};

/// The maximum number of bytes that the agent keeps of a response body.
const BODY_KEPT: u64 = 1 << 20;
/// The maximum time that a download waits for the server's response, and then for each part of the response body.
const SILENCE: Duration = Duration::from_secs(60);
/// The maximum number of redirects of one request.
const REDIRECTS: usize = 10;

/// An HTTP request.
#[derive(Debug, Clone)]
pub struct Request {
    /// The URL of the request.
    pub url: String,
    /// The HTTP method, such as GET.
    pub method: String,
    /// The body of the request; `None` for a request without a body.
    pub body: Option<String>,
    /// The headers of the request.
    pub headers: BTreeMap<String, String>,
    /// The file with the trusted certificate authorities; `None` to trust the authorities of the machine.
    pub ca_file: Option<String>,
    /// The time limit of the whole request.
    pub timeout: Duration,
}

/// An HTTP response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// The HTTP status code.
    pub status: u16,
    /// The first 1 MiB of the response body.
    pub body: String,
    /// The headers of the response, by header name in lower case.
    pub headers: BTreeMap<String, String>,
}

/// The error that an HTTP request failed.
#[derive(Debug, Error)]
#[error("{message}")]
pub struct HttpError {
    message: String,
}

fn failed(message: impl Into<String>) -> HttpError {
    HttpError { message: message.into() }
}

/// Sends a request and reads the response.
///
/// # Errors
/// Returns an error if no complete response arrives within the time limit, or a redirect is rejected.
pub fn send(request: &Request) -> Result<Response, HttpError> {
    let client = client(request.ca_file.as_deref(), request.timeout)?;
    let deadline = SystemClock.monotonic() + request.timeout;
    let method = reqwest::Method::from_bytes(request.method.as_bytes()).map_err(|error| failed(error.to_string()))?;
    let response = follow(
        &client,
        &request.url,
        &request.headers,
        deadline,
        Sent { method, body: request.body.as_deref(), from: 0, timeout: request.timeout },
    )?;
    let headers = response
        .headers()
        .iter()
        .map(|(name, value)| (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
        .collect();
    let status = response.status().as_u16();
    let mut bytes = Vec::new();
    // `Fetched` checks the deadline on each read. A server that sends single bytes slowly cannot delay the task.
    let body = Fetched { resumes: false, deadline, response };
    body.take(BODY_KEPT)
        .read_to_end(&mut bytes)
        .map_err(|error| failed(format!("cannot read the response: {error}")))?;
    Ok(Response { status, body: String::from_utf8_lossy(&bytes).into_owned(), headers })
}

fn client(ca_file: Option<&str>, timeout: Duration) -> Result<reqwest::blocking::Client, HttpError> {
    reqwest::blocking::Client::builder()
        .tls_backend_preconfigured(tls(ca_file)?)
        .timeout(timeout)
        .referer(false)
        // `follow` applies the rules for redirects.
        .redirect(reqwest::redirect::Policy::none())
        .user_agent(concat!("towpath/", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(|error| failed(error_chain(&error)))
}

/// The error message for a request that reached its deadline.
const LATE: &str = "the request takes longer than the timeout of the task; raise the timeout";

/// A request that downloads a file over https.
#[derive(Debug, Clone)]
pub struct Fetch<'a> {
    /// The URL of the file.
    pub url: &'a str,
    /// The request headers.
    pub headers: &'a BTreeMap<String, String>,
    /// The file with the trusted certificate authorities; `None` to trust the authorities of the machine.
    pub ca_file: Option<&'a str>,
    /// The time limit of the whole transfer.
    pub timeout: Duration,
    /// The number of bytes that an earlier attempt has already downloaded.
    pub from: u64,
}

/// A download that has begun. Each read returns the next bytes of the response body.
#[derive(Debug)]
pub struct Fetched {
    /// True if the server sends only the missing end of the file; false if the server sends the whole file.
    pub resumes: bool,
    deadline: Instant,
    response: reqwest::blocking::Response,
}

impl Fetched {
    /// Returns the content length of the response; `None` if the response has no header `Content-Length`.
    pub fn length(&self) -> Option<u64> {
        self.response.content_length()
    }
}

impl std::io::Read for Fetched {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if SystemClock.monotonic() >= self.deadline {
            return Err(std::io::Error::other(LATE));
        }
        // The HTTP client has the same deadline, but the client's error does not mention a deadline.
        let late = |error| if SystemClock.monotonic() >= self.deadline { std::io::Error::other(LATE) } else { error };
        self.response.read(buffer).map_err(late)
    }
}

/// Requests a file. After an interrupted download, the client requests only the missing end of the file.
///
/// # Errors
/// Returns an error if the server does not send the file, the URL is not https, or a redirect is rejected.
pub fn fetch(fetch: &Fetch<'_>) -> Result<Fetched, HttpError> {
    if !fetch.url.starts_with("https://") {
        return Err(failed("files are fetched only over https; use an https URL"));
    }
    let timeout = fetch.timeout.min(SILENCE);
    let client = client(fetch.ca_file, timeout)?;
    let deadline = SystemClock.monotonic() + fetch.timeout;
    let get = |from| {
        let sent = Sent { method: reqwest::Method::GET, body: None, from, timeout };
        follow(&client, fetch.url, fetch.headers, deadline, sent)
    };
    let mut response = get(fetch.from)?;
    let mut resumes = fetch.from > 0 && is_rest(&response, fetch.from);
    if fetch.from > 0 && !resumes && response.status() != reqwest::StatusCode::OK {
        // The file on the server has changed since the earlier attempt, or the server does not support ranges.
        response = get(0)?;
        resumes = false;
    }
    if !response.status().is_success() || response.status() == reqwest::StatusCode::PARTIAL_CONTENT && !resumes {
        return Err(failed(format!("the server answered with status {}", response.status().as_u16())));
    }
    Ok(Fetched { resumes, deadline, response })
}

/// Returns true if the response contains only the requested end of the file.
fn is_rest(response: &reqwest::blocking::Response, from: u64) -> bool {
    let range = response.headers().get("content-range").and_then(|range| range.to_str().ok()).unwrap_or_default();
    response.status() == reqwest::StatusCode::PARTIAL_CONTENT && range.starts_with(&format!("bytes {from}-"))
}

/// The method, the body and the limits of an HTTP request.
#[derive(Debug, Clone)]
struct Sent<'a> {
    method: reqwest::Method,
    body: Option<&'a str>,
    /// The offset of the first requested byte.
    from: u64,
    /// The maximum time to wait for the response, and then for each part of the response body.
    timeout: Duration,
}

/// Sends a request, and follows at most ten redirects. A redirect to a forbidden URL is an error.
fn follow(
    client: &reqwest::blocking::Client,
    url: &str,
    headers: &BTreeMap<String, String>,
    deadline: Instant,
    mut sent: Sent<'_>,
) -> Result<reqwest::blocking::Response, HttpError> {
    let first = reqwest::Url::parse(url).map_err(|error| failed(format!("cannot parse the URL: {error}")))?;
    let mut url = first.clone();
    let mut left_origin = false;
    for _ in 0..=REDIRECTS {
        let mut builder = client.request(sent.method.clone(), url.clone());
        for (name, value) in headers.iter().filter(|_| !left_origin) {
            builder = builder.header(name, value);
        }
        if let Some(body) = sent.body.filter(|_| !left_origin) {
            builder = builder.body(body.to_owned());
        }
        if sent.from > 0 {
            builder = builder.header("range", format!("bytes={}-", sent.from));
        }
        let left = deadline.saturating_duration_since(SystemClock.monotonic());
        if left.is_zero() {
            return Err(failed(LATE));
        }
        // reqwest applies a request's time limit to the whole transfer, and the client's time limit to each read.
        let builder = if left < sent.timeout { builder.timeout(left) } else { builder };
        // The URL may contain a secret, so the error must not repeat it.
        let response = builder.send().map_err(|error| failed(error_chain(&error.without_url())))?;
        let Some(next) = next_url(&response, &url)? else { return Ok(response) };
        left_origin |= next.origin() != first.origin();
        url = target(next, (!left_origin).then_some(&first));
        if becomes_get(response.status().as_u16(), &sent.method) {
            sent = Sent { method: reqwest::Method::GET, body: None, ..sent };
        }
    }
    Err(failed(format!("the server redirects more than {REDIRECTS} times")))
}

/// Returns the URL of a redirect; `None` for a response that is not a redirect.
fn next_url(response: &reqwest::blocking::Response, url: &reqwest::Url) -> Result<Option<reqwest::Url>, HttpError> {
    if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
        return Ok(None);
    }
    let Some(location) = response.headers().get("location") else { return Ok(None) };
    let location = location.to_str().map_err(|_| failed("the server redirects to a URL that is not text"))?;
    allowed(url, location).map(Some)
}

/// Returns the URL in the header `Location` of a response. A redirect from https to http, or to any other scheme, is an
/// error.
fn allowed(url: &reqwest::Url, location: &str) -> Result<reqwest::Url, HttpError> {
    let next = url
        .join(location)
        .map_err(|error| failed(format!("the server redirects to a URL that is not valid: {error}")))?;
    match (url.scheme(), next.scheme()) {
        ("https", "http") => Err(failed("the server redirects from https to http, which is not followed")),
        (_, "http" | "https") if next.has_host() => Ok(next),
        (_, scheme) => {
            Err(failed(format!("the server redirects to the scheme {scheme}, but only http and https are allowed")))
        }
    }
}

/// Removes the user, the password and the fragment from a URL. If the URL `first` is given, the function copies the
/// user and the password from `first` into the result.
fn target(mut url: reqwest::Url, first: Option<&reqwest::Url>) -> reqwest::Url {
    // `set_username` and `set_password` fail only for URLs without a host.
    let _ = url.set_username(first.map_or("", reqwest::Url::username));
    let _ = url.set_password(first.and_then(reqwest::Url::password));
    url.set_fragment(None);
    url
}

/// Returns true if the client must follow a redirect with a GET request (RFC 9110, 15.4). As in browsers, a POST
/// becomes a GET after status 301 or 302.
fn becomes_get(status: u16, method: &reqwest::Method) -> bool {
    match status {
        301 | 302 => *method == reqwest::Method::POST,
        303 => *method != reqwest::Method::HEAD,
        _ => false,
    }
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

/// Returns the text of an error, followed by the texts of its causes.
fn error_chain(error: &dyn std::error::Error) -> String {
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

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead as _, BufReader, Write as _},
        net::TcpListener,
        sync::mpsc,
    };

    use super::*;

    /// Starts an HTTP server for a test. The server responds with the result of `answer`, and the receiver gets each
    /// request.
    fn server(answer: impl Fn(&str) -> String + Send + 'static) -> (u16, mpsc::Receiver<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (seen, requests) = mpsc::channel();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut reader = BufReader::new(stream.unwrap());
                let (mut head, mut length) = (String::new(), 0);
                loop {
                    let mut line = String::new();
                    reader.read_line(&mut line).unwrap();
                    if let Some(text) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                        length = text.trim().parse().unwrap();
                    }
                    if line.trim().is_empty() {
                        break;
                    }
                    head.push_str(&line);
                }
                let mut body = vec![0; length];
                reader.read_exact(&mut body).unwrap();
                let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
                let _ = seen.send(format!("{head}{}", String::from_utf8_lossy(&body)));
                reader.get_mut().write_all(answer(&path).as_bytes()).unwrap();
            }
        });
        (port, requests)
    }

    const DONE: &str = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";

    fn to(status: u16, location: &str) -> String {
        format!("HTTP/1.1 {status} X\r\nlocation: {location}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
    }

    fn post(url: String) -> Result<Response, HttpError> {
        send(&Request {
            url,
            method: "POST".into(),
            body: Some("of-the-first".into()),
            headers: [("x-api-key".to_owned(), "key-of-the-first".to_owned())].into(),
            ca_file: None,
            timeout: Duration::from_secs(10),
        })
    }

    #[test]
    fn another_origin_gets_neither_headers_nor_body_nor_password() {
        let (other, seen) = server(|_| DONE.into());
        for status in [301, 302, 303, 307, 308] {
            // A URL with another port, or with another name of the same machine, has another origin.
            for host in ["127.0.0.1", "localhost"] {
                let (first, _kept) = server(move |_| to(status, &format!("http://{host}:{other}/x")));
                assert_eq!(post(format!("http://me:word@127.0.0.1:{first}/")).unwrap().status, 200);
                let request = seen.recv().unwrap();
                assert!(
                    !request.contains("of-the-first") && !request.to_lowercase().contains("authorization"),
                    "{request}"
                );
                let method = if status < 304 { "GET" } else { "POST" };
                assert!(request.starts_with(method), "{status}: {request}");
            }
        }
    }

    #[test]
    fn same_origin_keeps_headers_body_and_password() {
        let (first, seen) = server(|path| if path == "/" { to(307, "/next#part") } else { DONE.into() });
        assert_eq!(post(format!("http://me:word@127.0.0.1:{first}/")).unwrap().status, 200);
        let both: Vec<String> = seen.iter().take(2).collect();
        assert!(both[1].starts_with("POST /next HTTP"), "{both:?}");
        for request in both {
            assert!(request.contains("key-of-the-first") && request.ends_with("of-the-first"), "{request}");
            assert!(request.to_lowercase().contains("authorization: basic"), "{request}");
        }
    }

    #[test]
    fn first_origin_gets_nothing_after_another_one_was_asked() {
        let (port, ports) = mpsc::channel::<u16>();
        let ports = std::sync::Mutex::new(ports);
        let (other, _kept) =
            server(move |_| to(307, &format!("http://127.0.0.1:{}/back", ports.lock().unwrap().recv().unwrap())));
        let (first, seen) =
            server(move |path| if path == "/" { to(307, &format!("http://127.0.0.1:{other}/")) } else { DONE.into() });
        port.send(first).unwrap();
        assert_eq!(post(format!("http://127.0.0.1:{first}/")).unwrap().status, 200);
        let both: Vec<String> = seen.iter().take(2).collect();
        assert!(both[0].contains("key-of-the-first") && !both[1].contains("of-the-first"), "{both:?}");
    }

    #[test]
    fn redirects_are_counted() {
        let (first, seen) = server(|_| to(302, "/again"));
        assert!(post(format!("http://127.0.0.1:{first}/")).is_err());
        assert_eq!(seen.try_iter().count(), REDIRECTS + 1);
    }

    #[test]
    fn redirect_without_location_is_the_answer() {
        let (first, _kept) = server(|_| "HTTP/1.1 302 X\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".into());
        assert_eq!(post(format!("http://127.0.0.1:{first}/")).unwrap().status, 302);
    }

    #[test]
    fn body_may_take_longer_than_the_wait_for_each_part() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = BufReader::new(&mut stream).read_line(&mut String::new());
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 12\r\n\r\n").unwrap();
            for _ in 0..12 {
                std::thread::sleep(Duration::from_millis(300));
                stream.write_all(b"x").unwrap();
            }
        });
        let timeout = Duration::from_secs(3);
        let sent = Sent { method: reqwest::Method::GET, body: None, from: 0, timeout };
        let deadline = SystemClock.monotonic() + Duration::from_secs(600);
        let client = client(None, timeout).unwrap();
        let response = follow(&client, &format!("http://127.0.0.1:{port}/"), &BTreeMap::new(), deadline, sent).unwrap();
        let mut bytes = Vec::new();
        Fetched { resumes: false, deadline, response }.read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes.len(), 12);
    }

    #[test]
    fn redirect_to_http_or_another_scheme_is_refused() {
        let https = reqwest::Url::parse("https://host/a/b").unwrap();
        for location in ["http://host/", "http://other/", "file:///etc/passwd", "ftp://host/", "data:x", "http:///"] {
            assert!(allowed(&https, location).is_err(), "{location}");
        }
        assert_eq!(allowed(&https, "//other:8443/c").unwrap().as_str(), "https://other:8443/c");
        assert_eq!(allowed(&https, "../c").unwrap().as_str(), "https://host/c");
        let http = reqwest::Url::parse("http://host/").unwrap();
        assert!(allowed(&http, "https://host/").is_ok() && allowed(&http, "gopher://host/").is_err());
        let bare = target(reqwest::Url::parse("https://me:word@other/#f").unwrap(), None);
        assert_eq!(bare.as_str(), "https://other/");
    }
}
