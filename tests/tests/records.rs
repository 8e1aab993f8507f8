//! The rights of a node's key: clones, nodes that were set up again, revoked certificates, a deleted state directory,
//! and replayed records.

use std::{
    fs,
    process::{Command, Stdio},
    time::Duration,
};

use serde_json::Value;
use towpath_agent::serve::{Client, Remote};
use towpath_host::identity::TlsFiles;
use towpath_tests::{
    Running,
    etcd::Etcd,
    fleet::Fleet,
    git::Repository,
    node::{Node, condition},
    ok, output, towpath, wait_until,
};

fn single(folder: &std::path::Path) -> Etcd {
    Etcd::single(folder, "etcd")
}

const BOOK: &str = "metadata: {apiVersion: v1alpha, kind: TaskBook, name: web, namespace: app}
spec:
  targets: {nodeGroups: [web]}
  rollout: {serialize: {count: 1}}
  tasks:
    - name: web
      file: {path: /web, content: NUMBER}
";

fn book(number: u32) -> String {
    BOOK.replace("NUMBER", &format!("\"{number}\""))
}

/// Returns all conditions of a node, as text.
fn conditions(node: &Node) -> String {
    node.ask(&["status"]).unwrap_or_default()["conditions"].to_string()
}

fn events(node: &Node) -> String {
    let output = output(towpath().args(["events", "--output", "json", "--socket"]).arg(&node.socket));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    ok(Command::new("cp").arg("-a").arg(from).arg(to));
}

#[test]
fn clone_and_original_are_both_rejected() {
    let mut fleet = Fleet::new(1, single);
    fleet.agents[0].as_mut().unwrap().terminate();
    let folder = fleet.folder.path().join("clone");
    fs::create_dir(&folder).unwrap();
    let source = format!("url: {}\n      interval: 1s", fleet.repository.bare.display());
    let settings = format!("{}  reconcile: {{interval: 5s}}\n", fleet.etcd.data_store());
    let clone = Node::named(&folder, "n0", &source, &settings, None);
    copy(&fleet.nodes[0].state, &clone.state);
    // A restart is not a clone.
    fleet.begin(0);
    let head = fleet.publish(&book(1));
    fleet.wait_for(&head, 30);
    assert!(!conditions(&fleet.nodes[0]).contains("another agent"));
    let _other = clone.start();
    let says = |node: &Node| conditions(node).contains("another agent runs as n0");
    let both = || {
        let logs = format!("{}\n{}", fleet.nodes[0].log(), clone.log());
        format!("{}\n{}\n{logs}", conditions(&fleet.nodes[0]), conditions(&clone))
    };
    wait_until(Duration::from_secs(20), || says(&fleet.nodes[0]) && says(&clone), both);
    assert!(events(&fleet.nodes[0]).contains("another agent runs as n0"));
}

#[test]
fn node_that_was_set_up_again_is_admitted_by_the_commit_that_names_its_key() {
    let mut fleet = Fleet::new(2, single);
    fleet.crash(1);
    fs::remove_dir_all(&fleet.nodes[1].state).unwrap();
    fleet.begin(1);
    let says = || format!("{}\n{}", conditions(&fleet.nodes[1]), fleet.nodes[1].log());
    wait_until(Duration::from_secs(20), || says().contains("publicKeys: ["), says);
    let elect = "metadata: {apiVersion: v1alpha, kind: TaskBook, name: web, namespace: app}
spec:
  targets: {nodeGroups: [web]}
  tasks:
    - name: once
      command: {shell: 'echo 1 once $TOWPATH_NODE >> LOG'}
      elect: {count: 1}
    - name: web
      file: {path: /web, content: one}
";
    let head = fleet.publish(&elect.replace("LOG", &fleet.log_file().display().to_string()));
    fleet.wait(30, |fleet| fleet.nodes[0].applied(&head));
    let rollouts = || fleet.nodes[0].ask(&["rollouts"]).unwrap_or_default().to_string();
    let keys = fleet.nodes[1].status()["publicKeys"].clone();
    let named = format!("{}, {}", keys[0], keys[1]);
    wait_until(Duration::from_secs(40), || rollouts().contains("n1 is rejected"), rollouts);
    assert!(rollouts().contains(keys[0].as_str().unwrap()), "{}", rollouts());
    assert_eq!(fleet.nodes[1].read("/web"), None, "a rejected node takes no part");
    // The line in the message is the remedy.
    assert!(conditions(&fleet.nodes[1]).replace('\\', "").contains(&named), "{}", conditions(&fleet.nodes[1]));
    let objects = fs::read_to_string(fleet.repository.work.join("fleet.yaml")).unwrap();
    let objects = objects.replace(
        "name: n1, labels: {tier: web}}",
        &format!("name: n1, labels: {{tier: web}}}}\nspec: {{publicKeys: [{named}]}}"),
    );
    fleet.repository.write("fleet.yaml", objects);
    let head = fleet.repository.publish("n1 has another key");
    fleet.wait_for(&head, 60);
    assert_eq!(fleet.nodes[1].read("/web").as_deref(), Some("one"));
    assert_eq!(fleet.happened().len(), 1, "the elected task ran once: {:?}", fleet.happened());
}

#[test]
fn revoked_certificate_is_refused_on_open_connections_and_for_records() {
    let fleet = Fleet::secured(2, single);
    let secured = fleet.nodes[0].secured.clone().unwrap();
    let issued =
        ok(towpath().args(["pki", "issue", "ann", "--role", "viewer", "-o", "json", "--dir"]).arg(&secured.pki));
    let issued: Value = serde_json::from_slice(&issued.stdout).unwrap();
    let file = |name: &str| secured.pki.join(name);
    let remote = Remote {
        address: format!("127.0.0.1:{}", secured.port),
        tls: TlsFiles { ca: file("ca.crt"), cert: file("ann.crt"), key: file("ann.key") },
    };
    let as_ann = |arguments: &[&str]| {
        let mut command = towpath();
        command.args(arguments).args(["--address", &remote.address]);
        for (option, file) in [("--ca", "ca.crt"), ("--cert", "ann.crt"), ("--key", "ann.key")] {
            command.arg(option).arg(secured.pki.join(file));
        }
        command
    };
    let ann = || output(&mut as_ann(&["status"])).status.success();
    assert!(ann());
    let mut follows = Running::start(&as_ann(&["events", "--follow"]), Stdio::null(), Stdio::null());
    let serial = || {
        let file = secured.pki.join("n1.crt");
        let shown = ok(Command::new("openssl").args(["x509", "-noout", "-serial", "-in"]).arg(file)).stdout;
        String::from_utf8_lossy(&shown).trim().trim_start_matches("serial=").to_owned()
    };
    // The lease record of n1 carries the certificate that it started with.
    let first = serial();
    let renewed =
        ok(towpath().args(["pki", "renew", "-o", "json", "--dir"]).arg(&secured.pki).arg(secured.pki.join("n1.crt")));
    let renewed: Value = serde_json::from_slice(&renewed.stdout).unwrap();
    assert_eq!(renewed["serial"].as_str().unwrap().replace(':', "").to_uppercase(), serial());
    let head = fleet.publish(&book(1));
    fleet.wait_for(&head, 60);
    let (of_ann, of_n1) = (&issued["serial"], &renewed["serial"]);
    fleet.repository.write(
        "config.yaml",
        format!(
            "metadata: {{apiVersion: v1alpha, kind: Config, name: fleet}}\nspec: {{revoked: [{of_ann}, {of_n1}, \"{first}\"]}}\n"
        ),
    );
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let open = runtime.block_on(Client::connect_to(&remote)).unwrap();
    let answers = || runtime.block_on(open.status()).map_err(|error| error.to_string());
    answers().unwrap();
    fleet.repository.publish("revoke");
    fleet.wait(30, |_| !ann());
    // The open connection is rejected for the same reason.
    let refused = answers().unwrap_err();
    assert!(refused.contains("revoked"), "{refused}");
    // A stream ends before its next item.
    let next = fleet.publish(&book(2));
    fleet.wait(60, |fleet| fleet.nodes[0].applied(&next));
    wait_until(Duration::from_secs(30), || follows.ended().is_some(), || "ann still follows".into());
    // The key has not changed, so only the certificate is rejected. The lease record of n1 was valid before, and does
    // not count any more. Gossip does not take a rejected certificate as a death.
    let nodes = || fleet.nodes[0].ask(&["nodes"]).unwrap();
    wait_until(Duration::from_secs(40), || nodes()[1]["lease"] != "alive", || format!("{:#}", nodes()));
}

#[test]
fn state_directory_deleted_below_the_agent_stops_all_changes() {
    let folder = tempfile::tempdir().unwrap();
    let repository = Repository::new(folder.path(), "fleet");
    let book = |text: &str| {
        format!(
            "metadata: {{apiVersion: v1alpha, kind: TaskBook, name: web, namespace: app}}
spec:
  targets: {{nodes: [n1]}}
  tasks:
    - name: web
      file: {{path: /web, content: {text}}}
---
metadata: {{apiVersion: v1alpha, kind: Namespace, name: app}}
"
        )
    };
    repository.write("web.yaml", book("one"));
    let head = repository.publish("one");
    let source = format!("url: {}\n      interval: 1s", repository.bare.display());
    let node = Node::with(folder.path(), &source, "  reconcile: {interval: 2s}\n");
    let _agent = node.start();
    node.wait_for(&head);
    fs::remove_dir_all(&node.state).unwrap();
    repository.write("web.yaml", book("two"));
    repository.publish("two");
    let lost = || conditions(&node).contains("StateLost");
    wait_until(Duration::from_secs(20), lost, || conditions(&node));
    assert_eq!(node.read("/web").as_deref(), Some("one"));
    assert_eq!(condition(&node.status(), "Ready")["status"], false);
    // An agent does not accept an empty directory at the path of its state directory.
    fs::create_dir_all(&node.state).unwrap();
    std::thread::sleep(Duration::from_secs(3));
    assert!(lost() && node.read("/web").as_deref() == Some("one"));
}
