//! Notifications wake waiting nodes, and no waiting node needs a timer: rollouts on processors that are busy with other
//! work.

use std::{
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use towpath_tests::{Running, etcd::Etcd, fleet::Fleet, long};

fn single(folder: &std::path::Path) -> Etcd {
    Etcd::single(folder, "etcd")
}

fn book(rollout: &str, number: usize) -> String {
    format!(
        "metadata: {{apiVersion: v1alpha, kind: TaskBook, name: web, namespace: app}}
spec:
  targets: {{nodeGroups: [web]}}
  rollout: {rollout}
  tasks:
    - name: work
      command: {{shell: 'true # {number}'}}
    - name: after it
      file: {{path: /after, content: \"{number}\"}}
"
    )
}

/// Keeps a processor busy.
fn busy() -> Running {
    let mut command = Command::new("sh");
    Running::start(command.args(["-c", "while :; do :; done"]), Stdio::null(), Stdio::null())
}

/// Returns the time of day of a log line, in milliseconds.
fn time_of(line: &str) -> Option<u64> {
    let clock = line.split_whitespace().next()?.split_once('T')?.1.trim_end_matches('Z');
    let mut parts = clock.split(':');
    let (hours, minutes) = (parts.next()?.parse::<u64>().ok()?, parts.next()?.parse::<u64>().ok()?);
    let seconds: f64 = parts.next()?.parse().ok()?;
    Some((hours * 3600 + minutes * 60) * 1000 + (seconds * 1000.0) as u64)
}

/// Returns the commits in a node's trace that follow a pass by a timer without a notification.
fn late_looks(node: &str, log: &str) -> Vec<String> {
    let mut by_timer = false;
    let mut late = Vec::new();
    for line in log.lines() {
        if line.contains("DEBUG looks cause=") || line.ends_with("DEBUG news") {
            by_timer = line.contains("cause=\"timer\"");
        } else if by_timer && line.contains("committed ") && line.contains("done=true") {
            late.push(format!("{node}: {line}"));
        }
    }
    late
}

/// Returns the longest time between an offer and the next pass of its node, in milliseconds.
fn longest_sleep(logs: &[(String, String)]) -> u64 {
    let mut longest = 0;
    for (node, log) in logs {
        let looks: Vec<u64> =
            log.lines().filter(|line| line.contains("DEBUG looks cause=")).filter_map(time_of).collect();
        let notice = format!("put inbox/{node}/slot/");
        let offers = logs.iter().flat_map(|(_, log)| log.lines()).filter(|line| line.contains(&notice));
        for offered in offers.filter_map(time_of) {
            // The offering node logs its commit after the answer, so the pass may come first.
            if let Some(look) = looks.iter().find(|look| **look + 100 >= offered) {
                longest = longest.max(look.saturating_sub(offered));
            }
        }
    }
    longest
}

fn logs(fleet: &Fleet) -> Vec<(String, String)> {
    fleet.nodes.iter().map(|node| (node.name.clone(), node.log())).collect()
}

/// Restarts the agents with an interval so long that no pass by it occurs.
fn look_by_events_alone(fleet: &mut Fleet) {
    for number in 0..fleet.nodes.len() {
        let config = std::fs::read_to_string(&fleet.nodes[number].config).unwrap();
        std::fs::write(&fleet.nodes[number].config, config.replace("interval: 5s", "interval: 1h")).unwrap();
        fleet.crash(number);
        fleet.begin(number);
    }
}

#[test]
fn undisturbed_rollouts_need_no_timer() {
    let (nodes, rollouts) = if long() { (6, 40) } else { (3, 4) };
    let mut fleet = Fleet::new(nodes, single);
    look_by_events_alone(&mut fleet);
    let processors = thread::available_parallelism().map_or(2, usize::from);
    let load: Vec<Running> = (0..processors).map(|_| busy()).collect();
    let from = logs(&fleet).into_iter().map(|(_, log)| log.len()).collect::<Vec<_>>();
    for number in 1..=rollouts {
        let head = fleet.publish(&book("{serialize: {count: 1}}", number));
        fleet.wait_for(&head, 120);
    }
    drop(load);
    let logs: Vec<(String, String)> =
        logs(&fleet).into_iter().zip(from).map(|((node, log), from)| (node, log[from..].to_owned())).collect();
    let late: Vec<String> = logs.iter().flat_map(|(node, log)| late_looks(node, log)).collect();
    assert!(late.is_empty(), "nodes slept until a timer while there was something to do:\n{}", late.join("\n"));
    let offers = logs.iter().flat_map(|(_, log)| log.lines()).filter(|line| line.contains("/slot/app/web")).count();
    let looks = logs.iter().flat_map(|(_, log)| log.lines()).filter(|line| line.contains("DEBUG looks cause=")).count();
    let done = logs.iter().flat_map(|(_, log)| log.lines()).filter(|line| line.contains("done=true")).count();
    assert!(looks > 0 && done >= nodes * rollouts, "the trace shows {looks} looks and {done} commits");
    let longest = longest_sleep(&logs);
    println!("{rollouts} rollouts of {nodes} nodes, {offers} offers; the longest sleep on an offer was {longest} ms");
    assert!(!long() || longest <= 2000, "a node slept for {longest} ms on an offer");
}

/// Returns the seconds from the crash of a holder until the others have finished or the run is halted.
fn seconds_after_crash(secured: bool, on_lost: &str) -> u64 {
    let mut fleet = if secured { Fleet::secured(3, single) } else { Fleet::new(3, single) };
    look_by_events_alone(&mut fleet);
    let log = fleet.log_file().display().to_string();
    let blocked = fleet.folder.path().join("block").display().to_string();
    std::fs::write(&blocked, "").unwrap();
    let tasks = format!(
        "    - name: work\n      command: {{shell: 'echo $(date +%s%N) begin $TOWPATH_NODE >> {log}; while [ -e {blocked} ]; do sleep 0.05; done'}}\n"
    );
    let head = fleet.publish(&format!(
        "metadata: {{apiVersion: v1alpha, kind: TaskBook, name: web, namespace: app}}
spec:
  targets: {{nodeGroups: [web]}}
  rollout: {{serialize: {{count: 1}}, onLostNode: {on_lost}}}
  tasks:
{tasks}"
    ));
    fleet.wait(60, |fleet| !fleet.happened().is_empty());
    // By then the others wait, and gossip knows all nodes.
    thread::sleep(Duration::from_secs(12));
    let dead: usize = fleet.happened()[0].2.trim_start_matches('n').parse().unwrap();
    fleet.crash(dead);
    let crash = Instant::now();
    std::fs::remove_file(&blocked).unwrap();
    let halted = |fleet: &Fleet, node: usize| {
        let rollouts = fleet.nodes[node].ask(&["rollouts"]).unwrap_or_default();
        rollouts.as_array().is_some_and(|runs| runs.iter().any(|run| run["phase"] == "halted"))
    };
    let other = (dead + 1) % 3;
    fleet.wait(120, |fleet| match on_lost {
        "skip" => (0..3).filter(|node| *node != dead).all(|node| fleet.nodes[node].applied(&head)),
        _ => halted(fleet, other),
    });
    crash.elapsed().as_secs()
}

#[test]
fn lost_holder_is_written_off_within_30_seconds() {
    if !long() {
        println!("only under TOWPATH_LONG");
        return;
    }
    let mut late = Vec::new();
    for (secured, on_lost) in [(false, "skip"), (true, "skip"), (false, "fail"), (true, "fail")] {
        let seconds = seconds_after_crash(secured, on_lost);
        println!("gossip {secured}, onLostNode {on_lost}: {seconds} s after the crash");
        if seconds > 30 {
            late.push((secured, on_lost, seconds));
        }
    }
    assert!(late.is_empty(), "{late:?}");
}
