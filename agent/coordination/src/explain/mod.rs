//! Creates the messages that explain why a run waits. Each message names the cause (a slot, wave or barrier), the nodes
//! that the run waits for, and the remedy.
//!
//! Each message about a wait has the form `waiting for X (held by Y since T); continues when Z`. The remedy follows the
//! message as a separate sentence.

mod loss;
mod milestone;
mod rollout;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use towpath_host::clock::rfc3339;

use crate::{
    AcceptedId, Gate, GateReason,
    rollout::{BlockReason, HIDDEN_CLAIM_LIMIT, OnLost, RolloutSpec, RunSnapshot, SlotEntry, SlotState, frontier},
};

pub use loss::WrittenOff;
pub(crate) use loss::{Loss, written_off};
pub use milestone::{Milestone, MilestoneKind};
pub(crate) use milestone::{may_reach, reached};
pub use rollout::{FailedNode, Holder, Liveness, NodeReport, Rollout};
pub(crate) use rollout::{Observed, OpenElection, report, unreachable};

/// The maximum number of names in a list in a message. A message shows only the number of the names beyond this
/// maximum.
const NAMES: usize = 5;

/// The maximum number of characters of a failed node's error message that a message quotes.
const MESSAGE: usize = 200;

/// The lost nodes, each with the time of the loss if it is known. Unit: milliseconds since 1970.
pub(crate) type LostNodes = BTreeMap<String, Option<i64>>;

/// The data for a message about a run: the rollout, its snapshot, and its lost nodes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Situation<'a> {
    pub spec: &'a RolloutSpec,
    pub snapshot: &'a RunSnapshot,
    pub lost: &'a LostNodes,
}

pub(crate) fn no_lease() -> Gate {
    Gate::shared(
        GateReason::StoreUnreachable,
        "waiting for a lease of the data store; continues as soon as the node has a lease",
    )
}

pub(crate) fn busy(spec: &RolloutSpec, tries: usize) -> Gate {
    let opens =
        format!("lost {tries} races with other nodes for a slot of {}; retrying within 15 s", spec.budget_name());
    Gate::shared(GateReason::Slot, opens)
}

/// Returns the closed gate that explains why a node's request must wait. `segment` is `None` for a request without a
/// segment.
pub(crate) fn closed_gate(situation: Situation<'_>, node: &str, segment: Option<u32>, reason: BlockReason) -> Gate {
    let Situation { spec, snapshot, .. } = situation;
    match reason {
        BlockReason::Slot if snapshot.holder_beyond_budget(spec).is_some() => halted(situation, &snapshot.held),
        BlockReason::Slot => {
            let own = |held: &&SlotEntry| held.partition == spec.partition(node);
            let ahead = snapshot.queue.iter().take_while(|entry| entry.node != node || entry.book != spec.book);
            slot(
                situation,
                spec.partition(node),
                snapshot.held.iter().filter(own),
                ahead.map(|entry| entry.node.as_str()),
            )
        }
        BlockReason::Wave => wave(situation, node, segment.unwrap_or(0)),
        BlockReason::Barrier => barrier(situation, segment.unwrap_or(1)),
        BlockReason::Halted => halted(situation, &snapshot.held),
        BlockReason::Behind => behind(spec, snapshot),
        BlockReason::Lease => no_lease(),
        BlockReason::HiddenClaims => hidden_claims(snapshot),
        BlockReason::Recovery => restored(spec, snapshot),
        BlockReason::Stabilizing => Gate::shared(
            GateReason::StoreUnreachable,
            "waiting for other nodes to report whether the data store was restored from a backup (this node has just connected); continues within a few seconds",
        ),
    }
}

fn listed<T: AsRef<str>>(names: impl IntoIterator<Item = T>) -> String {
    let names: Vec<T> = names.into_iter().collect();
    let more = names.len().saturating_sub(NAMES);
    let shown = names.iter().take(NAMES).map(AsRef::as_ref).collect::<Vec<_>>().join(", ");
    if more > 0 { format!("{shown} and {more} more") } else { shown }
}

/// Returns the text ` since TIME`, or an empty text if the time is not known.
fn since(at: Option<i64>) -> String {
    at.map_or_else(String::new, |at| format!(" since {}", rfc3339(at)))
}

/// Returns the remedy for lost nodes: start the nodes, or remove the nodes from git.
fn start<T: AsRef<str>>(nodes: impl IntoIterator<Item = T>) -> String {
    let nodes: Vec<T> = nodes.into_iter().collect();
    let pronoun = if nodes.len() == 1 { "it" } else { "them" };
    format!("Start {}, or remove {pronoun} from git", listed(nodes))
}

/// Describes a slot holder: the name of the node, the time of the loss, and the time of the slot record. The text also
/// names the book of the slot record, unless the waiting book is the same book.
fn holder(situation: Situation<'_>, entry: &SlotEntry) -> String {
    let mut facts = Vec::new();
    if let Some(at) = situation.lost.get(&entry.node) {
        facts.push(format!("lost{}", since(*at)));
    }
    if entry.book != situation.spec.book {
        facts.push(format!("for book {}", entry.book));
    }
    let verb = if entry.held.kind == SlotState::Offer { "offered" } else { "held" };
    if entry.note.at.is_some() {
        facts.push(format!("{verb}{}", since(entry.note.at)));
    }
    if facts.is_empty() { entry.node.clone() } else { format!("{} ({})", entry.node, facts.join(", ")) }
}

fn has_slot(entry: &&SlotEntry) -> bool {
    matches!(entry.held.kind, SlotState::Claim | SlotState::Offer)
}

/// Returns the closed gate of a partition in which no slot is free for a waiting node.
fn slot<'a>(
    situation: Situation<'_>,
    partition: &str,
    held: impl Iterator<Item = &'a SlotEntry>,
    ahead: impl Iterator<Item = &'a str>,
) -> Gate {
    let Situation { spec, lost, .. } = situation;
    let budget = spec.partition_name(partition);
    let holders: Vec<&SlotEntry> = held.filter(has_slot).collect();
    let count = spec.count.unwrap_or(0);
    if (holders.len() as u64) < count {
        let ahead: Vec<&str> = ahead.collect();
        let queue = if ahead.is_empty() { String::new() } else { format!(" ({} first in the queue)", listed(ahead)) };
        let opens = format!("waiting for a slot of {budget}{queue}; continues when the node is first in the queue");
        return Gate::shared(GateReason::Slot, opens);
    }
    let names = listed(holders.iter().map(|entry| holder(situation, entry)));
    let away: Vec<&str> =
        holders.iter().map(|entry| entry.node.as_str()).filter(|node| lost.contains_key(*node)).collect();
    let back = match spec.on_lost {
        _ if away.is_empty() => "",
        OnLost::Hold => "",
        OnLost::Skip => " or is written off",
        OnLost::Fail => " or counts as failed",
    };
    let opens = format!(
        "waiting for a slot of {budget} (held by {names}); continues when one of these nodes releases the slot{back}"
    );
    let gate = Gate::shared(GateReason::Slot, opens).since(holders.iter().filter_map(|entry| entry.note.at).min());
    if away.is_empty() || spec.on_lost == OnLost::Skip { gate } else { gate.action(start(away)) }
}

/// Returns the names of the members that have voted for a segment. `None` if this node has not read the names of the
/// voters.
fn arrived(snapshot: &RunSnapshot, segment: u32) -> Option<&BTreeSet<String>> {
    snapshot.names.as_ref().filter(|(of, _)| *of == segment).map(|(_, names)| names)
}

/// Returns the number of members in the waves 0 to `wave` that have completed a segment. If this node has not read the
/// names of the voters, the number is an estimate.
fn arrivals(spec: &RolloutSpec, snapshot: &RunSnapshot, segment: u32, wave: u32) -> usize {
    let total = spec.up_to(wave).count();
    match arrived(snapshot, segment) {
        Some(names) => spec.up_to(wave).filter(|node| names.contains(*node)).count(),
        None => {
            let votes = snapshot.votes.get(segment as usize).copied().unwrap_or(0);
            usize::try_from(votes).map_or(total, |votes| votes.min(total))
        }
    }
}

/// Returns the text that lists the failed and lost members for which a segment does not wait. The text is empty if the
/// segment waits for all its members.
fn excused_text(spec: &RolloutSpec, snapshot: &RunSnapshot, segment: u32, wave: u32) -> String {
    let names = arrived(snapshot, segment);
    let of = |is_failed: bool, word: &str| {
        let kind = |held: &&SlotEntry| {
            matches!(held.held.kind, SlotState::Failure | SlotState::Unadmitted) == is_failed
                && snapshot.is_excused(spec, held)
                && names.is_none_or(|names| !names.contains(&held.node))
        };
        let nodes: BTreeSet<&str> = snapshot.held.iter().filter(kind).map(|held| held.node.as_str()).collect();
        let nodes: Vec<&str> = spec.up_to(wave).filter(|node| nodes.contains(node)).collect();
        if nodes.is_empty() { String::new() } else { format!("; {word}: {}", listed(nodes)) }
    };
    of(true, "failed") + &of(false, "lost")
}

/// Returns the members in the waves 0 to `wave` that have not completed a segment. The result is empty if members have
/// voted, but this node has not read the names of the voters.
fn missing<'a>(spec: &'a RolloutSpec, snapshot: &RunSnapshot, segment: u32, wave: u32) -> Vec<&'a str> {
    let names = arrived(snapshot, segment);
    let votes = snapshot.votes.get(segment as usize).copied().unwrap_or(0);
    if names.is_none() && votes > 0 {
        return Vec::new();
    }
    let came = |node: &str| {
        names.is_some_and(|names| names.contains(node))
            || snapshot.held.iter().any(|held| held.node == node && snapshot.is_excused(spec, held))
    };
    spec.up_to(wave).filter(|node| !came(node)).collect()
}

/// Returns the text that lists the members for which a segment waits. The text is empty if the names of the members are
/// not known.
fn missing_text(situation: Situation<'_>, segment: u32, wave: u32) -> String {
    let missing = missing(situation.spec, situation.snapshot, segment, wave);
    let with_loss = |node: &str| match situation.lost.get(node) {
        Some(at) => format!("{node} (lost{})", since(*at)),
        None => node.to_owned(),
    };
    if missing.is_empty() { String::new() } else { format!(": missing {}", listed(missing.into_iter().map(with_loss))) }
}

fn wave(situation: Situation<'_>, node: &str, segment: u32) -> Gate {
    let Situation { spec, snapshot, .. } = situation;
    // The wave may be closed because an earlier segment is not complete.
    let (segment, open) = frontier(spec, snapshot).into_iter().find(|(of, _)| *of >= segment).unwrap_or((segment, 0));
    let own = spec.wave(node).saturating_add(1);
    let opens = format!(
        "waiting for wave {own} of {} of segment {}: wave {} is open ({} of {} nodes have completed it{}{}); continues when wave {own} opens",
        spec.waves,
        segment.saturating_add(1),
        open.saturating_add(1),
        arrivals(spec, snapshot, segment, open),
        spec.up_to(open).count(),
        missing_text(situation, segment, open),
        excused_text(spec, snapshot, segment, open),
    );
    Gate::shared(GateReason::Wave, opens)
}

/// Returns the closed gate of a barrier. The message of the gate counts all nodes that have arrived at the barrier,
/// including this node.
fn barrier(situation: Situation<'_>, segment: u32) -> Gate {
    let Situation { spec, snapshot, .. } = situation;
    let (before, wave) =
        frontier(spec, snapshot).first().copied().unwrap_or((segment.saturating_sub(1), spec.waves.saturating_sub(1)));
    let last = spec.waves.saturating_sub(1);
    let count = arrivals(spec, snapshot, before, last);
    let waves = if wave < last { format!(", wave {} of {} is open", wave + 1, spec.waves) } else { String::new() };
    let opens = format!(
        "waiting at the barrier before segment {} ({count} of {} nodes have arrived{waves}{}{}); continues when all nodes have arrived",
        before.saturating_add(2),
        spec.members.len(),
        missing_text(situation, before, last),
        excused_text(spec, snapshot, before, last),
    );
    Gate::shared(GateReason::Barrier, opens)
}

/// Returns the number of a loaded generation as text. If the loaded acceptance has the accepted number but another
/// digest, the text states this difference.
fn loaded(loaded: &AcceptedId, accepted: &AcceptedId) -> String {
    let other = if loaded.generation == accepted.generation { " with other content" } else { "" };
    format!("{}{other}", loaded.generation)
}

fn behind(spec: &RolloutSpec, snapshot: &RunSnapshot) -> Gate {
    let opens = match &snapshot.accepted {
        Some((accepted, _)) => format!(
            "waiting for generation {}, which the fleet has accepted (this node has loaded generation {}); continues when this node has loaded the accepted generation",
            accepted.generation,
            loaded(&spec.accepted, accepted)
        ),
        None => "waiting for the record of the accepted revision, which the data store does not contain; continues when a node has written it again".to_owned(),
    };
    Gate::new(GateReason::Dependency, opens)
}

/// Returns the closed gate for slots that gossip reports and the store does not contain.
fn hidden_claims(snapshot: &RunSnapshot) -> Gate {
    let nodes = listed(snapshot.hidden_claims.iter().map(String::as_str));
    let opens = format!(
        "waiting for etcd to show a slot that gossip reports for {nodes}, and that etcd does not contain; continues when etcd shows the slot or its release, at most {} s after the first report",
        HIDDEN_CLAIM_LIMIT.as_secs()
    );
    Gate::shared(GateReason::Slot, opens)
}

/// Returns the gate that is closed during a recovery. The gate names the nodes that have not republished their claims.
fn restored(spec: &RolloutSpec, snapshot: &RunSnapshot) -> Gate {
    let silent = spec.known.iter().filter(|node| !snapshot.acknowledged.contains(*node)).map(String::as_str);
    let opens = format!(
        "the data store was restored from a backup (reported by {}). Rollouts are paused until every node has registered its slots again. Waiting for: {}",
        snapshot.recovery.as_ref().map_or("this node", |(restored, _)| restored.by.as_str()),
        listed(silent)
    );
    Gate::shared(GateReason::Dependency, opens)
        .since(snapshot.recovery.as_ref().and_then(|(restored, _)| restored.at))
        .action("Start these nodes, or delete their Node objects if they are gone")
}

/// Returns the closed gate for a node that the fleet rejects because the node's public key has changed. The node counts
/// as lost until the Node object in git lists the new public key (P145).
fn stranger(node: &str, keys: &[String]) -> Gate {
    let keys = keys.iter().map(|key| format!("{key:?}")).collect::<Vec<_>>().join(", ");
    let opens = format!("node {node} is rejected and counts as lost: its key is not the key with which it joined");
    Gate::shared(GateReason::Dependency, opens).action(format!(
        "If {node} was set up again, commit its keys to the Node object {node}: spec: {{publicKeys: [{keys}]}}"
    ))
}

/// Returns the closed gate of a halted run. The gate names the failed nodes, or the lost node that the run cannot write
/// off.
fn halted(situation: Situation<'_>, held: &[SlotEntry]) -> Gate {
    let Situation { spec, snapshot, lost } = situation;
    if let Some(node) = snapshot.holder_beyond_budget(spec) {
        let opens = format!(
            "the run is halted: {node} (lost{}) has not released its slot, and the run has written off {} nodes, which is the maximum; continues when {node} is back",
            since(lost.get(node).copied().flatten()),
            snapshot.written_off(spec)
        );
        // The gate is closed since the loss of the node, or since the last write-off if that came later.
        let left = |held: &&SlotEntry| held.held.kind == SlotState::WrittenOff && held.held.run == spec.run;
        let limit = held.iter().filter(left).filter_map(|held| held.note.at);
        let closed = limit.chain(lost.get(node).copied().flatten()).max();
        return Gate::shared(GateReason::Budget, opens).since(closed).action(start([node]));
    }
    let failed: Vec<&SlotEntry> = held.iter().filter(|held| held.held.is_failed()).collect();
    let gone: Vec<&str> =
        failed.iter().map(|held| held.node.as_str()).filter(|node| lost.contains_key(*node)).collect();
    let names = listed(failed.iter().map(|held| {
        let why: String = failure(held, lost).chars().take(MESSAGE).collect();
        let book = if held.book == spec.book { String::new() } else { format!("book {}: ", held.book) };
        format!("{} ({book}{why})", held.node)
    }));
    let limit = spec.failure_limit().unwrap_or(spec.max_failures);
    let opens = format!(
        "the run is halted: waiting for the failed nodes {names}; continues when at most {} of them {} failed (maxFailures)",
        limit,
        if limit == 1 { "has" } else { "have" }
    );
    let mut action = "Push a fix, or repair the nodes: they retry at the interval".to_owned();
    if !gone.is_empty() {
        action = format!("{action}. {}", start(gone));
    }
    Gate::shared(GateReason::Budget, opens).since(failed.iter().filter_map(|held| held.note.at).max()).action(action)
}

/// Returns the text that explains the failure or the loss of a node.
fn failure(entry: &SlotEntry, lost: &LostNodes) -> String {
    let is_loss = entry.held.lost || entry.held.kind == SlotState::Lost;
    match (&entry.note.message, lost.get(&entry.node)) {
        (Some(message), None) => message.clone(),
        (Some(message), Some(at)) => format!("lost{}, after: {message}", since(*at)),
        (None, Some(at)) => format!("lost{}", since(at.or(entry.note.at).filter(|_| is_loss || at.is_some()))),
        (None, None) if is_loss => format!("lost{}", since(entry.note.at)),
        (None, None) => {
            format!(
                "failed in generation {}; run `towpath status` on the node to read the message",
                entry.held.accepted.generation
            )
        }
    }
}
