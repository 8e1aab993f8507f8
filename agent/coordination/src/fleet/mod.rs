//! A node of the fleet: it reads a snapshot, decides, commits, and repeats that until it may continue or must wait.

mod elect;
mod leases;
mod membership;
mod notice;
mod reads;
mod recovery;
mod report;
mod results;
mod store_position;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::{Duration, Instant},
};

use towpath_host::{Clock, identity::Bearer};

pub use membership::{Joined, Poke};
pub use results::{ElectedTask, TaskResult};

use crate::{
    Gate, GateReason,
    explain::{self, Loss},
    gossip::Gossip,
    keys,
    rollout::{Decision, Request, RolloutSpec, RunSnapshot, WriteSequence, decide, next_maintenance},
    store::{Op, Outcome, Store, StoreError, Txn},
};
use membership::Membership;
use store_position::StorePosition;

/// The most attempts of one decision while other nodes change the same records.
const TRIES: usize = 30;

/// The time after which an offer that is not taken is withdrawn (P57).
const OFFER: Duration = Duration::from_secs(10);

/// The age up to which a node begins with its last snapshot.
const RECENT: Duration = Duration::from_secs(1);

/// The fleet as one node takes part in it.
#[derive(Debug)]
pub struct Fleet {
    store: Arc<dyn Store>,
    node: String,
    clock: Arc<dyn Clock>,
    membership: Membership,
    position: Arc<StorePosition>,
    /// The gossip between the nodes, if it runs.
    gossip: OnceLock<Gossip>,
    /// The identity that opens values sealed to this node.
    bearer: OnceLock<Bearer>,
    inner: Mutex<Inner>,
}

/// The times at which this node first saw records, by budget.
type FirstSeen = BTreeMap<String, BTreeMap<(String, u64), Instant>>;

#[derive(Debug, Default)]
struct Inner {
    /// Offers to other nodes.
    offers: FirstSeen,
    /// Claims with an announced absence.
    absences: FirstSeen,
    /// The first waiter that does not take a free slot, by budget, with the time at which this node first saw that.
    idle: BTreeMap<String, ((String, u64), Instant)>,
    /// The complete wave of each run, with the time at which this node first saw it complete.
    complete: BTreeMap<String, ((u32, u32), Instant)>,
    /// The last snapshot of each book.
    snapshots: BTreeMap<String, Known>,
    /// The alive nodes, with the time of the read.
    alive: Option<(Instant, BTreeSet<String>)>,
    /// The end of a lease that a run waits for. From then on, an older list of alive nodes is not used.
    lease_end: Option<Instant>,
    /// The time since which slots that the store does not have are reported, by partition.
    hearsay: BTreeMap<String, Instant>,
    /// The partition in which this node holds a slot, by book.
    holding: BTreeMap<String, String>,
    /// The time of the next decision that no watch triggers.
    due: Option<Instant>,
    /// The number of holds in a row that an error caused.
    troubles: u32,
    /// The nodes that this node has seen to be lost, and the messages about failures and losses.
    loss: Loss,
    /// True if a snapshot of this pass showed another accepted revision than the node has loaded, or none.
    behind: bool,
}

/// A snapshot with the circumstances of its request (P134).
#[derive(Debug, Clone)]
struct Known {
    snapshot: RunSnapshot,
    /// The request. Its time counts, because the answer may have waited long for a processor.
    requested: Requested,
}

/// The time of a request, and the number of news before it.
#[derive(Debug, Clone, Copy)]
struct Requested {
    at: Instant,
    news: u64,
    /// The store revision and the sequence number of this node that were known at the request.
    position: (u64, u64),
}

/// The answer to a node's request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The permission to continue.
    Go,
    /// The gate that blocks the node.
    Hold(Gate),
}

impl Fleet {
    /// Creates a node that has not joined yet.
    pub fn new(store: Arc<dyn Store>, node: String, clock: Arc<dyn Clock>) -> Self {
        let position = Arc::new(StorePosition::new(store.shared()));
        let membership = Membership::new(Arc::clone(&store), node.clone(), Arc::clone(&clock), Arc::clone(&position));
        Self {
            store,
            node,
            clock,
            membership,
            position,
            gossip: OnceLock::new(),
            bearer: OnceLock::new(),
            inner: Mutex::default(),
        }
    }

    /// Returns whether gossip agrees that a node is lost. True without gossip (P58).
    fn agrees_lost(&self, node: &str) -> bool {
        // The agent that runs under that name has another key, so it is not the node.
        if self.store.strangers().contains_key(node) {
            return true;
        }
        self.gossip.get().is_none_or(|gossip| gossip.thinks_lost(node))
    }

    /// Attaches gossip. A node then counts as lost only if gossip considers it lost, too.
    pub fn hear(&self, gossip: Gossip) {
        let _ = self.gossip.set(gossip);
    }

    /// Sets the identity that opens values sealed to this node.
    pub fn read_as(&self, bearer: Bearer) {
        let _ = self.bearer.set(bearer);
    }

    /// Joins the fleet: writes the join record, keeps the lease, and follows the watches. Only the first call counts.
    pub fn join(&self, joined: Joined, poke: impl Fn(Poke) + Send + Sync + 'static) {
        self.membership.begin(joined, Arc::new(poke));
    }

    /// Leaves the fleet. Deletes the key of the lease, so that other nodes need not wait for the lease to end.
    pub fn leave(&self) {
        self.membership.end();
    }

    /// Returns the store.
    pub fn store(&self) -> &dyn Store {
        self.store.as_ref()
    }

    /// Returns the reason to reject this node. `None` if it takes part.
    pub fn refused(&self) -> Option<String> {
        self.membership.refused()
    }

    /// Returns whether another machine runs with the key of this node.
    pub fn is_cloned(&self) -> bool {
        self.membership.is_cloned()
    }

    /// Sets the public keys that git gives to this node. `None` if it gives none.
    pub fn give_keys(&self, keys: Option<Vec<String>>) {
        self.membership.give(keys);
    }

    /// Commits a transaction, unless this node is rejected.
    fn write(&self, txn: &Txn) -> Result<Outcome, StoreError> {
        match self.membership.refused() {
            Some(why) => Err(StoreError::Denied(why)),
            None => self.store.commit(txn),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the time of the next decision that no watch triggers, such as the end of a soak.
    pub fn due(&self) -> Option<Instant> {
        self.lock().due.take()
    }

    /// Schedules a new decision in about a minute, because maintenance may be left to this node (P73).
    pub fn look_again(&self) {
        let at = self.clock.monotonic() + Duration::from_millis(50_000 + self.spread() % 20_000);
        sooner(&mut self.lock().due, at);
    }

    /// Schedules a new decision within 2 to 15 s, later with each error in a row (P136).
    pub fn look_soon(&self) {
        let mut inner = self.lock();
        let at = self.clock.monotonic() + backed_off(inner.troubles, self.spread());
        inner.troubles = inner.troubles.saturating_add(1);
        sooner(&mut inner.due, at);
    }

    /// Returns whether the last hold was caused by an error.
    pub fn is_troubled(&self) -> bool {
        self.lock().troubles > 0
    }

    /// Begins a pass. Only its own snapshots decide whether the node is behind.
    pub fn begin_pass(&self) {
        self.lock().behind = false;
    }

    /// Returns whether a snapshot of the last pass showed another accepted revision than the node has loaded, or none.
    /// No watch reports that if the record was deleted or came from a backup.
    pub fn is_behind(&self) -> bool {
        self.lock().behind
    }

    /// Returns a number that differs from node to node.
    fn spread(&self) -> u64 {
        self.node.bytes().fold(7_u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(byte)))
    }

    /// Returns whether the lease may have ended. If so, the claims must be checked before the next change.
    pub fn lease_may_be_gone(&self) -> bool {
        self.membership.lease_may_be_gone()
    }

    /// Restores the last known store revision and the own sequence number from the journal.
    pub fn resume(&self, revision: u64, sequence: u64) {
        self.position.resume(revision, sequence);
    }

    /// Notes the revision of an answer. `before` is the position that was known at the request.
    pub fn seen(&self, before: (u64, u64), revision: u64) {
        self.position.seen(before, revision);
    }

    /// Returns the highest known store revision, and the sequence number of this node's last write.
    pub fn known(&self) -> (u64, u64) {
        self.position.known()
    }

    /// Returns whether the store was rolled back and this node must republish its claims.
    pub fn needs_republish(&self) -> bool {
        self.position.needs_republish()
    }

    /// Returns whether the last snapshot of the store lacks a vote of this node.
    pub fn lacks_vote(&self, spec: &RolloutSpec, segment: u32) -> bool {
        let key = snapshot_key(spec, &self.node);
        self.lock().snapshots.get(&key).is_some_and(|known| !known.snapshot.voted.contains(&segment))
    }

    /// Makes a request, and repeats it until it is granted or the node must wait.
    pub fn ask(&self, spec: &RolloutSpec, want: Request) -> Answer {
        match self.asked(spec, want) {
            Ok(answer) => {
                self.lock().troubles = 0;
                answer
            }
            Err(error) => {
                self.look_soon();
                Answer::Hold(Gate::unreachable(&error))
            }
        }
    }

    fn asked(&self, spec: &RolloutSpec, want: Request) -> Result<Answer, StoreError> {
        if let Some(why) = self.membership.refused() {
            self.look_soon();
            return Ok(Answer::Hold(Gate::new(GateReason::Dependency, why)));
        }
        if matches!(want, Request::Change(_) | Request::Correct) && !self.membership.ready() {
            self.look_soon();
            return Ok(Answer::Hold(explain::no_lease()));
        }
        let mut news = self.membership.news();
        let mut snapshot = match self.recent(spec, want) {
            Some(snapshot) => snapshot,
            None => self.look(spec)?,
        };
        let was_halted = snapshot.halted(spec);
        let mut maintained = 0;
        for _ in 0..TRIES {
            snapshot = self.rollback_reported(spec, snapshot)?;
            self.notice(spec, &mut snapshot)?;
            match decide(spec, &snapshot, &self.node, want) {
                Decision::Go => {
                    if let Some(txn) = self.newer_message(spec, &snapshot, want) {
                        snapshot = self.commit(spec, txn)?;
                        continue;
                    }
                    self.go(spec, snapshot, want, was_halted)?;
                    return Ok(Answer::Go);
                }
                Decision::Commit(txn) => {
                    news = self.membership.news();
                    snapshot = self.commit(spec, txn)?;
                }
                Decision::Wait(hold) => {
                    match next_maintenance(spec, &snapshot, &self.node).filter(|_| maintained < TRIES / 2) {
                        Some(txn) => {
                            maintained += 1;
                            news = self.membership.news();
                            snapshot = self.commit(spec, txn)?;
                        }
                        None => {
                            // Set before the news are counted, so that every touch either wakes this node or counts.
                            self.membership.touches(|touches| touches.set_waiting(spec, true));
                            let now = self.membership.news();
                            if now == news {
                                self.watch_leases(spec, &snapshot)?;
                                let lost = self.lost_holders(spec, &snapshot)?;
                                let situation = explain::Situation { spec, snapshot: &snapshot, lost: &lost };
                                return Ok(Answer::Hold(explain::hold(situation, &self.node, want.segment(), hold)));
                            }
                            news = now;
                            snapshot = self.look(spec)?;
                        }
                    }
                }
            }
        }
        self.look_soon();
        Ok(Answer::Hold(explain::busy(spec, TRIES)))
    }

    /// Completes a granted request. A node that has finished something may have completed a wave.
    fn go(&self, spec: &RolloutSpec, snapshot: RunSnapshot, want: Request, was_halted: bool) -> Result<(), StoreError> {
        self.membership.touches(|touches| touches.set_waiting(spec, false));
        let ends = matches!(want, Request::Done(_) | Request::Failed(_) | Request::Leave) && !spec.members.is_empty();
        if ends {
            if was_halted && !snapshot.halted(spec) {
                // More slots may be free than one transaction offers.
                self.membership.touches(|touches| touches.offer_now(&spec.group));
            }
            self.next_maintenance(spec, snapshot)?;
        }
        Ok(())
    }

    /// Returns the last snapshot if it is good enough for a first attempt. That is safe because transactions compare,
    /// and because an offer or an opened wave would have been news.
    fn recent(&self, spec: &RolloutSpec, want: Request) -> Option<RunSnapshot> {
        let now = self.clock.monotonic();
        let inner = self.lock();
        let known = inner.snapshots.get(&snapshot_key(spec, &self.node))?;
        let gives_back = !matches!(want, Request::Enter(_) | Request::Change(_) | Request::Correct);
        let requested = known.requested;
        let fresh = now.duration_since(requested.at) < RECENT && self.membership.news() == requested.news;
        (gives_back || fresh).then(|| known.snapshot.clone())
    }

    /// Notes the circumstances of a request.
    fn requested(&self) -> Requested {
        Requested { at: self.clock.monotonic(), news: self.membership.news(), position: self.position.known() }
    }

    /// Does the maintenance that is due in a run, for any node. Returns whether the run is complete.
    ///
    /// # Errors
    /// The store does not answer.
    pub fn run_maintenance(&self, spec: &RolloutSpec) -> Result<bool, StoreError> {
        if self.has_seen_end(spec) {
            return Ok(true);
        }
        let snapshot = match self.recent(spec, Request::Enter(0)) {
            Some(snapshot) => snapshot,
            None => self.look(spec).inspect_err(|_| self.look_soon())?,
        };
        self.membership.touches(|touches| touches.set_waiting(spec, true));
        let ended = self.next_maintenance(spec, snapshot).inspect_err(|_| self.look_soon())?;
        if ended {
            self.membership.touches(|touches| touches.set_waiting(spec, false));
        }
        Ok(ended)
    }

    /// Returns whether the last snapshot showed the end of a run. Only a rollback of the store could undo that.
    fn has_seen_end(&self, spec: &RolloutSpec) -> bool {
        let inner = self.lock();
        let known = inner.snapshots.get(&snapshot_key(spec, &self.node)).map(|known| &known.snapshot);
        known.is_some_and(|snapshot| snapshot.done(spec) && snapshot.recovery.is_none() && !snapshot.rolled_back)
    }

    /// Does the maintenance that is due. Returns whether the run is complete.
    fn next_maintenance(&self, spec: &RolloutSpec, mut snapshot: RunSnapshot) -> Result<bool, StoreError> {
        for _ in 0..TRIES {
            self.notice(spec, &mut snapshot)?;
            let Some(txn) = next_maintenance(spec, &snapshot, &self.node) else { break };
            snapshot = self.commit(spec, txn)?;
        }
        self.watch_leases(spec, &snapshot)?;
        Ok(snapshot.done(spec))
    }

    fn look(&self, spec: &RolloutSpec) -> Result<RunSnapshot, StoreError> {
        let requested = self.requested();
        let outcome = self.store.commit(&RunSnapshot::reading(spec, &self.node)).inspect_err(|_| self.forget())?;
        self.snapshot_of(spec, requested, outcome)
    }

    /// Commits, and reads the next snapshot in the same request.
    fn commit(&self, spec: &RolloutSpec, mut txn: Txn) -> Result<RunSnapshot, StoreError> {
        self.stamp(&mut txn);
        let before = explain::may_reach(&self.node, &txn).then(|| self.snapshot(spec));
        let requested = self.requested();
        // The nodes of one process have no thread that sends a delayed touch.
        let touch = if self.store.shared() {
            self.membership.touches(|touches| touches.before_commit(&mut txn, requested.at))
        } else {
            None
        };
        txn.then.push(self.write_sequence(requested.position.1 + 1));
        let reading = RunSnapshot::reading(spec, &self.node).then;
        txn.then.extend(reading.iter().cloned());
        txn.otherwise = reading;
        let outcome = self.write(&txn).inspect_err(|_| self.forget())?;
        let done = matches!(outcome, Outcome::Done { .. });
        tracing::debug!(book = spec.book, done, "committed {}", shown(&txn));
        let snapshot = self.snapshot_of(spec, requested, outcome)?;
        if done {
            if let Some(touch) = touch {
                self.membership.touches(|touches| touches.committed(touch, requested.at));
            }
            self.tell_holds(spec, &snapshot);
            self.note_write_offs(spec, &txn);
            if let Some(before) = before {
                self.note_milestones(spec, &before, &txn, &snapshot);
            }
        }
        Ok(snapshot)
    }

    /// Returns the last snapshot of a run. Empty if this node has not looked.
    fn snapshot(&self, spec: &RolloutSpec) -> RunSnapshot {
        let inner = self.lock();
        inner.snapshots.get(&snapshot_key(spec, &self.node)).map(|known| known.snapshot.clone()).unwrap_or_default()
    }

    /// Returns the operation that writes this node's sequence number.
    fn write_sequence(&self, number: u64) -> Op {
        Op::put(keys::write_sequence(&self.node), serde_json::to_vec(&WriteSequence { number }).unwrap_or_default())
    }

    /// Commits a transaction with the next sequence number, without a snapshot. Returns whether it was applied.
    fn commit_marked(&self, mut txn: Txn) -> Result<bool, StoreError> {
        let number = self.position.known().1 + 1;
        txn.then.push(self.write_sequence(number));
        let done = matches!(self.write(&txn)?, Outcome::Done { .. });
        if done {
            self.position.wrote(number);
        }
        Ok(done)
    }

    fn snapshot_of(
        &self,
        spec: &RolloutSpec,
        requested: Requested,
        outcome: Outcome,
    ) -> Result<RunSnapshot, StoreError> {
        let (revision, answers) = outcome.answers();
        let mut snapshot = RunSnapshot::of(spec, &self.node, revision, answers);
        for txn in RunSnapshot::reading_more(spec, &self.node) {
            let more = self.store.commit(&txn).inspect_err(|_| self.forget())?;
            snapshot = snapshot.with_votes(spec, &self.node, more.answers().1);
        }
        self.position.judge(requested.position, &mut snapshot);
        self.note_stabilizing(&mut snapshot);
        let mut inner = self.lock();
        // A snapshot of the whole fleet has no generation.
        inner.behind |= spec.generation > 0 && snapshot.current(spec).is_none();
        inner.snapshots.insert(snapshot_key(spec, &self.node), Known { snapshot: snapshot.clone(), requested });
        Ok(snapshot)
    }

    /// Drops all snapshots. A store that did not answer may be another one when it answers again.
    fn forget(&self) {
        self.lock().snapshots.clear();
        self.position.lost_sight();
    }
}

/// Returns the key of a cached snapshot. A book may have several budgets, and a snapshot covers one.
fn snapshot_key(spec: &RolloutSpec, node: &str) -> String {
    format!("{} {} {} {}", spec.book, spec.group, spec.run, spec.part(node))
}

/// Returns the pause after a number of errors: 2 s at first, doubled up to 12 s, and up to a quarter more by `spread`.
pub fn backed_off(errors: u32, spread: u64) -> Duration {
    let pause = (2_000_u64 << errors.min(3)).min(12_000);
    Duration::from_millis(pause + spread % (pause / 4))
}

fn sooner(due: &mut Option<Instant>, at: Instant) {
    *due = Some(due.map_or(at, |known| known.min(at)));
}

fn shown(txn: &Txn) -> String {
    let operation = |operation: &Op| match operation {
        Op::Put { key, .. } => Some(format!("put {key}")),
        Op::Delete(key) => Some(format!("delete {key}")),
        Op::DeleteAll(prefix) => Some(format!("delete all {prefix}")),
        _ => None,
    };
    txn.then.iter().filter_map(operation).collect::<Vec<_>>().join(", ")
}
