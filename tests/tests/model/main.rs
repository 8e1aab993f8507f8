//! The rollout under a model checker: the agent's own decisions for 2 to 4 nodes.
//!
//! The checker explores every order of reads, commits, crashes, lost leases, acceptances and adoptions.

mod fleet;
mod look;
mod mutations;
mod state;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Mutex,
};

use fleet::Fleet;
use mutations::Mutation;
use state::{Action, name, record};
use stateright::{Checker, HasDiscoveries, Model};
use towpath_coordination::{
    AcceptedId,
    rollout::{Cut, OnLost, RolloutSpec},
};

/// The limit of explored states for one configuration, and for a configuration with a mutation.
const LIMIT: usize = 500_000;

/// Returns the limit of explored states for one configuration without a mutation.
fn bound() -> usize {
    if std::env::var_os("TOWPATH_LONG").is_some() { LIMIT } else { 100_000 }
}

/// Creates a revision. The book's definition is the same as long as `since` is the same.
fn revision(generation: u64, since: u64, nodes: usize, count: u64) -> RolloutSpec {
    RolloutSpec {
        book: "b/k".into(),
        budget: "b/k".into(),
        run: format!("b/k@{since}"),
        accepted: AcceptedId { generation, digest: String::new() },
        members: (0..nodes).map(|node| (name(node), 0)).collect(),
        late: Vec::new(),
        known: (0..nodes).map(name).collect(),
        partitions: BTreeMap::new(),
        count: Some(count),
        max_failures: 0,
        fail_after_all: false,
        slot_failures: None,
        shared: false,
        on_lost: OnLost::Hold,
        waves: 1,
        soak: std::time::Duration::ZERO,
        cuts: Vec::new(),
        elected: BTreeSet::new(),
    }
}

fn barrier(spec: RolloutSpec) -> RolloutSpec {
    RolloutSpec { cuts: vec![Cut::Barrier], ..spec }
}

/// Makes the first node the first wave, and the others the second.
fn waves(mut spec: RolloutSpec) -> RolloutSpec {
    spec.waves = 2;
    for (node, wave) in &mut spec.members {
        *wave = u32::from(node != "n0");
    }
    spec
}

fn without(mut spec: RolloutSpec, node: usize) -> RolloutSpec {
    spec.members.remove(&name(node));
    spec
}

/// Adds a second segment that is an elected task.
fn election(spec: RolloutSpec) -> RolloutSpec {
    RolloutSpec { cuts: vec![Cut::Passage], elected: BTreeSet::from([1]), ..spec }
}

fn fleet(nodes: usize, revisions: Vec<RolloutSpec>) -> Fleet {
    books(nodes, revisions.into_iter().map(|spec| vec![spec]).collect())
}

fn books(nodes: usize, mut revisions: Vec<Vec<RolloutSpec>>) -> Fleet {
    for (index, specs) in revisions.iter_mut().enumerate() {
        specs.iter_mut().for_each(|spec| spec.accepted = record(index, spec.accepted.generation).id());
    }
    Fleet {
        nodes,
        revisions,
        changes: |_, _| true,
        check_fails: |_, _| false,
        eligible: |_| true,
        elects: 1,
        crashes: 0,
        leases: 0,
        failures: 0,
        absences: 0,
        forgets: 0,
        restores: 0,
        prelude: Vec::new(),
        sleeps: false,
        mutation: None,
        ends: Mutex::default(),
    }
}

/// A situation that broke an earlier rule, and the mutations that break it again.
struct Case {
    name: &'static str,
    fleet: fn() -> Fleet,
    mutations: &'static [Mutation],
}

/// The configurations. They are named after the traces that are kept as regressions.
const CASES: &[Case] = &[
    Case {
        name: "one slot, three nodes: one free slot, two readers; late taker",
        fleet: || fleet(3, vec![revision(1, 1, 3, 1)]),
        mutations: &[
            Mutation::NoBudget,
            Mutation::NoLaterLook,
            Mutation::NothingCompared,
            Mutation::OfferNotCompared,
            Mutation::OffersDoNotCount,
        ],
    },
    Case {
        name: "removed while offered",
        fleet: || fleet(3, vec![revision(1, 1, 3, 1), without(revision(2, 1, 3, 1), 0)]),
        mutations: &[Mutation::LeaversKeep],
    },
    Case {
        name: "old limit",
        fleet: || fleet(3, vec![revision(1, 1, 3, 2), revision(2, 1, 3, 1)]),
        mutations: &[Mutation::NoGeneration],
    },
    Case {
        name: "joiner and barrier",
        fleet: || fleet(2, vec![without(barrier(revision(1, 1, 2, 1)), 1), barrier(revision(2, 1, 2, 1))]),
        mutations: &[Mutation::NoGeneration],
    },
    Case {
        name: "offer of a larger count",
        fleet: || fleet(3, vec![revision(1, 1, 3, 2), revision(2, 2, 3, 1)]),
        mutations: &[Mutation::NoGeneration],
    },
    Case {
        name: "removed and back",
        fleet: || fleet(2, vec![revision(1, 1, 2, 1), without(revision(2, 1, 2, 1), 0), revision(3, 1, 2, 1)]),
        mutations: &[],
    },
    Case {
        name: "dead head",
        fleet: || Fleet { crashes: 1, leases: 1, ..fleet(3, vec![revision(1, 1, 3, 1)]) },
        mutations: &[],
    },
    Case {
        name: "a holder dies",
        fleet: || Fleet { crashes: 1, leases: 1, ..fleet(2, vec![revision(1, 1, 2, 1)]) },
        mutations: &[Mutation::LeaseFreesTheSlot],
    },
    Case {
        name: "failures forgotten",
        fleet: || Fleet { failures: 2, ..fleet(3, vec![revision(1, 1, 3, 1), revision(2, 2, 3, 1)]) },
        mutations: &[],
    },
    Case {
        name: "failures forgotten, of two nodes",
        fleet: || Fleet { failures: 2, ..fleet(2, vec![revision(1, 1, 2, 1), revision(2, 2, 2, 1)]) },
        mutations: &[Mutation::FailuresForgotten],
    },
    Case {
        name: "failures before the admission, mended by a commit",
        fleet: || Fleet {
            check_fails: |_, generation| generation == 1,
            ..fleet(2, vec![revision(1, 1, 2, 1), waves(revision(2, 2, 2, 1))])
        },
        mutations: &[Mutation::UnadmittedNeedsNoSlot],
    },
    Case {
        name: "lost without a claim",
        fleet: || {
            let fail = |spec: RolloutSpec| RolloutSpec { on_lost: OnLost::Fail, max_failures: 1, ..spec };
            Fleet { crashes: 1, leases: 1, ..fleet(3, vec![fail(revision(1, 1, 3, 1))]) }
        },
        mutations: &[],
    },
    Case {
        name: "left the targets",
        fleet: || {
            let left = |spec: RolloutSpec| without(spec, 0);
            fleet(2, vec![revision(1, 1, 2, 1), left(revision(2, 2, 2, 1))])
        },
        mutations: &[Mutation::LeaversKeep],
    },
    Case {
        name: "no vote before a crash",
        fleet: || Fleet { crashes: 1, leases: 1, ..fleet(2, vec![waves(revision(1, 1, 2, 1))]) },
        mutations: &[],
    },
    Case { name: "asleep", fleet: || fleet(2, vec![waves(revision(1, 1, 2, 1))]), mutations: &[Mutation::NoLaterLook] },
    Case {
        name: "a written-off holder returns",
        fleet: || {
            let skip = |spec: RolloutSpec| RolloutSpec { on_lost: OnLost::Skip, ..spec };
            Fleet { crashes: 1, leases: 1, ..fleet(2, vec![skip(revision(1, 1, 2, 1))]) }
        },
        mutations: &[Mutation::WrittenOffGoesOn],
    },
    Case {
        name: "a failed node that is lost later",
        fleet: || {
            let skip = |spec: RolloutSpec| RolloutSpec { on_lost: OnLost::Skip, ..spec };
            Fleet { crashes: 1, leases: 1, failures: 1, ..fleet(3, vec![skip(revision(1, 1, 3, 1))]) }
        },
        // The case above shows what a written-off node must not do. Here the failure ends its run before it returns.
        mutations: &[],
    },
    Case {
        name: "a node that stays lost in a later run",
        fleet: || {
            let skip = |spec: RolloutSpec| RolloutSpec { on_lost: OnLost::Skip, ..spec };
            Fleet { crashes: 1, leases: 1, ..fleet(2, vec![skip(revision(1, 1, 2, 1)), skip(revision(2, 2, 2, 1))]) }
        },
        mutations: &[],
    },
    Case {
        name: "a barrier between two segments",
        fleet: || fleet(3, vec![barrier(revision(1, 1, 3, 1))]),
        mutations: &[Mutation::BarrierOneEarly],
    },
    Case {
        name: "a failure before a barrier",
        fleet: || {
            let one = |spec: RolloutSpec| RolloutSpec { max_failures: 1, ..spec };
            Fleet { failures: 1, ..fleet(2, vec![one(barrier(revision(1, 1, 2, 1)))]) }
        },
        mutations: &[],
    },
    Case {
        name: "a revert to an earlier definition",
        fleet: || {
            fleet(2, vec![barrier(revision(1, 1, 2, 1)), barrier(revision(2, 2, 2, 1)), barrier(revision(3, 3, 2, 1))])
        },
        mutations: &[Mutation::OldVoteCounts],
    },
    Case {
        name: "all claims carried into a new run",
        fleet: || Fleet { crashes: 1, ..fleet(3, vec![waves(revision(1, 1, 3, 2)), waves(revision(2, 2, 3, 1))]) },
        mutations: &[],
    },
    Case {
        name: "some have nothing to change",
        fleet: || Fleet {
            changes: |node, segment| (node + segment as usize).is_multiple_of(2),
            ..fleet(3, vec![barrier(waves(revision(1, 1, 3, 1)))])
        },
        mutations: &[],
    },
    Case {
        name: "elected and removed",
        fleet: || fleet(2, vec![election(revision(1, 1, 2, 1)), without(election(revision(2, 1, 2, 1)), 0)]),
        mutations: &[Mutation::RemovedStaysElected],
    },
    Case {
        name: "elected in a later wave",
        fleet: || Fleet { eligible: |node| node == 1, ..fleet(2, vec![waves(election(revision(1, 1, 2, 1)))]) },
        mutations: &[Mutation::ElectedHasWaves],
    },
    Case {
        name: "an elected task fails",
        fleet: || Fleet { failures: 1, crashes: 1, ..fleet(2, vec![election(revision(1, 1, 2, 1))]) },
        mutations: &[],
    },
    Case {
        name: "two are elected",
        fleet: || Fleet { elects: 2, crashes: 1, ..fleet(3, vec![election(revision(1, 1, 3, 3))]) },
        mutations: &[],
    },
    Case {
        name: "restored, holder dead",
        fleet: || Fleet {
            restores: 1,
            crashes: 1,
            leases: 1,
            prelude: vec![Action::Backup],
            ..fleet(2, vec![revision(1, 1, 2, 1)])
        },
        mutations: &[Mutation::NoRepublish],
    },
    Case {
        name: "restored election",
        fleet: || Fleet {
            restores: 1,
            crashes: 1,
            prelude: vec![Action::Backup],
            ..fleet(2, vec![election(revision(1, 1, 2, 2))])
        },
        mutations: &[Mutation::NoRepublish],
    },
    Case {
        name: "restored write-off",
        fleet: || {
            let skip = |spec: RolloutSpec| RolloutSpec { on_lost: OnLost::Skip, ..spec };
            // The backup is taken while the first node holds its slot. Then this node crashes and is lost.
            let look = Action::Look { node: 0, book: 0, late: false };
            let prelude = vec![look, Action::Commit(0), look, Action::Commit(0), look];
            let prelude = [prelude, vec![Action::Backup, Action::Crash(0), Action::LoseLease(0)]].concat();
            Fleet { restores: 1, crashes: 1, leases: 1, prelude, ..fleet(2, vec![skip(revision(1, 1, 2, 1))]) }
        },
        mutations: &[Mutation::NoRepublish],
    },
    Case {
        name: "restored after a barrier, with a newer revision",
        fleet: || Fleet { restores: 1, ..fleet(2, vec![barrier(revision(1, 1, 2, 1)), barrier(revision(2, 2, 2, 1))]) },
        mutations: &[],
    },
    Case {
        name: "restored, and another revision takes the same number",
        fleet: || {
            // The first node has adopted the revision that the store loses. The other revision gives fewer slots.
            let prelude = vec![Action::Backup, Action::Accept, Action::Follow(0)];
            let other = RolloutSpec { run: "b/k@2.other".into(), ..barrier(revision(2, 2, 2, 1)) };
            let revisions = vec![barrier(revision(1, 1, 2, 1)), barrier(revision(2, 2, 2, 2)), other];
            Fleet { restores: 1, prelude, ..fleet(2, revisions) }
        },
        mutations: &[Mutation::DigestNotCompared, Mutation::OldVoteCounts],
    },
    Case {
        name: "two books, each with a barrier, share a budget",
        fleet: || {
            let one = barrier(revision(1, 1, 2, 1));
            books(2, vec![vec![one.clone(), second(one)]])
        },
        mutations: &[Mutation::NoneNewerNotCompared],
    },
    Case {
        name: "an absence that is planned",
        fleet: || {
            let skip = |spec: RolloutSpec| RolloutSpec { on_lost: OnLost::Skip, ..spec };
            Fleet { absences: 1, leases: 1, ..fleet(2, vec![skip(revision(1, 1, 2, 1))]) }
        },
        mutations: &[Mutation::AbsenceIsLoss],
    },
    Case {
        name: "a wave that soaks",
        fleet: || {
            let soak = std::time::Duration::from_secs(60);
            Fleet {
                failures: 1,
                ..fleet(2, vec![RolloutSpec { soak, max_failures: 1, ..waves(revision(1, 1, 2, 1)) }])
            }
        },
        mutations: &[],
    },
    Case {
        name: "a journal that is lost",
        fleet: || Fleet { crashes: 1, forgets: 1, ..fleet(2, vec![barrier(revision(1, 1, 2, 1))]) },
        mutations: &[],
    },
    Case {
        name: "news between request and answer",
        fleet: || sleepers(3, vec![revision(1, 1, 3, 1)]),
        mutations: &[Mutation::NewsInTheAnswer, Mutation::NothingOfferedOn],
    },
    Case {
        name: "news between request and answer, at a barrier",
        fleet: || sleepers(2, vec![barrier(waves(revision(1, 1, 2, 1)))]),
        mutations: &[Mutation::NewsInTheAnswer],
    },
    Case {
        name: "a slot freed without an offer: a failure that the run permits",
        fleet: || {
            let one = |spec: RolloutSpec| RolloutSpec { max_failures: 1, ..spec };
            Fleet { failures: 1, ..waiters(vec![one(revision(1, 1, 3, 1))]) }
        },
        mutations: &[Mutation::NothingOfferedOn],
    },
    Case {
        name: "a slot freed without an offer: a failure completes a wave",
        fleet: || {
            let one = |spec: RolloutSpec| RolloutSpec { max_failures: 1, ..spec };
            Fleet { failures: 1, ..sleepers(2, vec![one(waves(revision(1, 1, 2, 1)))]) }
        },
        mutations: &[Mutation::FailuresOpenNothing],
    },
    Case {
        name: "a slot freed without an offer: a halt that ends",
        fleet: || Fleet { failures: 1, ..waiters(vec![revision(1, 1, 3, 1)]) },
        mutations: &[Mutation::NothingOfferedOn],
    },
    Case {
        name: "a slot freed without an offer: a halt that ends, with two slots",
        fleet: || Fleet { failures: 2, ..sleepers(3, vec![revision(1, 1, 3, 2)]) },
        // The next case shows what happens without the compares, after fewer steps.
        mutations: &[],
    },
    Case {
        name: "a slot freed without an offer: a slot freed during a halt",
        fleet: || {
            // Two nodes have slots, one of them fails, and two wait.
            let look = |node| Action::Look { node, book: 0, late: false };
            let takes = |node| vec![look(node), Action::Commit(node), look(node), Action::Commit(node), look(node)];
            let fails = vec![Action::Work { node: 0, well: false }, look(0), Action::Commit(0), look(0)];
            let prelude = [takes(0), takes(1), fails, waits(2), waits(3)].concat();
            Fleet { failures: 1, prelude, ..sleepers(4, vec![revision(1, 1, 4, 2)]) }
        },
        mutations: &[Mutation::OtherSlotsNotCompared],
    },
    Case {
        name: "a slot freed without an offer: a halt that begins and ends, with a failure that the run permits",
        fleet: || {
            let one = |spec: RolloutSpec| RolloutSpec { max_failures: 1, ..spec };
            Fleet { failures: 2, ..sleepers(3, vec![one(revision(1, 1, 3, 1))]) }
        },
        mutations: &[Mutation::NoneNewerNotCompared],
    },
    Case {
        name: "a slot freed without an offer: a halt that ends, without slots",
        fleet: || {
            let all = |spec: RolloutSpec| RolloutSpec { count: None, ..waves(spec) };
            Fleet { failures: 1, ..sleepers(2, vec![all(revision(1, 1, 2, 1))]) }
        },
        mutations: &[],
    },
    Case {
        name: "a slot freed without an offer: a commit elsewhere",
        fleet: || waiters(vec![revision(1, 1, 3, 1), revision(2, 1, 3, 1)]),
        mutations: &[Mutation::NothingOfferedOn],
    },
    Case {
        name: "a slot freed without an offer: a removed holder",
        fleet: || {
            let gone = |mut spec: RolloutSpec| {
                spec.known.remove(0);
                without(spec, 0)
            };
            waiters(vec![revision(1, 1, 3, 1), gone(revision(2, 1, 3, 1))])
        },
        mutations: &[],
    },
    Case {
        name: "a slot freed without an offer: a relabelled holder",
        fleet: || {
            let partitions = |spec: RolloutSpec, first: &str| {
                let partitions =
                    (0..3).map(|node| (name(node), if node == 0 { first } else { "a" }.to_owned())).collect();
                RolloutSpec { partitions, ..spec }
            };
            waiters(vec![partitions(revision(1, 1, 3, 1), "a"), partitions(revision(2, 1, 3, 1), "b")])
        },
        mutations: &[Mutation::NothingOfferedOn],
    },
];

/// Creates a fleet whose nodes sleep until they are notified.
fn sleepers(nodes: usize, revisions: Vec<RolloutSpec>) -> Fleet {
    Fleet { sleeps: true, ..fleet(nodes, revisions) }
}

/// Creates a sleeping fleet of three: the first node works, and the others wait in the queue.
fn waiters(revisions: Vec<RolloutSpec>) -> Fleet {
    let look = |node| Action::Look { node, book: 0, late: false };
    let prelude = [vec![look(0), Action::Commit(0), look(0)], waits(1), waits(2)].concat();
    Fleet { prelude, ..sleepers(3, revisions) }
}

/// Returns the actions with which a node joins the queue and falls asleep.
fn waits(node: usize) -> Vec<Action> {
    let look = Action::Look { node, book: 0, late: false };
    vec![look, Action::Commit(node), look, Action::Sleep(node)]
}

/// Returns the same book under another name, with the budget of the first.
fn second(spec: RolloutSpec) -> RolloutSpec {
    let run = spec.run.replace("b/k", "b/l");
    RolloutSpec { book: "b/l".into(), run, ..spec }
}

/// Returns the cases whose names contain TOWPATH_CASE. All of them if it is not set.
fn cases() -> impl Iterator<Item = &'static Case> {
    let wanted = std::env::var("TOWPATH_CASE").unwrap_or_default();
    CASES.iter().filter(move |case| case.name.contains(&wanted))
}

fn explore(fleet: Fleet, bound: usize) -> (usize, bool, Vec<(&'static str, usize, String)>) {
    let builder = fleet.checker().threads(2).target_state_count(bound).finish_when(HasDiscoveries::Any);
    let checker = builder.spawn_bfs().join();
    let found = checker
        .discoveries()
        .into_iter()
        .map(|(property, path)| {
            let actions = path.into_actions();
            (property, actions.len(), format!("{actions:#?}"))
        })
        .collect();
    let visited = checker.unique_state_count();
    (visited, checker.state_count() < bound, found)
}

#[test]
fn every_case_satisfies_the_invariants() {
    let mut wrong = Vec::new();
    for case in cases() {
        let begin = std::time::Instant::now();
        let (visited, exhausted, found) = explore((case.fleet)(), bound());
        let took = begin.elapsed().as_secs();
        let how = if exhausted { "exhausted" } else { "up to the bound" };
        println!("{}: {visited} states, {how}, {took} s", case.name);
        for (property, steps, trace) in found {
            wrong.push(format!("{}: not so: {property} ({steps} steps)\n{trace}", case.name));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

#[test]
fn every_removed_rule_yields_a_counterexample() {
    let mut missed = Vec::new();
    for case in cases() {
        for mutation in case.mutations {
            let mut fleet = Fleet { mutation: Some(*mutation), ..(case.fleet)() };
            mutation.revisions(&mut fleet.revisions);
            let (visited, _, found) = explore(fleet, LIMIT);
            match found.iter().min_by_key(|(_, steps, _)| *steps) {
                Some((property, steps, _)) => {
                    println!("{} without {mutation:?}: {steps} steps to: not so: {property}", case.name)
                }
                None => missed.push(format!("{} without {mutation:?}: nothing found in {visited} states", case.name)),
            }
        }
    }
    assert!(missed.is_empty(), "{}", missed.join("\n"));
}
