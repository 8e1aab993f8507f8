//! The steady state: the record of a pass that found all TaskBooks in sync. Until an input of the pass changes, the
//! agent loads, renders and applies nothing.
//!
//! The agent deletes the record from disk before any change, so that a crash never leaves an outdated record.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use towpath_host::keyed_digest;
use towpath_modules::Expectation;
use towpath_state::{Changes, Record, kinds};

use super::{
    facts::PassFacts,
    node::{Ended, Node},
    pass::{self, BookStatuses, PassOutcome, Settled},
    revision::Revision,
};

/// The inputs and the checks of a pass that found all TaskBooks in sync.
#[derive(Debug)]
pub(super) struct SettledPass {
    generation: u64,
    commits: BTreeMap<String, String>,
    /// The values of the facts that the pass read.
    facts: BTreeMap<String, Value>,
    checks: Vec<Settled>,
}

/// The steady state in the form that the journal stores.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct SteadyState {
    /// A keyed digest of the version and the settings of the agent. Another version or other settings may lead to
    /// another state.
    by: String,
    generation: u64,
    commits: BTreeMap<String, String>,
    facts: BTreeMap<String, Value>,
    /// The fingerprints of the mirrors at the end of the pass.
    mirrors: BTreeMap<String, String>,
    expectations: Vec<Expectation>,
}

impl Record for SteadyState {
    type Kind = kinds::SteadyState;
}

impl Node {
    /// Returns whether the inputs and the checks of the steady state are unchanged. If so, the pass renders nothing.
    pub(super) fn nothing_moved(&self, revision: &Revision, facts: &PassFacts<'_>) -> bool {
        let same =
            |settled: &&SettledPass| settled.generation == revision.generation && settled.commits == revision.commits;
        let Some(settled) = self.settled.as_ref().filter(same) else { return false };
        self.state.is_applied()
            && self.state.troubles.is_empty()
            && !self.fleet.needs_republish()
            && facts.contain(&settled.facts)
            && pass::still_settled(&self.machine, &settled.checks, &self.cancel)
    }

    /// Returns the result of a run if the steady state of the previous agent process still holds. Sources, settings,
    /// facts and files must be unchanged. This check loads no objects. `None` if a full run is needed.
    pub(super) fn settled_before(&mut self) -> Option<Ended> {
        let coordinated = self.settings.coordinated();
        let quiet = self.state.is_applied() && self.state.troubles.is_empty() && self.state.stalls.is_empty();
        let jumped = self.clock.wall() < self.state.looked;
        if coordinated || !quiet || jumped {
            return None;
        }
        let record: SteadyState = self.journal.get_readable(&()).ok().flatten()?;
        let same = record.generation == self.state.accepted.generation
            && record.commits == self.state.accepted.commits
            && record.by == self.by()
            && self.sources.unmoved(&self.journal, &record.commits)
            && record.mirrors == self.sources.fingerprints()
            && PassFacts::new(&|| self.handle.facts()).contain(&record.facts)
            && pass::still_settled(&self.machine, &[Settled::Expectations(record.expectations)], &self.cancel);
        if same {
            tracing::debug!(generation = record.generation, "nothing has changed since the last pass");
        }
        same.then_some(Ended::Done)
    }

    fn by(&self) -> String {
        let text = format!("{} {:?}", env!("CARGO_PKG_VERSION"), self.settings);
        keyed_digest(&self.machine.digest_key, text.as_bytes())
    }

    /// Deletes the steady state. The node deletes the steady state before any change.
    pub(super) fn unsettle(&mut self) {
        self.settled = None;
        if self.settled_on_disk {
            let mut changes = Changes::default();
            changes.delete::<kinds::SteadyState>(&());
            self.save(changes);
            self.settled_on_disk = false;
        }
    }

    /// Records the steady state if the pass found all TaskBooks in sync.
    pub(super) fn remember_settled(&mut self, revision: &Revision, outcome: &mut PassOutcome, facts: &PassFacts<'_>) {
        let Some(checks) = outcome.settled.take() else { return };
        // The tasks were rendered with these facts. A fact that changes later causes another pass.
        let facts = facts.select(std::mem::take(&mut outcome.facts_read));
        self.keep_settled(revision, outcome, &facts, &checks);
        let commits = revision.commits.clone();
        self.settled = Some(SettledPass { generation: revision.generation, commits, facts, checks });
    }

    /// Writes the steady state to the journal for the next start of the agent, if all checks can be stored.
    fn keep_settled(
        &mut self,
        revision: &Revision,
        outcome: &PassOutcome,
        facts: &BTreeMap<String, Value>,
        checks: &[Settled],
    ) {
        let mut expectations = Vec::new();
        for check in checks {
            let Settled::Expectations(some) = check else { return };
            expectations.extend(some.iter().cloned());
        }
        if self.settled_on_disk || revision.generation == 0 || !self.sources.alone(&revision.set) {
            return;
        }
        let record = SteadyState {
            by: self.by(),
            generation: revision.generation,
            commits: revision.commits.clone(),
            facts: facts.clone(),
            mirrors: self.sources.fingerprints(),
            expectations,
        };
        let books = outcome.books.iter().map(pass::BookOutcome::status).collect();
        let mut changes = Changes::default();
        changes.set(&record);
        changes.set(&BookStatuses(books));
        self.save(changes);
        self.settled_on_disk = true;
    }
}
