//! Nodes of one fleet with different trust: a node does not follow a revision that it must reject.

use std::{fs, process::Stdio, time::Duration};

use towpath_tests::{
    Running,
    etcd::Etcd,
    git::{Repository, SshSigner, change, one_file},
    node::{Node, condition},
    wait_until,
};

/// Creates a node of the fleet. `signers` are the keys that must sign its commits.
fn follower(repository: &Repository, etcd: &Etcd, name: &str, mode: &str, signers: &str) -> Node {
    let folder = repository.bare.parent().unwrap();
    let file = folder.join(format!("{name}.keys"));
    fs::write(&file, signers).unwrap();
    let verify = format!("verify: {{mode: {mode}, keyFiles: [{}]}}", file.display());
    let source = format!("url: {}\n      interval: 1s\n      {verify}", repository.bare.display());
    let settings = format!("{}  reconcile: {{interval: 2s}}\n", etcd.data_store());
    Node::named(folder, name, &source, &settings, None)
}

#[test]
fn revision_that_local_policy_rejects_is_not_followed() {
    let folder = tempfile::tempdir().unwrap();
    let etcd = Etcd::single(folder.path(), "etcd");
    let repository = one_file(folder.path());
    repository.write("nodes.yaml", "metadata: {apiVersion: v1alpha, kind: Node, name: n0}\n");
    let (alice, bob) = (SshSigner::new(folder.path(), "alice"), SshSigner::new(folder.path(), "bob"));
    let trusting = follower(&repository, &etcd, "n0", "head", &format!("{}{}", alice.line(""), bob.line("")));
    let strict = follower(&repository, &etcd, "n1", "head", &alice.line(""));
    let first = alice.commit(&repository, "by alice");
    repository.push();
    let _agents = [
        Running::start(&trusting.agent(), Stdio::null(), Stdio::inherit()),
        Running::start(&strict.agent(), Stdio::null(), Stdio::null()),
    ];
    let wait = |holds: &dyn Fn() -> bool| {
        wait_until(Duration::from_secs(30), holds, || format!("{:#}", strict.ask(&["status"]).unwrap_or_default()))
    };
    wait(&|| trusting.applied(&first) && strict.applied(&first));
    let second = bob.commit(&repository, "by bob");
    repository.push();
    wait(&|| trusting.applied(&second));
    let stalled = || strict.ask(&["status"]).map(|status| condition(&status, "Stalled").clone()).unwrap_or_default();
    wait(&|| stalled()["message"].as_str().is_some_and(|message| message.contains("was accepted by n0")));
    assert_eq!(stalled()["reason"], "RejectedLocally");
    // The node keeps its last good revision, and reports that the fleet did not agree on it.
    fs::write(strict.root.join("a"), "drift").unwrap();
    strict.wait_for_file("/a", "by alice");
    assert!(trusting.applied(&second));
    // The next commit that both nodes may follow gets the next number.
    let third = alice.commit(&repository, "again by alice");
    repository.push();
    wait(&|| trusting.applied(&third) && strict.applied(&third));
    let generation = |node: &Node| node.ask(&["status"]).unwrap()["generation"].as_u64().unwrap();
    assert_eq!((generation(&trusting), generation(&strict)), (3, 3));
    assert_eq!(stalled()["status"], false);
}

#[test]
fn node_with_a_weaker_verify_policy_accepts_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let etcd = Etcd::single(folder.path(), "etcd");
    let repository = one_file(folder.path());
    repository.write("nodes.yaml", "metadata: {apiVersion: v1alpha, kind: Node, name: n0}\n");
    let alice = SshSigner::new(folder.path(), "alice");
    let node = |name: &str, mode: &str| follower(&repository, &etcd, name, mode, &alice.line(""));
    let (strict, weak) = (node("n0", "head"), node("n1", "none"));
    let first = alice.commit(&repository, "by alice");
    repository.push();
    let _strict = Running::start(&strict.agent(), Stdio::null(), Stdio::inherit());
    strict.wait_for(&first);
    let _weak = Running::start(&weak.agent(), Stdio::null(), Stdio::inherit());
    let refusal = || weak.ask(&["status"]).map(|status| condition(&status, "Reconciling").clone()).unwrap_or_default();
    wait_until(Duration::from_secs(30), || refusal()["reason"] == "Refused", || refusal().to_string());
    let message = refusal()["message"].as_str().unwrap().to_owned();
    assert!(message.contains("requires verify.mode head") && message.contains("configured with none"), "{message}");
    // A commit that only this node accepts does not become the fleet's revision.
    change(&repository, "unsigned");
    let unsigned = repository.publish("unsigned");
    let seen = || strict.ask(&["status"]).map(|status| condition(&status, "Stalled").clone()).unwrap_or_default();
    wait_until(Duration::from_secs(30), || seen()["reason"] == "Unverified", || seen().to_string());
    assert!(!weak.applied(&unsigned) && weak.read("/a").is_none());
    assert_eq!(strict.status()["generation"], 1);
}
