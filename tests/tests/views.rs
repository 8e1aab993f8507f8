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

/// One task for every node, one for web2 only, and one with a fact.
const OF_TWO: &str = r#"  prune: true
  tasks:
    - {name: all, file: {path: /etc/all, content: "{{ node.name }}"}}
    - {name: one, when: "node.name == 'web2'", file: {path: /etc/one, source: files/one}}
    - {name: fact, file: {path: /etc/fact, content: "{{ facts.custom.role }}"}}
    - {name: acts, command: {argv: ["true"]}}
"#;

#[test]
fn plan_for_another_node_compares_working_tree_with_accepted_revision() {
    let folder = tempfile::tempdir().unwrap();
    let repository = Repository::new(folder.path(), "fleet");
    repository.write("fleet.yaml", TWO_NODES);
    repository.write("files/one", "1");
    repository.write("book.yaml", book("b", OF_TWO));
    repository.publish("a book");
    let node = Node::new(folder.path(), &format!("url: {}", repository.bare.display()));
    assert_eq!(node.once().code, 3, "this node has no such fact");
    let facts = folder.path().join("facts.json");
    std::fs::write(&facts, json!({"custom": {"role": "db"}}).to_string()).unwrap();
    let (facts, work) = (facts.display().to_string(), repository.work.display().to_string());
    let planned = |name: &str, further: &[&str]| {
        let arguments = [&["plan", "--exit-code", "--node", name, "--facts", &facts], further].concat();
        let run = run(&node, &arguments);
        let plan: Value = serde_json::from_slice(&run.stdout).unwrap_or_default();
        let tasks = plan["tasks"].as_array().cloned().unwrap_or_default();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let actions: Vec<_> = tasks.iter().map(|task| (text(&task["name"]), text(&task["action"]))).collect();
        (actions, run.status.code(), tasks)
    };
    let named = |actions: &[(&str, &str)]| -> Vec<(String, String)> {
        actions.iter().map(|(name, action)| ((*name).to_owned(), (*action).to_owned())).collect()
    };
    // The accepted revision, for a node on which nothing is applied.
    let (actions, code, tasks) = planned("web2", &[]);
    assert_eq!(actions, named(&[("all", "create"), ("one", "create"), ("fact", "create"), ("acts", "run")]));
    assert_eq!(code, Some(5));
    assert!(tasks[0]["diff"].as_str().unwrap().contains("+content: web2"), "{tasks:?}");
    assert!(tasks[2]["diff"].as_str().unwrap().contains("+content: db"), "{tasks:?}");
    // A working tree without a difference, then with some.
    let source = ["--source-dir", work.as_str()];
    let (actions, code, _) = planned("web2", &source);
    assert!(actions.iter().all(|(_, action)| action == "none"), "{actions:?}");
    assert_eq!(code, Some(0));
    repository.write("files/one", "2");
    repository.write("book.yaml", book("b", &OF_TWO.replace("/etc/all", "/etc/other").replace("custom.role", "os")));
    let (actions, code, _) = planned("web2", &source);
    let expected = [("all", "create"), ("one", "update"), ("fact", "unknown"), ("acts", "none")];
    // The facts have no os. An unknown task may mention an item that seems to be gone.
    let expected = [&expected[..], &[("all", "unknown"), ("fact", "unknown")]].concat();
    assert_eq!((actions, code), (named(&expected), Some(3)));
    repository.write("book.yaml", book("b", &OF_TWO.replace("/etc/all", "/etc/other")));
    let (actions, code, _) = planned("web2", &source);
    let expected = [("all", "create"), ("one", "update"), ("fact", "none"), ("acts", "none"), ("all", "remove")];
    assert_eq!((actions, code), (named(&expected), Some(5)));
    assert_eq!(planned("web3", &source).1, Some(1), "git does not name it");
    assert_eq!(run(&node, &["plan", "--node", "web2"]).status.code(), Some(2), "facts are required");
    let unreadable = run(&node, &["plan", "--node", "web2", "--facts", "/no/facts"]);
    let message = String::from_utf8_lossy(&unreadable.stderr).into_owned();
    assert!(unreadable.status.code() == Some(1) && message.contains("/no/facts"), "{message}");
    assert!(!message.contains("--config"), "{message}");
    assert!(node.read("/etc/one").is_none() && node.read("/etc/other").is_none());
    // An agent that runs gives the same answer.
    let (before, _, _) = planned("web2", &source);
    let _agent = node.start();
    let (answered, code, _) = planned("web2", &source);
    assert_eq!((answered, code), (before, Some(5)));
}
