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
use towpath_host::Clock;

use crate::{
    fleet::{horizon::Horizon, touch::Touches},
    keys,
    rollout::{Freed, View, announce},
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

type Waker = Arc<dyn Fn(Poke) + Send + Sync>;

/// A node's membership.
pub(super) struct Membership {
    shared: Arc<Shared>,
}

struct Shared {
    store: Arc<dyn Store>,
    node: String,
    clock: Arc<dyn Clock>,
    horizon: Arc<Horizon>,
    stop: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    begun: bool,
    introduced: bool,
    lease: Option<LeaseId>,
    /// When the store last said that the lease lives.
    heard: Option<Instant>,
    refused: Option<String>,
    /// The number of news that have arrived. A view that was requested before the last one is stale.
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
    pub(super) fn new(store: Arc<dyn Store>, node: String, clock: Arc<dyn Clock>, horizon: Arc<Horizon>) -> Self {
        let shared = Shared { store, node, clock, horizon, stop: AtomicBool::new(false), state: Mutex::default() };
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
            // First: the node that is woken must find its view stale.
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
        }
        // At once, so that an agent that runs once need not wait for a thread.
        self.shared.keep(&joined);
        if self.shared.store.shared() {
            let shared = Arc::clone(&self.shared);
            let waker = Arc::clone(&poke);
            spawn("lease", move || shared.keep_on(&joined, &waker));
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
        self.shared.lock().refused.clone()
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }
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
                self.horizon.lost_sight();
                tracing::debug!(%error, "the lease can't be kept");
                if error == StoreError::LeaseGone {
                    self.lock().lease = None;
                }
                false
            }
        }
    }

    fn kept(&self, joined: &Joined) -> Result<(), StoreError> {
        let lease = self.lock().lease;
        if let Some(lease) = lease {
            return self.store.keep_alive(lease);
        }
        self.introduce(joined)?;
        if let Some(why) = self.lock().refused.clone() {
            return Err(StoreError::Denied(why));
        }
        let lease = if self.store.shared() { Some(self.store.lease(TTL)?) } else { None };
        let put = Op::Put { key: keys::alive(&self.node), value: joined.version.clone().into_bytes(), lease };
        self.store.commit(&Txn { then: vec![put], ..Txn::default() })?;
        self.lock().lease = lease;
        Ok(())
    }

    /// Writes who it is, where nobody of its name has; a second machine of one name takes no part.
    fn introduce(&self, joined: &Joined) -> Result<(), StoreError> {
        let key = keys::joined(&self.node);
        let value = serde_json::to_vec(joined).unwrap_or_default();
        let txn = Txn {
            compare: vec![Compare::Absent(key.clone())],
            then: vec![Op::put(key.clone(), value.clone())],
            otherwise: vec![Op::Read(key.clone())],
        };
        let Outcome::Refused { answers, .. } = self.store.commit(&txn)? else {
            self.horizon.lacks_own_record();
            return Ok(());
        };
        let known = answers.into_iter().flat_map(|answer| answer.rows).find(|row| row.key == key);
        let Some(row) = known else { return Ok(()) };
        let there: Joined = serde_json::from_slice(&row.value).unwrap_or_default();
        let other = !there.machine_id.is_empty() && there.machine_id != joined.machine_id;
        self.lock().refused = other.then(|| {
            format!(
                "another machine ({}) has joined as {}; give this one a name of its own, or delete the key {key} from the data store if that machine is gone",
                there.machine_id, self.node
            )
        });
        // Once in a process it is signed anew, in case the certificate is another.
        let first = !std::mem::replace(&mut self.lock().introduced, true);
        if !other && (first || there != *joined) {
            let compare = vec![Compare::Revision(key.clone(), row.modified)];
            self.store.commit(&Txn { compare, then: vec![Op::put(key, value)], ..Txn::default() })?;
        }
        Ok(())
    }

    fn begin_watch(&self, prefix: &str) -> Result<mpsc::UnboundedReceiver<Change>, StoreError> {
        let before = self.horizon.known();
        let read = self.store.read(prefix, &Page { after: None, limit: 1 })?;
        // A store that has gone back is seen, and said, even by who is in the midst of a long task.
        self.horizon.seen(before, read.revision);
        if self.horizon.has_fallen() {
            self.announce()?;
        }
        let changes = self.store.watch(prefix, read.revision + 1)?;
        if keys::RESTORED.starts_with(prefix) {
            let restored = self.store.read(keys::RESTORED, &Page { after: None, limit: 1 })?;
            if !restored.rows.is_empty() {
                self.horizon.told();
            }
        }
        Ok(changes)
    }

    /// Says that the store has gone back, unless somebody has said so since.
    fn announce(&self) -> Result<(), StoreError> {
        let rows = self.store.read(keys::RESTORED, &Page { after: None, limit: 1 })?.rows;
        let restored = rows.into_iter().find(|row| row.key == keys::RESTORED);
        let restored = restored.and_then(|row| Some((serde_json::from_slice(&row.value).ok()?, row.modified)));
        let view = View { restored, ..View::default() };
        let id = uuid::Uuid::new_v4().simple().to_string();
        match announce(&view, &id, self.horizon.restoration().as_deref()) {
            Some(txn) => self.store.commit(&txn).map(drop),
            None => Ok(()),
        }
    }

    /// Wakes the node for a touch of a budget that it waits for. A decision that is on its way finds its view stale.
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
                    Change::Put(row) if row.key == keys::ACCEPTED => poke(Poke::Accepted),
                    Change::Put(row) if row.key.starts_with(keys::ALL_FREED) => self.hear_touch(&row, poke),
                    Change::Put(row) => {
                        if row.key == keys::RESTORED {
                            self.horizon.told();
                        }
                        self.lock().asked |= row.key.starts_with(&keys::result_wants(&self.node));
                        poke(Poke::Look);
                    }
                    // All have said anew what they hold: whoever waited for that goes on.
                    Change::Delete(key, _) if key == keys::RESTORED => poke(Poke::Look),
                    Change::Delete(..) => {}
                }
            }
        }
    }
}
