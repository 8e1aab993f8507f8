//! What a node waits for, in words: which gate, and what would open it.

use super::{HEARSAY, Rollout};
use crate::{
    Gate,
    rollout::{HeldBy, Hold, Kind, Spec, View},
    store::StoreError,
};

/// How many names are listed before the rest is counted.
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

fn of_kind<'a>(view: &'a View, kinds: &'a [Kind]) -> impl Iterator<Item = &'a HeldBy> {
    view.held.iter().filter(|held| kinds.contains(&held.held.kind))
}

fn failed(view: &View) -> Vec<&str> {
    view.held
        .iter()
        .filter(|held| held.held.kind == Kind::Failure || held.held.lost)
        .map(|held| held.node.as_str())
        .collect()
}

/// Who has not come to the end of a stretch, as far as is known.
fn missing(spec: &Spec, view: &View, stretch: u32) -> String {
    let votes = view.votes.get(stretch as usize).copied().unwrap_or(0);
    let count = format!("{votes} of {} nodes are through", spec.members.len());
    match &view.names {
        Some((of, names)) if *of == stretch => {
            let missing = spec.members.keys().filter(|node| !names.contains(*node)).map(String::as_str);
            format!("{count}; it waits for {}", listed(missing))
        }
        _ => count,
    }
}

pub(super) fn hold(spec: &Spec, view: &View, me: &str, hold: Hold) -> Gate {
    let gate = |reason, opens| Gate { reason, opens };
    match hold {
        Hold::Slot => {
            let holders = of_kind(view, &[Kind::Claim, Kind::Offer]).map(|held| held.node.as_str());
            let count = spec.count.unwrap_or(0);
            gate(
                "Slot",
                match view.one_too_many(spec) {
                    Some(_) => halted(spec, view),
                    None => {
                        format!("all {count} slots are taken, by {}; it opens when one is given back", listed(holders))
                    }
                },
            )
        }
        Hold::Wave => {
            let stretch = (0..spec.stretches()).rfind(|stretch| view.open_waves(spec, *stretch) > 0).unwrap_or(0);
            let own = spec.wave(me) + 1;
            let open = view.open_waves(spec, stretch);
            gate(
                "Wave",
                format!(
                    "this node is in wave {own} of {}, and {open} are open; {}",
                    spec.waves,
                    missing(spec, view, stretch)
                ),
            )
        }
        Hold::Barrier => {
            let open = (0..spec.stretches()).rfind(|stretch| view.open_waves(spec, *stretch) > 0).unwrap_or(0);
            gate("Barrier", format!("all nodes must come first: {}", missing(spec, view, open)))
        }
        Hold::Halted => gate("Budget", halted(spec, view)),
        Hold::Behind => gate(
            "Dependency",
            "the fleet has accepted another revision than this node has loaded; it goes on when it has that".into(),
        ),
        Hold::Lease => no_lease(),
        Hold::Unseen => unseen(view),
        Hold::Restored => restored(spec, view),
        Hold::Unsure => gate(
            "StoreUnreachable",
            "the data store has only just been reached (again); the node goes on in a few seconds".into(),
        ),
    }
}

/// Nodes report slots that the store does not have.
fn unseen(view: &View) -> Gate {
    Gate {
        reason: "Slot",
        opens: format!(
            "waiting for etcd to show a slot that nodes report and etcd does not contain (reported for {}); continues when etcd shows the slot or its release, at most {} s after the first report",
            listed(view.unseen.iter().map(String::as_str)),
            HEARSAY.as_secs()
        ),
    }
}

/// The store has gone back: who has not said anew what it holds.
fn restored(spec: &Spec, view: &View) -> Gate {
    let silent = spec.known.iter().filter(|node| !view.anew.contains(*node)).map(String::as_str);
    Gate {
        reason: "Dependency",
        opens: format!(
            "the data store was restored from a backup (reported by {}). Rollouts are paused until every node has registered its slots again. Waiting for: {}. Start these nodes, or delete their Node objects if they are gone",
            view.restored.as_ref().map_or("this node", |(restored, _)| restored.by.as_str()),
            listed(silent)
        ),
    }
}

/// A node that was set up again: it counts as lost until git names its key.
pub(super) fn stranger(node: &str, keys: &[String]) -> Gate {
    let keys = keys.iter().map(|key| format!("{key:?}")).collect::<Vec<_>>().join(", ");
    Gate {
        reason: "Dependency",
        opens: format!(
            "node {node} is rejected and counts as lost: it has another key than the one it joined with. If it was set up again, commit its keys to the Node object {node}: spec: {{publicKeys: [{keys}]}}"
        ),
    }
}

fn halted(spec: &Spec, view: &View) -> String {
    let failed = failed(view);
    if let Some(lost) = view.one_too_many(spec) {
        return format!(
            "the run is halted: {lost} is lost with a slot, and {} have been written off, as many as there are slots; it goes on when {lost} is back, or when git no longer names it",
            view.written_off(spec)
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

pub(super) fn rollout(spec: &Spec, view: &View) -> Rollout {
    let last = spec.stretches() - 1;
    let done = view.votes.get(last as usize).copied().unwrap_or(0);
    let through = view.done(spec);
    let halted_now = view.halted(spec) || view.one_too_many(spec).is_some();
    let begun = !view.held.is_empty() || view.votes.iter().any(|votes| *votes > 0);
    let mut blocked = Vec::new();
    if halted_now {
        blocked.push(Gate { reason: "Budget", opens: halted(spec, view) });
    }
    if view.restored.is_some() && !view.is_whole(spec) {
        blocked.push(restored(spec, view));
    }
    if !through && !view.unseen.is_empty() {
        blocked.push(unseen(view));
    }
    if !through {
        let stretch = (0..spec.stretches()).rfind(|stretch| view.open_waves(spec, *stretch) > 0).unwrap_or(0);
        let open = view.open_waves(spec, stretch);
        if open < spec.waves {
            let opens = format!("wave {open} of {} is open: {}", spec.waves, missing(spec, view, stretch));
            blocked.push(Gate { reason: "Wave", opens });
        } else if stretch < last {
            blocked.push(Gate { reason: "Barrier", opens: missing(spec, view, stretch) });
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
        failed: failed(view).into_iter().map(str::to_owned).collect(),
        holding: of_kind(view, &[Kind::Claim, Kind::Offer]).map(|held| (held.node.clone(), None)).collect(),
        opened: None,
        waiting: view.queue.len() as u64,
        blocked,
    }
}
