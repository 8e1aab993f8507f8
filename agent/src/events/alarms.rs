//! The conditions that an event has announced and that have not ended. It is pure.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{
    event_type::EventType,
    new_event::{AlarmState, NewEvent},
};

/// The identity of an alarm. A task of a book has one of its own.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct AlarmKey {
    event_type: EventType,
    object: Option<String>,
    task: Option<String>,
}

impl AlarmKey {
    /// Returns the identity of the alarm that an event is about.
    pub(super) fn of(event: &NewEvent) -> Self {
        let task = event.data.get("task").and_then(Value::as_str).map(ToOwned::to_owned);
        Self { event_type: event.event_type, object: event.object.clone(), task }
    }
}

/// The alarms that are firing.
#[derive(Debug, Default)]
pub(super) struct Alarms(BTreeMap<AlarmKey, NewEvent>);

impl Alarms {
    /// Restores an alarm from a recorded event.
    pub(super) fn restore(&mut self, event: NewEvent, state: AlarmState) {
        match state {
            AlarmState::Firing => drop(self.0.insert(AlarmKey::of(&event), event)),
            AlarmState::Resolved => drop(self.0.remove(&AlarmKey::of(&event))),
        }
    }

    /// Begins an alarm. Returns whether that is news: the alarm is new, or has another reason or other data.
    pub(super) fn fire(&mut self, event: &NewEvent) -> bool {
        let before = self.0.insert(AlarmKey::of(event), event.clone());
        before.is_none_or(|before| (before.reason, before.data) != (event.reason.clone(), event.data.clone()))
    }

    /// Ends the alarms that match, and returns them.
    pub(super) fn resolve(&mut self, matches: impl Fn(&NewEvent) -> bool) -> Vec<NewEvent> {
        self.0.extract_if(.., |_, event| matches(event)).map(|(_, event)| event).collect()
    }

    /// Returns whether an alarm is firing.
    pub(super) fn is_firing(&self, key: &AlarmKey) -> bool {
        self.0.contains_key(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(book: &str, task: &str, reason: &str) -> NewEvent {
        NewEvent {
            object: Some(book.to_owned()),
            reason: Some(reason.to_owned()),
            ..NewEvent::new(EventType::TaskFailed, "it fails")
        }
        .with("task", task)
    }

    #[test]
    fn alarm_is_news_once_until_its_reason_changes_or_it_ends() {
        let mut alarms = Alarms::default();
        assert!(alarms.fire(&failed("b", "t", "One")));
        assert!(!alarms.fire(&failed("b", "t", "One")), "the same");
        assert!(alarms.fire(&failed("b", "t", "Two")), "another reason");
        assert!(alarms.fire(&failed("b", "u", "Two")), "another task");
        assert!(alarms.fire(&failed("c", "t", "Two")), "another book");
        assert_eq!(alarms.resolve(|event| event.object.as_deref() == Some("b")).len(), 2);
        assert!(alarms.fire(&failed("b", "t", "Two")), "it had ended");
    }

    #[test]
    fn alarm_with_another_message_is_not_recorded_again_and_ends_with_it() {
        let mut alarms = Alarms::default();
        let with = |message: &str| NewEvent { message: message.to_owned(), ..failed("b", "t", "One") };
        assert!(alarms.fire(&with("after 1 s")));
        assert!(!alarms.fire(&with("after 2 s")));
        assert_eq!(alarms.resolve(|_| true)[0].message, "after 2 s");
    }

    #[test]
    fn restored_alarms_are_those_whose_last_event_is_firing() {
        let mut alarms = Alarms::default();
        for (task, state) in [
            ("a", AlarmState::Firing),
            ("b", AlarmState::Firing),
            ("a", AlarmState::Resolved),
            ("c", AlarmState::Resolved),
        ] {
            alarms.restore(failed("book", task, "One"), state);
        }
        assert!(!alarms.fire(&failed("book", "b", "One")));
        assert!(alarms.fire(&failed("book", "a", "One")));
        assert!(alarms.resolve(|event| event.data.get("task") == Some(&Value::from("c"))).is_empty());
    }
}
