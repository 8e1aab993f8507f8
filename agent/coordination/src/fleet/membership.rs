//! Membership of a node: its join record, its lease, and the watches that wake it.

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use towpath_host::{Clock, identity::PublicKeys};

use crate::{
    accept::Accepted,
    fleet::{store_position::StorePosition, touch::Touches},
    keys,
    rollout::{Freed, RunSnapshot, newest_recovery, report_rollback},
    store::{Change, Compare, LeaseId, Op, Outcome, Page, Row, Store, StoreError, Txn},
};

/// The time to live of a lease (P101).
const TTL: Duration = Duration::from_secs(25);

/// The interval at which the lease is kept alive (P101).
const KEEP: Duration = Duration::from_secs(10);

/// The time for which a node trusts its lease after the last answer. It is shorter than the lease, as clocks
/// differ (P93).
const BELIEF: Duration = Duration::from_secs(20);

/// The stack size of a thread that makes requests. Unoptimised builds need over 256 KiB, and unused pages cost nothing.
const STACK: usize = 2 << 20;

/// The reason to wake a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Poke {
    /// A newly accepted revision.
    Accepted,
    /// A wave, an offer or another change that may let the node continue.
    Look,
}

/// The record with which a node joins (P109).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Joined {
    /// The name of the node.
    pub node: String,
    /// The machine id.
    pub machine_id: String,
    /// The version of the node's agent.
    pub version: String,
    /// The public half of the node's identity.
    pub public_keys: Vec<String>,
}

/// The record that is bound to a node's lease.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Alive<'a> {
    version: &'a str,
    public_keys: &'a [String],
}

/// The record of the agent that runs under a node's name.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Agent {
    /// The identifier of the process. Each process has its own.
    id: String,
    /// The machine id.
    machine_id: String,
}

type Waker = Arc<dyn Fn(Poke) + Send + Sync>;

/// The membership of a node.
pub(super) struct Membership {
    shared: Arc<Shared>,
}

struct Shared {
    store: Arc<dyn Store>,
    node: String,
    clock: Arc<dyn Clock>,
    position: Arc<StorePosition>,
    stop: AtomicBool,
    /// The identifier of this process among all agents that run under the node's name.
    id: String,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    begun: bool,
    joined: Joined,
    /// True if the store has the record of this agent.
    presented: bool,
    /// The public keys that git gives to this node's name. `None` if it gives none.
    given: Option<Vec<String>>,
    /// The reason to reject this node until its process ends: another agent runs under its name.
    namesake: Option<String>,
    lease: Option<LeaseId>,
    /// The lease of a rejected node. It shows the node's keys to the other nodes.
    knock: Option<LeaseId>,
    /// The time of the last answer that confirmed the lease. `None`: no lease is confirmed.
    heard: Option<Instant>,
    refused: Option<String>,
    /// The number of news that have arrived. A snapshot that was requested before the last one is stale.
    news: u64,
    touches: Touches,
    /// True if another node has asked for the key of a result.
    asked: bool,
}

impl fmt::Debug for Membership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Membership").field("node", &self.shared.node).finish_non_exhaustive()
    }
}

impl Membership {
    pub(super) fn new(
        store: Arc<dyn Store>,
        node: String,
        clock: Arc<dyn Clock>,
        position: Arc<StorePosition>,
    ) -> Self {
        let id = uuid::Uuid::new_v4().simple().to_string();
        let stop = AtomicBool::new(false);
        let shared = Shared { store, node, clock, position, stop, id, state: Mutex::default() };
        Self { shared: Arc::new(shared) }
    }

    /// Returns the number of news that have arrived.
    pub(super) fn news(&self) -> u64 {
        self.shared.lock().news
    }

    /// Runs a closure on the touches of budgets.
    pub(super) fn touches<T>(&self, work: impl FnOnce(&mut Touches) -> T) -> T {
        work(&mut self.shared.lock().touches)
    }

    pub(super) fn begin(&self, joined: Joined, poke: Waker) {
        let told = Arc::clone(&self.shared);
        let poke: Waker = Arc::new(move |what| {
            // Counted first, so that the woken node finds its snapshot stale.
            {
                let mut state = told.lock();
                state.news = state.news.wrapping_add(1);
            }
            tracing::debug!(target: "towpath_coordination::wake", "news");
            poke(what);
        });
        {
            let mut state = self.shared.lock();
            if state.begun {
                return;
            }
            state.begun = true;
            state.joined = joined.clone();
        }
        // Done here, so that an agent that runs once does not wait for a thread.
        self.shared.keep(&joined);
        if self.shared.store.shared() {
            let shared = Arc::clone(&self.shared);
            let waker = Arc::clone(&poke);
            spawn("lease", move || shared.keep_on(&joined, &waker));
            // Another agent may have joined under this name in between.
            self.shared.look_for_namesake();
        }
        for prefix in ["board/".to_owned(), keys::inbox(&self.shared.node)] {
            let shared = Arc::clone(&self.shared);
            let waker = Arc::clone(&poke);
            // The watch begins first, so that it reports every change that later reads miss (P11).
            let first = shared.begin_watch(&prefix).ok();
            spawn("watch", move || shared.watch(&prefix, first, &waker));
        }
    }

    pub(super) fn end(&self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        let held = self.shared.lock().lease.take();
        if held.is_some() {
            // If the delete fails, the lease runs out by itself.
            let key = keys::alive(&self.shared.node);
            let _ = self.shared.store.commit(&Txn { then: vec![Op::Delete(key)], ..Txn::default() });
        }
    }

    /// Returns whether the node has a lease that it trusts.
    pub(super) fn ready(&self) -> bool {
        !self.lease_may_be_gone() && self.shared.lock().refused.is_none()
    }

    pub(super) fn lease_may_be_gone(&self) -> bool {
        if !self.shared.store.shared() {
            return false;
        }
        let heard = self.shared.lock().heard;
        heard.is_none_or(|heard| self.shared.clock.monotonic().duration_since(heard) >= BELIEF)
    }

    /// Returns whether this node was asked for the key of a result since the last call.
    pub(super) fn is_asked(&self) -> bool {
        std::mem::take(&mut self.shared.lock().asked)
    }

    /// Notes that requests for keys of results still wait for an answer.
    pub(super) fn note_asked(&self) {
        self.shared.lock().asked = true;
    }

    pub(super) fn refused(&self) -> Option<String> {
        let state = self.shared.lock();
        state.namesake.clone().or_else(|| state.refused.clone())
    }

    /// Returns whether another machine runs with the key of this node.
    pub(super) fn is_cloned(&self) -> bool {
        self.shared.lock().namesake.is_some()
    }

    /// Sets the public keys that git gives to this node's name. A node that was rejected for its key retries at once.
    pub(super) fn give(&self, keys: Option<Vec<String>>) {
        let again = {
            let mut state = self.shared.lock();
            let changed = std::mem::replace(&mut state.given, keys.clone()) != keys;
            if changed && keys.is_some_and(|keys| !same_keys(&keys, &state.joined.public_keys)) {
                // The next attempt finds that the keys are not this node's.
                (state.lease, state.heard) = (None, None);
            }
            (changed && state.begun && state.lease.is_none()).then(|| state.joined.clone())
        };
        if let Some(joined) = again {
            self.shared.keep(&joined);
        }
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}

/// Returns whether both lists have the same signing key.
fn same_keys(one: &[String], other: &[String]) -> bool {
    match (PublicKeys::read(one), PublicKeys::read(other)) {
        (Some(one), Some(other)) => one.sign == other.sign,
        _ => one == other,
    }
}

/// Builds the message of a node that is rejected for its key, with the remedy (P145).
fn other_key(node: &str, joined: &Joined, why: &str) -> String {
    let keys = joined.public_keys.iter().map(|key| format!("{key:?}")).collect::<Vec<_>>().join(", ");
    format!(
        "this node is rejected as {node}: {why}. If this machine is meant to be {node}, commit its keys to the Node object {node}: spec: {{publicKeys: [{keys}]}}; that commit is also the consent to run again what the former {node} had begun. If not, give it a name of its own"
    )
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) {
    if let Err(error) = thread::Builder::new().name(name.into()).stack_size(STACK).spawn(work) {
        tracing::error!(%error, "cannot start a thread; the node takes no part in rollouts");
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stops(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn keep_on(&self, joined: &Joined, poke: &Waker) {
        let step = Duration::from_millis(200);
        let mut well = self.lock().heard.is_some();
        loop {
            let pause = if well { KEEP } else { Duration::from_secs(1) };
            let mut left = pause;
            while !left.is_zero() {
                if self.stops() {
                    return;
                }
                thread::sleep(step.min(left));
                left = left.saturating_sub(step);
                self.send_due_touches();
            }
            let before = well;
            well = self.keep(joined);
            if well && !before {
                // Changes that the watch missed meanwhile are read now.
                poke(Poke::Accepted);
                poke(Poke::Look);
            } else if before && !well {
                // A node that waits looks again, so that its status shows the store's absence (P93).
                poke(Poke::Look);
            }
        }
    }

    /// Sends the touches that were delayed. Each is for every waiter, because the queue has changed meanwhile.
    fn send_due_touches(&self) {
        let now = self.clock.monotonic();
        let due = self.lock().touches.take_due(now);
        for group in due {
            let put = Op::put(keys::freed(&group), serde_json::to_vec(&Freed::default()).unwrap_or_default());
            if let Err(error) = self.store.commit(&Txn { then: vec![put], ..Txn::default() }) {
                tracing::debug!(%error, group, "cannot send a touch of a budget; it is sent later");
                self.lock().touches.owe(group, now);
            }
        }
    }

    /// Keeps the lease alive, or gets one. Returns whether there is one.
    fn keep(&self, joined: &Joined) -> bool {
        let before = self.clock.monotonic();
        match self.kept(joined) {
            Ok(()) => {
                self.lock().heard = Some(before);
                true
            }
            Err(error) => {
                self.position.lost_sight();
                tracing::debug!(%error, "cannot keep the lease alive; retrying");
                if error == StoreError::LeaseGone {
                    self.lock().lease = None;
                }
                false
            }
        }
    }

    fn kept(&self, joined: &Joined) -> Result<(), StoreError> {
        let namesake = self.lock().namesake.clone();
        if let Some(why) = namesake {
            return Err(StoreError::Denied(why));
        }
        let lease = self.lock().lease;
        if let Some(lease) = lease {
            return self.store.keep_alive(lease);
        }
        self.introduce(joined)?;
        // Copied, because a lock in the condition would last through the block, and `knock` takes it too.
        let refused = self.lock().refused.clone();
        if let Some(why) = refused {
            self.knock(joined)?;
            return Err(StoreError::Denied(why));
        }
        let lease = if self.store.shared() { Some(self.store.lease(TTL)?) } else { None };
        let agent = Agent { id: self.id.clone(), machine_id: joined.machine_id.clone() };
        let agent = serde_json::to_vec(&agent).unwrap_or_default();
        let then = vec![self.alive(joined, lease), Op::put(keys::agent(&self.node), agent)];
        self.store.commit(&Txn { then, ..Txn::default() })?;
        let mut state = self.lock();
        (state.lease, state.knock, state.presented) = (lease, None, true);
        Ok(())
    }

    fn alive(&self, joined: &Joined, lease: Option<LeaseId>) -> Op {
        let alive = Alive { version: &joined.version, public_keys: &joined.public_keys };
        Op::Put { key: keys::alive(&self.node), value: serde_json::to_vec(&alive).unwrap_or_default(), lease }
    }

    /// Shows the keys of a rejected node to the other nodes, if no node with the right keys is alive. They do not count
    /// the rejected node as alive.
    fn knock(&self, joined: &Joined) -> Result<(), StoreError> {
        let known = self.lock().knock;
        if let Some(lease) = known.filter(|_| self.store.shared()) {
            return match self.store.keep_alive(lease) {
                Err(StoreError::LeaseGone) => {
                    self.lock().knock = None;
                    Ok(())
                }
                kept => kept,
            };
        }
        if !self.store.shared() {
            return Ok(());
        }
        let lease = self.store.lease(TTL)?;
        let compare = vec![Compare::Absent(keys::alive(&self.node))];
        let txn = Txn { compare, then: vec![self.alive(joined, Some(lease))], otherwise: Vec::new() };
        if matches!(self.store.commit(&txn)?, Outcome::Done { .. }) {
            self.lock().knock = Some(lease);
        }
        Ok(())
    }

    /// Writes the join record if the name is free or the record has this node's keys. Another key for the name is
    /// rejected until git names it (P143, P145).
    fn introduce(&self, joined: &Joined) -> Result<(), StoreError> {
        let key = keys::joined(&self.node);
        let value = serde_json::to_vec(joined).unwrap_or_default();
        let given = self.lock().given.clone();
        let is_given = given.as_ref().is_some_and(|given| same_keys(given, &joined.public_keys));
        if given.is_some() && !is_given && self.store.shared() {
            self.lock().refused = Some(other_key(&self.node, joined, "git names other keys for it"));
            return Ok(());
        }
        let txn = Txn {
            compare: vec![Compare::Absent(key.clone())],
            then: vec![Op::put(key.clone(), value.clone())],
            otherwise: vec![Op::Read(key.clone())],
        };
        let mut outcome = self.store.commit(&txn)?;
        if matches!(outcome, Outcome::Done { .. }) {
            self.position.note_missing_join_record();
        }
        let found = |outcome: Outcome| outcome.answers().1.into_iter().flat_map(|answer| answer.rows).next();
        if matches!(&outcome, Outcome::Refused { answers, .. } if answers.iter().all(|answer| answer.rows.is_empty())) {
            // The existing record does not count. The signer knows that now, so this commit overwrites it.
            outcome = self.store.commit(&txn)?;
        }
        if matches!(outcome, Outcome::Done { .. }) {
            self.lock().refused = None;
            return Ok(());
        }
        let Some(row) = found(outcome).filter(|row| row.key == key) else {
            return Err(StoreError::Unreachable(format!(
                "cannot write {key}: other nodes write it at the same time; retrying"
            )));
        };
        let there: Joined = serde_json::from_slice(&row.value).unwrap_or_default();
        // A store that only this node uses has no second node of that name.
        let own = is_given || !self.store.shared() || same_keys(&there.public_keys, &joined.public_keys);
        self.lock().refused = (!own).then(|| {
            let machine = if there.machine_id == joined.machine_id {
                "this machine, before it was set up again, has joined with another key".to_owned()
            } else {
                format!("another machine ({}) has joined with another key", there.machine_id)
            };
            other_key(&self.node, joined, &machine)
        });
        // Signed again with each lease, because the certificate may have changed. Also, a record from a backup is
        // older than the one that other nodes have read.
        if own {
            let compare = vec![Compare::Revision(key.clone(), row.modified)];
            self.store.commit(&Txn { compare, then: vec![Op::put(key, value)], ..Txn::default() })?;
        }
        Ok(())
    }

    /// Checks whether another agent has overwritten this agent's record.
    fn look_for_namesake(&self) {
        let key = keys::agent(&self.node);
        if self.lock().presented
            && let Ok(Some(row)) = self.store.as_written(&key)
        {
            self.meet(&row);
        }
    }

    /// Rejects this node if a row is the record of another agent with the same key (P146). Writes the own record again,
    /// so that the other agent is rejected too: no node can know which of them is meant to run.
    fn meet(&self, row: &Row) {
        if row.key != keys::agent(&self.node) || !self.lock().presented || !self.store.is_of_namesake(row) {
            return;
        }
        let other: Agent = serde_json::from_slice(&row.value).unwrap_or_default();
        if other.id == self.id {
            return;
        }
        let first = {
            let mut state = self.lock();
            let first = state.namesake.is_none();
            state.namesake = Some(format!(
                "another agent runs as {} with this node's key (machine {}); both are rejected. Stop one of them, give it a name and a key of its own (delete its state directory or certificate), then restart the agent that stays",
                self.node, other.machine_id
            ));
            (state.lease, state.heard) = (None, None);
            first.then(|| state.joined.machine_id.clone())
        };
        if let Some(machine_id) = first {
            let agent = Agent { id: self.id.clone(), machine_id };
            let put = Op::put(row.key.clone(), serde_json::to_vec(&agent).unwrap_or_default());
            if let Err(error) = self.store.commit(&Txn { then: vec![put], ..Txn::default() }) {
                tracing::warn!(%error, "cannot show the other agent of this name that it is not alone");
            }
        }
    }

    fn begin_watch(&self, prefix: &str) -> Result<mpsc::UnboundedReceiver<Change>, StoreError> {
        let before = self.position.known();
        let read = self.store.read(prefix, &Page { after: None, limit: 1 })?;
        // A node in the midst of a long task must report a rollback too, so the watch checks for one.
        self.position.seen(before, read.revision);
        if self.position.has_rolled_back() {
            self.report_rollback()?;
        }
        let changes = self.store.watch(prefix, read.revision + 1)?;
        if keys::agent(&self.node).starts_with(prefix) {
            self.look_for_namesake();
        }
        if keys::ALL_RECOVERIES.starts_with(prefix) {
            let restored = self.store.read(keys::ALL_RECOVERIES, &Page::default())?;
            if !restored.rows.is_empty() {
                self.position.told();
            }
        }
        Ok(changes)
    }

    /// Reports that the store was rolled back, unless another node has reported it since.
    fn report_rollback(&self) -> Result<(), StoreError> {
        let rejected = {
            let state = self.lock();
            state.refused.is_some() || state.namesake.is_some()
        };
        if rejected {
            return Ok(());
        }
        let read = self.store.read(keys::ALL_RECOVERIES, &Page::default())?;
        let snapshot =
            RunSnapshot { recovery: newest_recovery(&read.rows), revision: read.revision, ..RunSnapshot::default() };
        let id = uuid::Uuid::new_v4().simple().to_string();
        match report_rollback(&snapshot, &self.node, &id, self.position.recovery_id().as_deref()) {
            Some(txn) => self.store.commit(&txn).map(drop),
            None => Ok(()),
        }
    }

    /// Wakes the node for a touch of a budget that it waits for. A decision in progress then finds its snapshot stale.
    fn hear_touch(&self, row: &Row, poke: &Waker) {
        let acts = {
            let mut state = self.lock();
            state.news = state.news.wrapping_add(1);
            state.touches.heard(&self.node, row)
        };
        if acts {
            poke(Poke::Look);
        }
    }

    /// Follows the changes below a prefix, and wakes the node for them.
    fn watch(&self, prefix: &str, first: Option<mpsc::UnboundedReceiver<Change>>, poke: &Waker) {
        let mut begun = first;
        let mut told: Option<Instant> = None;
        // Requests from before this watch are answered too.
        self.lock().asked = true;
        while !self.stops() {
            let Some(mut changes) = begun.take() else {
                thread::sleep(Duration::from_secs(1));
                begun = self.begin_watch(prefix).ok();
                if begun.is_some() {
                    // Changes that the watch missed meanwhile are read now.
                    poke(Poke::Accepted);
                    poke(Poke::Look);
                }
                continue;
            };
            while let Some(change) = changes.blocking_recv() {
                if self.stops() {
                    return;
                }
                match change {
                    Change::Put(row) if row.key == keys::agent(&self.node) => {
                        let before = self.lock().namesake.is_some();
                        self.meet(&row);
                        if !before && self.lock().namesake.is_some() {
                            poke(Poke::Accepted);
                        }
                    }
                    // A record that does not count wakes no node. Now and then it does, so that an event reports it.
                    Change::Put(row) if !self.store.counts(&row) => {
                        let now = self.clock.monotonic();
                        if told.is_none_or(|told| now.duration_since(told) >= KEEP) {
                            told = Some(now);
                            poke(Poke::Accepted);
                        }
                    }
                    Change::Put(row) if row.key == keys::ACCEPTED => {
                        let accepted: Option<Accepted> = serde_json::from_slice(&row.value).ok();
                        // This node wrote the record itself, so it need not read it.
                        if accepted.is_none_or(|accepted| accepted.by != self.node) {
                            poke(Poke::Accepted);
                        }
                    }
                    Change::Put(row) if row.key.starts_with(keys::ALL_FREED) => self.hear_touch(&row, poke),
                    Change::Put(row) => {
                        if row.key.starts_with(keys::ALL_RECOVERIES) {
                            self.position.told();
                        }
                        self.lock().asked |= row.key.starts_with(&keys::result_wants(&self.node));
                        poke(Poke::Look);
                    }
                    // The recovery is complete, so waiting nodes continue.
                    Change::Delete(key, _) if key.starts_with(keys::ALL_RECOVERIES) => poke(Poke::Look),
                    Change::Delete(..) => {}
                }
            }
        }
    }
}
