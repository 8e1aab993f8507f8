//! A watch of etcd keys. If a watch breaks, the node continues the watch at another member, and no change is lost
//! (P133).

use std::{sync::Arc, time::Duration};

use etcd_client as etcd;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep},
};

use super::{
    cluster::{Cluster, Repeat, Route},
    verdict::Said,
    wire::{Prefix, number},
};
use crate::store::{Change, StoreError};

/// The pause before a node starts a watch again, if no member answered or the watch ended immediately.
const PAUSE: Duration = Duration::from_millis(500);

/// The pause before a node starts a watch again, if the members rejected the watch.
const REFUSED: Duration = Duration::from_secs(5);

/// A watch of the keys with a prefix.
pub(super) struct Watch {
    pub(super) cluster: Arc<Cluster>,
    pub(super) prefix: Prefix,
    pub(super) below: String,
}

/// A running watch, which an etcd member has confirmed.
pub(super) struct Begun {
    stream: etcd::WatchStream,
    route: Route,
}

impl Watch {
    /// Starts the watch at the store revision `from`. `None` if etcd has deleted the changes since `from`.
    pub(super) async fn begin(&self, from: u64) -> Result<Option<Begun>, StoreError> {
        let key = self.prefix.key(&self.below);
        let begun = self.cluster.request("watch", Repeat::Always, |route| begin_at(route, key.clone(), from)).await;
        Ok(begun?)
    }

    /// Sends each change to `sender` until the receiver is dropped. If etcd has deleted changes that were not sent yet,
    /// the watch ends, and the receiver must read all keys again.
    pub(super) async fn follow(self, begun: Begun, mut from: u64, sender: mpsc::UnboundedSender<Change>) {
        let mut begun = Some(begun);
        while !sender.is_closed() {
            let Some(current) = begun.take() else {
                match self.begin(from).await {
                    Ok(Some(next)) => begun = Some(next),
                    Ok(None) => return,
                    Err(error) => {
                        tracing::debug!(prefix = self.below, %error, "cannot begin a watch; retrying");
                        sleep(if matches!(error, StoreError::Denied(_)) { REFUSED } else { PAUSE }).await;
                    }
                }
                continue;
            };
            let since = Instant::now();
            let Begun { mut stream, route } = current;
            let said = loop {
                let message = tokio::select! {
                    message = stream.message() => message,
                    () = route.connection.given_up() => break None,
                    () = sender.closed() => return,
                };
                let message = match message {
                    Ok(Some(message)) => message,
                    Ok(None) => break Some(Said::ended()),
                    Err(error) => break Some(Said::from(error)),
                };
                if message.compact_revision() > 0 {
                    return;
                }
                if message.canceled() {
                    break Some(Said::canceled(message.cancel_reason()));
                }
                for event in message.events() {
                    let Some(pair) = event.kv() else { continue };
                    let row = self.prefix.row(pair);
                    from = from.max(row.modified.saturating_add(1));
                    let change = match event.event_type() {
                        etcd::EventType::Put => Change::Put(row),
                        etcd::EventType::Delete => Change::Delete(row.key, row.modified),
                    };
                    if sender.send(change).is_err() {
                        return;
                    }
                }
            };
            if let Some(said) = said {
                tracing::debug!(prefix = self.below, cause = said.chain, "a watch has broken; resuming");
                self.cluster.broke(&route, &said);
            }
            if since.elapsed() < PAUSE {
                sleep(PAUSE).await;
            }
        }
    }
}

async fn begin_at(route: Route, key: String, from: u64) -> Result<Option<Begun>, Said> {
    let options = etcd::WatchOptions::new().with_prefix().with_start_revision(number(from));
    let mut client = route.connection.client.clone();
    let mut stream = client.watch(key.clone(), Some(options)).await?;
    let Some(first) = stream.message().await? else { return Err(Said::ended()) };
    if first.compact_revision() > 0 {
        return Ok(None);
    }
    // etcd rejects a watch by one message that both creates and cancels it.
    if first.canceled() || !first.created() {
        return Err(Said::canceled(first.cancel_reason()));
    }
    if first.header().is_some_and(|header| number(from) > header.revision().saturating_add(1)) {
        // Either this member lags, and the watch will catch up, or the store was rolled back. After a rollback the
        // watch would report nothing. A read from the leader distinguishes the two cases.
        let read = client.get(key, Some(etcd::GetOptions::new().with_count_only())).await?;
        if read.header().is_some_and(|header| number(from) > header.revision().saturating_add(1)) {
            return Ok(None);
        }
    }
    Ok(Some(Begun { stream, route }))
}
