//! Refreshes the sources, and remembers the candidates that were rejected.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use towpath_host::Clock;
use towpath_state::{Changes, Journal, RejectedCandidates};

use super::{RefreshReport, Sources, beside::Beside};
use crate::node::{
    inbox::{
        Inbox,
        poller::{Polled, Poller},
    },
    writer::Effects,
};

/// The maximum number of rejected candidates that the node remembers (P23).
const REJECTED: usize = 100;

/// The candidate revisions that the heads of the sources make.
#[derive(Debug)]
pub(in crate::node) struct Candidates {
    sources: Arc<Sources>,
    journal: Arc<Journal>,
    rejected: BTreeSet<BTreeMap<String, String>>,
    polled: Polled,
    /// The refresh in progress, for these accepted commits.
    fetching: Beside<BTreeMap<String, String>, RefreshReport>,
}

/// A refresh of the sources.
#[derive(Debug)]
pub(in crate::node) struct Refreshed {
    pub(in crate::node) report: RefreshReport,
    pub(in crate::node) effects: Effects<'static>,
    /// The changes of the journal, for the end of the refresh.
    pub(in crate::node) changes: Changes,
}

impl Candidates {
    pub(in crate::node) fn new(
        sources: Arc<Sources>,
        journal: Arc<Journal>,
        RejectedCandidates(rejected): RejectedCandidates,
        fetching: Beside<BTreeMap<String, String>, RefreshReport>,
    ) -> Self {
        Self { sources, journal, rejected, polled: Polled::default(), fetching }
    }

    /// Makes the refreshes end after a limited time, for the main loop of an agent.
    pub(in crate::node) fn limit(&mut self, patience: Duration) {
        self.fetching.limit(patience);
    }

    /// Refreshes all sources. `accepted` contains the accepted commits, and `now` is the time in milliseconds since
    /// 1970. `None` if a git server has not answered yet. The inbox is notified when the refresh ends.
    pub(in crate::node) fn refresh(&mut self, accepted: &BTreeMap<String, String>, now: i64) -> Option<Refreshed> {
        let seconds = u64::try_from(now / 1000).unwrap_or(0);
        let (sources, journal) = (Arc::clone(&self.sources), Arc::clone(&self.journal));
        let (known, rejected) = (accepted.clone(), self.rejected.clone());
        let refresh = move || sources.refresh(&journal, &known, &rejected, seconds);
        let report = self.fetching.ask(accepted.clone(), refresh)?;
        for problem in &report.problems {
            tracing::error!("{}", towpath_git::without_secrets(&problem.to_string()));
        }
        let is_news = !report.refused.is_subset(&self.rejected);
        self.rejected.extend(report.refused.iter().cloned());
        while self.rejected.len() > REJECTED {
            self.rejected.pop_first();
        }
        self.polled.set(&report.sources, &report.heads);
        let mut changes = Changes::default();
        if is_news {
            changes.set(&RejectedCandidates(self.rejected.clone()));
        }
        let effects = report.inputs.iter().cloned().fold(Effects::default(), Effects::input);
        Some(Refreshed { report, effects, changes })
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

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use towpath_git::{Auth, Limits, Options, Reference, VerifyOptions};

    use super::*;
    use crate::{config::Source, node::sources::beside::Turn};

    /// The server accepts the connection, and never answers.
    #[test]
    fn server_that_never_answers_does_not_hold_the_caller() {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let folder = tempfile::tempdir().unwrap();
        let (journal, _) = Journal::open(folder.path()).unwrap();
        let git = Options {
            name: "fleet".into(),
            url: format!("https://{}/fleet.git", server.local_addr().unwrap()),
            reference: Reference::Branch("main".into()),
            path: String::new(),
            auth: Auth::default(),
            verify: VerifyOptions::default(),
            allow_rewind: false,
            limits: Limits::default(),
        };
        let source = Source { git, interval: Duration::from_secs(60), library: false, globals: true };
        let sources = Sources::new(folder.path().join("mirrors"), vec![source]);
        let mut fetching = Beside::new(Turn::default(), Inbox::default());
        fetching.limit(Duration::from_millis(50));
        let rejected = RejectedCandidates::default();
        let mut candidates = Candidates::new(Arc::new(sources), Arc::new(journal), rejected, fetching);
        assert!(candidates.refresh(&BTreeMap::new(), 0).is_none());
        assert!(candidates.refresh(&BTreeMap::new(), 0).is_none(), "the first refresh is still in progress");
    }
}
