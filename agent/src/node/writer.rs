//! Writes the results of the node's stages: the state of the node, the status, the events and the journal.

use std::{collections::BTreeMap, fmt, sync::Arc};

use towpath_git::Mirror;
use towpath_host::Clock;
use towpath_proto::v1alpha as pb;
use towpath_state::{Changes, Journal, JournalError};

use super::membership::identity::NodeIdentity;
use crate::{
    events::{Events, NewEvent},
    reconcile::Revision,
    status::{
        StatusSnapshot,
        conditions::{self, ConditionReason, Input, State},
        happenings,
    },
};

/// A function that selects alarms: it returns true for each selected alarm.
type Covers<'a> = Box<dyn Fn(&NewEvent) -> bool + 'a>;

/// The results of a stage of the node, in the order of writing. A stage itself writes nothing.
#[derive(Debug, Default)]
pub(super) struct Effects<'a>(Vec<Effect<'a>>);

enum Effect<'a> {
    Input(Input),
    Events(Vec<NewEvent>),
    /// Replaces the firing alarms for which the given function returns true.
    Alarms(Covers<'a>, Vec<NewEvent>),
    Changes(Changes),
}

impl fmt::Debug for Effect<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Input(input) => f.debug_tuple("Input").field(input).finish(),
            Self::Events(events) => f.debug_tuple("Events").field(events).finish(),
            Self::Alarms(_, firing) => f.debug_tuple("Alarms").field(firing).finish(),
            Self::Changes(changes) => f.debug_tuple("Changes").field(changes).finish(),
        }
    }
}

impl<'a> Effects<'a> {
    /// Adds an input of the state machine.
    pub(super) fn input(mut self, input: Input) -> Self {
        self.0.push(Effect::Input(input));
        self
    }

    /// Adds events for the event log.
    pub(super) fn events(mut self, events: Vec<NewEvent>) -> Self {
        self.0.push(Effect::Events(events));
        self
    }

    /// Adds firing alarms to the results. If `covers` selects an alarm that is not among the firing alarms, the alarm
    /// ends.
    pub(super) fn alarms(mut self, covers: impl Fn(&NewEvent) -> bool + 'a, firing: Vec<NewEvent>) -> Self {
        self.0.push(Effect::Alarms(Box::new(covers), firing));
        self
    }

    /// Adds changes of the journal.
    pub(super) fn changes(mut self, changes: Changes) -> Self {
        self.0.push(Effect::Changes(changes));
        self
    }

    /// Appends the results of another stage.
    pub(super) fn then(mut self, other: Self) -> Self {
        self.0.extend(other.0);
        self
    }
}

/// The writer of a node's state, journal, event log and status.
#[derive(Debug)]
pub(super) struct StateWriter {
    state: State,
    journal: Arc<Journal>,
    status: StatusSnapshot,
    identity: Arc<NodeIdentity>,
    clock: Arc<dyn Clock>,
}

impl StateWriter {
    /// Creates the writer with the state that the journal holds.
    pub(super) fn new(
        state: State,
        journal: Arc<Journal>,
        status: StatusSnapshot,
        identity: Arc<NodeIdentity>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        status.set_state(&state);
        Self { state, journal, status, identity, clock }
    }

    /// Returns the current state of the node.
    pub(super) fn state(&self) -> &State {
        &self.state
    }

    pub(super) fn journal(&self) -> Arc<Journal> {
        Arc::clone(&self.journal)
    }

    /// Writes the results of a stage in the given order.
    pub(super) fn write(&mut self, effects: Effects<'_>) {
        for effect in effects.0 {
            match effect {
                Effect::Input(input) => self.step(input),
                Effect::Events(events) => self.record_events(events),
                Effect::Alarms(covers, firing) => self.set_alarms(covers, firing),
                Effect::Changes(changes) => self.save(changes),
            }
        }
    }

    /// Applies an input to the state machine, records the resulting events, and publishes the new state in the status.
    pub(super) fn step(&mut self, input: Input) {
        let before = std::mem::take(&mut self.state);
        self.record_events(happenings::of_change(&before, &input));
        self.state = conditions::step(before, input);
        self.set_alarms(happenings::is_of_state, happenings::of_state(&self.state));
        self.status.set_state(&self.state);
    }

    /// Writes changes to the journal, together with the state of the node. If the journal cannot store the changes, the
    /// state of the node shows the problem.
    pub(super) fn save(&mut self, mut changes: Changes) {
        changes.set(&self.state);
        self.identity.keep(&mut changes, self.clock.monotonic(), false);
        if let Err(error) = self.journal.commit(changes) {
            self.step(Input::Node("journal", Some(journal_trouble(&error))));
        } else if self.state.problems.contains_key("node journal") {
            self.step(Input::Node("journal", None));
        }
    }

    /// Publishes a revision in the status, with the mirrors of its sources.
    pub(super) fn show_revision(&self, revision: &Arc<Revision>, mirrors: BTreeMap<String, Arc<Mirror>>) {
        self.status.set_revision(Arc::clone(revision), mirrors);
    }

    /// Publishes the warnings about the settings of the node. Returns the warnings that were not published before.
    pub(super) fn show_warnings(&self, warnings: Vec<String>) -> Vec<String> {
        self.status.set_warnings(warnings)
    }

    /// Publishes the status of the TaskBooks.
    pub(super) fn show_books(&self, books: Vec<pb::TaskBookStatus>) {
        self.status.set_books(books);
    }

    /// Returns the event log of the node.
    pub(super) fn events(&self) -> &Events {
        self.status.events()
    }

    /// Records events in the event log. If the event log cannot store the events, the agent only logs the error.
    pub(super) fn record_events(&self, events: Vec<NewEvent>) {
        if let Err(error) = self.status.events().record(self.clock.wall(), events) {
            tracing::warn!(%error, "cannot record an event");
        }
    }

    /// Replaces the firing alarms that the predicate `covers` selects.
    fn set_alarms(&self, covers: impl Fn(&NewEvent) -> bool, firing: Vec<NewEvent>) {
        if let Err(error) = self.status.events().set_alarms(self.clock.wall(), covers, firing) {
            tracing::warn!(%error, "cannot record an event");
        }
    }

    /// Saves the newest record number of each node that writes to the data store. The agent calls this function before
    /// the agent stops.
    pub(super) fn save_known_writers(&self) {
        let mut changes = Changes::default();
        self.identity.keep(&mut changes, self.clock.monotonic(), true);
        if let Err(error) = self.journal.commit(changes) {
            tracing::warn!(%error, "cannot save the last seen record numbers");
        }
    }
}

/// Returns the problem of a journal that cannot be written, with a reason and a remedy.
fn journal_trouble(error: &JournalError) -> ConditionReason {
    let (reason, remedy) = match error {
        JournalError::DiskFull { .. } => {
            ("DiskFull", "free space below the state directory; the agent then continues without a restart")
        }
        JournalError::ReadOnly { .. } => {
            ("ReadOnly", "make the state directory writable; the agent then continues without a restart")
        }
        JournalError::Damaged { .. } | JournalError::Unreadable { .. } => (
            "JournalDamaged",
            "check the disk (dmesg, smartctl) and restart the agent, which begins a new journal if it cannot open this one",
        ),
        JournalError::Failed { .. } => (
            "JournalFailed",
            "check the disk (dmesg, smartctl) and the state directory; if the error lasts, restart the agent",
        ),
    };
    ConditionReason::new(reason, format!("{error}; {remedy}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_cause_of_a_failed_journal_has_its_own_reason_and_remedy() {
        let (path, message) = (std::path::PathBuf::from("/s"), "m".to_owned());
        let damaged = JournalError::Damaged { path: path.clone(), message: message.clone() };
        for (error, reason, remedy) in [
            (JournalError::DiskFull { path: path.clone() }, "DiskFull", "free space"),
            (JournalError::ReadOnly { path: path.clone() }, "ReadOnly", "make the state directory writable"),
            (damaged, "JournalDamaged", "begins a new journal"),
            (JournalError::Failed { path, message }, "JournalFailed", "if the error lasts"),
        ] {
            let trouble = journal_trouble(&error);
            assert_eq!(trouble.reason, reason);
            assert!(trouble.message.contains(remedy), "{}", trouble.message);
        }
    }
}
