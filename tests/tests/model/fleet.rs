//! A fleet as a model: the agent's own decisions, and a store that runs their transactions.
//!
//! Reading and committing are separate steps, so every decision may be out of date when it is committed.

use std::{
    collections::{BTreeSet, HashSet},
    hash::{DefaultHasher, Hash, Hasher},
    sync::Mutex,
};

use stateright::{Model, Property};
use towpath_coordination::{
    accept::Accepted,
    keys,
    rollout::{Freed, OnLost, RolloutProgress, RolloutSpec, SlotRecord, SlotState},
    store::{Change, Op, Outcome, Txn, memory::Memory},
};
use towpath_tests::course::{Reply, Turn};

use crate::{
    mutations::Mutation,
    state::{Action, Node, Progress, State, Wake, accept, alive, is_alive, name, normalize, record, stored},
};

/// The explored configuration.
pub(crate) struct Fleet {
    /// The number of nodes.
    pub nodes: usize,
    /// The revisions and their books. The first revision is accepted at the start.
    pub revisions: Vec<Vec<RolloutSpec>>,
    /// A function that returns true if a node has changes in a segment.
    pub changes: fn(node: usize, segment: u32) -> bool,
    /// A function that returns true if the checks of a node fail in a generation. It must be false in the last one.
    pub check_fails: fn(node: usize, generation: u64) -> bool,
    /// A function that returns true if a node may be elected.
    pub eligible: fn(node: usize) -> bool,
    /// The number of nodes to elect.
    pub elects: usize,
    /// The number of crashes that may occur, over all nodes.
    pub crashes: u8,
    /// The number of leases that may be lost, by crashed nodes or by nodes that are cut off.
    pub leases: u8,
    /// The number of changes that may fail, over all nodes.
    pub failures: u8,
    /// The number of planned absences that may occur, over all nodes.
    pub absences: u8,
    /// The number of journals that may be lost.
    pub forgets: u8,
    /// The number of times that the store may be rolled back.
    pub restores: u8,
    /// The actions before the exploration.
    pub prelude: Vec<Action>,
    /// True if an idle node sleeps until it is notified. No timer wakes it, and it must not need one.
    pub sleeps: bool,
    /// A rule that is left out.
    pub mutation: Option<Mutation>,
    /// The states that are known to end.
    pub ends: Mutex<HashSet<u64>>,
}

fn of_kind(store: &Memory, budget: &str, wanted: &[SlotState]) -> u64 {
    let held = store.below(budget).filter_map(|row| serde_json::from_slice::<SlotRecord>(&row.value).ok());
    held.filter(|held| wanted.contains(&held.kind)).count() as u64
}

/// Returns the partitions of a budget.
fn partitions(spec: &RolloutSpec) -> BTreeSet<&str> {
    if spec.partitions.is_empty() {
        BTreeSet::from(["-"])
    } else {
        spec.partitions.values().map(String::as_str).collect()
    }
}

impl Fleet {
    /// Returns the number of books.
    pub fn books(&self) -> usize {
        self.revisions[0].len()
    }

    pub fn spec(&self, state: &State, node: usize, book: usize) -> &RolloutSpec {
        &self.revisions[state.nodes[node].at][book]
    }

    /// Returns the acceptance record of a revision.
    pub fn acceptance(&self, index: usize) -> Accepted {
        record(index, self.revisions[index][0].accepted.generation)
    }

    /// Returns the books of the accepted revision.
    fn accepted(&self, state: &State) -> &[RolloutSpec] {
        &self.revisions[state.accepted]
    }

    fn commit(&self, state: &mut State, node: usize, txn: &Txn) {
        let slots = [SlotState::Claim, SlotState::Offer];
        let before = state.store.clone();
        let (outcome, changes) = state.store.apply(txn).unwrap();
        if matches!(outcome, Outcome::Refused { .. }) {
            return;
        }
        state.nodes[node].wrote = true;
        self.notify(state, &changes);
        for spec in self.accepted(state).to_vec() {
            // Records that are republished after a restore do not give a new slot.
            let recovers = state.store.below(keys::ALL_RECOVERIES).next().is_some() && !whole(&state.store, self.nodes);
            for part in partitions(&spec) {
                let part = format!("{}{part}/", keys::all_held(&spec.budget));
                let (old, new) = (of_kind(&before, &part, &slots), of_kind(&state.store, &part, &slots));
                if new > old && spec.count.is_some_and(|count| new > count) && !recovers {
                    state.broken = Some("a slot was given beyond the count of the accepted revision");
                }
            }
            let key = keys::progress(&spec.book);
            let opened = changes.iter().find_map(|change| match change {
                Change::Put(row) if row.key == key => serde_json::from_slice::<RolloutProgress>(&row.value).ok(),
                _ => None,
            });
            let Some(opened) = opened.filter(|progress| progress.run == spec.run) else { continue };
            let was: RolloutProgress =
                before.below(&key).find_map(|row| serde_json::from_slice(&row.value).ok()).unwrap_or_default();
            for segment in (1..spec.segments()).filter(|segment| spec.open_at_first(*segment) == 0) {
                let waves = |progress: &RolloutProgress| {
                    progress.waves.get(segment as usize).copied().filter(|_| progress.run == spec.run).unwrap_or(0)
                };
                if waves(&was) == 0 && waves(&opened) > 0 {
                    self.opens(state, &spec, segment);
                }
            }
        }
        let gone = |store: &Memory| of_kind(store, "fleet/held/", &[SlotState::WrittenOff]);
        state.written_off += gone(&state.store).saturating_sub(gone(&before));
    }

    /// Wakes the nodes that the changes notify.
    fn notify(&self, state: &mut State, changes: &[Change]) {
        for change in changes {
            let Change::Put(row) = change else { continue };
            for (number, node) in state.nodes.iter_mut().enumerate() {
                let wakes = if row.key.starts_with(keys::ALL_FREED) {
                    let freed: Freed = serde_json::from_slice(&row.value).unwrap();
                    freed.nodes.is_empty() || freed.nodes.contains(&name(number))
                } else {
                    row.key.starts_with("shared/") || row.key.starts_with(&keys::inbox(&name(number)))
                };
                if wakes {
                    self.wake(node);
                }
            }
        }
    }

    /// Wakes a node. Under [`Mutation::NewsInTheAnswer`], a node that is deciding misses the notification.
    fn wake(&self, node: &mut Node) {
        let missed = node.wake == Wake::Deciding && self.mutation == Some(Mutation::NewsInTheAnswer);
        if !missed {
            node.wake = Wake::Awake;
        }
    }

    /// Returns true if no node needs a timer: while all nodes sleep or change something, a pass by a timer changes
    /// nothing for a node that sleeps. A failed node retries at the interval, so it does not count.
    fn needs_no_timer(&self, state: &State) -> bool {
        let counts =
            |node: &Node| !node.books.iter().any(|progress| progress.course.failed || progress.course.changes());
        let still = |node: &Node| {
            let sleeps = node.wake == Wake::Asleep || !counts(node);
            sleeps && node.up && node.pending.is_none() && node.at == state.accepted
        };
        if !self.sleeps || !state.nodes.iter().all(still) {
            return true;
        }
        (0..self.nodes).filter(|node| counts(&state.nodes[*node])).all(|node| {
            (0..self.books()).all(|book| {
                let next = self.look(state, node, book, true);
                next.is_none_or(|next| {
                    next.nodes[node].pending.is_none() && next.nodes[node].books == state.nodes[node].books
                })
            })
        })
    }

    /// Checks that all nodes that the accepted revision waits for have arrived when a barrier opens.
    fn opens(&self, state: &mut State, spec: &RolloutSpec, segment: u32) {
        let book = self.accepted(state).iter().position(|other| other.book == spec.book).unwrap();
        let missing = (0..self.nodes).filter(|node| spec.is_member(&name(*node))).any(|node| {
            let progress = &state.nodes[node].books[book];
            let key = keys::held(&spec.budget, spec.partition(&name(node)), &spec.book, &name(node));
            let excused = state.store.below(&key).any(|row| {
                serde_json::from_slice::<SlotRecord>(&row.value).is_ok_and(|held| {
                    held.run == spec.run
                        && held.kind != SlotState::Offer
                        && (held.kind != SlotState::Claim || held.lost)
                })
            });
            let came = progress.course.has_finished(&spec.run, segment - 1);
            !(excused || came)
        });
        if missing {
            state.broken = Some("a barrier was opened before all had come");
        }
    }

    /// Returns the number of nodes that may change at one time within a budget, over all its partitions.
    pub fn allowed(&self, state: &State, budget: &str) -> u64 {
        let specs = self.revisions[..=state.accepted].iter().flatten().filter(|spec| spec.budget == budget);
        specs
            .map(|spec| (spec.count.unwrap_or(99) + spec.max_failures) * partitions(spec).len() as u64)
            .max()
            .unwrap_or(0)
    }

    /// Returns the nodes that the accepted revision lists.
    pub fn known<'s>(&'s self, state: &'s State) -> impl Iterator<Item = &'s Node> {
        let known = &self.accepted(state)[0].known;
        state.nodes.iter().enumerate().filter(|(number, _)| known.contains(&name(*number))).map(|(_, node)| node)
    }

    fn within_budget(&self, state: &State) -> bool {
        let budgets: BTreeSet<&str> = self.revisions.iter().flatten().map(|spec| spec.budget.as_str()).collect();
        budgets.into_iter().all(|budget| {
            // A waiter writes off the slots of a removed node at once.
            let away = self.known(state).filter(|node| {
                node.books.iter().zip(&self.revisions[0]).any(|(progress, spec)| progress.away && spec.budget == budget)
            });
            away.count() as u64 <= self.allowed(state, budget) + state.written_off
        })
    }

    /// Returns true if no elected task was started by more nodes than were elected. A removed node, and a node written
    /// off under `skip`, may have started it too.
    fn elected_once(&self, state: &State) -> bool {
        let Some(spec) = self.accepted(state).first().filter(|spec| spec.on_lost == OnLost::Hold) else { return true };
        let runs: BTreeSet<&String> = state.began.iter().map(|(run, _)| run).collect();
        runs.into_iter().all(|run| {
            let began = state.began.iter().filter(|(of, node)| of == run && spec.selects(&name(*node)));
            began.count() <= self.elects
        })
    }

    /// Returns true if every run ends once no more faults occur. A run whose checks fail ends only after a later commit.
    fn comes_to_its_end(&self, state: &State) -> bool {
        let generation = self.accepted(state)[0].accepted.generation;
        if (0..self.nodes).any(|node| (self.check_fails)(node, generation)) {
            return true;
        }
        let digest = |state: &State| {
            let mut hasher = DefaultHasher::new();
            state.hash(&mut hasher);
            hasher.finish()
        };
        let mut path = Vec::new();
        let mut at = state.clone();
        for round in 0..400 {
            let now = digest(&at);
            if self.ended(&at) || self.ends.lock().unwrap().contains(&now) {
                self.ends.lock().unwrap().extend(path);
                return true;
            }
            path.push(now);
            let before = at.clone();
            let late = round % 4 == 3;
            for node in 0..self.nodes {
                let mut actions = vec![Action::Restart(node), Action::Renew(node), Action::Follow(node)];
                actions.extend([Action::Commit(node), Action::Work { node, well: true }]);
                for book in 0..self.books() {
                    actions.extend([Action::Look { node, book, late }, Action::Commit(node)]);
                }
                for action in actions {
                    if let Some(next) = self.step(&at, action) {
                        at = next;
                    }
                }
            }
            normalize(&mut at);
            if at == before && late {
                return false;
            }
        }
        false
    }

    fn ended(&self, state: &State) -> bool {
        let specs = self.accepted(state);
        let through =
            state.nodes.iter().enumerate().all(|(node, own)| {
                own.at == state.accepted
                    && own.books.iter().zip(specs).all(|(progress, spec)| {
                        progress.course.done(spec) >= spec.segments() || !spec.selects(&name(node))
                    })
            });
        let open = specs.iter().all(|spec| {
            let key = keys::progress(&spec.book);
            state.store.below(&key).any(|row| {
                serde_json::from_slice::<RolloutProgress>(&row.value)
                    .is_ok_and(|progress| progress.run == spec.run && progress.done)
            })
        });
        through && open && state.store.below(keys::ALL_RECOVERIES).next().is_none()
    }

    /// Performs one step. `None` if the step is not possible.
    pub fn step(&self, state: &State, action: Action) -> Option<State> {
        let mut next = state.clone();
        match action {
            Action::Look { node, book, late } => {
                let own = &state.nodes[node];
                // A node runs one book at a time.
                let busy = own.books.iter().enumerate().any(|(number, progress)| {
                    progress.course.changes() && !progress.leaving || number != book && !progress.course.rests()
                });
                // A failed node retries at the interval.
                let failed = own.books[book].course.failed;
                let sleeps = self.sleeps && !late && own.wake != Wake::Awake && !failed;
                if !own.up || own.pending.is_some() || busy || sleeps {
                    return None;
                }
                let looked = self.look(state, node, book, late);
                if !self.sleeps || late || own.wake != Wake::Awake {
                    return looked;
                }
                next = looked.unwrap_or(next);
                // A pass that ends with nothing to write ends by sleeping.
                let own = &mut next.nodes[node];
                if own.up && own.pending.is_none() && own.books.iter().all(|progress| progress.course.rests()) {
                    own.wake = Wake::Deciding;
                }
                if next == *state {
                    return None;
                }
            }
            Action::Sleep(node) => {
                let own = &mut next.nodes[node];
                if own.wake != Wake::Deciding {
                    return None;
                }
                own.wake = Wake::Asleep;
            }
            Action::Commit(node) => {
                let txn = next.nodes[node].pending.take()?;
                next.nodes[node].wake = Wake::Awake;
                self.commit(&mut next, node, &txn);
            }
            Action::Work { node, well } => self.work(&mut next, node, well)?,
            Action::GoAway(node) => {
                let own = &mut next.nodes[node];
                let working = own.books.iter_mut().find(|progress| progress.course.changes() && progress.away)?;
                if !own.up || state.absences == 0 {
                    return None;
                }
                working.leaving = true;
                next.absences -= 1;
            }
            Action::Crash(node) => {
                let own = &mut next.nodes[node];
                if !own.up || state.crashes == 0 {
                    return None;
                }
                go_down(own);
                next.crashes -= 1;
            }
            Action::Forget(node) => {
                let own = &mut next.nodes[node];
                if own.up || state.forgets == 0 {
                    return None;
                }
                for progress in &mut own.books {
                    progress.course.forget();
                    progress.elected = None;
                }
                next.forgets -= 1;
            }
            Action::Restart(node) => {
                // A node that wrote nothing since the backup cannot notice the rollback. It starts after the running
                // nodes have noticed it.
                let unnoticed = state.nodes.iter().any(|other| other.up && other.rolled_back);
                if state.nodes[node].up || unnoticed && !state.nodes[node].rolled_back {
                    return None;
                }
                next.nodes[node].up = true;
                next.store.apply(&alive(node)).unwrap();
            }
            Action::LoseLease(node) => {
                if state.leases == 0 || !is_alive(&state.store, node) {
                    return None;
                }
                next.leases -= 1;
                self.lose_lease(&mut next, node);
            }
            Action::Renew(node) => {
                if is_alive(&state.store, node) || !state.nodes[node].up {
                    return None;
                }
                next.store.apply(&alive(node)).unwrap();
            }
            Action::Accept => {
                if state.accepted + 1 >= self.revisions.len() {
                    return None;
                }
                next.accepted += 1;
                let record = self.acceptance(next.accepted);
                // Only a store that has lost an acceptance gives its number to another one.
                if stored(&state.store).generation >= record.generation {
                    return None;
                }
                let (_, changes) = next.store.apply(&accept(&record)).unwrap();
                self.notify(&mut next, &changes);
            }
            Action::Follow(node) => self.follow(&mut next, node)?,
            Action::Backup => {
                if state.restores == 0 || state.backup.is_some() {
                    return None;
                }
                next.backup = Some(state.store.clone());
                next.nodes.iter_mut().for_each(|node| node.wrote = false);
            }
            Action::Restore => self.restore(&mut next)?,
        }
        Some(next)
    }

    fn work(&self, next: &mut State, node: usize, well: bool) -> Option<()> {
        if !well && next.failures == 0 || !next.nodes[node].up {
            return None;
        }
        let at = next.nodes[node].at;
        let book = next.nodes[node].books.iter().position(|progress| progress.course.changes())?;
        let elected = self.elects_at(&self.revisions[at][book]);
        next.nodes[node].wake = Wake::Awake;
        let progress = &mut next.nodes[node].books[book];
        if matches!(progress.course.turn(), Some(Turn::Change(segment)) if elected == Some(*segment)) {
            progress.elected = Some(Some(well));
        } else {
            progress.away = !well;
        }
        progress.leaving = false;
        progress.course.reply(Reply::Changed(well));
        next.failures -= u8::from(!well);
        Some(())
    }

    fn lose_lease(&self, next: &mut State, node: usize) {
        let key = keys::alive(&name(node));
        next.store.apply(&Txn { then: vec![Op::Delete(key)], ..Txn::default() }).unwrap();
        if self.mutation == Some(Mutation::LeaseFreesTheSlot) {
            let spec = &self.accepted(next)[0];
            let held = keys::held(&spec.budget, "-", &spec.book, &name(node));
            next.store.apply(&Txn { then: vec![Op::Delete(held)], ..Txn::default() }).unwrap();
        }
        // The node's own clock shows that the lease may have expired, so it asks again before it continues.
        for progress in &mut next.nodes[node].books {
            if progress.course.changes() {
                progress.course.stop();
                progress.leaving = false;
            }
        }
    }

    fn follow(&self, next: &mut State, node: usize) -> Option<()> {
        let own = &mut next.nodes[node];
        if !own.up || own.at == next.accepted {
            return None;
        }
        let (old, new) = (&self.revisions[own.at], &self.revisions[next.accepted]);
        own.at = next.accepted;
        own.wake = Wake::Awake;
        own.pending = None;
        for ((old, new), progress) in old.iter().zip(new).zip(&mut own.books) {
            progress.course.stop();
            progress.leaving = false;
            if old.run != new.run {
                progress.elected = None;
            }
        }
        Some(())
    }

    /// Replaces the store by the backup. Pending requests fail. A running node notices that the store is older than
    /// what it has seen. A stopped node notices it if it wrote since the backup.
    fn restore(&self, next: &mut State) -> Option<()> {
        let mut store = next.backup.take()?;
        next.restores -= 1;
        for (number, node) in next.nodes.iter_mut().enumerate() {
            node.pending = None;
            node.rolled_back = node.up || node.wrote;
            // A restore neither extends nor ends a lease.
            let lease = if is_alive(&next.store, number) {
                alive(number)
            } else {
                Txn { then: vec![Op::Delete(keys::alive(&name(number)))], ..Txn::default() }
            };
            store.apply(&lease).unwrap();
        }
        next.store = store;
        Some(())
    }
}

/// Stops a node. Its pending request is lost; its journal is kept.
pub(crate) fn go_down(own: &mut Node) {
    own.up = false;
    own.pending = None;
    for progress in &mut own.books {
        progress.course.stop();
        progress.leaving = false;
    }
}

/// Returns true if all nodes have republished their claims.
fn whole(store: &Memory, nodes: usize) -> bool {
    store.below("fleet/recovery/acks/").count() >= nodes
}

impl Model for Fleet {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let mut store = Memory::default();
        store.apply(&accept(&self.acceptance(0))).unwrap();
        for node in 0..self.nodes {
            store.apply(&alive(node)).unwrap();
        }
        let node = Node {
            up: true,
            at: 0,
            books: vec![Progress::default(); self.books()],
            wake: Wake::Awake,
            pending: None,
            wrote: false,
            rolled_back: false,
        };
        let mut state = State {
            store,
            accepted: 0,
            nodes: vec![node; self.nodes],
            crashes: self.crashes,
            leases: self.leases,
            failures: self.failures,
            absences: self.absences,
            forgets: self.forgets,
            restores: self.restores,
            backup: None,
            written_off: 0,
            began: BTreeSet::new(),
            broken: None,
        };
        for action in &self.prelude {
            state = self.step(&state, *action).unwrap();
            normalize(&mut state);
        }
        normalize(&mut state);
        vec![state]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.broken.is_some() {
            return;
        }
        let soaks = self.accepted(state).iter().any(|spec| !spec.soak.is_zero());
        let held = |wanted: fn(&SlotRecord) -> bool| {
            let mut all = state.store.below("fleet/held/");
            all.any(|row| serde_json::from_slice::<SlotRecord>(&row.value).is_ok_and(|held| wanted(&held)))
        };
        let late = soaks
            || held(|held| held.kind == SlotState::Offer || held.absent > 0)
            || state.store.below("fleet/queue/").next().is_some();
        for node in 0..self.nodes {
            for book in 0..self.books() {
                actions.push(Action::Look { node, book, late: false });
                if late && !self.sleeps {
                    actions.push(Action::Look { node, book, late: true });
                }
            }
            actions.extend([
                Action::Sleep(node),
                Action::Commit(node),
                Action::Work { node, well: true },
                Action::Work { node, well: false },
                Action::GoAway(node),
                Action::Crash(node),
                Action::Forget(node),
                Action::Restart(node),
                Action::LoseLease(node),
                Action::Renew(node),
                Action::Follow(node),
            ]);
        }
        actions.extend([Action::Accept, Action::Backup, Action::Restore]);
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut next = self.step(state, action)?;
        normalize(&mut next);
        (next != *state).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("never more are away than the budget allows", |fleet: &Fleet, state: &State| {
                fleet.within_budget(state)
            }),
            Property::always("slots, barriers and waiting are as they must be", |_: &Fleet, state: &State| {
                state.broken.is_none()
            }),
            Property::always("an elected task is begun by no more than are elected", |fleet: &Fleet, state: &State| {
                fleet.elected_once(state)
            }),
            Property::always("with no fault, no waiter waits for a timer", |fleet: &Fleet, state: &State| {
                fleet.needs_no_timer(state)
            }),
            Property::always("each run ends when failures end", |fleet: &Fleet, state: &State| {
                fleet.comes_to_its_end(state)
            }),
        ]
    }
}
