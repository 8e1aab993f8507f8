//! Data that nodes give one another: acceptances that the store does not show, and commits that git does not give.

use std::{fs, time::Duration};

use serde_json::Value;
use towpath_tests::{
    etcd::{Etcd, programs},
    fleet::Fleet,
    node::condition,
    ok, wait_until,
};

fn signed(count: usize) -> Fleet {
    let fleet = Fleet::signed(count, |folder| Etcd::single(folder, &programs()[0]));
    // More data than fits into one part of a pack.
    let noise: String = (0..40_000).map(|number| format!("{:x}\n", number * 7919 % 65_537)).collect();
    fleet.repository.write("noise", noise);
    fleet
}

fn says(text: &str) -> String {
    format!(
        "metadata: {{apiVersion: v1alpha, kind: TaskBook, name: web, namespace: app}}
spec:
  targets: {{nodeGroups: [web]}}
  tasks:
    - name: web
      file: {{path: /web, content: \"{text}\"}}
"
    )
}

/// Makes the repository unreachable for all nodes.
fn vanish(fleet: &Fleet) {
    fs::rename(&fleet.repository.bare, fleet.repository.bare.with_extension("gone")).unwrap();
}

fn shown(fleet: &Fleet, of: usize) -> Value {
    fleet.nodes[of].ask(&["status"]).unwrap_or_default()
}

#[test]
fn commit_that_git_lacks_is_fetched_from_another_node() {
    let mut fleet = signed(3);
    fleet.crash(2);
    let head = fleet.publish(&says("two"));
    fleet.wait(30, |fleet| (0..2).all(|of| fleet.nodes[of].applied(&head)));
    vanish(&fleet);
    fleet.begin(2);
    fleet.wait(60, |fleet| fleet.nodes[2].applied(&head));
    assert_eq!(fleet.nodes[2].read("/web").as_deref(), Some("two"));
    let log = fleet.nodes[2].log();
    assert!(log.contains("the commit came from another node"), "{log}");
    let mirrors = fleet.nodes[2].state.join("mirrors");
    ok(towpath_tests::git::git(&mirrors.join("fleet.git")).args(["fsck", "--connectivity-only", &head]));
    let left: Vec<_> = fs::read_dir(&mirrors).unwrap().flatten().map(|entry| entry.file_name()).collect();
    assert_eq!(left, ["fleet.git"], "nothing else is left over");
    // The unreachable git server is still reported.
    assert_eq!(condition(&shown(&fleet, 2), "Reconciling")["reason"], "SourceUnreachable");
}

#[test]
fn acceptance_that_the_store_lacks_is_fetched_from_another_node() {
    let mut fleet = signed(2);
    let first = fleet.nodes[1].status()["generation"].as_u64().unwrap();
    // This node is connected to another etcd, which does not have the later records.
    fleet.crash(1);
    let other = Etcd::single(&fleet.folder.path().join("other"), &programs()[0]);
    let node = &fleet.nodes[1];
    let config = node.folder.join("agent.yaml");
    let text = fs::read_to_string(&config).unwrap();
    let (here, there) = (fleet.etcd.endpoints().remove(0), other.endpoints().remove(0));
    assert!(text.contains(&here), "{text}");
    fs::write(&config, text.replace(&here, &there)).unwrap();
    let head = fleet.publish(&says("two"));
    fleet.wait(30, |fleet| fleet.nodes[0].applied(&head));
    vanish(&fleet);
    fleet.begin(1);
    fleet.wait(60, |fleet| fleet.nodes[1].applied(&head));
    assert!(shown(&fleet, 1)["generation"].as_u64().unwrap() > first);
    // The node with the newer record writes it to the older store.
    let stored = || {
        let output = ok(other.ctl().args(["get", "/towpath/", "--prefix", "--print-value-only"]));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    wait_until(Duration::from_secs(20), || stored().contains(&head), stored);
}

#[test]
fn slot_with_a_hidden_claim_is_not_granted_again() {
    let fleet = signed(2);
    fleet.wait(20, |fleet| {
        (0..2).all(|of| {
            let nodes = fleet.nodes[of].ask(&["nodes"]).unwrap_or_default();
            nodes.as_array().is_some_and(|nodes| nodes.iter().filter(|node| node["gossip"] == "alive").count() == 2)
        })
    });
    let log = fleet.log_file().display().to_string();
    let head = fleet.publish(&format!(
        "metadata: {{apiVersion: v1alpha, kind: TaskBook, name: web, namespace: app}}
spec:
  targets: {{nodeGroups: [web]}}
  rollout: {{serialize: {{count: 1}}}}
  tasks:
    - name: long
      command:
        shell: 'echo $(date +%s%N) begin $TOWPATH_NODE >> {log}; sleep 10; echo $(date +%s%N) end $TOWPATH_NODE >> {log}'
"
    ));
    fleet.wait(30, |fleet| fleet.happened().len() == 1);
    let holder = fleet.happened()[0].2.clone();
    let other = usize::from(holder == "n0");
    // The other node has received the claim by now. The store loses all records of it.
    std::thread::sleep(Duration::from_secs(2));
    let removed = ok(fleet.etcd.ctl().args(["del", "/towpath/default/fleet/held/", "--prefix"]));
    assert_eq!(String::from_utf8_lossy(&removed.stdout).trim(), "1");
    ok(fleet.etcd.ctl().args(["del", &format!("/towpath/default/fleet/sequence/{holder}")]));
    let held = || condition(&shown(&fleet, other), "Held")["message"].as_str().unwrap_or_default().to_owned();
    let reported = format!("a slot that gossip reports for {holder}, and that etcd does not contain");
    wait_until(Duration::from_secs(20), || held().contains(&reported), || format!("{} {}", held(), fleet.shown()));
    fleet.wait(60, |fleet| (0..2).all(|of| fleet.nodes[of].applied(&head)));
    let happened: Vec<String> = fleet.happened().into_iter().map(|(_, word, _)| word).collect();
    assert_eq!(happened, ["begin", "end", "begin", "end"]);
}
