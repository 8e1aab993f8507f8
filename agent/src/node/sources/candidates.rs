//! Refreshes the sources, and remembers the candidates that were rejected.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
};

use towpath_host::Clock;
use towpath_state::{Changes, Journal, RejectedCandidates};

use super::{RefreshReport, Sources};
use crate::node::{
    inbox::{
        Inbox,
        poller::{Polled, Poller},
    },
    writer::Effects,
};
use crate::status::conditions::Input;

/// The maximum number of rejected candidates that the node remembers (P23).
const REJECTED: usize = 100;

/// The candidate revisions, which consist of the heads of the sources.
#[derive(Debug)]
pub(in crate::node) struct Candidates {
    sources: Arc<Sources>,
    journal: Arc<Journal>,
    rejected: BTreeSet<BTreeMap<String, String>>,
    polled: Polled,
}

/// A refresh of the sources.
#[derive(Debug)]
pub(in crate::node) struct Refreshed {
    pub(in crate::node) report: RefreshReport,
    pub(in crate::node) effects: Effects<'static>,
    /// The journal changes to write at the end of the refresh.
    pub(in crate::node) changes: Changes,
}

impl Candidates {
    pub(in crate::node) fn new(
        sources: Arc<Sources>,
        journal: Arc<Journal>,
        RejectedCandidates(rejected): RejectedCandidates,
    ) -> Self {
        Self { sources, journal, rejected, polled: Polled::default() }
    }

    /// Refreshes all sources. `accepted` contains the accepted commits, and `now` is the time in milliseconds since
    /// 1970.
    pub(in crate::node) fn refresh(&mut self, accepted: &BTreeMap<String, String>, now: i64) -> Refreshed {
        let seconds = u64::try_from(now / 1000).unwrap_or(0);
        let report = self.sources.refresh(&self.journal, accepted, &self.rejected, seconds);
        for problem in &report.problems {
            tracing::error!("{}", towpath_git::without_secrets(&problem.to_string()));
        }
        let is_news = !report.refused.is_subset(&self.rejected);
        self.rejected.extend(report.refused.iter().cloned());
        while self.rejected.len() > REJECTED {
            self.rejected.pop_first();
        }
        let heads = report.heads.iter().map(|(name, (head, _))| (name.clone(), head.clone())).collect();
        self.polled.set(&report.sources, heads, report.pending.is_empty());
        let mut changes = Changes::default();
        if is_news {
            changes.set(&RejectedCandidates(self.rejected.clone()));
        }
        let pending = Input::Pending(report.pending.values().cloned().collect());
        let inputs = report.inputs.iter().cloned().chain([pending]);
        let mut effects = inputs.fold(Effects::default(), Effects::input);
        if !report.seen.is_empty() {
            // These checkpoints are written before a proposal, which replaces them.
            let mut seen = Changes::default();
            report.seen.iter().for_each(|(name, checkpoint)| seen.put(name, checkpoint));
            effects = effects.changes(seen);
        }
        Refreshed { report, effects, changes }
    }

    /// Starts the thread that polls the sources.
    pub(in crate::node) fn start_poller(
        &self,
        inbox: Inbox,
        clock: Arc<dyn Clock>,
        mirrors: PathBuf,
        node: String,
    ) -> Poller {
        Poller::start(self.polled.clone(), inbox, clock, mirrors, node)
    }
}
