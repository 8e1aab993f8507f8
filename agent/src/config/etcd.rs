//! Resolves the data store of a bootstrap file: the endpoints of etcd, and the files for access to etcd.

use std::{collections::BTreeSet, fs, net::Ipv6Addr, path::Path, path::PathBuf, sync::Arc};

use towpath_coordination::store::etcd::{Access, EtcdOptions};
use towpath_host::identity::valid_until;
use towpath_proto::v1alpha as pb;
use towpath_render::problem::Finding;

use super::{ConfigError, DataStore};

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

impl EtcdSettings {
    /// Returns the options of the etcd store. The files are read now, so that mistakes are reported early. The files
    /// are read again for each connection, so that renewed files take effect without a restart.
    ///
    /// # Errors
    /// Fails if a file cannot be read.
    pub fn options(&self, node: &str, cluster: &str) -> Result<EtcdOptions, ConfigError> {
        self.read()?;
        let settings = self.clone();
        let access = move || settings.read().map_err(|error| in_full(&error));
        Ok(EtcdOptions {
            node: node.to_owned(),
            endpoints: self.endpoints.clone(),
            prefix: format!("/towpath/{cluster}/"),
            access: Arc::new(access),
        })
    }

    fn read(&self) -> Result<Access, ConfigError> {
        let bytes = |file: &Option<PathBuf>| file.as_deref().map(read).transpose();
        let text = |file: &Option<PathBuf>| {
            Ok(bytes(file)?.map(|bytes| String::from_utf8_lossy(&bytes).trim_end_matches(['\n', '\r']).to_owned()))
        };
        let identity = bytes(&self.cert_file)?.zip(bytes(&self.key_file)?);
        Ok(Access {
            ca: bytes(&self.ca_file)?,
            valid_until: identity.as_ref().and_then(|(certificate, _)| valid_until(certificate)),
            identity,
            user: text(&self.username_file)?.zip(text(&self.password_file)?),
        })
    }
}

fn read(file: &Path) -> Result<Vec<u8>, ConfigError> {
    fs::read(file).map_err(|source| ConfigError::Unreadable { file: file.to_owned(), source })
}

/// Returns the text of an error, including its cause.
fn in_full(error: &ConfigError) -> String {
    match error {
        ConfigError::Unreadable { file, source } => format!("cannot read {}: {source}", file.display()),
        other => other.to_string(),
    }
}

/// Resolves a data store as written in the bootstrap file.
pub(super) fn data_store(written: &pb::DataStore) -> Result<DataStore, Finding> {
    if written.r#type.as_deref() != Some("etcd") {
        return Ok(DataStore::Local);
    }
    if written.endpoints.is_empty() {
        return Err(Finding::new("etcd needs endpoints").hint("write endpoints: [https://etcd1:2379, …]"));
    }
    let pairs = [
        ("certFile", "keyFile", &written.cert_file, &written.key_file),
        ("usernameFile", "passwordFile", &written.username_file, &written.password_file),
    ];
    for (one, other, first, second) in pairs {
        if first.is_some() != second.is_some() {
            return Err(Finding::new(format!("{one} and {other} must be given together")).hint("give both, or neither"));
        }
    }
    let tls = written.ca_file.is_some() || written.cert_file.is_some();
    let mut seen = BTreeSet::new();
    for written in &written.endpoints {
        let endpoint = endpoint(written)
            .map_err(|why| Finding::new(format!("the endpoint {written:?} {why}")).hint("write https://HOST:2379"))?;
        if tls && endpoint.plain {
            return Err(Finding::new(format!("the endpoint {written:?} has no TLS, but caFile or certFile is given"))
                .hint("write https://, or leave the files out"));
        }
        if !seen.insert(endpoint.authority) {
            return Err(Finding::new(format!("the endpoint {written:?} is given twice")).hint("keep one of them"));
        }
    }
    let path = |file: &Option<String>| file.as_ref().map(PathBuf::from);
    Ok(DataStore::Etcd(Box::new(EtcdSettings {
        endpoints: written.endpoints.iter().map(|endpoint| endpoint.trim_end_matches('/').to_owned()).collect(),
        ca_file: path(&written.ca_file),
        cert_file: path(&written.cert_file),
        key_file: path(&written.key_file),
        username_file: path(&written.username_file),
        password_file: path(&written.password_file),
    })))
}

/// The parsed URL of an etcd member.
#[derive(Debug, PartialEq, Eq)]
struct Endpoint {
    /// True if the endpoint is used without TLS.
    plain: bool,
    /// The host and the port of the endpoint, in lower case.
    authority: String,
}

/// Checks the URL of an etcd member. The error text completes the sentence "the endpoint …".
fn endpoint(text: &str) -> Result<Endpoint, &'static str> {
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

    #[test]
    fn endpoints_must_fit_the_files_and_each_other() {
        let etcd = |endpoints: &[&str], ca: Option<&str>| {
            data_store(&pb::DataStore {
                r#type: Some("etcd".into()),
                endpoints: endpoints.iter().map(|endpoint| (*endpoint).to_owned()).collect(),
                ca_file: ca.map(str::to_owned),
                ..pb::DataStore::default()
            })
        };
        assert!(etcd(&["https://a:1", "https://b:1"], Some("/ca")).is_ok());
        assert!(etcd(&["http://a:1", "http://b:1"], None).is_ok());
        for (endpoints, ca) in [
            (&[][..], None),
            (&["https://a:1", "http://b:1"], Some("/ca")),
            (&["https://a:1", "https://A:1/"], Some("/ca")),
            (&["https://a:1", "b:1"], None),
        ] {
            assert!(etcd(endpoints, ca).is_err(), "{endpoints:?}");
        }
    }
}
