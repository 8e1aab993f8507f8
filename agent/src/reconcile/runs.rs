//! Runs of coordinated TaskBooks: the members, waves, budgets and segments that a revision defines.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use sha2::Digest as _;
use towpath_coordination::{
    AcceptedId,
    accept::RevisionManifest,
    rollout::{Cut, OnLost, RolloutSpec},
    signed::BookRights,
};
use towpath_proto::v1alpha as pb;
use towpath_render::{
    objects::{
        ObjectSet, Segment, SegmentKind, book_digest, segments,
        task::{Book, Task},
    },
    scalars::Count,
};
use towpath_state::LastSlots;

use super::revision::Revision;

/// Returns the run of each TaskBook of a node. Each entry contains the TaskBook, the run, and the digest of the
/// TaskBook.
pub(crate) fn of_node(revision: &Revision) -> Vec<(String, String, String)> {
    let run = |book: &Book| {
        let id = book.id();
        let digest = book_digest(&revision.set, book);
        match revision.manifest.books.get(&id) {
            // A restarted rollout is a new run of an unchanged TaskBook, so the digest includes the first generation of
            // the run.
            Some(entry) => (id.clone(), entry.run(&id), format!("{} {digest}", entry.since)),
            None => (id.clone(), format!("{id}@{}", revision.id.generation), digest),
        }
    };
    revision.view.books.iter().map(|book| run(book)).collect()
}

/// The run of a TaskBook: its segments, and the budget of each segment.
#[derive(Debug, Clone)]
pub(crate) struct Run {
    /// The rollout definition of the run, with the budget of the TaskBook.
    pub(crate) spec: RolloutSpec,
    /// The segments of the TaskBook.
    pub(crate) segments: Vec<Segment>,
    /// The rollout definitions of segments whose task sets `serialize`, by index of the segment.
    own: BTreeMap<usize, RolloutSpec>,
}

impl Run {
    /// Returns the run of a coordinated TaskBook. Returns `None` if the manifest does not contain the TaskBook.
    pub(crate) fn of(set: &ObjectSet, accepted: &AcceptedId, manifest: &RevisionManifest, book: &Book) -> Option<Self> {
        let id = book.id();
        let entry = manifest.books.get(&id)?;
        let known: BTreeSet<String> = set.all_nodes().into_iter().chain(set.targets_of(book)).collect();
        let known: Vec<String> = known.into_iter().collect();
        let (members, late) = members(set, manifest, book)?;
        let members = in_order(&id, members);
        let waves = waves(set, book, &members);
        let count_of = |serialize: &pb::Serialize| count(serialize, members.len() as u64);
        let segments = segments(book);
        let cuts = segments.iter().skip(1).map(|segment| if segment.barrier { Cut::Barrier } else { Cut::Passage });
        let serialize = book.rollout.serialize.as_ref();
        let (budget, partitions) =
            serialize.map_or((id.clone(), BTreeMap::new()), |serialize| budget_of(set, book, &id, serialize));
        let spec = RolloutSpec {
            book: id.clone(),
            budget,
            run: entry.run(&id),
            accepted: accepted.clone(),
            members: members.iter().map(|node| (node.clone(), wave_of(&waves, node))).collect(),
            late,
            known,
            partitions,
            count: serialize.map(count_of),
            max_failures: max_failures(book, members.len() as u64),
            fail_after_all: book.rollout.fail_after_all,
            slot_failures: serialize.and_then(|serialize| slot_limit(set, manifest, book, serialize)),
            shared: serialize.is_some_and(|serialize| serialize.slot.is_some())
                || book.tasks.iter().any(|task| task.serialize.as_ref().is_some_and(|own| own.slot.is_none())),
            on_lost: match book.rollout.on_lost.as_str() {
                "skip" => OnLost::Skip,
                "fail" => OnLost::Fail,
                _ => OnLost::Hold,
            },
            waves: u32::try_from(waves.len().max(1)).unwrap_or(u32::MAX),
            soak: book.rollout.soak,
            cuts: cuts.collect(),
            elected: (0..).zip(&segments).filter(|(_, of)| of.kind == SegmentKind::Elected).map(|(at, _)| at).collect(),
        };
        let own = segments.iter().enumerate().filter(|(_, segment)| segment.kind == SegmentKind::Own);
        let own = own
            .filter_map(|(index, segment)| {
                let task = book.tasks.get(segment.tasks.start)?;
                let serialize = task.serialize.as_ref()?;
                let (budget, mut partitions) = budget_of(set, book, &id, serialize);
                if budget == id {
                    // The partition is added to the budget of the TaskBook, so that failures in the partition count for
                    // the TaskBook.
                    let of = |node: &String| partitions.get(node).cloned().unwrap_or_else(|| "-".to_owned());
                    partitions =
                        spec.known.iter().map(|node| (node.clone(), format!("={index}{}", of(node)))).collect();
                }
                let slot_failures = slot_limit(set, manifest, book, serialize);
                let count = Some(count_of(serialize));
                Some((index, RolloutSpec { budget, partitions, count, slot_failures, shared: true, ..spec.clone() }))
            })
            .collect();
        Some(Self { spec, segments, own })
    }

    /// Returns the run that removes the items of a deleted TaskBook. The removal run has one segment, which contains no
    /// tasks. The slot of the removal run belongs to the budget that the TaskBook had before its deletion.
    pub(crate) fn of_gone(
        set: &ObjectSet,
        accepted: &AcceptedId,
        manifest: &RevisionManifest,
        book: &str,
        slots: &LastSlots,
    ) -> Self {
        let named = slots.budget.split_once("/slot=");
        let spec = RolloutSpec {
            book: book.to_owned(),
            budget: slots.budget.clone(),
            run: format!("{book}@gone"),
            accepted: accepted.clone(),
            members: slots.targets.iter().map(|node| (node.clone(), 0)).collect(),
            known: set.all_nodes().into_iter().chain(slots.targets.iter().cloned()).collect(),
            partitions: slots.partitions.clone(),
            count: slots.count,
            max_failures: slots.max_failures,
            slot_failures: named.and_then(|(namespace, slot)| slot_failures(set, manifest, namespace, slot)),
            shared: true,
            waves: 1,
            ..RolloutSpec::default()
        };
        let segment = Segment { tasks: 0..0, barrier: false, kind: SegmentKind::Tasks };
        Self { spec, segments: vec![segment], own: BTreeMap::new() }
    }

    /// Returns the slot settings of the last segment. The run removes items in the last segment.
    pub(crate) fn last_slots(&self) -> LastSlots {
        let spec = self.spec_of(self.segments.len().saturating_sub(1));
        LastSlots {
            budget: spec.budget.clone(),
            partitions: spec.partitions.clone(),
            targets: spec.members.keys().chain(&spec.late).cloned().collect(),
            count: spec.count,
            max_failures: spec.max_failures,
        }
    }

    /// Returns one rollout definition for each budget of the run. The first rollout definition uses the budget of the
    /// TaskBook.
    pub(crate) fn budgets(&self) -> Vec<&RolloutSpec> {
        [&self.spec].into_iter().chain(self.own.values()).collect()
    }

    /// Returns the rollout definition with the budget of one segment.
    pub(crate) fn spec_of(&self, segment: usize) -> &RolloutSpec {
        self.own.get(&segment).unwrap_or(&self.spec)
    }
}

/// Returns, for each coordinated TaskBook, the budgets, the target nodes, and the nodes that can be elected.
pub(crate) fn rights(
    set: &ObjectSet,
    accepted: &AcceptedId,
    manifest: &RevisionManifest,
) -> BTreeMap<String, BookRights> {
    let of = |book: &Book| {
        let run = Run::of(set, accepted, manifest, book)?;
        let targets: BTreeSet<String> = set.targets_of(book).into_iter().collect();
        let elected = run.segments.iter().filter(|segment| segment.kind == SegmentKind::Elected);
        let tasks = elected.filter_map(|segment| book.tasks.get(segment.tasks.start));
        let eligible = tasks
            .map(|task| {
                let may = |node: &&String| may_be_elected(set, task, node);
                (task.id.clone(), targets.iter().filter(may).cloned().collect())
            })
            .collect();
        let budgets = run.own.values().chain([&run.spec]).map(|spec| spec.budget.clone()).collect();
        Some((book.id(), BookRights { budgets, targets, eligible }))
    };
    set.books.values().filter_map(|book| of(book)).collect()
}

/// Returns true if a target node is eligible for the election of a task (P79).
pub(crate) fn may_be_elected(set: &ObjectSet, task: &Task, node: &str) -> bool {
    let Some(elect) = &task.elect else { return false };
    elect.nodes.is_empty() && elect.node_groups.is_empty()
        || elect.nodes.iter().any(|name| name == node)
        || set.groups_of(node).iter().any(|group| elect.node_groups.contains(group))
}

/// Returns the digests of all TaskBooks that need coordination.
pub(crate) fn digests(set: &ObjectSet) -> BTreeMap<String, String> {
    let coordinated = set.books.values().filter(|book| book.targets.is_some() && needs_run(set, book));
    coordinated.map(|book| (book.id(), book_digest(set, book))).collect()
}

/// Returns whether a TaskBook needs a run. A TaskBook needs a run if it is coordinated, or if another TaskBook waits
/// until all nodes have completed it.
fn needs_run(set: &ObjectSet, book: &Book) -> bool {
    let waited_for = |other: &Book| {
        other.namespace == book.namespace
            && other.depends_on.iter().any(|dependency| dependency.fleet && dependency.book == book.name)
    };
    book.coordinated() || set.books.values().any(|other| waited_for(other))
}

/// Sorts nodes into the order in which they join the waves of a rollout. All nodes compute the same order, but each
/// TaskBook has a different order (P68).
fn in_order(book: &str, mut nodes: Vec<String>) -> Vec<String> {
    nodes.sort_by_cached_key(|node| sha2::Sha256::digest(format!("{book}\0{node}")).to_vec());
    nodes
}

fn count(serialize: &pb::Serialize, of: u64) -> u64 {
    let written = Value::String(serialize.count.clone().unwrap_or_default());
    Count::read(&written).map_or(1, |count| count.at_least_one(of)).max(1)
}

fn max_failures(book: &Book, of: u64) -> u64 {
    match book.rollout.max_failures {
        None => 0,
        Some(Count::Nodes(nodes)) => nodes,
        Some(Count::Percent(percent)) => of * percent / 100,
    }
}

/// Returns the target nodes that a run waits for, and the target nodes that joined after the run began.
fn members(set: &ObjectSet, manifest: &RevisionManifest, book: &Book) -> Option<(Vec<String>, Vec<String>)> {
    let entry = manifest.books.get(&book.id())?;
    let joined: BTreeSet<&str> = manifest.joined.get(&entry.since).into_iter().flatten().map(String::as_str).collect();
    Some(set.targets_of(book).into_iter().partition(|node| joined.contains(node.as_str())))
}

/// Returns the failure limit of a named slot. Returns `None` if the slot has no name.
fn slot_limit(set: &ObjectSet, manifest: &RevisionManifest, book: &Book, serialize: &pb::Serialize) -> Option<u64> {
    slot_failures(set, manifest, &book.namespace, serialize.slot.as_ref()?)
}

/// Returns the smallest `maxFailures` of the books that share a named slot. Returns `None` if no book shares the slot,
/// or if `failAfterAllTargetsRan` is set in all books that share the slot.
fn slot_failures(set: &ObjectSet, manifest: &RevisionManifest, namespace: &str, slot: &str) -> Option<u64> {
    let shares = |other: &&Book| {
        let own = other.tasks.iter().filter_map(|task| task.serialize.as_ref()).chain(&other.rollout.serialize);
        other.namespace == namespace
            && !other.rollout.fail_after_all
            && own.into_iter().any(|serialize| serialize.slot.as_deref() == Some(slot))
    };
    let limit = |other: &Book| {
        let (members, _) = members(set, manifest, other)?;
        Some(max_failures(other, members.len() as u64))
    };
    set.books.values().map(|other| &**other).filter(shares).filter_map(limit).min()
}

/// Returns the name of a budget, and the partition of each node in the budget (P67).
fn budget_of(set: &ObjectSet, book: &Book, own: &str, serialize: &pb::Serialize) -> (String, BTreeMap<String, String>) {
    let budget = match &serialize.slot {
        Some(slot) => format!("{}/slot={slot}", book.namespace),
        None => own.to_owned(),
    };
    let value = |label: &String| {
        set.nodes
            .iter()
            .map(|(node, object)| {
                let value = object.labels.get(label).filter(|value| !value.is_empty());
                (
                    node.clone(),
                    value.map_or_else(
                        || "-".to_owned(),
                        |value| format!("={}", value.replace('%', "%25").replace('/', "%2F")),
                    ),
                )
            })
            .collect()
    };
    (budget, serialize.per.as_ref().map(value).unwrap_or_default())
}

/// Returns the members of each wave. Each wave includes the members of all earlier waves (P68).
fn waves(set: &ObjectSet, book: &Book, members: &[String]) -> Vec<BTreeSet<String>> {
    let mut taken: BTreeSet<String> = BTreeSet::new();
    let mut waves = Vec::new();
    for wave in &book.rollout.waves {
        match wave.get("nodeGroups").and_then(Value::as_array) {
            Some(groups) => {
                let named: BTreeSet<&str> = groups.iter().filter_map(Value::as_str).collect();
                let inside = |node: &&String| set.groups_of(node).iter().any(|group| named.contains(group.as_str()));
                taken.extend(members.iter().filter(inside).cloned());
            }
            None => {
                let wanted = match Count::read(wave) {
                    Ok(Count::Nodes(nodes)) => nodes,
                    Ok(Count::Percent(percent)) => (members.len() as u64 * percent).div_ceil(100),
                    Err(_) => members.len() as u64,
                };
                for node in members {
                    if taken.len() as u64 >= wanted {
                        break;
                    }
                    taken.insert(node.clone());
                }
            }
        }
        // A wave that adds no node to the earlier waves is dropped.
        if waves.last() != Some(&taken) {
            waves.push(taken.clone());
        }
    }
    // Members that the TaskBook assigns to no wave form the last wave.
    if waves.last().is_none_or(|last| last.len() < members.len()) {
        waves.push(members.iter().cloned().collect());
    }
    waves
}

fn wave_of(waves: &[BTreeSet<String>], node: &str) -> u32 {
    let found = waves.iter().position(|wave| wave.contains(node)).unwrap_or(waves.len().saturating_sub(1));
    u32::try_from(found).unwrap_or(u32::MAX)
}
