//! Coordinated rollouts through a real etcd. Each node is a process of its own, and the logs of the tasks are the
//! proof.

use std::{
    collections::{BTreeMap, BTreeSet},
    process::Command,
    time::Duration,
};

use towpath_tests::{etcd::Etcd, fleet::Fleet, node::BusyMount, ok, wait_until};

/// Returns a task that logs its start and its end.
fn stamped(fleet: &Fleet, name: &str, word: &str, seconds: &str, more: &str) -> String {
    let log = fleet.log_file().display().to_string();
    format!(
        "    - name: {name}
      command:
        shell: 'echo $(date +%s%N) {word}-begin $TOWPATH_NODE >> {log}; sleep {seconds}; echo $(date +%s%N) {word}-end $TOWPATH_NODE >> {log}'
{more}"
    )
}

/// Returns the maximum number of nodes between their first start and their last end at one time. An interrupted node
/// that ran again counts as away the whole time.
fn at_once(happened: &[(u64, String, String)], word: &str) -> usize {
    let mut spans: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    for (time, what, node) in happened {
        if *what == format!("{word}-begin") || *what == format!("{word}-end") {
            let span = spans.entry(node).or_insert((*time, *time));
            span.1 = *time;
        }
    }
    let inside = |at: u64| spans.values().filter(|(begin, end)| *begin <= at && at <= *end).count();
    spans.values().map(|(begin, _)| inside(*begin)).max().unwrap_or(0)
}

fn times<'a>(happened: &'a [(u64, String, String)], word: &'a str) -> impl Iterator<Item = u64> + 'a {
    happened.iter().filter(move |(_, what, _)| what == word).map(|(time, ..)| *time)
}

/// A duration that is far longer on one node. A node that does not wait at the barrier has passed it by then.
const STRAGGLER: &str = "$([ $TOWPATH_NODE = n7 ] && echo 3 || echo 0.2)";

fn book(fleet: &Fleet, rollout: &str) -> String {
    let log = fleet.log_file().display().to_string();
    let mut tasks = stamped(fleet, "first", "first", STRAGGLER, "");
    // The first node waits for a second one, so that two run at once on a machine of any speed.
    let for_another = format!(
        "0.1; i=0; while [ $(grep -c second-begin {log}) -lt 2 ] && [ $i -lt 400 ]; do sleep 0.05; i=$((i + 1)); done"
    );
    tasks.push_str(&stamped(fleet, "second", "second", &for_another, "      sync: true\n"));
    tasks.push_str(&format!(
        "    - name: migrate
      command: {{shell: 'echo $(date +%s%N) migrate $TOWPATH_NODE >> {log}; echo migrated by $TOWPATH_NODE'}}
      elect: {{count: 1}}
      register: migration
"
    ));
    tasks.push_str("    - name: result\n      file: {path: /result, content: \"{{ steps.migration.stdout }}\"}\n");
    format!(
        "metadata: {{apiVersion: v1alpha, kind: TaskBook, name: web, namespace: app}}
spec:
  targets: {{nodeGroups: [web]}}
  rollout: {rollout}
  tasks:
{tasks}"
    )
}

/// Checks a rollout of [`book`].
fn check(fleet: &Fleet, count: usize, most: usize, cut_off: bool) {
    let happened = fleet.happened();
    let per_node = |word: &str| {
        let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
        for (_, what, node) in &happened {
            if what == word {
                *seen.entry(node).or_default() += 1;
            }
        }
        seen
    };
    for word in ["first-end", "second-end"] {
        assert_eq!(per_node(word).len(), count, "{word}: {happened:?}");
    }
    for word in ["first", "second"] {
        let at_once = at_once(&happened, word);
        assert!(at_once == most || cut_off && at_once <= most, "{word}: {at_once} at once\n{happened:?}");
    }
    let last_first = times(&happened, "first-end").max().unwrap();
    let first_second = times(&happened, "second-begin").min().unwrap();
    assert!(last_first < first_second, "the barrier was jumped: {happened:?}");
    let migrated = per_node("migrate");
    assert_eq!(migrated.len(), 1, "more than one was elected: {happened:?}");
    let times_run = *migrated.values().next().unwrap();
    assert!(times_run == 1 || cut_off && times_run == 2, "it ran {times_run} times: {happened:?}");
    let results: std::collections::BTreeSet<String> =
        fleet.nodes.iter().map(|node| node.read("/result").unwrap_or_default()).collect();
    assert_eq!(results.len(), 1, "{results:?}");
    assert!(results.iter().next().unwrap().starts_with("migrated by n"), "{results:?}");
}

#[test]
fn rollout_with_two_slots_a_barrier_and_an_election_completes() {
    let fleet = Fleet::secured(12, Etcd::three);
    let head = fleet.publish(&book(&fleet, "{serialize: {count: 2}}"));
    fleet.wait_for(&head, 180);
    check(&fleet, 12, 2, false);
    let rollouts = fleet.nodes[0].ask(&["rollouts"]).unwrap();
    assert_eq!(
        (&rollouts[0]["phase"], &rollouts[0]["done"], &rollouts[0]["total"]),
        (&"done".into(), &12.into(), &12.into()),
        "{rollouts:#}"
    );
    // All nodes are known and keep their leases. A busy machine may cause gossip to suspect a node.
    let nodes = || fleet.nodes[5].ask(&["nodes"]).unwrap_or_default();
    let all_alive = || {
        nodes().as_array().is_some_and(|nodes| {
            nodes.len() == 12 && nodes.iter().all(|node| node["lease"] == "alive" && node["gossip"] != "unknown")
        })
    };
    wait_until(Duration::from_secs(90), all_alive, || format!("{:#}", nodes()));
}

#[test]
fn result_is_sealed_to_the_targets_and_reaches_a_later_node() {
    let mut fleet = Fleet::new(2, |folder| Etcd::single(folder, "etcd"));
    let head = fleet.publish(&book(&fleet, "{serialize: {count: 2}}"));
    fleet.wait_for(&head, 60);
    let result = fleet.nodes[0].read("/result").unwrap();
    let stored = ok(fleet.etcd.ctl().args(["get", "", "--prefix"])).stdout;
    let stored = String::from_utf8_lossy(&stored);
    assert!(stored.contains("fleet/elect/app/web/migrate") && stored.contains("/key/app/web/migrate/"), "{stored}");
    assert!(!stored.contains(result.trim()), "who reads etcd reads the result: {stored}");

    let objects = std::fs::read_to_string(fleet.repository.work.join("fleet.yaml")).unwrap();
    let third = "---\nmetadata: {apiVersion: v1alpha, kind: Node, name: n2, labels: {tier: web}}\n";
    fleet.repository.write("fleet.yaml", format!("{objects}{third}"));
    let head = fleet.repository.publish("a third node");
    fleet.wait_for(&head, 60);
    let source = format!("url: {}\n      interval: 1s", fleet.repository.bare.display());
    let settings = format!("{}  reconcile: {{interval: 5s}}\n", fleet.etcd.data_store());
    fleet.nodes.push(towpath_tests::node::Node::named(fleet.folder.path(), "n2", &source, &settings, None));
    fleet.agents.push(None);
    fleet.begin(2);
    fleet.wait_for(&head, 60);
    assert_eq!(fleet.nodes[2].read("/result").as_deref(), Some(result.as_str()));
    assert_eq!(fleet.happened().iter().filter(|(_, what, _)| what == "migrate").count(), 1);
}

fn check_removals(cut: &str) {
    let fleet = Fleet::new(4, |folder| Etcd::single(folder, "etcd"));
    let log = fleet.log_file().display().to_string();
    let stamp = |word: &str, rest: &str| {
        format!(
            "      - name: {word}\n        command: {{shell: 'echo $(date +%s%N) {word} $TOWPATH_NODE >> {log}{rest}'}}\n"
        )
    };
    let book = |budget: &str, tasks: &str| {
        format!(
            "metadata: {{apiVersion: v1alpha, kind: TaskBook, name: web, namespace: app}}
spec:
  targets: {{nodeGroups: [web]}}
  prune: true
  pruneBudget: {budget}
  rollout:
    serialize: {{count: 1}}
    before:
{}    after:
{}  tasks:
    - name: stays
      file: {{path: /stays, content: x}}
{cut}{tasks}",
            stamp("out-begin", "; sleep 0.4"),
            stamp("out-end", ""),
        )
    };
    let goes = "    - name: goes\n      file: {path: /goes, content: x}\n    - name: goes too\n      file: {path: /goes-too, content: x}\n";
    let head = fleet.publish(&book("100%", goes));
    fleet.wait_for(&head, 60);
    assert!(fleet.nodes.iter().all(|node| node.read("/goes").is_some()));
    std::fs::remove_file(fleet.log_file()).unwrap();
    // A removal beyond the prune budget takes no node out of service.
    fleet.publish(&book("1", ""));
    let held = |node: &towpath_tests::node::Node| {
        node.ask(&["status"]).is_some_and(|status| status["taskBooks"].to_string().contains("set `pruneBudget"))
    };
    fleet.wait(60, |fleet| fleet.nodes.iter().all(held));
    assert_eq!(fleet.happened(), []);
    // While a removal fails on one node, no other node starts.
    let kept: Vec<BusyMount> = fleet.nodes.iter().map(|node| BusyMount::new(&node.root.join("goes"))).collect();
    let head = fleet.publish(&book("100%", ""));
    let stuck = |node: &towpath_tests::node::Node| {
        node.ask(&["status"]).is_some_and(|status| status["taskBooks"].to_string().contains("Device or resource busy"))
    };
    fleet.wait(60, |fleet| fleet.nodes.iter().any(stuck));
    std::thread::sleep(Duration::from_secs(5));
    assert_eq!(times(&fleet.happened(), "out-begin").count(), 1, "{:?}", fleet.happened());
    // No node starts in another run of the book either.
    let head_of_more = fleet.publish(&book("100%", "").replace("content: x", "content: y"));
    fleet.wait(60, |fleet| fleet.nodes.iter().any(|node| node.read("/stays").as_deref() == Some("y")));
    std::thread::sleep(Duration::from_secs(5));
    let happened = fleet.happened();
    if cut.is_empty() {
        let (begun, ended) = (times(&happened, "out-begin").count(), times(&happened, "out-end").count());
        assert_eq!((begun, ended), (1, 0), "{happened:?}");
    }
    drop(kept);
    assert_ne!(head, head_of_more);
    fleet.wait(60, |fleet| fleet.nodes.iter().all(|node| node.applied(&head_of_more) && node.read("/goes").is_none()));
    let happened = fleet.happened();
    let (mut out, mut sorted) = (BTreeSet::new(), happened.clone());
    sorted.sort();
    for (_, what, node) in &sorted {
        let _ = if what == "out-begin" { out.insert(node) } else { out.remove(node) };
        assert!(out.len() <= 1, "several nodes were out: {sorted:?}");
    }
    assert!(out.is_empty() && times(&happened, "out-end").count() >= 4, "{sorted:?}");
    assert!(fleet.nodes.iter().all(|node| node.read("/stays").is_some()));
    // No node keeps its slot.
    let held = ok(fleet.etcd.ctl().args(["get", "/towpath/", "--prefix", "--keys-only"])).stdout;
    let held = String::from_utf8_lossy(&held);
    assert!(!held.contains("/fleet/held/") && !held.contains("/fleet/queue/"), "{held}");
}

#[test]
fn removals_run_on_one_node_at_a_time() {
    check_removals("");
}

#[test]
fn removals_after_a_barrier_run_on_one_node_at_a_time() {
    let elected = "    - {name: chosen, elect: {count: 1}, command: {argv: ['true']}}\n";
    check_removals(&format!("{elected}    - {{name: cut, sync: true}}\n"));
}

/// A generator of pseudo-random numbers, which are the same for each seed.
struct Chance(u64);

impl Chance {
    fn below(&mut self, limit: u64) -> u64 {
        // xorshift64*, Vigna 2016.
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % limit
    }
}

/// Returns the phase of a killed node according to the store.
fn phase(keys: &str, node: &str) -> &'static str {
    let has = |part: &str| keys.lines().any(|key| key.contains(part) && key.ends_with(&format!("/{node}")));
    if has("/fleet/held/") {
        "holding"
    } else if has("/fleet/queue/") {
        "queued"
    } else if has("/fleet/vote/app/web") {
        if keys.contains("/fleet/elect/") { "electing" } else { "at a cut" }
    } else {
        "before"
    }
}

#[test]
fn killed_agents_and_members_change_nothing() {
    let seeds = if towpath_tests::long() { 50 } else { 5 };
    let mut phases: BTreeMap<&str, usize> = BTreeMap::new();
    for seed in 1..=seeds {
        let mut chance = Chance(u64::wrapping_mul(seed, 0x9E37_79B9_7F4A_7C15));
        let mut fleet = Fleet::secured(12, Etcd::three);
        let head = fleet.publish(&book(&fleet, "{serialize: {count: 2}}"));
        let mut member: Option<usize> = None;
        // In every second run, the first killed member stays down.
        let for_good = seed % 2 == 0;
        for _ in 0..40 {
            std::thread::sleep(Duration::from_millis(50 + chance.below(250)));
            if fleet.nodes.iter().all(|node| node.applied(&head)) {
                break;
            }
            if let Some(number) = member.filter(|_| !for_good) {
                fleet.etcd.begin(number);
                member = None;
                continue;
            }
            if member.is_none() && chance.below(5) == 0 {
                let number = usize::try_from(chance.below(3)).unwrap();
                fleet.etcd.kill(number);
                member = Some(number);
                continue;
            }
            let number = usize::try_from(chance.below(12)).unwrap();
            fleet.crash(number);
            let keys = fleet.etcd.ctl().args(["get", "/towpath/", "--prefix", "--keys-only"]).output().unwrap();
            *phases.entry(phase(&String::from_utf8_lossy(&keys.stdout), &format!("n{number}"))).or_default() += 1;
            std::thread::sleep(Duration::from_millis(chance.below(500)));
            fleet.begin(number);
        }
        if let Some(number) = member.filter(|_| !for_good) {
            fleet.etcd.begin(number);
        }
        fleet.wait_for(&head, 240);
        check(&fleet, 12, 2, true);
    }
    println!("killed while: {phases:?}");
    if towpath_tests::long() {
        for wanted in ["queued", "holding", "at a cut", "electing"] {
            assert!(phases.contains_key(wanted), "no kill was in {wanted}: {phases:?}");
        }
    }
}

/// Returns the number of messages of each kind that an etcd has received from clients.
fn received(fleet: &Fleet) -> BTreeMap<String, f64> {
    let metrics = ok(Command::new("curl").args(["-s", &format!("{}/metrics", fleet.etcd.endpoints()[0])])).stdout;
    let text = String::from_utf8_lossy(&metrics).into_owned();
    let line = |line: &str| {
        let rest = line.strip_prefix("grpc_server_msg_received_total{")?;
        let method = rest.split("grpc_method=\"").nth(1)?.split('"').next()?;
        Some((method.to_owned(), line.rsplit(' ').next()?.parse().ok()?))
    };
    text.lines().filter_map(line).collect()
}

#[test]
fn idle_node_renews_its_lease_and_sends_no_other_request() {
    let fleet = Fleet::secured(2, |folder| Etcd::single(folder, "etcd"));
    // By then the work after the first pass is done.
    std::thread::sleep(Duration::from_secs(10));
    let before = received(&fleet);
    std::thread::sleep(Duration::from_secs(40));
    let after = received(&fleet);
    let asked: BTreeMap<&String, f64> = after
        .iter()
        .map(|(method, count)| (method, count - before.get(method).unwrap_or(&0.0)))
        .filter(|(_, count)| *count > 0.0)
        .collect();
    println!("in 40 s, two nodes: {asked:?}");
    let keepalives = asked.get(&"LeaseKeepAlive".to_owned()).copied().unwrap_or(0.0);
    assert!((6.0..=10.0).contains(&keepalives), "{asked:?}");
    let others: f64 = asked.iter().filter(|(method, _)| **method != "LeaseKeepAlive").map(|(_, count)| count).sum();
    assert!(others == 0.0, "an idle node asks: {asked:?}");
}
