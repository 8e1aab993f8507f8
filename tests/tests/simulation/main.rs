//! Whole rollouts in virtual time: the agent's decisions for up to a thousand nodes.
//!
//! Requests, answers and wake-ups may be slow or lost. Nodes crash or are cut off from the store, the store is rolled
//! back, and revisions overtake one another. To repeat a failing seed, run TOWPATH_SEED=N .ci/test -E
//! 'test(rollouts_in_virtual_time)'.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap},
    sync::Arc,
};

use towpath_coordination::{
    accept::Accepted,
    keys,
    rollout::{
        Cut, Decision, NodeClaims, OnLost, Request, RolloutProgress, RolloutSpec, RunSnapshot, SlotRecord, SlotState,
        WriteSequence, acknowledge, decide, idle, next_maintenance, report_rollback, republish, segment_to_inspect,
    },
    store::{Change, Compare, Op, Outcome, Txn, memory::Memory},
};

/// Milliseconds of virtual time.
type Time = u64;

const SECOND: Time = 1000;
const LEASE: Time = 25 * SECOND;

struct Chance(u64);

impl Chance {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    fn below(&mut self, limit: u64) -> u64 {
        // xorshift64*, Vigna 2016.
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % limit.max(1)
    }

    fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Idle,
    In,
    Succeeded,
    Failing,
    Failed,
}

#[derive(Debug, Clone)]
struct Node {
    up: bool,
    at: usize,
    segment: u32,
    away: bool,
    /// True if it is away because it failed.
    failed: bool,
    phase: Phase,
    /// True if it is cut off from the store.
    cut: bool,
    /// The highest store revision that it has seen, and the number of its last write.
    position: (u64, u64),
    /// True if the store is older than `horizon`.
    rolled_back: bool,
    /// The last recovery epoch that it has seen.
    recovery_id: Option<String>,
    /// The time of its last reconnection to the store.
    reached: Option<Time>,
    /// The incarnation of the node and its plan. Events of an earlier incarnation are ignored.
    life: u64,
    /// Until when a request is in flight: a node waits for its answer, or for the verdict that it has none.
    asks_until: Time,
    /// Offers and waits of others, since when it sees them.
    offers: BTreeMap<(String, u64), Time>,
    /// The waiter that has not taken a free slot, with the time when the node first saw it.
    idle: Option<((String, u64), Time)>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Look(usize, u64),
    /// A request to the store, valid until the next restore: node, number of restores, transaction.
    Commit(usize, u64, Box<Txn>),
    Worked(usize, u64, bool),
    Crash(usize),
    Restart(usize),
    LeaseEnds(usize),
    Cut(usize),
    Heal(usize),
    Accept,
    Backup,
    Restore,
}

struct Simulation {
    chance: Chance,
    now: Time,
    number: u64,
    events: BinaryHeap<Reverse<(Time, u64, Event)>>,
    store: Memory,
    backup: Option<Memory>,
    restores: u64,
    nodes: Vec<Node>,
    revisions: Vec<Arc<RolloutSpec>>,
    accepted: usize,
    failures: u64,
    written_off: u64,
}

fn name(node: usize) -> String {
    format!("n{node}")
}

impl Simulation {
    fn new(seed: u64, count: usize) -> Self {
        let mut chance = Chance::new(seed);
        let on_lost = [OnLost::Hold, OnLost::Skip, OnLost::Fail][usize::try_from(chance.below(3)).unwrap()];
        let waves = u32::try_from(1 + chance.below(3)).unwrap();
        let segments = chance.below(3);
        let cuts: Vec<Cut> =
            (0..segments).map(|_| if chance.percent(70) { Cut::Barrier } else { Cut::Passage }).collect();
        let revisions = (0..1 + chance.below(3))
            .map(|number| {
                Arc::new(RolloutSpec {
                    book: "b/k".into(),
                    group: "b/k".into(),
                    run: format!("b/k@{}", if chance.percent(30) { 1 } else { number + 1 }),
                    generation: number + 1,
                    members: (0..count).map(|node| (name(node), u32::try_from(node).unwrap() % waves)).collect(),
                    known: (0..count).map(name).collect(),
                    count: Some(1 + chance.below(1 + count as u64 / 4)),
                    max_failures: chance.below(3),
                    on_lost,
                    waves,
                    cuts: cuts.clone(),
                    ..RolloutSpec::default()
                })
            })
            .collect();
        let node = Node {
            up: true,
            at: 0,
            segment: 0,
            away: false,
            failed: false,
            phase: Phase::Idle,
            cut: false,
            position: (0, 0),
            rolled_back: false,
            recovery_id: None,
            reached: None,
            life: 0,
            asks_until: 0,
            offers: BTreeMap::new(),
            idle: None,
        };
        let mut simulation = Self {
            failures: chance.below(4),
            chance,
            now: 0,
            number: 0,
            events: BinaryHeap::new(),
            store: Memory::default(),
            backup: None,
            restores: 0,
            nodes: vec![node; count],
            revisions,
            accepted: 0,
            written_off: 0,
        };
        simulation.accept(0);
        for node in 0..count {
            simulation.put(&keys::alive(&name(node)));
            let at = simulation.chance.below(5 * SECOND);
            simulation.after(at, Event::Look(node, 0));
        }
        for _ in 0..1 + count / 10 {
            let node = usize::try_from(simulation.chance.below(count as u64)).unwrap();
            let at = simulation.chance.below(300 * SECOND);
            simulation.after(at, Event::Crash(node));
        }
        for _ in 0..1 + count / 20 {
            let node = usize::try_from(simulation.chance.below(count as u64)).unwrap();
            let at = simulation.chance.below(300 * SECOND);
            simulation.after(at, Event::Cut(node));
        }
        if simulation.chance.percent(40) {
            let backup = simulation.chance.below(200 * SECOND);
            let restore = backup + simulation.chance.below(100 * SECOND);
            simulation.after(backup, Event::Backup);
            simulation.after(restore, Event::Restore);
        }
        for number in 1..simulation.revisions.len() {
            let at = number as u64 * simulation.chance.below(200 * SECOND);
            simulation.after(at, Event::Accept);
        }
        simulation
    }

    fn after(&mut self, delay: Time, event: Event) {
        self.number += 1;
        self.events.push(Reverse((self.now + delay, self.number, event)));
    }

    fn put(&mut self, key: &str) {
        self.store.apply(&Txn { then: vec![Op::put(key, Vec::new())], ..Txn::default() }).unwrap();
    }

    fn accept(&mut self, number: usize) {
        let record = Accepted { schema: 1, generation: self.revisions[number].generation, ..Accepted::default() };
        let put = Op::put(keys::ACCEPTED, serde_json::to_vec(&record).unwrap());
        self.store.apply(&Txn { then: vec![put], ..Txn::default() }).unwrap();
        self.accepted = number;
    }

    fn snapshot(&mut self, node: usize) -> RunSnapshot {
        let spec = Arc::clone(&self.revisions[self.nodes[node].at]);
        let spec = spec.as_ref();
        let (revision, answers) = self.store.peek(&RunSnapshot::reading(spec, &name(node)));
        let mut snapshot = RunSnapshot::of(spec, &name(node), revision, answers);
        snapshot.soaked = true;
        let now = self.now;
        let own = &mut self.nodes[node];
        // The same rule as in the agent's `Horizon`.
        if revision < own.position.0 || snapshot.sequence < own.position.1 {
            own.rolled_back = true;
            own.position = (revision, snapshot.sequence);
        }
        own.position = (revision, own.position.1.max(snapshot.sequence));
        if let Some((restored, _)) = &snapshot.recovery {
            if own.recovery_id.as_ref() != Some(&restored.id) {
                own.recovery_id = Some(restored.id.clone());
                own.rolled_back = false;
            }
            let prefix = keys::all_recovery_acks(&restored.id);
            snapshot.acknowledged = self.store.below(&prefix).map(|row| row.key[prefix.len()..].to_owned()).collect();
        }
        snapshot.rolled_back = own.rolled_back;
        snapshot.stabilizing = own.reached.is_some_and(|reached| now - reached < 3 * SECOND);
        let offers: Vec<(String, u64)> = snapshot
            .held
            .iter()
            .filter(|held| held.held.kind == SlotState::Offer)
            .map(|held| (held.node.clone(), held.modified))
            .collect();
        own.offers.retain(|offer, _| offers.contains(offer));
        for offer in offers {
            if now - *own.offers.entry(offer.clone()).or_insert(now) >= 10 * SECOND {
                snapshot.stale.insert(offer);
            }
        }
        own.idle = idle(spec, &snapshot, &name(node)).map(|waiting| match own.idle.take() {
            Some((known, since)) if known == waiting => (known, since),
            _ => (waiting, now),
        });
        snapshot.idle = own.idle.as_ref().is_some_and(|(_, since)| now - since >= 15 * SECOND);
        if spec.on_lost != OnLost::Hold {
            let prefix = keys::ALL_ALIVE.len();
            let alive: BTreeSet<&str> = self.store.below(keys::ALL_ALIVE).map(|row| &row.key[prefix..]).collect();
            snapshot.lost = spec.known.iter().filter(|other| !alive.contains(other.as_str())).cloned().collect();
        }
        if let Some(segment) = segment_to_inspect(spec, &snapshot) {
            let prefix = keys::member_votes(&spec.run, segment);
            let names = self.store.below(&prefix).map(|row| row.key[prefix.len()..].to_owned()).collect();
            snapshot.names = Some((segment, names));
        }
        snapshot
    }

    /// Schedules the next look of a node: within 2 s if `soon`, else after about a minute.
    fn again(&mut self, node: usize, soon: bool) {
        let life = self.nodes[node].life;
        let delay = if soon { self.chance.below(2 * SECOND) } else { 50 * SECOND + self.chance.below(20 * SECOND) };
        self.after(delay, Event::Look(node, life));
    }

    fn send(&mut self, node: usize, mut txn: Txn) {
        let mark = WriteSequence { number: self.nodes[node].position.1 + 1 };
        txn.then.push(Op::put(keys::write_sequence(&name(node)), serde_json::to_vec(&mark).unwrap()));
        let (life, restores) = (self.nodes[node].life, self.restores);
        // A request may be lost. Its node looks again in any case.
        let delay = 1 + self.chance.below(30);
        if !self.chance.percent(2) {
            self.after(delay, Event::Commit(node, restores, Box::new(txn)));
        }
        let answered = delay + 1 + self.chance.below(30);
        let delay = if self.chance.percent(3) { 5 * SECOND } else { answered };
        self.nodes[node].asks_until = self.now + delay;
        self.after(delay, Event::Look(node, life));
    }

    fn look(&mut self, node: usize) {
        if self.now < self.nodes[node].asks_until {
            // The look that the answer brings is planned.
            return;
        }
        self.follow(node);
        if self.nodes[node].at != self.accepted && self.nodes[node].phase != Phase::In {
            // The node has not received the new revision, or cannot load it yet.
            self.again(node, true);
        }
        if self.nodes[node].cut {
            return self.again(node, true);
        }
        let spec = Arc::clone(&self.revisions[self.nodes[node].at]);
        let snapshot = self.snapshot(node);
        if let Some(txn) = self.owed(node, &spec, &snapshot) {
            return self.send(node, txn);
        }
        let own = &self.nodes[node];
        if own.segment >= spec.segments() {
            match next_maintenance(&spec, &snapshot, &name(node)) {
                Some(txn) => self.send(node, txn),
                None if snapshot.done(&spec) => {}
                None => self.again(node, false),
            }
            return;
        }
        let segment = own.segment;
        let want = match own.phase {
            Phase::Idle | Phase::Failed => Request::Change(segment),
            Phase::Succeeded => Request::Done(segment),
            Phase::Failing => Request::Failed(segment),
            Phase::In => return,
        };
        match decide(&spec, &snapshot, &name(node), want) {
            Decision::Commit(txn) => self.send(node, txn),
            Decision::Wait(_) => match next_maintenance(&spec, &snapshot, &name(node)) {
                Some(txn) => self.send(node, txn),
                None => self.again(node, false),
            },
            Decision::Go => self.go(node, want),
        }
    }

    /// Returns what a node must write first after a rollback of the store. `None` if there is nothing.
    fn owed(&self, node: usize, spec: &RolloutSpec, snapshot: &RunSnapshot) -> Option<Txn> {
        let own = &self.nodes[node];
        if snapshot.rolled_back {
            // Ids must be unique.
            let id = format!("{}-{}", self.now, name(node));
            return report_rollback(snapshot, &name(node), &id, own.recovery_id.as_deref());
        }
        let stored = snapshot.accepted.map_or(0, |(generation, _)| generation);
        if stored < spec.generation {
            // A node with a newer record of acceptance on its disk writes it back.
            let key = keys::ACCEPTED.to_owned();
            let record = Accepted { schema: 1, generation: spec.generation, ..Accepted::default() };
            let compare =
                snapshot.accepted.map_or(Compare::Absent(key.clone()), |(_, at)| Compare::Revision(key.clone(), at));
            let then = vec![Op::put(key, serde_json::to_vec(&record).unwrap())];
            return Some(Txn { compare: vec![compare], then, otherwise: Vec::new() });
        }
        if !snapshot.needs_republish(&name(node)) || !matches!(own.phase, Phase::Idle | Phase::Failed) {
            return None;
        }
        let kind = if own.failed { SlotState::Failure } else { SlotState::Claim };
        let away = own.away.then(|| (kind, spec.run.clone(), own.segment));
        let own = NodeClaims { away, voted: (0..own.segment).collect() };
        republish(spec, snapshot, &name(node), &own).or_else(|| acknowledge(snapshot, &name(node)))
    }

    fn go(&mut self, node: usize, want: Request) {
        let fails = self.failures > 0 && self.chance.percent(5);
        let work = SECOND + self.chance.below(20 * SECOND);
        let own = &mut self.nodes[node];
        match want {
            Request::Change(_) => {
                own.phase = Phase::In;
                own.away = true;
                let life = own.life;
                self.failures -= u64::from(fails);
                self.after(work, Event::Worked(node, life, !fails));
            }
            Request::Done(_) => {
                own.segment += 1;
                own.phase = Phase::Idle;
                own.failed = false;
                self.again(node, true);
            }
            Request::Failed(_) => {
                own.phase = Phase::Failed;
                own.failed = true;
                self.again(node, false);
            }
            Request::Enter(_) | Request::Correct | Request::Absent(..) | Request::Leave => {}
        }
    }

    /// Lets a node adopt a newer revision between two tasks.
    fn follow(&mut self, node: usize) {
        let own = &mut self.nodes[node];
        if own.at == self.accepted || own.phase == Phase::In || self.chance.percent(30) {
            return;
        }
        let same = self.revisions[own.at].run == self.revisions[self.accepted].run;
        own.at = self.accepted;
        if !same {
            own.segment = 0;
            own.phase = Phase::Idle;
        }
    }

    fn commit(&mut self, txn: &Txn) {
        let slots = |store: &Memory| {
            let taken = |kind: SlotState| matches!(kind, SlotState::Claim | SlotState::Offer);
            held(store).into_iter().filter(|held| taken(held.kind)).count() as u64
        };
        let gone = |store: &Memory| held(store).iter().filter(|held| held.kind == SlotState::WrittenOff).count() as u64;
        let (before, written_off) = (slots(&self.store), gone(&self.store));
        let was_open = opening(&self.store);
        let (outcome, changes) = self.store.apply(txn).unwrap();
        if matches!(outcome, Outcome::Refused { .. }) {
            return;
        }
        let spec = &self.revisions[self.accepted];
        let after = slots(&self.store);
        // Republished records were given before the rollback.
        let anew = self.store.below(keys::ALL_RECOVERIES).next().is_some();
        let within = after <= before || spec.count.is_none_or(|count| after <= count);
        assert!(within || anew, "a slot beyond the count: {txn:?}");
        self.written_off += gone(&self.store).saturating_sub(written_off);
        self.check_opening(&was_open, &changes);
        for change in changes {
            let Change::Put(row) = change else { continue };
            let told: Vec<usize> = match row.key.split('/').collect::<Vec<_>>()[..] {
                ["inbox", node, ..] => vec![node[1..].parse().unwrap()],
                ["board", ..] => (0..self.nodes.len()).collect(),
                _ => Vec::new(),
            };
            for node in told {
                // A wake-up may be lost. A restarted watch reads the restore again.
                if row.key.starts_with(keys::ALL_RECOVERIES) || !self.chance.percent(5) {
                    let (delay, life) = (1 + self.chance.below(50), self.nodes[node].life);
                    self.after(delay, Event::Look(node, life));
                }
            }
        }
    }

    /// Checks that all nodes that the accepted revision waits for have arrived when a barrier opens.
    fn check_opening(&self, was_open: &RolloutProgress, changes: &[Change]) {
        let spec = &self.revisions[self.accepted];
        for change in changes {
            let Change::Put(row) = change else { continue };
            if !row.key.starts_with("board/open/") {
                continue;
            }
            let progress: RolloutProgress = serde_json::from_slice(&row.value).unwrap();
            let open = |progress: &RolloutProgress, segment: u32| {
                progress.run == spec.run && progress.waves.get(segment as usize).is_some_and(|open| *open > 0)
            };
            let behind = (1..spec.segments()).filter(|segment| {
                spec.open_at_first(*segment) == 0 && open(&progress, *segment) && !open(was_open, *segment)
            });
            for segment in behind {
                for (node, own) in self.nodes.iter().enumerate() {
                    let run = &self.revisions[own.at].run;
                    let came = *run == progress.run
                        && (own.segment >= segment || own.phase == Phase::Succeeded && own.segment + 1 == segment);
                    let key = keys::held(&spec.group, "-", &spec.book, &name(node));
                    let excused = self.store.below(&key).any(|row| row.key == key);
                    let voted = keys::vote(&progress.run, segment - 1, true, &name(node));
                    let voted = self.store.below(&voted).any(|row| row.key == voted);
                    assert!(came || excused || voted, "segment {segment} opened without {}", name(node));
                }
            }
        }
    }

    fn step(&mut self, event: Event) {
        // A single seed prints its steps.
        if std::env::var_os("TOWPATH_SEED").is_some() && !matches!(event, Event::Look(..)) {
            println!("{:>9} {event:?}", self.now);
        }
        match event {
            Event::Look(node, life) if self.nodes[node].up && self.nodes[node].life == life => self.look(node),
            // Requests in transit fail when the store is replaced.
            Event::Commit(node, restores, txn) if restores == self.restores && !self.nodes[node].cut => {
                self.commit(&txn);
            }
            Event::Worked(node, life, well) if self.nodes[node].up && self.nodes[node].life == life => {
                let own = &mut self.nodes[node];
                own.phase = if well { Phase::Succeeded } else { Phase::Failing };
                own.away = !well;
                self.look(node);
            }
            Event::Crash(node) if self.nodes[node].up => {
                let own = &mut self.nodes[node];
                own.up = false;
                own.life += 1;
                own.asks_until = 0;
                if own.phase == Phase::In || own.phase == Phase::Failed {
                    own.phase = Phase::Idle;
                }
                self.after(LEASE, Event::LeaseEnds(node));
                let back = SECOND + self.chance.below(120 * SECOND);
                self.after(back, Event::Restart(node));
            }
            Event::Restart(node) if !self.nodes[node].up => {
                self.nodes[node].up = true;
                self.nodes[node].reached = Some(self.now);
                if !self.nodes[node].cut {
                    self.put(&keys::alive(&name(node)));
                }
                let life = self.nodes[node].life;
                self.after(1, Event::Look(node, life));
            }
            Event::Cut(node) if !self.nodes[node].cut => {
                self.nodes[node].cut = true;
                self.after(LEASE, Event::LeaseEnds(node));
                let back = SECOND + self.chance.below(90 * SECOND);
                self.after(back, Event::Heal(node));
            }
            Event::Heal(node) => {
                self.nodes[node].cut = false;
                self.nodes[node].reached = Some(self.now);
                if self.nodes[node].up {
                    self.put(&keys::alive(&name(node)));
                    self.again(node, true);
                }
            }
            Event::Backup => self.backup = Some(self.store.clone()),
            Event::Restore => {
                if let Some(backup) = self.backup.take() {
                    self.store = backup;
                    self.restores += 1;
                    for node in 0..self.nodes.len() {
                        let own = &mut self.nodes[node];
                        own.reached = Some(self.now);
                        // Watches end, and their nodes look again.
                        let (life, delay) = (own.life, 1 + self.chance.below(SECOND));
                        let own = &self.nodes[node];
                        if own.up && !own.cut {
                            self.put(&keys::alive(&name(node)));
                        } else {
                            self.after(LEASE, Event::LeaseEnds(node));
                        }
                        self.after(delay, Event::Look(node, life));
                    }
                }
            }
            Event::LeaseEnds(node) if !self.nodes[node].up || self.nodes[node].cut => {
                let key = keys::alive(&name(node));
                self.store.apply(&Txn { then: vec![Op::Delete(key)], ..Txn::default() }).unwrap();
            }
            Event::Accept => {
                // The accepting node has the newest revision on its disk, whatever the store contains.
                self.accept(self.accepted + 1);
                for node in 0..self.nodes.len() {
                    let (delay, life) = (1 + self.chance.below(2 * SECOND), self.nodes[node].life);
                    self.after(delay, Event::Look(node, life));
                }
            }
            _ => {}
        }
        let allowed = self.revisions[..=self.accepted].iter().map(|spec| spec.count.unwrap() + spec.max_failures).max();
        let away = self.nodes.iter().filter(|node| node.away).count() as u64;
        assert!(away <= allowed.unwrap() + self.written_off, "{away} are away, and {allowed:?} may be");
    }

    /// Runs the simulation to its end. Returns the virtual time that it took.
    fn run(mut self) -> Time {
        while let Some(Reverse((at, _, event))) = self.events.pop() {
            self.now = at;
            assert!(at < 24 * 3600 * SECOND, "it does not come to its end: {:?}\n{}", self.nodes, shown(&self.store));
            self.step(event);
        }
        let spec = &self.revisions[self.accepted];
        assert!(self.nodes.iter().all(|node| node.at == self.accepted && node.segment >= spec.segments()));
        self.now
    }
}

fn opening(store: &Memory) -> RolloutProgress {
    store.below("board/open/").find_map(|row| serde_json::from_slice(&row.value).ok()).unwrap_or_default()
}

/// Returns the content of the store, for a failing seed.
fn shown(store: &Memory) -> String {
    store.below("").map(|row| format!("{} {}\n", row.key, String::from_utf8_lossy(&row.value))).collect()
}

fn held(store: &Memory) -> Vec<SlotRecord> {
    store.below("book/held/").filter_map(|row| serde_json::from_slice(&row.value).ok()).collect()
}

#[test]
fn rollouts_in_virtual_time() {
    let only: Option<u64> = std::env::var("TOWPATH_SEED").ok().and_then(|seed| seed.parse().ok());
    let seeds = if towpath_tests::long() { 3000 } else { 150 };
    let seeds: Vec<u64> = only.map_or_else(|| (1..=seeds).collect(), |seed| vec![seed]);
    let mut longest = 0;
    for seed in seeds {
        // The output of a failing test then names the seed.
        println!("TOWPATH_SEED={seed}");
        let count = 2 + usize::try_from(Chance::new(!seed).below(30)).unwrap();
        longest = longest.max(Simulation::new(seed, count).run());
    }
    println!("the longest took {} s of virtual time", longest / SECOND);
}

#[test]
fn a_thousand_nodes_in_virtual_time() {
    let took = Simulation::new(7, 1000).run();
    println!("it took {} s of virtual time", took / SECOND);
}
