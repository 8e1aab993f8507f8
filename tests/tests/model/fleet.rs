//! A fleet as a model: the very decisions of the agent, and a store that runs their transactions. Reading and
//! committing are steps of their own, so that every decision may be made on what is old by the time it is carried out.

use std::{
    collections::{BTreeSet, HashSet},
    hash::{DefaultHasher, Hash, Hasher},
    sync::Mutex,
};

use stateright::{Model, Property};
use towpath_coordination::{
    accept::Accepted,
    keys,
    rollout::{Held, Hold, Kind, Opening, Spec, Step, View, Want, decide, tend, worth_reading},
    store::{Compare, Op, Outcome, Txn, memory::Memory},
};

use crate::mutations::Mutation;

/// What is explored.
pub(crate) struct Fleet {
    /// How many nodes there are.
    pub nodes: usize,
    /// The revisions, the first of which is accepted when everything begins.
    pub revisions: Vec<Spec>,
    /// Whether a node has something to change in a stretch.
    pub changes: fn(node: usize, stretch: u32) -> bool,
    /// How many times a node may crash, in all.
    pub crashes: u8,
    /// How many leases may be lost, of nodes that crashed or that are only cut off.
    pub leases: u8,
    /// How many times a change may fail, in all.
    pub failures: u8,
    /// A rule that is left out.
    pub mutation: Option<Mutation>,
    /// States that are known to come to their end.
    pub ends: Mutex<HashSet<u64>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Phase {
    /// It wants to go on.
    Idle,
    /// It changes things.
    In,
    /// It has succeeded, and is to say so.
    Succeeded,
    /// It has failed, and is to say so.
    Failing,
    /// It has said so, and tries again later.
    Failed,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Node {
    pub up: bool,
    /// The revision that it is at.
    pub at: usize,
    /// The first stretch that it is not done with.
    pub stretch: u32,
    /// Whether it is half changed.
    pub away: bool,
    pub phase: Phase,
    /// What it has decided and not carried out yet.
    pub pending: Option<Txn>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct State {
    pub store: Memory,
    pub accepted: usize,
    pub nodes: Vec<Node>,
    pub crashes: u8,
    pub leases: u8,
    pub failures: u8,
    /// How many nodes were ever written off.
    pub written_off: u64,
    /// What must never happen and did.
    pub broken: Option<&'static str>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Action {
    /// A node reads and decides; with `late`, offers have been there for long.
    Look {
        node: usize,
        late: bool,
    },
    /// It carries out what it decided.
    Commit(usize),
    /// It comes to the end of its change.
    Work {
        node: usize,
        well: bool,
    },
    Crash(usize),
    Restart(usize),
    /// Its lease runs out.
    LoseLease(usize),
    /// It has a lease again.
    Renew(usize),
    /// The next revision is accepted.
    Accept,
    /// A node goes to the accepted revision.
    Follow(usize),
}

pub(crate) fn name(node: usize) -> String {
    format!("n{node}")
}

fn alive(node: usize) -> Txn {
    Txn { then: vec![Op::put(keys::alive(&name(node)), Vec::new())], ..Txn::default() }
}

fn accept(generation: u64) -> Txn {
    let record = Accepted { schema: 1, generation, ..Accepted::default() };
    Txn { then: vec![Op::put(keys::ACCEPTED, serde_json::to_vec(&record).unwrap())], ..Txn::default() }
}

impl Fleet {
    fn spec(&self, state: &State, node: usize) -> &Spec {
        &self.revisions[state.nodes[node].at]
    }

    fn commit(&self, state: &mut State, txn: &Txn) {
        let held = |store: &Memory, wanted: &[Kind]| {
            store
                .below("book/held/")
                .filter(|row| serde_json::from_slice::<Held>(&row.value).is_ok_and(|held| wanted.contains(&held.kind)))
                .count() as u64
        };
        let slots = [Kind::Claim, Kind::Offer];
        let (before, gone) = (held(&state.store, &slots), held(&state.store, &[Kind::WrittenOff]));
        let open = |store: &Memory| -> Opening {
            store.below("board/open/").find_map(|row| serde_json::from_slice(&row.value).ok()).unwrap_or_default()
        };
        let was_open = open(&state.store);
        let (outcome, _) = state.store.apply(txn).unwrap();
        if matches!(outcome, Outcome::Refused { .. }) {
            return;
        }
        let after = held(&state.store, &slots);
        let spec = &self.revisions[state.accepted];
        if after > before && spec.count.is_some_and(|count| after > count) {
            state.broken = Some("a slot was given beyond the count of the accepted revision");
        }
        let is_open = open(&state.store);
        for stretch in 1..spec.stretches() {
            let waves = |opening: &Opening| {
                opening.waves.get(stretch as usize).copied().filter(|_| opening.run == spec.run).unwrap_or(0)
            };
            if waves(&was_open) == 0 && waves(&is_open) > 0 {
                self.opens(state, stretch);
            }
        }
        state.written_off += held(&state.store, &[Kind::WrittenOff]).saturating_sub(gone);
    }

    fn view(&self, state: &State, node: usize, late: bool) -> View {
        let spec = self.spec(state, node);
        let (revision, answers) = state.store.peek(&View::reading(spec, &name(node)));
        let mut view = View::of(spec, &name(node), revision, answers);
        view.soaked = true;
        if late {
            view.idle = true;
            view.stale = view.held.iter().map(|held| (held.node.clone(), held.modified)).collect();
        }
        view.lost = (0..self.nodes)
            .filter(|other| state.store.below(&keys::alive(&name(*other))).next().is_none())
            .map(name)
            .collect();
        if let Some(stretch) = worth_reading(spec, &view) {
            let prefix = keys::member_votes(&spec.run, stretch);
            let names = state.store.below(&prefix).map(|row| row.key[prefix.len()..].to_owned());
            view.names = Some((stretch, names.collect::<BTreeSet<_>>()));
        }
        if self.mutation == Some(Mutation::OldVoteCounts) {
            let stretch = view.names.as_ref().map_or(0, |(stretch, _)| *stretch);
            let part = format!("/{stretch}/member/");
            let votes = state.store.below("book/vote/").filter(|row| row.key.contains(&part));
            view.names =
                Some((stretch, votes.filter_map(|row| Some(row.key.rsplit('/').next()?.to_owned())).collect()));
        }
        if let Some(mutation) = self.mutation {
            mutation.view(spec, &name(node), &mut view);
        }
        view
    }

    fn decided(&self, spec: &Spec, view: &View, node: usize, want: Want) -> Step {
        let mut step = decide(spec, view, &name(node), want);
        if let (Some(mutation), Step::Commit(txn)) = (self.mutation, &mut step) {
            mutation.txn(&name(node), txn);
        }
        step
    }

    fn tended(&self, spec: &Spec, view: &View, node: usize) -> Option<Txn> {
        if self.mutation == Some(Mutation::NobodyLooksAgain) {
            return None;
        }
        let mut txn = tend(spec, view, &name(node))?;
        if let Some(mutation) = self.mutation {
            mutation.txn(&name(node), &mut txn);
        }
        Some(txn)
    }

    /// A node reads and decides. Gives nothing where that changes nothing.
    fn look(&self, state: &State, node: usize, late: bool) -> Option<State> {
        let spec = self.spec(state, node);
        let view = self.view(state, node, late);
        let mut next = state.clone();
        let own = &mut next.nodes[node];
        if !spec.selects(&name(node)) {
            // Not a target any more: the new revision is applied, and what it held is given back.
            own.away = false;
            match self.decided(spec, &view, node, Want::Leave) {
                Step::Commit(txn) => own.pending = Some(txn),
                Step::Go | Step::Hold(_) => {}
            }
            return (next != *state).then_some(next);
        }
        if own.stretch >= spec.stretches() {
            // Who is through sees to it that the run ends.
            own.pending = self.tended(spec, &view, node);
            return (next != *state).then_some(next);
        }
        let stretch = own.stretch;
        let changes = (self.changes)(node, stretch);
        let want = match own.phase {
            Phase::Idle if own.away || changes => Want::Change(stretch),
            Phase::Idle => Want::Enter(stretch),
            Phase::Failed => Want::Change(stretch),
            Phase::Succeeded => Want::Done(stretch),
            Phase::Failing => Want::Failed(stretch),
            Phase::In => return None,
        };
        match self.decided(spec, &view, node, want) {
            Step::Commit(txn) => own.pending = Some(txn),
            Step::Hold(hold) => {
                let claims = view.held.iter().any(|held| held.node == name(node) && held.held.kind == Kind::Claim);
                if claims && !matches!(hold, Hold::Behind | Hold::Lease) {
                    next.broken = Some("a node waits while it holds a slot");
                }
                own.pending = self.tended(spec, &view, node);
            }
            Step::Go => match want {
                Want::Change(_) => {
                    own.phase = Phase::In;
                    own.away = true;
                    let working = next.nodes.iter().filter(|node| node.phase == Phase::In).count() as u64;
                    if working > self.allowed(state) {
                        next.broken = Some("more nodes change at one time than there are slots and failures");
                    }
                }
                Want::Enter(_) => own.phase = Phase::Succeeded,
                Want::Done(_) => {
                    own.stretch += 1;
                    own.phase = Phase::Idle;
                    own.pending = self.tended(spec, &view, node);
                }
                Want::Failed(_) => own.phase = Phase::Failed,
                Want::Correct | Want::Leave => {}
            },
        }
        (next != *state).then_some(next)
    }

    /// What must hold when a barrier opens: whoever the accepted revision waits for has come.
    fn opens(&self, state: &mut State, stretch: u32) {
        let spec = &self.revisions[state.accepted];
        let missing = (0..self.nodes).filter(|node| spec.is_member(&name(*node))).any(|node| {
            let there = &state.nodes[node];
            let key = keys::held(&spec.group, "-", &spec.book, &name(node));
            let excused = state.store.below(&key).any(|row| {
                serde_json::from_slice::<Held>(&row.value).is_ok_and(|held| {
                    held.run == spec.run && held.kind != Kind::Offer && (held.kind != Kind::Claim || held.lost)
                })
            });
            let came = there.stretch >= stretch || there.stretch + 1 == stretch && there.phase == Phase::Succeeded;
            !(excused || came && self.revisions[there.at].run == spec.run)
        });
        if missing {
            state.broken = Some("a barrier was opened before all had come");
        }
    }

    /// How many may change at one time.
    fn allowed(&self, state: &State) -> u64 {
        let allowed = self.revisions[..=state.accepted].iter().map(|spec| spec.count.unwrap_or(99) + spec.max_failures);
        allowed.max().unwrap_or(0)
    }

    /// How many may be away at one time.
    fn budget(&self, state: &State) -> u64 {
        self.allowed(state) + state.written_off
    }

    /// Whether everything comes to its end once nothing goes wrong any more.
    fn comes_to_its_end(&self, state: &State) -> bool {
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
            for node in 0..self.nodes {
                for action in [
                    Action::Restart(node),
                    Action::Renew(node),
                    Action::Follow(node),
                    Action::Commit(node),
                    Action::Work { node, well: true },
                    Action::Look { node, late: round % 4 == 3 },
                    Action::Commit(node),
                ] {
                    if let Some(next) = self.step(&at, action) {
                        at = next;
                    }
                }
            }
            normalize(&mut at);
            if at == before && round % 4 == 3 {
                return false;
            }
        }
        false
    }

    fn ended(&self, state: &State) -> bool {
        let spec = &self.revisions[state.accepted];
        let through = state.nodes.iter().enumerate().all(|(node, own)| {
            own.at == state.accepted && (own.stretch >= spec.stretches() || !spec.selects(&name(node)))
        });
        let open = state.store.below("board/open/").any(|row| {
            serde_json::from_slice::<Opening>(&row.value).is_ok_and(|opening| opening.run == spec.run && opening.done)
        });
        through && open
    }

    /// One step; None where it can't be taken.
    pub fn step(&self, state: &State, action: Action) -> Option<State> {
        let mut next = state.clone();
        match action {
            Action::Look { node, late } => {
                let own = &state.nodes[node];
                if !own.up || own.pending.is_some() {
                    return None;
                }
                return self.look(state, node, late);
            }
            Action::Commit(node) => {
                let txn = next.nodes[node].pending.take()?;
                self.commit(&mut next, &txn);
            }
            Action::Work { node, well } => {
                let own = &mut next.nodes[node];
                if !own.up || own.phase != Phase::In || !well && state.failures == 0 {
                    return None;
                }
                own.phase = if well { Phase::Succeeded } else { Phase::Failing };
                own.away = !well;
                next.failures -= u8::from(!well);
            }
            Action::Crash(node) => {
                let own = &mut next.nodes[node];
                if !own.up || state.crashes == 0 {
                    return None;
                }
                own.up = false;
                own.pending = None;
                if own.phase == Phase::In || own.phase == Phase::Failed {
                    own.phase = Phase::Idle;
                }
                next.crashes -= 1;
            }
            Action::Restart(node) => {
                if state.nodes[node].up {
                    return None;
                }
                next.nodes[node].up = true;
                next.store.apply(&alive(node)).unwrap();
            }
            Action::LoseLease(node) => {
                let key = keys::alive(&name(node));
                if state.leases == 0 || state.store.below(&key).next().is_none() {
                    return None;
                }
                next.leases -= 1;
                next.store.apply(&Txn { then: vec![Op::Delete(key)], ..Txn::default() }).unwrap();
                if self.mutation == Some(Mutation::LeaseFreesTheSlot) {
                    let spec = &self.revisions[state.accepted];
                    let held = keys::held(&spec.group, "-", &spec.book, &name(node));
                    next.store.apply(&Txn { then: vec![Op::Delete(held)], ..Txn::default() }).unwrap();
                }
                // Its own clock tells a node that its lease may be gone: it asks before it goes on.
                let own = &mut next.nodes[node];
                if own.phase == Phase::In {
                    own.phase = Phase::Idle;
                }
            }
            Action::Renew(node) => {
                let there = state.store.below(&keys::alive(&name(node))).next().is_some();
                if there || !state.nodes[node].up {
                    return None;
                }
                next.store.apply(&alive(node)).unwrap();
            }
            Action::Accept => {
                if state.accepted + 1 >= self.revisions.len() {
                    return None;
                }
                next.accepted += 1;
                next.store.apply(&accept(self.revisions[next.accepted].generation)).unwrap();
            }
            Action::Follow(node) => {
                let own = &mut next.nodes[node];
                if !own.up || own.at == state.accepted {
                    return None;
                }
                let (old, new) = (&self.revisions[own.at], &self.revisions[state.accepted]);
                own.at = state.accepted;
                own.pending = None;
                if old.run != new.run {
                    own.stretch = 0;
                    own.phase = Phase::Idle;
                } else if own.phase == Phase::In || own.phase == Phase::Failed {
                    own.phase = Phase::Idle;
                }
            }
        }
        Some(next)
    }
}

/// Numbers revisions anew, in the same order: states that differ in nothing else are the same.
fn normalize(state: &mut State) {
    let mut seen: BTreeSet<u64> = BTreeSet::from([0, state.store.revision]);
    for row in state.store.rows_mut() {
        seen.insert(row.created);
        seen.insert(row.modified);
    }
    for node in &state.nodes {
        for compare in node.pending.iter().flat_map(|txn| &txn.compare) {
            if let Compare::Revision(_, revision) | Compare::NoneNewer(_, revision) = compare {
                seen.insert(*revision);
            }
        }
    }
    let order: Vec<u64> = seen.into_iter().collect();
    let rank = |revision: u64| order.binary_search(&revision).unwrap() as u64;
    state.store.revision = rank(state.store.revision);
    for row in state.store.rows_mut() {
        row.created = rank(row.created);
        row.modified = rank(row.modified);
    }
    for node in &mut state.nodes {
        for compare in node.pending.iter_mut().flat_map(|txn| &mut txn.compare) {
            if let Compare::Revision(_, revision) | Compare::NoneNewer(_, revision) = compare {
                *revision = rank(*revision);
            }
        }
    }
}

impl Model for Fleet {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let mut store = Memory::default();
        store.apply(&accept(self.revisions[0].generation)).unwrap();
        for node in 0..self.nodes {
            store.apply(&alive(node)).unwrap();
        }
        let node = Node { up: true, at: 0, stretch: 0, away: false, phase: Phase::Idle, pending: None };
        let mut state = State {
            store,
            accepted: 0,
            nodes: vec![node; self.nodes],
            crashes: self.crashes,
            leases: self.leases,
            failures: self.failures,
            written_off: 0,
            broken: None,
        };
        normalize(&mut state);
        vec![state]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.broken.is_some() {
            return;
        }
        for node in 0..self.nodes {
            let offers = state
                .store
                .below("book/held/")
                .any(|row| serde_json::from_slice::<Held>(&row.value).is_ok_and(|held| held.kind == Kind::Offer));
            let waiting = state.store.below("book/queue/").next().is_some();
            actions.push(Action::Look { node, late: false });
            if offers || waiting {
                actions.push(Action::Look { node, late: true });
            }
            actions.extend([
                Action::Commit(node),
                Action::Work { node, well: true },
                Action::Work { node, well: false },
                Action::Crash(node),
                Action::Restart(node),
                Action::LoseLease(node),
                Action::Renew(node),
                Action::Follow(node),
            ]);
        }
        actions.push(Action::Accept);
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut next = self.step(state, action)?;
        normalize(&mut next);
        (next != *state).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("never more are away than the budget allows", |fleet: &Fleet, state: &State| {
                state.nodes.iter().filter(|node| node.away).count() as u64 <= fleet.budget(state)
            }),
            Property::always("slots, barriers and waiting are as they must be", |_: &Fleet, state: &State| {
                state.broken.is_none()
            }),
            Property::always("each run ends when failures end", |fleet: &Fleet, state: &State| {
                fleet.comes_to_its_end(state)
            }),
        ]
    }
}
