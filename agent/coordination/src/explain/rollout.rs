//! The state of a run that the command `rollouts` shows: progress, nodes, and the gates that block the run.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    LostNodes, Situation, barrier, behind, failure, halted, hidden_claims, listed, loaded, restored, since, slot,
    start, stranger,
};
use crate::{
    AcceptedId, Gate, GateReason,
    rollout::{Cut, Entry, OnLost, RolloutSpec, RunSnapshot, SlotEntry, SlotState, frontier},
};

/// The state of a run, as the command `rollouts` shows it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rollout {
    /// The phase of the run: waiting, running, halted or done.
    pub phase: &'static str,
    /// The number of the first segment that is not complete, counted from 1.
    pub segment: u32,
    /// The number of segments of the run.
    pub segments: u32,
    /// The number of the last open wave in the first incomplete segment, counted from 1.
    pub wave: u32,
    /// The number of waves of the run.
    pub waves: u32,
    /// The number of nodes that the run waits for, including the nodes that have completed the run.
    pub total: u64,
    /// The number of nodes that have completed the run.
    pub done: u64,
    /// The lost nodes that the run has written off.
    pub skipped: Vec<String>,
    /// The failed nodes, with their error messages.
    pub failed: Vec<FailedNode>,
    /// The nodes that hold a slot or were offered a slot.
    pub holding: Vec<Holder>,
    /// The nodes that wait for a slot, in the order of the queue.
    pub waiting: Vec<String>,
    /// The gates that block the run.
    pub blocked: Vec<Gate>,
}

/// A node that has failed in a run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FailedNode {
    /// The name of the failed node.
    pub node: String,
    /// The error message of the failed node.
    pub message: String,
}

/// A node that holds a slot, or that was offered a slot.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Holder {
    /// The name of the node that holds the slot.
    pub node: String,
    /// The time at which a node wrote the slot record, by the clock of that node. Unit: milliseconds since 1970.
    pub since: Option<i64>,
    /// The liveness of the node: alive, suspect, lost, left or unknown.
    pub liveness: &'static str,
}

/// The liveness of a node, as the reporting node sees it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Liveness {
    /// The liveness as one word: alive, suspect, lost, left or unknown.
    pub word: &'static str,
    /// The time since which the node is lost, in milliseconds since 1970. `None` if the node is not lost.
    pub lost_since: Option<i64>,
}

impl Liveness {
    /// Returns true if the node is lost or has left.
    pub fn is_lost(self) -> bool {
        matches!(self.word, "lost" | "left")
    }
}

/// The fields of a node's published state that explain why a run waits for the node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeReport {
    /// The acceptance that the node has loaded.
    pub accepted: AcceptedId,
    /// The gates that the node has found closed for the book, and that no other node can evaluate.
    pub gates: Vec<Gate>,
}

/// The data from which a node computes the state of a run, for all budgets of the book.
#[derive(Debug)]
pub(crate) struct Observed<'a> {
    /// The rollouts of the book. The first rollout uses the budget of the book. Each further rollout uses the budget of
    /// one task.
    pub specs: &'a [&'a RolloutSpec],
    /// The snapshot of the rollout that uses the budget of the book. The snapshot also names the nodes that have voted
    /// in the first incomplete segment.
    pub snapshot: RunSnapshot,
    /// The slot records in all budgets. Each slot record has the index of its budget in `specs`.
    pub held: Vec<(usize, SlotEntry)>,
    /// The queue entries in all budgets, oldest first. Each queue entry has the index of its budget in `specs`.
    pub queue: Vec<(usize, Entry)>,
    /// The time at which this run last opened a wave, in milliseconds since 1970. `None` if the run has not opened a
    /// wave yet.
    pub opened: Option<i64>,
    /// The elected tasks whose elected node has not published a result.
    pub elected: Vec<OpenElection>,
    /// The liveness of each node of the run.
    pub liveness: BTreeMap<String, Liveness>,
    /// The published states of the members of the run.
    pub reports: &'a BTreeMap<String, NodeReport>,
    /// The members of the run that the fleet rejects, each with the public keys of the member.
    pub rejected: BTreeMap<String, Vec<String>>,
    /// The time since which gossip reports slots that the store does not contain, in milliseconds since 1970.
    pub hidden: Option<i64>,
    /// The time since which this node has not loaded the accepted generation, in milliseconds since 1970.
    pub behind: Option<i64>,
    /// The time at which this node accepted the generation of the rollouts, in milliseconds since 1970.
    pub accepted: Option<i64>,
}

/// A task whose elected node has not published a result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OpenElection {
    /// The id of the task.
    pub task: String,
    /// The name of the elected node.
    pub node: String,
    /// The time at which the node was elected, by the clock of the node. Unit: milliseconds since 1970.
    pub since: Option<i64>,
}

impl Observed<'_> {
    fn lost(&self) -> LostNodes {
        let lost = self.liveness.iter().filter(|(_, liveness)| liveness.is_lost());
        lost.map(|(node, liveness)| (node.clone(), liveness.lost_since)).collect()
    }

    /// Returns a copy of a snapshot with all slot records of a budget, including the records of other books.
    fn in_budget(&self, spec: &RolloutSpec, snapshot: &RunSnapshot) -> RunSnapshot {
        let is_in = |index: &usize| self.specs.get(*index).is_some_and(|other| other.budget == spec.budget);
        let held = self.held.iter().filter(|(index, _)| is_in(index)).map(|(_, held)| held.clone()).collect();
        RunSnapshot { held, ..snapshot.clone() }
    }

    /// Returns the time at which the run began. `None` if this node no longer knows the time, because it has accepted a
    /// later generation.
    fn began(&self, spec: &RolloutSpec) -> Option<i64> {
        self.accepted.filter(|_| spec.run.starts_with(&format!("{}@{}.", spec.book, spec.accepted.generation)))
    }

    fn word(&self, node: &str) -> &'static str {
        self.liveness.get(node).map_or("unknown", |liveness| liveness.word)
    }
}

/// Returns the state of a run, as the command `rollouts` shows it.
pub(crate) fn report(observed: &Observed<'_>) -> Rollout {
    let Some(spec) = observed.specs.first().copied() else { return Rollout::default() };
    let lost = observed.lost();
    let own: Vec<SlotEntry> =
        observed.held.iter().map(|(_, held)| held).filter(|held| held.book == spec.book).cloned().collect();
    let snapshot = RunSnapshot { held: own.clone(), lost: lost.keys().cloned().collect(), ..observed.snapshot.clone() };
    let budgets: Vec<RunSnapshot> = observed.specs.iter().map(|spec| observed.in_budget(spec, &snapshot)).collect();
    let halts = |(spec, budget): &(&&RolloutSpec, &RunSnapshot)| {
        budget.halted(spec) || budget.holder_beyond_budget(spec).is_some()
    };
    let halting = observed.specs.iter().zip(&budgets).find(halts);
    let situation = Situation { spec, snapshot: &snapshot, lost: &lost };
    let ended = snapshot.done(spec);
    let at = frontier(spec, &snapshot).first().copied();
    let last = (spec.segments().saturating_sub(1), spec.waves.saturating_sub(1));
    let (segment, wave) = at.unwrap_or(last);
    let names = snapshot.names.clone().filter(|(of, _)| *of == segment).map(|(_, names)| names).unwrap_or_default();
    let missing = members_missing(spec, &snapshot, &names, wave);
    let too_many = budgets.first().is_some_and(|budget| budget.own_failures(spec) > spec.max_failures);
    let all_ran = spec.fail_after_all && too_many && (segment, wave) == last && missing.is_empty();
    let is_halted = !ended && (halting.is_some() || all_ran);
    let holding: Vec<Holder> = own
        .iter()
        .filter(super::has_slot)
        .map(|held| Holder { node: held.node.clone(), since: held.note.at, liveness: observed.word(&held.node) })
        .collect();
    let begun = !own.is_empty() || !observed.elected.is_empty() || snapshot.votes.iter().any(|votes| *votes > 0);
    let mut blocked = Vec::new();
    // The nodes whose loss is already explained by a gate. Later gates do not explain that loss again.
    let mut named: BTreeSet<String> = BTreeSet::new();
    if !ended {
        if snapshot.current(spec).is_none() {
            blocked.push(behind(spec, &snapshot).since(observed.behind));
        }
        if snapshot.recovery.is_some() && !snapshot.recovery_complete(spec) {
            blocked.push(restored(spec, &snapshot));
        }
        if !snapshot.hidden_claims.is_empty() {
            blocked.push(hidden_claims(&snapshot).since(observed.hidden));
        }
        if is_halted {
            let (spec, budget) = halting.map_or((spec, &snapshot), |(spec, budget)| (*spec, budget));
            let situation = Situation { spec, snapshot: budget, lost: &lost };
            blocked.push(halted(situation, &budget.held));
            named.extend(halting_nodes(situation));
        }
        let (gates, holders) = slots(observed, situation, is_halted);
        blocked.extend(gates);
        named.extend(holders);
        blocked.extend(elections(observed, situation));
        named.extend(observed.elected.iter().map(|elected| elected.node.clone()));
        let opened = observed.opened.or_else(|| observed.began(spec));
        blocked.extend(progress(situation, (segment, wave), &missing, &observed.elected, opened));
        blocked.extend(lost_members(situation, &missing, &own, &named));
        blocked.extend(reported(observed, spec, &missing));
    }
    let lost_since = |node: &String| lost.get(node).copied().flatten();
    blocked.extend(observed.rejected.iter().map(|(node, keys)| stranger(node, keys).since(lost_since(node))));
    Rollout {
        phase: match (ended, is_halted, begun) {
            (true, ..) => "done",
            (false, true, _) => "halted",
            (false, false, true) => "running",
            (false, false, false) => "waiting",
        },
        segment: segment.saturating_add(1),
        segments: spec.segments(),
        wave: wave.saturating_add(1),
        waves: spec.waves,
        total: spec.members.len() as u64,
        done: snapshot.votes.get(last.0 as usize).copied().unwrap_or(0),
        skipped: own.iter().filter(|held| is_skipped(spec, held)).map(|held| held.node.clone()).collect(),
        failed: own
            .iter()
            .filter(|held| held.held.is_failed())
            .map(|held| FailedNode { node: held.node.clone(), message: failure(held, &lost) })
            .collect(),
        holding,
        waiting: queued(observed, spec).map(|(_, entry)| entry.node.clone()).collect(),
        blocked,
    }
}

/// Returns true if the run has written off the node of a slot record.
fn is_skipped(spec: &RolloutSpec, held: &SlotEntry) -> bool {
    let left_out =
        held.held.kind == SlotState::WrittenOff || held.held.kind == SlotState::Lost && spec.on_lost == OnLost::Skip;
    left_out && held.held.run == spec.run
}

fn queued<'o>(observed: &'o Observed<'_>, spec: &'o RolloutSpec) -> impl Iterator<Item = &'o (usize, Entry)> {
    observed.queue.iter().filter(|(_, entry)| entry.book == spec.book)
}

/// Returns the members in the waves 0 to `wave` that have not completed the segment. The result leaves out failed and
/// lost members.
fn members_missing<'s>(
    spec: &'s RolloutSpec,
    snapshot: &RunSnapshot,
    names: &BTreeSet<String>,
    wave: u32,
) -> Vec<&'s str> {
    let excused = |node: &str| snapshot.held.iter().any(|held| held.node == node && snapshot.is_excused(spec, held));
    spec.up_to(wave).filter(|node| !names.contains(*node) && !excused(node)).collect()
}

/// Returns the nodes that halt a run: all failed nodes, or the lost node that the run cannot write off.
fn halting_nodes(situation: Situation<'_>) -> Vec<String> {
    let Situation { spec, snapshot, .. } = situation;
    if let Some(node) = snapshot.holder_beyond_budget(spec) {
        return vec![node.to_owned()];
    }
    let failed = snapshot.held.iter().filter(|held| held.held.is_failed());
    failed.take(super::NAMES).map(|held| held.node.clone()).collect()
}

/// Returns a gate for each partition in which nodes of the book wait for a slot. The second list of the result contains
/// the slot holders that the gates name. For a halted run, the function ignores partitions with free slots, because the
/// run acquires no slots.
fn slots(observed: &Observed<'_>, situation: Situation<'_>, is_halted: bool) -> (Vec<Gate>, Vec<String>) {
    let mut partitions: BTreeMap<(usize, &str), Vec<&Entry>> = BTreeMap::new();
    for (budget, entry) in queued(observed, situation.spec) {
        partitions.entry((*budget, &entry.partition)).or_default().push(entry);
    }
    let mut named = Vec::new();
    let gate = |((budget, partition), waiters): ((usize, &str), Vec<&Entry>)| {
        let spec = observed.specs.get(budget).copied()?;
        let held = observed
            .held
            .iter()
            .filter(|(of, held)| *of == budget && held.partition == partition)
            .map(|(_, held)| held);
        let holders: Vec<&SlotEntry> = held.clone().filter(super::has_slot).collect();
        if holders.len() as u64 >= spec.count.unwrap_or(0) {
            named.extend(holders.iter().take(super::NAMES).map(|held| held.node.clone()));
        } else if is_halted {
            return None;
        }
        let situation = Situation { spec, ..situation };
        let gate = slot(situation, partition, held, std::iter::empty());
        // While a slot is free, no holder shows since when the nodes wait.
        let since = gate.since.or_else(|| waiters.iter().filter_map(|entry| entry.note.at).min());
        let waiters = listed(waiters.iter().map(|entry| entry.node.as_str()));
        Some(Gate { opens: format!("{waiters}: {}", gate.opens), since, ..gate })
    };
    let gates = partitions.into_iter().filter_map(gate).collect();
    (gates, named)
}

/// Returns a gate for each elected task without a result.
fn elections(observed: &Observed<'_>, situation: Situation<'_>) -> Vec<Gate> {
    let gate = |OpenElection { task, node, since: at }: &OpenElection| {
        let lost = situation.lost.get(node);
        let loss = lost.map_or_else(String::new, |at| format!(", lost{}", since(*at)));
        let opens = format!(
            "waiting for the result of the elected task {task:?} (run by {node}{loss}); continues when {node} has published the result"
        );
        let gate = Gate::shared(GateReason::Dependency, opens).since(*at);
        if lost.is_some() { gate.action(start([node])) } else { gate }
    };
    observed.elected.iter().map(gate).collect()
}

/// Returns the gate that delays the next wave, the next segment or the end of the run.
fn progress(
    situation: Situation<'_>,
    (segment, wave): (u32, u32),
    missing: &[&str],
    elected: &[OpenElection],
    opened: Option<i64>,
) -> Option<Gate> {
    let Situation { spec, snapshot, lost } = situation;
    let is_last_wave = wave.saturating_add(1) >= spec.waves;
    if is_last_wave && spec.cuts.get(segment as usize) == Some(&Cut::Barrier) {
        return Some(barrier(situation, segment.saturating_add(1)).since(opened));
    }
    // Nodes wait for the result of an elected segment, which has a separate gate.
    if spec.elected.contains(&segment) && !elected.is_empty() {
        return None;
    }
    let describe = |node: &&str| match (lost.get(*node), snapshot.held.iter().find(|held| held.node == **node)) {
        (Some(_), _) => format!("{node} (lost)"),
        (None, Some(held)) if super::has_slot(&held) => format!("{node} (holds a slot{})", since(held.note.at)),
        (None, Some(held)) if held.held.is_failed() => format!("{node} (failed)"),
        _ => (*node).to_owned(),
    };
    let total = spec.up_to(wave).count();
    let came = super::arrivals(spec, snapshot, segment, wave);
    let excused = super::excused_text(spec, snapshot, segment, wave);
    let next = if is_last_wave { "the run ends" } else { "the next wave opens" };
    let place = format!("wave {} of {} in segment {} of {}", wave + 1, spec.waves, segment + 1, spec.segments());
    let opens = if !missing.is_empty() {
        let names = listed(missing.iter().map(describe));
        format!(
            "waiting for {names} to complete {place} ({came} of {total} nodes have{excused}); continues when these nodes have completed the wave, then {next}"
        )
    } else if is_last_wave || spec.soak.is_zero() {
        format!(
            "{came} of {total} nodes have completed {place}{excused}; {next} when a node has recorded the completion"
        )
    } else {
        format!("{place} is complete; when the soak time of {} s has passed, {next}", spec.soak.as_secs())
    };
    Some(Gate::shared(GateReason::Wave, opens).since(opened))
}

/// Returns a gate that names the lost nodes for which the run waits. The gate leaves out the nodes that an earlier gate
/// names.
fn lost_members(
    situation: Situation<'_>,
    missing: &[&str],
    own: &[SlotEntry],
    named: &BTreeSet<String>,
) -> Option<Gate> {
    let Situation { spec, lost, .. } = situation;
    let holder = |node: &str| own.iter().any(|held| held.node == node && super::has_slot(&held));
    let mut gone: BTreeSet<&str> = missing.iter().copied().collect();
    gone.extend(own.iter().filter(super::has_slot).map(|held| held.node.as_str()));
    gone.retain(|node| lost.contains_key(*node) && !named.contains(*node));
    let first = gone.iter().filter_map(|node| lost.get(*node).copied().flatten()).min();
    if gone.is_empty() {
        return None;
    }
    let names = gone.iter().map(|node| format!("{node}, lost{}", since(lost.get(*node).copied().flatten())));
    let reason = if gone.iter().any(|node| holder(node)) { GateReason::Slot } else { GateReason::Wave };
    let outcome = match spec.on_lost {
        OnLost::Hold => "continues when they are back (onLostNode: hold)",
        OnLost::Skip => "continues when they are back or written off (onLostNode: skip)",
        OnLost::Fail => "they count as failed when their leases have ended (onLostNode: fail)",
    };
    let gate = Gate::shared(reason, format!("waiting for {}; {outcome}", listed(names))).since(first);
    Some(if spec.on_lost == OnLost::Skip { gate } else { gate.action(start(&gone)) })
}

/// Returns the gates in the published states of the members in `missing`. The function adds a gate for each older
/// generation that members in `missing` still follow.
fn reported(observed: &Observed<'_>, spec: &RolloutSpec, missing: &[&str]) -> Vec<Gate> {
    let mut behind: BTreeMap<&AcceptedId, Vec<&str>> = BTreeMap::new();
    let mut gates: Vec<(Gate, Vec<&str>)> = Vec::new();
    for node in missing.iter().filter(|node| !observed.word(node).eq("lost")) {
        let Some(report) = observed.reports.get(*node) else { continue };
        if report.accepted.generation <= spec.accepted.generation && report.accepted != spec.accepted {
            behind.entry(&report.accepted).or_default().push(node);
            continue;
        }
        for gate in &report.gates {
            let same = |known: &&mut (Gate, Vec<&str>)| {
                (known.0.reason, &known.0.opens, &known.0.action) == (gate.reason, &gate.opens, &gate.action)
            };
            match gates.iter_mut().find(same) {
                Some((known, nodes)) => {
                    nodes.push(node);
                    known.since = known.since.min(gate.since).or(known.since);
                }
                None => gates.push((gate.clone(), vec![node])),
            }
        }
    }
    let behind = behind.into_iter().map(|(accepted, nodes)| {
        let opens = format!(
            "waiting for {} to load generation {} (loaded: {}); continues when these nodes have fetched the commits",
            listed(nodes),
            spec.accepted.generation,
            loaded(accepted, &spec.accepted)
        );
        Gate::shared(GateReason::Dependency, opens)
            .since(observed.accepted)
            .action("If the wait lasts, run `towpath status` on these nodes and read the conditions")
    });
    let gates =
        gates.into_iter().map(|(gate, nodes)| Gate { opens: format!("{}: {}", listed(nodes), gate.opens), ..gate });
    behind.chain(gates).collect()
}

/// Returns the state of a run while the data store does not answer.
pub(crate) fn unreachable(spec: &RolloutSpec, gate: Gate) -> Rollout {
    Rollout {
        phase: "waiting",
        segment: 1,
        segments: spec.segments(),
        wave: 1,
        waves: spec.waves,
        total: spec.members.len() as u64,
        blocked: vec![gate],
        ..Rollout::default()
    }
}
