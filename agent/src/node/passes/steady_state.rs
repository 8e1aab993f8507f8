//! The steady state: the record of a pass that found all TaskBooks in sync. In the steady state, the agent loads,
//! renders and applies nothing, until an input changes.
//!
//! The agent deletes the steady state record before it changes anything, so that no outdated record remains after a
//! crash.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use towpath_coordination::AcceptedId;
use towpath_host::{keyed_digest, process::Cancel};
use towpath_modules::Expectation;
use towpath_state::{Changes, Journal, Record, kinds};

use crate::{
    config::Settings,
    node::{sources::Sources, writer::Effects},
    reconcile::{
        PassFacts, Revision,
        pass::{self, BookStatuses, HostContext, PassOutcome, SteadyCheck},
    },
    status::conditions::State,
};

/// The inputs and the checks of a pass that found all TaskBooks in sync.
#[derive(Debug)]
struct SteadyPass {
    accepted: AcceptedId,
    /// The names and values of the facts that the pass read.
    facts: BTreeMap<String, Value>,
    checks: Vec<SteadyCheck>,
}

/// The steady state in the form that the journal stores.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct SteadyRecord {
    /// A keyed digest of the version and the settings of the agent. The steady state ends when the version or the
    /// settings of the agent change.
    by: String,
    generation: u64,
    commits: BTreeMap<String, String>,
    facts: BTreeMap<String, Value>,
    /// The fingerprints of the git mirrors at the end of the pass.
    mirrors: BTreeMap<String, String>,
    expectations: Vec<Expectation>,
}

impl Record for SteadyRecord {
    type Kind = kinds::SteadyState;
}

/// The steady state of a node.
#[derive(Debug)]
pub(in crate::node) struct SteadyState {
    settings: Arc<Settings>,
    sources: Arc<Sources>,
    journal: Arc<Journal>,
    machine: Arc<HostContext>,
    cancel: Cancel,
    steady_pass: Option<SteadyPass>,
    /// True if the journal may contain a record of the steady state.
    is_on_disk: bool,
}

impl SteadyState {
    pub(in crate::node) fn new(
        settings: Arc<Settings>,
        sources: Arc<Sources>,
        journal: Arc<Journal>,
        machine: Arc<HostContext>,
        cancel: Cancel,
    ) -> Self {
        Self { settings, sources, journal, machine, cancel, steady_pass: None, is_on_disk: true }
    }

    /// Returns true if the inputs and the results of the checks are unchanged since the steady state was recorded. If
    /// the steady state is unchanged, the pass renders nothing.
    pub(in crate::node) fn holds(&self, revision: &Revision, state: &State, facts: &PassFacts<'_>) -> bool {
        let same = |steady_pass: &&SteadyPass| steady_pass.accepted == revision.id;
        let Some(steady_pass) = self.steady_pass.as_ref().filter(same) else { return false };
        state.is_applied()
            && state.problems.is_empty()
            && facts.contain(&steady_pass.facts)
            && pass::is_still_steady(&self.machine, &steady_pass.checks, &self.cancel)
    }

    /// Returns true if the steady state of the previous agent process is still valid. The steady state is valid while
    /// the sources, settings, facts and files are unchanged. The node loads no objects to check the steady state of the
    /// previous agent process. `now` is the time in milliseconds since 1970.
    pub(in crate::node) fn held_before(&self, state: &State, now: i64, facts: &PassFacts<'_>) -> bool {
        let coordinated = self.settings.coordinated();
        let quiet = state.is_applied() && state.problems.is_empty() && state.stalled.is_empty();
        let jumped = now < state.tick;
        if coordinated || !quiet || jumped {
            return false;
        }
        let Some(record) = self.journal.get_readable::<SteadyRecord>(&()).ok().flatten() else { return false };
        let same = record.generation == state.accepted.generation
            && record.commits == state.accepted.commits
            && record.by == self.by()
            && self.sources.heads_are_accepted(&self.journal, &record.commits)
            && record.mirrors == self.sources.fingerprints()
            && facts.contain(&record.facts)
            && pass::is_still_steady(&self.machine, &[SteadyCheck::Expectations(record.expectations)], &self.cancel);
        if same {
            tracing::debug!(generation = record.generation, "nothing has changed since the last pass");
        }
        same
    }

    fn by(&self) -> String {
        let text = format!("{} {:?}", env!("CARGO_PKG_VERSION"), self.settings);
        keyed_digest(&self.machine.digest_key, text.as_bytes())
    }

    /// Forgets the steady state. The node writes the returned journal changes before it changes anything.
    pub(in crate::node) fn invalidate(&mut self) -> Effects<'static> {
        self.steady_pass = None;
        if !std::mem::take(&mut self.is_on_disk) {
            return Effects::default();
        }
        let mut changes = Changes::default();
        changes.delete::<kinds::SteadyState>(&());
        Effects::default().changes(changes)
    }

    /// Records the steady state if the pass found all TaskBooks in sync.
    pub(in crate::node) fn remember(
        &mut self,
        revision: &Revision,
        outcome: &mut PassOutcome,
        facts: &PassFacts<'_>,
    ) -> Effects<'static> {
        let Some(checks) = outcome.steady_checks.take() else { return Effects::default() };
        // The tasks were rendered with these facts. A fact that changes later causes another pass.
        let facts = facts.select(std::mem::take(&mut outcome.facts_read));
        let kept = self.record(revision, &facts, &checks);
        self.steady_pass = Some(SteadyPass { accepted: revision.id.clone(), facts, checks });
        let Some(record) = kept else { return Effects::default() };
        self.is_on_disk = true;
        let books = outcome.books.iter().map(pass::BookOutcome::status).collect();
        let mut changes = Changes::default();
        changes.set(&record);
        changes.set(&BookStatuses(books));
        Effects::default().changes(changes)
    }

    /// Returns the steady state record that the agent reads at its next start. Returns `None` if the journal already
    /// has the record, or if a check cannot be stored.
    fn record(
        &self,
        revision: &Revision,
        facts: &BTreeMap<String, Value>,
        checks: &[SteadyCheck],
    ) -> Option<SteadyRecord> {
        let mut expectations = Vec::new();
        for check in checks {
            let SteadyCheck::Expectations(some) = check else { return None };
            expectations.extend(some.iter().cloned());
        }
        if self.is_on_disk || revision.id.generation == 0 || !self.sources.alone(&revision.set) {
            return None;
        }
        Some(SteadyRecord {
            by: self.by(),
            generation: revision.id.generation,
            commits: revision.commits.clone(),
            facts: facts.clone(),
            mirrors: self.sources.fingerprints(),
            expectations,
        })
    }
}
