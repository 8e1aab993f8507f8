//! Joining, the lease that says that a node is alive, and the watches that wake it.

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

/// How long a lease lives.
const TTL: Duration = Duration::from_secs(25);

/// How often it is kept alive.
const KEEP: Duration = Duration::from_secs(10);

/// How long a node may believe in its lease since it last heard of it: less than it lives, as clocks differ.
const BELIEF: Duration = Duration::from_secs(20);

/// The stack of a thread that makes requests: unoptimised builds need more than 256 KiB. Unused pages cost nothing.
const STACK: usize = 2 << 20;

/// Why a node is woken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Poke {
    /// Another revision was accepted.
    Accepted,
    /// Something was opened or offered.
    Look,
}

/// The record with which a node joins.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Joined {
    /// The node.
    pub node: String,
    /// The machine.
    pub machine_id: String,
    /// The version of its agent.
    pub version: String,
    /// The public half of its identity.
    pub public_keys: Vec<String>,
}

/// The record that is bound to a node's lease.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Alive<'a> {
    version: &'a str,
    public_keys: &'a [String],
}

/// The agent that runs under a node's name.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Agent {
    /// Another one for each process.
    id: String,
    /// The machine.
    machine_id: String,
}

type Waker = Arc<dyn Fn(Poke) + Send + Sync>;

/// A node's membership.
pub(super) struct Membership {
    shared: Arc<Shared>,
}

struct Shared {
    store: Arc<dyn Store>,
    node: String,
    clock: Arc<dyn Clock>,
    position: Arc<StorePosition>,
    stop: AtomicBool,
    /// Names this process among all agents that may run under the node's name.
    id: String,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    begun: bool,
    joined: Joined,
    /// Whether the store has the record of this agent.
    presented: bool,
    /// The public keys that git gives to this node's name; `None` if it gives none.
    given: Option<Vec<String>>,
    /// Why this node is rejected until its process ends: another agent runs under its name.
    namesake: Option<String>,
    lease: Option<LeaseId>,
    /// The lease of a node that is rejected: it shows the others which keys it has.
    knock: Option<LeaseId>,
    /// When the store last said that the lease lives.
    heard: Option<Instant>,
    refused: Option<String>,
    /// The number of news that have arrived. A snapshot that was requested before the last one is stale.
    news: u64,
    touches: Touches,
    /// Whether this node was asked for the key of a result.
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

    /// Works with the touches of budgets.
    pub(super) fn touches<T>(&self, work: impl FnOnce(&mut Touches) -> T) -> T {
        work(&mut self.shared.lock().touches)
    }

    pub(super) fn begin(&self, joined: Joined, poke: Waker) {
        let told = Arc::clone(&self.shared);
        let poke: Waker = Arc::new(move |what| {
            // First: the node that is woken must find its snapshot stale.
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
        // At once, so that an agent that runs once need not wait for a thread.
        self.shared.keep(&joined);
        if self.shared.store.shared() {
            let shared = Arc::clone(&self.shared);
            let waker = Arc::clone(&poke);
            spawn("lease", move || shared.keep_on(&joined, &waker));
            // Another agent under this name may have come in between.
            self.shared.look_for_namesake();
        }
        for prefix in ["board/".to_owned(), keys::inbox(&self.shared.node)] {
            let shared = Arc::clone(&self.shared);
            let waker = Arc::clone(&poke);
            // What is read from now on is older than what the watch tells of.
            let first = shared.begin_watch(&prefix).ok();
            spawn("watch", move || shared.watch(&prefix, first, &waker));
        }
    }

    pub(super) fn end(&self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        let held = self.shared.lock().lease.take();
        if held.is_some() {
            // A lease that can't be ended now runs out by itself.
            let key = keys::alive(&self.shared.node);
            let _ = self.shared.store.commit(&Txn { then: vec![Op::Delete(key)], ..Txn::default() });
        }
    }

    /// Whether the node has a lease that it may believe in.
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

    /// Whether this node was asked for the key of a result since this was called last.
    pub(super) fn is_asked(&self) -> bool {
        std::mem::take(&mut self.shared.lock().asked)
    }

    pub(super) fn refused(&self) -> Option<String> {
        let state = self.shared.lock();
        state.namesake.clone().or_else(|| state.refused.clone())
    }

    /// Says which public keys git gives to this node's name. A node that was rejected for its key tries again at once.
    pub(super) fn give(&self, keys: Option<Vec<String>>) {
        let again = {
            let mut state = self.shared.lock();
            let changed = std::mem::replace(&mut state.given, keys.clone()) != keys;
            if changed && keys.is_some_and(|keys| !same_keys(&keys, &state.joined.public_keys)) {
                // The next try finds that the keys are not this node's.
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

/// Whether both texts name the same key to sign with.
fn same_keys(one: &[String], other: &[String]) -> bool {
    match (PublicKeys::read(one), PublicKeys::read(other)) {
        (Some(one), Some(other)) => one.sign == other.sign,
        _ => one == other,
    }
}

/// The message of a node that is rejected for its key, with the way back (P145).
fn other_key(node: &str, joined: &Joined, why: &str) -> String {
    let keys = joined.public_keys.iter().map(|key| format!("{key:?}")).collect::<Vec<_>>().join(", ");
    format!(
        "this node is rejected as {node}: {why}. If this machine is meant to be {node}, commit its keys to the Node object {node}: spec: {{publicKeys: [{keys}]}}; that commit is also the consent to run again what the former {node} had begun. If not, give it a name of its own"
    )
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) {
    if let Err(error) = thread::Builder::new().name(name.into()).stack_size(STACK).spawn(work) {
        tracing::error!(%error, "a thread can't be started; the node takes no part in rollouts");
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
                // Whatever was said while nobody listened is read anew.
                poke(Poke::Accepted);
                poke(Poke::Look);
            }
        }
    }

    /// Sends the touches that came too soon after another one. Each is for every waiter: the queue has moved meanwhile.
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

    /// Keeps the lease, or gets one; says whether there is one.
    fn keep(&self, joined: &Joined) -> bool {
        let before = self.clock.monotonic();
        match self.kept(joined) {
            Ok(()) => {
                self.lock().heard = Some(before);
                true
            }
            Err(error) => {
                self.position.lost_sight();
                tracing::debug!(%error, "the lease can't be kept");
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
        // The lock would be held through the block: `knock` takes it too.
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

    /// Shows the others the keys of a node that is rejected for them, where the node with the right keys is gone. They
    /// do not count it as alive.
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

    /// Writes the join record, if the name is free or the record names this node's keys. Another key for the name is
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
            // A record that does not count is there, which is known now: it is written over.
            outcome = self.store.commit(&txn)?;
        }
        if matches!(outcome, Outcome::Done { .. }) {
            self.lock().refused = None;
            return Ok(());
        }
        let Some(row) = found(outcome).filter(|row| row.key == key) else {
            return Err(StoreError::Unreachable(format!("others write to {key} all the time")));
        };
        let there: Joined = serde_json::from_slice(&row.value).unwrap_or_default();
        // A store of this node alone has nobody to tell apart.
        let own = is_given || !self.store.shared() || same_keys(&there.public_keys, &joined.public_keys);
        self.lock().refused = (!own).then(|| {
            let machine = if there.machine_id == joined.machine_id {
                "this machine, before it was set up again, has joined with another key".to_owned()
            } else {
                format!("another machine ({}) has joined with another key", there.machine_id)
            };
            other_key(&self.node, joined, &machine)
        });
        // Signed again with each lease: the certificate may be another, and a record from a backup is older than the one
        // that others have read.
        if own {
            let compare = vec![Compare::Revision(key.clone(), row.modified)];
            self.store.commit(&Txn { compare, then: vec![Op::put(key, value)], ..Txn::default() })?;
        }
        Ok(())
    }

    /// Looks whether another agent has written its record over this one's.
    fn look_for_namesake(&self) {
        let key = keys::agent(&self.node);
        if self.lock().presented
            && let Ok(Some(row)) = self.store.as_written(&key)
        {
            self.meet(&row);
        }
    }

    /// Rejects this node if a row is the record of another agent that has the same key (P146). Writes the own record
    /// again, so that the other agent is rejected too: no one can know which of them is meant to run.
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
        // A store that has gone back is seen, and said, even by who is in the midst of a long task.
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

    /// Says that the store has gone back, unless somebody has said so since.
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

    /// Wakes the node for a touch of a budget that it waits for. A decision that is on its way finds its snapshot stale.
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

    /// Follows what is written below a prefix, and wakes the node.
    fn watch(&self, prefix: &str, first: Option<mpsc::UnboundedReceiver<Change>>, poke: &Waker) {
        let mut begun = first;
        let mut told: Option<Instant> = None;
        // What was asked before this node listened is answered too.
        self.lock().asked = true;
        while !self.stops() {
            let Some(mut changes) = begun.take() else {
                thread::sleep(Duration::from_secs(1));
                begun = self.begin_watch(prefix).ok();
                if begun.is_some() {
                    // What was written while nobody listened is looked at too.
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
                    // A record that does not count wakes no node, but for an Event now and then.
                    Change::Put(row) if !self.store.counts(&row) => {
                        let now = self.clock.monotonic();
                        if told.is_none_or(|told| now.duration_since(told) >= KEEP) {
                            told = Some(now);
                            poke(Poke::Accepted);
                        }
                    }
                    Change::Put(row) if row.key == keys::ACCEPTED => {
                        let accepted: Option<Accepted> = serde_json::from_slice(&row.value).ok();
                        // This node has written the record itself, and need not look at it.
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
                    // All have said anew what they hold: whoever waited for that goes on.
                    Change::Delete(key, _) if key.starts_with(keys::ALL_RECOVERIES) => poke(Poke::Look),
                    Change::Delete(..) => {}
                }
            }
        }
    }
}
