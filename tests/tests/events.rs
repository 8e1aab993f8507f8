//! The events of one server: one happening makes one event, and an alarm ends when its cause does.

use std::{fs, path::PathBuf};

use towpath_state::{Journal, StoredEvent};
use towpath_tests::{
    git::{FLEET, Repository, book},
    node::Node,
    ok, output, towpath,
};

/// Two files, and a command that fails until the file /ready exists.
const TASKS: &str = r#"  prune: true
  tasks:
    - name: one
      file: {path: /etc/one, content: one}
    - name: two
      file: {path: /etc/two, content: two}
    - name: ready
      command: {shell: 'test -e "$TOWPATH_ROOT/ready"'}
"#;

struct Server {
    folder: tempfile::TempDir,
    repository: Repository,
    node: Node,
    seen: usize,
}

impl Server {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let repository = Repository::new(folder.path(), "fleet");
        repository.write("fleet.yaml", FLEET);
        let node = Node::new(folder.path(), &format!("url: {}", repository.bare.display()));
        let server = Self { folder, repository, node, seen: 0 };
        server.publish(TASKS);
        server
    }

    fn publish(&self, tasks: &str) {
        self.repository.write("book.yaml", book("b", tasks));
        self.repository.publish("change");
    }

    fn path(&self, path: &str) -> PathBuf {
        self.node.root.join(path)
    }

    /// Returns all recorded events.
    fn recorded(&self) -> Vec<StoredEvent> {
        let (journal, _) = Journal::open(&self.node.state).unwrap();
        journal.all::<StoredEvent>().unwrap().into_iter().map(|(_, event)| event).collect()
    }

    /// Runs the agent, and returns the new events as text: type, state and task.
    fn once(&mut self) -> Vec<String> {
        self.node.once();
        let all = self.recorded();
        let new = all.iter().skip(self.seen).map(|event| {
            let task = event.data.get("task").and_then(serde_json::Value::as_str);
            [Some(event.r#type.as_str()), event.state.as_deref(), task]
                .into_iter()
                .flatten()
                .collect::<Vec<_>>()
                .join(" ")
        });
        let new = new.collect();
        self.seen = all.len();
        new
    }
}

#[test]
fn failure_fires_once_and_ends_when_the_task_succeeds() {
    let mut server = Server::new();
    let first = [
        "revision.accepted",
        "run.started",
        "task.changed one",
        "task.changed two",
        "run.failed",
        "task.failed firing ready",
    ];
    assert_eq!(server.once(), first);
    assert!(server.once().is_empty(), "it fails as before");
    fs::write(server.path("ready"), "").unwrap();
    assert_eq!(server.once(), ["task.changed ready", "run.succeeded", "task.failed resolved ready"]);
    assert!(server.once().is_empty());
    let failed = server.recorded().into_iter().find(|event| event.r#type == "task.failed").unwrap();
    assert_eq!((failed.namespace.as_str(), failed.object.as_deref()), ("app", Some("TaskBook/app/b")));
    assert_eq!((&failed.data["module"], &failed.data["run"]), (&"command".into(), &"app/b@1".into()));
}

#[test]
fn change_of_a_failed_book_supersedes_its_run_and_fires_again() {
    let mut server = Server::new();
    server.once();
    server.publish(&TASKS.replace("content: two", "content: zwei"));
    let events = server.once();
    assert_eq!(events[..3], ["revision.accepted", "run.superseded", "run.started"]);
    assert_eq!(events[3..], ["task.changed two", "run.failed", "task.failed firing ready"]);
}

#[test]
fn drift_is_one_event_when_corrected_and_an_alarm_when_reported() {
    let mut server = Server::new();
    fs::write(server.path("ready"), "").unwrap();
    server.once();
    fs::write(server.path("etc/one"), "drift").unwrap();
    assert_eq!(server.once(), ["drift.corrected one"]);
    server.publish(&TASKS.replace("name: one\n", "name: one\n      drift: report\n"));
    server.once();
    fs::write(server.path("etc/one"), "drift").unwrap();
    assert_eq!(server.once(), ["drift.reported firing one"]);
    assert!(server.once().is_empty(), "it is left as it is");
    fs::write(server.path("etc/one"), "one").unwrap();
    assert_eq!(server.once(), ["drift.reported resolved one"]);
}

#[test]
fn removals_over_the_budget_are_an_alarm_and_a_log_line() {
    let mut server = Server::new();
    fs::write(server.path("ready"), "").unwrap();
    server.once();
    let rest = "  prune: true\n  tasks: [{name: three, file: {path: /etc/three, content: three}}]\n";
    server.publish(rest);
    let events = server.once();
    assert_eq!(events.last().unwrap(), "prune.held firing prune", "{events:?}");
    assert!(server.once().is_empty());
    server.publish(&format!("  pruneBudget: 100%\n{rest}"));
    let events = server.once();
    assert!(events.contains(&"prune.removed prune file /etc/two".to_owned()), "{events:?}");
    assert!(events.contains(&"prune.held resolved prune".to_owned()), "{events:?}");
}

#[test]
fn rejected_head_and_unreachable_source_are_alarms() {
    let mut server = Server::new();
    fs::write(server.path("ready"), "").unwrap();
    server.once();
    server.publish("  tasks: [{name: x, fiel: {path: /x}}]\n");
    assert_eq!(server.once(), ["revision.rejected firing"]);
    assert!(server.once().is_empty());
    server.publish(TASKS);
    assert_eq!(server.once()[0], "revision.rejected resolved");
    let away = server.folder.path().join("away");
    fs::rename(&server.repository.bare, &away).unwrap();
    assert_eq!(server.once(), ["source.unreachable firing"]);
    assert!(server.once().is_empty());
    fs::rename(&away, &server.repository.bare).unwrap();
    assert_eq!(server.once(), ["source.unreachable resolved"]);
}

#[test]
fn daemon_records_its_start_and_stop_and_shows_data_as_plain_json() {
    let server = Server::new();
    let mut agent = server.node.start();
    towpath_tests::wait_until(
        std::time::Duration::from_secs(30),
        || events(&server).contains("task.failed"),
        || events(&server),
    );
    let failed = events(&server).lines().find(|line| line.contains("task.failed")).unwrap().to_owned();
    let failed: serde_json::Value = serde_json::from_str(&failed).unwrap();
    assert_eq!(failed["data"], serde_json::json!({"task": "ready", "module": "command", "run": "app/b@1"}));
    agent.terminate();
    let types: Vec<String> = server.recorded().into_iter().map(|event| event.r#type).collect();
    assert_eq!(types.first().map(String::as_str), Some("agent.started"), "{types:?}");
    assert_eq!(types.last().map(String::as_str), Some("agent.stopped"), "{types:?}");
}

fn events(server: &Server) -> String {
    let output = output(towpath().args(["events", "--output", "json", "--socket"]).arg(&server.node.socket));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn explain_lists_all_event_types() {
    let explain = |path: &str| String::from_utf8(ok(towpath().args(["explain", path])).stdout).unwrap();
    insta::assert_snapshot!(explain("events"));
    assert_eq!(explain("events.drift").lines().count(), 3);
    assert!(explain("task.failed").contains("resolved"));
}

#[test]
fn failure_of_a_task_is_one_line_of_the_log() {
    for tasks in [
        "    - name: breaks\n      command: {shell: \"echo why >&2; exit 3\"}\n",
        "    - name: breaks\n      file: {path: /file/below, content: x}\n",
    ] {
        let folder = tempfile::tempdir().unwrap();
        let repository = Repository::new(folder.path(), "fleet");
        repository.write("fleet.yaml", FLEET);
        repository.write("book.yaml", book("b", &format!("  tasks:\n{tasks}")));
        repository.publish("one");
        let node = Node::new(folder.path(), &format!("url: {}", repository.bare.display()));
        fs::create_dir_all(&node.root).unwrap();
        fs::write(node.root.join("file"), "").unwrap();
        let once = node.once();
        assert_eq!(once.code, 3, "{}", once.log);
        let lines = once.log.lines().filter(|line| line.contains("app/b") && line.contains("breaks: ")).count();
        assert_eq!(lines, 1, "{}", once.log);
    }
}
