//! The firing alarms of a node. An alarm is a condition that an event has reported and that has not ended.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{event_type::EventType, new_event::NewEvent};

/// The identity of an alarm: its event type, its object and its task.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct AlarmKey {
    event_type: EventType,
    object: Option<String>,
    task: Option<String>,
}

impl AlarmKey {
    /// Returns the identity of the alarm to which an event belongs.
    pub(super) fn of(event: &NewEvent) -> Self {
        let task = event.data.get("task").and_then(Value::as_str).map(ToOwned::to_owned);
        Self { event_type: event.event_type, object: event.object.clone(), task }
    }

    /// Returns the identity of the alarm as a JSON array.
    pub(super) fn text(&self) -> String {
        Value::from_iter([Value::from(self.event_type.name()), self.object.clone().into(), self.task.clone().into()])
            .to_string()
    }
}

/// The alarms of the node that are firing.
#[derive(Debug, Default)]
pub(super) struct Alarms(BTreeMap<AlarmKey, NewEvent>);

impl Alarms {
    /// Restores an alarm that was firing when the agent ended.
    pub(super) fn restore(&mut self, event: NewEvent) {
        self.0.insert(AlarmKey::of(&event), event);
    }

    /// Starts an alarm. Returns `Some` if the alarm is new, or if its reason or its data has changed. The value in
    /// `Some` is the previous event of the alarm, if the alarm was already firing.
    pub(super) fn fire(&mut self, event: &NewEvent) -> Option<Option<NewEvent>> {
        let before = self.0.insert(AlarmKey::of(event), event.clone());
        let of = |event: &NewEvent| (event.reason.clone(), event.data.clone());
        let is_news = before.as_ref().is_none_or(|before| of(before) != of(event));
        is_news.then_some(before)
    }

    /// Restores the previous state of an alarm, if a change of the alarm could not be recorded.
    pub(super) fn put_back(&mut self, key: AlarmKey, before: Option<NewEvent>) {
        match before {
            Some(before) => drop(self.0.insert(key, before)),
            None => drop(self.0.remove(&key)),
        }
    }

    /// Ends the alarms that `matches` selects, and returns the most recent event of each ended alarm.
    pub(super) fn resolve(&mut self, matches: impl Fn(&NewEvent) -> bool) -> Vec<NewEvent> {
        self.0.extract_if(.., |_, event| matches(event)).map(|(_, event)| event).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_news(alarms: &mut Alarms, event: &NewEvent) -> bool {
        alarms.fire(event).is_some()
    }

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
        assert!(is_news(&mut alarms, &failed("b", "t", "One")));
        assert!(!is_news(&mut alarms, &failed("b", "t", "One")), "the same");
        assert!(is_news(&mut alarms, &failed("b", "t", "Two")), "another reason");
        assert!(is_news(&mut alarms, &failed("b", "u", "Two")), "another task");
        assert!(is_news(&mut alarms, &failed("c", "t", "Two")), "another book");
        assert_eq!(alarms.resolve(|event| event.object.as_deref() == Some("b")).len(), 2);
        assert!(is_news(&mut alarms, &failed("b", "t", "Two")), "it had ended");
    }

    #[test]
    fn alarm_with_another_message_is_not_recorded_again_and_ends_with_it() {
        let mut alarms = Alarms::default();
        let with = |message: &str| NewEvent { message: message.to_owned(), ..failed("b", "t", "One") };
        assert!(is_news(&mut alarms, &with("after 1 s")));
        assert!(!is_news(&mut alarms, &with("after 2 s")));
        assert_eq!(alarms.resolve(|_| true)[0].message, "after 2 s");
    }

    #[test]
    fn change_that_was_not_recorded_is_news_again() {
        let mut alarms = Alarms::default();
        let event = failed("b", "t", "One");
        let before = alarms.fire(&event).unwrap();
        alarms.put_back(AlarmKey::of(&event), before);
        assert!(is_news(&mut alarms, &event), "it had not begun");
        let before = alarms.fire(&failed("b", "t", "Two")).unwrap();
        alarms.put_back(AlarmKey::of(&event), before);
        assert!(is_news(&mut alarms, &failed("b", "t", "Two")) && is_news(&mut alarms, &event));
    }

    #[test]
    fn text_of_an_identity_is_unique() {
        let text = |object: Option<&str>, task: Option<&str>| {
            let event = NewEvent { object: object.map(ToOwned::to_owned), ..NewEvent::new(EventType::TaskFailed, "") };
            AlarmKey::of(&task.into_iter().fold(event, |event, task| event.with("task", task))).text()
        };
        let all = [
            text(None, None),
            text(Some(""), None),
            text(Some("TaskBook/a/b"), None),
            text(Some("TaskBook/a"), Some("b")),
            text(Some("TaskBook/a/b"), Some("c")),
            text(Some("TaskBook/a/b\",\"c"), None),
            text(None, Some("TaskBook/a/b")),
        ];
        let different: std::collections::BTreeSet<&String> = all.iter().collect();
        assert_eq!(different.len(), all.len(), "{all:?}");
    }
}
