//! Nodes on machines of their own, with systemd, a disk and a network that can be cut.

use std::{fs, time::Duration};

use towpath_tests::site::NspawnFleet;

/// Returns a book with an action that must run once, and a task that blocks while a file exists.
fn book(rollout: &str) -> String {
    format!(
        "metadata: {{apiVersion: v1alpha, kind: TaskBook, name: web, namespace: app}}
spec:
  targets: {{nodeGroups: [web]}}
  rollout: {rollout}
  tasks:
    - name: once
      command: {{shell: 'echo once >> /var/tmp/happened'}}
    - name: work
      command: {{shell: 'echo begin >> /var/tmp/happened; while [ -e /var/tmp/block ]; do sleep 0.05; done; echo end >> /var/tmp/happened'}}
    - name: after it
      file: {{path: /etc/after, content: done}}
"
    )
}

fn block(site: &NspawnFleet, count: usize) {
    (0..count).for_each(|number| site.machines.put(number, "/var/tmp/block", ""));
}

fn unblock(site: &NspawnFleet, number: usize) {
    fs::remove_file(site.machines.root(number).join("var/tmp/block")).unwrap();
}

/// Returns the machines whose task has started and not ended.
fn working(site: &NspawnFleet, count: usize) -> Vec<usize> {
    let words = |number: usize, word: &str| site.happened(number).iter().filter(|line| *line == word).count();
    (0..count).filter(|number| words(*number, "begin") > words(*number, "end")).collect()
}

fn begun(site: &NspawnFleet, count: usize) -> Vec<usize> {
    (0..count).filter(|number| site.happened(*number).iter().any(|line| line == "begin")).collect()
}

fn cut_off_in_its_slot(site: &NspawnFleet, rollout: &str, count: usize) -> (usize, String) {
    block(site, count);
    site.repository.write("web.yaml", book(rollout));
    let head = site.repository.publish("web");
    site.wait(60, |site| !working(site, count).is_empty());
    let cut = working(site, count)[0];
    site.machines.cut(cut);
    (cut, head)
}

#[test]
fn node_cut_off_in_its_slot_is_awaited_and_finishes_after_its_return() {
    let site = NspawnFleet::new(3);
    let (cut, head) = cut_off_in_its_slot(&site, "{serialize: {count: 1}}", 3);
    let others: Vec<usize> = (0..3).filter(|number| *number != cut).collect();
    site.wait(60, |site| {
        others.iter().all(|of| {
            let liveness = site.liveness_of(*of, cut);
            liveness["gossip"] == "lost" && liveness["lease"] == "lost"
        })
    });
    std::thread::sleep(Duration::from_secs(10));
    assert_eq!(begun(&site, 3), [cut], "another node was admitted\n{}", site.shown());
    let rollouts = site.ask(others[0], &["rollouts"]).unwrap();
    assert_eq!(rollouts[0]["holding"][0]["node"], format!("n{cut}"), "{rollouts:#}");
    // The task ends while its machine is cut off. The machine cannot release its slot.
    unblock(&site, cut);
    site.wait(30, |site| site.happened(cut).iter().any(|line| line == "end"));
    assert_eq!(begun(&site, 3), [cut], "another node was admitted\n{}", site.shown());
    others.iter().for_each(|number| unblock(&site, *number));
    site.machines.heal(cut);
    site.wait_for(&head, 120);
    for number in 0..3 {
        assert_eq!(site.happened(number), ["once", "begin", "end"], "n{number}\n{}", site.shown());
    }
}

#[test]
fn rollout_under_skip_continues_without_as_many_nodes_as_slots_and_then_halts() {
    let site = NspawnFleet::new(4);
    let (first, head) = cut_off_in_its_slot(&site, "{serialize: {count: 1}, onLostNode: skip}", 4);
    site.wait(120, |site| working(site, 4).len() == 2);
    let second = *working(&site, 4).iter().find(|number| **number != first).unwrap();
    site.machines.cut(second);
    let other = (0..4).find(|number| *number != first && *number != second).unwrap();
    site.wait(90, |site| site.liveness_of(other, second)["lease"] == "lost");
    let phase = |site: &NspawnFleet| site.ask(other, &["rollouts"]).map(|rollouts| rollouts[0]["phase"].clone());
    site.wait(90, |site| phase(site) == Some("halted".into()));
    std::thread::sleep(Duration::from_secs(15));
    assert_eq!(begun(&site, 4).len(), 2, "they went on without more than they may\n{}", site.shown());
    (0..4).for_each(|number| unblock(&site, number));
    site.machines.heal(first);
    site.machines.heal(second);
    site.wait_for(&head, 180);
}

#[test]
fn unreachable_machine_halts_the_run_under_fail_until_it_returns() {
    let site = NspawnFleet::new(3);
    let (cut, head) = cut_off_in_its_slot(&site, "{serialize: {count: 1}, onLostNode: fail}", 3);
    let other = (cut + 1) % 3;
    site.wait(120, |site| site.ask(other, &["rollouts"]).is_some_and(|rollouts| rollouts[0]["phase"] == "halted"));
    assert_eq!(begun(&site, 3), [cut], "another node was admitted\n{}", site.shown());
    (0..3).for_each(|number| unblock(&site, number));
    site.machines.heal(cut);
    site.wait_for(&head, 120);
}

#[test]
fn machines_without_a_connection_are_not_lost_and_a_rebooted_one_continues() {
    let site = NspawnFleet::new(3);
    let alive =
        |site: &NspawnFleet| (0..3).all(|of| (0..3).all(|about| site.liveness_of(of, about)["gossip"] == "alive"));
    site.wait(30, alive);
    site.machines.part(0, 1);
    for _ in 0..20 {
        std::thread::sleep(Duration::from_secs(1));
        for (of, about) in [(0, 1), (1, 0), (2, 0), (2, 1)] {
            let liveness = site.liveness_of(of, about);
            assert!(liveness["gossip"] != "lost" && liveness["lease"] == "alive", "{liveness:#}\n{}", site.shown());
        }
    }
    site.machines.join(0, 1);
    site.wait(30, alive);

    block(&site, 3);
    site.repository.write("web.yaml", book("{serialize: {count: 1}}"));
    let head = site.repository.publish("web");
    site.wait(60, |site| !working(site, 3).is_empty());
    let number = working(&site, 3)[0];
    site.machines.reboot(number);
    assert_eq!(begun(&site, 3), [number], "another node was admitted\n{}", site.shown());
    (0..3).for_each(|number| unblock(&site, number));
    site.wait_for(&head, 120);
    // The completed action did not run again. The interrupted one did, and no task is left out.
    let happened = site.happened(number);
    assert_eq!(happened.iter().filter(|line| *line == "once").count(), 1, "{happened:?}");
    assert_eq!(happened.last().map(String::as_str), Some("end"), "{happened:?}");
}

#[test]
fn machines_reboot_one_by_one_and_continue_afterwards() {
    let site = NspawnFleet::new(3);
    let boot = |site: &NspawnFleet, number: usize| {
        let output = site.machines.exec(number, &["cat", "/proc/sys/kernel/random/boot_id"]);
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    };
    site.repository.write(
        "web.yaml",
        "metadata: {apiVersion: v1alpha, kind: TaskBook, name: web, namespace: app}
spec:
  targets: {nodeGroups: [web]}
  rollout: {serialize: {count: 1}, onLostNode: skip}
  tasks:
    - name: begins
      command: {shell: 'echo $(date +%s%N) >> /var/tmp/happened; cat /proc/1/stat > /var/tmp/first'}
    - name: reboot
      reboot: {when: always}
    - name: ends
      command: {shell: 'echo $(date +%s%N) >> /var/tmp/happened; cat /proc/1/stat > /var/tmp/second'}
",
    );
    let head = site.repository.publish("web");
    site.wait_for(&head, 240);
    let mut spans: Vec<(u64, u64)> = (0..3)
        .map(|number| {
            let times: Vec<u64> = site.happened(number).iter().map(|line| line.parse().unwrap()).collect();
            assert_eq!(times.len(), 2, "n{number}: {times:?}\n{}", site.shown());
            let read = |name: &str| fs::read(site.machines.root(number).join("var/tmp").join(name)).unwrap();
            assert!(read("first") != read("second"), "n{number} was not rebooted");
            (times[0], times[1])
        })
        .collect();
    spans.sort_unstable();
    // Each machine is back before the next one reboots.
    assert!(spans.windows(2).all(|two| two[0].1 < two[1].0), "{spans:?}");
    // Each machine reboots once.
    let before: Vec<String> = (0..3).map(|number| boot(&site, number)).collect();
    std::thread::sleep(Duration::from_secs(12));
    assert_eq!((0..3).map(|number| boot(&site, number)).collect::<Vec<_>>(), before);
}
