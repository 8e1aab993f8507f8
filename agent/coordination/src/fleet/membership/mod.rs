//! The membership of a node in the fleet: its join record, its lease, and its watches on the store.

mod identity;
mod join;
mod lease;
mod news;
mod records;
mod touch;
mod watch;

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use towpath_host::Clock;

pub use self::records::Joined;
use self::{identity::Identity, lease::Leases, news::News, touch::Touches};
use crate::{
    fleet::store_position::StorePosition,
    keys,
    rollout::Freed,
    store::{Op, Store, StoreError, Txn},
};

/// The interval at which a node renews its lease (P101).
const KEEP: Duration = Duration::from_secs(10);

/// The time for which a node trusts its lease after a renewal. A node trusts its lease for less than the duration of
/// the lease, because the clocks of the node and of the store differ (P93).
const LEASE_TRUST: Duration = Duration::from_secs(20);

/// The stack size of a thread that makes requests to the store, in bytes. Unoptimised builds need a stack of more than
/// 256 KiB. Unused pages cost nothing.
const STACK: usize = 2 << 20;

/// The reason to wake the reconciler of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wakeup {
    /// The fleet has accepted a new revision.
    Accepted,
    /// A change in the store, such as an opened wave or an offer, may allow the node to continue.
    Look,
}

type Waker = Arc<dyn Fn(Wakeup) + Send + Sync>;

/// The membership of a node in the fleet.
pub(super) struct Membership {
    shared: Arc<Shared>,
}

struct Shared {
    store: Arc<dyn Store>,
    node: String,
    clock: Arc<dyn Clock>,
    position: Arc<StorePosition>,
    stop: AtomicBool,
    /// The identifier of this process. Another agent that runs under the node's name has another identifier.
    id: String,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    identity: Identity,
    leases: Leases,
    news: News,
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

    /// Returns the number of changes that the watches have reported.
    pub(super) fn news(&self) -> u64 {
        self.shared.lock().news.count()
    }

    /// Runs a closure with exclusive access to the notices of free slots (touches).
    pub(super) fn touches<T>(&self, work: impl FnOnce(&mut Touches) -> T) -> T {
        work(self.shared.lock().news.touches())
    }

    pub(super) fn begin(&self, joined: Joined, wakeup: Waker) {
        let shared = Arc::clone(&self.shared);
        let wakeup: Waker = Arc::new(move |what| {
            // The counter changes before the wake-up, so that the woken node finds its snapshot stale.
            shared.lock().news.add();
            tracing::debug!(target: "towpath_coordination::wake", "news");
            wakeup(what);
        });
        if !self.shared.lock().identity.begin(&joined) {
            return;
        }
        // The first lease is acquired on this thread, so that an agent with `--once` need not wait for another thread.
        self.shared.keep(&joined);
        if self.shared.store.shared() {
            let shared = Arc::clone(&self.shared);
            let waker = Arc::clone(&wakeup);
            spawn("lease", move || shared.keep_on(&joined, &waker));
            // Another agent may have joined under this name since the node last checked.
            self.shared.look_for_namesake();
        }
        for prefix in ["shared/".to_owned(), keys::inbox(&self.shared.node)] {
            let shared = Arc::clone(&self.shared);
            let waker = Arc::clone(&wakeup);
            // The watch begins before the node's first read, so that it reports every change after that read (P11).
            let first = shared.begin_watch(&prefix).ok();
            spawn("watch", move || shared.watch(&prefix, first, &waker));
        }
    }

    pub(super) fn end(&self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        let held = self.shared.lock().leases.end();
        if held.is_some() {
            // If the delete fails, the key is removed when the lease expires.
            let key = keys::alive(&self.shared.node);
            let _ = self.shared.store.commit(&Txn { then: vec![Op::Delete(key)], ..Txn::default() });
        }
    }

    /// Returns true if this node is not rejected, and trusts its lease.
    pub(super) fn ready(&self) -> bool {
        !self.lease_may_be_gone() && self.shared.lock().identity.refused().is_none()
    }

    pub(super) fn lease_may_be_gone(&self) -> bool {
        if !self.shared.store.shared() {
            return false;
        }
        let renewed_at = self.shared.lock().leases.renewed_at();
        renewed_at.is_none_or(|renewed_at| self.shared.clock.monotonic().duration_since(renewed_at) >= LEASE_TRUST)
    }

    /// Returns true if another node has requested the sealing key of a task result from this node since the previous
    /// call.
    pub(super) fn is_asked(&self) -> bool {
        self.shared.lock().news.take_asked()
    }

    /// Records that this node still has to answer requests for the sealing keys of task results.
    pub(super) fn note_asked(&self) {
        self.shared.lock().news.note_asked();
    }

    pub(super) fn refused(&self) -> Option<String> {
        self.shared.lock().identity.rejected().cloned()
    }

    /// Returns true if another agent runs with the name and the key of this node.
    pub(super) fn is_cloned(&self) -> bool {
        self.shared.lock().identity.namesake().is_some()
    }

    /// Sets the public keys that git lists for this node. If the keys have changed, a node without a lease tries to
    /// join immediately.
    pub(super) fn set_listed_keys(&self, keys: Option<Vec<String>>) {
        let again = {
            let mut state = self.shared.lock();
            let changed = state.identity.set_listed_keys(keys);
            if changed && state.identity.is_given_other_keys() {
                // A node without a lease tries to join again, and that attempt finds the other keys in git and rejects
                // the node.
                state.leases.give_up();
            }
            state.identity.joined().filter(|_| changed && state.leases.lease().is_none()).cloned()
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

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) {
    if let Err(error) = thread::Builder::new().name(name.into()).stack_size(STACK).spawn(work) {
        tracing::error!(%error, "cannot start a thread for the data store; the node takes no part in rollouts");
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stops(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn keep_on(&self, joined: &Joined, wakeup: &Waker) {
        let step = Duration::from_millis(200);
        let mut well = self.lock().leases.renewed_at().is_some();
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
                // The watch may have missed changes while the store did not answer, so the node reads them now.
                wakeup(Wakeup::Accepted);
                wakeup(Wakeup::Look);
            } else if before && !well {
                // The node decides again, so that its status shows that the store does not answer (P93).
                wakeup(Wakeup::Look);
            }
        }
    }

    /// Sends each delayed notice of free slots whose delay has passed. A delayed notice does not name the first
    /// waiters, because the queue may have changed during the delay.
    fn send_due_touches(&self) {
        let now = self.clock.monotonic();
        let due = self.lock().news.touches().take_due(now);
        for budget in due {
            let put = Op::put(keys::freed(&budget), serde_json::to_vec(&Freed::default()).unwrap_or_default());
            if let Err(error) = self.store.commit(&Txn { then: vec![put], ..Txn::default() }) {
                tracing::debug!(%error, budget, "cannot send the notice of free slots in a budget; retrying");
                self.lock().news.touches().postpone(budget, now);
            }
        }
    }

    /// Renews the lease of the node, or acquires a lease if the node has none. Returns true if the node has a lease.
    fn keep(&self, joined: &Joined) -> bool {
        let before = self.clock.monotonic();
        match self.kept(joined) {
            Ok(()) => {
                self.lock().leases.renewed(before);
                true
            }
            Err(error) => {
                self.position.note_disconnect();
                tracing::debug!(%error, "cannot keep the lease alive; retrying");
                if error == StoreError::LeaseGone {
                    self.lock().leases.end();
                }
                false
            }
        }
    }
}
