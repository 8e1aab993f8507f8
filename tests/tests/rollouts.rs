//! The state of rollouts for people: what a run waits for, who holds it, and what an administrator can do.
//!
//! Three nodes run in one process, with a store that looks shared and a test clock. The wording is in golden files.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use tokio::sync::mpsc;
use towpath_agent::{
    config,
    node::{Node, Options},
};
use towpath_coordination::{
    LocalStore, keys,
    store::{Change, LeaseId, Op, Outcome, Page, Read, Store, StoreError, Txn},
};
use towpath_host::{Clock, TestClock};
use towpath_proto::v1alpha as pb;
use towpath_tests::{git::Repository, wait_until};

/// The start of each test: 2026-01-05T12:00:00Z, a Monday.
const BEGIN: i64 = 1_767_614_400_000;

/// A store that looks as if several processes shared it, and that a test can make unreachable.
#[derive(Debug, Default)]
struct Shared {
    store: LocalStore,
    away: AtomicBool,
}

impl Shared {
    fn reached(&self) -> Result<&LocalStore, StoreError> {
        let away = self.away.load(Ordering::SeqCst);
        if away { Err(StoreError::Unreachable("connection refused".into())) } else { Ok(&self.store) }
    }
}

impl Store for Shared {
    fn read(&self, prefix: &str, page: &Page) -> Result<Read, StoreError> {
        self.reached()?.read(prefix, page)
    }

    fn watch(&self, prefix: &str, from: u64) -> Result<mpsc::UnboundedReceiver<Change>, StoreError> {
        self.reached()?.watch(prefix, from)
    }

    fn lease(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        self.reached()?.lease(ttl)
    }

    fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.reached()?.keep_alive(lease)
    }

    fn time_left(&self, key: &str) -> Result<Option<Duration>, StoreError> {
        self.reached()?.time_left(key)
    }

    fn commit(&self, txn: &Txn) -> Result<Outcome, StoreError> {
        self.reached()?.commit(txn)
    }
}

/// Lets a node refresh its sources and make a pass. The news of another node's acceptance comes from a thread, and
/// preempts a pass, which is then repeated.
fn pass(node: &mut Node) {
    let inbox = node.inbox();
    for _ in 0..10 {
        inbox.take(Duration::ZERO);
        node.refresh_and_propose();
        node.pass();
        if !inbox.should_preempt() || inbox.stops() {
            break;
        }
    }
}

/// A fleet of the nodes n1, n2 and n3, which have joined.
struct Fleet {
    folder: tempfile::TempDir,
    repository: Repository,
    store: Arc<Shared>,
    clock: TestClock,
    nodes: Vec<Node>,
}

const ALL: [&str; 3] = ["n1", "n2", "n3"];

const FLEET: &str = "\
metadata: {apiVersion: v1alpha, kind: Namespace, name: app}
---
metadata: {apiVersion: v1alpha, kind: NodeGroup, name: web}
spec: {selector: role=web}
";

/// Tasks that note that they have begun, and then wait for the file `/go`.
const SLOW: &str = r#"
tasks:
  - name: begin
    command: {shell: "touch $TOWPATH_ROOT/begun; while ! test -e $TOWPATH_ROOT/go; do sleep 0.02; done"}
  - name: work
    command: {shell: "echo work"}
"#;

fn book(name: &str, spec: &str) -> String {
    let spec = spec.trim().replace('\n', "\n  ");
    format!(
        "metadata: {{apiVersion: v1alpha, kind: TaskBook, name: {name}, namespace: app}}\nspec:\n  targets: {{nodeGroups: [web]}}\n  {spec}\n"
    )
}

impl Fleet {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let repository = Repository::new(folder.path(), "fleet");
        let mut objects = String::from(FLEET);
        for node in ALL {
            objects.push_str(&format!(
                "---\nmetadata: {{apiVersion: v1alpha, kind: Node, name: {node}, labels: {{role: web}}}}\n"
            ));
        }
        repository.write("fleet.yaml", objects);
        let mut fleet =
            Self { folder, repository, store: Arc::default(), clock: TestClock::at(BEGIN), nodes: Vec::new() };
        for node in ALL {
            let node = fleet.open(node);
            fleet.nodes.push(node);
        }
        fleet.publish("base", &book("base", "tasks: [{name: base, file: {path: /base, content: x}}]"));
        fleet.pass(&ALL);
        // The nodes trust the store some seconds after they have reached it.
        fleet.clock.advance(3_500);
        fleet
    }

    fn open(&self, name: &str) -> Node {
        let folder = self.folder.path().join(name);
        fs::create_dir_all(folder.join("root")).unwrap();
        let text = format!(
            "metadata: {{apiVersion: v1alpha, kind: Config}}\nspec:\n  node: {name}\n  root: {0}/root\n  stateDir: {0}/state\n  listen: {{socket: {0}/s}}\n  sources: [{{name: fleet, url: {1}, branch: main}}]\n  dataStore: {{type: etcd, endpoints: [\"http://127.0.0.1:1\"]}}\n",
            folder.display(),
            self.repository.bare.display()
        );
        let file = folder.join("agent.yaml");
        fs::write(&file, text).unwrap();
        let settings = config::load(&file, name).unwrap();
        let store = Arc::clone(&self.store) as Arc<dyn Store>;
        let clock: Arc<dyn Clock> = Arc::new(self.clock.clone());
        Node::open(Options { settings, store, clock, credentials: None }).unwrap()
    }

    /// Publishes a book as the file NAME.yaml.
    fn publish(&self, name: &str, text: &str) {
        self.repository.write(&format!("{name}.yaml"), text);
        self.repository.publish(name);
    }

    fn node(&mut self, name: &str) -> &mut Node {
        let index = ALL.iter().position(|node| *node == name).unwrap();
        &mut self.nodes[index]
    }

    fn write(&self, node: &str, path: &str) {
        fs::write(self.folder.path().join(node).join("root").join(path), "x").unwrap();
    }

    /// Lets nodes refresh their sources and make a pass, one after another, a second apart.
    fn pass(&mut self, nodes: &[&str]) {
        for name in nodes {
            self.clock.advance(1_100);
            pass(self.node(name));
        }
    }

    /// Lets a node make a pass that ends while its slow task runs, as if the agent had stopped.
    fn cut_off(&mut self, name: &str) {
        let root = self.folder.path().join(name).join("root");
        let inbox = self.node(name).inbox();
        let stops = thread::spawn(move || {
            wait_until(
                Duration::from_secs(30),
                || root.join("begun").exists(),
                || "the task does not begin".to_owned(),
            );
            inbox.notify(|work| work.stop = true);
            fs::write(root.join("go"), "x").unwrap();
        });
        self.pass(&[name]);
        stops.join().unwrap();
        self.node(name).inbox().take(Duration::ZERO);
    }

    /// Ends the lease of a node, as its death would.
    fn expire(&self, node: &str) {
        self.store.commit(&Txn { then: vec![Op::Delete(keys::alive(node))], ..Txn::default() }).unwrap();
    }

    /// Returns a rollout as a node shows it.
    fn rollout(&mut self, node: &str, book: &str) -> pb::RolloutSummary {
        let all = self.node(node).queries().rollouts().unwrap();
        all.into_iter().find(|rollout| rollout.name == book).unwrap()
    }

    /// Returns the gates of a rollout.
    fn gates(&mut self, node: &str, book: &str) -> Vec<String> {
        self.rollout(node, book).blocked_by.into_iter().map(|blocked| blocked.gate).collect()
    }

    /// Returns the reason, the message and the start of the condition Held of a node.
    fn held(&mut self, node: &str) -> pb::Condition {
        let status = self.node(node).queries().status();
        status.conditions.into_iter().find(|condition| condition.r#type == "Held").unwrap()
    }

    /// Returns the tasks of a book as the status of a node lists them.
    fn tasks(&mut self, node: &str, book: &str) -> Vec<(String, String)> {
        let books = self.node(node).queries().status().task_books;
        let book = books.into_iter().find(|found| found.name == book).unwrap();
        book.tasks.into_iter().map(|task| (task.name, task.outcome)).collect()
    }
}

/// Returns rollouts and holds as text, for a golden file.
fn text(rollout: &pb::RolloutSummary, held: &pb::Condition) -> String {
    // The digest in the name of the run is left out, so that the golden files do not depend on it.
    let run = rollout.run.split('.').next().unwrap();
    format!(
        "{}\n\nHeld ({}, since {}): {}\n",
        serde_json::to_string_pretty(rollout).unwrap().replace(&rollout.run, run),
        held.reason,
        held.since,
        held.message
    )
}

fn slow(rollout: &str) -> String {
    book("web", &format!("rollout: {{{rollout}}}{SLOW}"))
}

/// Returns a fleet whose n1 was cut off while it holds the only slot, and whose n2 waits for it.
fn cut_off_with_slot(on_lost: &str) -> Fleet {
    let mut fleet = Fleet::new();
    for node in ["n2", "n3"] {
        fleet.write(node, "go");
    }
    fleet.publish("web", &slow(&format!("serialize: {{count: 1}}, onLostNode: {on_lost}")));
    fleet.cut_off("n1");
    fleet.pass(&["n2"]);
    fleet
}

#[test]
fn lost_holder_is_named_with_the_action_under_hold() {
    let mut fleet = cut_off_with_slot("hold");
    fleet.expire("n1");
    // A node that waits for long checks the holders itself. Its own lease is kept alive every 10 s.
    fleet.clock.advance(21_000);
    let mut reason = String::new();
    for _ in 0..60 {
        fleet.node("n2").pass();
        reason = fleet.held("n2").reason;
        if reason == "Slot" {
            break;
        }
        thread::sleep(Duration::from_millis(500));
    }
    assert_eq!(reason, "Slot");
    let (rollout, held) = (fleet.rollout("n2", "web"), fleet.held("n2"));
    assert_eq!((rollout.phase.as_str(), rollout.holding[0].liveness.as_str()), ("running", "lost"));
    assert!(rollout.blocked_by.iter().any(|blocked| blocked.action.as_ref().is_some_and(|does| does.contains("n1"))));
    insta::assert_snapshot!(text(&rollout, &held));
}

#[test]
fn written_off_node_is_skipped_and_makes_an_event() {
    let mut fleet = cut_off_with_slot("skip");
    fleet.expire("n1");
    fleet.clock.advance(5_500);
    for _ in 0..2 {
        fleet.pass(&["n2", "n3"]);
    }
    let rollout = fleet.rollout("n3", "web");
    assert_eq!((rollout.phase.as_str(), rollout.done, rollout.total), ("done", 2, 3), "{rollout:#?}");
    assert_eq!((rollout.skipped, rollout.holding.len()), (vec!["n1".to_owned()], 0));
    let events: Vec<_> = fleet.nodes.iter().flat_map(|node| node.queries().events().recorded()).collect();
    let written_off = events.iter().filter(|event| event.r#type == "rollout.node-written-off").collect::<Vec<_>>();
    assert_eq!(written_off.len(), 1, "{events:#?}");
    assert!(written_off[0].message.contains("n1") && written_off[0].namespace == "app", "{written_off:#?}");
}

#[test]
fn failed_node_is_listed_with_its_message() {
    let mut fleet = Fleet::new();
    let breaks = "rollout: {serialize: {count: 1}}\ntasks: [{name: breaks, command: {shell: \"echo WHY >&2; exit 3\"}}, {name: later, file: {path: /later, content: x}}]";
    fleet.publish("web", &book("web", breaks));
    fleet.pass(&["n1", "n2"]);
    let rollout = fleet.rollout("n2", "web");
    assert_eq!((rollout.phase.as_str(), rollout.failed.len()), ("halted", 1));
    assert!(rollout.failed[0].node == "n1" && rollout.failed[0].message.contains("WHY"), "{rollout:#?}");
    insta::assert_snapshot!(text(&rollout, &fleet.held("n2")));
    // Another message replaces the first one when the task fails again.
    fleet.publish("web", &book("web", &breaks.replace("WHY", "OTHER")));
    fleet.pass(&["n1"]);
    assert!(fleet.rollout("n2", "web").failed[0].message.contains("OTHER"));
}

#[test]
fn failure_of_another_book_in_a_named_slot_is_named() {
    let mut fleet = Fleet::new();
    let shares = |tasks: &str| format!("rollout: {{serialize: {{count: 1, slot: db}}}}\ntasks: [{tasks}]");
    fleet.publish("one", &book("one", &shares("{name: breaks, command: {shell: \"exit 3\"}}")));
    fleet.publish("other", &book("other", &shares("{name: work, command: {shell: \"echo work\"}}")));
    fleet.pass(&["n1", "n2"]);
    let rollout = fleet.rollout("n2", "other");
    assert_eq!((rollout.phase.as_str(), rollout.failed.len()), ("halted", 0), "{rollout:#?}");
    let named =
        |blocked: &pb::BlockedBy| blocked.gate == "Budget" && blocked.opens.contains("n1 (book app/one: breaks");
    assert!(rollout.blocked_by.iter().any(named), "{rollout:#?}");
    let held = fleet.held("n2");
    assert!(
        held.message.contains("app/other: the run is halted") && held.message.contains("n1 (book app/one"),
        "{held:#?}"
    );
}

#[test]
fn suspended_book_shows_its_reason_and_the_end() {
    let mut fleet = Fleet::new();
    let suspend = "suspend: {reason: audit, until: \"2026-01-05T14:00:00Z\"}\n";
    fleet.publish("web", &book("web", &format!("{suspend}rollout: {{serialize: {{count: 1}}}}{SLOW}")));
    fleet.pass(&ALL);
    let (rollout, held) = (fleet.rollout("n1", "web"), fleet.held("n1"));
    assert_eq!(rollout.phase, "waiting");
    assert!(rollout.blocked_by.iter().any(|blocked| blocked.gate == "Suspended"), "{rollout:#?}");
    insta::assert_snapshot!(text(&rollout, &held));
    let tasks = [("begin".to_owned(), "held".to_owned()), ("work".to_owned(), "held".to_owned())];
    assert_eq!(fleet.tasks("n1", "web"), tasks);
}

#[test]
fn closed_window_is_shown_for_coordinated_and_parallel_books() {
    let mut fleet = Fleet::new();
    let config = "metadata: {apiVersion: v1alpha, kind: Config, name: fleet}\nspec:\n  maintenanceWindows: [{from: \"13:00\", to: \"14:00\", timeZone: UTC}]\n";
    fleet.publish("config", config);
    fleet.publish("web", &book("web", &format!("rollout: {{serialize: {{count: 1}}}}{SLOW}")));
    let parallel =
        "order: parallel\ntasks: [{name: a, command: {shell: \"echo a\"}}, {name: b, command: {shell: \"echo b\"}}]";
    fleet.publish("wide", &book("wide", parallel));
    fleet.pass(&ALL);
    assert!(fleet.gates("n2", "web").contains(&"Window".to_owned()));
    let held = fleet.held("n1");
    assert_eq!(held.reason, "Window", "{held:#?}");
    assert!(held.message.contains("app/web") && held.message.contains("app/wide"), "{held:#?}");
    assert!(!held.message.contains("Dependency"), "{held:#?}");
}

#[test]
fn node_without_the_accepted_revision_is_named() {
    let mut fleet = Fleet::new();
    for node in ALL {
        fleet.write(node, "go");
    }
    fleet.publish("web", &slow("waves: [100%]"));
    fleet.pass(&["n1", "n2"]);
    let rollout = fleet.rollout("n1", "web");
    assert_eq!((rollout.phase.as_str(), rollout.done), ("running", 2));
    let dependency = rollout.blocked_by.iter().find(|blocked| blocked.gate == "Dependency").unwrap();
    assert!(dependency.opens.contains("n3"), "{rollout:#?}");
    fleet.pass(&["n3", "n1"]);
    let rollout = fleet.rollout("n1", "web");
    assert_eq!((rollout.phase.as_str(), rollout.done, rollout.blocked_by.len()), ("done", 3, 0), "{rollout:#?}");
}

#[test]
fn barrier_counts_every_node_that_has_arrived() {
    let mut fleet = Fleet::new();
    // After the barrier comes a task with its own limit, whose segment has no barrier before it.
    let spec = "tasks: [{name: a, command: {shell: \"echo a\"}}, {name: all, sync: true}, {name: b, command: {shell: \"echo b\"}}, {name: c, command: {shell: \"echo c\"}, serialize: {count: 1}}]";
    fleet.publish("web", &book("web", spec));
    fleet.pass(&["n1", "n2"]);
    let (rollout, held) = (fleet.rollout("n2", "web"), fleet.held("n2"));
    assert_eq!((held.reason.as_str(), rollout.segment, rollout.segments), ("Barrier", 1, 3));
    assert!(held.message.contains("2 of 3"), "{held:#?}");
    assert!(
        rollout.blocked_by[0].opens.contains("2 of 3") && rollout.blocked_by[0].opens.contains("n3"),
        "{rollout:#?}"
    );
    insta::assert_snapshot!(text(&rollout, &held));
}

#[test]
fn every_waiting_node_reports_the_unreachable_store() {
    let mut fleet = cut_off_with_slot("hold");
    let dependent = "dependsOn: [{taskBook: web, on: fleet}]\ntasks: [{name: late, command: {shell: \"echo late\"}}]";
    fleet.publish("zz", &book("zz", dependent));
    fleet.pass(&["n2", "n3"]);
    assert_eq!((fleet.held("n2").reason, fleet.held("n3").reason), ("Slot".to_owned(), "Slot".to_owned()));
    fleet.store.away.store(true, Ordering::SeqCst);
    for node in ["n2", "n3"] {
        fleet.clock.advance(1_100);
        fleet.node(node).pass();
        let held = fleet.held(node);
        assert_eq!(held.reason, "StoreUnreachable", "{node}");
        assert!(held.message.contains("app/web") && held.message.contains("app/zz"), "{held:#?}");
    }
    let rollout = fleet.rollout("n2", "web");
    assert_eq!((rollout.phase.as_str(), rollout.blocked_by[0].gate.as_str()), ("waiting", "StoreUnreachable"));
    fleet.store.away.store(false, Ordering::SeqCst);
    fleet.pass(&["n2"]);
    fleet.clock.advance(3_500);
    fleet.pass(&["n2"]);
    assert_eq!(fleet.held("n2").reason, "Slot");
}

#[test]
fn holder_of_a_slot_of_a_task_is_shown() {
    let mut fleet = Fleet::new();
    let own = r#"
tasks:
  - name: first
    command: {shell: "echo first"}
  - name: slow
    command: {shell: "touch $TOWPATH_ROOT/begun; while ! test -e $TOWPATH_ROOT/go; do sleep 0.02; done"}
    serialize: {count: 1, slot: restart}
  - name: last
    command: {shell: "echo last"}
    serialize: {count: 1, slot: restart}
"#;
    fleet.publish("web", &book("web", own));
    fleet.write("n2", "go");
    let root = fleet.folder.path().join("n1").join("root");
    let (first, others) = fleet.nodes.split_at_mut(1);
    let rollout = thread::scope(|scope| {
        scope.spawn(|| pass(&mut first[0]));
        let begun = || root.join("begun").exists();
        wait_until(Duration::from_secs(30), begun, || "the task does not begin".to_owned());
        pass(&mut others[0]);
        let all = others[0].queries().rollouts().unwrap();
        fs::write(root.join("go"), "x").unwrap();
        all.into_iter().find(|rollout| rollout.name == "web").unwrap()
    });
    let holders: Vec<_> = rollout.holding.iter().map(|holding| holding.node.as_str()).collect();
    assert_eq!((rollout.phase.as_str(), holders), ("running", vec!["n1"]), "{rollout:#?}");
    assert!(!rollout.blocked_by.is_empty() && rollout.waiting == ["n2"], "{rollout:#?}");
}

#[test]
fn tasks_that_were_not_run_are_listed_as_such() {
    let mut fleet = Fleet::new();
    let spec = "tasks: [{name: a, file: {path: /a, content: x}}, {name: none, loop: [], file: {path: /none, content: x}}, {name: breaks, command: {shell: \"exit 3\"}}, {name: b, file: {path: /b, content: x}}, {name: c, requires: [b], file: {path: /c, content: x}}]";
    fleet.publish("web", &book("web", spec));
    fleet.pass(&["n1"]);
    let tasks = fleet.tasks("n1", "web");
    let tasks: Vec<(&str, &str)> = tasks.iter().map(|(name, outcome)| (name.as_str(), outcome.as_str())).collect();
    assert_eq!(tasks, [("a", "changed"), ("breaks", "failed"), ("b", "skipped"), ("c", "skipped")]);
}

#[test]
fn elected_loop_fails_when_any_of_its_items_fails() {
    for (items, failed) in [("[bad, good]", true), ("[good, fine]", false), ("[]", false)] {
        let mut fleet = Fleet::new();
        // A name that begins with the name of the elected task, and an outcome that must not count for it.
        let spec = format!(
            "tasks: [{{name: migrate first, command: {{shell: \"exit 1\"}}, onFailure: continue}}, {{name: migrate, elect: {{nodes: [n1]}}, loop: {items}, command: {{shell: \"test {{{{ item }}}} != bad\"}}, onFailure: continue}}]"
        );
        fleet.publish("web", &book("web", &spec.replace("exit 1", "true")));
        fleet.pass(&["n1", "n2", "n1", "n2"]);
        let held = fleet.held("n2");
        assert_eq!(held.status, failed, "{items}: {held:#?}");
    }
}

#[test]
fn each_milestone_of_a_rollout_is_one_event_of_the_fleet() {
    let mut fleet = Fleet::new();
    let waves = r#"
rollout: {serialize: {count: 1}, waves: [1, 100%]}
tasks:
  - name: first
    file: {path: /first, content: x}
  - name: pick
    elect: {nodes: [n2]}
    command: {shell: "echo picked"}
  - name: barrier
    sync: true
  - name: last
    file: {path: /last, content: x}
"#;
    fleet.publish("web", &book("web", waves));
    for _ in 0..6 {
        fleet.pass(&ALL);
    }
    assert_eq!(fleet.rollout("n1", "web").phase, "done");
    let events: Vec<_> = fleet.nodes.iter().flat_map(|node| node.queries().events().recorded()).collect();
    let mut counts: std::collections::BTreeMap<&str, usize> = std::collections::BTreeMap::new();
    for event in events.iter().filter(|event| event.object.as_deref() == Some("TaskBook/app/web")) {
        *counts.entry(event.r#type.as_str()).or_default() += 1;
    }
    let rollout: Vec<_> = counts.into_iter().filter(|(name, _)| name.starts_with("rollout.")).collect();
    insta::assert_debug_snapshot!(rollout);
}

#[test]
fn halted_rollout_is_an_alarm_of_the_node_that_failed_and_ends_with_another_run() {
    let mut fleet = Fleet::new();
    let breaks = "rollout: {serialize: {count: 1}}\ntasks: [{name: breaks, command: {shell: \"exit 3\"}}]";
    fleet.publish("web", &book("web", breaks));
    fleet.pass(&ALL);
    let of = |fleet: &Fleet| -> Vec<_> {
        let all = fleet.nodes.iter().flat_map(|node| node.queries().events().recorded());
        let halted = all.filter(|event| event.r#type == "rollout.halted");
        halted.map(|event| (event.node, event.state.unwrap_or_default())).collect()
    };
    let fired = [("n1".to_owned(), "firing".to_owned())];
    assert_eq!(of(&fleet), fired);
    fleet.pass(&ALL);
    assert_eq!(of(&fleet), fired, "no news");
    fleet.publish("web", &book("web", &breaks.replace("exit 3", "exit 0")));
    fleet.pass(&ALL);
    assert_eq!(of(&fleet)[1..], [("n1".to_owned(), "resolved".to_owned())]);
}
