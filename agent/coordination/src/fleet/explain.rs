//! Explanations for people: the gate that blocks a node, and the event that opens it.

use super::{HIDDEN_CLAIM_LIMIT, Rollout};
use crate::{
    Gate,
    rollout::{BlockReason, RolloutSpec, RunSnapshot, SlotEntry, SlotState},
    store::StoreError,
};

/// The most names that a message lists. It counts the rest.
const NAMES: usize = 5;

pub(super) fn unreachable(error: &StoreError) -> Gate {
    Gate {
        reason: "StoreUnreachable",
        opens: format!("{error}; what needs agreement goes on when it answers, drift of content is corrected"),
    }
}

pub(super) fn no_lease() -> Gate {
    Gate {
        reason: "StoreUnreachable",
        opens: "the node has no lease yet: it looks again as soon as the data store has given one".into(),
    }
}

pub(super) fn busy() -> Gate {
    Gate { reason: "Slot", opens: "others were faster; the node looks again at once".into() }
}

fn listed<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let names: Vec<&str> = names.into_iter().collect();
    let more = names.len().saturating_sub(NAMES);
    let shown = names.into_iter().take(NAMES).collect::<Vec<_>>().join(", ");
    if more > 0 { format!("{shown} and {more} more") } else { shown }
}

fn of_kind<'a>(snapshot: &'a RunSnapshot, kinds: &'a [SlotState]) -> impl Iterator<Item = &'a SlotEntry> {
    snapshot.held.iter().filter(|held| kinds.contains(&held.held.kind))
}

fn failed(snapshot: &RunSnapshot) -> Vec<&str> {
    snapshot
        .held
        .iter()
        .filter(|held| held.held.kind == SlotState::Failure || held.held.lost)
        .map(|held| held.node.as_str())
        .collect()
}

/// Describes which members have not completed a segment. Without the voters' names it gives only their number.
fn missing(spec: &RolloutSpec, snapshot: &RunSnapshot, segment: u32) -> String {
    let votes = snapshot.votes.get(segment as usize).copied().unwrap_or(0);
    let count = format!("{votes} of {} nodes are through", spec.members.len());
    match &snapshot.names {
        Some((of, names)) if *of == segment => {
            let missing = spec.members.keys().filter(|node| !names.contains(*node)).map(String::as_str);
            format!("{count}; it waits for {}", listed(missing))
        }
        _ => count,
    }
}

pub(super) fn hold(spec: &RolloutSpec, snapshot: &RunSnapshot, me: &str, hold: BlockReason) -> Gate {
    let gate = |reason, opens| Gate { reason, opens };
    match hold {
        BlockReason::Slot => {
            let holders = of_kind(snapshot, &[SlotState::Claim, SlotState::Offer]).map(|held| held.node.as_str());
            let count = spec.count.unwrap_or(0);
            gate(
                "Slot",
                match snapshot.holder_beyond_budget(spec) {
                    Some(_) => halted(spec, snapshot),
                    None => {
                        format!("all {count} slots are taken, by {}; it opens when one is given back", listed(holders))
                    }
                },
            )
        }
        BlockReason::Wave => {
            let segment = (0..spec.segments()).rfind(|segment| snapshot.open_waves(spec, *segment) > 0).unwrap_or(0);
            let own = spec.wave(me) + 1;
            let open = snapshot.open_waves(spec, segment);
            gate(
                "Wave",
                format!(
                    "this node is in wave {own} of {}, and {open} are open; {}",
                    spec.waves,
                    missing(spec, snapshot, segment)
                ),
            )
        }
        BlockReason::Barrier => {
            let open = (0..spec.segments()).rfind(|segment| snapshot.open_waves(spec, *segment) > 0).unwrap_or(0);
            gate("Barrier", format!("all nodes must come first: {}", missing(spec, snapshot, open)))
        }
        BlockReason::Halted => gate("Budget", halted(spec, snapshot)),
        BlockReason::Behind => gate(
            "Dependency",
            "the fleet has accepted another revision than this node has loaded; it goes on when it has that".into(),
        ),
        BlockReason::Lease => no_lease(),
        BlockReason::HiddenClaims => hidden_claims(snapshot),
        BlockReason::Recovery => restored(spec, snapshot),
        BlockReason::Stabilizing => gate(
            "StoreUnreachable",
            "the data store has only just been reached (again); the node goes on in a few seconds".into(),
        ),
    }
}

/// Explains that nodes report slots that the store does not have.
fn hidden_claims(snapshot: &RunSnapshot) -> Gate {
    Gate {
        reason: "Slot",
        opens: format!(
            "waiting for etcd to show a slot that nodes report and etcd does not contain (reported for {}); continues when etcd shows the slot or its release, at most {} s after the first report",
            listed(snapshot.hidden_claims.iter().map(String::as_str)),
            HIDDEN_CLAIM_LIMIT.as_secs()
        ),
    }
}

/// Explains that the store was rolled back, and lists the nodes that have not republished their claims.
fn restored(spec: &RolloutSpec, snapshot: &RunSnapshot) -> Gate {
    let silent = spec.known.iter().filter(|node| !snapshot.acknowledged.contains(*node)).map(String::as_str);
    Gate {
        reason: "Dependency",
        opens: format!(
            "the data store was restored from a backup (reported by {}). Rollouts are paused until every node has registered its slots again. Waiting for: {}. Start these nodes, or delete their Node objects if they are gone",
            snapshot.recovery.as_ref().map_or("this node", |(restored, _)| restored.by.as_str()),
            listed(silent)
        ),
    }
}

/// Explains that a node shows another key. It counts as lost until git names that key (P145).
pub(super) fn stranger(node: &str, keys: &[String]) -> Gate {
    let keys = keys.iter().map(|key| format!("{key:?}")).collect::<Vec<_>>().join(", ");
    Gate {
        reason: "Dependency",
        opens: format!(
            "node {node} is rejected and counts as lost: it has another key than the one it joined with. If it was set up again, commit its keys to the Node object {node}: spec: {{publicKeys: [{keys}]}}"
        ),
    }
}

fn halted(spec: &RolloutSpec, snapshot: &RunSnapshot) -> String {
    let failed = failed(snapshot);
    if let Some(lost) = snapshot.holder_beyond_budget(spec) {
        return format!(
            "the run is halted: {lost} is lost with a slot, and {} have been written off, as many as there are slots; it goes on when {lost} is back, or when git no longer names it",
            snapshot.written_off(spec)
        );
    }
    if failed.is_empty() {
        return "nodes were lost, and onLostNode counts them as failed; it goes on when they are back".into();
    }
    format!(
        "the run is halted: {} failed, and maxFailures is {}; push a fix, or mend it there: it goes on when they have succeeded",
        listed(failed),
        spec.max_failures
    )
}

pub(super) fn rollout(spec: &RolloutSpec, snapshot: &RunSnapshot) -> Rollout {
    let last = spec.segments() - 1;
    let done = snapshot.votes.get(last as usize).copied().unwrap_or(0);
    let through = snapshot.done(spec);
    let halted_now = snapshot.halted(spec) || snapshot.holder_beyond_budget(spec).is_some();
    let begun = !snapshot.held.is_empty() || snapshot.votes.iter().any(|votes| *votes > 0);
    let mut blocked = Vec::new();
    if halted_now {
        blocked.push(Gate { reason: "Budget", opens: halted(spec, snapshot) });
    }
    if snapshot.recovery.is_some() && !snapshot.recovery_complete(spec) {
        blocked.push(restored(spec, snapshot));
    }
    if !through && !snapshot.hidden_claims.is_empty() {
        blocked.push(hidden_claims(snapshot));
    }
    if !through {
        let segment = (0..spec.segments()).rfind(|segment| snapshot.open_waves(spec, *segment) > 0).unwrap_or(0);
        let open = snapshot.open_waves(spec, segment);
        if open < spec.waves {
            let opens = format!("wave {open} of {} is open: {}", spec.waves, missing(spec, snapshot, segment));
            blocked.push(Gate { reason: "Wave", opens });
        } else if segment < last {
            blocked.push(Gate { reason: "Barrier", opens: missing(spec, snapshot, segment) });
        }
    }
    Rollout {
        phase: match (through, halted_now, begun) {
            (true, ..) => "done",
            (false, true, _) => "halted",
            (false, false, true) => "running",
            (false, false, false) => "waiting",
        },
        total: spec.members.len() as u64,
        done: if through { spec.members.len() as u64 } else { done },
        failed: failed(snapshot).into_iter().map(str::to_owned).collect(),
        holding: of_kind(snapshot, &[SlotState::Claim, SlotState::Offer])
            .map(|held| (held.node.clone(), None))
            .collect(),
        opened: None,
        waiting: snapshot.queue.len() as u64,
        blocked,
    }
}
