//! The sequential requests of a node to its data store, from a trace of the agents.

use std::{thread, time::Duration};

use towpath_tests::{etcd::Etcd, fleet::Fleet};

fn book(number: usize) -> String {
    format!(
        "metadata: {{apiVersion: v1alpha, kind: TaskBook, name: web, namespace: app}}
spec:
  targets: {{nodeGroups: [web]}}
  rollout: {{serialize: {{count: 1}}}}
  tasks:
    - name: work
      file: {{path: /work, content: \"{number}\"}}
"
    )
}

fn is_request(line: &&str) -> bool {
    line.contains("TRACE request what=") && !line.contains("what=\"keep alive\"")
}

/// Returns the number of requests of each pass of a node, with the cause of the pass.
fn looks(log: &str) -> Vec<(String, usize)> {
    let mut looks: Vec<(String, usize)> = Vec::new();
    for line in log.lines() {
        if let Some((_, cause)) = line.split_once("DEBUG looks cause=") {
            looks.push((cause.trim_matches('"').to_owned(), 0));
        } else if let Some((_, requests)) = looks.last_mut().filter(|_| is_request(&line)) {
            *requests += 1;
        }
    }
    looks
}

/// At 200 ms for a request, each request adds a fifth of a second to every rollout.
#[test]
fn unchanged_pass_and_rollout_of_four_nodes_need_few_requests() {
    let fleet = Fleet::new(4, |folder| Etcd::single(folder, "etcd"));
    let head = fleet.publish(&book(1));
    fleet.wait_for(&head, 60);
    thread::sleep(Duration::from_secs(3));
    let from: Vec<usize> = fleet.nodes.iter().map(|node| node.log().len()).collect();
    let head = fleet.publish(&book(2));
    fleet.wait_for(&head, 60);
    thread::sleep(Duration::from_secs(2));
    let settled: Vec<usize> = fleet.nodes.iter().map(|node| node.log().len()).collect();
    // Two passes at the interval.
    thread::sleep(Duration::from_secs(11));
    let mut all = 0;
    for ((node, from), settled) in fleet.nodes.iter().zip(from).zip(settled) {
        let log = node.log();
        let rollout = log[from..settled].lines().filter(is_request).count();
        let unchanged = looks(&log[settled..]);
        println!("{}: {rollout} requests in the rollout, then {unchanged:?}", node.name);
        assert!((3..=20).contains(&rollout), "{}: {rollout} requests in the rollout", node.name);
        assert!(unchanged.iter().any(|(cause, _)| cause == "timer"), "{}: {unchanged:?}", node.name);
        assert!(unchanged.iter().all(|(_, requests)| *requests <= 5), "{}: {unchanged:?}", node.name);
        all += rollout;
    }
    assert!(all <= 66, "{all} requests for a rollout of four nodes");
}
