//! What is due, and is done by whoever sees it first: openings, offers that nobody takes, free slots, and nodes that
//! are lost. So no single crash stops a run.

use super::{
    Cut, Entry, Held, HeldBy, Kind, OnLost, Opening, Spec, View,
    decide::{bytes, delete, replace},
    offer::{offer_free, offer_on},
};
use crate::{
    keys,
    store::{Compare, Op, Txn},
};

/// The next transaction that is due, if any. Only who is at the accepted revision lets anybody in or on, and where the
/// store has gone back only once all have said anew what they hold.
pub fn tend(spec: &Spec, view: &View, me: &str) -> Option<Txn> {
    let accepted = view.current(spec).filter(|_| !view.owes(me))?;
    let Some(unmoved) = view.lets_in(spec) else { return lost_since(spec, view, accepted) };
    open(spec, view, &unmoved)
        .or_else(|| end_restoration(&spec.known, view))
        .or_else(|| give_up(spec, view, me, &unmoved))
        .or_else(|| lost(spec, view, me, &unmoved))
        .or_else(|| clear_queue(spec, view, &unmoved))
        .or_else(|| offer_free(spec, view, me, unmoved))
}

/// Everybody has said anew what it holds: the store is whole again.
pub fn end_restoration(known: &[String], view: &View) -> Option<Txn> {
    let (restored, _) = view.restored.as_ref()?;
    // Who was written off in this book may still owe something to another.
    known.iter().all(|node| view.anew.contains(node)).then(|| Txn {
        compare: view.same_restore(),
        then: vec![Op::DeleteAll(keys::ALL_RESTORED.to_owned()), Op::DeleteAll(keys::all_anew(&restored.id))],
        otherwise: Vec::new(),
    })
}

/// The store has gone back, and somebody who has not said anew what it holds is lost: under `skip` the run goes on
/// without it, whatever it held.
fn lost_since(spec: &Spec, view: &View, accepted: u64) -> Option<Txn> {
    view.restored.as_ref()?;
    let may = spec.on_lost == OnLost::Skip && !view.fallen && view.written_off(spec) < spec.count.unwrap_or(1);
    let silent = |node: &&String| {
        let gone = |held: &HeldBy| held.node == **node && held.book == spec.book && held.held.kind == Kind::WrittenOff;
        view.lost.contains(*node) && !view.anew.contains(*node) && !view.held.iter().any(gone)
    };
    let node = spec.known.iter().filter(|_| may).find(silent)?;
    let record = view.held.iter().find(|held| held.node == *node && held.book == spec.book);
    let gone = Held {
        kind: Kind::WrittenOff,
        run: spec.run.clone(),
        stretch: record.map_or(0, |record| record.held.stretch),
        generation: spec.generation,
        lost: false,
        absent: 0,
    };
    let mut txn = match record {
        Some(record) => replace(spec, record, &gone),
        None => {
            let key = keys::held(&spec.group, spec.part(node), &spec.book, node);
            Txn {
                compare: vec![Compare::Absent(key.clone())],
                then: vec![Op::put(key, bytes(&gone))],
                otherwise: Vec::new(),
            }
        }
    };
    txn.compare.push(Compare::Absent(keys::alive(node)));
    txn.compare.push(Compare::Revision(keys::ACCEPTED.to_owned(), accepted));
    txn.compare.extend(view.same_restore());
    Some(txn)
}

/// Who has come to the end of a stretch, as far as is known.
fn through(spec: &Spec, view: &View, stretch: u32, wave: u32) -> bool {
    let Some((_, names)) = view.names.as_ref().filter(|(of, _)| *of == stretch) else { return false };
    let came = |node: &str| {
        names.contains(node)
            || view.held.iter().any(|held| {
                held.node == node
                    && held.book == spec.book
                    && held.held.run == spec.run
                    // As "come" counts only a failure in this run.
                    && match held.held.kind {
                        Kind::Failure => true,
                        Kind::WrittenOff => true,
                        Kind::Lost => spec.on_lost != OnLost::Hold,
                        Kind::Claim => held.held.lost && spec.on_lost == OnLost::Fail,
                        Kind::Offer => false,
                    }
            })
    };
    view.failures(spec) <= spec.max_failures && spec.up_to(wave).all(came)
}

/// The stretch and the wave that may be complete, judged by numbers alone: then the names are worth reading.
pub fn worth_reading(spec: &Spec, view: &View) -> Option<u32> {
    frontier(spec, view).into_iter().find_map(|(stretch, wave)| {
        let others = view.held.iter().filter(|held| held.book == spec.book && held.held.kind != Kind::Offer).count()
            + view.lost.iter().filter(|node| spec.is_member(node)).count();
        let needed = spec.up_to(wave).count() as u64;
        let votes = view.votes.get(stretch as usize).copied().unwrap_or(0);
        (votes + others as u64 >= needed).then_some(stretch)
    })
}

/// The waves whose end opens something: of each stretch that is open the last open wave.
pub fn frontier(spec: &Spec, view: &View) -> Vec<(u32, u32)> {
    if view.done(spec) {
        return Vec::new();
    }
    let mut found = Vec::new();
    for stretch in 0..spec.stretches() {
        let open = view.open_waves(spec, stretch);
        if open == 0 {
            break;
        }
        let last = open >= spec.waves;
        let next_is_open = view.open_waves(spec, stretch + 1) > 0 && stretch + 1 < spec.stretches();
        if !last || !next_is_open {
            found.push((stretch, open.min(spec.waves) - 1));
        }
    }
    found
}

/// The next opening: a wave, a stretch behind a barrier, or the end of the run.
fn open(spec: &Spec, view: &View, unmoved: &[Compare]) -> Option<Txn> {
    let (stretch, wave) = complete(spec, view)?;
    let mut waves: Vec<u32> = (0..spec.stretches()).map(|stretch| view.open_waves(spec, stretch)).collect();
    let mut done = false;
    if wave + 1 < spec.waves {
        if !view.soaked {
            return None;
        }
        *waves.get_mut(stretch as usize)? = wave + 2;
    } else if stretch + 1 < spec.stretches() {
        if spec.cuts.get(stretch as usize) != Some(&Cut::Barrier) {
            return None;
        }
        *waves.get_mut(stretch as usize + 1)? = spec.open_at_once(stretch + 1);
    } else {
        // The last stretch is through; those behind passages must be too.
        done = true;
    }
    let key = keys::opening(&spec.book);
    let (compare, before) = match &view.opening {
        Some((old, modified)) => (
            Compare::Revision(key.clone(), *modified),
            if old.run == spec.run { old.before.clone() } else { old.run.clone() },
        ),
        None => (Compare::Absent(key.clone()), String::new()),
    };
    let opening = Opening { run: spec.run.clone(), generation: spec.generation, waves, done, before: before.clone() };
    let mut then = vec![Op::put(key, bytes(&opening))];
    if done && !before.is_empty() && before != spec.run {
        // Records of a finished run go when its successor ends.
        then.push(Op::DeleteAll(keys::run_votes(&before)));
    }
    let compare = unmoved.iter().cloned().chain([compare]).collect();
    Some(Txn { compare, then, otherwise: Vec::new() })
}

/// Offers that are void, or that nobody took in time, and what nodes hold that git no longer knows.
fn give_up(spec: &Spec, view: &View, me: &str, unmoved: &[Compare]) -> Option<Txn> {
    let stale = |held: &&HeldBy| {
        let unknown = !spec.known.contains(&held.node);
        let offer = held.held.kind == Kind::Offer
            && held.node != me
            && (held.held.generation != spec.generation
                || view.lost.contains(&held.node)
                || view.stale.contains(&(held.node.clone(), held.modified)));
        // Who is no target any more does not count as lost.
        let left = held.held.kind == Kind::Lost && held.book == spec.book && !spec.selects(&held.node);
        unknown || offer || left
    };
    let held = view.held.iter().find(stale)?;
    let mut txn = delete(spec, held);
    txn.compare.extend(unmoved.iter().cloned());
    txn.then.push(Op::Delete(keys::offer_notice(&held.node, &spec.group)));
    offer_on(spec, view, me, held, None, &mut txn);
    if !spec.known.contains(&held.node) {
        // Nothing of it is asked for any more.
        txn.then.push(Op::DeleteAll(keys::inbox(&held.node)));
    }
    Some(txn)
}

/// What is said of a node that is lost: in one transaction that finds its lease gone and its record unchanged.
fn lost(spec: &Spec, view: &View, me: &str, unmoved: &[Compare]) -> Option<Txn> {
    if spec.on_lost == OnLost::Hold || view.done(spec) {
        return None;
    }
    view.lost.iter().find_map(|node| {
        let record = view.held.iter().find(|held| held.node == *node && held.book == spec.book);
        let mut txn = match record {
            Some(held) if held.held.kind == Kind::Claim && view.is_away_on_purpose(held) => return None,
            Some(held) if held.held.kind == Kind::Claim && !held.held.lost => match spec.on_lost {
                OnLost::Skip if view.written_off(spec) < spec.count.unwrap_or(1) => {
                    let gone = Held { kind: Kind::WrittenOff, run: spec.run.clone(), ..held.held.clone() };
                    let mut txn = replace(spec, held, &gone);
                    offer_on(spec, view, me, held, Some(&gone), &mut txn);
                    txn
                }
                OnLost::Fail => replace(spec, held, &Held { lost: true, run: spec.run.clone(), ..held.held.clone() }),
                _ => return None,
            },
            Some(_) => return None,
            None if missing(spec, view, node) => {
                let key = keys::held(&spec.group, spec.part(node), &spec.book, node);
                let lost = Held {
                    kind: Kind::Lost,
                    run: spec.run.clone(),
                    stretch: 0,
                    generation: spec.generation,
                    lost: false,
                    absent: 0,
                };
                Txn {
                    compare: vec![Compare::Absent(key.clone())],
                    then: vec![Op::put(key, bytes(&lost))],
                    otherwise: Vec::new(),
                }
            }
            None => return None,
        };
        txn.compare.push(Compare::Absent(keys::alive(node)));
        txn.compare.extend(unmoved.iter().cloned());
        Some(txn)
    })
}

/// Whether a member is known not to have come to the end of a stretch that others wait at.
fn missing(spec: &Spec, view: &View, node: &str) -> bool {
    spec.is_member(node)
        && view.names.as_ref().is_some_and(|(stretch, names)| {
            frontier(spec, view).iter().any(|(open, _)| open == stretch) && !names.contains(node)
        })
}

/// The wave that is complete and opens the next once it has held for the soak.
pub fn complete(spec: &Spec, view: &View) -> Option<(u32, u32)> {
    frontier(spec, view).into_iter().find(|(stretch, wave)| through(spec, view, *stretch, *wave))
}

/// Places in the queue that nobody will ever be let in from: of nodes that are no targets, of runs that are over.
/// Who still wants a slot queues anew.
fn clear_queue(spec: &Spec, view: &View, unmoved: &[Compare]) -> Option<Txn> {
    let over = |entry: &&Entry| {
        let drift = entry.queued.run.ends_with("!drift");
        entry.book == spec.book
            && (!spec.selects(&entry.node)
                || entry.queued.run != spec.run && !drift
                || spec.part(&entry.node) != entry.part
                || view.lost.contains(&entry.node))
    };
    let entry = view.queue.iter().find(over)?;
    let key = keys::queue(&spec.group, &entry.part, &entry.book, &entry.node);
    let compare = unmoved.iter().cloned().chain([Compare::Revision(key.clone(), entry.modified)]).collect();
    Some(Txn { compare, then: vec![Op::Delete(key)], otherwise: Vec::new() })
}
