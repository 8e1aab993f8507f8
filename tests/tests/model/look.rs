//! A node of the model reads and decides, as the agent does: what it owes to a restored store first, then its book.

use std::collections::BTreeSet;

use towpath_coordination::{
    accept::Accepted,
    keys,
    rollout::{
        Candidacy, ElectStep, Election, Held, Hold, Kind, OnLost, Own, Record, Share, Spec, Step, View, Want, anew,
        announce, confirm, decide, elect, elected_anew, publish, tend, worth_reading,
    },
    store::{Compare, Op, Txn},
};

use crate::{
    fleet::{Fleet, go_down},
    mutations::Mutation,
    state::{Phase, Progress, State, accept, is_alive, name},
};

/// The elected task.
const TASK: &str = "t";

fn share(ok: bool) -> Share {
    Share { ok, body: String::new() }
}

/// Whether a transaction writes off a node that has said that it goes away.
fn writes_off_absent(state: &State, txn: &Txn) -> bool {
    let held = |value: &[u8]| serde_json::from_slice::<Held>(value).ok();
    txn.then.iter().any(|operation| match operation {
        Op::Put { key, value, .. } if key.starts_with("book/held/") => {
            let before = state.store.below(key).find(|row| row.key == *key).and_then(|row| held(&row.value));
            held(value).is_some_and(|held| held.kind == Kind::WrittenOff || held.lost)
                && before.is_some_and(|held| held.absent > 0)
        }
        _ => false,
    })
}

impl Fleet {
    fn view(&self, state: &State, node: usize, book: usize, late: bool) -> View {
        let spec = self.spec(state, node, book);
        let (revision, answers) = state.store.peek(&View::reading(spec, &name(node)));
        let mut view = View::of(spec, &name(node), revision, answers);
        view.soaked = late || spec.soak.is_zero();
        view.fallen = state.nodes[node].fallen;
        let last = |prefix: &str| -> BTreeSet<String> {
            state.store.below(prefix).map(|row| row.key[prefix.len()..].to_owned()).collect()
        };
        if let Some((restored, _)) = &view.restored {
            view.anew = last(&keys::all_anew(&restored.id));
        }
        if late {
            view.idle = true;
            view.stale = view.held.iter().map(|held| (held.node.clone(), held.modified)).collect();
            view.overdue = view.stale.clone();
        }
        if spec.on_lost != OnLost::Hold || view.restored.is_some() {
            view.lost = (0..self.nodes).filter(|other| !is_alive(&state.store, *other)).map(name).collect();
        }
        if let Some(stretch) = worth_reading(spec, &view) {
            view.names = Some((stretch, last(&keys::member_votes(&spec.run, stretch))));
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

    /// The rule that is left out, in what is about to be committed.
    fn mutated(&self, node: usize, mut txn: Txn) -> Txn {
        if let Some(mutation) = self.mutation {
            mutation.txn(&name(node), &mut txn);
        }
        txn
    }

    fn decided(&self, spec: &Spec, view: &View, node: usize, want: Want) -> Step {
        match decide(spec, view, &name(node), want) {
            Step::Commit(txn) => Step::Commit(self.mutated(node, txn)),
            other => other,
        }
    }

    fn tended(&self, spec: &Spec, view: &View, node: usize) -> Option<Txn> {
        if self.mutation == Some(Mutation::NobodyLooksAgain) {
            return None;
        }
        tend(spec, view, &name(node)).map(|txn| self.mutated(node, txn))
    }

    /// The stretch that is an elected task, whatever the waves make of it.
    pub fn elects_at(&self, spec: &Spec) -> Option<u32> {
        // Without its rule the stretch is not named as one.
        spec.elected.first().copied().or_else(|| {
            (self.mutation == Some(Mutation::ElectedHasWaves)).then(|| self.revisions[0][0].stretches() - 1)
        })
    }

    /// A node reads and decides. Gives nothing where that changes nothing.
    pub fn look(&self, state: &State, node: usize, book: usize, late: bool) -> Option<State> {
        let mut next = state.clone();
        if self.owes(&mut next, node) {
            return (next != *state).then_some(next);
        }
        let spec = self.spec(state, node, book).clone();
        let view = self.view(state, node, book, late);
        let progress = state.nodes[node].books[book].clone();
        if !spec.selects(&name(node)) {
            // Not a target any more: the new revision is applied, and what it held is given back.
            let own = &mut next.nodes[node];
            (own.books[book].away, own.books[book].failed) = (false, false);
            if let Step::Commit(txn) = self.decided(&spec, &view, node, Want::Leave) {
                own.pending = Some(txn);
            }
        } else if progress.stretch >= spec.stretches() {
            // Who is through sees to it that the run ends.
            next.nodes[node].pending = self.tended(&spec, &view, node);
        } else if self.elects_at(&spec) == Some(progress.stretch) {
            self.in_election(&mut next, node, book, &spec, &view);
        } else {
            self.in_stretch(&mut next, node, book, &spec, &view);
        }
        if !late && next.nodes[node].pending.as_ref().is_some_and(|txn| writes_off_absent(state, txn)) {
            next.broken = Some("who went away on purpose was taken for lost");
        }
        (next != *state).then_some(next)
    }

    /// What a node does first where the store has gone back; false where it owes nothing. A run that is on its way does
    /// that behind its task.
    fn owes(&self, next: &mut State, node: usize) -> bool {
        if self.mutation == Some(Mutation::NobodySaysAnew) {
            next.nodes[node].fallen = false;
        }
        let own = &next.nodes[node];
        let waits = |progress: &Progress| matches!(progress.phase, Phase::Idle | Phase::Failed);
        let view = self.view(next, node, 0, false);
        let known: u64 = self.revisions[own.at][0].generation;
        let there = next.store.below(keys::ACCEPTED).next();
        let stored = there.and_then(|row| serde_json::from_slice::<Accepted>(&row.value).ok()).unwrap_or_default();
        if stored.generation < known {
            // The disk wins: who holds the newer record of acceptance puts it back.
            let mut txn = accept(known);
            let key = keys::ACCEPTED.to_owned();
            txn.compare.push(there.map_or(Compare::Absent(key.clone()), |row| Compare::Revision(key, row.modified)));
            next.nodes[node].pending = Some(txn);
            return true;
        }
        if own.fallen {
            match announce(&view, &name(node), "r", None) {
                Some(txn) => next.nodes[node].pending = Some(txn),
                None => next.nodes[node].fallen = false,
            }
            return true;
        }
        if !view.owes(&name(node)) || !own.books.iter().all(waits) {
            return false;
        }
        let said = (0..self.books()).find_map(|book| self.anew(next, node, book));
        next.nodes[node].pending = said.or_else(|| confirm(&view, &name(node)));
        true
    }

    /// The next thing that a node says anew of a book.
    fn anew(&self, state: &State, node: usize, book: usize) -> Option<Txn> {
        let spec = self.spec(state, node, book);
        let progress = &state.nodes[node].books[book];
        let kind = if progress.failed { Kind::Failure } else { Kind::Claim };
        let own = Own {
            away: progress.away.then(|| (kind, spec.run.clone(), progress.stretch)),
            voted: (0..progress.stretch).collect(),
        };
        let view = self.view(state, node, book, false);
        anew(spec, &view, &name(node), &own).or_else(|| {
            let ran = progress.elected?.map(share);
            elected_anew(spec, &name(node), TASK, &spec.run, &self.record(state, spec), ran.as_ref())
        })
    }

    fn record(&self, state: &State, spec: &Spec) -> Record {
        Record::of(state.store.below(&keys::all_elected(&spec.book, TASK)), state.store.revision)
    }

    fn in_stretch(&self, next: &mut State, node: usize, book: usize, spec: &Spec, view: &View) {
        let progress = &next.nodes[node].books[book];
        let stretch = progress.stretch;
        let changes = (self.changes)(node, stretch);
        let want = match progress.phase {
            Phase::Idle if progress.away || changes => Want::Change(stretch),
            Phase::Idle => Want::Enter(stretch),
            Phase::Failed => Want::Change(stretch),
            Phase::Succeeded => Want::Done(stretch),
            Phase::Failing => Want::Failed(stretch),
            Phase::Leaving => Want::Absent(stretch, 600),
            Phase::In | Phase::Sharing(_) => return,
        };
        match self.decided(spec, view, node, want) {
            Step::Commit(txn) => next.nodes[node].pending = Some(txn),
            Step::Hold(hold) => {
                let claims = view
                    .held
                    .iter()
                    .any(|held| held.node == name(node) && held.book == spec.book && held.held.kind == Kind::Claim);
                if claims && !matches!(hold, Hold::Behind | Hold::Lease | Hold::Restored) {
                    next.broken = Some("a node waits while it holds a slot");
                }
                next.nodes[node].pending = self.tended(spec, view, node);
            }
            Step::Go => self.go(next, node, book, spec, view, want),
        }
    }

    fn go(&self, next: &mut State, node: usize, book: usize, spec: &Spec, view: &View, want: Want) {
        let progress = &mut next.nodes[node].books[book];
        match want {
            Want::Change(_) => {
                progress.phase = Phase::In;
                progress.away = true;
                let working = self.known(next).filter(|node| {
                    let books = node.books.iter().zip(&self.revisions[node.at]);
                    books.into_iter().any(|(it, of)| it.phase == Phase::In && it.away && of.group == spec.group)
                });
                if working.count() as u64 > self.allowed(next, &spec.group) {
                    next.broken = Some("more nodes change at one time than there are slots and failures");
                }
            }
            Want::Enter(_) => progress.phase = Phase::Succeeded,
            Want::Done(_) => {
                let elected = progress.elected;
                let stretch = progress.stretch + 1;
                *progress = Progress { stretch, elected, ..Progress::default() };
                next.nodes[node].pending = self.tended(spec, view, node);
            }
            Want::Failed(_) => {
                progress.phase = Phase::Failed;
                progress.failed = true;
                if self.mutation != Some(Mutation::FailuresOpenNothing) {
                    next.nodes[node].pending = self.tended(spec, view, node);
                }
            }
            Want::Absent(..) => go_down(&mut next.nodes[node]),
            Want::Correct | Want::Leave => {}
        }
    }

    fn in_election(&self, next: &mut State, node: usize, book: usize, spec: &Spec, view: &View) {
        let progress = &next.nodes[node].books[book];
        let stretch = progress.stretch;
        if let Phase::Sharing(ok) = progress.phase {
            let record = self.record(next, spec);
            if record.share_of(&spec.run, &name(node)) == Some(&share(ok)) {
                next.nodes[node].books[book].phase = if ok { Phase::Succeeded } else { Phase::Failing };
            } else {
                let txn = publish(spec, &name(node), TASK, &spec.run, &record, &share(ok));
                next.nodes[node].pending = Some(txn);
            }
            return;
        }
        if !matches!(progress.phase, Phase::Idle | Phase::Failed) {
            return self.in_stretch(next, node, book, spec, view);
        }
        if let Step::Hold(_) = self.decided(spec, view, node, Want::Enter(stretch)) {
            next.nodes[node].pending = self.tended(spec, view, node);
            return;
        }
        let record = self.record(next, spec);
        let mut of = spec.clone();
        if self.mutation == Some(Mutation::RemovedStaysElected) {
            of.late = (0..self.nodes).map(name).collect();
        }
        let me = name(node);
        let candidacy = Candidacy {
            spec: &of,
            me: &me,
            task: TASK,
            definition: &spec.run,
            eligible: (self.eligible)(node),
            count: self.elects,
            lost: &view.lost.iter().cloned().collect::<Vec<_>>(),
        };
        match elect(&record, view, &candidacy) {
            ElectStep::Commit(txn) => next.nodes[node].pending = Some(txn),
            ElectStep::Behind | ElectStep::Settled(Election::Wait(_)) => {
                next.nodes[node].pending = self.tended(spec, view, node);
            }
            ElectStep::Settled(Election::Run) => {
                next.began.insert((spec.run.clone(), node));
                let progress = &mut next.nodes[node].books[book];
                progress.phase = Phase::In;
                progress.elected = Some(None);
            }
            // A failure is the result for all: they wait until it is none any more.
            ElectStep::Settled(Election::Results(results)) if results.values().all(|share| share.ok) => {
                next.nodes[node].books[book].phase = Phase::Succeeded;
            }
            ElectStep::Settled(Election::Results(_)) => {
                next.nodes[node].pending = self.tended(spec, view, node);
            }
        }
    }
}
