//! The settings of an etcd cluster, and the URLs of its members.

use std::{net::Ipv6Addr, path::PathBuf};

/// The settings of the etcd cluster, as written in the bootstrap file.
#[derive(Debug, Clone, Default)]
pub struct EtcdSettings {
    /// The URLs of the etcd members.
    pub endpoints: Vec<String>,
    /// The file with the certificate authority of the etcd members.
    pub ca_file: Option<PathBuf>,
    /// The file with the certificate of the node.
    pub cert_file: Option<PathBuf>,
    /// The file with the private key of the certificate.
    pub key_file: Option<PathBuf>,
    /// The file with the user name for etcd.
    pub username_file: Option<PathBuf>,
    /// The file with the password for etcd.
    pub password_file: Option<PathBuf>,
}

/// The parsed URL of an etcd member.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Endpoint {
    /// True if the endpoint is used without TLS.
    pub(super) plain: bool,
    /// The host and the port of the endpoint, in lower case.
    pub(super) authority: String,
}

/// Checks the URL of an etcd member. The error text is the end of a sentence that begins with "the endpoint".
pub(super) fn endpoint(text: &str) -> Result<Endpoint, &'static str> {
    let (plain, rest) = match text.split_once("://") {
        Some(("http", rest)) => (true, rest),
        Some(("https", rest)) => (false, rest),
        Some(_) => return Err("has another scheme than http or https"),
        None => return Err("has no scheme"),
    };
    let authority = rest.strip_suffix('/').unwrap_or(rest);
    if authority.contains('@') {
        return Err("has credentials in it; name usernameFile and passwordFile instead");
    }
    if authority.contains(['/', '?', '#']) {
        return Err("has a path, which an etcd endpoint must not have");
    }
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']').ok_or("has a [ without a ]")?;
            host.parse::<Ipv6Addr>().map_err(|_| "has no IPv6 address in its brackets")?;
            let port = port.strip_prefix(':').map(Some).or(port.is_empty().then_some(None));
            (host, port.ok_or("has something between ] and its port")?)
        }
        None => match authority.split_once(':') {
            Some((_, port)) if port.contains(':') => return Err("has an IPv6 address without brackets"),
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        },
    };
    if host.is_empty() {
        return Err("has no host");
    }
    let allowed = |letter: char| letter.is_ascii_alphanumeric() || "-._:".contains(letter);
    if !host.chars().all(allowed) {
        return Err("has a character that is not allowed in a host name");
    }
    let digits = |port: &str| port.bytes().all(|byte| byte.is_ascii_digit());
    match port {
        Some(port) if !digits(port) || port.parse::<u16>().unwrap_or(0) == 0 => {
            Err("has a port that is not a number from 1 to 65535")
        }
        _ => Ok(Endpoint { plain, authority: authority.to_ascii_lowercase() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_of_etcd_are_accepted() {
        for text in [
            "http://127.0.0.1:2379",
            "https://etcd1.example.org:2379",
            "https://etcd1.example.org:2379/",
            "https://etcd-1",
            "http://[::1]:2379",
            "https://[2001:db8::7]:2379",
            "https://[::1]",
        ] {
            assert_eq!(endpoint(text).map(|endpoint| endpoint.plain), Ok(text.starts_with("http:")), "{text}");
        }
    }

    #[test]
    fn malformed_endpoints_are_refused() {
        for text in [
            "",
            "127.0.0.1:2379",
            "etcd1:2379",
            "localhost",
            "://etcd1:2379",
            "htps://etcd1:2379",
            "HTTPS://etcd1:2379",
            "ftp://etcd1",
            "unix:///run/etcd.sock",
            "https://",
            "https://:2379",
            "https:/etcd1:2379",
            "https://etcd1:",
            "https://etcd1:0",
            "https://etcd1:65536",
            "https://etcd1:+23",
            "https://etcd1:port",
            "https://etcd1:2379/v3",
            "https://etcd1:2379?x",
            "https://user:password@etcd1:2379",
            "https://etcd 1:2379",
            "https://etcd1:2379,https://etcd2:2379",
            "https://::1:2379",
            "https://[::1:2379",
            "https://[etcd1]:2379",
            "https://[::1]2379",
            "https://etcd\n1:2379",
        ] {
            assert!(endpoint(text).is_err(), "{text:?}");
        }
    }
}
