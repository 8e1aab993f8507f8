//! Runs etcd transactions that write. A node finds out whether etcd has applied a transaction, even if the asked etcd
//! member does not answer.
//!
//! A paused etcd member may execute a transaction late, although the node already uses another member. To prevent late
//! transactions, each node has one store key that is called the fence of the node. Each etcd transaction that writes
//! requires that the etcd revision of the fence is unchanged. If the result of a transaction is unknown, the node
//! writes its fence, so that etcd can no longer apply the transaction. The node then reads whether etcd had applied the
//! transaction, and repeats a transaction that was not applied (P132).

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use etcd_client as etcd;

use super::{
    cluster::{Cluster, Failure, Repeat},
    verdict::Said,
    wire::Prefix,
};
use crate::store::{Op, Outcome, StoreError, Txn};

/// The maximum number of attempts to run one transaction.
const TRIES: usize = 20;

/// Runs the transactions of a node in etcd.
pub(super) struct Committer {
    pub(super) cluster: Arc<Cluster>,
    pub(super) prefix: Prefix,
    /// The store key of the fence.
    pub(super) key: String,
    /// The etcd revision of the fence. `None` before the first write of the fence, and while the result of a
    /// transaction is unknown.
    pub(super) fence: Mutex<Option<i64>>,
}

impl Committer {
    fn lock(&self) -> MutexGuard<'_, Option<i64>> {
        self.fence.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs a transaction that only reads, and so needs no fence.
    pub(super) async fn look(&self, txn: &Txn) -> Result<Outcome, StoreError> {
        let response = self
            .cluster
            .request("view", Repeat::Always, |route| {
                let (mut client, request) = (route.connection.client.clone(), self.prefix.transaction(txn, None));
                async move { client.txn(request).await.map_err(Said::from) }
            })
            .await?;
        // Without a fence, the answer always contains an outcome.
        self.prefix.outcome(&response, None).map_err(|_| StoreError::Unreachable("the fence was not asked for".into()))
    }

    /// Runs a transaction that writes.
    pub(super) async fn commit(&self, txn: &Txn) -> Result<Outcome, StoreError> {
        let mut why = String::from("other requests changed the fence of this node too often");
        for _ in 0..TRIES {
            let fence = self.fence().await?;
            let sent = self.cluster.request("commit", Repeat::IfUnsent, |route| {
                let request = self.prefix.transaction(txn, Some((&self.key, fence)));
                let mut client = route.connection.client.clone();
                async move { client.txn(request).await.map_err(Said::from) }
            });
            match sent.await {
                Ok(response) => match self.prefix.outcome(&response, Some(fence)) {
                    Ok(outcome) => return Ok(outcome),
                    // Another request has written the fence, or the store was rolled back. The commit was not carried
                    // out.
                    Err(shown) => *self.lock() = Some(shown),
                },
                Err(Failure::Store(error)) => return Err(error),
                Err(Failure::Unknown(cause)) => {
                    tracing::info!(cause, "the result of a commit is unknown; reading it");
                    self.invalidate(fence);
                    self.fence().await?;
                    if let Some(done) = self.applied(txn).await? {
                        return Ok(done);
                    }
                    why = cause;
                }
            }
        }
        Err(StoreError::Unreachable(why))
    }

    /// Forgets the etcd revision of the fence, if the known value is `revision`.
    fn invalidate(&self, revision: i64) {
        let mut fence = self.lock();
        if *fence == Some(revision) {
            *fence = None;
        }
    }

    /// Returns the etcd revision of the fence. Writes the fence if the revision is unknown.
    async fn fence(&self) -> Result<i64, StoreError> {
        if let Some(fence) = *self.lock() {
            return Ok(fence);
        }
        let key = self.prefix.key(&self.key);
        // A second write does no harm. The commit then fails, and returns the later revision of the fence.
        let put = self.cluster.request("fence", Repeat::Always, |route| {
            let (mut client, key) = (route.connection.client.clone(), key.clone());
            async move { client.put(key, "", None).await.map_err(Said::from) }
        });
        let revision = put.await?.header().map_or(0, etcd::ResponseHeader::revision);
        *self.lock() = Some(revision);
        Ok(revision)
    }

    /// Returns the outcome of a transaction if etcd has applied it. The function recognizes an applied transaction by
    /// the first key that the transaction writes. The function executes the reading operations of the transaction
    /// again. `None` if etcd has not applied the transaction, or if the transaction writes no value.
    async fn applied(&self, txn: &Txn) -> Result<Option<Outcome>, StoreError> {
        let Some((key, value)) = first_put(txn) else { return Ok(None) };
        let reading = txn.then.iter().filter(|operation| !operation.writes()).cloned();
        let look = Txn { then: std::iter::once(Op::Read(key.to_owned())).chain(reading).collect(), ..Txn::default() };
        let (revision, mut answers) = self.look(&look).await?.answers();
        let first = if answers.is_empty() { return Ok(None) } else { answers.remove(0) };
        let own = first.rows.iter().any(|row| row.key == key && row.value == value);
        Ok(own.then_some(Outcome::Done { revision, answers }))
    }
}

/// Returns the first key that a transaction writes, with the value. The key and the value identify the transaction.
fn first_put(txn: &Txn) -> Option<(&str, &[u8])> {
    txn.then.iter().find_map(|operation| match operation {
        Op::Put { key, value, .. } => Some((key.as_str(), value.as_slice())),
        _ => None,
    })
}
