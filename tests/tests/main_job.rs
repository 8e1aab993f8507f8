//! A pushed commit changes a machine, and drift is corrected: over https, ssh and a local path.

use std::{fs, process::Command, time::Duration};

use towpath_tests::{
    git::{FLEET, Repository, book, git},
    git_servers::{Https, Ssh},
    node::{Node, condition, task},
    ok, towpath, wait_until,
};

/// The time within which a hand edit is corrected. The tests wait ten times as long.
const UNDONE: Duration = Duration::from_secs(1);

fn greeting(text: &str) -> String {
    book(
        "hello",
        &format!("  tasks:\n    - name: greeting\n      file: {{path: /etc/hello, content: \"{text}\\n\"}}\n"),
    )
}

fn fleet(folder: &std::path::Path) -> Repository {
    let repository = Repository::new(folder, "fleet");
    repository.write("fleet.yaml", FLEET);
    repository.write("hello.yaml", greeting("one"));
    repository
}

/// Pushes over a URL, and checks the file, the status and the correction of a hand edit.
fn follows(node: &Node, repository: &Repository, push: &mut Command) {
    let _agent = node.start();
    let first = repository.head();
    node.wait_for(&first);
    assert_eq!(node.read("/etc/hello").unwrap(), "one\n");
    repository.write("hello.yaml", greeting("two"));
    let second = repository.commit("two");
    ok(push);
    node.wait_for_file("/etc/hello", "two\n");
    node.wait_for(&second);
    let status = node.status();
    assert_eq!(status["commits"]["fleet"], second);
    assert_eq!(condition(&status, "Ready")["status"], true);
    fs::write(node.root.join("etc/hello"), "edited by hand\n").unwrap();
    let undone = wait_until(UNDONE * 10, || node.read("/etc/hello").unwrap() == "two\n", || node.log());
    println!("a hand edit was undone within {undone:?} (figure: within {UNDONE:?})");
    wait_until(
        UNDONE * 10,
        || task(&node.status(), "greeting")["outcome"] == "changed",
        || format!("{:#}", node.status()),
    );
    assert_eq!(task(&node.status(), "greeting")["message"], "drift was corrected");
    let log = node.log();
    assert!(!log.contains("gitpw"), "a password stands in the log");
}

#[test]
fn push_over_https_is_applied() {
    let folder = tempfile::tempdir().unwrap();
    let repository = fleet(folder.path());
    repository.publish("one");
    let server = Https::start(&folder.path().join("https"), folder.path());
    let user = folder.path().join("user");
    let password = folder.path().join("password");
    fs::write(&user, "agent\n").unwrap();
    fs::write(&password, "gitpw\n").unwrap();
    let source = format!(
        "url: {}\n      interval: 1s\n      auth: {{usernameFile: {}, passwordFile: {}, caFile: {}}}",
        server.url("fleet"),
        user.display(),
        password.display(),
        server.authority.certificate().display()
    );
    let node = Node::new(folder.path(), &source);
    let url = server.url("fleet").replace("https://", "https://agent:gitpw@");
    let mut push = git(&repository.work);
    push.arg("-c").arg(format!("http.sslCAInfo={}", server.authority.certificate().display()));
    push.args(["push", "-q", &url, "HEAD:main"]);
    follows(&node, &repository, &mut push);
}

#[test]
fn push_over_ssh_is_applied() {
    let folder = tempfile::tempdir().unwrap();
    let repository = fleet(folder.path());
    repository.publish("one");
    let server = Ssh::start(&folder.path().join("ssh"));
    let source = format!(
        "url: {}\n      interval: 1s\n      auth: {{sshKeyFile: {}, knownHostsFile: {}}}",
        server.url(&repository.bare),
        server.key.display(),
        server.known_hosts.display()
    );
    let node = Node::new(folder.path(), &source);
    let ssh = format!("ssh -F none -i {} -o UserKnownHostsFile={}", server.key.display(), server.known_hosts.display());
    let mut push = git(&repository.work);
    push.env("GIT_SSH_COMMAND", ssh).args(["push", "-q", &server.url(&repository.bare), "HEAD:main"]);
    follows(&node, &repository, &mut push);
}

#[test]
fn push_to_a_local_path_is_applied() {
    let folder = tempfile::tempdir().unwrap();
    let repository = fleet(folder.path());
    repository.publish("one");
    let node = Node::new(folder.path(), &format!("url: {}\n      interval: 1s", repository.bare.display()));
    let mut push = git(&repository.work);
    push.args(["push", "-q", "origin", "HEAD:main"]);
    follows(&node, &repository, &mut push);
}

#[test]
fn demo_applies_a_push() {
    let output = ok(towpath().args(["demo", "--once"]));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.ends_with("all three nodes have followed\n"), "{text}");
}

#[test]
fn agent_once_applies_reports_and_exits() {
    let folder = tempfile::tempdir().unwrap();
    let repository = fleet(folder.path());
    let commit = repository.publish("one");
    let node = Node::new(folder.path(), &format!("url: {}", repository.bare.display()));
    let first = node.once();
    assert_eq!(first.code, 0, "{}", first.log);
    assert_eq!(task(&first.status, "greeting")["outcome"], "changed");
    assert_eq!(first.status["lastApplied"]["commits"]["fleet"], commit);
    let second = node.once();
    assert_eq!(task(&second.status, "greeting")["outcome"], "unchanged");
    assert_eq!(second.status["generation"], 1);
}

#[test]
fn rejected_commit_keeps_the_last_good_one() {
    let folder = tempfile::tempdir().unwrap();
    let repository = fleet(folder.path());
    let good = repository.publish("good");
    let node = Node::new(folder.path(), &format!("url: {}", repository.bare.display()));
    assert_eq!(node.once().code, 0);
    repository.write("hello.yaml", greeting("two").replace("content", "contents"));
    repository.publish("bad");
    fs::remove_file(node.root.join("etc/hello")).unwrap();
    let once = node.once();
    assert_eq!(once.code, 2, "{}", once.log);
    assert_eq!(condition(&once.status, "Stalled")["reason"], "InvalidObjects");
    assert!(once.log.contains("use content"), "{}", once.log);
    assert_eq!(once.status["commits"]["fleet"], good);
    assert_eq!(node.read("/etc/hello").unwrap(), "one\n");
    repository.write("hello.yaml", greeting("three"));
    repository.publish("mended");
    let once = node.once();
    assert_eq!((once.code, node.read("/etc/hello").unwrap().as_str()), (0, "three\n"), "{}", once.log);
    assert_eq!(condition(&once.status, "Stalled")["status"], false);
}

#[test]
fn failed_task_stops_its_book_and_is_reported() {
    let folder = tempfile::tempdir().unwrap();
    let repository = fleet(folder.path());
    repository.write(
        "fails.yaml",
        book(
            "fails",
            "  tasks:
    - name: breaks
      command: {argv: [\"false\"]}
    - name: never
      file: {path: /etc/never, content: x}
",
        ),
    );
    repository.publish("fails");
    let node = Node::new(folder.path(), &format!("url: {}", repository.bare.display()));
    let once = node.once();
    assert_eq!(once.code, 3);
    assert_eq!(task(&once.status, "breaks")["outcome"], "failed");
    assert_eq!(condition(&once.status, "Stalled")["reason"], "TaskFailed");
    assert!(node.read("/etc/never").is_none());
    assert_eq!(node.read("/etc/hello").unwrap(), "one\n", "other books go on");
}

#[test]
fn second_agent_names_the_process_that_holds_the_state_directory() {
    let folder = tempfile::tempdir().unwrap();
    let repository = fleet(folder.path());
    repository.publish("one");
    let node = Node::new(folder.path(), &format!("url: {}", repository.bare.display()));
    let agent = node.start();
    let second = node.once();
    assert_eq!(second.code, 1);
    assert!(second.log.contains(&format!("process {}", agent.id())), "{}", second.log);
}

#[test]
fn newer_commit_supersedes_a_run_at_a_task_boundary() {
    let folder = tempfile::tempdir().unwrap();
    let repository = fleet(folder.path());
    let slow = |count: usize| {
        let tasks: String = (0..count)
            .map(|number| format!("    - name: wait {number}\n      command: {{argv: [sleep, \"0.5\"]}}\n"))
            .collect();
        book(
            "slow",
            &format!("  tasks:\n{tasks}    - name: last\n      file: {{path: /etc/last, content: \"{count}\"}}\n"),
        )
    };
    repository.write("slow.yaml", slow(60));
    repository.publish("slow");
    let node = Node::new(folder.path(), &format!("url: {}\n      interval: 1s", repository.bare.display()));
    let _agent = node.start();
    wait_until(Duration::from_secs(20), || node.status()["lastAttempted"]["generation"] == 1, || node.log());
    repository.write("slow.yaml", slow(0));
    let newer = repository.publish("newer");
    let took = node.wait_for(&newer);
    assert!(took < Duration::from_secs(20), "the run of 30 s was waited for: {took:?}");
    assert_eq!(node.read("/etc/last").unwrap(), "0");
}

#[test]
fn agent_ends_at_a_signal() {
    let folder = tempfile::tempdir().unwrap();
    let repository = fleet(folder.path());
    let commit = repository.publish("one");
    let node = Node::new(folder.path(), &format!("url: {}", repository.bare.display()));
    let mut agent = node.start();
    node.wait_for(&commit);
    assert_eq!(agent.terminate(), 0, "{}", node.log());
    assert!(!node.socket.exists());
}
