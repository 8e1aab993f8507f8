//! Books that several nodes run together, each node a step at a time.

use towpath_coordination::keys;

use crate::{book, harness::Trace};

const ALL: [&str; 3] = ["n1", "n2", "n3"];

/// Nodes that have joined, so that they are members of the runs to come. The trace begins behind that.
fn joined() -> Trace {
    let mut trace = Trace::new(3);
    let spec = r#"
tasks:
  - name: base
    file: {path: /base, content: x}
"#;
    trace.publish("a first book, for which the nodes join", &[("base.yaml", &book("base", spec))]);
    trace.looks(&ALL);
    trace.begin();
    trace
}

fn publish(trace: &mut Trace, message: &str, spec: &str) {
    trace.publish(message, &[("book.yaml", &book("web", spec))]);
}

#[test]
fn waves() {
    let mut trace = joined();
    let spec = r#"
rollout:
  serialize: {count: 1}
  waves: [1, 100%]
  soak: 10s
tasks:
  - name: act
    command: {shell: "echo act"}
"#;
    publish(&mut trace, "two waves, one node at a time", spec);
    trace.looks(&ALL);
    trace.looks(&ALL);
    trace.wait(10);
    trace.looks(&ALL);
    trace.looks(&ALL);
    trace.looks(&ALL);
    trace.ends("waves");
}

#[test]
fn slots() {
    let mut trace = joined();
    let spec = r#"
rollout:
  serialize: {count: 1}
  before:
    - name: drain
      command: {shell: "echo drain"}
  after:
    - name: undrain
      command: {shell: "test ! -e $TOWPATH_ROOT/stuck"}
tasks:
  - name: conf
    file: {path: /conf, content: x}
"#;
    trace.write("n1", "/stuck", "x");
    publish(&mut trace, "one node at a time, and the first one is stuck", spec);
    trace.looks(&ALL);
    trace.looks(&["n2"]);
    trace.delete("n1", "/stuck");
    trace.looks(&ALL);
    trace.looks(&ALL);
    trace.write("n2", "/conf", "drift");
    trace.looks(&["n2"]);
    trace.remove("the book is deleted", "book.yaml");
    trace.looks(&ALL);
    trace.ends("slots");
}

#[test]
fn barrier() {
    let mut trace = joined();
    let spec = r#"
tasks:
  - name: first
    command: {shell: "echo first"}
  - name: all are here
    sync: true
  - name: second
    command: {shell: "echo second"}
"#;
    publish(&mut trace, "a barrier", spec);
    trace.looks(&ALL);
    trace.looks(&ALL);
    trace.looks(&ALL);
    trace.ends("barrier");
}

#[test]
fn election() {
    let mut trace = joined();
    let spec = r#"
tasks:
  - name: migrate
    command: {shell: "echo migrated by $TOWPATH_NODE; test ! -e $TOWPATH_ROOT/broken"}
    elect: {nodes: [n2]}
    register: migration
  - name: result
    file: {path: /result, content: "{{ steps.migration.stdout }}"}
"#;
    trace.write("n2", "/broken", "x");
    publish(&mut trace, "a task that n2 is elected for", spec);
    trace.looks(&ALL);
    trace.looks(&["n1"]);
    trace.delete("n2", "/broken");
    trace.looks(&["n2"]);
    trace.looks(&ALL);
    trace.looks(&ALL);
    trace.shows("/result");
    trace.ends("election");
}

#[test]
fn max_failures() {
    let mut trace = joined();
    let spec = r#"
rollout:
  serialize: {count: 1}
  maxFailures: 1
tasks:
  - name: fragile
    command: {shell: "test ! -e $TOWPATH_ROOT/broken"}
"#;
    for node in ALL {
        trace.write(node, "/broken", "x");
    }
    publish(&mut trace, "a task that fails on each node, where one may fail", spec);
    trace.looks(&ALL);
    trace.looks(&ALL);
    publish(&mut trace, "a commit that works", &spec.replace("test ! -e", "true"));
    trace.looks(&ALL);
    trace.looks(&ALL);
    trace.ends("max_failures");
}

#[test]
fn lost_node() {
    let mut trace = joined();
    let spec = r#"
rollout:
  serialize: {count: 1}
  onLostNode: skip
tasks:
  - name: first
    command: {shell: "touch $TOWPATH_ROOT/begun; while ! test -e $TOWPATH_ROOT/go; do sleep 0.02; done"}
  - name: second
    command: {shell: "echo second"}
"#;
    trace.write("n2", "/go", "x");
    trace.write("n3", "/go", "x");
    publish(&mut trace, "one node at a time, without those that are lost", spec);
    trace.cut_off("n1", "/begun", "/go");
    trace.looks(&["n2"]);
    trace.expire(&keys::alive("n1"));
    trace.wait(10);
    trace.looks(&["n2", "n3"]);
    trace.is_back(&keys::alive("n1"));
    trace.wait(10);
    trace.looks(&ALL);
    trace.looks(&ALL);
    trace.ends("lost_node");
}

#[test]
fn dependency_on_all_nodes() {
    let mut trace = joined();
    let first = r#"
rollout: {serialize: {count: 1}}
tasks:
  - name: act
    command: {shell: "echo act"}
"#;
    let second = r#"
dependsOn: [{taskBook: web, on: fleet}]
tasks:
  - name: behind
    command: {shell: "echo behind"}
"#;
    let files = [("book.yaml", book("web", first)), ("second.yaml", book("zz", second))];
    trace.publish(
        "a book behind the whole run of another",
        &files.each_ref().map(|(path, text)| (*path, text.as_str())),
    );
    trace.looks(&ALL);
    trace.looks(&ALL);
    trace.looks(&ALL);
    trace.ends("dependency_on_all_nodes");
}

#[test]
fn own_budget() {
    let mut trace = joined();
    let spec = r#"
tasks:
  - name: free
    command: {shell: "echo free"}
  - name: restarts
    command: {shell: "echo restarts"}
    serialize: {count: 1, slot: restart}
  - name: last
    file: {path: /last, content: x}
"#;
    publish(&mut trace, "a task with a budget of its own", spec);
    trace.looks(&ALL);
    trace.looks(&ALL);
    trace.ends("own_budget");
}

/// Each task waits for the other one, so both must run at the same time.
#[test]
fn parallel_tasks_of_a_rollout() {
    let mut trace = joined();
    let waits = |own: &str, other: &str| {
        format!(
            "touch $TOWPATH_ROOT/{own}; for i in $(seq 500); do test -e $TOWPATH_ROOT/{other} && exit 0; sleep 0.02; done; exit 1"
        )
    };
    let (left, right) = (waits("left", "right"), waits("right", "left"));
    let spec = format!(
        r#"
order: parallel
rollout:
  serialize: {{count: 1}}
  before:
    - name: drain
      command: {{shell: "echo drain"}}
tasks:
  - name: left
    command: {{shell: "{left}"}}
  - name: right
    command: {{shell: "{right}"}}
"#
    );
    publish(&mut trace, "two tasks that wait for each other", &spec);
    trace.looks(&["n1"]);
    // The commits of both tasks come in any order.
    let status = trace.node("n1").queries().status();
    let book = status.task_books.iter().find(|book| book.name == "web").unwrap();
    assert!(book.tasks.iter().all(|task| task.outcome == "changed"), "{:?}", book.tasks);
}

#[test]
fn removal_of_a_deleted_book() {
    let mut trace = joined();
    let spec = r#"
prune: true
pruneBudget: 100%
rollout:
  serialize: {count: 1}
  before:
    - name: drain
      command: {shell: "echo drain"}
  after:
    - name: undrain
      command: {shell: "test ! -e $TOWPATH_ROOT/stuck"}
tasks:
  - name: conf
    file: {path: /conf, content: x}
"#;
    publish(&mut trace, "one node at a time", spec);
    for _ in 0..3 {
        trace.looks(&ALL);
    }
    trace.begin();
    trace.write("n1", "/stuck", "x");
    trace.remove("the book is deleted", "book.yaml");
    trace.looks(&["n1", "n2"]);
    trace.shows("/conf");
    trace.delete("n1", "/stuck");
    trace.looks(&["n1", "n2", "n3"]);
    trace.shows("/conf");
    trace.looks(&["n1"]);
    trace.ends("removal_of_a_deleted_book");
}
