//! The main loop of the agent of one node: wakeups, passes and persistent state.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use thiserror::Error;
use towpath_coordination::{
    Store,
    fleet::{self, Fleet},
};
use towpath_host::{
    Clock, Look, facts,
    identity::{Credentials, IdentityError},
    lock::{LockError, StateDir},
    process::Cancel,
    watch::{FileWatch, Touched},
};
use towpath_render::rendering::Inputs;
use towpath_state::{Changes, Intent, Journal, JournalError, Phase, RejectedCandidates};

use super::{
    Handle, Queue,
    adoption::NotFollowed,
    conditions::{self, Input, State, Trouble},
    execute::Executor,
    facts::PassFacts,
    pass::{self, BookStatuses, ComputedCache, Coordination, Machine, Outcome, Pass, PassOutcome, Watched},
    poller::{Polled, Poller, jittered},
    reporting::happenings,
    revision::Revision,
    settled::SettledPass,
    sources::Sources,
    speech::Speech,
    waiting::{LackingWait, Retry, TouchPace},
};
use crate::{
    config::{Reconcile, Settings},
    events::{EventType, Events, NewEvent},
};

/// The maximum number of immediate repetitions of a pass. A pass is repeated if files change while it runs.
const LOOKS: usize = 10;

/// The longest time that `towpath agent --once` waits for a gate to open.
const SOON: Duration = Duration::from_secs(5);

/// The arguments for opening a node.
#[derive(Debug)]
pub struct Options {
    /// The settings of the bootstrap file.
    pub settings: Settings,
    /// The data store of the fleet.
    pub store: Arc<dyn Store>,
    /// The wall clock and the monotonic clock.
    pub clock: Arc<dyn Clock>,
    /// The certificate of the node. `None` if the cluster does not use certificates.
    pub credentials: Option<Arc<Credentials>>,
}

/// An error that prevents the start of a node.
#[derive(Debug, Error)]
pub enum NodeError {
    /// The state directory cannot be locked.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The journal cannot be opened or read.
    #[error("cannot start the node")]
    Journal(#[from] JournalError),
    /// The identity of the node cannot be read or created.
    #[error("cannot load the identity of the node")]
    Identity(#[from] IdentityError),
    /// The root directory of the managed files cannot be created or opened.
    #[error("cannot open the root {root}", root = .root.display())]
    Root {
        /// The path of the root directory.
        root: PathBuf,
        /// The error of the operating system.
        source: std::io::Error,
    },
}

/// The agent of one node: settings, sources, state and connections.
#[derive(Debug)]
pub struct Node {
    pub(super) settings: Settings,
    pub(super) store: Arc<dyn Store>,
    pub(super) fleet: Arc<Fleet>,
    pub(super) speech: Speech,
    /// The state and the shared facts that this node last published to the other nodes.
    pub(super) last_published: Option<(Vec<u8>, Option<serde_json::Value>)>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) machine: Arc<Machine>,
    pub(super) journal: Arc<Journal>,
    pub(super) sources: Sources,
    pub(super) state: State,
    pub(super) revision: Option<Arc<Revision>>,
    pub(super) rejected: BTreeSet<BTreeMap<String, String>>,
    /// The accepted revision that this node does not adopt, with the reason.
    pub(super) unfollowed: Option<NotFollowed>,
    /// The wait for the thing that the node lacks to adopt this revision.
    pub(super) lacking: LackingWait,
    /// The time of the next refresh after an error whose end is not reported by an event.
    retry: Retry,
    computed: ComputedCache,
    pub(super) settled: Option<SettledPass>,
    /// True if the journal may contain a record of the steady state.
    pub(super) settled_on_disk: bool,
    /// True if the last pass was preempted. The main loop then starts a new pass immediately.
    made_way: bool,
    /// The number of consecutive passes in which an error kept the node from following the fleet.
    errors: u32,
    /// True if the agent watches the managed files. The versions of files are recorded only in this case.
    follows_files: bool,
    pub(super) handle: Handle,
    pub(super) queue: Queue,
    pub(super) cancel: Cancel,
    /// The versions of the managed files. The last pass read each version before it checked the file.
    versions: Arc<Mutex<Watched>>,
    pub(super) polled: Polled,
    pub(super) state_dir: StateDir,
    /// The time at which the node was opened. `None` with a local data store, or if another node has joined.
    pub(super) alone_since: Option<Instant>,
}

/// The result of one run of `towpath agent --once`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// All TaskBooks are in sync.
    Done,
    /// A source could not be reached. The last good revision was applied.
    Unreachable,
    /// A commit was rejected. The last good revision was applied.
    Rejected,
    /// At least one task failed.
    Failed,
    /// At least one change is held, for example by a maintenance window.
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
        std::fs::create_dir_all(&settings.root)
            .map_err(|source| NodeError::Root { root: settings.root.clone(), source })?;
        let look =
            Look::at(&settings.root).map_err(|source| NodeError::Root { root: settings.root.clone(), source })?;
        let machine = Arc::new(Machine::new(
            settings.node.clone(),
            look,
            Some(Arc::clone(&journal)),
            Arc::clone(&clock),
            digest_key,
        ));
        let events = Events::new(settings.node.clone(), Some(Arc::clone(&journal)));
        let facts = facts::Options { facts_d: settings.facts_d.clone(), ..facts::Options::default() };
        let speech = Speech::new(&settings, credentials, &journal, &*clock)?;
        store.keep_in(&journal)?;
        let store = speech.through(store);
        let fleet = Arc::new(Fleet::new(Arc::clone(&store), settings.node.clone(), Arc::clone(&clock)));
        fleet.read_as(speech.bearer());
        let (revision, mark) = pass::store_position(&journal);
        fleet.resume(revision, mark);
        let handle = Handle::new(
            settings.node.clone(),
            settings.cluster.clone(),
            Arc::clone(&machine),
            facts,
            settings.reconcile,
            events,
            Some(Arc::clone(&fleet)),
        );
        handle.introduce(speech.signer(), speech.life(), store.shared() && !speech.is_certified());
        handle.set_warnings(settings.warnings.clone());
        let state: State = journal.get_readable(&())?.unwrap_or_default();
        let BookStatuses(books) = journal.get_readable(&())?.unwrap_or_default();
        handle.set_state(&state);
        handle.set_books(books);
        let alone_since = store.shared().then(|| clock.monotonic());
        let sources = Sources::new(settings.state_dir.join("mirrors"), settings.sources.clone());
        let RejectedCandidates(rejected) = journal.get_readable(&())?.unwrap_or_default();
        let node = Self {
            sources,
            speech,
            fleet,
            last_published: None,
            state,
            rejected,
            unfollowed: None,
            lacking: LackingWait::default(),
            retry: Retry::default(),
            handle,
            machine,
            journal,
            store,
            clock,
            settings,
            revision: None,
            computed: ComputedCache::default(),
            settled: None,
            settled_on_disk: true,
            made_way: false,
            errors: 0,
            follows_files: false,
            queue: Queue::default(),
            cancel: Cancel::default(),
            versions: Arc::default(),
            polled: Polled::default(),
            state_dir,
            alone_since,
        };
        if let Some(aside) = damaged {
            let message = format!(
                "cannot read the journal; the agent renamed it to {} and lost the pending work that it recorded",
                aside.display()
            );
            node.record_events(vec![NewEvent::new(EventType::AgentJournalDamaged, message).because("JournalDamaged")]);
        }
        if let Some(intent) = pass::recover(&node.machine)?
            && intent.phase != Phase::Idle
        {
            tracing::warn!(book = intent.book, phase = ?intent.phase, "the last run of the agent was interrupted; resuming");
        }
        Ok(node)
    }

    /// Returns the query API of the node.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Returns the queue that wakes the main loop of the node.
    pub fn queue(&self) -> Queue {
        self.queue.clone()
    }

    /// Returns the flag that cancels running commands.
    pub fn cancel(&self) -> Cancel {
        self.cancel.clone()
    }

    /// Records events in the event log. An error of the event log is only logged.
    pub(super) fn record_events(&self, events: Vec<NewEvent>) {
        if let Err(error) = self.handle.events().record(self.clock.wall(), events) {
            tracing::warn!(%error, "cannot record an event");
        }
    }

    /// Replaces the firing alarms among the events that `covers` selects.
    pub(super) fn set_alarms(&self, covers: impl Fn(&NewEvent) -> bool, firing: Vec<NewEvent>) {
        if let Err(error) = self.handle.events().set_alarms(self.clock.wall(), covers, firing) {
            tracing::warn!(%error, "cannot record an event");
        }
    }

    /// Applies an input to the state machine, records the resulting events, and publishes the new state in the status.
    pub(super) fn step(&mut self, input: Input) {
        let before = std::mem::take(&mut self.state);
        self.record_events(happenings::of_change(&before, &input));
        self.state = conditions::step(before, input);
        self.set_alarms(happenings::is_of_state, happenings::of_state(&self.state));
        self.handle.set_state(&self.state);
    }

    pub(super) fn save(&mut self, mut changes: Changes) {
        changes.set(&self.state);
        self.speech.keep(&mut changes, self.clock.monotonic(), false);
        if let Err(error) = self.journal.commit(changes) {
            let reason = match error {
                JournalError::ReadOnly { .. } => "ReadOnly",
                _ => "DiskFull",
            };
            let message =
                format!("{error}; free space below the state directory; the agent then continues without a restart");
            self.step(Input::Own("journal", Some(Trouble::new(reason, message))));
        } else if self.state.troubles.contains_key("node journal") {
            self.step(Input::Own("journal", None));
        }
    }

    /// Records events for the start of the agent, for a new version of the agent, and for a reboot of the node.
    fn record_start(&self) {
        let last = self.handle.events().last_start().map(|event| event.data);
        let (version, boot) = (env!("CARGO_PKG_VERSION"), facts::boot_id().unwrap_or_default());
        self.record_events(happenings::of_start(last.as_ref(), version, &boot));
    }

    /// Saves the last seen record number of each writer when the agent ends.
    fn keep_heard(&mut self) {
        let mut changes = Changes::default();
        self.speech.keep(&mut changes, self.clock.monotonic(), true);
        if let Err(error) = self.journal.commit(changes) {
            tracing::warn!(%error, "cannot save the last seen record numbers");
        }
    }

    /// Runs the TaskBooks of the accepted revision. `None` if no revision is accepted, or if the state directory was
    /// lost.
    pub fn pass(&mut self) -> Option<Outcome> {
        self.fleet.begin_pass();
        let revision = self.revision.clone()?;
        if self.has_lost_its_state() {
            return None;
        }
        self.step(Input::Looked(self.clock.wall()));
        self.handle.end_lost(self.clock.wall());
        self.answer(&revision);
        let handle = self.handle.clone();
        let gather = || handle.facts();
        let facts = PassFacts::new(&gather);
        if self.nothing_moved(&revision, &facts) {
            if self.last_published.is_none() {
                self.show_others(&facts);
            }
            self.warn_if_alone(&revision);
            return Some(Outcome::Unchanged);
        }
        self.unsettle();
        let fresh = !self.state.is_at(self.state.applied.as_ref()) || !self.state.is_applied();
        if fresh && !self.state.is_at(self.state.attempted.as_ref()) {
            self.step(Input::Began);
            let mut changes = Changes::default();
            self.begin_runs(&revision, &mut changes);
            changes.set(&Intent { phase: Phase::Render, book: String::new(), paths: Vec::new() });
            self.save(changes);
        }
        let mut outcome = self.run_pass(&revision, &facts, fresh);
        for _ in 0..LOOKS {
            if !outcome.moved || self.queue.wants_way() {
                break;
            }
            thread::sleep(Duration::from_millis(50));
            self.record_changes(&outcome);
            outcome = self.run_pass(&revision, &facts, fresh);
        }
        self.made_way = outcome.interrupted;
        if self.follows_files {
            self.remember_versions(&mut outcome);
        }
        self.remember_settled(&revision, &mut outcome, &facts);
        self.report(&revision, &outcome, fresh);
        // The node publishes its facts as they are after the changes of the pass.
        let after = PassFacts::new(&gather);
        self.show_others(if outcome.worst() > Outcome::Unchanged { &after } else { &facts });
        self.warn_if_alone(&revision);
        Some(outcome.worst())
    }

    fn run_pass(&mut self, revision: &Revision, facts: &PassFacts<'_>, fresh: bool) -> PassOutcome {
        self.republish_claims(revision);
        let facts = facts.all().clone();
        let others = self.handle.others(revision);
        let nodes = pass::known_nodes(&revision.set, &revision.view, &facts, &revision.shared_facts(), &others);
        let (queue, ending) = (self.queue.clone(), self.queue.clone());
        let cancel = self.cancel.clone();
        let pass = Pass {
            machine: &self.machine,
            set: &revision.set,
            view: &revision.view,
            inputs: Inputs {
                facts,
                nodes: Arc::new(nodes),
                computed: BTreeMap::new(),
                unknown: BTreeSet::new(),
                event: None,
            },
            generation: revision.generation,
            fresh,
            drift: revision.reconcile(self.settings.reconcile).drift,
            suspended: revision.suspended(),
            windows: revision.windows(),
            coordination: Some(Coordination { fleet: &self.fleet, manifest: &revision.manifest }),
            cancel: &cancel,
            stops: &move || ending.stops(),
            make_way: &move || queue.wants_way(),
        };
        let (inputs, failures) = pass::computed::evaluate(&pass, &mut self.computed);
        let pass = Pass { inputs, ..pass };
        pass::books::run::<Executor<'_>>(&pass, &pass.claims(), &failures)
    }

    fn remember_versions(&self, outcome: &mut PassOutcome) {
        let seen = std::mem::take(&mut outcome.watched);
        self.machine.written.retain(|path| seen.contains_key(path));
        *self.versions.lock().unwrap_or_else(PoisonError::into_inner) = seen;
    }

    /// Returns whether another program may have changed one of the managed files since the last pass checked the file.
    fn touched(&self, paths: &BTreeSet<PathBuf>) -> bool {
        let (machine, versions) = (&self.machine, self.versions.lock().unwrap_or_else(PoisonError::into_inner));
        paths.iter().any(|real| {
            let Some(seen) = versions.get(real) else { return false };
            let Ok(inner) = real.strip_prefix(machine.look.root()) else { return false };
            let path = format!("/{}", inner.display());
            let intact = machine.written.is_intact(&machine.look, real, &path);
            intact.map_or_else(|| seen.may_differ(&machine.look, &path), |intact| !intact)
        })
    }

    /// Refreshes the sources, runs the TaskBooks, and returns the result. The pass is repeated for a newer commit, and
    /// for a gate that opens within seconds.
    pub fn once(&mut self) -> Ended {
        if let Some(ended) = self.settled_before() {
            return ended;
        }
        let looked = self.advance();
        let Some(mut worst) = self.pass() else {
            return if looked == Ended::Done { Ended::Rejected } else { looked };
        };
        if self.queue.wants_way() && !self.queue.stops() {
            self.queue.take(Duration::ZERO);
            worst = self.pass().unwrap_or(worst);
        }
        // Waits for gates that open soon, such as the gates of a data store that has just become reachable.
        for _ in 0..3 {
            let now = self.clock.monotonic();
            let soon = self.fleet.due().map(|due| due.saturating_duration_since(now)).filter(|wait| *wait < SOON);
            // An error rarely ends within seconds, so the node does not wait for the end of an error.
            let opens = worst == Outcome::Held && !self.fleet.is_troubled() && !self.queue.stops();
            let Some(wait) = soon.filter(|_| opens) else { break };
            thread::sleep(wait);
            worst = self.pass().unwrap_or(worst);
        }
        match (worst, looked) {
            (Outcome::Failed, _) => Ended::Failed,
            (_, Ended::Rejected | Ended::Unreachable) => looked,
            (Outcome::Held, _) => Ended::Held,
            _ => Ended::Done,
        }
    }

    /// Runs the main loop until the agent is stopped. Each iteration of the loop calls `alive` with the summary of the
    /// state.
    pub fn run(&mut self, alive: &dyn Fn(&str)) {
        self.follows_files = true;
        let mirrors = self.settings.state_dir.join("mirrors");
        let (clock, name) = (Arc::clone(&self.clock), self.settings.node.clone());
        let poller = Poller::start(self.polled.clone(), self.queue.clone(), clock, mirrors, name);
        let queue = self.queue.clone();
        let mut watch = FileWatch::new(move |touched| {
            queue.poke(|wake| match touched {
                Touched::Path(path) => drop(wake.touched.insert(path)),
                Touched::Anything => wake.check = true,
            });
        })
        .map_err(|error| tracing::warn!(%error, "cannot watch files; drift is only detected at the reconcile interval"))
        .ok();
        self.load_last_good();
        self.record_start();
        // The first pass can take minutes, so the agent reports a successful start before the first pass.
        alive("begins");
        self.advance();
        self.note_errors();
        let mut next = self.clock.monotonic();
        let mut cause = "start";
        let mut pace = TouchPace::default();
        // True if the loop did work after it last returned memory to the operating system.
        let mut used = true;
        loop {
            if self.queue.stops() {
                break;
            }
            let now = self.clock.monotonic();
            if now >= next {
                used = true;
                tracing::debug!(target: "towpath_coordination::wake", cause, "looks");
                cause = "timer";
                // The poller only reports a head that has changed. The loop must therefore repeat a failed fetch of a
                // known head.
                let behind = |troubles: &BTreeMap<String, Trouble>| {
                    troubles.keys().any(|key| key.starts_with("source ") || key.starts_with("node "))
                };
                if behind(&self.state.troubles) || behind(&self.state.stalls) {
                    self.retry.take(now);
                    self.advance();
                }
                self.pass();
                self.note_errors();
                pace.pass_ended(self.clock.monotonic());
                let unseen = self.watch_files(watch.as_mut());
                next = self.clock.monotonic() + self.patience();
                // A change causes no file event if its directory was not yet watched.
                if self.touched(&unseen) {
                    next = next.min(self.after_touch(&mut pace));
                }
            }
            alive(&self.state.summary());
            if let Some(due) = self.fleet.due() {
                next = next.min(due);
            }
            let wake_at = self.retry.due().map_or(next, |due| due.min(next));
            let left = wake_at.saturating_duration_since(self.clock.monotonic()).min(Duration::from_secs(10));
            if used {
                // The loop may now wait for minutes, so it returns unused memory to the operating system.
                towpath_host::memory::give_back();
            }
            let wake = self.queue.take(left);
            used = !wake.is_empty();
            if wake.stop {
                self.queue.poke(|wake| wake.stop = true);
                break;
            }
            let again = self.retry.take(self.clock.monotonic()) && self.store_answers();
            if wake.moved || wake.poll || wake.accepted || again {
                let before = self.state.accepted.clone();
                self.advance();
                if !self.state.is_at(Some(&before)) || !self.state.is_applied() || again && self.fleet.is_behind() {
                    (next, cause) = (self.clock.monotonic(), "news");
                }
            }
            self.note_errors();
            if self.made_way || wake.check {
                (next, cause) = (self.clock.monotonic(), "news");
            } else if self.touched(&wake.touched) {
                next = next.min(self.after_touch(&mut pace));
                cause = "news";
            }
        }
        drop(poller);
        self.record_events(vec![NewEvent::new(EventType::AgentStopped, "the agent was stopped").because("Stopped")]);
        self.keep_heard();
        if !pass::holds_slots(&self.journal) {
            // A node that holds a slot stays a member of the fleet: it restarts soon, or its lease expires.
            self.fleet.leave();
            self.handle.leave_gossip();
        }
    }

    /// Schedules the next refresh if an error keeps the node from agreeing with the fleet. No event reports the end of
    /// such an error.
    fn note_errors(&mut self) {
        // A conflict with the settings of this node ends only with a restart of the agent, so the node does not retry.
        let passing = |key: &&str| self.state.troubles.get(*key).is_some_and(|trouble| trouble.reason != "Refused");
        let failing = ["node store", "node accepted"].iter().any(passing);
        // The data store has lost the record of the accepted revision, or the announcement of the record did not
        // arrive.
        let behind = self.fleet.is_behind() && self.unfollowed.is_none();
        self.retry.noted(failing || behind, self.clock.monotonic());
    }

    /// Returns whether the data store answers. A refresh of the sources has no effect while the data store is
    /// unreachable.
    fn store_answers(&self) -> bool {
        let away = self.state.troubles.contains_key("node store");
        !away || towpath_coordination::accept::answers(self.store.as_ref())
    }

    /// Watches the directories of the managed files. Returns the files whose directory was not watched before.
    fn watch_files(&self, watch: Option<&mut FileWatch>) -> BTreeSet<PathBuf> {
        let Some(watch) = watch else { return BTreeSet::new() };
        let versions = self.versions.lock().unwrap_or_else(PoisonError::into_inner);
        let new = watch.set(versions.keys().map(PathBuf::as_path));
        versions.keys().filter(|path| path.parent().is_some_and(|folder| new.contains(folder))).cloned().collect()
    }

    /// Returns the time at which the next pass starts after a change of a managed file.
    fn after_touch(&self, pace: &mut TouchPace) -> Instant {
        let now = self.clock.monotonic();
        let pause = pace.touched(now);
        if !pause.is_zero() {
            tracing::warn!(
                seconds = pause.as_secs(),
                "managed files change during each pass or directly after it; the next pass is delayed; find the other task or program that changes these files"
            );
        }
        // The pause is never longer than the reconcile interval.
        let interval = self.reconcile().interval;
        now.checked_add(pause.min(interval)).unwrap_or(now)
    }

    /// Returns the reconcile interval, its jitter and the drift policy.
    fn reconcile(&self) -> Reconcile {
        let configs = self.revision.iter().flat_map(|revision| revision.set.configs.values());
        self.settings.reconcile.or_of(configs)
    }

    /// Returns the time until the next pass. The time is short while an error keeps the node from following the fleet.
    fn patience(&mut self) -> Duration {
        let Reconcile { interval, jitter, .. } = self.reconcile();
        let waits = |key: &&str| self.state.troubles.contains_key(*key);
        if ["node store", "node accepted", "node fleet"].iter().any(waits) {
            let name = self.settings.node.bytes();
            let spread = name.fold(7_u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(byte)));
            let pause = fleet::backed_off(self.errors, spread);
            self.errors = self.errors.saturating_add(1);
            return interval.min(pause);
        }
        self.errors = 0;
        let soon =
            self.state.troubles.values().any(|trouble| trouble.reason == "DiskFull" || trouble.reason == "ReadOnly");
        let interval = if soon {
            interval.min(Duration::from_secs(15))
        } else if self.state.is_applied() {
            interval
        } else {
            interval.min(Duration::from_secs(60))
        };
        jittered(interval, jitter, &self.settings.node, self.clock.wall())
    }
}
