//! Events of a node: recorded in the journal, and streamed to followers.

mod alarms;
mod event_type;
mod new_event;

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::broadcast;
use towpath_host::clock::rfc3339;
use towpath_proto::{plain, v1alpha as pb};
use towpath_state::{Changes, Journal, JournalError, StoredEvent, kinds};

use alarms::{AlarmKey, Alarms};
pub use event_type::EventType;
pub use new_event::{AlarmState, NewEvent};

/// Number of events that remain when old ones are deleted. Up to 500 more accumulate in between.
const MAX_EVENTS: usize = 5000;

/// The events of one node.
#[derive(Debug, Clone)]
pub struct Events {
    node: String,
    journal: Option<Arc<Journal>>,
    live: broadcast::Sender<pb::EventRecord>,
    log: Arc<Mutex<Log>>,
}

/// The state of the log.
#[derive(Debug, Default)]
struct Log {
    /// Number of events that were recorded since the agent started.
    count: usize,
    alarms: Alarms,
}

impl Events {
    /// Creates the events of a node. Without a journal, only followers see them.
    pub fn new(node: String, journal: Option<Arc<Journal>>) -> Self {
        let mut alarms = Alarms::default();
        let recorded = journal.as_ref().and_then(|journal| journal.all::<StoredEvent>().ok()).unwrap_or_default();
        for (_, stored) in recorded {
            let state = match stored.state.as_deref() {
                Some("firing") => AlarmState::Firing,
                Some("resolved") => AlarmState::Resolved,
                _ => continue,
            };
            if let Some(event) = NewEvent::read(stored) {
                alarms.restore(event, state);
            }
        }
        Self { node, journal, live: broadcast::channel(256).0, log: Arc::new(Mutex::new(Log { count: 0, alarms })) }
    }

    /// Records events, in one commit. An alarm that is firing for the same reason is not recorded again.
    ///
    /// # Errors
    /// If the journal cannot store the events. Followers receive them all the same.
    pub fn record(&self, now: i64, events: Vec<NewEvent>) -> Result<(), JournalError> {
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        let mut news = Vec::new();
        for event in events {
            match event.event_type.is_alarm() {
                false => news.push((event, None)),
                true if log.alarms.fire(&event) => news.push((event, Some(AlarmState::Firing))),
                true => {}
            }
        }
        self.store(&mut log, now, news)
    }

    /// Ends the alarms that match.
    ///
    /// # Errors
    /// If the journal cannot store the events. Followers receive them all the same.
    pub fn resolve(&self, now: i64, matches: impl Fn(&NewEvent) -> bool) -> Result<(), JournalError> {
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        let over = log.alarms.resolve(matches);
        let news = over.into_iter().map(|event| (event, Some(AlarmState::Resolved))).collect();
        self.store(&mut log, now, news)
    }

    /// Sets the alarms that are firing, of all that the scope covers. Those that are missing have ended.
    ///
    /// # Errors
    /// If the journal cannot store the events. Followers receive them all the same.
    pub fn set_alarms(
        &self,
        now: i64,
        covers: impl Fn(&NewEvent) -> bool,
        firing: Vec<NewEvent>,
    ) -> Result<(), JournalError> {
        let keys: Vec<AlarmKey> = firing.iter().map(AlarmKey::of).collect();
        let over = self.resolve(now, |event| covers(event) && !keys.contains(&AlarmKey::of(event)));
        over.and(self.record(now, firing))
    }

    fn store(&self, log: &mut Log, now: i64, news: Vec<(NewEvent, Option<AlarmState>)>) -> Result<(), JournalError> {
        if news.is_empty() {
            return Ok(());
        }
        let mut changes = Changes::default();
        for (event, state) in news {
            let uuid = uuid::Uuid::now_v7().to_string();
            log_line(&event, state);
            let stored = event.stored(now, state);
            // Sending fails if there are no followers.
            let _ = self.live.send(self.as_record(&uuid, &stored));
            changes.put(&uuid, &stored);
            log.count += 1;
            if log.count % 500 == 1 {
                self.make_room(log, &mut changes);
            }
        }
        self.journal.as_ref().map_or(Ok(()), |journal| journal.commit(changes))
    }

    /// Deletes the oldest events if there are too many. The last start and the alarms that are firing stay.
    fn make_room(&self, log: &Log, changes: &mut Changes) {
        let Some(journal) = &self.journal else { return };
        let all = journal.all::<StoredEvent>().unwrap_or_default();
        let old = all.len().saturating_sub(MAX_EVENTS);
        let start = all.iter().rposition(|(_, stored)| stored.r#type == EventType::AgentStarted.name());
        for (position, (uuid, stored)) in all.into_iter().enumerate().take(old) {
            let is_firing = stored.state.as_deref() == Some(AlarmState::Firing.word())
                && NewEvent::read(stored).is_some_and(|event| log.alarms.is_firing(&AlarmKey::of(&event)));
            if !is_firing && Some(position) != start {
                changes.delete::<kinds::Event>(&uuid);
            }
        }
    }

    /// Returns the last recorded event of a type.
    pub fn last(&self, event_type: EventType) -> Option<NewEvent> {
        let all = self.journal.as_ref()?.all::<StoredEvent>().ok()?;
        let last = all.into_iter().rev().find(|(_, stored)| stored.r#type == event_type.name())?;
        NewEvent::read(last.1)
    }

    /// Returns the recorded events, oldest first.
    pub fn recorded(&self) -> Vec<pb::EventRecord> {
        let all = self.journal.as_ref().and_then(|journal| journal.all::<StoredEvent>().ok()).unwrap_or_default();
        all.iter().map(|(uuid, stored)| self.as_record(uuid, stored)).collect()
    }

    /// Returns a stream of new events.
    pub fn follow(&self) -> broadcast::Receiver<pb::EventRecord> {
        self.live.subscribe()
    }

    fn as_record(&self, uuid: &str, stored: &StoredEvent) -> pb::EventRecord {
        pb::EventRecord {
            uuid: uuid.to_owned(),
            namespace: stored.namespace.clone(),
            time: rfc3339(stored.time),
            r#type: stored.r#type.clone(),
            state: stored.state.clone(),
            reason: stored.reason.clone(),
            node: self.node.clone(),
            object: stored.object.clone(),
            message: stored.message.clone(),
            data: stored.data.iter().map(|(name, value)| (name.clone(), plain::from_json(value))).collect(),
        }
    }
}

/// Logs an event.
fn log_line(event: &NewEvent, state: Option<AlarmState>) {
    let (name, message) = (event.event_type.name(), towpath_git::without_secrets(&event.message));
    match (event.event_type, state) {
        (_, Some(AlarmState::Resolved)) => tracing::info!(event = name, state = "resolved", "{message}"),
        (EventType::TaskFailed | EventType::TaskHandlerFailed | EventType::RunFailed, _) => {
            tracing::error!(event = name, "{message}");
        }
        (EventType::RunStarted | EventType::RunSucceeded, _) => tracing::debug!(event = name, "{message}"),
        (EventType::TaskHeld, _) => tracing::info!(event = name, "{message}"),
        (_, Some(AlarmState::Firing)) | (EventType::DriftCorrected | EventType::RolloutNodeWrittenOff, _) => {
            tracing::warn!(event = name, "{message}");
        }
        _ => tracing::info!(event = name, "{message}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open() -> (tempfile::TempDir, Arc<Journal>) {
        let folder = tempfile::tempdir().unwrap();
        let (journal, _) = Journal::open(folder.path()).unwrap();
        (folder, Arc::new(journal))
    }

    fn failed(task: &str) -> NewEvent {
        NewEvent::new(EventType::TaskFailed, "it fails").about("TaskBook/a/b", "a").with("task", task)
    }

    fn seen(events: &Events) -> Vec<(String, Option<String>)> {
        events.recorded().into_iter().map(|event| (event.r#type, event.state)).collect()
    }

    fn of(name: &str, state: Option<&str>) -> (String, Option<String>) {
        (name.to_owned(), state.map(ToOwned::to_owned))
    }

    #[test]
    fn alarm_is_recorded_once_also_after_a_restart_and_ends_once() {
        let (_folder, journal) = open();
        let fails = |events: &Events| events.set_alarms(1, |_| true, vec![failed("t")]).unwrap();
        let events = Events::new("n".into(), Some(Arc::clone(&journal)));
        fails(&events);
        fails(&events);
        let events = Events::new("n".into(), Some(journal));
        fails(&events);
        assert_eq!(seen(&events), [of("task.failed", Some("firing"))]);
        events.set_alarms(2, |_| true, Vec::new()).unwrap();
        events.set_alarms(3, |_| true, Vec::new()).unwrap();
        assert_eq!(seen(&events)[1..], [of("task.failed", Some("resolved"))]);
    }

    #[test]
    fn alarms_outside_of_the_scope_stay() {
        let events = Events::new("n".into(), Some(open().1));
        let full = NewEvent::new(EventType::AgentDiskFull, "full");
        events.record(1, vec![full]).unwrap();
        events.set_alarms(2, |event| event.event_type == EventType::TaskFailed, vec![failed("t")]).unwrap();
        events.set_alarms(3, |event| event.event_type == EventType::TaskFailed, Vec::new()).unwrap();
        let states = [
            of("agent.disk-full", Some("firing")),
            of("task.failed", Some("firing")),
            of("task.failed", Some("resolved")),
        ];
        assert_eq!(seen(&events), states);
    }

    #[test]
    fn old_events_are_deleted_but_alarms_that_are_firing_and_the_last_start_stay() {
        let events = Events::new("n".into(), Some(open().1));
        events.record(1, vec![NewEvent::new(EventType::AgentStarted, "m"), failed("t")]).unwrap();
        for _ in 0..12 {
            let many = vec![NewEvent::new(EventType::TaskChanged, "m"); 500];
            events.record(2, many).unwrap();
        }
        let kept = seen(&events);
        assert!(kept.len() <= MAX_EVENTS + 1000, "{}", kept.len());
        assert_eq!(kept[..2], [of("agent.started", None), of("task.failed", Some("firing"))]);
    }

    #[test]
    fn password_of_a_url_is_in_no_event() {
        let events = Events::new("n".into(), Some(open().1));
        events.record(1, vec![NewEvent::new(EventType::RunFailed, "cannot read https://ann:pass@host/x")]).unwrap();
        assert!(!events.recorded()[0].message.contains("pass"), "{:?}", events.recorded());
    }

    #[test]
    fn every_name_is_an_area_and_a_happening_and_is_there_once() {
        for event_type in EventType::ALL {
            let name = event_type.name();
            assert_eq!(EventType::named(name), Some(*event_type), "{name}");
            assert!(name.split_once('.').is_some_and(|(area, rest)| !area.is_empty() && !rest.contains('.')), "{name}");
            assert!(event_type.doc().ends_with('.'), "{name}");
        }
    }
}
