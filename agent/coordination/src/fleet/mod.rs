//! A node of the fleet. The node repeats three steps (read a snapshot, decide, commit) until it may continue or must
//! wait.

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

use towpath_host::{Clock, identity::SigningIdentity};

pub use membership::{Joined, Wakeup};
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

/// The maximum number of attempts to commit a decision, if each attempt fails because other nodes have changed the same
/// records.
const TRIES: usize = 30;

/// The time after which another node withdraws an offer that a node has not taken (P57).
const OFFER: Duration = Duration::from_secs(10);

/// The maximum age of a cached snapshot from which a node makes the first attempt at a decision.
const RECENT: Duration = Duration::from_secs(1);

/// The handle by which one node takes part in the fleet.
#[derive(Debug)]
pub struct Fleet {
    store: Arc<dyn Store>,
    node: String,
    clock: Arc<dyn Clock>,
    membership: Membership,
    position: Arc<StorePosition>,
    /// The gossip of this node. `gossip` is empty if gossip does not run.
    gossip: OnceLock<Gossip>,
    /// The identity with which this node decrypts the values that other nodes have encrypted for it.
    signing_identity: OnceLock<SigningIdentity>,
    inner: Mutex<Inner>,
}

/// The time at which this node first saw each record, by the name of the budget, and by the node and store revision of
/// the record.
type FirstSeen = BTreeMap<String, BTreeMap<(String, u64), Instant>>;

#[derive(Debug, Default)]
struct Inner {
    /// For each offer to another node, the time at which this node first saw the offer.
    offers: FirstSeen,
    /// For each claim with an announced absence, the time at which this node first saw the claim.
    absences: FirstSeen,
    /// For each budget, the first waiter that may take a free slot, and the time at which this node first saw that
    /// waiter.
    idle: BTreeMap<String, ((String, u64), Instant)>,
    /// For each run, the wave that is complete, and the time at which this node noticed the completion.
    complete: BTreeMap<String, ((u32, u32), Instant)>,
    /// The newest snapshot of each book.
    snapshots: BTreeMap<String, Known>,
    /// The names of the alive nodes, and the time at which this node read them from the store.
    alive: Option<(Instant, BTreeSet<String>)>,
    /// The earliest end of a lease for which this node has set a timer. After this lease has ended, this node reads the
    /// list of alive nodes again.
    lease_end: Option<Instant>,
    /// For each partition, the time since which gossip reports slots that the store does not contain.
    hearsay: BTreeMap<String, Instant>,
    /// For each book, the partition in which this node holds a slot.
    holding: BTreeMap<String, String>,
    /// The time at which this node must decide again, even if no watch reports a change.
    due: Option<Instant>,
    /// The number of consecutive requests of this node that failed because of an error.
    troubles: u32,
    /// The times, error messages and write-offs of lost and failed nodes.
    loss: Loss,
    /// True if a snapshot in this pass contained no acceptance, or an acceptance that this node has not loaded.
    behind: bool,
    /// The time since which this node has not loaded the acceptance in the store. Unit: milliseconds since 1970.
    behind_since: Option<i64>,
    /// The time since which the store has not answered a request for a snapshot. Unit: milliseconds since 1970.
    silent_since: Option<i64>,
}

/// A cached snapshot, with the state of the node at the time of the request for the snapshot (P134).
#[derive(Debug, Clone)]
struct Known {
    snapshot: RunSnapshot,
    /// The state of the node at the time of the request. The age of the snapshot is measured from the request, because
    /// the answer may be late.
    requested: Requested,
}

/// The time of a request, and the number of changes that the watches had reported before the request.
#[derive(Debug, Clone, Copy)]
struct Requested {
    at: Instant,
    news: u64,
    /// The store revision and the sequence number that this node had seen before the request.
    position: (u64, u64),
}

/// The answer to a request of a node, such as the request to enter a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The node may continue.
    Go,
    /// The node must wait. The variant contains the closed gate that blocks the request.
    Hold(Gate),
}

impl Fleet {
    /// Creates a handle for a node that has not joined the fleet yet.
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
            signing_identity: OnceLock::new(),
            inner: Mutex::default(),
        }
    }

    /// Returns true if gossip considers a node lost, or if gossip does not run (P58).
    fn confirms_loss(&self, node: &str) -> bool {
        // The agent that runs under the node's name has another key, so it does not prove that the node is alive.
        if self.store.strangers().contains_key(node) {
            return true;
        }
        self.gossip.get().is_none_or(|gossip| gossip.considers_lost(node))
    }

    /// Attaches the gossip of this node. With gossip, another node counts as lost only if gossip also considers that
    /// node lost.
    pub fn attach_gossip(&self, gossip: Gossip) {
        let _ = self.gossip.set(gossip);
    }

    /// Sets the identity with which this node decrypts the values that other nodes have encrypted for it.
    pub fn read_as(&self, signing_identity: SigningIdentity) {
        let _ = self.signing_identity.set(signing_identity);
    }

    /// Joins the fleet: writes the join record, keeps the lease alive, and starts the watches. Later calls have no
    /// effect.
    pub fn join(&self, joined: Joined, wakeup: impl Fn(Wakeup) + Send + Sync + 'static) {
        self.membership.begin(joined, Arc::new(wakeup));
    }

    /// Leaves the fleet. Deletes the record that shows that this node is alive, so that other nodes need not wait for
    /// the end of its lease.
    pub fn leave(&self) {
        self.membership.end();
    }

    /// Returns the data store of the fleet.
    pub fn store(&self) -> &dyn Store {
        self.store.as_ref()
    }

    /// Returns the reason why the fleet rejects this node. `None` if the fleet does not reject this node.
    pub fn refused(&self) -> Option<String> {
        self.membership.refused()
    }

    /// Returns true if another agent runs with the name and the key of this node.
    pub fn is_cloned(&self) -> bool {
        self.membership.is_cloned()
    }

    /// Sets the public keys that git lists for this node. `None` if git lists none.
    pub fn give_keys(&self, keys: Option<Vec<String>>) {
        self.membership.set_listed_keys(keys);
    }

    /// Commits a transaction. If the fleet rejects this node, the function returns an error and sends no request to the
    /// store.
    fn write(&self, txn: &Txn) -> Result<Outcome, StoreError> {
        match self.membership.refused() {
            Some(why) => Err(StoreError::Denied(why)),
            None => self.store.commit(txn),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the time, such as the end of a soak, at which this node must decide again even if no watch reports a
    /// change. Removes the stored time.
    pub fn due(&self) -> Option<Instant> {
        self.lock().due.take()
    }

    /// Makes this node decide again in about a minute, so that this node does due maintenance if no other node does it
    /// (P73).
    pub fn look_again(&self) {
        let at = self.clock.monotonic() + Duration::from_millis(50_000 + self.spread() % 20_000);
        sooner(&mut self.lock().due, at);
    }

    /// Makes this node decide again in 2 to 15 s. The delay grows with each consecutive error (P136).
    pub fn look_soon(&self) {
        let mut inner = self.lock();
        let at = self.clock.monotonic() + backed_off(inner.troubles, self.spread());
        inner.troubles = inner.troubles.saturating_add(1);
        sooner(&mut inner.due, at);
    }

    /// Returns true if this node's newest request failed because of an error.
    pub fn has_error(&self) -> bool {
        self.lock().troubles > 0
    }

    /// Begins a pass. After this call, the result of `is_behind` depends only on snapshots of this pass.
    pub fn begin_pass(&self) {
        self.lock().behind = false;
    }

    /// Returns true if a snapshot in this pass contained no acceptance, or an acceptance that this node has not loaded.
    /// No watch reports that the acceptance record was deleted or restored from a backup.
    pub fn is_behind(&self) -> bool {
        self.lock().behind
    }

    /// Returns a number that differs from node to node. Delays depend on this number, so that the nodes do not all act
    /// at the same time.
    fn spread(&self) -> u64 {
        self.node.bytes().fold(7_u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(byte)))
    }

    /// Returns true if the lease of this node may have ended. A node whose lease may have ended must check its claims
    /// before its next change.
    pub fn lease_may_be_gone(&self) -> bool {
        self.membership.lease_may_be_gone()
    }

    /// Restores from the journal the highest store revision that this node has seen, and the sequence number of its
    /// newest write.
    pub fn resume(&self, revision: u64, sequence: u64) {
        self.position.resume(revision, sequence);
    }

    /// Records the store revision that an answer of the store contains. `before` is the store position that this node
    /// had seen when it sent the request.
    pub fn seen(&self, before: (u64, u64), revision: u64) {
        self.position.seen(before, revision);
    }

    /// Returns the highest store revision that this node has seen, and the sequence number of its newest write.
    pub fn known(&self) -> (u64, u64) {
        self.position.known()
    }

    /// Returns true if this node must republish its claims, because the store was rolled back.
    pub fn needs_republish(&self) -> bool {
        self.position.needs_republish()
    }

    /// Returns true if the newest snapshot of a run does not contain this node's vote for a segment.
    pub fn lacks_vote(&self, spec: &RolloutSpec, segment: u32) -> bool {
        let key = snapshot_key(spec, &self.node);
        self.lock().snapshots.get(&key).is_some_and(|known| !known.snapshot.voted.contains(&segment))
    }

    /// Makes a request for this node: decides and commits until the node may continue or must wait.
    pub fn ask(&self, spec: &RolloutSpec, request: Request) -> Answer {
        match self.asked(spec, request) {
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

    fn asked(&self, spec: &RolloutSpec, request: Request) -> Result<Answer, StoreError> {
        if let Some(why) = self.membership.refused() {
            self.look_soon();
            return Ok(Answer::Hold(Gate::new(GateReason::Dependency, why)));
        }
        if matches!(request, Request::Change(_) | Request::Correct) && !self.membership.ready() {
            self.look_soon();
            return Ok(Answer::Hold(explain::no_lease()));
        }
        let mut news = self.membership.news();
        let mut snapshot = match self.recent(spec, request) {
            Some(snapshot) => snapshot,
            None => self.look(spec)?,
        };
        let was_halted = snapshot.halted(spec);
        let mut maintained = 0;
        for _ in 0..TRIES {
            snapshot = self.rollback_reported(spec, snapshot)?;
            snapshot = self.noticed(spec, snapshot)?;
            match decide(spec, &snapshot, &self.node, request) {
                Decision::Go => {
                    if let Some(txn) = self.newer_message(spec, &snapshot, request) {
                        snapshot = self.commit(spec, txn)?;
                        continue;
                    }
                    self.go(spec, snapshot, request, was_halted)?;
                    return Ok(Answer::Go);
                }
                Decision::Commit(txn) => {
                    news = self.membership.news();
                    snapshot = self.commit(spec, txn)?;
                }
                Decision::Wait(reason) => {
                    match next_maintenance(spec, &snapshot, &self.node).filter(|_| maintained < TRIES / 2) {
                        Some(txn) => {
                            maintained += 1;
                            news = self.membership.news();
                            snapshot = self.commit(spec, txn)?;
                        }
                        None => {
                            // The node counts as waiting before the changes are counted. The order ensures that each
                            // touch either wakes the node or is counted.
                            self.membership.touches(|touches| touches.set_waiting(spec, true));
                            let now = self.membership.news();
                            if now == news {
                                self.watch_leases(spec, &snapshot)?;
                                let lost = self.lost_holders(spec, &snapshot)?;
                                let situation = explain::Situation { spec, snapshot: &snapshot, lost: &lost };
                                return Ok(Answer::Hold(explain::closed_gate(
                                    situation,
                                    &self.node,
                                    request.segment(),
                                    reason,
                                )));
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

    /// Ends a request if the node may continue. After the completion of a segment, the node also does the maintenance
    /// that is due in the run.
    fn go(
        &self,
        spec: &RolloutSpec,
        snapshot: RunSnapshot,
        request: Request,
        was_halted: bool,
    ) -> Result<(), StoreError> {
        self.membership.touches(|touches| touches.set_waiting(spec, false));
        let ends =
            matches!(request, Request::Done(_) | Request::Failed(..) | Request::Leave) && !spec.members.is_empty();
        if ends {
            if was_halted && !snapshot.halted(spec) {
                // The end of a halt may free more slots than one transaction can offer.
                self.membership.touches(|touches| touches.offer_now(&spec.budget));
            }
            self.next_maintenance(spec, snapshot)?;
        }
        Ok(())
    }

    /// Returns the cached snapshot of a run if it is recent enough for the first attempt at a decision. A decision from
    /// an outdated snapshot is safe, because the transaction of the decision fails if a record has changed. `None` if
    /// the request needs a newer snapshot: the cached snapshot is too old, or a watch has reported a change.
    fn recent(&self, spec: &RolloutSpec, request: Request) -> Option<RunSnapshot> {
        let now = self.clock.monotonic();
        let inner = self.lock();
        let known = inner.snapshots.get(&snapshot_key(spec, &self.node))?;
        let gives_back = !matches!(request, Request::Enter(_) | Request::Change(_) | Request::Correct);
        let requested = known.requested;
        let fresh = now.duration_since(requested.at) < RECENT && self.membership.news() == requested.news;
        (gives_back || fresh).then(|| known.snapshot.clone())
    }

    /// Returns the present time, the number of reported changes, and the store position of this node.
    fn requested(&self) -> Requested {
        Requested { at: self.clock.monotonic(), news: self.membership.news(), position: self.position.known() }
    }

    /// Does the maintenance of a run that is due. Any node may do the maintenance. Returns true if the run is complete.
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

    /// Returns true if the run is complete in the newest snapshot. A complete run stays complete unless the store is
    /// rolled back.
    fn has_seen_end(&self, spec: &RolloutSpec) -> bool {
        let inner = self.lock();
        let known = inner.snapshots.get(&snapshot_key(spec, &self.node)).map(|known| &known.snapshot);
        known.is_some_and(|snapshot| snapshot.done(spec) && snapshot.recovery.is_none() && !snapshot.rolled_back)
    }

    /// Does the maintenance of a run that is due according to a snapshot. Returns true if the run is complete.
    fn next_maintenance(&self, spec: &RolloutSpec, mut snapshot: RunSnapshot) -> Result<bool, StoreError> {
        for _ in 0..TRIES {
            snapshot = self.noticed(spec, snapshot)?;
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

    /// Commits a transaction, and reads a new snapshot of the run in the same request.
    fn commit(&self, spec: &RolloutSpec, txn: Txn) -> Result<RunSnapshot, StoreError> {
        let mut txn = self.stamped(txn);
        let before = explain::may_reach(&self.node, &txn).then(|| self.snapshot(spec));
        let requested = self.requested();
        // If the store is not shared, no thread sends delayed touches, so no touch is delayed.
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
        tracing::debug!(book = spec.book, done, "committed {}", display_transaction(&txn));
        let snapshot = self.snapshot_of(spec, requested, outcome)?;
        if done {
            if let Some(touch) = touch {
                self.membership.touches(|touches| touches.committed(touch, requested.at));
            }
            self.announce_slots(spec, &snapshot);
            self.note_write_offs(spec, &txn);
            if let Some(before) = before {
                self.note_milestones(spec, &before, &txn, &snapshot);
            }
        }
        Ok(snapshot)
    }

    /// Returns the cached snapshot of a run, or an empty snapshot if this node has not read the run yet.
    fn snapshot(&self, spec: &RolloutSpec) -> RunSnapshot {
        let inner = self.lock();
        inner.snapshots.get(&snapshot_key(spec, &self.node)).map(|known| known.snapshot.clone()).unwrap_or_default()
    }

    /// Returns the operation that writes a new sequence number of this node to the store.
    fn write_sequence(&self, number: u64) -> Op {
        Op::put(keys::write_sequence(&self.node), serde_json::to_vec(&WriteSequence { number }).unwrap_or_default())
    }

    /// Commits a transaction with the next sequence number, and reads no snapshot. Returns true if the store has
    /// applied the transaction.
    fn commit_marked(&self, txn: Txn) -> Result<bool, StoreError> {
        let mut txn = self.stamped(txn);
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
        snapshot.rolled_back = self.position.judge(requested.position, &snapshot);
        snapshot.stabilizing = self.is_stabilizing();
        let now = self.clock.wall();
        let mut inner = self.lock();
        // The spec of a recovery has generation 0, because it covers the whole fleet and no single revision.
        inner.silent_since = None;
        if spec.accepted.generation > 0 {
            let is_behind = snapshot.current(spec).is_none();
            inner.behind |= is_behind;
            inner.behind_since = if is_behind { inner.behind_since.or(Some(now)) } else { None };
        }
        inner.snapshots.insert(snapshot_key(spec, &self.node), Known { snapshot: snapshot.clone(), requested });
        Ok(snapshot)
    }

    /// Drops all cached snapshots, because a store that answers again after an error may have been restored or
    /// replaced.
    fn forget(&self) {
        self.note_silence();
        self.lock().snapshots.clear();
        self.position.note_disconnect();
    }
}

/// Returns the cache key of a snapshot: the book, the budget, the run and the partition.
fn snapshot_key(spec: &RolloutSpec, node: &str) -> String {
    format!("{} {} {} {}", spec.book, spec.budget, spec.run, spec.partition(node))
}

/// Returns the pause after `errors` consecutive errors. The pause is 2 s after the first error, and doubles up to 12 s.
/// The argument `spread` makes the pause longer by up to a quarter.
pub fn backed_off(errors: u32, spread: u64) -> Duration {
    let pause = (2_000_u64 << errors.min(3)).min(12_000);
    Duration::from_millis(pause + spread % (pause / 4))
}

fn sooner(due: &mut Option<Instant>, at: Instant) {
    *due = Some(due.map_or(at, |known| known.min(at)));
}

fn display_transaction(txn: &Txn) -> String {
    let operation = |operation: &Op| match operation {
        Op::Put { key, .. } => Some(format!("put {key}")),
        Op::Delete(key) => Some(format!("delete {key}")),
        Op::DeleteAll(prefix) => Some(format!("delete all {prefix}")),
        _ => None,
    };
    txn.then.iter().filter_map(operation).collect::<Vec<_>>().join(", ")
}
