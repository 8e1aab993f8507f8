//! The connection of a command to an agent.

use std::path::PathBuf;

use clap::Args;
use towpath_host::identity::TlsFiles;

use crate::serve::{CallError, Client, Remote};

/// The address of an agent, and the certificate files for a remote agent.
#[derive(Debug, Args)]
pub(super) struct Connection {
    /// The socket of the agent
    #[arg(long, default_value = "/run/towpath/api.sock", conflicts_with = "address")]
    socket: PathBuf,
    /// The listen.api address of an agent on another machine
    #[arg(long, value_name = "HOST:PORT", requires_all = ["ca", "cert", "key"])]
    address: Option<String>,
    /// The cluster's certificate authority
    #[arg(long, value_name = "FILE", requires = "address")]
    ca: Option<PathBuf>,
    /// The certificate of the caller; a viewer certificate is sufficient
    #[arg(long, value_name = "FILE", requires = "address")]
    cert: Option<PathBuf>,
    /// The private key of the certificate
    #[arg(long, value_name = "FILE", requires = "address")]
    key: Option<PathBuf>,
}

impl Connection {
    /// Connects to the agent on this machine, or on another machine.
    pub(super) async fn open(&self) -> Result<Client, CallError> {
        match (&self.address, &self.ca, &self.cert, &self.key) {
            (Some(address), Some(ca), Some(cert), Some(key)) => {
                let tls = TlsFiles { ca: ca.clone(), cert: cert.clone(), key: key.clone() };
                Client::connect_to(&Remote { address: address.clone(), tls }).await
            }
            _ => Client::connect(&self.socket).await,
        }
    }
}
