//! The nodes: the looks, decisions and requests of each, as the agent makes them.

use std::{collections::BTreeSet, sync::Arc};

use towpath_coordination::{
    keys,
    rollout::{
        Decision, OnLost, Request, RolloutSpec, RunSnapshot, SlotState, WriteSequence, acknowledge, decide, idle,
        next_maintenance, report_rollback, republish, segment_to_inspect,
    },
    store::{Compare, Op, Txn},
};

use towpath_tests::course::{Found, Reply, Turn};

use super::state::{Event, SECOND, Simulation, name, record};

impl Simulation {
    fn snapshot(&mut self, node: usize) -> RunSnapshot {
        let spec = Arc::clone(&self.revisions[self.nodes[node].at]);
        let spec = spec.as_ref();
        let (revision, answers) = self.store.peek(&RunSnapshot::reading(spec, &name(node)));
        let mut snapshot = RunSnapshot::of(spec, &name(node), revision, answers);
        snapshot.soaked = true;
        let now = self.now;
        let own = &mut self.nodes[node];
        // The same rule as in the agent's `StorePosition`.
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
    pub(super) fn again(&mut self, node: usize, soon: bool) {
        let incarnation = self.nodes[node].incarnation;
        let delay = if soon { self.chance.below(2 * SECOND) } else { 50 * SECOND + self.chance.below(20 * SECOND) };
        self.after(delay, Event::Look(node, incarnation));
    }

    fn send(&mut self, node: usize, mut txn: Txn) {
        let mark = WriteSequence { number: self.nodes[node].position.1 + 1 };
        txn.then.push(Op::put(keys::write_sequence(&name(node)), serde_json::to_vec(&mark).unwrap()));
        let (incarnation, restores) = (self.nodes[node].incarnation, self.restores);
        // A request may be lost. Its node looks again in any case.
        let delay = 1 + self.chance.below(30);
        if !self.chance.percent(2) {
            self.after(delay, Event::Commit(node, restores, Box::new(txn)));
        }
        let answered = delay + 1 + self.chance.below(30);
        let delay = if self.chance.percent(3) { 5 * SECOND } else { answered };
        self.nodes[node].asks_until = self.now + delay;
        self.after(delay, Event::Look(node, incarnation));
    }

    pub(super) fn look(&mut self, node: usize) {
        if self.now < self.nodes[node].asks_until {
            // The look that the answer brings is planned.
            return;
        }
        if self.nodes[node].course.changes() {
            return;
        }
        self.follow(node);
        if self.nodes[node].at != self.accepted {
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
        self.pass(node, &spec, &snapshot);
    }

    /// Advances the book run of a node until it writes to the store, changes the node, or ends. Nothing is written
    /// meanwhile, so one snapshot serves all its requests.
    fn pass(&mut self, node: usize, spec: &RolloutSpec, snapshot: &RunSnapshot) {
        let me = name(node);
        loop {
            let own = &mut self.nodes[node];
            let fails = self.check_fails[own.at].contains(&node);
            let found = |_| if fails { Found::Fails } else { Found::Differs };
            let want = match own.course.advance(spec, &me, found) {
                Turn::Ask(want) => want,
                Turn::Change(_) => return self.change(node),
                Turn::RepeatVotes(count) => {
                    let lost = (0..count).find(|number| !snapshot.voted.contains(number));
                    match lost.map(|number| decide(spec, snapshot, &me, Request::Done(number))) {
                        Some(Decision::Commit(txn)) => return self.send(node, txn),
                        _ => self.nodes[node].course.reply(Reply::Go),
                    }
                    continue;
                }
                Turn::EndRun => {
                    if let Some(txn) = next_maintenance(spec, snapshot, &me) {
                        return self.send(node, txn);
                    }
                    self.nodes[node].course.reply(Reply::RunEnded(snapshot.done(spec)));
                    continue;
                }
                Turn::Ended { .. } => {
                    let record = &self.nodes[node].course.record;
                    if record.run != spec.run || !record.completed {
                        self.again(node, false);
                    }
                    return;
                }
                turn @ (Turn::Elect(_) | Turn::Publish(_)) => panic!("no task is elected: {turn:?}"),
            };
            match decide(spec, snapshot, &me, want) {
                Decision::Commit(txn) => return self.send(node, txn),
                Decision::Wait(reason) => match next_maintenance(spec, snapshot, &me) {
                    Some(txn) => return self.send(node, txn),
                    None => self.nodes[node].course.reply(Reply::Hold(reason)),
                },
                Decision::Go => {
                    if matches!(want, Request::Done(_) | Request::Leave) {
                        self.nodes[node].away = false;
                    }
                    self.nodes[node].course.reply(Reply::Go);
                }
            }
        }
    }

    /// Begins the change of a segment.
    fn change(&mut self, node: usize) {
        let fails = self.failures > 0 && self.chance.percent(5);
        let work = SECOND + self.chance.below(20 * SECOND);
        let own = &mut self.nodes[node];
        own.away = true;
        let incarnation = own.incarnation;
        self.failures -= u64::from(fails);
        self.after(work, Event::Worked(node, incarnation, !fails));
    }

    /// Returns what a node must write first after a rollback of the store. `None` if there is nothing.
    fn owed(&self, node: usize, spec: &RolloutSpec, snapshot: &RunSnapshot) -> Option<Txn> {
        let own = &self.nodes[node];
        if snapshot.rolled_back {
            // Ids must be unique.
            let id = format!("{}-{}", self.now, name(node));
            return report_rollback(snapshot, &name(node), &id, own.recovery_id.as_deref());
        }
        let stored = snapshot.accepted.as_ref().map_or(0, |(accepted, _)| accepted.generation);
        if stored < spec.accepted.generation {
            // A node with a newer record of acceptance on its disk writes it back.
            let key = keys::ACCEPTED.to_owned();
            let record = record(spec.accepted.generation);
            let compare = snapshot
                .accepted
                .as_ref()
                .map_or(Compare::Absent(key.clone()), |(_, at)| Compare::Revision(key.clone(), *at));
            let then = vec![Op::put(key, serde_json::to_vec(&record).unwrap())];
            return Some(Txn { compare: vec![compare], then, otherwise: Vec::new() });
        }
        if !snapshot.needs_republish(&name(node)) || !own.course.rests() {
            return None;
        }
        let claims = own.course.claims(spec);
        republish(spec, snapshot, &name(node), &claims).or_else(|| acknowledge(snapshot, &name(node)))
    }

    /// Lets a node adopt a newer revision between two tasks.
    fn follow(&mut self, node: usize) {
        let own = &mut self.nodes[node];
        if own.at == self.accepted || self.chance.percent(30) {
            return;
        }
        own.at = self.accepted;
        own.course.stop();
    }
}
