//! Opens the data store of the fleet, as the bootstrap file names it.

use std::sync::Arc;

use towpath_coordination::{LocalStore, Store, store::etcd::EtcdStore};

use crate::{
    cli::exit::Failure,
    config::{DataStore, Settings},
};

/// Opens the data store of the fleet.
pub(super) fn open(settings: &Settings) -> Result<Arc<dyn Store>, Failure> {
    Ok(match &settings.data_store {
        DataStore::Local => Arc::new(LocalStore::default()),
        DataStore::Etcd(etcd) => {
            let options = etcd.options(&settings.node, &settings.cluster)?;
            Arc::new(EtcdStore::new(options).map_err(|error| Failure::error(&error))?)
        }
    })
}
