//! Events of a node: recorded in the journal, and streamed to followers.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::broadcast;
use towpath_host::clock::rfc3339;
use towpath_proto::v1alpha as pb;
use towpath_state::{Changes, Journal, JournalError, StoredEvent, kinds};

/// Number of events that remain when old ones are deleted. Up to 500 more accumulate in between.
const KEPT: usize = 5000;

/// A new event.
#[derive(Debug, Clone, Default)]
pub struct Told {
    /// The namespace. Cluster-wide events have `system`.
    pub namespace: String,
    /// The type, in words separated by dots.
    pub kind: String,
    /// True if the condition begins, false if it ends. `None` for an event without duration.
    pub firing: Option<bool>,
    /// The reason, in one word.
    pub reason: Option<String>,
    /// The object of the event.
    pub object: Option<String>,
    /// The message, one sentence.
    pub message: String,
}

/// The events of one node.
#[derive(Debug, Clone)]
pub struct Events {
    node: String,
    journal: Option<Arc<Journal>>,
    live: broadcast::Sender<pb::EventRecord>,
    count: Arc<Mutex<usize>>,
}

impl Events {
    /// Creates the events of a node. Without a journal, only followers see them.
    pub fn new(node: String, journal: Option<Arc<Journal>>) -> Self {
        Self { node, journal, live: broadcast::channel(256).0, count: Arc::default() }
    }

    /// Records an event.
    ///
    /// # Errors
    /// If the journal cannot store the event. Followers receive it all the same.
    pub fn tell(&self, now: i64, told: Told) -> Result<(), JournalError> {
        let uuid = uuid::Uuid::now_v7().to_string();
        let kept = StoredEvent {
            namespace: if told.namespace.is_empty() { "system".into() } else { told.namespace },
            time: now,
            r#type: told.kind,
            state: told.firing.map(|firing| if firing { "firing".into() } else { "resolved".into() }),
            reason: told.reason,
            object: told.object,
            message: told.message,
        };
        // Sending fails if there are no followers.
        let _ = self.live.send(self.record(&uuid, &kept));
        let Some(journal) = &self.journal else { return Ok(()) };
        let mut changes = Changes::default();
        changes.put(&uuid, &kept);
        self.make_room(journal, &mut changes);
        journal.commit(changes)
    }

    /// Deletes the oldest events if there are too many.
    fn make_room(&self, journal: &Journal, changes: &mut Changes) {
        let mut count = self.count.lock().unwrap_or_else(PoisonError::into_inner);
        *count += 1;
        if *count % 500 != 1 {
            return;
        }
        let all = journal.keys::<StoredEvent>().unwrap_or_default();
        for uuid in all.iter().take(all.len().saturating_sub(KEPT)) {
            changes.delete::<kinds::Event>(uuid);
        }
    }

    /// Returns the recorded events, oldest first.
    pub fn kept(&self) -> Vec<pb::EventRecord> {
        let all = self.journal.as_ref().and_then(|journal| journal.all::<StoredEvent>().ok()).unwrap_or_default();
        all.iter().map(|(uuid, kept)| self.record(uuid, kept)).collect()
    }

    /// Returns a stream of new events.
    pub fn follow(&self) -> broadcast::Receiver<pb::EventRecord> {
        self.live.subscribe()
    }

    fn record(&self, uuid: &str, kept: &StoredEvent) -> pb::EventRecord {
        pb::EventRecord {
            uuid: uuid.to_owned(),
            namespace: kept.namespace.clone(),
            time: rfc3339(kept.time),
            r#type: kept.r#type.clone(),
            state: kept.state.clone(),
            reason: kept.reason.clone(),
            node: self.node.clone(),
            object: kept.object.clone(),
            message: kept.message.clone(),
            data: std::collections::BTreeMap::new(),
        }
    }
}

/// Returns an error with its causes, each once. URLs in it have no user, password and query.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let shown = inner.to_string();
        if !text.contains(&shown) {
            text.push_str(": ");
            text.push_str(&shown);
        }
        cause = inner.source();
    }
    towpath_git::without_secrets(&text)
}
