//! Watches the store, so that the node wakes after a change and detects a rollback of the store.

use std::{
    thread,
    time::{Duration, Instant},
};

use tokio::sync::mpsc;

use super::{KEEP, Shared, Waker, Wakeup};
use crate::{
    accept::Accepted,
    keys,
    rollout::{RunSnapshot, newest_recovery, report_rollback},
    store::{Change, Page, Row, StoreError},
};

impl Shared {
    pub(super) fn begin_watch(&self, prefix: &str) -> Result<mpsc::UnboundedReceiver<Change>, StoreError> {
        let before = self.position.known();
        let read = self.store.read(prefix, &Page { after: None, limit: 1 })?;
        // A node must report a rollback even while it runs a long task, so the watch checks for one.
        self.position.seen(before, read.revision);
        if self.position.has_rolled_back() {
            self.report_rollback()?;
        }
        let changes = self.store.watch(prefix, read.revision + 1)?;
        if keys::agent(&self.node).starts_with(prefix) {
            self.look_for_namesake();
        }
        if keys::ALL_RECOVERIES.starts_with(prefix) {
            let restored = self.store.read(keys::ALL_RECOVERIES, &Page::default())?;
            if !restored.rows.is_empty() {
                self.position.note_recovery();
            }
        }
        Ok(changes)
    }

    /// Reports a rollback of the store, unless another node has already reported the rollback.
    fn report_rollback(&self) -> Result<(), StoreError> {
        if self.lock().identity.rejected().is_some() {
            return Ok(());
        }
        let read = self.store.read(keys::ALL_RECOVERIES, &Page::default())?;
        let snapshot =
            RunSnapshot { recovery: newest_recovery(&read.rows), revision: read.revision, ..RunSnapshot::default() };
        let id = uuid::Uuid::new_v4().simple().to_string();
        match report_rollback(&snapshot, &self.node, &id, self.position.recovery_id().as_deref()) {
            Some(txn) => self.store.commit(&txn).map(drop),
            None => Ok(()),
        }
    }

    /// Wakes this node after a notice of free slots if the node waits for a slot of the budget. The notice also makes
    /// earlier snapshots outdated, so that a decision in progress reads the store again.
    fn receive_touch(&self, row: &Row, wakeup: &Waker) {
        let acts = self.lock().news.receive_touch(&self.node, row);
        if acts {
            wakeup(Wakeup::Look);
        }
    }

    /// Watches all keys with a prefix until the agent stops, and wakes the node when a key changes.
    pub(super) fn watch(&self, prefix: &str, first: Option<mpsc::UnboundedReceiver<Change>>, wakeup: &Waker) {
        let mut begun = first;
        let mut reported: Option<Instant> = None;
        // The node also answers requests that were written before the watch began.
        self.lock().news.note_asked();
        while !self.stops() {
            let Some(mut changes) = begun.take() else {
                thread::sleep(Duration::from_secs(1));
                begun = self.begin_watch(prefix).ok();
                if begun.is_some() {
                    // The watch may have missed changes while it was interrupted, so the node reads them now.
                    wakeup(Wakeup::Accepted);
                    wakeup(Wakeup::Look);
                }
                continue;
            };
            while let Some(change) = changes.blocking_recv() {
                if self.stops() {
                    return;
                }
                match change {
                    Change::Put(row) if row.key == keys::agent(&self.node) => {
                        let before = self.lock().identity.namesake().is_some();
                        self.check_namesake(&row);
                        if !before && self.lock().identity.namesake().is_some() {
                            wakeup(Wakeup::Accepted);
                        }
                    }
                    // A record that does not count wakes the node at most once in 10 s, so that an event reports the
                    // record.
                    Change::Put(row) if !self.store.counts(&row) => {
                        let now = self.clock.monotonic();
                        if reported.is_none_or(|reported| now.duration_since(reported) >= KEEP) {
                            reported = Some(now);
                            wakeup(Wakeup::Accepted);
                        }
                    }
                    Change::Put(row) if row.key == keys::ACCEPTED => {
                        let accepted: Option<Accepted> = serde_json::from_slice(&row.value).ok();
                        // A record that this node has written needs no read.
                        if accepted.is_none_or(|accepted| accepted.by != self.node) {
                            wakeup(Wakeup::Accepted);
                        }
                    }
                    Change::Put(row) if row.key.starts_with(keys::ALL_FREED) => self.receive_touch(&row, wakeup),
                    Change::Put(row) => {
                        if row.key.starts_with(keys::ALL_RECOVERIES) {
                            self.position.note_recovery();
                        }
                        if row.key.starts_with(&keys::result_requests(&self.node)) {
                            self.lock().news.note_asked();
                        }
                        wakeup(Wakeup::Look);
                    }
                    // The recovery is complete, so waiting nodes may continue.
                    Change::Delete(key, _) if key.starts_with(keys::ALL_RECOVERIES) => wakeup(Wakeup::Look),
                    Change::Delete(..) => {}
                }
            }
        }
    }
}
