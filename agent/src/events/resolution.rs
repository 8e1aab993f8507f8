//! The messages of events that end alarms.

use serde_json::Value;

use super::{event_type::EventType, new_event::NewEvent};

/// Returns the message of the event that ends an alarm. The message of an ended alarm names the subject, and does not
/// repeat the failure.
pub(super) fn resolution(alarm: &NewEvent) -> String {
    use EventType as T;
    let name = || {
        let object = alarm.object.as_deref().unwrap_or_default();
        object.split_once('/').map_or(object, |(_, name)| name).to_owned()
    };
    let task = || match alarm.data.get("task").and_then(Value::as_str) {
        Some(task) => format!("{}/{task}", name()),
        None => name(),
    };
    match alarm.event_type {
        T::SourceUnreachable => format!("the source {} can be fetched again", name()),
        T::SourceUnverified => format!("the head of the source {} has a valid signature again", name()),
        T::SourceRewound => format!("the head of the source {} descends from the accepted commit again", name()),
        T::RevisionRejected => format!("the head of the source {} is no longer rejected", name()),
        T::RevisionRejectedLocally => "this node follows the accepted revision again".to_owned(),
        T::RevisionObjectHeld => format!("{} is no longer held", alarm.object.as_deref().unwrap_or("the object")),
        T::RolloutHalted => format!("{}: the rollout is no longer halted", name()),
        T::TaskFailed => format!("{} no longer fails", task()),
        T::TaskHeld => format!("{} is no longer held", task()),
        T::TaskHandlerFailed => format!("{}: the handler no longer fails", task()),
        T::DriftReported => format!("{} is in sync again", task()),
        T::PruneHeld => format!("{}: the removal is no longer held", name()),
        T::NodeLost => format!("the node {} is no longer lost", name()),
        T::NodeRejected => "the fleet no longer rejects this node".to_owned(),
        T::NodeCloned => "no other machine runs with the key of this node any more".to_owned(),
        T::NodeNeverJoined => "another node has joined".to_owned(),
        T::AgentDiskFull => "the agent can write its files again".to_owned(),
        T::AgentClockJumped => "the clock of the node is steady again".to_owned(),
        T::AgentJournalDamaged => "the agent has completed a pass with the new journal".to_owned(),
        T::AgentStateLost => "the state directory exists again".to_owned(),
        T::StoreUnreachable => "the data store answers again".to_owned(),
        T::StoreRestored => "every node has registered its slots again".to_owned(),
        T::CertificateExpiring => "the certificate of this node is valid for long enough again".to_owned(),
        T::StoreFull => "the data store accepts writes again".to_owned(),
        other => format!("{} has ended", other.name()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_alarm_has_a_sentence_of_its_own_that_does_not_repeat_the_failure() {
        let mut seen = std::collections::BTreeSet::new();
        for event_type in EventType::ALL.iter().copied().filter(|event_type| event_type.is_alarm()) {
            let alarm = NewEvent::new(event_type, "it broke").about("Kind/a/b", "a").with("task", "t");
            let message = resolution(&alarm);
            assert!(!message.contains("it broke") && !message.contains("has ended"), "{message}");
            assert!(seen.insert(message.clone()), "{message}");
        }
    }

    #[test]
    fn resolution_names_the_task_the_book_or_the_source() {
        let alarm = |event_type, object: &str| NewEvent::new(event_type, "it broke").about(object, "a");
        let failed = alarm(EventType::TaskFailed, "TaskBook/a/b").with("task", "t [1]");
        assert_eq!(resolution(&failed), "a/b/t [1] no longer fails");
        assert_eq!(resolution(&alarm(EventType::TaskHeld, "TaskBook/a/b")), "a/b is no longer held");
        let removal = alarm(EventType::PruneHeld, "TaskBook/a/b").with("task", "prune");
        assert_eq!(resolution(&removal), "a/b: the removal is no longer held");
        let source = alarm(EventType::SourceUnreachable, "Source/fleet");
        assert_eq!(resolution(&source), "the source fleet can be fetched again");
    }
}
