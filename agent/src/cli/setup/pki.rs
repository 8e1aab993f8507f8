//! `towpath pki`: the cluster's certificate authority, and certificates for nodes, viewers and operators.

use std::{fmt::Write as _, path::PathBuf, time::Duration};

use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;
use towpath_host::{
    Clock as _, SystemClock,
    identity::{self, Authority, Identity, IdentityError, PublicKeys, Request},
};

use crate::cli::{
    exit::Failure,
    output::{self, Output},
};

/// Makes and renews certificates.
#[derive(Debug, Args)]
pub(in crate::cli) struct Pki {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Create the cluster's certificate authority, once; keep the folder unreadable for all nodes
    Init(Init),
    /// Create a certificate for a node, a viewer or an operator
    Issue(Issue),
    /// Renew a certificate before it expires, with the same names, role and identity
    Renew(Renew),
}

#[derive(Debug, Args)]
struct Init {
    /// The folder of the authority
    #[arg(long, default_value = "pki")]
    dir: PathBuf,
    /// The cluster, as in agent.yaml
    #[arg(long, default_value = "default")]
    cluster: String,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Args)]
struct Issue {
    /// The name of the node, or of the person
    name: String,
    /// The folder of the certificate authority
    #[arg(long, default_value = "pki")]
    dir: PathBuf,
    /// The role of the certificate
    #[arg(long, value_enum, default_value = "node")]
    role: Role,
    /// An additional name or address of the node; the option can be repeated
    #[arg(long = "address", value_name = "HOST")]
    addresses: Vec<String>,
    /// The validity in days
    #[arg(long, default_value_t = 365, value_parser = clap::value_parser!(u32).range(1..=3650))]
    days: u32,
    /// The two public keys of the node's identity, as in Node.publicKeys. Default: a new identity
    #[arg(long = "public-key", value_name = "KIND:KEY")]
    public_keys: Vec<String>,
    /// The folder for NAME.crt and NAME.key. Default: the folder of the authority
    #[arg(long)]
    out: Option<PathBuf>,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Args)]
struct Renew {
    /// The certificate to overwrite
    certificate: PathBuf,
    /// The folder of the authority
    #[arg(long, default_value = "pki")]
    dir: PathBuf,
    /// The validity in days
    #[arg(long, default_value_t = 365, value_parser = clap::value_parser!(u32).range(1..=3650))]
    days: u32,
    #[command(flatten)]
    output: Output,
}

/// The rights of a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Role {
    /// Act as a node, and read the state of the fleet
    Node,
    /// Read
    Viewer,
    /// Read the state of the fleet, and start runs that a commit defines
    Operator,
}

impl From<Role> for identity::Role {
    fn from(role: Role) -> Self {
        match role {
            Role::Node => Self::Node,
            Role::Viewer => Self::Viewer,
            Role::Operator => Self::Operator,
        }
    }
}

/// The output of a `pki` command: the written files, and the contents of the certificate.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Written {
    cluster: String,
    name: Option<String>,
    role: Option<&'static str>,
    /// The serial number of the certificate, in the form that `revoked` of a Config object uses.
    serial: Option<String>,
    public_keys: Vec<String>,
    ca_file: PathBuf,
    cert_file: Option<PathBuf>,
    key_file: Option<PathBuf>,
}

impl Pki {
    pub(in crate::cli) fn run(self) -> Result<u8, Failure> {
        let now = SystemClock.wall();
        match self.command {
            Command::Init(init) => init.run(now),
            Command::Issue(issue) => issue.run(now),
            Command::Renew(renew) => renew.run(now),
        }
    }
}

fn days(number: u32) -> Duration {
    Duration::from_secs(u64::from(number) * 24 * 3600)
}

fn print(format: &Output, written: &Written, what: &str) -> Result<u8, Failure> {
    output::print(format.output, written, || {
        let mut text = format!("{what}\n");
        if let Some(serial) = &written.serial {
            let _ = writeln!(
                text,
                "The serial number of the certificate is {serial}; list this number in `revoked` of a Config object to revoke the certificate."
            );
        }
        if let (Some(cert), Some(name)) = (&written.cert_file, &written.name) {
            let key = written
                .key_file
                .as_ref()
                .map_or("the key that was created on the node".into(), |key| key.display().to_string());
            if written.role == Some("node") {
                let _ = write!(
                    text,
                    "\nOn {name}, in agent.yaml:\n  tls: {{caFile: {}, certFile: {}, keyFile: {key}}}\n  listen: {{api: \"0.0.0.0:7443\"}}\nIn git, so that no other identity counts:\n  Node {name}: spec: {{publicKeys: [{}]}}\n",
                    written.ca_file.display(),
                    cert.display(),
                    written.public_keys.iter().map(|key| format!("{key:?}")).collect::<Vec<_>>().join(", "),
                );
            } else {
                let _ = write!(
                    text,
                    "\ntowpath status --address HOST:7443 --ca {} --cert {} --key {key}\n",
                    written.ca_file.display(),
                    cert.display()
                );
            }
        }
        text
    })?;
    Ok(0)
}

impl Init {
    fn run(self, now: i64) -> Result<u8, Failure> {
        let authority = Authority::init(&self.dir, &self.cluster, now)?;
        let (certificate, key) = Authority::files(&self.dir);
        let written = Written {
            cluster: authority.cluster().to_owned(),
            name: None,
            role: None,
            serial: None,
            public_keys: Vec::new(),
            ca_file: certificate.clone(),
            cert_file: None,
            key_file: Some(key.clone()),
        };
        let what = format!(
            "{} is the certificate authority of the cluster {}. Copy it to all nodes.\n{} is the key of the authority. Anyone with this key can create a node, so keep the key on a machine outside the fleet.",
            certificate.display(),
            self.cluster,
            key.display()
        );
        print(&self.output, &written, &what)
    }
}

impl Issue {
    fn run(self, now: i64) -> Result<u8, Failure> {
        identity::may_be_named(&self.name)?;
        let authority = Authority::open(&self.dir)?;
        let out = self.out.as_ref().unwrap_or(&self.dir);
        let certificate = out.join(format!("{}.crt", self.name));
        if certificate.exists() {
            return Err(Failure::failed(format!("{} already exists", certificate.display()))
                .hint("nothing was overwritten; renew the certificate with `towpath pki renew`"));
        }
        let (keys, key) = if self.public_keys.is_empty() {
            let key = out.join(format!("{}.key", self.name));
            let made = Identity::make().map_err(|error| Failure::error(&error))?;
            made.write(&key)?;
            (made.keys(), Some(key))
        } else {
            let keys = PublicKeys::read(&self.public_keys).ok_or_else(|| {
                Failure::invalid("--public-key is not an identity")
                    .hint("give both keys: --public-key ed25519:… --public-key x25519:…; `towpath status -o json` on the node shows them")
            })?;
            (keys, None)
        };
        let request = Request {
            name: self.name.clone(),
            role: self.role.into(),
            addresses: self.addresses.clone(),
            keys,
            lifetime: days(self.days),
        };
        let pem = authority.issue(&request, now)?;
        identity::write_certificate(&certificate, &pem)?;
        let written = Written {
            cluster: authority.cluster().to_owned(),
            name: Some(self.name.clone()),
            role: Some(request.role.name()),
            serial: identity::serial_of_pem(pem.as_bytes()),
            public_keys: keys.texts().to_vec(),
            ca_file: Authority::files(&self.dir).0,
            cert_file: Some(certificate.clone()),
            key_file: key,
        };
        let what = format!("{} is valid for {} days.", certificate.display(), self.days);
        print(&self.output, &written, &what)
    }
}

impl Renew {
    fn run(self, now: i64) -> Result<u8, Failure> {
        let authority = Authority::open(&self.dir)?;
        let (subject, pem) = authority.renew(&self.certificate, days(self.days), now)?;
        identity::write_certificate(&self.certificate, &pem)?;
        let written = Written {
            cluster: subject.cluster,
            name: Some(subject.name),
            role: Some(subject.role.name()),
            serial: identity::serial_of_pem(pem.as_bytes()),
            public_keys: subject.keys.texts().to_vec(),
            ca_file: Authority::files(&self.dir).0,
            cert_file: None,
            key_file: None,
        };
        let what = format!(
            "{} is valid for {} more days. A running agent loads the new certificate without a restart.",
            self.certificate.display(),
            self.days
        );
        print(&self.output, &written, &what)
    }
}

impl From<IdentityError> for Failure {
    fn from(error: IdentityError) -> Self {
        let failure = Self::error(&error);
        match error {
            IdentityError::File { source, .. } if source.kind() == std::io::ErrorKind::AlreadyExists => {
                failure.hint("nothing was overwritten; name another folder, or move the file away")
            }
            IdentityError::File { source, .. } if source.kind() == std::io::ErrorKind::NotFound => failure
                .hint("check the path; --dir names the folder of the authority, and towpath pki init creates one"),
            _ => failure,
        }
    }
}
