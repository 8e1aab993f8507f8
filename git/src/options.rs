//! What a source is and how it is reached.

use std::{path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

/// A source and how it is reached.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Options {
    /// Its name.
    pub name: String,
    /// Its URL: https, http, ssh (also scp form), file, or a local path.
    pub url: String,
    /// The ref to follow.
    pub reference: Reference,
    /// The folder of the repository that counts; empty: all of it.
    pub path: String,
    /// How the node proves itself.
    pub auth: Auth,
    /// Which signatures commits must carry.
    pub verify: VerifyOptions,
    /// Whether the ref may go back.
    pub allow_rewind: bool,
    /// What the remote may cost.
    pub limits: Limits,
}

/// The ref to follow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reference {
    /// A branch.
    Branch(String),
    /// A tag, or a pattern of semantic versions.
    Tag(String),
    /// A commit.
    Commit(String),
}

/// Files with what proves the node to the server.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Auth {
    /// The user name.
    pub username_file: Option<PathBuf>,
    /// The password.
    pub password_file: Option<PathBuf>,
    /// A bearer token.
    pub token_file: Option<PathBuf>,
    /// A private key for ssh.
    pub ssh_key_file: Option<PathBuf>,
    /// The host keys that the server may have.
    pub known_hosts_file: Option<PathBuf>,
    /// The certificate authorities of the server.
    pub ca_file: Option<PathBuf>,
    /// The client's certificate.
    pub client_cert_file: Option<PathBuf>,
    /// Its key.
    pub client_key_file: Option<PathBuf>,
}

/// Which signatures commits must carry.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifyOptions {
    /// How many commits.
    pub mode: VerifyMode,
    /// OpenPGP keys and SSH allowed_signers files on the node.
    pub key_files: Vec<PathBuf>,
    /// A file of the source that lists further signers.
    pub signers: Option<String>,
}

/// How many commits must be signed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum VerifyMode {
    /// None.
    #[default]
    None,
    /// The newest.
    Head,
    /// Every one from the accepted commit, along first parents.
    Range,
}

/// What a remote may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// How long an advertisement may take.
    pub poll: Duration,
    /// How long a fetch may take.
    pub fetch: Duration,
    /// How many bytes a fetch may bring.
    pub bytes: u64,
    /// The most bytes of one object, unpacked.
    pub object: u64,
    /// The most objects that a fetch may bring.
    pub objects: u64,
    /// The most bytes that a fetch may unpack, in all.
    pub inflated: u64,
    /// The memory that a fetch may use, in bytes.
    pub memory: u64,
    /// How many packs the mirror may have before it is made anew.
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
    /// The URL for messages: without user, password, query and fragment.
    pub fn shown_url(&self) -> String {
        shown_url(&self.url)
    }

    /// Whether the transport itself keeps others from changing what is sent.
    pub fn transport_is_trusted(&self) -> bool {
        !self.url.starts_with("http://") && !self.url.starts_with("git://")
    }
}

/// A URL for messages: without user, password, query and fragment, since tokens may be in any of them.
pub fn shown_url(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        // The form of scp, or a path.
        return url.to_owned();
    };
    let rest = rest.split(['?', '#']).next().unwrap_or_default();
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    format!("{scheme}://{host}{path}")
}

/// A text in which each URL is as [`shown_url`] has it: libraries put URLs into their errors.
pub fn without_secrets(text: &str) -> String {
    let mut shown = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let begin = rest[..at]
            .rfind(|c: char| !c.is_ascii_alphanumeric() && !"+-.".contains(c))
            .map_or(0, |before| before + rest[before..].chars().next().map_or(1, char::len_utf8));
        let ends = |c: char| c.is_whitespace() || c.is_control() || "\"'<>()[]{}`".contains(c);
        // An address in brackets belongs to the URL.
        let host = at + 3;
        let bracket = rest[host..].starts_with('[').then(|| rest[host..].find(']').map_or(0, |end| end + 1));
        let from = host + bracket.unwrap_or(0);
        let end = rest[from..].find(ends).map_or(rest.len(), |end| from + end);
        shown.push_str(&rest[..begin]);
        let url = &rest[begin..end];
        let shorter = url.trim_end_matches([':', '.']);
        shown.push_str(&shown_url(shorter));
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
            assert_eq!(shown_url(url), shown);
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
