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
    /// The URL without a password, for messages.
    pub fn shown_url(&self) -> String {
        match self.url.split_once("://") {
            Some((scheme, rest)) => {
                let (authority, path) =
                    rest.split_once('/').map_or((rest, None), |(authority, path)| (authority, Some(path)));
                let host = authority.rsplit_once('@').map_or(authority.to_owned(), |(user, host)| {
                    let user = user.split(':').next().unwrap_or_default();
                    if scheme.starts_with("http") { host.to_owned() } else { format!("{user}@{host}") }
                });
                path.map_or_else(|| format!("{scheme}://{host}"), |path| format!("{scheme}://{host}/{path}"))
            }
            None => self.url.clone(),
        }
    }

    /// Whether the transport itself keeps others from changing what is sent.
    pub fn transport_is_trusted(&self) -> bool {
        !self.url.starts_with("http://") && !self.url.starts_with("git://")
    }
}
