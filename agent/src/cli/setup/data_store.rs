//! Opens the data store that the bootstrap file names.

use std::{path::PathBuf, sync::Arc};

use towpath_coordination::{
    LocalStore, Store,
    store::etcd::{Access, EtcdOptions, EtcdStore},
};
use towpath_host::identity::valid_until;

use crate::{
    cli::exit::Failure,
    config::{self, ConfigError, DataStore, EtcdSettings, Settings},
};

/// Opens the data store of the fleet.
pub(super) fn open(settings: &Settings) -> Result<Arc<dyn Store>, Failure> {
    Ok(match &settings.data_store {
        DataStore::Local => Arc::new(LocalStore::default()),
        DataStore::Etcd(etcd) => {
            let options = options(etcd, &settings.node, &settings.cluster)?;
            Arc::new(EtcdStore::new(options).map_err(|error| Failure::error(&error))?)
        }
    })
}

/// Returns the options of the etcd store. The certificate and password files are read immediately, so that mistakes are
/// reported early. The certificate and password files are read again for each connection, so renewed files need no
/// restart.
fn options(etcd: &EtcdSettings, node: &str, cluster: &str) -> Result<EtcdOptions, ConfigError> {
    access(etcd)?;
    let settings = etcd.clone();
    Ok(EtcdOptions {
        node: node.to_owned(),
        endpoints: etcd.endpoints.clone(),
        prefix: format!("/towpath/{cluster}/"),
        access: Arc::new(move || access(&settings).map_err(|error| in_full(&error))),
    })
}

/// Reads the files for access to etcd.
fn access(etcd: &EtcdSettings) -> Result<Access, ConfigError> {
    let bytes = |file: &Option<PathBuf>| file.as_deref().map(config::read).transpose();
    let text = |file: &Option<PathBuf>| {
        Ok(bytes(file)?.map(|bytes| String::from_utf8_lossy(&bytes).trim_end_matches(['\n', '\r']).to_owned()))
    };
    let identity = bytes(&etcd.cert_file)?.zip(bytes(&etcd.key_file)?);
    Ok(Access {
        ca: bytes(&etcd.ca_file)?,
        valid_until: identity.as_ref().and_then(|(certificate, _)| valid_until(certificate)),
        identity,
        user: text(&etcd.username_file)?.zip(text(&etcd.password_file)?),
    })
}

/// Returns the text of an error, including its cause.
fn in_full(error: &ConfigError) -> String {
    match error {
        ConfigError::Unreadable { file, source } => format!("cannot read {}: {source}", file.display()),
        other => other.to_string(),
    }
}
