//! The reading and deciding of a node in the model, as in the agent: recovery of a restored store first, then the book.

use std::collections::BTreeSet;

use towpath_coordination::{
    keys,
    rollout::{
        BlockReason, Decision, ElectStep, Election, ElectionContext, OnLost, Record, Request, RolloutSpec, RunSnapshot,
        SealedResult, SlotRecord, SlotState, acknowledge, decide, elect, next_maintenance, publish, report_rollback,
        republish, republish_election, segment_to_inspect,
    },
    store::{Compare, Op, Txn},
};

use towpath_tests::course::{Found, Reply, Turn};

use crate::{
    fleet::{Fleet, go_down},
    mutations::Mutation,
    state::{Progress, State, accept, is_alive, name, stored},
};

/// The name of the elected task.
const TASK: &str = "t";

fn result(ok: bool) -> SealedResult {
    SealedResult { ok, body: String::new() }
}

/// Returns true if a transaction writes off a node that has announced an absence.
fn writes_off_absent(state: &State, txn: &Txn) -> bool {
    let held = |value: &[u8]| serde_json::from_slice::<SlotRecord>(value).ok();
    txn.then.iter().any(|operation| match operation {
        Op::Put { key, value, .. } if key.starts_with("fleet/held/") => {
            let before = state.store.below(key).find(|row| row.key == *key).and_then(|row| held(&row.value));
            held(value).is_some_and(|held| held.kind == SlotState::WrittenOff || held.lost)
                && before.is_some_and(|held| held.absent > 0)
        }
        _ => false,
    })
}

impl Fleet {
    fn snapshot(&self, state: &State, node: usize, book: usize, late: bool) -> RunSnapshot {
        let spec = self.spec(state, node, book);
        let (revision, answers) = state.store.peek(&RunSnapshot::reading(spec, &name(node)));
        let mut snapshot = RunSnapshot::of(spec, &name(node), revision, answers);
        snapshot.soaked = late || spec.soak.is_zero();
        snapshot.rolled_back = state.nodes[node].rolled_back;
        let last = |prefix: &str| -> BTreeSet<String> {
            state.store.below(prefix).map(|row| row.key[prefix.len()..].to_owned()).collect()
        };
        if let Some((restored, _)) = &snapshot.recovery {
            snapshot.acknowledged = last(&keys::all_recovery_acks(&restored.id));
        }
        if late {
            snapshot.idle = true;
            snapshot.stale = snapshot.held.iter().map(|held| (held.node.clone(), held.modified)).collect();
            snapshot.overdue = snapshot.stale.clone();
        }
        if spec.on_lost != OnLost::Hold || snapshot.recovery.is_some() {
            snapshot.lost = (0..self.nodes).filter(|other| !is_alive(&state.store, *other)).map(name).collect();
        }
        if let Some(segment) = segment_to_inspect(spec, &snapshot) {
            snapshot.names = Some((segment, last(&keys::member_votes(&spec.run, segment))));
        }
        if self.mutation == Some(Mutation::OldVoteCounts) {
            let segment = snapshot.names.as_ref().map_or(0, |(segment, _)| *segment);
            let part = format!("/{segment}/member/");
            let votes = state.store.below("fleet/vote/").filter(|row| row.key.contains(&part));
            snapshot.names =
                Some((segment, votes.filter_map(|row| Some(row.key.rsplit('/').next()?.to_owned())).collect()));
        }
        if let Some(mutation) = self.mutation {
            mutation.snapshot(spec, &name(node), &mut snapshot);
        }
        snapshot
    }

    /// Applies the mutation to a transaction.
    fn mutated(&self, node: usize, mut txn: Txn) -> Txn {
        if let Some(mutation) = self.mutation {
            mutation.txn(&name(node), &mut txn);
        }
        txn
    }

    fn decided(&self, spec: &RolloutSpec, snapshot: &RunSnapshot, node: usize, want: Request) -> Decision {
        match decide(spec, snapshot, &name(node), want) {
            Decision::Commit(txn) => Decision::Commit(self.mutated(node, txn)),
            other => other,
        }
    }

    fn maintained(&self, spec: &RolloutSpec, snapshot: &RunSnapshot, node: usize) -> Option<Txn> {
        if self.mutation == Some(Mutation::NoLaterLook) {
            return None;
        }
        next_maintenance(spec, snapshot, &name(node)).map(|txn| self.mutated(node, txn))
    }

    /// The segment that is an elected task, whatever the waves make of it.
    pub fn elects_at(&self, spec: &RolloutSpec) -> Option<u32> {
        // Without its rule the segment is not named as one.
        spec.elected
            .first()
            .copied()
            .or_else(|| (self.mutation == Some(Mutation::ElectedHasWaves)).then(|| self.revisions[0][0].segments() - 1))
    }

    /// Lets a node read and decide. `None` if that changes nothing.
    pub fn look(&self, state: &State, node: usize, book: usize, late: bool) -> Option<State> {
        let mut next = state.clone();
        if self.needs_republish(&mut next, node) {
            return (next != *state).then_some(next);
        }
        let spec = self.spec(state, node, book).clone();
        let snapshot = self.snapshot(state, node, book, late);
        if spec.selects(&name(node)) {
            self.pass(&mut next, node, book, &spec, &snapshot);
        } else {
            // The node is not a target any more. It adopts the revision and releases its slots.
            let own = &mut next.nodes[node];
            own.books[book].away = false;
            own.books[book].course.stop();
            if let Decision::Commit(txn) = self.decided(&spec, &snapshot, node, Request::Leave) {
                own.pending = Some(txn);
            }
        }
        if !late && next.nodes[node].pending.as_ref().is_some_and(|txn| writes_off_absent(state, txn)) {
            next.broken = Some("who went away on purpose was taken for lost");
        }
        (next != *state).then_some(next)
    }

    /// Performs the next step of a recovery. Returns false if the node need not do anything. A running task ends first.
    fn needs_republish(&self, next: &mut State, node: usize) -> bool {
        if self.mutation == Some(Mutation::NoRepublish) {
            next.nodes[node].rolled_back = false;
        }
        let own = &next.nodes[node];
        let waits = |progress: &Progress| progress.course.rests();
        let snapshot = self.snapshot(next, node, 0, false);
        let known = self.acceptance(own.at);
        let there = next.store.below(keys::ACCEPTED).next();
        if stored(&next.store).generation < known.generation {
            // A node with a newer record of acceptance on its disk writes it back.
            let mut txn = accept(&known);
            let key = keys::ACCEPTED.to_owned();
            txn.compare.push(there.map_or(Compare::Absent(key.clone()), |row| Compare::Revision(key, row.modified)));
            next.nodes[node].pending = Some(txn);
            return true;
        }
        if own.rolled_back {
            match report_rollback(&snapshot, &name(node), "r", None) {
                Some(txn) => next.nodes[node].pending = Some(txn),
                None => next.nodes[node].rolled_back = false,
            }
            return true;
        }
        if !snapshot.needs_republish(&name(node)) || !own.books.iter().all(waits) {
            return false;
        }
        let said = (0..self.books()).find_map(|book| self.republish(next, node, book));
        if said.is_none() {
            // The end of each run must be confirmed again.
            next.nodes[node].books.iter_mut().for_each(|progress| progress.course.record.completed = false);
        }
        next.nodes[node].pending = said.or_else(|| acknowledge(&snapshot, &name(node)));
        true
    }

    /// Returns the next record of a book that the node must republish.
    fn republish(&self, state: &State, node: usize, book: usize) -> Option<Txn> {
        let spec = self.spec(state, node, book);
        let progress = &state.nodes[node].books[book];
        let own = progress.course.claims(spec);
        let snapshot = self.snapshot(state, node, book, false);
        republish(spec, &snapshot, &name(node), &own).or_else(|| {
            let ran = progress.elected?.map(result);
            republish_election(spec, &name(node), TASK, &spec.run, &self.record(state, spec), ran.as_ref())
        })
    }

    fn record(&self, state: &State, spec: &RolloutSpec) -> Record {
        Record::of(state.store.below(&keys::all_elected(&spec.book, TASK)), state.store.revision)
    }

    /// Advances the book run of a node until it writes to the store, changes the node, or ends. Each request of a pass
    /// checks everything that the requests before it have checked, so one snapshot serves the whole pass.
    fn pass(&self, next: &mut State, node: usize, book: usize, spec: &RolloutSpec, snapshot: &RunSnapshot) {
        let own_node = name(node);
        let elected = self.elects_at(spec);
        loop {
            let progress = &mut next.nodes[node].books[book];
            let found = |segment| match (self.changes)(node, segment) {
                _ if (self.check_fails)(node, spec.accepted.generation) => Found::Fails,
                true => Found::Differs,
                false => Found::InSync,
            };
            let turn = progress.course.advance_with(spec, &own_node, elected, found);
            let reply = match turn {
                Turn::Change(segment) => return self.change(next, node, book, spec, snapshot, segment),
                Turn::Ask(want) => match self.decided(spec, snapshot, node, want) {
                    Decision::Commit(txn) => Err(Some(txn)),
                    Decision::Go => Ok(Reply::Go),
                    Decision::Wait(hold) => {
                        let claims = snapshot.held.iter().any(|held| {
                            held.node == own_node && held.book == spec.book && held.held.kind == SlotState::Claim
                        });
                        if claims && !matches!(hold, BlockReason::Behind | BlockReason::Lease | BlockReason::Recovery) {
                            next.broken = Some("a node waits while it holds a slot");
                        }
                        self.maintained(spec, snapshot, node).map_or(Ok(Reply::Hold(hold)), |txn| Err(Some(txn)))
                    }
                },
                Turn::RepeatVotes(count) => {
                    let lost = (0..count).find(|number| !snapshot.voted.contains(number));
                    match lost.map(|number| self.decided(spec, snapshot, node, Request::Done(number))) {
                        Some(Decision::Commit(txn)) => Err(Some(txn)),
                        _ => Ok(Reply::Go),
                    }
                }
                Turn::EndRun => match self.maintained(spec, snapshot, node) {
                    Some(txn) => Err(Some(txn)),
                    None => Ok(Reply::RunEnded(snapshot.done(spec))),
                },
                Turn::Elect(_) => self.elect(next, node, book, spec, snapshot),
                Turn::Publish(ok) => {
                    // The journal keeps the result before the store has it.
                    next.nodes[node].books[book].elected = Some(Some(ok));
                    let record = self.record(next, spec);
                    match record.result_of(&spec.run, &own_node) == Some(&result(ok)) {
                        true => Ok(Reply::Go),
                        false => Err(Some(publish(spec, &own_node, TASK, &spec.run, &record, &result(ok)))),
                    }
                }
                Turn::Ended { failed } => {
                    let looks = !failed || self.mutation != Some(Mutation::FailuresOpenNothing);
                    Err(self.maintained(spec, snapshot, node).filter(|_| looks))
                }
            };
            match reply {
                Ok(reply) => next.nodes[node].books[book].course.reply(reply),
                Err(txn) => {
                    next.nodes[node].pending = txn;
                    return;
                }
            }
        }
    }

    /// Begins the change of a segment. A node that is about to leave announces its absence first.
    fn change(
        &self,
        next: &mut State,
        node: usize,
        book: usize,
        spec: &RolloutSpec,
        snapshot: &RunSnapshot,
        segment: u32,
    ) {
        if self.elects_at(spec) == Some(segment) {
            return;
        }
        if next.nodes[node].books[book].leaving {
            match self.decided(spec, snapshot, node, Request::Absent(segment, 600)) {
                Decision::Commit(txn) => next.nodes[node].pending = Some(txn),
                Decision::Go => go_down(&mut next.nodes[node]),
                Decision::Wait(_) => next.nodes[node].pending = self.maintained(spec, snapshot, node),
            }
            return;
        }
        next.nodes[node].books[book].away = true;
        let working = self.known(next).filter(|node| {
            let books = node.books.iter().zip(&self.revisions[node.at]);
            books.into_iter().any(|(it, of)| it.course.changes() && it.away && of.budget == spec.budget)
        });
        if working.count() as u64 > self.allowed(next, &spec.budget) {
            next.broken = Some("more nodes change at one time than there are slots and failures");
        }
    }

    /// Answers the request for an election. The error is the transaction to run first.
    fn elect(
        &self,
        next: &mut State,
        node: usize,
        book: usize,
        spec: &RolloutSpec,
        snapshot: &RunSnapshot,
    ) -> Result<Reply, Option<Txn>> {
        let record = self.record(next, spec);
        let mut of = spec.clone();
        if self.mutation == Some(Mutation::RemovedStaysElected) {
            of.late = (0..self.nodes).map(name).collect();
        }
        let own_node = name(node);
        let context = ElectionContext {
            spec: &of,
            own_node: &own_node,
            task: TASK,
            definition: &spec.run,
            eligible: (self.eligible)(node),
            count: self.elects,
            lost: &snapshot.lost.iter().cloned().collect::<Vec<_>>(),
        };
        match elect(&record, snapshot, &context) {
            ElectStep::Commit(txn) => Err(Some(txn)),
            ElectStep::Decided(Election::Run) => {
                next.began.insert((spec.run.clone(), node));
                next.nodes[node].books[book].elected = Some(None);
                Ok(Reply::Elected)
            }
            // A failed result holds for all nodes. They wait until it is replaced.
            ElectStep::Decided(Election::Results(results)) if results.values().all(|result| result.ok) => {
                Ok(Reply::Results)
            }
            ElectStep::Behind | ElectStep::Decided(Election::Wait(_) | Election::Results(_)) => {
                self.maintained(spec, snapshot, node).map_or(Ok(Reply::Hold(BlockReason::Slot)), |txn| Err(Some(txn)))
            }
        }
    }
}
