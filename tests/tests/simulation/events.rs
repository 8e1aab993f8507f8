//! The events in virtual time, and their effects on the fleet and its store.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    sync::Arc,
};

use towpath_coordination::{
    keys,
    rollout::{Cut, OnLost, RolloutSpec, SlotState},
    store::{Change, Op, Outcome, Txn, memory::Memory},
};
use towpath_tests::course::{Course, Reply};

use super::{
    chance::Chance,
    checks::{held, opening, shown},
    state::{Event, Node, SECOND, Simulation, Time, name, record},
};

/// The time to live of a lease.
const LEASE: Time = 25 * SECOND;

impl Simulation {
    /// Creates a fleet with random rollouts and faults.
    pub fn new(seed: u64, count: usize) -> Self {
        let mut chance = Chance::new(seed);
        let on_lost = [OnLost::Hold, OnLost::Skip, OnLost::Fail][usize::try_from(chance.below(3)).unwrap()];
        let waves = u32::try_from(1 + chance.below(3)).unwrap();
        let segments = chance.below(3);
        let cuts: Vec<Cut> =
            (0..segments).map(|_| if chance.percent(70) { Cut::Barrier } else { Cut::Passage }).collect();
        let revisions: Vec<Arc<RolloutSpec>> = (0..1 + chance.below(3))
            .map(|number| {
                Arc::new(RolloutSpec {
                    book: "b/k".into(),
                    budget: "b/k".into(),
                    run: format!("b/k@{}", if chance.percent(30) { 1 } else { number + 1 }),
                    accepted: record(number + 1).id(),
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
        let last = revisions.len() - 1;
        let mut failing = |at| (0..count).filter(|_| at < last && chance.percent(10)).collect();
        let check_fails = (0..=last).map(&mut failing).collect();
        let node = Node {
            up: true,
            at: 0,
            course: Course::default(),
            away: false,
            cut: false,
            position: (0, 0),
            rolled_back: false,
            recovery_id: None,
            reached: None,
            incarnation: 0,
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
            check_fails,
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

    pub(super) fn after(&mut self, delay: Time, event: Event) {
        self.number += 1;
        self.events.push(Reverse((self.now + delay, self.number, event)));
    }

    fn put(&mut self, key: &str) {
        self.store.apply(&Txn { then: vec![Op::put(key, Vec::new())], ..Txn::default() }).unwrap();
    }

    fn accept(&mut self, number: usize) {
        let record = record(self.revisions[number].accepted.generation);
        let put = Op::put(keys::ACCEPTED, serde_json::to_vec(&record).unwrap());
        self.store.apply(&Txn { then: vec![put], ..Txn::default() }).unwrap();
        self.accepted = number;
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
        let recovers = self.store.below(keys::ALL_RECOVERIES).next().is_some();
        let within = after <= before || spec.count.is_none_or(|count| after <= count);
        assert!(within || recovers, "a slot beyond the count: {txn:?}");
        self.written_off += gone(&self.store).saturating_sub(written_off);
        self.check_opening(&was_open, &changes);
        for change in changes {
            let Change::Put(row) = change else { continue };
            let woken: Vec<usize> = match row.key.split('/').collect::<Vec<_>>()[..] {
                ["inbox", node, ..] => vec![node[1..].parse().unwrap()],
                ["shared", ..] => (0..self.nodes.len()).collect(),
                _ => Vec::new(),
            };
            for node in woken {
                // A wake-up may be lost. A restarted watch reads the restore again.
                if row.key.starts_with(keys::ALL_RECOVERIES) || !self.chance.percent(5) {
                    let (delay, incarnation) = (1 + self.chance.below(50), self.nodes[node].incarnation);
                    self.after(delay, Event::Look(node, incarnation));
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
            Event::Look(node, incarnation) if self.nodes[node].up && self.nodes[node].incarnation == incarnation => {
                self.look(node)
            }
            // Requests in transit fail when the store is replaced.
            Event::Commit(node, restores, txn) if restores == self.restores && !self.nodes[node].cut => {
                self.commit(&txn);
            }
            Event::Worked(node, incarnation, well)
                if self.nodes[node].up && self.nodes[node].incarnation == incarnation =>
            {
                let own = &mut self.nodes[node];
                own.course.reply(Reply::Changed(well));
                own.away = !well;
                self.look(node);
            }
            Event::Crash(node) if self.nodes[node].up => {
                let own = &mut self.nodes[node];
                own.up = false;
                own.incarnation += 1;
                own.asks_until = 0;
                own.course.stop();
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
                let incarnation = self.nodes[node].incarnation;
                self.after(1, Event::Look(node, incarnation));
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
                        let (incarnation, delay) = (own.incarnation, 1 + self.chance.below(SECOND));
                        let own = &self.nodes[node];
                        if own.up && !own.cut {
                            self.put(&keys::alive(&name(node)));
                        } else {
                            self.after(LEASE, Event::LeaseEnds(node));
                        }
                        self.after(delay, Event::Look(node, incarnation));
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
                    let (delay, incarnation) = (1 + self.chance.below(2 * SECOND), self.nodes[node].incarnation);
                    self.after(delay, Event::Look(node, incarnation));
                }
            }
            _ => {}
        }
        let allowed = self.revisions[..=self.accepted].iter().map(|spec| spec.count.unwrap() + spec.max_failures).max();
        let away = self.nodes.iter().filter(|node| node.away).count() as u64;
        assert!(away <= allowed.unwrap() + self.written_off, "{away} are away, and {allowed:?} may be");
    }

    /// Runs the simulation to its end. Returns the virtual time that it took.
    pub fn run(mut self) -> Time {
        while let Some(Reverse((at, _, event))) = self.events.pop() {
            self.now = at;
            assert!(at < 24 * 3600 * SECOND, "the simulation does not end: {:?}\n{}", self.nodes, shown(&self.store));
            self.step(event);
        }
        let spec = &self.revisions[self.accepted];
        assert!(self.nodes.iter().all(|node| node.at == self.accepted && node.course.done(spec) >= spec.segments()));
        self.now
    }
}
