//! Rollouts while members of the etcd fail, and after an etcd was wiped.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use towpath_coordination::store::{
    Op, Store as _, Txn,
    etcd::{EtcdOptions, EtcdStore},
};
use towpath_tests::{etcd::Etcd, fleet::Fleet, long, node::condition, ok};

/// The additional time that a rollout may take while one member is failed.
const MORE: Duration = Duration::from_secs(15);

/// Returns a book with slots, a barrier and an election. Each number is another definition.
fn book(fleet: &Fleet, number: u32) -> String {
    let log = fleet.log_file().display().to_string();
    let stamp = |word: &str| format!("echo $(date +%s%N) {word}{number} $TOWPATH_NODE >> {log}");
    format!(
        "metadata: {{apiVersion: v1alpha, kind: TaskBook, name: web, namespace: app}}
spec:
  targets: {{nodeGroups: [web]}}
  rollout: {{serialize: {{count: 2}}}}
  tasks:
    - name: work
      command: {{shell: '{}'}}
    - name: together
      sync: true
      command: {{shell: '{}'}}
    - name: chosen
      elect: {{count: 1}}
      command: {{shell: '{}'}}
",
        stamp("work"),
        stamp("together"),
        stamp("chosen"),
    )
}

/// Runs a rollout and returns its duration. No node may report the store unreachable meanwhile.
fn roll(fleet: &mut Fleet, number: u32, timeout: Duration) -> Duration {
    roll_while(fleet, number, timeout, |_| {})
}

/// Runs a rollout as [`roll`] does, and calls `act` once the first node works.
fn roll_while(fleet: &mut Fleet, number: u32, timeout: Duration, act: impl FnOnce(&mut Fleet)) -> Duration {
    let begin = Instant::now();
    let head = fleet.publish(&book(fleet, number));
    let work = format!("work{number}");
    fleet.wait(timeout.as_secs(), |fleet| fleet.happened().iter().any(|(_, what, _)| *what == work));
    act(fleet);
    fleet.wait(timeout.as_secs(), |fleet| {
        for node in &fleet.nodes {
            let Some(status) = node.ask(&["status"]) else { continue };
            for kind in ["Held", "Reconciling", "Stalled"] {
                let shown = condition(&status, kind);
                assert_ne!(shown["reason"], "StoreUnreachable", "{}: {shown}", node.name);
            }
        }
        fleet.nodes.iter().all(|node| node.applied(&head))
    });
    let took = begin.elapsed();
    let happened = fleet.happened();
    let times = |word: &str| happened.iter().filter(|(_, what, _)| *what == format!("{word}{number}")).count();
    let count = fleet.nodes.len();
    assert_eq!((times("work"), times("together"), times("chosen")), (count, count, 1), "{happened:?}");
    took
}

#[test]
fn rollout_with_a_failed_member_takes_seconds_more() {
    let mut fleet = Fleet::new(if long() { 6 } else { 3 }, Etcd::three_behind_proxies);
    let undisturbed = roll(&mut fleet, 1, Duration::from_secs(90));
    let timeout = undisturbed + MORE;
    fleet.etcd.kill(0);
    let dead = roll(&mut fleet, 2, timeout);
    fleet.etcd.begin(0);
    fleet.etcd.healthy();
    fleet.etcd.pause_member(1, true);
    let stopped = roll(&mut fleet, 3, timeout);
    fleet.etcd.pause_member(1, false);
    fleet.etcd.healthy();
    let silent = if long() {
        fleet.etcd.proxies()[2].hold(true, true);
        roll(&mut fleet, 4, timeout)
    } else {
        Duration::ZERO
    };
    println!("undisturbed {undisturbed:?}, dead {dead:?}, stopped {stopped:?}, silent {silent:?}");
}

/// Maintenance is compaction, defragmentation, and a restart of each member.
#[test]
fn maintenance_of_the_members_disturbs_no_rollout() {
    let mut fleet = Fleet::new(3, Etcd::three);
    let timeout = Duration::from_secs(90);
    roll(&mut fleet, 1, timeout);
    let compact = |fleet: &mut Fleet| {
        let read = ok(fleet.etcd.ctl().args(["get", "x", "-w=json"]));
        let read: serde_json::Value = serde_json::from_slice(&read.stdout).unwrap();
        ok(fleet.etcd.ctl().args(["compact", &read["header"]["revision"].to_string()]));
        ok(fleet.etcd.ctl().arg("defrag"));
    };
    roll_while(&mut fleet, 2, timeout, compact);
    let restart = |fleet: &mut Fleet| {
        for member in 0..3 {
            fleet.etcd.kill(member);
            fleet.etcd.begin(member);
            fleet.etcd.healthy();
        }
    };
    roll_while(&mut fleet, 3, timeout, restart);
    // All watches have moved to other members, and still receive changes.
    roll_while(&mut fleet, 4, timeout, compact);
}

/// Wipes the only member of an etcd. Other clients then write to the new one.
fn wipe(fleet: &mut Fleet) {
    fleet.etcd.kill(0);
    fleet.etcd.forget(0);
    fleet.etcd.begin(0);
    fleet.etcd.healthy();
    // Its revision is soon higher than the one that the nodes knew.
    let elsewhere =
        EtcdOptions { endpoints: fleet.etcd.endpoints(), prefix: "/elsewhere/".into(), ..EtcdOptions::default() };
    let elsewhere = EtcdStore::new(elsewhere).unwrap();
    for number in 0..200 {
        let put = Op::put(format!("k{number}"), Vec::new());
        elsewhere.commit(&Txn { then: vec![put], ..Txn::default() }).unwrap();
    }
}

fn waits_after_a_restore(fleet: &Fleet, node: usize) -> bool {
    let status = fleet.nodes[node].ask(&["status"]).unwrap_or_default();
    let shown = condition(&status, "Held");
    shown["message"].as_str().is_some_and(|message| message.contains("n2"))
}

/// A wiped etcd does not contain the slot of a dead holder. No other node may get this slot.
fn wiped_etcd_counts_as_restored(new: impl FnOnce(usize, fn(&Path) -> Etcd) -> Fleet) {
    let mut fleet = new(3, |folder| Etcd::single(folder, "etcd"));
    roll(&mut fleet, 1, Duration::from_secs(90));
    for agent in &mut fleet.agents {
        *agent = None;
    }
    wipe(&mut fleet);
    // n2 stays down. It may hold a slot.
    fleet.begin(0);
    fleet.begin(1);
    let head = fleet.publish(&book(&fleet, 2));
    fleet.wait(45, |fleet| waits_after_a_restore(fleet, 0) && waits_after_a_restore(fleet, 1));
    std::thread::sleep(Duration::from_secs(3));
    assert!(fleet.happened().iter().all(|(_, what, _)| what != "work2"), "a slot was given: {:?}", fleet.happened());
    fleet.begin(2);
    fleet.wait_for(&head, 90);
}

#[test]
fn etcd_wiped_while_agents_are_down_counts_as_restored() {
    wiped_etcd_counts_as_restored(|count, etcd| Fleet::new(count, etcd));
}

#[test]
fn wiped_etcd_of_nodes_with_certificates_counts_as_restored() {
    wiped_etcd_counts_as_restored(|count, etcd| Fleet::secured(count, etcd));
}
