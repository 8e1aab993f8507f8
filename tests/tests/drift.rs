//! Drift that comes while the agent works, or right after it has corrected something.

use std::{fs, path::Path, thread, time::Duration};

use towpath_tests::{
    Running,
    git::Repository,
    git_servers::Https,
    node::{Node, condition},
    proxy::Proxy,
    wait_until,
};

/// Three files: one is checked before a slow command, one starts a pass, and one is in a directory of the book.
const BOOK: &str = r#"
metadata: {apiVersion: v1alpha, kind: Namespace, name: web}
---
metadata: {apiVersion: v1alpha, kind: Node, name: n1}
---
metadata: {apiVersion: v1alpha, kind: TaskBook, name: b, namespace: web}
spec:
  targets: {nodes: [n1]}
  tasks:
    - {name: a, file: {path: /a, content: ours}}
    - {name: b, file: {path: /b, content: ours}}
    - {name: folder, file: {path: /d, state: directory, mode: "0755"}}
    - {name: inside, file: {path: /d/c, content: ours}}
    - {name: empty, file: {path: /e, state: directory, mode: "0755"}}
"#;

/// A node that looks by itself once an hour alone.
fn node(folder: &Path, book: &str) -> (Repository, Node, Running) {
    let repository = Repository::new(folder, "fleet");
    repository.write("book.yaml", book);
    let head = repository.publish("one");
    let source = format!("url: {}\n      interval: 1h", repository.bare.display());
    let node = Node::with(folder, &source, "  reconcile: {interval: 1h}\n");
    let agent = node.start();
    node.wait_for(&head);
    (repository, node, agent)
}

/// Overwrites a file in place, with the length of its right content.
fn drift(node: &Node, path: &str) {
    fs::write(node.root.join(path), "else").unwrap();
}

#[test]
fn drift_within_milliseconds_of_a_correction_is_corrected() {
    let folder = tempfile::tempdir().unwrap();
    let (_repository, node, _agent) = node(folder.path(), BOOK);
    let is_ours = |path: &str| fs::read_to_string(node.root.join(path)).is_ok_and(|text| text == "ours");
    for path in ["a", "d/c"] {
        for milliseconds in [0, 1, 2, 4, 8] {
            // A change within two seconds of a pass counts as its result, and too many of them slow the passes down.
            thread::sleep(Duration::from_millis(2100));
            drift(&node, path);
            // Without a pause, so that the next change comes within one tick of the clock of the file system.
            while !is_ours(path) {
                std::hint::spin_loop();
            }
            thread::sleep(Duration::from_millis(milliseconds));
            drift(&node, path);
            let what = || format!("{path}, {milliseconds} ms after its correction\n{}", node.log());
            wait_until(Duration::from_secs(20), || is_ours(path), what);
        }
    }
}

#[test]
fn drift_during_a_pass_is_corrected_after_it() {
    let folder = tempfile::tempdir().unwrap();
    let running = folder.path().join("running");
    let slow =
        format!("    - {{name: slow, command: {{shell: \"touch {}; sleep 1\", run: always}}}}\n", running.display());
    let (_repository, node, _agent) = node(folder.path(), &format!("{BOOK}{slow}"));
    for (path, change) in [("a", "content"), ("d/c", "content"), ("a", "removed"), ("e", "mode"), ("b", "replaced")] {
        let _ = fs::remove_file(&running);
        drift(&node, if path == "b" { "a" } else { "b" });
        let begun = || running.exists();
        wait_until(Duration::from_secs(20), begun, || format!("no pass begins for {path}\n{}", node.log()));
        let file = node.root.join(path);
        let permissions = || std::os::unix::fs::PermissionsExt::from_mode(0o700);
        match change {
            "content" => drift(&node, path),
            "removed" => fs::remove_file(&file).unwrap(),
            "mode" => fs::set_permissions(&file, permissions()).unwrap(),
            _ => {
                fs::write(node.root.join("new"), "else").unwrap();
                fs::rename(node.root.join("new"), &file).unwrap();
            }
        }
        let mode =
            || fs::metadata(&file).map(|meta| std::os::unix::fs::PermissionsExt::mode(&meta.permissions()) & 0o777);
        let corrected = || match change {
            "mode" => mode().is_ok_and(|mode| mode == 0o755),
            _ => fs::read_to_string(&file).is_ok_and(|text| text == "ours"),
        };
        wait_until(Duration::from_secs(20), corrected, || format!("{path} {change}\n{}", node.log()));
    }
}

/// No directory is watched before the first pass.
#[test]
fn drift_during_the_first_pass_is_corrected_after_it() {
    let folder = tempfile::tempdir().unwrap();
    let running = folder.path().join("running");
    let slow = format!("    - {{name: slow, command: {{shell: \"touch {}; sleep 1\"}}}}\n", running.display());
    let repository = Repository::new(folder.path(), "fleet");
    repository.write("book.yaml", format!("{BOOK}{slow}"));
    repository.publish("one");
    let source = format!("url: {}\n      interval: 1h", repository.bare.display());
    let node = Node::with(folder.path(), &source, "  reconcile: {interval: 1h}\n");
    let _agent = node.start();
    wait_until(Duration::from_secs(20), || running.exists(), || node.log());
    drift(&node, "a");
    drift(&node, "d/c");
    node.wait_for_file("/a", "ours");
    node.wait_for_file("/d/c", "ours");
}

/// A task may change a file that another one manages. That is drift in each pass.
#[test]
fn task_that_changes_a_managed_file_does_not_keep_the_agent_busy() {
    let folder = tempfile::tempdir().unwrap();
    let passes = folder.path().join("passes");
    let file = folder.path().join("n1/root/a");
    let touches = format!("touch {}; echo >> {}", file.display(), passes.display());
    let task = format!("    - {{name: touch, command: {{shell: \"{touches}\", run: always}}}}\n");
    let (_repository, node, _agent) = node(folder.path(), &format!("{BOOK}{task}"));
    let count = || fs::read_to_string(&passes).unwrap_or_default().lines().count();
    wait_until(Duration::from_secs(20), || count() >= 5, || node.log());
    thread::sleep(Duration::from_secs(5));
    let after = count();
    assert!(after <= 14, "{after} passes\n{}", node.log());
    thread::sleep(Duration::from_secs(3));
    assert!(count() <= after + 1, "{} passes\n{}", count(), node.log());
}

/// The kernel reports the agent's own changes, too.
#[test]
fn own_changes_lead_to_no_further_pass() {
    let folder = tempfile::tempdir().unwrap();
    let passes = folder.path().join("passes");
    let counted = format!("    - {{name: count, command: {{shell: \"echo >> {}\", run: always}}}}\n", passes.display());
    let (_repository, node, _agent) = node(folder.path(), &format!("{BOOK}{counted}"));
    let count = || fs::read_to_string(&passes).unwrap_or_default().lines().count();
    thread::sleep(Duration::from_secs(1));
    let before = count();
    assert!(before <= 2, "{before} passes for the first revision\n{}", node.log());
    for path in ["a", "b", "d/c"] {
        let before = count();
        drift(&node, path);
        wait_until(Duration::from_secs(20), || count() > before, || node.log());
        thread::sleep(Duration::from_secs(1));
        assert_eq!(count(), before + 1, "{path}\n{}", node.log());
    }
}

/// A task that adds a letter to a file in each pass.
const COUNTED: &str = r#"
metadata: {apiVersion: v1alpha, kind: Namespace, name: web}
---
metadata: {apiVersion: v1alpha, kind: Node, name: n1}
---
metadata: {apiVersion: v1alpha, kind: TaskBook, name: b, namespace: web}
spec:
  targets: {nodes: [n1]}
  tasks:
    - {name: pass, command: {shell: 'printf x >> "$TOWPATH_ROOT/passes"', run: always}}
"#;

#[test]
fn interval_of_a_config_in_git_counts_unless_the_bootstrap_file_sets_one() {
    let config = |interval: &str| {
        format!(
            "metadata: {{apiVersion: v1alpha, kind: Config, name: fleet}}\n\
             spec: {{sharedFacts: null, reconcile: {{interval: {interval}, jitter: 0%}}}}\n"
        )
    };
    for (bootstrap, is_followed) in [("", true), ("  reconcile: {interval: 1h}\n", false)] {
        let folder = tempfile::tempdir().unwrap();
        let repository = Repository::new(folder.path(), "fleet");
        repository.write("book.yaml", COUNTED);
        repository.write("config.yaml", config("1h"));
        let head = repository.publish("one");
        let source = format!("url: {}\n      interval: 1s", repository.bare.display());
        let node = Node::with(folder.path(), &source, bootstrap);
        let _agent = node.start();
        node.wait_for(&head);
        let passes = || node.read("/passes").unwrap_or_default().len();
        repository.write("config.yaml", config("1s"));
        node.wait_for(&repository.publish("a short interval"));
        let begun = passes();
        let more = || passes() >= begun + 3;
        if is_followed {
            wait_until(Duration::from_secs(20), more, || node.log());
        } else {
            thread::sleep(Duration::from_secs(5));
            assert!(passes() <= begun + 1, "{} passes\n{}", passes() - begun, node.log());
        }
        // The interval of the next commit counts from its first pass on.
        repository.write("config.yaml", config("1h"));
        node.wait_for(&repository.publish("a long interval"));
        let ended = passes();
        thread::sleep(Duration::from_secs(4));
        assert!(passes() <= ended + 1, "{} passes\n{}", passes() - ended, node.log());
    }
}

/// The git server accepts connections and never answers.
#[test]
fn drift_is_corrected_while_a_git_server_is_silent() {
    let folder = tempfile::tempdir().unwrap();
    let repository = Repository::new(folder.path(), "fleet");
    repository.write("book.yaml", BOOK);
    let head = repository.publish("one");
    let server = Https::start_with(&folder.path().join("https"), folder.path(), "");
    let proxy = Proxy::to(&format!("127.0.0.1:{}", server.port));
    let url = format!("https://{}/fleet.git", proxy.url().trim_start_matches("http://"));
    let authority = server.authority.certificate();
    let source = format!("url: {url}\n      interval: 1s\n      auth: {{caFile: {}}}", authority.display());
    let node = Node::with(folder.path(), &source, "  reconcile: {interval: 1h}\n");
    let _agent = node.start();
    node.wait_for(&head);
    proxy.hold(true, true);
    let is_pending = || {
        let status = node.status();
        let reconciling = condition(&status, "Reconciling");
        reconciling["reason"] == "Progressing" && reconciling["message"].as_str().unwrap().contains("has not answered")
    };
    wait_until(Duration::from_secs(120), is_pending, || node.log());
    assert_eq!(condition(&node.status(), "Ready")["status"], true);
    drift(&node, "a");
    wait_until(Duration::from_secs(20), || node.read("/a").as_deref() == Some("ours"), || node.log());
    assert!(is_pending(), "the git server is still silent");
    repository.write("book.yaml", BOOK.replacen("ours", "next", 1));
    let next = repository.publish("two");
    proxy.hold(false, false);
    node.wait_for(&next);
    assert_eq!(node.read("/a").as_deref(), Some("next"));
}
