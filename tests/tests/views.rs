//! The views of a revision: as another node, and of nodes that do not exist.

use std::{fs, process::Output};

use serde_json::{Value, json};
use towpath_tests::{
    git::{Repository, book},
    node::Node,
    output, towpath,
};

const TWO_NODES: &str = r#"
metadata: {apiVersion: v1alpha, kind: Namespace, name: app}
---
metadata: {apiVersion: v1alpha, kind: Node, name: n1, labels: {role: web}}
---
metadata: {apiVersion: v1alpha, kind: Node, name: web2, labels: {role: web, size: large}}
---
metadata: {apiVersion: v1alpha, kind: NodeGroup, name: web}
spec: {selector: role=web}
"#;

const TASKS: &str = r#"  tasks:
    - name: conf
      file: {path: /etc/conf, content: "{{ node.name }} {{ facts.hostname }} {{ node.labels.size | default('small') }}"}
"#;

fn run(node: &Node, arguments: &[&str]) -> Output {
    output(towpath().args(arguments).arg("--config").arg(&node.config).args(["--output", "json"]))
}

fn content(output: &Output) -> Value {
    let view: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    view["tasks"][0]["file"]["content"].clone()
}

#[test]
fn book_is_rendered_as_another_node_with_its_facts_with_and_without_an_agent() {
    let folder = tempfile::tempdir().unwrap();
    let repository = Repository::new(folder.path(), "fleet");
    repository.write("fleet.yaml", TWO_NODES);
    repository.write("book.yaml", book("b", TASKS));
    let commit = repository.publish("one");
    let node = Node::new(folder.path(), &format!("url: {}", repository.bare.display()));
    let facts = folder.path().join("facts.yaml");
    fs::write(&facts, "hostname: host-of-web2\n").unwrap();
    let facts = facts.display().to_string();
    let as_web2 = ["render", "b", "--node", "web2", "--facts", &facts];
    let agent = node.start();
    node.wait_for(&commit);
    let shown = run(&node, &as_web2);
    assert_eq!(content(&shown), json!("web2 host-of-web2 large"), "by the agent: {shown:?}");
    let unknown = run(&node, &["vars", "--node", "web3"]);
    let said = String::from_utf8_lossy(&unknown.stderr).into_owned();
    assert!(!unknown.status.success() && said.contains("web3") && said.contains("web2"), "{said}");
    drop(agent);
    assert_eq!(content(&run(&node, &as_web2)), json!("web2 host-of-web2 large"), "without an agent");
    for arguments in [vec!["vars", "--node", "web3"], vec!["render", "b", "--node", "web3", "--facts", &facts]] {
        let unknown = run(&node, &arguments);
        assert!(!unknown.status.success(), "{arguments:?}");
        assert!(String::from_utf8_lossy(&unknown.stderr).contains("web3"), "{arguments:?}");
    }
    assert!(run(&node, &["vars", "--node", "web2"]).status.success());
    assert_eq!(run(&node, &["render", "b", "--node", "web2"]).status.code(), Some(2), "facts are required");
}

#[test]
fn node_that_a_working_tree_does_not_name_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let repository = Repository::new(folder.path(), "fleet");
    repository.write("fleet.yaml", TWO_NODES);
    repository.write("book.yaml", book("b", TASKS));
    let work = repository.work.display().to_string();
    let node = Node::new(folder.path(), &format!("url: {}", repository.bare.display()));
    let vars = |name: &str| run(&node, &["vars", "--node", name, "--source-dir", &work]);
    assert!(vars("web2").status.success());
    let unknown = vars("web3");
    assert!(!unknown.status.success() && String::from_utf8_lossy(&unknown.stderr).contains("web3"), "{unknown:?}");
}

#[test]
fn plan_of_a_task_that_cannot_be_rendered_fails() {
    let folder = tempfile::tempdir().unwrap();
    let repository = Repository::new(folder.path(), "fleet");
    repository.write("fleet.yaml", TWO_NODES);
    let fails = "  tasks: [{name: fails, file: {path: /etc/x, content: \"{{ facts.custom.missing.deep }}\"}}]\n";
    repository.write("book.yaml", book("b", fails));
    let work = repository.work.display().to_string();
    let node = Node::new(folder.path(), &format!("url: {}", repository.bare.display()));
    let plan = run(&node, &["plan", "--exit-code", "--source-dir", &work]);
    let tasks: Value = serde_json::from_slice(&plan.stdout).unwrap_or_default();
    assert_eq!((&tasks["tasks"][0]["failed"], plan.status.code()), (&json!(true), Some(3)), "{plan:?}");
}

/// A computed value, a condition and an action, each with a command that leaves a file.
const COMMANDS: &str = r#"  prune: true
  tasks:
    - {name: reads, file: {path: /etc/x, content: "{{ vars.said }}"}}
    - {name: asks, command: {argv: ["true"], unless: "touch ROOT/asked"}}
    - {name: acts, command: {shell: "touch ROOT/acted"}}
    - {name: static, file: {path: /etc/static, content: x}}
"#;

#[test]
fn plan_runs_no_command_and_counts_no_unknown_as_a_change() {
    let folder = tempfile::tempdir().unwrap();
    let repository = Repository::new(folder.path(), "fleet");
    let root = folder.path().display().to_string();
    repository.write("fleet.yaml", TWO_NODES);
    repository.write(
        "vars.yaml",
        format!("metadata: {{apiVersion: v1alpha, kind: Variables, name: v, namespace: app}}\nspec:\n  computed:\n    - {{name: said, task: {{name: say, command: {{shell: \"touch {root}/computed; echo hi\"}}}}, value: result.stdout}}\n    - {{name: twice, expression: vars.said + vars.said}}\n"),
    );
    repository.write("book.yaml", book("b", &COMMANDS.replace("ROOT", &root)));
    let work = repository.work.display().to_string();
    let node = Node::new(folder.path(), &format!("url: {}", repository.bare.display()));
    let plan = run(&node, &["plan", "--exit-code", "--source-dir", &work]);
    let tasks: Value = serde_json::from_slice(&plan.stdout).unwrap_or_default();
    let actions: Vec<&str> =
        tasks["tasks"].as_array().unwrap().iter().map(|task| task["action"].as_str().unwrap()).collect();
    assert_eq!(actions, ["unknown", "unknown", "run", "create"], "{tasks:#}");
    assert_eq!(tasks["tasks"][0]["diff"], "it depends on the computed value said");
    for file in ["computed", "asked", "acted"] {
        assert!(!folder.path().join(file).exists(), "{file}");
    }
    // Without the action and the file, nothing is known to change.
    let unknown = COMMANDS.split("    - {name: acts").next().unwrap().replace("ROOT", &root);
    // A probe is not made either: an unknown task may bring what it waits for.
    let waits = "    - {name: waits, timeout: 1s, wait: {path: /never}}\n";
    repository.write("book.yaml", book("b", &format!("{unknown}{waits}")));
    let plan = run(&node, &["plan", "--exit-code", "--source-dir", &work]);
    assert_eq!(plan.status.code(), Some(0), "{plan:?}");
}

#[test]
fn plan_shows_the_items_that_a_deleted_book_leaves() {
    let folder = tempfile::tempdir().unwrap();
    let repository = Repository::new(folder.path(), "fleet");
    repository.write("fleet.yaml", TWO_NODES);
    let file = "  prune: true\n  pruneBudget: 100%\n  tasks: [{name: f, file: {path: /etc/f, content: x}}]\n";
    repository.write("book.yaml", book("b", file));
    repository.publish("a book");
    let node = Node::new(folder.path(), &format!("url: {}", repository.bare.display()));
    assert_eq!(node.once().code, 0);
    std::fs::remove_file(repository.work.join("book.yaml")).unwrap();
    let work = repository.work.display().to_string();
    let plan = run(&node, &["plan", "--exit-code", "--source-dir", &work]);
    let tasks: Value = serde_json::from_slice(&plan.stdout).unwrap_or_default();
    assert_eq!(tasks["tasks"][0]["action"], "remove", "{tasks:#}");
    assert_eq!((node.read("/etc/f").as_deref(), plan.status.code()), (Some("x"), Some(5)));
}
