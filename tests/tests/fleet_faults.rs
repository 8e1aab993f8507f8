//! Faults in a fleet: nodes that die with a slot, and commits in the middle of a rollout. The etcd may be paused,
//! restored or full.

use std::{fs, process::Command, time::Duration};

use towpath_tests::{
    etcd::Etcd,
    fleet::Fleet,
    node::{Node, condition},
    ok, wait_until,
};

/// Starts one etcd without TLS. These tests do not need a quorum.
fn single(folder: &std::path::Path) -> Etcd {
    Etcd::single(folder, "etcd")
}

/// Returns a book whose task blocks on a node while a file exists.
fn book(fleet: &Fleet, rollout: &str, number: u32) -> String {
    let log = fleet.log_file().display().to_string();
    let folder = fleet.folder.path().display().to_string();
    format!(
        "metadata: {{apiVersion: v1alpha, kind: TaskBook, name: web, namespace: app}}
spec:
  targets: {{nodeGroups: [web]}}
  rollout: {rollout}
  tasks:
    - name: work
      command:
        shell: 'echo $(date +%s%N) begin{number} $TOWPATH_NODE >> {log}; while [ -e {folder}/block-$TOWPATH_NODE -o -e {folder}/block ]; do sleep 0.05; done; test ! -e {folder}/fail{number}-$TOWPATH_NODE || exit 1; echo $(date +%s%N) end{number} $TOWPATH_NODE >> {log}'
    - name: after it
      file: {{path: /after, content: \"{number}\"}}
"
    )
}

fn flag(fleet: &Fleet, name: &str) {
    fs::write(fleet.folder.path().join(name), "").unwrap();
}

fn unflag(fleet: &Fleet, name: &str) {
    fs::remove_file(fleet.folder.path().join(name)).unwrap();
}

fn seen(fleet: &Fleet, word: &str) -> Vec<String> {
    fleet.happened().into_iter().filter(|(_, what, _)| what == word).map(|(.., node)| node).collect()
}

fn number(node: &str) -> usize {
    node.trim_start_matches('n').parse().unwrap()
}

/// Returns a node that is in the middle of its work. Waits until there is one.
fn working(fleet: &Fleet, round: u32) -> String {
    fleet.wait(60, |fleet| seen(fleet, &format!("begin{round}")).len() > seen(fleet, &format!("end{round}")).len());
    let ended = seen(fleet, &format!("end{round}"));
    seen(fleet, &format!("begin{round}")).into_iter().find(|node| !ended.contains(node)).unwrap()
}

fn held(node: &Node) -> String {
    let Some(status) = node.ask(&["status"]) else { return String::new() };
    let held = condition(&status, "Held");
    if held["status"] == true { format!("{}: {}", held["reason"], held["message"]) } else { String::new() }
}

/// Kills the agent that holds the slot, and ends its task.
fn kill_working(fleet: &mut Fleet, round: u32) -> usize {
    flag(fleet, "block");
    let node = working(fleet, round);
    fleet.crash(number(&node));
    // The task of the killed agent would end at some time, as on a machine that lost its network.
    unflag(fleet, "block");
    std::thread::sleep(Duration::from_millis(300));
    number(&node)
}

#[test]
fn rollout_under_hold_waits_for_a_lost_holder() {
    let mut fleet = Fleet::new(3, single);
    flag(&fleet, "block");
    let head = fleet.publish(&book(&fleet, "{serialize: {count: 1}}", 1));
    let dead = kill_working(&mut fleet, 1);
    std::thread::sleep(Duration::from_secs(40));
    assert_eq!(seen(&fleet, "begin1").len(), 1, "another node was admitted: {:?}", fleet.happened());
    let other = &fleet.nodes[(dead + 1) % 3];
    assert!(held(other).contains(&format!("held by n{dead} ")), "{}", held(other));
    let rollouts = other.ask(&["rollouts"]).unwrap();
    assert_eq!(rollouts[0]["holding"][0]["liveness"], "lost", "{rollouts:#}");
    assert!(rollouts.to_string().contains(&format!("Start n{dead}, or remove it from git")), "{rollouts:#}");
    let nodes = other.ask(&["nodes"]).unwrap();
    assert_eq!(nodes[dead]["liveness"], "lost", "{nodes:#}");
    fleet.begin(dead);
    fleet.wait_for(&head, 90);
}

#[test]
fn rollout_continues_under_skip_and_a_returning_node_needs_a_new_slot() {
    let mut fleet = Fleet::new(3, single);
    flag(&fleet, "block");
    let head = fleet.publish(&book(&fleet, "{serialize: {count: 1}, onLostNode: skip}", 1));
    let dead = kill_working(&mut fleet, 1);
    fleet.wait(150, |fleet| (0..3).filter(|node| *node != dead).all(|node| fleet.nodes[node].applied(&head)));
    fleet.begin(dead);
    fleet.wait_for(&head, 90);
}

#[test]
fn lost_node_halts_the_run_under_fail_until_it_returns() {
    let mut fleet = Fleet::new(3, single);
    flag(&fleet, "block");
    let head = fleet.publish(&book(&fleet, "{serialize: {count: 1}, onLostNode: fail}", 1));
    let dead = kill_working(&mut fleet, 1);
    let other = (dead + 1) % 3;
    fleet.wait(150, |fleet| {
        fleet.nodes[other].ask(&["rollouts"]).is_some_and(|rollouts| rollouts[0]["phase"] == "halted")
    });
    assert_eq!(seen(&fleet, "begin1").len(), 1, "another node was admitted: {:?}", fleet.happened());
    fleet.begin(dead);
    fleet.wait_for(&head, 90);
}

#[test]
fn halted_rollout_takes_a_fix_and_ignores_other_commits() {
    let fleet = Fleet::new(3, single);
    flag(&fleet, "block");
    let _ = fleet.publish(&book(&fleet, "{serialize: {count: 1}}", 1));
    let first = working(&fleet, 1);
    // Another book changes while one node holds its slot.
    fleet.repository.write(
        "other.yaml",
        "metadata: {apiVersion: v1alpha, kind: TaskBook, name: other, namespace: app}
spec:
  targets: {nodeGroups: [web]}
  tasks:
    - name: other
      file: {path: /other, content: x}
",
    );
    let elsewhere = fleet.repository.publish("elsewhere");
    std::thread::sleep(Duration::from_secs(3));
    unflag(&fleet, "block");
    fleet.wait_for(&elsewhere, 60);
    let mut began = seen(&fleet, "begin1");
    began.sort();
    assert_eq!(began, ["n0", "n1", "n2"], "{first} was in its slot, and nothing was restarted");
    let runs: Vec<String> = fleet.nodes[0]
        .ask(&["rollouts"])
        .unwrap()
        .as_array()
        .unwrap()
        .iter()
        .map(|run| run["run"].as_str().unwrap().to_owned())
        .collect();
    assert!(runs.iter().any(|run| run.starts_with("app/web@2.")), "{runs:?}");
    // A failure halts the run.
    for node in 0..3 {
        flag(&fleet, &format!("fail2-n{node}"));
    }
    let _ = fleet.publish(&book(&fleet, "{serialize: {count: 1}}", 2));
    let halted = |fleet: &Fleet| {
        fleet.nodes[0]
            .ask(&["rollouts"])
            .is_some_and(|rollouts| rollouts.as_array().unwrap().iter().any(|run| run["phase"] == "halted"))
    };
    fleet.wait(60, halted);
    assert_eq!(seen(&fleet, "begin2").len(), 1, "{:?}", fleet.happened());
    let broken = seen(&fleet, "begin2").remove(0);
    let waiting = fleet.nodes.iter().find(|node| node.name != broken).unwrap();
    wait_until(
        Duration::from_secs(30),
        || held(waiting).contains(&format!("failed nodes {broken} (")),
        || held(waiting),
    );
    // The fix is another definition. It goes first to the failed node, then to all.
    let fixed = fleet.publish(&book(&fleet, "{serialize: {count: 1}}", 3));
    fleet.wait_for(&fixed, 90);
    assert_eq!(seen(&fleet, "begin3").first(), Some(&broken), "who failed goes first: {:?}", fleet.happened());
    assert!(seen(&fleet, "end2").is_empty());
}

#[test]
fn content_is_corrected_while_etcd_is_away_and_the_rollout_continues_afterwards() {
    let fleet = Fleet::new(3, Etcd::three);
    flag(&fleet, "block");
    let head = fleet.publish(&book(&fleet, "{serialize: {count: 1}}", 1));
    let inside = working(&fleet, 1);
    fleet.etcd.pause(true);
    let begin = std::time::Instant::now();
    let other = &fleet.nodes[(number(&inside) + 1) % 3];
    fs::write(other.root.join("base"), "drift").unwrap();
    other.wait_for_file("/base", "base");
    wait_until(
        Duration::from_secs(45),
        || {
            other.ask(&["status"]).is_some_and(|status| {
                condition(&status, "Held")["reason"] == "StoreUnreachable"
                    || condition(&status, "Reconciling")["reason"] == "StoreUnreachable"
            })
        },
        || format!("{:#}", other.ask(&["status"]).unwrap_or_default()),
    );
    // The task ends, and no other node is admitted meanwhile.
    unflag(&fleet, "block");
    std::thread::sleep(Duration::from_secs(60).saturating_sub(begin.elapsed()));
    assert_eq!(seen(&fleet, "begin1").len(), 1, "{:?}", fleet.happened());
    fleet.etcd.pause(false);
    fleet.wait_for(&head, 120);
}

#[test]
fn revert_is_rolled_out_in_its_own_waves() {
    let fleet = Fleet::new(3, single);
    let rollout = "{serialize: {count: 3}, waves: [1, 100%]}";
    for number in [1, 2, 1] {
        let _ = fs::remove_file(fleet.log_file());
        let begun = |fleet: &Fleet| seen(fleet, &format!("begin{number}")).len();
        flag(&fleet, "block");
        let head = fleet.publish(&book(&fleet, rollout, number));
        // The first wave is one node. The others check every second, and do not start before it has ended.
        fleet.wait(60, |fleet| begun(fleet) > 0);
        std::thread::sleep(Duration::from_secs(3));
        assert_eq!(begun(&fleet), 1, "{:?}", fleet.happened());
        unflag(&fleet, "block");
        fleet.wait_for(&head, 60);
        fleet.wait(30, |fleet| fleet.nodes[0].ask(&["rollouts"]).is_some_and(|all| all[0]["phase"] == "done"));
        assert_eq!((begun(&fleet), seen(&fleet, &format!("end{number}")).len()), (3, 3), "{:?}", fleet.happened());
    }
}

#[test]
fn claims_are_republished_after_an_etcd_restore_and_the_rollout_ends() {
    let mut fleet = Fleet::new(3, single);
    let backup = fleet.folder.path().join("backup");
    ok(fleet.etcd.ctl().arg("snapshot").arg("save").arg(&backup));
    flag(&fleet, "block");
    let head = fleet.publish(&book(&fleet, "{serialize: {count: 1}}", 1));
    let first = working(&fleet, 1);
    unflag(&fleet, "block");
    fleet.wait(60, |fleet| seen(fleet, "end1").len() == 1);
    flag(&fleet, "block");
    let _ = first;
    fleet.etcd.kill(0);
    fleet.etcd.restore(0, &backup);
    fleet.etcd.begin(0);
    fleet.etcd.healthy();
    unflag(&fleet, "block");
    fleet.wait_for(&head, 120);
    let rollouts = || fleet.nodes[0].ask(&["rollouts"]).unwrap_or_default();
    wait_until(Duration::from_secs(90), || rollouts()[0]["phase"] == "done", || format!("{:#}", rollouts()));
}

/// Neither a deletion of the record of acceptance nor a backup without it is announced to the nodes.
#[test]
fn rollout_continues_after_the_record_of_acceptance_was_deleted_or_replaced() {
    let fleet = Fleet::new(3, single);
    for (round, ruin) in [(1, &["del"][..]), (2, &["put"][..])] {
        flag(&fleet, "block");
        let head = fleet.publish(&book(&fleet, "{serialize: {count: 1}}", round));
        let _ = working(&fleet, round);
        let value = (ruin == ["put"]).then_some("{}");
        ok(fleet.etcd.ctl().args(ruin).arg("/towpath/default/shared/accepted").args(value));
        unflag(&fleet, "block");
        fleet.wait_for(&head, 60);
        assert_eq!(seen(&fleet, &format!("end{round}")).len(), 3, "{:?}", fleet.happened());
    }
}

#[test]
fn no_node_is_admitted_after_an_etcd_restore_that_lost_the_slot_of_a_dead_holder() {
    let mut fleet = Fleet::new(3, single);
    let backup = fleet.folder.path().join("backup");
    ok(fleet.etcd.ctl().arg("snapshot").arg("save").arg(&backup));
    // The node is half changed and dead. The backup does not contain its slot.
    let head = fleet.publish(&book(&fleet, "{serialize: {count: 1}}", 1));
    let dead = kill_working(&mut fleet, 1);
    fleet.etcd.kill(0);
    fleet.etcd.restore(0, &backup);
    fleet.etcd.begin(0);
    fleet.etcd.healthy();
    let other = (dead + 1) % 3;
    let says = |fleet: &Fleet| held(&fleet.nodes[other]).contains("was restored from a backup");
    fleet.wait(60, |fleet| says(fleet) && held(&fleet.nodes[other]).contains(&format!("Waiting for: n{dead}")));
    std::thread::sleep(Duration::from_secs(10));
    assert_eq!(seen(&fleet, "begin1"), [format!("n{dead}")], "another node was admitted\n{}", fleet.shown());
    fleet.begin(dead);
    fleet.wait_for(&head, 120);
    // The half-changed node continued. The others followed one at a time.
    let order: Vec<(String, String)> = fleet.happened().into_iter().map(|(_, what, node)| (what, node)).collect();
    let mut busy: Vec<&String> = Vec::new();
    for (what, node) in &order[1..] {
        if what == "begin1" {
            busy.push(node)
        } else {
            busy.retain(|other| *other != node)
        }
        assert!(busy.len() <= 1, "{order:?}");
    }
}

#[test]
fn full_etcd_is_reported_with_the_command_that_frees_space() {
    let folder_quota = ["--quota-backend-bytes", "4194304"];
    let fleet = Fleet::new(3, |folder| Etcd::start(folder, "etcd", 1, false, &folder_quota));
    let value = "x".repeat(100_000);
    for number in 0..200 {
        let put = fleet.etcd.ctl().args(["put", &format!("/elsewhere/{}", number % 2), &value]).output().unwrap();
        if !put.status.success() {
            break;
        }
    }
    let head = fleet.publish(&book(&fleet, "{serialize: {count: 1}}", 1));
    let status = || fleet.nodes[0].ask(&["status"]).unwrap_or_default().to_string();
    let hint = || {
        let text = fleet.nodes[0].ask(&["status"])?;
        let mut messages = text["conditions"].as_array()?.iter().filter_map(|condition| condition["message"].as_str());
        messages.find(|message| message.contains("the data store is full; free space with: ")).map(str::to_owned)
    };
    // The message is kept, because the next status may show another step.
    let mut found = None;
    let shown = || {
        found = hint();
        found.is_some()
    };
    wait_until(Duration::from_secs(60), shown, status);
    let message = found.unwrap();
    let command = message.split("free space with: ").nth(1).unwrap().split("; rollouts are paused").next().unwrap();
    fs::write(fleet.nodes[1].root.join("base"), "drift").unwrap();
    fleet.nodes[1].wait_for_file("/base", "base");
    ok(Command::new("sh").args(["-ec", command]).env("ETCDCTL_API", "3"));
    fleet.wait_for(&head, 120);
}

#[test]
fn node_that_leaves_the_targets_releases_its_slot() {
    let fleet = Fleet::new(3, single);
    flag(&fleet, "block");
    let _ = fleet.publish(&book(&fleet, "{serialize: {count: 1}}", 1));
    let inside = working(&fleet, 1);
    // The holder of the slot is not a target any more. The others have a new version to apply.
    let others: Vec<&str> = ["n0", "n1", "n2"].into_iter().filter(|node| *node != inside).collect();
    let next = book(&fleet, "{serialize: {count: 1}}", 2)
        .replace("{nodeGroups: [web]}", &format!("{{nodes: [{}]}}", others.join(", ")));
    let head = fleet.publish(&next);
    std::thread::sleep(Duration::from_secs(3));
    assert!(seen(&fleet, "begin2").is_empty(), "its slot is held until its task has ended");
    unflag(&fleet, "block");
    fleet.wait_for(&head, 90);
    assert_eq!(seen(&fleet, "end2").len(), 2, "{:?}", fleet.happened());
}

#[test]
fn interrupted_segment_keeps_its_slot_and_its_remaining_tasks() {
    let mut fleet = Fleet::new(2, single);
    let log = fleet.log_file().display().to_string();
    let folder = fleet.folder.path().display().to_string();
    let write = |word: &str| format!("echo $(date +%s%N) {word} $TOWPATH_NODE >> {log}");
    flag(&fleet, "block");
    let head = fleet.publish(&format!(
        "metadata: {{apiVersion: v1alpha, kind: TaskBook, name: web, namespace: app}}
spec:
  targets: {{nodeGroups: [web]}}
  rollout:
    serialize: {{count: 1}}
    before: [{{name: out, command: {{shell: '{}'}}}}]
    after: [{{name: in, command: {{shell: '{}'}}}}]
  tasks:
    - name: first
      file: {{path: /first, content: x}}
    - name: all
      sync: true
    - name: conf
      file: {{path: /conf, content: x}}
      notify: [reload]
    - name: work
      command: {{shell: '{}; while [ -e {folder}/block ]; do sleep 0.05; done; {}'}}
    - name: last
      command: {{shell: '{}'}}
  handlers:
    - name: reload
      command: {{shell: '{}'}}
",
        write("out"),
        write("in"),
        write("begin1"),
        write("end1"),
        write("last"),
        write("reload"),
    ));
    let inside = working(&fleet, 1);
    let claim = |fleet: &Fleet| {
        let output = fleet
            .etcd
            .ctl()
            .args(["get", "/towpath/default/fleet/held/", "--prefix", "-w", "fields"])
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.lines().filter(|line| line.starts_with("\"CreateRevision\"")).map(str::to_owned).collect::<Vec<_>>()
    };
    let held = claim(&fleet);
    assert_eq!(held.len(), 1);
    fleet.crash(number(&inside));
    fleet.begin(number(&inside));
    // The agent is back in its segment. The work runs again, and none of the later tasks has run.
    fleet.wait(60, |fleet| seen(fleet, "begin1").iter().filter(|node| **node == inside).count() == 2);
    assert_eq!(claim(&fleet), held, "the slot was given back and taken again");
    let of = |fleet: &Fleet, word: &str| seen(fleet, word).into_iter().filter(|node| *node == inside).count();
    assert_eq!((of(&fleet, "in"), of(&fleet, "reload"), of(&fleet, "last")), (1, 0, 0), "{:?}", fleet.happened());
    unflag(&fleet, "block");
    fleet.wait_for(&head, 90);
    assert_eq!((of(&fleet, "in"), of(&fleet, "reload"), of(&fleet, "last")), (2, 1, 1), "{:?}", fleet.happened());
}
