//! The event log of a node: records events in the journal, and streams events to followers.

mod alarms;
mod event_type;
mod new_event;
mod resolution;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::broadcast;
use towpath_host::clock::rfc3339;
use towpath_proto::{plain, v1alpha as pb};
use towpath_state::{ActiveEvent, Changes, Journal, JournalError, StoredEvent, kinds};
use uuid::Uuid;

use alarms::{AlarmKey, Alarms};
pub use event_type::EventType;
pub use new_event::{AlarmState, NewEvent};
use resolution::resolution;

/// The number of events that remain after the agent has deleted old events. Up to 500 more events accumulate before the
/// next deletion.
const MAX_EVENTS: usize = 5000;

/// The event log of one node.
#[derive(Debug, Clone)]
pub struct Events {
    node: String,
    journal: Option<Arc<Journal>>,
    live: broadcast::Sender<pb::EventRecord>,
    log: Arc<Mutex<Log>>,
}

/// The state of the event log.
#[derive(Debug, Default)]
struct Log {
    /// The number of events that were recorded since the agent started.
    count: usize,
    /// The UUID of the last event.
    last: Uuid,
    alarms: Alarms,
    /// The UUIDs of events that are never deleted. The key of the map is the identity of the alarm. The map contains
    /// the events of firing alarms, and the event of the most recent start of the agent.
    active: BTreeMap<String, String>,
}

impl Events {
    /// Opens the event log of a node. Without a journal, events are not recorded, and only readers of the event stream
    /// receive the events.
    pub fn new(node: String, journal: Option<Arc<Journal>>) -> Self {
        let mut log = Log::default();
        if let Some(journal) = &journal {
            let newest = journal.last_key::<StoredEvent>().ok().flatten();
            log.last = newest.and_then(|uuid| Uuid::parse_str(&uuid).ok()).unwrap_or_default();
            for (identity, active) in journal.all::<ActiveEvent>().unwrap_or_default() {
                log.active.insert(identity, active.uuid);
                if let Some(event) = NewEvent::read(active.event).filter(|event| event.event_type.is_alarm()) {
                    log.alarms.restore(event);
                }
            }
        }
        Self { node, journal, live: broadcast::channel(2048).0, log: Arc::new(Mutex::new(log)) }
    }

    /// Records events in one journal transaction. An alarm that is already firing for the same reason is not recorded
    /// again.
    ///
    /// # Errors
    /// Fails if the journal cannot store the events. If an alarm was not stored, the event log records the alarm when
    /// the alarm is set again.
    pub fn record(&self, now: i64, events: Vec<NewEvent>) -> Result<(), JournalError> {
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        let mut undo = Vec::new();
        let mut news = Vec::new();
        for event in events {
            if !event.event_type.is_alarm() {
                news.push((event, None));
            } else if let Some(before) = log.alarms.fire(&event) {
                undo.push((AlarmKey::of(&event), before));
                news.push((event, Some(AlarmState::Firing)));
            }
        }
        let stored = self.store(&mut log, now, news);
        if stored.is_err() {
            undo.into_iter().rev().for_each(|(key, before)| log.alarms.put_back(key, before));
        }
        stored
    }

    /// Ends the alarms that `matches` selects, and records one event for each alarm.
    ///
    /// # Errors
    /// Fails if the journal cannot store the events. If the journal cannot store the events, the alarms remain firing.
    pub fn resolve(&self, now: i64, matches: impl Fn(&NewEvent) -> bool) -> Result<(), JournalError> {
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        let over = log.alarms.resolve(matches);
        let ended = |event: &NewEvent| NewEvent { message: resolution(event), ..event.clone() };
        let news = over.iter().map(|event| (ended(event), Some(AlarmState::Resolved))).collect();
        let stored = self.store(&mut log, now, news);
        if stored.is_err() {
            over.into_iter().for_each(|event| log.alarms.put_back(AlarmKey::of(&event), Some(event)));
        }
        stored
    }

    /// Replaces the firing alarms that the predicate `covers` selects. A selected alarm ends if `firing` does not
    /// contain the alarm.
    ///
    /// # Errors
    /// Fails if the journal cannot store the events.
    pub fn set_alarms(
        &self,
        now: i64,
        covers: impl Fn(&NewEvent) -> bool,
        firing: Vec<NewEvent>,
    ) -> Result<(), JournalError> {
        let keys: BTreeSet<AlarmKey> = firing.iter().map(AlarmKey::of).collect();
        let over = self.resolve(now, |event| covers(event) && !keys.contains(&AlarmKey::of(event)));
        over.and(self.record(now, firing))
    }

    fn store(&self, log: &mut Log, now: i64, news: Vec<(NewEvent, Option<AlarmState>)>) -> Result<(), JournalError> {
        if news.is_empty() {
            return Ok(());
        }
        let mut changes = Changes::default();
        let mut records = Vec::new();
        let mut active = log.active.clone();
        for (event, state) in news {
            // UUIDs increase with each event, even if the clock goes back.
            log.last = Uuid::now_v7().max(Uuid::from_u128(log.last.as_u128().saturating_add(1)));
            let uuid = log.last.to_string();
            log_line(&event, state);
            let (identity, is_start) = (AlarmKey::of(&event).text(), event.event_type == EventType::AgentStarted);
            let stored = event.stored(now, state);
            records.push(self.as_record(&uuid, &stored));
            changes.put(&uuid, &stored);
            if is_start || state == Some(AlarmState::Firing) {
                changes.put(&identity, &ActiveEvent { uuid: uuid.clone(), event: stored });
                active.insert(identity, uuid);
            } else if state == Some(AlarmState::Resolved) {
                changes.delete::<kinds::ActiveEvent>(&identity);
                active.remove(&identity);
            }
            log.count += 1;
            if log.count % 500 == 1 {
                self.make_room(&active, &mut changes);
            }
        }
        let stored = self.journal.as_ref().map_or(Ok(()), |journal| journal.commit(changes));
        if stored.is_ok() {
            log.active = active;
        }
        // Sending an event fails if there are no followers.
        records.into_iter().for_each(|record| drop(self.live.send(record)));
        stored
    }

    /// Deletes the oldest events if the event log contains too many events. Events whose UUIDs are in `active` are
    /// never deleted.
    fn make_room(&self, active: &BTreeMap<String, String>, changes: &mut Changes) {
        let Some(journal) = &self.journal else { return };
        let keys = journal.keys::<StoredEvent>().unwrap_or_default();
        let old = keys.len().saturating_sub(MAX_EVENTS);
        let kept: BTreeSet<&String> = active.values().collect();
        keys.iter().take(old).filter(|uuid| !kept.contains(uuid)).for_each(|uuid| changes.delete::<kinds::Event>(uuid));
    }

    /// Returns the event of the most recent start of the agent.
    pub fn last_start(&self) -> Option<NewEvent> {
        let identity = AlarmKey::of(&NewEvent::new(EventType::AgentStarted, "")).text();
        let active: ActiveEvent = self.journal.as_ref()?.get_readable(&identity).ok()??;
        NewEvent::read(active.event)
    }

    /// Returns the recorded events. The oldest event is first.
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

/// Writes an event to the log of the agent.
fn log_line(event: &NewEvent, state: Option<AlarmState>) {
    let (name, message) = (event.event_type.name(), towpath_git::without_secrets(&event.message));
    match (event.event_type, state) {
        (_, Some(AlarmState::Resolved)) => tracing::info!(event = name, state = "resolved", "{message}"),
        (EventType::TaskFailed | EventType::TaskHandlerFailed, _) => tracing::error!(event = name, "{message}"),
        // A failed task is logged separately, so the events of runs are only debug messages.
        (EventType::RunStarted | EventType::RunSucceeded | EventType::RunFailed, _) => {
            tracing::debug!(event = name, "{message}");
        }
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
    fn end_of_an_alarm_does_not_repeat_the_failure() {
        let events = Events::new("n".into(), Some(open().1));
        events.set_alarms(1, |_| true, vec![failed("t")]).unwrap();
        events.set_alarms(2, |_| true, Vec::new()).unwrap();
        let messages: Vec<String> = events.recorded().into_iter().map(|event| event.message).collect();
        assert_eq!(messages, ["it fails", "a/b/t no longer fails"]);
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
    fn only_the_last_event_of_an_alarm_that_changes_often_stays() {
        let events = Events::new("n".into(), Some(open().1));
        for round in 0..13_u32 {
            let changes = (0..500).map(|at| failed("t").with("round", round * 500 + at)).collect();
            events.record(1, changes).unwrap();
        }
        let kept = events.recorded();
        assert!(kept.len() <= MAX_EVENTS + 1000, "{}", kept.len());
        assert_eq!(plain::to_json(&kept.last().unwrap().data["round"]), 6499);
    }

    #[test]
    fn order_of_events_is_kept_when_the_clock_goes_back() {
        let (_folder, journal) = open();
        let later = Uuid::from_u128(Uuid::now_v7().as_u128() + (3_600_000 << 80));
        let mut changes = Changes::default();
        let stored = failed("t").stored(1, Some(AlarmState::Firing));
        changes.put(&later.to_string(), &stored);
        let active = ActiveEvent { uuid: later.to_string(), event: stored };
        changes.put(&AlarmKey::of(&failed("t")).text(), &active);
        journal.commit(changes).unwrap();
        let events = Events::new("n".into(), Some(journal));
        events.set_alarms(2, |_| true, Vec::new()).unwrap();
        assert_eq!(seen(&events)[1..], [of("task.failed", Some("resolved"))]);
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
