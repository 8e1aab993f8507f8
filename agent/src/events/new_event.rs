//! A new event, and the state of an alarm.

use std::collections::BTreeMap;

use serde_json::Value;
use towpath_state::StoredEvent;

use super::event_type::EventType;

/// The state of an alarm in an event: firing or resolved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AlarmState {
    /// The condition of the alarm has begun, or its reason has changed.
    Firing,
    /// The condition has ended.
    Resolved,
}

impl AlarmState {
    /// Returns the name that events use for the state of the alarm.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Firing => "firing",
            Self::Resolved => "resolved",
        }
    }
}

/// An event that is not recorded yet.
#[derive(Debug, Clone, PartialEq)]
pub struct NewEvent {
    /// The namespace of the event. Events that concern the whole cluster have the namespace `system`.
    pub namespace: String,
    /// The type of the event.
    pub event_type: EventType,
    /// The reason of the event, as one word.
    pub reason: Option<String>,
    /// The object of the event: `Kind/namespace/name`, or `Kind/name`.
    pub object: Option<String>,
    /// The message of the event, as one sentence.
    pub message: String,
    /// Additional data of the event, for programs.
    pub data: BTreeMap<String, Value>,
}

impl NewEvent {
    /// Creates an event that concerns the whole node.
    pub fn new(event_type: EventType, message: impl Into<String>) -> Self {
        Self {
            namespace: "system".to_owned(),
            event_type,
            reason: None,
            object: None,
            message: message.into(),
            data: BTreeMap::new(),
        }
    }

    /// Sets the reason of the event.
    #[must_use]
    pub fn because(mut self, reason: impl Into<String>) -> Self {
        self.reason = Some(reason.into());
        self
    }

    /// Sets the object of the event, and the namespace of the object. If the given namespace is empty, the namespace of
    /// the event does not change.
    #[must_use]
    pub fn about(mut self, object: impl Into<String>, namespace: &str) -> Self {
        self.object = Some(object.into());
        if !namespace.is_empty() {
            namespace.clone_into(&mut self.namespace);
        }
        self
    }

    /// Adds a data field to the event.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.data.insert(name.to_owned(), value.into());
        self
    }

    pub(super) fn stored(self, time: i64, state: Option<AlarmState>) -> StoredEvent {
        StoredEvent {
            namespace: self.namespace,
            time,
            r#type: self.event_type.name().to_owned(),
            state: state.map(|state| state.as_str().to_owned()),
            reason: self.reason,
            object: self.object,
            message: towpath_git::without_secrets(&self.message),
            data: self.data,
        }
    }

    /// Converts a stored event. Returns `None` if this version of the agent does not know the type of the event.
    pub(super) fn read(stored: StoredEvent) -> Option<Self> {
        Some(Self {
            namespace: stored.namespace,
            event_type: EventType::named(&stored.r#type)?,
            reason: stored.reason,
            object: stored.object,
            message: stored.message,
            data: stored.data,
        })
    }
}
