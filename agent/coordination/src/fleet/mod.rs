//! A node among others: reads, decides, commits, and looks again, until it may go on or must wait.

mod anew;
mod elect;
mod explain;
mod horizon;
mod membership;
mod notice;
mod results;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::{Duration, Instant},
};

use towpath_host::{Clock, identity::Bearer};

pub use membership::{Joined, Poke};
pub use results::{Errand, Found};

use crate::{
    Gate,
    gossip::Gossip,
    keys,
    rollout::{Mark, Opening, Spec, Step, View, Want, decide, tend},
    store::{Op, Outcome, Page, Store, StoreError, Txn},
};
use horizon::Horizon;
use membership::Membership;

/// How often a decision is tried again in one go, where others are faster.
const TRIES: usize = 30;

/// How long an offer may stand before somebody else takes it away.
const OFFER: Duration = Duration::from_secs(10);

/// How long a node's own view is good enough to begin with.
const RECENT: Duration = Duration::from_secs(1);

/// How long the list of those who are alive is believed.
const ALIVE: Duration = Duration::from_secs(5);

/// A node's place in the fleet.
#[derive(Debug)]
pub struct Fleet {
    store: Arc<dyn Store>,
    node: String,
    clock: Arc<dyn Clock>,
    membership: Membership,
    horizon: Arc<Horizon>,
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
    /// The last view of each book, and when it was read.
    views: BTreeMap<String, (View, Instant)>,
    /// Who is alive, and when that was read.
    alive: Option<(Instant, BTreeSet<String>)>,
    /// The part of a budget in which this node holds a slot, by book.
    holding: BTreeMap<String, String>,
    /// When something is due that nobody will tell of.
    due: Option<Instant>,
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
        let horizon = Arc::new(Horizon::new(store.shared()));
        let membership = Membership::new(Arc::clone(&store), node.clone(), Arc::clone(&clock), Arc::clone(&horizon));
        Self {
            store,
            node,
            clock,
            membership,
            horizon,
            gossip: OnceLock::new(),
            bearer: OnceLock::new(),
            inner: Mutex::default(),
        }
    }

    /// Whether the nodes themselves, where they speak to one another, agree that one is lost.
    fn agrees_lost(&self, node: &str) -> bool {
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

    /// Why this node may not take part, where another machine goes by its name.
    pub fn refused(&self) -> Option<String> {
        self.membership.refused()
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
        let spread = self.node.bytes().fold(7_u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(byte)));
        let at = self.clock.monotonic() + Duration::from_millis(50_000 + spread % 20_000);
        sooner(&mut self.lock().due, at);
    }

    /// Whether the lease may have run out: then what is held must be looked at again before anything is changed.
    pub fn lease_may_be_gone(&self) -> bool {
        self.membership.lease_may_be_gone()
    }

    /// Goes on from what the journal knows: how far the store had come, and the number of what was written last.
    pub fn resume(&self, revision: u64, mark: u64) {
        self.horizon.resume(revision, mark);
    }

    /// An answer of the store has this revision, and was asked for when `before` was known.
    pub fn seen(&self, before: (u64, u64), revision: u64) {
        self.horizon.seen(before, revision);
    }

    /// How far the store has come, as far as was seen, and the number of what this node wrote last.
    pub fn known(&self) -> (u64, u64) {
        self.horizon.known()
    }

    /// Whether the store has gone back, and this node has to say anew what it holds.
    pub fn owes(&self) -> bool {
        self.horizon.owes()
    }

    /// Whether the store, as it was looked at last, lacks a vote that this node has given.
    pub fn lacks_vote(&self, spec: &Spec, stretch: u32) -> bool {
        self.lock().views.get(&view_key(spec, &self.node)).is_some_and(|(view, _)| !view.voted.contains(&stretch))
    }

    /// What a node wants of a run, until it has it or must wait.
    pub fn ask(&self, spec: &Spec, want: Want) -> Answer {
        match self.asked(spec, want) {
            Ok(answer) => answer,
            Err(error) => Answer::Hold(explain::unreachable(&error)),
        }
    }

    fn asked(&self, spec: &Spec, want: Want) -> Result<Answer, StoreError> {
        if let Some(why) = self.membership.refused() {
            return Ok(Answer::Hold(Gate { reason: "Dependency", opens: why }));
        }
        if matches!(want, Want::Change(_) | Want::Correct) && !self.membership.ready() {
            return Ok(Answer::Hold(explain::no_lease()));
        }
        let mut view = match self.recent(spec, want) {
            Some(view) => view,
            None => self.look(spec)?,
        };
        let mut tended = 0;
        for _ in 0..TRIES {
            view = self.announced(spec, view)?;
            self.notice(spec, &mut view)?;
            match decide(spec, &view, &self.node, want) {
                Step::Go => {
                    if matches!(want, Want::Done(_)) {
                        self.tend(spec, view)?;
                    }
                    return Ok(Answer::Go);
                }
                Step::Commit(txn) => view = self.commit(spec, txn)?,
                Step::Hold(hold) => match tend(spec, &view, &self.node).filter(|_| tended < TRIES / 2) {
                    Some(txn) => {
                        tended += 1;
                        view = self.commit(spec, txn)?;
                    }
                    None => return Ok(Answer::Hold(explain::hold(spec, &view, &self.node, hold))),
                },
            }
        }
        self.lock().due = Some(self.clock.monotonic() + Duration::from_secs(1));
        Ok(Answer::Hold(explain::busy()))
    }

    /// What this node itself has read or written last, where that is good enough for a first try: transactions compare,
    /// and whatever was opened or offered since would have been told.
    fn recent(&self, spec: &Spec, want: Want) -> Option<View> {
        let now = self.clock.monotonic();
        let inner = self.lock();
        let (view, read) = inner.views.get(&view_key(spec, &self.node))?;
        let gives_back = !matches!(want, Want::Enter(_) | Want::Change(_) | Want::Correct);
        let fresh = now.duration_since(*read) < RECENT && self.membership.last_news().is_none_or(|news| news < *read);
        (gives_back || fresh).then(|| view.clone())
    }

    fn remember(&self, spec: &Spec, view: &View) {
        let now = self.clock.monotonic();
        self.lock().views.insert(view_key(spec, &self.node), (view.clone(), now));
    }

    /// Does what is due in a run, whoever it is for.
    ///
    /// # Errors
    /// When the store does not answer.
    pub fn see_to(&self, spec: &Spec) -> Result<bool, StoreError> {
        let view = self.look(spec)?;
        self.tend(spec, view)
    }

    /// Does what is due; says whether the run is through.
    fn tend(&self, spec: &Spec, mut view: View) -> Result<bool, StoreError> {
        for _ in 0..TRIES {
            self.notice(spec, &mut view)?;
            let Some(txn) = tend(spec, &view, &self.node) else { break };
            view = self.commit(spec, txn)?;
        }
        Ok(view.done(spec))
    }

    fn look(&self, spec: &Spec) -> Result<View, StoreError> {
        let before = self.horizon.known();
        let outcome = self.store.commit(&View::reading(spec, &self.node)).inspect_err(|_| self.forget())?;
        Ok(self.viewed(spec, before, outcome))
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

    /// Commits, and reads the next view in the same request.
    fn commit(&self, spec: &Spec, mut txn: Txn) -> Result<View, StoreError> {
        self.stamp(&mut txn);
        let before = self.horizon.known();
        txn.then.push(self.mark(before.1 + 1));
        let reading = View::reading(spec, &self.node).then;
        txn.then.extend(reading.iter().cloned());
        txn.otherwise = reading;
        let outcome = self.store.commit(&txn).inspect_err(|_| self.forget())?;
        let done = matches!(outcome, Outcome::Done { .. });
        tracing::debug!(book = spec.book, done, "committed {}", shown(&txn));
        let view = self.viewed(spec, before, outcome);
        if done {
            self.tell_holds(spec, &view);
        }
        Ok(view)
    }

    /// The number of what this node writes.
    fn mark(&self, number: u64) -> Op {
        Op::put(keys::mark(&self.node), serde_json::to_vec(&Mark { number }).unwrap_or_default())
    }

    /// Commits something of this node's own that no run's view shows; says whether it was done.
    fn commit_marked(&self, mut txn: Txn) -> Result<bool, StoreError> {
        let number = self.horizon.known().1 + 1;
        txn.then.push(self.mark(number));
        let done = matches!(self.store.commit(&txn)?, Outcome::Done { .. });
        if done {
            self.horizon.wrote(number);
        }
        Ok(done)
    }

    fn viewed(&self, spec: &Spec, before: (u64, u64), outcome: Outcome) -> View {
        let (revision, answers) = outcome.answers();
        let mut view = View::of(spec, &self.node, revision, answers);
        self.horizon.judge(before, &mut view);
        self.notice_unsure(&mut view);
        self.remember(spec, &view);
        view
    }

    /// A store that did not answer may be another one when it does: what was read of it is not gone by.
    fn forget(&self) {
        self.lock().views.clear();
        self.horizon.lost_sight();
    }

    /// Who has a lease.
    ///
    /// # Errors
    /// When the store does not answer.
    pub fn alive(&self) -> Result<BTreeSet<String>, StoreError> {
        let now = self.clock.monotonic();
        if let Some((read, alive)) = &self.lock().alive
            && now.duration_since(*read) < ALIVE
        {
            return Ok(alive.clone());
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
    pub fn rollout(&self, spec: &Spec) -> Result<Rollout, StoreError> {
        let mut view = self.look(spec)?;
        self.notice(spec, &mut view)?;
        let mut rollout = explain::rollout(spec, &view);
        let at = |value: &[u8]| -> Option<i64> {
            serde_json::from_slice::<serde_json::Value>(value).ok()?.get("at")?.as_i64()
        };
        for (key, value) in self.rows(&keys::all_held(&spec.group))? {
            let node = key.rsplit('/').next().unwrap_or_default();
            if let Some((_, since)) = rollout.holding.iter_mut().find(|(holder, _)| holder == node) {
                *since = at(&value);
            }
        }
        rollout.opened = self.rows(&keys::opening(&spec.book))?.get("").and_then(|value| at(value));
        Ok(rollout)
    }

    /// How far a book's run is open.
    ///
    /// # Errors
    /// When the store does not answer.
    pub fn opening(&self, book: &str) -> Result<Option<Opening>, StoreError> {
        let key = keys::opening(book);
        let rows = self.store.read(&key, &Page { after: None, limit: 1 })?.rows;
        Ok(rows.into_iter().find(|row| row.key == key).and_then(|row| serde_json::from_slice(&row.value).ok()))
    }

    /// Sets a key that others read.
    ///
    /// # Errors
    /// When the store does not answer.
    pub fn publish(&self, key: &str, value: Vec<u8>) -> Result<(), StoreError> {
        self.store.commit(&Txn { then: vec![Op::put(key, value)], ..Txn::default() }).map(drop)
    }

    /// All rows with a prefix, by the last part of their keys.
    ///
    /// # Errors
    /// When the store does not answer.
    pub fn rows(&self, prefix: &str) -> Result<BTreeMap<String, Vec<u8>>, StoreError> {
        let mut page = Page::default();
        let mut found = BTreeMap::new();
        loop {
            let read = self.store.read(prefix, &page)?;
            page.after = read.rows.last().map(|row| row.key.clone());
            found.extend(
                read.rows.into_iter().filter_map(|row| Some((row.key.strip_prefix(prefix)?.to_owned(), row.value))),
            );
            if !read.more {
                return Ok(found);
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

/// A book may have several budgets, and a view is of one.
fn view_key(spec: &Spec, node: &str) -> String {
    format!("{} {} {} {}", spec.book, spec.group, spec.run, spec.part(node))
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
