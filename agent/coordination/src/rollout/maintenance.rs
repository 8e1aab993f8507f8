//! Does the maintenance of a run: opens waves, withdraws and makes offers, and writes off lost nodes. Any node may do
//! the maintenance, so that the crash of a node does not stop a run (P73).

use super::{
    Cut, Entry, OnLost, RolloutProgress, RolloutSpec, RunSnapshot, SlotEntry, SlotRecord, SlotState,
    offer::{offer_free, offer_on},
    slots::{bytes, delete, replace},
};
use crate::{
    keys,
    store::{Compare, Op, Txn},
};

/// Returns the transaction of the first maintenance step that is due. `None` if nothing is due. Only a node that has
/// loaded the accepted revision may offer slots or open waves. During a recovery, no slot is offered and no wave opens
/// until all nodes have republished their claims or are written off.
pub fn next_maintenance(spec: &RolloutSpec, snapshot: &RunSnapshot, own_node: &str) -> Option<Txn> {
    let accepted = snapshot.current(spec).filter(|_| !snapshot.needs_republish(own_node))?;
    let Some(guards) = snapshot.admission_guards(spec) else { return lost_since(spec, snapshot, accepted) };
    open(spec, snapshot, &guards)
        .or_else(|| end_recovery(&spec.known, snapshot))
        .or_else(|| give_up(spec, snapshot, own_node, &guards))
        .or_else(|| lost(spec, snapshot, own_node, &guards))
        .or_else(|| clear_queue(spec, snapshot, &guards))
        .or_else(|| offer_free(spec, snapshot, own_node, guards))
}

/// Returns the transaction that ends a recovery. `None` until every node in `known` has republished its claims (P17).
pub fn end_recovery(known: &[String], snapshot: &RunSnapshot) -> Option<Txn> {
    let (restored, _) = snapshot.recovery.as_ref()?;
    // A node that was written off in this book may still have to republish its claims in another book.
    known.iter().all(|node| snapshot.acknowledged.contains(node)).then(|| Txn {
        compare: snapshot.same_recovery(),
        then: vec![
            Op::DeleteAll(keys::ALL_RECOVERIES.to_owned()),
            Op::DeleteAll(keys::all_recovery_acks(&restored.id)),
        ],
        otherwise: Vec::new(),
    })
}

/// Returns the transaction that writes off a lost node during a recovery, because the node has not republished its
/// claims. `None` if `onLostNode` of the book is not `skip` (P17).
fn lost_since(spec: &RolloutSpec, snapshot: &RunSnapshot, accepted: u64) -> Option<Txn> {
    snapshot.recovery.as_ref()?;
    let may =
        spec.on_lost == OnLost::Skip && !snapshot.rolled_back && snapshot.written_off(spec) < spec.count.unwrap_or(1);
    let silent = |node: &&String| {
        let gone =
            |held: &SlotEntry| held.node == **node && held.book == spec.book && held.held.kind == SlotState::WrittenOff;
        snapshot.lost.contains(*node) && !snapshot.acknowledged.contains(*node) && !snapshot.held.iter().any(gone)
    };
    let node = spec.known.iter().filter(|_| may).find(silent)?;
    let record = snapshot.held.iter().find(|held| held.node == *node && held.book == spec.book);
    let gone = SlotRecord {
        kind: SlotState::WrittenOff,
        run: spec.run.clone(),
        segment: record.map_or(0, |record| record.held.segment),
        accepted: spec.accepted.clone(),
        lost: false,
        absent: 0,
    };
    let mut txn = match record {
        Some(record) => replace(spec, record, &gone),
        None => {
            let key = keys::held(&spec.budget, spec.partition(node), &spec.book, node);
            Txn {
                compare: vec![Compare::Absent(key.clone())],
                then: vec![Op::put(key, bytes(&gone))],
                otherwise: Vec::new(),
            }
        }
    };
    // Two nodes that write off different nodes at the same time would exceed the limit of write-offs.
    txn.compare.push(Compare::NoneNewer(keys::all_held(&spec.budget), snapshot.revision));
    txn.compare.push(Compare::Absent(keys::alive(node)));
    txn.compare.push(Compare::Revision(keys::ACCEPTED.to_owned(), accepted));
    txn.compare.extend(snapshot.same_recovery());
    Some(txn)
}

/// Returns true if all members in the waves 0 to `wave` have completed a segment. Returns false if the snapshot does
/// not contain the names of the voters.
fn wave_is_complete(spec: &RolloutSpec, snapshot: &RunSnapshot, segment: u32, wave: u32) -> bool {
    let Some((_, names)) = snapshot.names.as_ref().filter(|(of, _)| *of == segment) else { return false };
    let has_completed = |node: &str| {
        let excused = |held: &SlotEntry| held.node == node && snapshot.is_excused(spec, held);
        names.contains(node) || snapshot.held.iter().any(excused)
    };
    (spec.fail_after_all || !has_failed(spec, snapshot)) && spec.up_to(wave).all(has_completed)
}

/// Returns true if more than `max_failures` nodes of this book have failed. The function does not count failures of
/// other books in the same budget, because failures of other books do not block the waves of this book.
fn has_failed(spec: &RolloutSpec, snapshot: &RunSnapshot) -> bool {
    snapshot.own_failures(spec) > spec.max_failures
}

/// Returns an open segment whose number of votes is enough to complete the last open wave. The caller must then read
/// the names of the voters of the returned segment, to decide whether the wave is complete.
pub fn segment_to_inspect(spec: &RolloutSpec, snapshot: &RunSnapshot) -> Option<u32> {
    frontier(spec, snapshot).into_iter().find_map(|(segment, wave)| {
        let others =
            snapshot.held.iter().filter(|held| held.book == spec.book && held.held.kind != SlotState::Offer).count()
                + snapshot.lost.iter().filter(|node| spec.is_member(node)).count();
        let needed = spec.up_to(wave).count() as u64;
        let votes = snapshot.votes.get(segment as usize).copied().unwrap_or(0);
        (votes + others as u64 >= needed).then_some(segment)
    })
}

/// Returns each open segment with its last open wave. The result leaves out a segment if all its waves are open and the
/// next segment is open too.
pub fn frontier(spec: &RolloutSpec, snapshot: &RunSnapshot) -> Vec<(u32, u32)> {
    if snapshot.done(spec) {
        return Vec::new();
    }
    let mut found = Vec::new();
    for segment in 0..spec.segments() {
        let open = snapshot.open_waves(spec, segment);
        if open == 0 {
            break;
        }
        let last = open >= spec.waves;
        let next_is_open = snapshot.open_waves(spec, segment + 1) > 0 && segment + 1 < spec.segments();
        if !last || !next_is_open {
            found.push((segment, open.min(spec.waves) - 1));
        }
    }
    found
}

/// After the completion of a wave, returns the transaction that opens the next wave, opens the segment after a barrier,
/// or completes the run (P72).
fn open(spec: &RolloutSpec, snapshot: &RunSnapshot, guards: &[Compare]) -> Option<Txn> {
    let (segment, wave) = complete(spec, snapshot)?;
    let mut waves: Vec<u32> = (0..spec.segments()).map(|segment| snapshot.open_waves(spec, segment)).collect();
    let mut done = false;
    if wave + 1 < spec.waves {
        if !snapshot.soaked {
            return None;
        }
        *waves.get_mut(segment as usize)? = wave + 2;
    } else if segment + 1 < spec.segments() {
        if spec.cuts.get(segment as usize) != Some(&Cut::Barrier) {
            return None;
        }
        *waves.get_mut(segment as usize + 1)? = spec.open_at_once(segment + 1);
    } else {
        // With `failAfterAllTargetsRan`, too many failures stop the run only at its end.
        if has_failed(spec, snapshot) {
            return None;
        }
        // Each node completes the segments in order, so all earlier segments are complete too.
        done = true;
    }
    let key = keys::progress(&spec.book);
    let (compare, before) = match &snapshot.progress {
        Some((old, modified)) => (
            Compare::Revision(key.clone(), *modified),
            if old.run == spec.run { old.before.clone() } else { old.run.clone() },
        ),
        None => (Compare::Absent(key.clone()), String::new()),
    };
    let progress =
        RolloutProgress { run: spec.run.clone(), accepted: spec.accepted.clone(), waves, done, before: before.clone() };
    let mut then = vec![Op::put(key, bytes(&progress))];
    if done && !before.is_empty() && before != spec.run {
        // The votes of the preceding run are deleted when this run completes (P10).
        then.push(Op::DeleteAll(keys::run_votes(&before)));
    }
    let compare = guards.iter().cloned().chain([compare]).collect();
    Some(Txn { compare, then, otherwise: Vec::new() })
}

/// Returns the transaction that withdraws a void or old offer (P57), or removes the slot record of a node that was
/// removed from git (P50).
fn give_up(spec: &RolloutSpec, snapshot: &RunSnapshot, own_node: &str, guards: &[Compare]) -> Option<Txn> {
    let stale = |held: &&SlotEntry| {
        let unknown = !spec.known.contains(&held.node);
        let offer = held.held.kind == SlotState::Offer
            && held.node != own_node
            && (held.held.accepted != spec.accepted
                || snapshot.lost.contains(&held.node)
                || snapshot.stale.contains(&(held.node.clone(), held.modified)));
        // A lost node that is no longer a target does not count as lost, and after a change of `onLostNode` it does not
        // count as failed.
        let is_over = !spec.selects(&held.node) || held.held.lost && spec.on_lost != OnLost::Fail;
        let left = held.held.kind == SlotState::Lost && held.book == spec.book && is_over;
        unknown || offer || left
    };
    let held = snapshot.held.iter().find(stale)?;
    let mut txn = delete(spec, held);
    txn.compare.extend(guards.iter().cloned());
    txn.then.push(Op::Delete(keys::offer_notice(&held.node, &spec.budget)));
    offer_on(spec, snapshot, own_node, held, None, &mut txn);
    if !spec.known.contains(&held.node) {
        // The inbox of a removed node is not needed any more.
        txn.then.push(Op::DeleteAll(keys::inbox(&held.node)));
    }
    Some(txn)
}

/// Returns the transaction that records a node as lost. The transaction fails if the lost node has a lease, or if the
/// node's slot record has changed since the snapshot (P58).
fn lost(spec: &RolloutSpec, snapshot: &RunSnapshot, own_node: &str, guards: &[Compare]) -> Option<Txn> {
    if spec.on_lost == OnLost::Hold || snapshot.done(spec) {
        return None;
    }
    snapshot.lost.iter().find_map(|node| {
        let record = snapshot.held.iter().find(|held| held.node == *node && held.book == spec.book);
        let mut txn = match record {
            Some(held) => {
                let lost = as_lost(spec, snapshot, held)?;
                let mut txn = replace(spec, held, &lost);
                if lost.kind == SlotState::WrittenOff {
                    // Two nodes that write off different nodes at the same time would exceed the limit of write-offs.
                    txn.compare.push(Compare::NoneNewer(keys::all_held(&spec.budget), snapshot.revision));
                }
                if lost.kind != held.held.kind {
                    offer_on(spec, snapshot, own_node, held, Some(&lost), &mut txn);
                }
                txn
            }
            None => {
                let key = keys::held(&spec.budget, spec.partition(node), &spec.book, node);
                let lost = SlotRecord {
                    kind: SlotState::Lost,
                    run: spec.run.clone(),
                    segment: 0,
                    accepted: spec.accepted.clone(),
                    lost: spec.on_lost == OnLost::Fail,
                    absent: 0,
                };
                // A node that votes at the same time is not lost before its vote.
                let vote = keys::vote(&spec.run, missing(spec, snapshot, node)?, true, node);
                Txn {
                    compare: vec![Compare::Absent(key.clone()), Compare::Absent(vote)],
                    then: vec![Op::put(key, bytes(&lost))],
                    otherwise: Vec::new(),
                }
            }
        };
        txn.compare.push(Compare::Absent(keys::alive(node)));
        txn.compare.extend(guards.iter().cloned());
        Some(txn)
    })
}

/// Returns the new slot record of a lost node, which replaces the record `held`. `None` if the record needs no change.
/// The new record belongs to the current run, so that this run continues without the lost node.
fn as_lost(spec: &RolloutSpec, snapshot: &RunSnapshot, held: &SlotEntry) -> Option<SlotRecord> {
    let fails = spec.on_lost == OnLost::Fail;
    // The segments of an earlier run are not those of this run.
    let segment = if held.held.run == spec.run { held.held.segment } else { 0 };
    let of_run = SlotRecord { run: spec.run.clone(), segment, lost: fails, ..held.held.clone() };
    let earlier = held.held.run != spec.run && spec.is_member(&held.node);
    match held.held.kind {
        SlotState::Offer => None,
        SlotState::Claim if snapshot.is_away_on_purpose(held) => None,
        // A failed node is half changed, too, so it is written off under the same limit (P60).
        SlotState::Claim | SlotState::Failure if spec.on_lost == OnLost::Skip => {
            let allowed = snapshot.written_off(spec) < spec.count.unwrap_or(1);
            allowed.then_some(SlotRecord { kind: SlotState::WrittenOff, lost: false, ..of_run })
        }
        SlotState::Claim => (!held.held.lost || earlier).then_some(of_run),
        SlotState::Failure | SlotState::Lost => earlier.then_some(of_run),
        SlotState::WrittenOff => earlier.then_some(SlotRecord { lost: false, ..of_run }),
        // The node has changed nothing, so it is lost without a claim.
        SlotState::Unadmitted => Some(SlotRecord { kind: SlotState::Lost, ..of_run }),
    }
}

/// Returns the open segment for which the member `node` has not voted, so that other nodes wait for the member.
fn missing(spec: &RolloutSpec, snapshot: &RunSnapshot, node: &str) -> Option<u32> {
    let (segment, _) = snapshot.names.as_ref().filter(|(_, names)| spec.is_member(node) && !names.contains(node))?;
    frontier(spec, snapshot).iter().any(|(open, _)| open == segment).then_some(*segment)
}

/// Returns the segment and the number of the last open wave, if the wave is complete. The next wave opens after the
/// soak time (P71).
pub fn complete(spec: &RolloutSpec, snapshot: &RunSnapshot) -> Option<(u32, u32)> {
    frontier(spec, snapshot).into_iter().find(|(segment, wave)| wave_is_complete(spec, snapshot, *segment, *wave))
}

/// Returns the transaction that removes an outdated queue entry. A queue entry is outdated if its node is lost, is not
/// a target or has another partition, or if the entry belongs to another run. A node that still needs a slot queues
/// again.
fn clear_queue(spec: &RolloutSpec, snapshot: &RunSnapshot, guards: &[Compare]) -> Option<Txn> {
    let over = |entry: &&Entry| {
        let drift = entry.queued.run.ends_with("!drift");
        entry.book == spec.book
            && (!spec.selects(&entry.node)
                || entry.queued.run != spec.run && !drift
                || spec.partition(&entry.node) != entry.partition
                || snapshot.lost.contains(&entry.node))
    };
    let entry = snapshot.queue.iter().find(over)?;
    let key = keys::queue(&spec.budget, &entry.partition, &entry.book, &entry.node);
    let compare = guards.iter().cloned().chain([Compare::Revision(key.clone(), entry.modified)]).collect();
    Some(Txn { compare, then: vec![Op::Delete(key)], otherwise: Vec::new() })
}
