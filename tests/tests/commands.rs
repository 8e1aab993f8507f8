//! The commands for people and scripts, and the output formats that scripts read.

use std::fs;

use serde_json::Value;
use towpath_tests::{
    git::{FLEET, Repository, book},
    git_servers::Https,
    node::{Node, condition},
    ok, towpath,
};

fn text(arguments: &[&str]) -> String {
    String::from_utf8(ok(towpath().args(arguments)).stdout).unwrap()
}

#[test]
fn explain_and_schema_show_the_documented_fields() {
    insta::assert_snapshot!("explain-taskbook", text(&["explain", "TaskBook"]));
    insta::assert_snapshot!("explain-mode", text(&["explain", "TaskBook.spec.tasks.file.mode"]));
    assert_eq!(text(&["explain", "file.mode"]), text(&["explain", "TaskBook.spec.tasks.file.mode"]));
    let schema: Value = serde_json::from_str(&text(&["schema"])).unwrap();
    assert_eq!(schema["oneOf"].as_array().unwrap().len(), 13);
    let book: Value = serde_json::from_str(&text(&["schema", "TaskBook"])).unwrap();
    assert_eq!(book["$defs"]["File"]["required"], serde_json::json!(["path"]));
    for shell in ["bash", "zsh", "fish"] {
        assert!(text(&["completions", shell]).contains("validate"));
    }
    assert!(text(&["man"]).contains(".TH towpath"));
}

/// Returns the status and the output of `validate` for a working tree.
fn validated(repository: &Repository) -> (Option<i32>, String) {
    let output = towpath().arg("validate").arg(&repository.work).output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn every_module_is_explained_with_an_example_that_is_valid() {
    let folder = tempfile::tempdir().unwrap();
    let repository = Repository::new(folder.path(), "fleet");
    repository.write(
        "fleet.yaml",
        FLEET.replace("name: app}\n", "name: app}\nspec: {includes: {allow: [\"https://example.org/*\"]}}\n"),
    );
    repository.write("vars.yaml", "metadata: {apiVersion: v1alpha, kind: Variables, name: v, namespace: app}\nspec: {values: {nginx_key: /usr/share/keyrings/nginx.gpg}}\n");
    for program in ["files/migrate.sh", "files/raid.py"] {
        repository.write(program, "#!/bin/sh\n");
    }
    for module in towpath_proto::modules() {
        let explained = text(&["explain", module.key]);
        let (_, example) =
            explained.split_once("\nExample:\n").unwrap_or_else(|| panic!("{} has no example", module.key));
        let task = example.replace("name: …", "name: it");
        assert!(task.contains(&format!("    {}: ", module.key)), "{task}");
        let task: String = task.lines().map(|line| format!("  {line}\n")).collect();
        repository
            .write(&format!("{}.yaml", module.key), book(&module.key.to_lowercase(), &format!("  tasks:\n{task}")));
    }
    let (code, said) = validated(&repository);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.ends_with(" 0 errors, 0 warnings\n"), "{said}");
}

#[test]
fn service_before_its_inputs_is_a_warning_under_auto_notify() {
    let folder = tempfile::tempdir().unwrap();
    let repository = Repository::new(folder.path(), "fleet");
    repository.write("fleet.yaml", FLEET);
    let after = "    - name: web runs\n      service: {name: nginx, state: started}\n";
    let before = "    - name: web is there\n      package: {names: [curl, nginx]}\n    - name: web has settings\n      file: {path: /etc/nginx/nginx.conf, content: x}\n    - name: web has limits\n      unit: {name: nginx.service, dropIn: limits, content: x}\n    - name: others have settings\n      file: {path: /etc/nginx-other, content: x}\n";
    repository.write("book.yaml", book("b", &format!("  autoNotify: true\n  tasks:\n{before}{after}")));
    assert_eq!(validated(&repository).0, Some(0));
    assert!(validated(&repository).1.ends_with(" 0 errors, 0 warnings\n"), "{}", validated(&repository).1);
    repository.write("book.yaml", book("b", &format!("  autoNotify: true\n  tasks:\n{after}{before}")));
    let (code, said) = validated(&repository);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.ends_with(" 0 errors, 3 warnings\n"), "{said}");
    for name in ["web is there", "web has settings", "web has limits"] {
        assert!(said.contains(&format!("starts the service nginx.service before the task {name:?}")), "{said}");
    }
    let looped =
        "    - name: they run\n      loop: [nginx, php]\n      service: {name: \"{{ item }}\", state: started}\n";
    repository.write("book.yaml", book("b", &format!("  autoNotify: true\n  tasks:\n{looped}")));
    let (_, said) = validated(&repository);
    assert!(said.contains("autoNotify ignores a service in a loop"), "{said}");
}

#[test]
fn errors_of_the_command_line_name_a_remedy() {
    for (arguments, code, said) in [
        (&["explain", "TaskBok"][..], 2, "did you mean TaskBook?"),
        (&["schema", "Taskbook"][..], 2, "did you mean TaskBook?"),
        (&["frobnicate"][..], 2, "unrecognized subcommand"),
        (&["status", "--socket", "/nonexistent"][..], 1, "no agent answers at /nonexistent"),
        (&["agent", "--config", "/nonexistent"][..], 1, "the README shows an example"),
        (&["validate", "/nonexistent"][..], 1, "/nonexistent"),
    ] {
        let output = towpath().args(arguments).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {stderr}");
        assert!(stderr.contains(said), "{arguments:?}: {stderr}");
    }
}

#[test]
fn invalid_bootstrap_file_is_reported_with_lines() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("agent.yaml");
    fs::write(
        &file,
        "metadata: {apiVersion: v1alpha, kind: Config}\nspec:\n  sorces: []\n  reconcile: {interval: 10}\n",
    )
    .unwrap();
    let output = towpath().args(["agent", "--once", "--config"]).arg(&file).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(
        stderr.contains(":3:3:")
            && stderr.contains("did you mean sources?")
            && stderr.contains("write 10s for seconds"),
        "{stderr}"
    );
    fs::write(&file, "metadata: {apiVersion: v1alpha, kind: Config}\nspec: {sources: [{name: a, url: \"https://user:hunter2@host/x.git\"}]}\n").unwrap();
    let output = towpath().args(["agent", "--once", "--config"]).arg(&file).output().unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("the URL has credentials in it"));
}

#[test]
fn json_has_the_fields_that_scripts_read() {
    let folder = tempfile::tempdir().unwrap();
    let repository = Repository::new(folder.path(), "fleet");
    repository.write("fleet.yaml", FLEET);
    repository.write(
        "vars.yaml",
        "metadata: {apiVersion: v1alpha, kind: Variables, name: v, namespace: app}\nspec: {values: {a: 1}}\n",
    );
    repository.write("b.yaml", book("b", "  tasks:\n    - name: t\n      file: {path: /t, content: x}\n"));
    let commit = repository.publish("one");
    let node = Node::new(folder.path(), &format!("url: {}", repository.bare.display()));
    let _agent = node.start();
    node.wait_for(&commit);
    let has = |value: &Value, keys: &[&str]| {
        let found: Vec<&str> = value.as_object().unwrap().keys().map(String::as_str).collect();
        for key in keys {
            assert!(found.contains(key), "{key} is not in {found:?}");
        }
    };
    let status = node.status();
    has(
        &status,
        &["node", "cluster", "generation", "commits", "lastAttempted", "lastApplied", "conditions", "taskBooks"],
    );
    has(&status["conditions"][0], &["type", "status", "reason", "message", "since"]);
    has(&status["taskBooks"][0]["tasks"][0], &["name", "module", "outcome", "changed", "took", "message"]);
    assert!(condition(&status, "Ready")["status"].is_boolean());
    has(
        &node.ask(&["nodes"]).unwrap()[0],
        &["name", "labels", "liveness", "generation", "ready", "address", "version"],
    );
    has(
        &node.ask(&["objects"]).unwrap()[0],
        &["kind", "namespace", "name", "uuid", "source", "file", "line", "labels", "status"],
    );
    has(
        &node.ask(&["runs"]).unwrap()[0],
        &["run", "namespace", "name", "cause", "generation", "node", "started", "took", "outcome", "tasks"],
    );
    let events = ok(towpath().args(["events", "--output", "json", "--socket"]).arg(&node.socket));
    let first: Value = serde_json::from_str(String::from_utf8(events.stdout).unwrap().lines().next().unwrap()).unwrap();
    has(&first, &["uuid", "namespace", "time", "type", "state", "reason", "node", "object", "message", "data"]);
    let ask = |arguments: &[&str]| -> Value {
        let output = ok(towpath().args(arguments).arg("--config").arg(&node.config).args(["--output", "json"]));
        serde_json::from_slice(&output.stdout).unwrap()
    };
    has(&ask(&["vars"])["a"], &["value", "from", "lost"]);
    has(&ask(&["vars"])["a"]["from"], &["level", "object", "file", "line"]);
    has(&ask(&["plan"])["tasks"][0], &["taskBook", "name", "module", "action", "diff"]);
    has(
        &ask(&["facts"]),
        &["os", "kernel", "hostname", "cpus", "memory", "mounts", "interfaces", "addresses", "custom"],
    );
    assert_eq!(ask(&["render", "b"])["tasks"][0]["file"]["content"], "x");
}

#[test]
fn include_is_pinned_and_fetched_without_credentials() {
    let folder = tempfile::tempdir().unwrap();
    let library = Repository::new(folder.path(), "library");
    library.write("tasks.yaml", "tasks:\n  - name: from afar\n    file: {path: /afar, template: t.j2}\n");
    library.write("t.j2", "{{ vars.word }}\n");
    let pinned = library.publish("one");
    library.write("t.j2", "moved\n");
    library.publish("two");
    let server =
        Https::start_with(&folder.path().join("https"), folder.path(), "if ($http_authorization) { return 403; }");
    let repository = Repository::new(folder.path(), "fleet");
    let url = server.url("library");
    let fleet = |allow: &str| {
        FLEET.replace("name: app}\n", &format!("name: app}}\nspec: {{includes: {{allow: [\"{allow}\"]}}}}\n"))
    };
    repository.write("fleet.yaml", fleet("https://localhost:*"));
    repository.write("b.yaml", book("b", &format!("  tasks:\n    - name: afar\n      include: {{url: \"{url}\", commit: {pinned}, path: tasks.yaml, vars: {{word: pinned}}}}\n")));
    repository.publish("one");
    let node = Node::new(folder.path(), &format!("url: {}", repository.bare.display()));
    let once = node.once_with(node.agent().env("SSL_CERT_FILE", server.authority.certificate()));
    assert_eq!(once.code, 0, "{}", once.log);
    assert_eq!(node.read("/afar").unwrap(), "pinned\n");
    repository.write("fleet.yaml", fleet("https://elsewhere/*"));
    repository.publish("not allowed any more");
    let once = node.once_with(node.agent().env("SSL_CERT_FILE", server.authority.certificate()));
    assert_eq!(once.code, 2);
    assert!(once.log.contains("must not include from"), "{}", once.log);
}

#[test]
fn unreachable_source_removes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let other = Repository::new(folder.path(), "other");
    other.write("o.yaml", "metadata: {apiVersion: v1alpha, kind: TaskBook, name: o, namespace: apps}\nspec:\n  targets: {nodeGroups: [web]}\n  prune: true\n  tasks:\n    - name: o\n      file: {path: /o, content: x}\n");
    other.publish("one");
    let repository = Repository::new(folder.path(), "fleet");
    repository.write("fleet.yaml", FLEET);
    repository.write("config.yaml", format!("metadata: {{apiVersion: v1alpha, kind: Config, name: c}}\nspec: {{sources: [{{name: apps, url: {}}}]}}\n---\nmetadata: {{apiVersion: v1alpha, kind: Namespace, name: apps}}\nspec: {{sources: [apps]}}\n", other.bare.display()));
    repository.publish("one");
    let node = Node::new(folder.path(), &format!("url: {}", repository.bare.display()));
    let once = node.once();
    assert_eq!(once.code, 0, "{}", once.log);
    assert_eq!(node.read("/o").unwrap(), "x");
    // The source and its mirror are gone: the node keeps its revision.
    fs::rename(&other.bare, folder.path().join("away")).unwrap();
    fs::remove_dir_all(node.state.join("mirrors/apps.git")).unwrap();
    repository.write("b.yaml", book("b", "  tasks:\n    - name: t\n      file: {path: /t, content: x}\n"));
    repository.publish("two");
    let once = node.once();
    assert_ne!(once.code, 0);
    assert_eq!(once.status["generation"], 1);
    assert!(node.read("/o").is_some() && node.read("/t").is_none());
    fs::rename(folder.path().join("away"), &other.bare).unwrap();
    assert_eq!(node.once().code, 0);
    assert!(node.read("/t").is_some());
    // An invalid head of the second source is not adopted, and does not block the first source.
    other.write("o.yaml", "metadata: {apiVersion: v1alpha, kind: Node, name: mine}\n");
    other.publish("global kinds are not its to define");
    repository.write("b.yaml", book("b", "  tasks:\n    - name: t\n      file: {path: /t, content: y}\n"));
    repository.publish("three");
    let once = node.once();
    assert_eq!(once.code, 2, "{}", once.log);
    assert_eq!((node.read("/t").unwrap().as_str(), node.read("/o").unwrap().as_str()), ("y", "x"));
    assert!(condition(&once.status, "Stalled")["message"].as_str().unwrap().contains("must not define a Node"));
}
