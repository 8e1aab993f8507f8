//! A node of the fleet. The node reads a snapshot, decides and commits. It repeats these steps until it may continue or
//! must wait.

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

/// The maximum number of attempts to commit one decision while other nodes change the same records.
const TRIES: usize = 30;

/// The time in which a node must take an offer, before another node withdraws the offer (P57).
const OFFER: Duration = Duration::from_secs(10);

/// The maximum age of a snapshot that a node uses for the first attempt at a decision.
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
    /// The identity with which this node decrypts values that were encrypted for the node.
    signing_identity: OnceLock<SigningIdentity>,
    inner: Mutex<Inner>,
}

/// The time at which this node first saw each record. The outer key of the map is the name of the budget.
type FirstSeen = BTreeMap<String, BTreeMap<(String, u64), Instant>>;

#[derive(Debug, Default)]
struct Inner {
    /// For each offer to another node, the time at which this node first saw the offer.
    offers: FirstSeen,
    /// For each claim with an announced absence, the time at which this node first saw the claim.
    absences: FirstSeen,
    /// For each budget, the first waiter that does not take a free slot, and the time at which this node first saw the
    /// waiter.
    idle: BTreeMap<String, ((String, u64), Instant)>,
    /// For each run, the complete wave, and the time at which this node first saw the complete wave.
    complete: BTreeMap<String, ((u32, u32), Instant)>,
    /// The newest snapshot of each book.
    snapshots: BTreeMap<String, Known>,
    /// The names of the alive nodes, and the time at which this node has read the names.
    alive: Option<(Instant, BTreeSet<String>)>,
    /// The end of the lease of a node that a run waits for. After the end of the lease, the node no longer uses an
    /// older list of alive nodes.
    lease_end: Option<Instant>,
    /// For each partition, the time since which gossip reports slots that the store does not contain.
    hearsay: BTreeMap<String, Instant>,
    /// For each book, the partition in which this node holds a slot.
    holding: BTreeMap<String, String>,
    /// The time at which this node decides again, even if no watch reports a change.
    due: Option<Instant>,
    /// The number of consecutive requests that had to wait because of an error.
    troubles: u32,
    /// The losses that this node has noticed, and the messages about failures and losses.
    loss: Loss,
    /// True if a snapshot of this pass contained no accepted revision, or a revision that the node has not loaded.
    behind: bool,
    /// The time since which each snapshot showed such a revision. Unit: milliseconds since 1970.
    behind_since: Option<i64>,
    /// The time since which the store has not answered a request for a snapshot. Unit: milliseconds since 1970.
    silent_since: Option<i64>,
}

/// A snapshot, with the state of the node at the time when it requested the snapshot (P134).
#[derive(Debug, Clone)]
struct Known {
    snapshot: RunSnapshot,
    /// The state of the node at the request. The age of a snapshot begins at its request, because the answer may have
    /// waited for a processor.
    requested: Requested,
}

/// The time of a request, and the number of changes that the watches had reported before the request.
#[derive(Debug, Clone, Copy)]
struct Requested {
    at: Instant,
    news: u64,
    /// The store revision and the sequence number that this node had seen when it sent the request.
    position: (u64, u64),
}

/// The answer to a request of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The node may continue.
    Go,
    /// The node must wait. The variant contains the gate that blocks the request.
    Hold(Gate),
}

impl Fleet {
    /// Creates the handle of a node that has not joined the fleet yet.
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

    /// Returns true if gossip also considers a node lost. The result is true if gossip does not run (P58).
    fn confirms_loss(&self, node: &str) -> bool {
        // The agent that runs under the node's name has another key, so it does not prove that the node is alive.
        if self.store.strangers().contains_key(node) {
            return true;
        }
        self.gossip.get().is_none_or(|gossip| gossip.considers_lost(node))
    }

    /// Attaches the gossip of this node. With gossip, a node counts as lost only if gossip also considers the node
    /// lost.
    pub fn attach_gossip(&self, gossip: Gossip) {
        let _ = self.gossip.set(gossip);
    }

    /// Sets the identity with which this node decrypts values that were encrypted for the node.
    pub fn read_as(&self, signing_identity: SigningIdentity) {
        let _ = self.signing_identity.set(signing_identity);
    }

    /// Joins the fleet: writes the join record, keeps the lease alive, and starts the watches. Later calls have no
    /// effect.
    pub fn join(&self, joined: Joined, wakeup: impl Fn(Wakeup) + Send + Sync + 'static) {
        self.membership.begin(joined, Arc::new(wakeup));
    }

    /// Leaves the fleet and deletes the lease key, so that other nodes do not wait for the end of the lease.
    pub fn leave(&self) {
        self.membership.end();
    }

    /// Returns the data store of the fleet.
    pub fn store(&self) -> &dyn Store {
        self.store.as_ref()
    }

    /// Returns the reason why this node is rejected. `None` if this node is not rejected.
    pub fn refused(&self) -> Option<String> {
        self.membership.refused()
    }

    /// Returns whether another machine runs with the key of this node.
    pub fn is_cloned(&self) -> bool {
        self.membership.is_cloned()
    }

    /// Sets the public keys that git lists for this node. `None` if git lists none.
    pub fn give_keys(&self, keys: Option<Vec<String>>) {
        self.membership.set_listed_keys(keys);
    }

    /// Commits a transaction. The commit fails without a request to the store if this node is rejected.
    fn write(&self, txn: &Txn) -> Result<Outcome, StoreError> {
        match self.membership.refused() {
            Some(why) => Err(StoreError::Denied(why)),
            None => self.store.commit(txn),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes and returns the time at which this node decides again without a report of a watch. An example is the end
    /// of a soak.
    pub fn due(&self) -> Option<Instant> {
        self.lock().due.take()
    }

    /// Makes this node decide again in about a minute, in case no other node does the maintenance of the run (P73).
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

    /// Returns true if the most recent request had to wait because of an error.
    pub fn has_error(&self) -> bool {
        self.lock().troubles > 0
    }

    /// Begins a pass. During a pass, only the snapshots of the same pass determine the result of `is_behind`.
    pub fn begin_pass(&self) {
        self.lock().behind = false;
    }

    /// Returns true if a snapshot of this pass contained no accepted revision, or a revision that the node has not
    /// loaded. No watch reports that the acceptance record was deleted or restored from a backup.
    pub fn is_behind(&self) -> bool {
        self.lock().behind
    }

    /// Returns a number that differs from node to node, so that the nodes do not all act at the same time.
    fn spread(&self) -> u64 {
        self.node.bytes().fold(7_u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(byte)))
    }

    /// Returns whether the lease of this node may have ended. A node whose lease may have ended must check its claims
    /// before the next change.
    pub fn lease_may_be_gone(&self) -> bool {
        self.membership.lease_may_be_gone()
    }

    /// Restores, from the journal, the highest store revision that this node has seen, and its sequence number.
    pub fn resume(&self, revision: u64, sequence: u64) {
        self.position.resume(revision, sequence);
    }

    /// Records the store revision that an answer of the store contains. `before` is the store position that this node
    /// had seen when it sent the request.
    pub fn seen(&self, before: (u64, u64), revision: u64) {
        self.position.seen(before, revision);
    }

    /// Returns the highest store revision that this node has seen, and the sequence number of its last write.
    pub fn known(&self) -> (u64, u64) {
        self.position.known()
    }

    /// Returns whether this node must republish its claims, because the store was rolled back.
    pub fn needs_republish(&self) -> bool {
        self.position.needs_republish()
    }

    /// Returns true if the newest snapshot of a run does not contain this node's vote for a segment.
    pub fn lacks_vote(&self, spec: &RolloutSpec, segment: u32) -> bool {
        let key = snapshot_key(spec, &self.node);
        self.lock().snapshots.get(&key).is_some_and(|known| !known.snapshot.voted.contains(&segment))
    }

    /// Makes a request of this node. Repeats the request until the node may continue or must wait.
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

    /// Completes a request after which the node may continue. A node that has completed a segment also does the
    /// maintenance that is due in the run.
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

    /// Returns the newest snapshot of a run, if the snapshot is recent enough for the first attempt at a decision. A
    /// decision from an old snapshot is safe, because transactions compare the records that they depend on. A node
    /// needs no new snapshot to notice offers and opened waves, which the watches report.
    fn recent(&self, spec: &RolloutSpec, request: Request) -> Option<RunSnapshot> {
        let now = self.clock.monotonic();
        let inner = self.lock();
        let known = inner.snapshots.get(&snapshot_key(spec, &self.node))?;
        let gives_back = !matches!(request, Request::Enter(_) | Request::Change(_) | Request::Correct);
        let requested = known.requested;
        let fresh = now.duration_since(requested.at) < RECENT && self.membership.news() == requested.news;
        (gives_back || fresh).then(|| known.snapshot.clone())
    }

    /// Returns the state of the node at the time of a request.
    fn requested(&self) -> Requested {
        Requested { at: self.clock.monotonic(), news: self.membership.news(), position: self.position.known() }
    }

    /// Does the maintenance that is due in a run. Any node may do maintenance. Returns whether the run is complete.
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

    /// Returns true if the run is complete in the newest snapshot. Only a rollback of the store can make a complete run
    /// incomplete again.
    fn has_seen_end(&self, spec: &RolloutSpec) -> bool {
        let inner = self.lock();
        let known = inner.snapshots.get(&snapshot_key(spec, &self.node)).map(|known| &known.snapshot);
        known.is_some_and(|snapshot| snapshot.done(spec) && snapshot.recovery.is_none() && !snapshot.rolled_back)
    }

    /// Does the maintenance that a snapshot shows to be due in a run. Returns whether the run is complete.
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

    /// Commits a transaction of a run, and reads a new snapshot of the run in the same request.
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

    /// Returns the newest snapshot of a run. The snapshot is empty if this node has not read the run yet.
    fn snapshot(&self, spec: &RolloutSpec) -> RunSnapshot {
        let inner = self.lock();
        inner.snapshots.get(&snapshot_key(spec, &self.node)).map(|known| known.snapshot.clone()).unwrap_or_default()
    }

    /// Returns the operation that writes the sequence number of this node.
    fn write_sequence(&self, number: u64) -> Op {
        Op::put(keys::write_sequence(&self.node), serde_json::to_vec(&WriteSequence { number }).unwrap_or_default())
    }

    /// Commits a transaction with the next sequence number, and reads no snapshot. Returns whether it was applied.
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

    /// Drops all snapshots. A store that answers again may have been restored or replaced.
    fn forget(&self) {
        self.note_silence();
        self.lock().snapshots.clear();
        self.position.note_disconnect();
    }
}

/// Returns the key of a cached snapshot. A book may have several budgets, and a snapshot covers one budget.
fn snapshot_key(spec: &RolloutSpec, node: &str) -> String {
    format!("{} {} {} {}", spec.book, spec.budget, spec.run, spec.partition(node))
}

/// Returns the pause after `errors` errors. The pause is 2 s after the first error, and doubles up to 12 s. The
/// argument `spread` lengthens the pause by up to a quarter.
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
