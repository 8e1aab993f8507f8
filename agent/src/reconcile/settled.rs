//! A pass in which everything was as it should be, kept: as long as nothing it went by has moved, there is nothing to
//! load, to render or to do.
//!
//! It is forgotten on disk before anything is changed, so that what a crash leaves behind is never taken for settled.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use towpath_host::journal::{Changes, keyed_digest};
use towpath_modules::Expectation;

use super::{
    node::{Ended, Node},
    pass::{self, PassOutcome, Settled},
    revision::Revision,
};

/// Where the record stands in the journal.
const KEY: &str = "settled";

/// A pass in which everything was as it should be, and what it went by.
#[derive(Debug)]
pub(super) struct SettledPass {
    generation: u64,
    commits: BTreeMap<String, String>,
    /// The facts that were read, as they were.
    facts: BTreeMap<String, Value>,
    checks: Vec<Settled>,
}

/// The same, as the journal keeps it.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Record {
    /// A keyed digest of the agent's version and settings: with others it may see something else.
    by: String,
    generation: u64,
    commits: BTreeMap<String, String>,
    facts: BTreeMap<String, Value>,
    /// The mirrors, as they were when they were last found whole.
    mirrors: BTreeMap<String, String>,
    expectations: Vec<Expectation>,
}

impl Node {
    /// Whether all that the last pass found in order still is, by the same facts: then there is nothing to render.
    pub(super) fn nothing_moved(&self, revision: &Revision) -> bool {
        let same =
            |settled: &&SettledPass| settled.generation == revision.generation && settled.commits == revision.commits;
        let Some(settled) = self.settled.as_ref().filter(same) else { return false };
        self.state.is_applied()
            && self.state.troubles.is_empty()
            && !self.fleet.needs_republish()
            && self.same_facts(&settled.facts)
            && pass::still_settled(&self.machine, &settled.checks, &self.cancel)
    }

    fn same_facts(&self, known: &BTreeMap<String, Value>) -> bool {
        if known.is_empty() {
            return true;
        }
        let facts = self.handle.facts();
        known.iter().all(|(name, known)| facts.get(name) == Some(known))
    }

    /// Whether the agent that ran last left a settled pass behind by which everything still is as it should be: no
    /// source has moved, no setting, no fact and no file. Nothing is loaded to find that out.
    pub(super) fn settled_before(&mut self) -> Option<Ended> {
        let coordinated = self.settings.coordinated();
        let quiet = self.state.is_applied() && self.state.troubles.is_empty() && self.state.stalls.is_empty();
        let jumped = self.clock.wall() < self.state.looked;
        if coordinated || !quiet || jumped {
            return None;
        }
        let record: Record = self.journal.get(KEY).ok().flatten()?;
        let same = record.generation == self.state.accepted.generation
            && record.commits == self.state.accepted.commits
            && record.by == self.by()
            && self.sources.unmoved(&self.journal, &record.commits)
            && record.mirrors == self.sources.fingerprints()
            && self.same_facts(&record.facts)
            && pass::still_settled(&self.machine, &[Settled::Expectations(record.expectations)], &self.cancel);
        if same {
            tracing::debug!(generation = record.generation, "nothing has moved since the last pass");
        }
        same.then_some(Ended::Done)
    }

    fn by(&self) -> String {
        let text = format!("{} {:?}", env!("CARGO_PKG_VERSION"), self.settings);
        keyed_digest(&self.machine.digest_key, text.as_bytes())
    }

    /// Forgets the settled pass, before anything is changed.
    pub(super) fn unsettle(&mut self) {
        self.settled = None;
        if self.settled_on_disk {
            let mut changes = Changes::default();
            changes.delete(KEY);
            self.save(changes);
            self.settled_on_disk = false;
        }
    }

    /// Remembers a pass that found everything in order.
    pub(super) fn remember_settled(&mut self, revision: &Revision, outcome: &mut PassOutcome) {
        let Some(checks) = outcome.settled.take() else { return };
        let names = std::mem::take(&mut outcome.facts_read);
        let facts = if names.is_empty() { Value::Null } else { self.handle.facts() };
        let facts: BTreeMap<String, Value> =
            names.into_iter().filter_map(|name| Some((name.clone(), facts.get(&name)?.clone()))).collect();
        self.keep_settled(revision, outcome, &facts, &checks);
        let commits = revision.commits.clone();
        self.settled = Some(SettledPass { generation: revision.generation, commits, facts, checks });
    }

    /// Writes it down, where all of it can be: for the next agent that starts.
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
        let record = Record {
            by: self.by(),
            generation: revision.generation,
            commits: revision.commits.clone(),
            facts: facts.clone(),
            mirrors: self.sources.fingerprints(),
            expectations,
        };
        let books: Vec<_> = outcome.books.iter().map(pass::BookOutcome::status).collect();
        let mut changes = Changes::default();
        changes.put(KEY, &record);
        changes.put("books", &books);
        self.save(changes);
        self.settled_on_disk = true;
    }
}
