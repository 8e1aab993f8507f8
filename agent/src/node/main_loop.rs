//! The main loop of the agent of one node: wakeups and passes.

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
    thread,
    time::Duration,
};

use towpath_coordination::{
    Store,
    fleet::{self, Fleet},
};
use towpath_host::{Clock, Host, facts, identity::Credentials, lock::StateDir, own, process::Cancel};
use towpath_state::{Journal, Phase};

use super::{
    acceptance::Acceptance,
    error::NodeError,
    inbox::{Inbox, pace::Retry, poller::jittered},
    membership::{Membership, identity::NodeIdentity},
    passes::{
        Passes,
        managed_files::ManagedFiles,
        report::{self, Report},
        steady_state::SteadyState,
    },
    sources::{
        Sources,
        candidates::Candidates,
        requests::{self, Requests},
    },
    writer::StateWriter,
};
use crate::{
    config::{Reconcile, Settings},
    events::{EventType, Events, NewEvent},
    reconcile::{
        PassFacts, Permit, Revision,
        pass::{self, BookStatuses, HostContext, Outcome, PassOutcome, Watched},
    },
    status::{
        FleetView, PeerService, Queries, StatusSnapshot,
        conditions::{ConditionReason, Input},
        happenings,
    },
};

/// The maximum number of times that a pass is repeated immediately. A pass is repeated if managed files change while
/// the pass runs.
const MAX_REPETITIONS: usize = 10;

/// The longest time that `towpath agent --once` waits until a gate opens.
const GATE_WAIT: Duration = Duration::from_secs(5);

/// The arguments for opening a node.
#[derive(Debug)]
pub struct Options {
    /// The settings of the bootstrap file.
    pub settings: Settings,
    /// The data store of the fleet.
    pub store: Arc<dyn Store>,
    /// The wall clock and the monotonic clock.
    pub clock: Arc<dyn Clock>,
    /// The certificate of the node. `credentials` is `None` if the cluster does not use certificates.
    pub credentials: Option<Arc<Credentials>>,
}

/// The agent of one node: its settings and its stages.
#[derive(Debug)]
pub struct Node {
    pub(super) settings: Arc<Settings>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) inbox: Inbox,
    pub(super) writer: StateWriter,
    pub(super) sources: Arc<Sources>,
    pub(super) candidates: Candidates,
    pub(super) acceptance: Acceptance,
    pub(super) membership: Membership,
    passes: Passes,
    steady_state: SteadyState,
}

/// The end of a pass.
#[derive(Debug)]
struct PassEnd {
    worst: Outcome,
    /// The versions of the managed files, as the pass read the files. `watched` is `None` if the pass checked no
    /// managed file.
    watched: Option<Watched>,
    /// True if the pass was preempted. After a preempted pass, the main loop starts a new pass immediately.
    is_preempted: bool,
}

/// The errors that keep the node from following the fleet.
#[derive(Debug, Default)]
struct Errors {
    /// The time of the next refresh, which finds out whether an error has ended.
    retry: Retry,
    /// The number of consecutive passes with an error.
    count: u32,
}

/// The result of one run of `towpath agent --once`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunResult {
    /// All TaskBooks are in sync.
    Done,
    /// A source could not be reached, so the last good revision was applied.
    Unreachable,
    /// A commit was rejected, so the last good revision was applied.
    Rejected,
    /// At least one task failed.
    Failed,
    /// At least one change is held, for example because the maintenance window is closed.
    Held,
}

impl Node {
    /// Opens a node: locks its state directory and restores its state from the journal.
    ///
    /// # Errors
    /// Fails if the state directory, the journal, the identity or the root cannot be opened.
    pub fn open(options: Options) -> Result<Self, NodeError> {
        let Options { settings, store, clock, credentials } = options;
        let state_dir = StateDir::take(&settings.state_dir, &settings.node)?;
        let (journal, damaged) = Journal::open(state_dir.path())?;
        let journal = Arc::new(journal);
        let digest_key = journal.digest_key()?;
        own::files::create_folder(&settings.root)
            .map_err(|source| NodeError::Root { root: settings.root.clone(), source })?;
        let host =
            Host::at(&settings.root).map_err(|source| NodeError::Root { root: settings.root.clone(), source })?;
        let (reader, writer) = host.split();
        let own = settings.node.clone();
        let machine = HostContext::new(
            own.clone(),
            reader,
            Some(Arc::clone(&journal)),
            Arc::clone(&clock),
            digest_key,
            writer.written(),
        );
        let machine = Arc::new(machine);
        let interrupted = pass::recover(&journal, Permit::after_a_crash(&writer))?;
        let events = Events::new(own.clone(), Some(Arc::clone(&journal)));
        let facts = facts::Options { facts_d: settings.facts_d.clone(), ..facts::Options::default() };
        let identity = Arc::new(NodeIdentity::open(&settings, credentials, &journal, &*clock)?);
        store.keep_in(&journal)?;
        let store = identity.signed_store(store);
        let fleet = Arc::new(Fleet::new(Arc::clone(&store), own.clone(), Arc::clone(&clock)));
        fleet.read_as(identity.signing_identity());
        let (revision, mark) = pass::store_position(&journal);
        fleet.resume(revision, mark);
        let insecure = store.shared() && !identity.is_certified();
        let (cluster, keys) = (settings.cluster.clone(), identity.keys().texts().to_vec());
        let status = StatusSnapshot::with_keys(own, cluster, events, keys, insecure);
        status.set_warnings(settings.warnings.clone());
        let state = journal.get_readable(&())?.unwrap_or_default();
        let BookStatuses(books) = journal.get_readable(&())?.unwrap_or_default();
        status.set_books(books);
        let gossip = Arc::new(OnceLock::new());
        let seen = (Some(Arc::clone(&fleet)), Some(Arc::clone(&journal)));
        let fleet_view = FleetView::new(status.clone(), seen.0, seen.1, Arc::clone(&gossip));
        let queries = Queries::new(
            status.clone(),
            fleet_view,
            Arc::clone(&machine),
            facts,
            settings.reconcile,
            settings.coordinated(),
        );
        let peers =
            PeerService::new(status.clone(), Arc::clone(&fleet), identity.signer(), identity.incarnation(), gossip);
        let (settings, inbox) = (Arc::new(settings), Inbox::default());
        let requests = Requests::new(inbox.clone(), Arc::clone(&clock));
        let sources = Sources::new(settings.state_dir.join("mirrors"), settings.sources.clone(), requests);
        let sources = Arc::new(sources);
        let rejected = journal.get_readable(&())?.unwrap_or_default();
        let passes = Passes::new(
            Arc::clone(&settings),
            (Arc::clone(&machine), writer),
            Arc::clone(&fleet),
            queries,
            inbox.clone(),
        );
        let node = Self {
            writer: StateWriter::new(state, Arc::clone(&journal), status, Arc::clone(&identity), Arc::clone(&clock)),
            candidates: Candidates::new(Arc::clone(&sources), Arc::clone(&journal), rejected),
            acceptance: Acceptance::new(
                Arc::clone(&settings),
                Arc::clone(&store),
                Arc::clone(&journal),
                Arc::clone(&sources),
                peers,
                Arc::clone(&clock),
            ),
            membership: Membership::new(Arc::clone(&settings), store, fleet, identity, Arc::clone(&clock), state_dir),
            steady_state: SteadyState::new(
                Arc::clone(&settings),
                Arc::clone(&sources),
                journal,
                machine,
                passes.cancel().clone(),
            ),
            passes,
            settings,
            clock,
            inbox,
            sources,
        };
        if let Some(aside) = damaged {
            let message = format!(
                "cannot read the journal: its content is damaged; the agent renamed the journal to {} and lost its pending work",
                aside.display()
            );
            let event = NewEvent::new(EventType::AgentJournalDamaged, message).because("JournalDamaged");
            node.writer.record_events(vec![event]);
        }
        if let Some(intent) = interrupted.filter(|intent| intent.phase != Phase::Idle) {
            tracing::warn!(book = intent.book, phase = ?intent.phase, "the last run of the agent was interrupted; resuming");
        }
        Ok(node)
    }

    /// Returns the component that answers queries about the node.
    pub fn queries(&self) -> Queries {
        self.passes.queries().clone()
    }

    /// Returns the service that the node offers to the other nodes.
    pub fn peers(&self) -> PeerService {
        self.acceptance.peers().clone()
    }

    /// Returns the inbox that wakes the main loop of the node.
    pub fn inbox(&self) -> Inbox {
        self.inbox.clone()
    }

    /// Returns the flag that cancels running commands.
    pub fn cancel(&self) -> Cancel {
        self.passes.cancel().clone()
    }

    /// Records events for a start of the agent, a new version of the agent, and a reboot of the node.
    fn record_start(&self) {
        let last = self.writer.events().last_start().map(|event| event.data);
        let (version, boot) = (env!("CARGO_PKG_VERSION"), facts::boot_id().unwrap_or_default());
        self.writer.record_events(happenings::of_start(last.as_ref(), version, &boot));
    }

    /// Runs the TaskBooks of the accepted revision. Returns `None` if no revision is accepted, or if the state
    /// directory was lost.
    pub fn pass(&mut self) -> Option<Outcome> {
        self.run_books().map(|end| end.worst)
    }

    fn run_books(&mut self) -> Option<PassEnd> {
        self.membership.fleet().begin_pass();
        let revision = self.acceptance.revision()?;
        if self.has_lost_its_state() {
            return None;
        }
        self.writer.step(Input::Tick(self.clock.wall()));
        self.acceptance.peers().end_lost(self.clock.wall());
        let certificates = self.membership.certificate_events();
        self.writer.write(certificates);
        self.membership.answer(&revision);
        let queries = self.queries();
        let gather = || queries.facts();
        let facts = PassFacts::new(&gather);
        let is_steady = !self.membership.fleet().needs_republish()
            && self.steady_state.holds(&revision, self.writer.state(), &facts);
        if is_steady {
            if !self.membership.has_published() {
                self.membership.publish(self.writer.state(), &revision, &facts);
            }
            self.warn_if_alone(&revision);
            return Some(PassEnd { worst: Outcome::Unchanged, watched: None, is_preempted: false });
        }
        self.invalidate_steady_state();
        let state = self.writer.state();
        let fresh = !state.is_at(state.applied.as_ref()) || !state.is_applied();
        if fresh && !state.is_at(state.attempted.as_ref()) {
            self.writer.step(Input::Began);
            self.writer.write(report::begin_runs(&self.writer.journal(), &revision));
        }
        let mut outcome = self.run_pass(&revision, &facts, fresh);
        for _ in 0..MAX_REPETITIONS {
            if !outcome.conflict || self.inbox.should_preempt() {
                break;
            }
            thread::sleep(Duration::from_millis(50));
            self.writer.write(report::of_changes(&self.writer.journal(), &outcome));
            outcome = self.run_pass(&revision, &facts, fresh);
        }
        let watched = std::mem::take(&mut outcome.watched);
        let steady_checks = self.steady_state.remember(&revision, &mut outcome, &facts);
        self.writer.write(steady_checks);
        self.report(&revision, &outcome, fresh);
        // The node publishes its facts as they are after the changes of the pass.
        let after = PassFacts::new(&gather);
        let latest = if outcome.worst() > Outcome::Unchanged { &after } else { &facts };
        self.membership.publish(self.writer.state(), &revision, latest);
        self.warn_if_alone(&revision);
        Some(PassEnd { worst: outcome.worst(), watched: Some(watched), is_preempted: outcome.interrupted })
    }

    fn run_pass(&mut self, revision: &Revision, facts: &PassFacts<'_>, fresh: bool) -> PassOutcome {
        let (machine, journal) = (self.passes.machine(), self.writer.journal());
        self.writer.write(self.membership.republish_claims(machine, &journal, revision));
        self.passes.run(revision, facts.all(), fresh)
    }

    /// Reports the outcome of a pass. The status of the TaskBooks is published before the conditions. A reader that
    /// sees the end of a pass in the conditions also sees the TaskBooks of the pass.
    fn report(&mut self, revision: &Revision, outcome: &PassOutcome, fresh: bool) {
        self.writer.show_books(report::statuses(outcome));
        self.writer.step(report::passed(revision, outcome));
        let (journal, fleet) = (self.writer.journal(), self.membership.fleet());
        let report = Report { journal: &journal, fleet, revision, fresh };
        let effects = report.of_pass(self.writer.state(), outcome);
        self.writer.write(effects);
    }

    fn warn_if_alone(&mut self, revision: &Revision) {
        let effects = self.membership.warn_if_alone(revision);
        self.writer.write(effects);
    }

    /// Deletes the steady state. The node deletes the record of its steady state before it changes anything.
    pub(super) fn invalidate_steady_state(&mut self) {
        let effects = self.steady_state.invalidate();
        self.writer.write(effects);
    }

    /// Refreshes the sources, runs the TaskBooks, and returns the result. The pass is repeated if a newer commit
    /// arrives, or if a gate opens within seconds after the pass.
    pub fn once(&mut self) -> RunResult {
        let queries = self.queries();
        let gather = || queries.facts();
        if self.steady_state.held_before(self.writer.state(), self.clock.wall(), &PassFacts::new(&gather)) {
            return RunResult::Done;
        }
        let refreshed = self.refresh_and_propose();
        let Some(mut worst) = self.pass() else {
            return if refreshed == RunResult::Done { RunResult::Rejected } else { refreshed };
        };
        if self.inbox.should_preempt() && !self.inbox.stops() {
            self.inbox.take(Duration::ZERO);
            worst = self.pass().unwrap_or(worst);
        }
        // Waits for gates that open soon, such as the gates of a data store that has just become reachable.
        for _ in 0..3 {
            let now = self.clock.monotonic();
            let soon = self
                .membership
                .fleet()
                .due()
                .map(|due| due.saturating_duration_since(now))
                .filter(|wait| *wait < GATE_WAIT);
            // An error rarely ends within seconds, so the node does not wait for the end of an error.
            let opens = worst == Outcome::Held && !self.membership.fleet().has_error() && !self.inbox.stops();
            let Some(wait) = soon.filter(|_| opens) else { break };
            thread::sleep(wait);
            worst = self.pass().unwrap_or(worst);
        }
        match (worst, refreshed) {
            (Outcome::Failed, _) => RunResult::Failed,
            (_, RunResult::Rejected | RunResult::Unreachable) => refreshed,
            (Outcome::Held, _) => RunResult::Held,
            _ => RunResult::Done,
        }
    }

    /// Runs the main loop until the agent is stopped. Each iteration of the loop calls `alive` with a summary of the
    /// node's state.
    pub fn run(&mut self, alive: &dyn Fn(&str)) {
        let mirrors = self.settings.state_dir.join("mirrors");
        let (clock, name) = (Arc::clone(&self.clock), self.settings.node.clone());
        self.sources.limit(requests::PATIENCE);
        let poller = self.candidates.start_poller(self.inbox.clone(), clock, mirrors, name);
        let mut files = ManagedFiles::new(Arc::clone(self.passes.machine()), self.inbox.clone());
        self.load_last_good();
        self.record_start();
        // The first pass can take minutes, so the agent reports a successful start before the first pass.
        alive("begins");
        self.refresh_and_propose();
        let mut errors = Errors::default();
        self.note_errors(&mut errors.retry);
        let mut next = self.clock.monotonic();
        let mut cause = "start";
        let mut is_preempted = false;
        // True if the loop did work after it last returned memory to the operating system.
        let mut used = true;
        loop {
            if self.inbox.stops() {
                break;
            }
            let now = self.clock.monotonic();
            if now >= next {
                used = true;
                tracing::debug!(target: "towpath_coordination::wake", cause, "looks");
                cause = "timer";
                if self.is_behind() {
                    errors.retry.take(now);
                    self.refresh_and_propose();
                }
                let end = self.run_books();
                is_preempted = end.as_ref().map_or(is_preempted, |end| end.is_preempted);
                self.note_errors(&mut errors.retry);
                files.pass_ended(end.and_then(|end| end.watched), self.clock.monotonic());
                let unseen = files.watch();
                next = self.clock.monotonic() + self.next_interval(&mut errors.count);
                // A change causes no file event if its directory was not yet watched.
                if files.are_touched(&unseen) {
                    next = next.min(files.next_pass(self.clock.monotonic(), self.reconcile().interval));
                }
            }
            alive(&self.writer.state().summary());
            if let Some(due) = self.membership.fleet().due() {
                next = next.min(due);
            }
            let wake_at = errors.retry.due().map_or(next, |due| due.min(next));
            let left = wake_at.saturating_duration_since(self.clock.monotonic()).min(Duration::from_secs(10));
            if used {
                // The loop may now wait for minutes, so it returns unused memory to the operating system.
                towpath_host::memory::give_back();
            }
            let work = self.inbox.take(left);
            used = !work.is_empty();
            if work.stop {
                self.inbox.notify(|work| work.stop = true);
                break;
            }
            let again = errors.retry.take(self.clock.monotonic()) && self.store_answers();
            let is_news = work.source_changed || work.poll || work.accepted || again;
            if is_news || work.answered {
                let before = self.writer.state().accepted.clone();
                self.refresh_and_propose();
                let state = self.writer.state();
                let is_behind = again && self.membership.fleet().is_behind();
                if !state.is_at(Some(&before)) || is_news && !state.is_applied() || is_behind {
                    (next, cause) = (self.clock.monotonic(), "news");
                }
            }
            self.note_errors(&mut errors.retry);
            if is_preempted || work.check {
                (next, cause) = (self.clock.monotonic(), "news");
            } else if files.are_touched(&work.touched) {
                next = next.min(files.next_pass(self.clock.monotonic(), self.reconcile().interval));
                cause = "news";
            }
        }
        drop(poller);
        let stopped = NewEvent::new(EventType::AgentStopped, "the agent was stopped").because("Stopped");
        self.writer.record_events(vec![stopped]);
        self.writer.save_known_writers();
        if !pass::holds_slots(&self.writer.journal()) {
            // A node that holds a slot stays a member of the fleet: it restarts soon, or its lease expires.
            self.membership.fleet().leave();
            self.acceptance.peers().leave_gossip();
        }
    }

    /// Returns true if a source or the node has a problem that only a refresh can end. The poller reports only changed
    /// heads, so the main loop must repeat a failed fetch.
    fn is_behind(&self) -> bool {
        let of_refresh = |problems: &BTreeMap<String, ConditionReason>| {
            problems.keys().any(|key| key.starts_with("source ") || key.starts_with("node "))
        };
        let state = self.writer.state();
        of_refresh(&state.problems) || of_refresh(&state.stalled)
    }

    /// Schedules the next refresh if an error keeps the node from agreeing with the fleet. Only a refresh can find out
    /// whether the error has ended.
    fn note_errors(&self, retry: &mut Retry) {
        // A conflict with the settings of this node ends only with a restart of the agent, so the node does not retry.
        let passing =
            |key: &&str| self.writer.state().problems.get(*key).is_some_and(|problem| problem.reason != "Refused");
        let failing = ["node store", "node accepted"].iter().any(passing);
        // The data store has lost the record of the accepted revision, or the announcement of the record did not
        // arrive.
        let behind = self.membership.fleet().is_behind() && !self.acceptance.has_adoption_error();
        retry.noted(failing || behind, self.clock.monotonic());
    }

    /// Returns whether the data store answers. A refresh of the sources has no effect while the data store is
    /// unreachable.
    fn store_answers(&self) -> bool {
        let away = self.writer.state().problems.contains_key("node store");
        !away || self.membership.store_answers()
    }

    /// Returns the reconcile interval, its jitter and the drift policy.
    fn reconcile(&self) -> Reconcile {
        let revision = self.acceptance.revision();
        self.settings.reconcile.or_of(revision.iter().flat_map(|revision| revision.set.configs.values()))
    }

    /// Returns the time until the next pass. The pause is short while an error keeps the node from following the fleet.
    fn next_interval(&self, errors: &mut u32) -> Duration {
        let Reconcile { interval, jitter, .. } = self.reconcile();
        let waits = |key: &&str| self.writer.state().problems.contains_key(*key);
        if ["node store", "node accepted", "node fleet"].iter().any(waits) {
            let name = self.settings.node.bytes();
            let spread = name.fold(7_u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(byte)));
            let pause = fleet::backed_off(*errors, spread);
            *errors = errors.saturating_add(1);
            return interval.min(pause);
        }
        *errors = 0;
        let soon = self
            .writer
            .state()
            .problems
            .values()
            .any(|problem| ["DiskFull", "ReadOnly", "JournalDamaged", "JournalFailed"].contains(&&*problem.reason));
        let interval = if soon {
            interval.min(Duration::from_secs(15))
        } else if self.writer.state().is_applied() {
            interval
        } else {
            interval.min(Duration::from_secs(60))
        };
        jittered(interval, jitter, &self.settings.node, self.clock.wall())
    }
}
