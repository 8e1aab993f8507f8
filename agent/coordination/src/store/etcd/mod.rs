//! The data store of a fleet in an etcd cluster. The cluster has one or more members, and may use TLS.
//!
//! A request goes to one member, and to the next member if the first member fails. The module `members` selects the
//! member, `verdict` classifies errors, and `cluster` sends the request. Watches (`watch`) and transactions that write
//! (`fence`) also continue at another member.
//!
//! etcd provides the guarantees of the trait `Store`. A request succeeds as long as a quorum of members answers.
//! Assumptions: only one fleet uses the keys with the prefix, and only one process at a time writes in the name of this
//! node.

mod access;
mod cluster;
mod connection;
mod fence;
mod handshake;
mod members;
mod verdict;
mod watch;
mod wire;

use std::{
    fmt,
    sync::{Arc, Mutex},
    time::Duration,
};

use etcd_client as etcd;
use tokio::{runtime::Runtime, sync::mpsc};

pub use self::access::{Access, ReadAccess};
use self::{
    cluster::{Cluster, Repeat},
    fence::Committer,
    verdict::Said,
    watch::Watch,
    wire::{Prefix, number},
};
use super::{Change, LeaseId, Outcome, Page, Read, Store, StoreError, Txn};
use crate::keys;

/// The settings of the connection to etcd.
#[derive(Clone)]
pub struct EtcdOptions {
    /// The name of this node. The name determines the etcd member that the node asks first.
    pub node: String,
    /// The URLs of the etcd members.
    pub endpoints: Vec<String>,
    /// The prefix of all keys of the fleet in etcd.
    pub prefix: String,
    /// The function that reads the credentials of the node.
    pub access: ReadAccess,
}

impl Default for EtcdOptions {
    fn default() -> Self {
        let access: ReadAccess = Arc::new(|| Ok(Access::default()));
        Self { node: String::new(), endpoints: Vec::new(), prefix: String::new(), access }
    }
}

impl fmt::Debug for EtcdOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdOptions")
            .field("node", &self.node)
            .field("endpoints", &self.endpoints)
            .finish_non_exhaustive()
    }
}

/// The data store of a fleet, kept in etcd.
pub struct EtcdStore {
    runtime: Arc<Runtime>,
    cluster: Arc<Cluster>,
    committer: Committer,
    prefix: Prefix,
    endpoints: Vec<String>,
}

impl fmt::Debug for EtcdStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdStore").field("endpoints", &self.endpoints).finish_non_exhaustive()
    }
}

impl EtcdStore {
    /// Creates the store without a connection to etcd, because etcd may be unreachable when the node starts. The first
    /// request connects.
    ///
    /// # Errors
    /// The thread of the store cannot be started.
    pub fn new(options: EtcdOptions) -> Result<Self, StoreError> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("etcd")
            .thread_stack_size(2 << 20)
            .enable_all()
            .build()
            .map_err(|error| StoreError::Unreachable(error.to_string()))?;
        let EtcdOptions { node, endpoints, prefix, access } = options;
        let cluster = Cluster::new(&node, &endpoints, access);
        let prefix = Prefix(prefix);
        let committer = Committer {
            cluster: Arc::clone(&cluster),
            prefix: prefix.clone(),
            key: keys::fence(&node),
            fence: Mutex::default(),
        };
        Ok(Self { runtime: Arc::new(runtime), cluster, committer, prefix, endpoints })
    }

    fn ask<T, A>(&self, what: &str, ask: impl Fn(etcd::Client) -> A) -> Result<T, StoreError>
    where
        A: Future<Output = Result<T, Said>>,
    {
        let request = self.cluster.request(what, Repeat::Always, |route| ask(route.connection.client.clone()));
        Ok(self.runtime.block_on(request)?)
    }
}

impl Store for EtcdStore {
    fn read(&self, prefix: &str, page: &Page) -> Result<Read, StoreError> {
        let (from, options) = self.prefix.page(prefix, page);
        let response = self.ask(prefix, |mut client| {
            let (from, options) = (from.clone(), options.clone());
            async move { client.get(from, Some(options)).await.map_err(Said::from) }
        })?;
        Ok(Read {
            rows: response.kvs().iter().map(|pair| self.prefix.row(pair)).collect(),
            revision: response.header().map_or(0, |header| header.revision().unsigned_abs()),
            more: response.more(),
        })
    }

    fn watch(&self, prefix: &str, from: u64) -> Result<mpsc::UnboundedReceiver<Change>, StoreError> {
        let (sender, receiver) = mpsc::unbounded_channel();
        let watch = Watch { cluster: Arc::clone(&self.cluster), prefix: self.prefix.clone(), below: prefix.to_owned() };
        let begun = self.runtime.block_on(watch.begin(from))?.ok_or(StoreError::Compacted(from))?;
        self.runtime.spawn(watch.follow(begun, from, sender));
        Ok(receiver)
    }

    fn lease(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        let seconds = number(ttl.as_secs().max(1));
        // If the answer is lost, the granted lease is not used and expires.
        let response =
            self.ask("lease", |mut client| async move { client.lease_grant(seconds, None).await.map_err(Said::from) })?;
        Ok(LeaseId(response.id().unsigned_abs()))
    }

    fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        // The call renews the lease once, and returns the answer.
        let keep = |mut client: etcd::Client| async move {
            client.lease_keep_alive(number(lease.0)).await.map(drop).map_err(Said::from)
        };
        self.ask("keep alive", keep)
    }

    fn time_left(&self, key: &str) -> Result<Option<Duration>, StoreError> {
        let whole = self.prefix.key(key);
        let response = self.ask(key, |mut client| {
            let key = whole.clone();
            async move { client.get(key, None).await.map_err(Said::from) }
        })?;
        let Some(lease) = response.kvs().first().map(etcd::KeyValue::lease).filter(|lease| *lease != 0) else {
            return Ok(None);
        };
        let response = self.ask("time to live", |mut client| async move {
            client.lease_time_to_live(lease, None).await.map_err(Said::from)
        })?;
        // etcd returns -1 for a lease that has ended.
        Ok(Some(Duration::from_secs(u64::try_from(response.ttl()).unwrap_or(0))))
    }

    fn commit(&self, txn: &Txn) -> Result<Outcome, StoreError> {
        // If the conditions fail, the transaction reads the fence with one more operation.
        txn.check(1)?;
        if txn.then.iter().chain(&txn.otherwise).any(super::Op::writes) {
            self.runtime.block_on(self.committer.commit(txn))
        } else {
            self.runtime.block_on(self.committer.look(txn))
        }
    }
}
