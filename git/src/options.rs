//! The options of a source: its location, credentials, verification and limits.

use std::{path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

/// The options of a source.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Options {
    /// The name of the source.
    pub name: String,
    /// The URL of the remote: https, http, ssh (also in scp form), file, or a local path.
    pub url: String,
    /// The ref that the source follows.
    pub reference: Reference,
    /// The path of the only folder that the source reads; empty if the source reads the whole repository.
    pub path: String,
    /// The credentials for the git server.
    pub auth: Auth,
    /// The signatures that commits must have.
    pub verify: VerifyOptions,
    /// True if the ref may move to a commit that does not descend from the accepted commit.
    pub allow_rewind: bool,
    /// The limits on the time and the size of requests to the remote.
    pub limits: Limits,
}

/// The ref that a source follows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reference {
    /// The name of a branch.
    Branch(String),
    /// The name of a tag, or a pattern such as `v1.*`. The source follows the matching tag with the highest semantic
    /// version.
    Tag(String),
    /// The full id of a commit.
    Commit(String),
}

/// The paths of the files with the credentials for the git server.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Auth {
    /// The file with the user name.
    pub username_file: Option<PathBuf>,
    /// The file with the password.
    pub password_file: Option<PathBuf>,
    /// The file with a bearer token.
    pub token_file: Option<PathBuf>,
    /// The file with a private key for ssh.
    pub ssh_key_file: Option<PathBuf>,
    /// The file with the trusted ssh host keys of the server.
    pub known_hosts_file: Option<PathBuf>,
    /// The file with the trusted certificate authorities.
    pub ca_file: Option<PathBuf>,
    /// The file with the client's TLS certificate.
    pub client_cert_file: Option<PathBuf>,
    /// The file with the key of the client's TLS certificate.
    pub client_key_file: Option<PathBuf>,
}

/// The signatures that commits must have.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifyOptions {
    /// The set of commits that must be signed.
    pub mode: VerifyMode,
    /// The paths of the node's files with OpenPGP keys or SSH `allowed_signers`.
    pub key_files: Vec<PathBuf>,
    /// The path of a file with further signers, relative to the folder that the source reads.
    pub signers: Option<String>,
}

/// The set of commits that must be signed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum VerifyMode {
    /// No commit must be signed.
    #[default]
    None,
    /// The head must be signed.
    Head,
    /// Along first parents, the head and every commit between the accepted commit and the head must be signed.
    Range,
}

/// The limits on the time and the size of requests to a remote.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// The time limit of a request for the refs of the remote.
    pub poll: Duration,
    /// The maximum time of a fetch.
    pub fetch: Duration,
    /// The maximum number of bytes that a fetch may receive.
    pub bytes: u64,
    /// The maximum size of one unpacked object, in bytes.
    pub object: u64,
    /// The maximum number of objects in a fetch.
    pub objects: u64,
    /// The maximum size of all unpacked objects of a fetch together, in bytes.
    pub inflated: u64,
    /// The memory limit of the process that fetches, in bytes.
    pub memory: u64,
    /// The maximum number of packs in a mirror. A mirror that reaches the maximum number of packs is replaced by a new
    /// mirror with one pack.
    pub packs: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            poll: Duration::from_secs(30),
            fetch: Duration::from_secs(600),
            bytes: 1 << 30,
            object: 256 << 20,
            objects: 1 << 20,
            inflated: 8 << 30,
            memory: 1 << 30,
            packs: 50,
        }
    }
}

impl Options {
    /// Returns the URL for messages, without user, password, query and fragment.
    pub fn display_url(&self) -> String {
        display_url(&self.url)
    }

    /// Returns true if the protocol of the URL protects the transferred files against changes in the network.
    pub fn transport_is_trusted(&self) -> bool {
        !self.url.starts_with("http://") && !self.url.starts_with("git://")
    }
}

/// Returns a URL without user, password, query and fragment, because each of these parts may contain a token.
pub fn display_url(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        // The scp form of ssh, or a local path.
        return url.to_owned();
    };
    let rest = rest.split(['?', '#']).next().unwrap_or_default();
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    format!("{scheme}://{host}{path}")
}

/// Applies [`display_url`] to each URL in a text, because errors of libraries may contain URLs.
pub fn without_secrets(text: &str) -> String {
    let mut shown = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let begin = rest[..at]
            .rfind(|c: char| !c.is_ascii_alphanumeric() && !"+-.".contains(c))
            .map_or(0, |before| before + rest[before..].chars().next().map_or(1, char::len_utf8));
        let ends = |c: char| c.is_whitespace() || c.is_control() || "\"'<>()[]{}`".contains(c);
        // An IPv6 address in brackets is part of the URL.
        let host = at + 3;
        let bracket = rest[host..].starts_with('[').then(|| rest[host..].find(']').map_or(0, |end| end + 1));
        let from = host + bracket.unwrap_or(0);
        let end = rest[from..].find(ends).map_or(rest.len(), |end| from + end);
        shown.push_str(&rest[..begin]);
        let url = &rest[begin..end];
        let shorter = url.trim_end_matches([':', '.']);
        shown.push_str(&display_url(shorter));
        shown.push_str(&url[shorter.len()..]);
        rest = &rest[end..];
    }
    shown.push_str(rest);
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn url_is_shown_without_user_password_query_and_fragment() {
        for (url, shown) in [
            ("https://git.example.org/a.git", "https://git.example.org/a.git"),
            ("https://u:p@git.example.org:8443/a.git?token=x#y", "https://git.example.org:8443/a.git"),
            ("https://git.example.org?token=x", "https://git.example.org"),
            ("https://git.example.org/a@b/c.git", "https://git.example.org/a@b/c.git"),
            ("https://u:p@x@h/a", "https://h/a"),
            ("ssh://git:p@[::1]:22/a?b", "ssh://[::1]:22/a"),
            ("git@h:a.git", "git@h:a.git"),
            ("/srv/a.git", "/srv/a.git"),
            ("file:///srv/a.git", "file:///srv/a.git"),
        ] {
            assert_eq!(display_url(url), shown);
        }
    }

    #[test]
    fn text_keeps_everything_but_the_secrets_of_its_urls() {
        for (text, shown) in [
            (
                "error sending request for url (https://u:s3cret@h/a?token=s3cret): refused",
                "error sending request for url (https://h/a): refused",
            ),
            ("cannot read \"http://h/a?b=s3cret\"", "cannot read \"http://h/a\""),
            ("a https://h/x?a=1,b=s3cret;c b ftp://s3cret@h/y c", "a https://h/x b ftp://h/y c"),
            ("at http://[::1]:80/a?s3cret: gone", "at http://[::1]:80/a: gone"),
            ("öhttps://s3cret@h", "öhttps://h"),
            ("no URL, 3:// and ://", "no URL, 3:// and ://"),
        ] {
            assert_eq!(without_secrets(text), shown);
            assert!(!without_secrets(text).contains("s3cret"));
        }
    }
}
