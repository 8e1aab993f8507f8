//! A node among others: reads, decides, commits, and looks again, until it may go on or must wait.

mod elect;
mod explain;
mod leases;
mod membership;
mod notice;
mod recovery;
mod results;
mod store_position;
#[cfg(test)]
mod tests;
mod touch;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::{Duration, Instant},
};

use towpath_host::{Clock, identity::Bearer};

pub use membership::{Joined, Poke};
pub use results::{ElectedTask, TaskResult};

use crate::{
    Gate,
    gossip::Gossip,
    keys,
    rollout::{Decision, Request, RolloutProgress, RolloutSpec, RunSnapshot, WriteSequence, decide, next_maintenance},
    store::{Op, Outcome, Page, Row, Store, StoreError, Txn},
};
use membership::Membership;
use store_position::StorePosition;

/// How often a decision is tried again in one go, where others are faster.
const TRIES: usize = 30;

/// How long an offer may stand before somebody else takes it away.
const OFFER: Duration = Duration::from_secs(10);

/// How long a node's own snapshot is good enough to begin with.
const RECENT: Duration = Duration::from_secs(1);

/// How long the list of those who are alive is believed.
const ALIVE: Duration = Duration::from_secs(5);

/// How long slots may block others that gossip alone reports.
const HIDDEN_CLAIM_LIMIT: Duration = Duration::from_secs(120);

/// A node's place in the fleet.
#[derive(Debug)]
pub struct Fleet {
    store: Arc<dyn Store>,
    node: String,
    clock: Arc<dyn Clock>,
    membership: Membership,
    position: Arc<StorePosition>,
    /// What the nodes say among themselves, where they do.
    gossip: OnceLock<Gossip>,
    /// Who opens what is sealed to this node.
    bearer: OnceLock<Bearer>,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// Offers to others, and when this node saw them first.
    offers: BTreeMap<(String, u64), Instant>,
    /// Claims of nodes that went away on purpose, and when this node saw them first.
    absences: BTreeMap<(String, u64), Instant>,
    /// Who waits for a free slot without taking it, and when this node saw that first.
    idle: BTreeMap<String, ((String, u64), Instant)>,
    /// Complete waves, and when this node saw them so first.
    complete: BTreeMap<String, ((u32, u32), Instant)>,
    /// The last snapshot of each book.
    snapshots: BTreeMap<String, Known>,
    /// Who is alive, and when that was read.
    alive: Option<(Instant, BTreeSet<String>)>,
    /// When a lease ends that a run waits for: what was read of the alive nodes before counts no more then.
    lease_end: Option<Instant>,
    /// Since when slots of a part of a budget are reported that the store does not have.
    hearsay: BTreeMap<String, Instant>,
    /// The part of a budget in which this node holds a slot, by book.
    holding: BTreeMap<String, String>,
    /// When something is due that nobody will tell of.
    due: Option<Instant>,
    /// The number of holds in a row whose cause was an error.
    troubles: u32,
    /// Whether a snapshot of this pass showed another accepted revision than the node has loaded, or none.
    behind: bool,
}

/// A snapshot, and what was so when it was requested.
#[derive(Debug, Clone)]
struct Known {
    snapshot: RunSnapshot,
    /// When it was requested. The answer may have waited long for a processor.
    requested: Requested,
}

/// The instant of a request, and the number of news before it.
#[derive(Debug, Clone, Copy)]
struct Requested {
    at: Instant,
    news: u64,
    /// How far the store was known to have come, and the number of what this node wrote last.
    position: (u64, u64),
}

/// What a node is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// It may go on.
    Go,
    /// It waits.
    Hold(Gate),
}

impl Fleet {
    /// A node that has not joined yet.
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

    /// Whether the nodes themselves, where they speak to one another, agree that one is lost.
    fn agrees_lost(&self, node: &str) -> bool {
        // Whoever answers under that name is not the node.
        if self.store.strangers().contains_key(node) {
            return true;
        }
        self.gossip.get().is_none_or(|gossip| gossip.thinks_lost(node))
    }

    /// Asks the nodes themselves, too, who is lost.
    pub fn hear(&self, gossip: Gossip) {
        let _ = self.gossip.set(gossip);
    }

    /// Says who opens what is sealed to this node.
    pub fn read_as(&self, bearer: Bearer) {
        let _ = self.bearer.set(bearer);
    }

    /// Joins: writes who it is, keeps its lease, and follows what is said to it. Done once.
    pub fn join(&self, joined: Joined, poke: impl Fn(Poke) + Send + Sync + 'static) {
        self.membership.begin(joined, Arc::new(poke));
    }

    /// Leaves: its lease ends at once, and others need not wait for it to run out.
    pub fn leave(&self) {
        self.membership.end();
    }

    /// The store.
    pub fn store(&self) -> &dyn Store {
        self.store.as_ref()
    }

    /// The reason why this node is rejected and takes no part.
    pub fn refused(&self) -> Option<String> {
        self.membership.refused()
    }

    /// Says which public keys git gives to this node; `None` if it gives none.
    pub fn give_keys(&self, keys: Option<Vec<String>>) {
        self.membership.give(keys);
    }

    /// Writes, unless this node is rejected.
    fn write(&self, txn: &Txn) -> Result<Outcome, StoreError> {
        match self.membership.refused() {
            Some(why) => Err(StoreError::Denied(why)),
            None => self.store.commit(txn),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When something is due that no watch will tell of: an offer that is not taken, a wave that soaks.
    pub fn due(&self) -> Option<Instant> {
        self.lock().due.take()
    }

    /// Asks to look again after about a minute: what is due may be left to this node.
    pub fn look_again(&self) {
        let at = self.clock.monotonic() + Duration::from_millis(50_000 + self.spread() % 20_000);
        sooner(&mut self.lock().due, at);
    }

    /// Asks to look again within 2 to 15 s, later with each error in a row.
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

    /// Begins a pass: only its own snapshots tell whether the node is behind.
    pub fn begin_pass(&self) {
        self.lock().behind = false;
    }

    /// Whether a snapshot of the last pass showed another accepted revision than the node has loaded, or none. Nobody tells
    /// of it where the record was deleted, or came from a backup.
    pub fn is_behind(&self) -> bool {
        self.lock().behind
    }

    /// A number that differs from node to node.
    fn spread(&self) -> u64 {
        self.node.bytes().fold(7_u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(byte)))
    }

    /// Whether the lease may have run out: then what is held must be looked at again before anything is changed.
    pub fn lease_may_be_gone(&self) -> bool {
        self.membership.lease_may_be_gone()
    }

    /// Goes on from what the journal knows: how far the store had come, and the number of what was written last.
    pub fn resume(&self, revision: u64, sequence: u64) {
        self.position.resume(revision, sequence);
    }

    /// An answer of the store has this revision, and was asked for when `before` was known.
    pub fn seen(&self, before: (u64, u64), revision: u64) {
        self.position.seen(before, revision);
    }

    /// How far the store has come, as far as was seen, and the number of what this node wrote last.
    pub fn known(&self) -> (u64, u64) {
        self.position.known()
    }

    /// Whether the store has gone back, and this node has to say anew what it holds.
    pub fn needs_republish(&self) -> bool {
        self.position.needs_republish()
    }

    /// Whether the store, as it was looked at last, lacks a vote that this node has given.
    pub fn lacks_vote(&self, spec: &RolloutSpec, segment: u32) -> bool {
        let key = snapshot_key(spec, &self.node);
        self.lock().snapshots.get(&key).is_some_and(|known| !known.snapshot.voted.contains(&segment))
    }

    /// Asks for what a node wants of a run, until the node has it or must wait.
    pub fn ask(&self, spec: &RolloutSpec, want: Request) -> Answer {
        match self.asked(spec, want) {
            Ok(answer) => {
                self.lock().troubles = 0;
                answer
            }
            Err(error) => {
                self.look_soon();
                Answer::Hold(explain::unreachable(&error))
            }
        }
    }

    fn asked(&self, spec: &RolloutSpec, want: Request) -> Result<Answer, StoreError> {
        if let Some(why) = self.membership.refused() {
            self.look_soon();
            return Ok(Answer::Hold(Gate { reason: "Dependency", opens: why }));
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
                            // Before the news are counted: a touch is either heard by a waiter, or counted here.
                            self.membership.touches(|touches| touches.set_waiting(spec, true));
                            let now = self.membership.news();
                            if now == news {
                                self.watch_leases(spec, &snapshot)?;
                                return Ok(Answer::Hold(explain::hold(spec, &snapshot, &self.node, hold)));
                            }
                            news = now;
                            snapshot = self.look(spec)?;
                        }
                    }
                }
            }
        }
        self.look_soon();
        Ok(Answer::Hold(explain::busy()))
    }

    /// Does what follows from a wish that is fulfilled: a node that has ended something may have completed a wave.
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

    /// Returns the last snapshot if it is good enough for a first try: transactions compare, and a slot that was offered or
    /// a wave that was opened since would have been news.
    fn recent(&self, spec: &RolloutSpec, want: Request) -> Option<RunSnapshot> {
        let now = self.clock.monotonic();
        let inner = self.lock();
        let known = inner.snapshots.get(&snapshot_key(spec, &self.node))?;
        let gives_back = !matches!(want, Request::Enter(_) | Request::Change(_) | Request::Correct);
        let requested = known.requested;
        let fresh = now.duration_since(requested.at) < RECENT && self.membership.news() == requested.news;
        (gives_back || fresh).then(|| known.snapshot.clone())
    }

    /// Notes what is so before a request.
    fn requested(&self) -> Requested {
        Requested { at: self.clock.monotonic(), news: self.membership.news(), position: self.position.known() }
    }

    /// Does what is due in a run, whoever it is for.
    ///
    /// # Errors
    /// When the store does not answer.
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

    /// Returns whether the last snapshot showed the end of a run. Only a restore of the store could take that back.
    fn has_seen_end(&self, spec: &RolloutSpec) -> bool {
        let inner = self.lock();
        let known = inner.snapshots.get(&snapshot_key(spec, &self.node)).map(|known| &known.snapshot);
        known.is_some_and(|snapshot| snapshot.done(spec) && snapshot.recovery.is_none() && !snapshot.rolled_back)
    }

    /// Does what is due; says whether the run is through.
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
        Ok(self.snapshot_of(spec, requested, outcome))
    }

    /// Adds to a record the time at which it was made: for people, no decision reads it.
    fn stamp(&self, txn: &mut Txn) {
        let now = self.clock.wall();
        for operation in &mut txn.then {
            let Op::Put { key, value, .. } = operation else { continue };
            if !key.starts_with("book/held/") && !key.starts_with("board/open/") {
                continue;
            }
            if let Ok(serde_json::Value::Object(mut record)) = serde_json::from_slice(value) {
                record.insert("at".into(), now.into());
                *value = serde_json::to_vec(&record).unwrap_or_default();
            }
        }
    }

    /// Commits, and reads the next snapshot in the same request.
    fn commit(&self, spec: &RolloutSpec, mut txn: Txn) -> Result<RunSnapshot, StoreError> {
        self.stamp(&mut txn);
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
        let snapshot = self.snapshot_of(spec, requested, outcome);
        if done {
            if let Some(touch) = touch {
                self.membership.touches(|touches| touches.committed(touch, requested.at));
            }
            self.tell_holds(spec, &snapshot);
        }
        Ok(snapshot)
    }

    /// The number of what this node writes.
    fn write_sequence(&self, number: u64) -> Op {
        Op::put(keys::write_sequence(&self.node), serde_json::to_vec(&WriteSequence { number }).unwrap_or_default())
    }

    /// Commits something of this node's own that no run's snapshot shows; says whether it was done.
    fn commit_marked(&self, mut txn: Txn) -> Result<bool, StoreError> {
        let number = self.position.known().1 + 1;
        txn.then.push(self.write_sequence(number));
        let done = matches!(self.write(&txn)?, Outcome::Done { .. });
        if done {
            self.position.wrote(number);
        }
        Ok(done)
    }

    fn snapshot_of(&self, spec: &RolloutSpec, requested: Requested, outcome: Outcome) -> RunSnapshot {
        let (revision, answers) = outcome.answers();
        let mut snapshot = RunSnapshot::of(spec, &self.node, revision, answers);
        self.position.judge(requested.position, &mut snapshot);
        self.note_stabilizing(&mut snapshot);
        let mut inner = self.lock();
        // What is of the whole fleet has no generation.
        inner.behind |= spec.generation > 0 && snapshot.current(spec).is_none();
        inner.snapshots.insert(snapshot_key(spec, &self.node), Known { snapshot: snapshot.clone(), requested });
        snapshot
    }

    /// A store that did not answer may be another one when it does: what was read of it is not gone by.
    fn forget(&self) {
        self.lock().snapshots.clear();
        self.position.lost_sight();
    }

    /// Who has a lease.
    ///
    /// # Errors
    /// When the store does not answer.
    pub fn alive(&self) -> Result<BTreeSet<String>, StoreError> {
        let now = self.clock.monotonic();
        {
            let inner = self.lock();
            if let Some((read, alive)) = &inner.alive
                && now.duration_since(*read) < ALIVE
                && inner.lease_end.is_none_or(|end| now < end || end <= *read)
            {
                return Ok(alive.clone());
            }
        }
        let alive = self.names(keys::ALL_ALIVE)?;
        self.lock().alive = Some((now, alive.clone()));
        Ok(alive)
    }

    /// Who has ever joined.
    ///
    /// # Errors
    /// When the store does not answer.
    pub fn joined(&self) -> Result<BTreeSet<String>, StoreError> {
        self.names(keys::ALL_JOINED)
    }

    /// The last parts of the keys with a prefix.
    fn names(&self, prefix: &str) -> Result<BTreeSet<String>, StoreError> {
        let mut page = Page::default();
        let mut names = BTreeSet::new();
        loop {
            let read = self.store.read(prefix, &page)?;
            page.after = read.rows.last().map(|row| row.key.clone());
            names.extend(read.rows.iter().filter_map(|row| Some(row.key.strip_prefix(prefix)?.to_owned())));
            if !read.more {
                return Ok(names);
            }
        }
    }

    /// How a book's run stands, for people.
    ///
    /// # Errors
    /// When the store does not answer.
    pub fn rollout(&self, spec: &RolloutSpec) -> Result<Rollout, StoreError> {
        let mut snapshot = self.look(spec)?;
        self.notice(spec, &mut snapshot)?;
        let mut rollout = explain::rollout(spec, &snapshot);
        let alive = self.alive()?;
        let strangers = self.store.strangers();
        let rejected = strangers.iter().filter(|(node, _)| spec.selects(node) && !alive.contains(*node));
        rollout.blocked.extend(rejected.map(|(node, keys)| explain::stranger(node, keys)));
        let at = |value: &[u8]| -> Option<i64> {
            serde_json::from_slice::<serde_json::Value>(value).ok()?.get("at")?.as_i64()
        };
        for (key, value) in self.rows(&keys::all_held(&spec.group))? {
            let node = key.rsplit('/').next().unwrap_or_default();
            if let Some((_, since)) = rollout.holding.iter_mut().find(|(holder, _)| holder == node) {
                *since = at(&value);
            }
        }
        rollout.opened = self.rows(&keys::progress(&spec.book))?.get("").and_then(|value| at(value));
        Ok(rollout)
    }

    /// How far a book's run is open.
    ///
    /// # Errors
    /// When the store does not answer.
    pub fn progress(&self, book: &str) -> Result<Option<RolloutProgress>, StoreError> {
        let key = keys::progress(book);
        let rows = self.store.read(&key, &Page { after: None, limit: 1 })?.rows;
        Ok(rows.into_iter().find(|row| row.key == key).and_then(|row| serde_json::from_slice(&row.value).ok()))
    }

    /// Sets a key that others read.
    ///
    /// # Errors
    /// When the store does not answer.
    pub fn publish(&self, key: &str, value: Vec<u8>) -> Result<(), StoreError> {
        self.write(&Txn { then: vec![Op::put(key, value)], ..Txn::default() }).map(drop)
    }

    /// All rows with a prefix, by the last part of their keys.
    ///
    /// # Errors
    /// When the store does not answer.
    pub fn rows(&self, prefix: &str) -> Result<BTreeMap<String, Vec<u8>>, StoreError> {
        let (_, rows) = self.all_rows(prefix)?;
        let rest = |row: Row| Some((row.key.strip_prefix(prefix)?.to_owned(), row.value));
        Ok(rows.into_iter().filter_map(rest).collect())
    }

    /// All rows with a prefix, and the revision of the first page: a change during the reading is newer than that.
    fn all_rows(&self, prefix: &str) -> Result<(u64, Vec<Row>), StoreError> {
        let mut page = Page::default();
        let (mut first, mut found) = (None, Vec::new());
        loop {
            let read = self.store.read(prefix, &page)?;
            page.after = read.rows.last().map(|row| row.key.clone());
            found.extend(read.rows);
            let revision = *first.get_or_insert(read.revision);
            if !read.more {
                return Ok((revision, found));
            }
        }
    }
}

/// How a run stands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rollout {
    /// waiting, running, halted or done.
    pub phase: &'static str,
    /// How many nodes it waits for.
    pub total: u64,
    /// How many are through.
    pub done: u64,
    /// Who failed.
    pub failed: Vec<String>,
    /// Who holds a slot, and since when (milliseconds since 1970, by the holder's clock).
    pub holding: Vec<(String, Option<i64>)>,
    /// When something was opened last.
    pub opened: Option<i64>,
    /// How many wait in the queue, as far as was read.
    pub waiting: u64,
    /// What keeps it from going on.
    pub blocked: Vec<Gate>,
}

/// A book may have several budgets, and a snapshot is of one.
fn snapshot_key(spec: &RolloutSpec, node: &str) -> String {
    format!("{} {} {} {}", spec.book, spec.group, spec.run, spec.part(node))
}

/// Returns the pause after so many errors before: 2 s at first, doubled up to 12 s, and up to a quarter more by `spread`.
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
