//! Sources of trust: certificates, roles, gossip between nodes, and records in the data store.

use std::{
    fs,
    process::Command,
    time::{Duration, Instant},
};

use serde_json::Value;
use towpath_tests::{
    etcd::{Etcd, programs},
    fleet::Fleet,
    ok, output, towpath, wait_until,
};

fn secured(count: usize) -> Fleet {
    Fleet::secured(count, |folder| Etcd::single(folder, &programs()[0]))
}

/// Returns the entry of one node in the output of `nodes` of another.
fn liveness_of(fleet: &Fleet, of: usize, about: &str) -> Value {
    let nodes = fleet.nodes[of].ask(&["nodes"]).unwrap_or_default();
    let found = nodes.as_array().and_then(|nodes| nodes.iter().find(|node| node["name"] == about).cloned());
    found.unwrap_or_default()
}

fn events(fleet: &Fleet, of: usize) -> String {
    let output = output(towpath().args(["events", "--output", "json", "--socket"]).arg(&fleet.nodes[of].socket));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Returns a command that queries a node over the network with a certificate.
fn ask(fleet: &Fleet, what: &str, of: usize, who: &str) -> Command {
    let secured = fleet.nodes[of].secured.clone().unwrap();
    let mut command = towpath();
    command.args([what, "--output", "json", "--address", &format!("127.0.0.1:{}", secured.port)]);
    command.arg("--ca").arg(secured.pki.join("ca.crt"));
    command.arg("--cert").arg(secured.pki.join(format!("{who}.crt")));
    command.arg("--key").arg(secured.pki.join(format!("{who}.key")));
    command
}

#[test]
fn calls_require_a_certificate_and_peer_calls_that_of_a_node() {
    let fleet = secured(2);
    let pki = fleet.nodes[0].secured.as_ref().unwrap().pki.clone();
    ok(towpath().args(["pki", "issue", "ann", "--role", "viewer", "--dir"]).arg(&pki));
    let status: Value = serde_json::from_slice(&ok(&mut ask(&fleet, "status", 0, "ann")).stdout).unwrap();
    assert_eq!((&status["node"], &status["insecure"]), (&"n0".into(), &false.into()));

    // A certificate with the same name from another authority.
    let other = fleet.folder.path().join("other");
    ok(towpath().args(["pki", "init", "--dir"]).arg(&other));
    ok(towpath().args(["pki", "issue", "ann", "--role", "viewer", "--dir"]).arg(&other));
    let port = fleet.nodes[0].secured.as_ref().unwrap().port;
    let stranger = output(
        towpath()
            .args(["status", "--address", &format!("127.0.0.1:{port}"), "--ca"])
            .arg(other.join("ca.crt"))
            .arg("--cert")
            .arg(other.join("ann.crt"))
            .arg("--key")
            .arg(other.join("ann.key")),
    );
    let said = String::from_utf8_lossy(&stranger.stderr);
    assert!(!stranger.status.success() && said.contains("certificate"), "{said}");

    // Only nodes may call Peer, so the call of a viewer is rejected. An empty gRPC message is five zero bytes.
    let call = |who: &str| {
        let body = fleet.folder.path().join("empty");
        fs::write(&body, [0; 5]).unwrap();
        let output = output(
            Command::new("curl")
                .args([
                    "-s",
                    "-D",
                    "-",
                    "--http2",
                    "-X",
                    "POST",
                    "-H",
                    "content-type: application/grpc",
                    "-H",
                    "te: trailers",
                ])
                .arg("--cacert")
                .arg(pki.join("ca.crt"))
                .arg("--cert")
                .arg(pki.join(format!("{who}.crt")))
                .arg("--key")
                .arg(pki.join(format!("{who}.key")))
                .arg("--data-binary")
                .arg(format!("@{}", body.display()))
                .arg(format!("https://127.0.0.1:{port}/towpath.v1alpha.Peer/Gossip")),
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    // 7 is PermissionDenied; the message names the caller.
    let refused = call("ann");
    assert!(refused.contains("grpc-status: 7") && refused.contains("grpc-message: ann%20"), "{refused}");
    // The message of a node is accepted. Gossip then ignores it, because it is empty.
    assert!(call("n1").contains("grpc-status: 0"), "{}", call("n1"));
    // A connection needs a certificate and TLS 1.3.
    let plain = |version: &str, certificate: bool| {
        let mut command = Command::new("curl");
        command.args(["-s", version, "--cacert"]).arg(pki.join("ca.crt"));
        if certificate {
            command.arg("--cert").arg(pki.join("n1.crt")).arg("--key").arg(pki.join("n1.key"));
        }
        command.arg(format!("https://127.0.0.1:{port}/"));
        output(&mut command).status.success()
    };
    assert!(plain("--tlsv1.3", true));
    assert!(!plain("--tlsv1.3", false));
    let mut old = Command::new("curl");
    old.args(["-s", "--tls-max", "1.2", "--cacert"]).arg(pki.join("ca.crt"));
    old.arg("--cert").arg(pki.join("n1.crt")).arg("--key").arg(pki.join("n1.key"));
    assert!(!output(old.arg(format!("https://127.0.0.1:{port}/"))).status.success());
}

#[test]
fn lost_and_departed_nodes_are_known_to_all() {
    let mut fleet = secured(4);
    fleet.wait(20, |fleet| {
        (0..4).all(|of| (0..4).all(|about| liveness_of(fleet, of, &format!("n{about}"))["gossip"] == "alive"))
    });
    let killed = Instant::now();
    fleet.crash(3);
    let lost = |fleet: &Fleet, by: &str| (0..3).all(|of| liveness_of(fleet, of, "n3")[by] == "lost");
    fleet.wait(30, |fleet| lost(fleet, "gossip"));
    let gossip = killed.elapsed();
    assert_eq!(liveness_of(&fleet, 0, "n3")["lease"], "alive", "the store says so later");
    fleet.wait(60, |fleet| lost(fleet, "lease"));
    println!("lost: by gossip after {gossip:.1?}, by its lease after {:.1?}", killed.elapsed());
    assert!(
        events(&fleet, 0).lines().any(|line| line.contains("\"node.lost\"") && line.contains("n3")),
        "{}",
        events(&fleet, 0)
    );
    let of_n3 = |line: &str| line.contains("\"system\"") && line.contains("n3");
    assert!(events(&fleet, 1).lines().any(of_n3), "{}", events(&fleet, 1));

    fleet.begin(3);
    fleet.wait(30, |fleet| (0..3).all(|of| liveness_of(fleet, of, "n3")["liveness"] == "alive"));
    fleet.agents[3].as_mut().unwrap().terminate();
    fleet.wait(30, |fleet| (0..3).all(|of| liveness_of(fleet, of, "n3")["gossip"] == "left"));

    // While the data store is paused, gossip still works.
    fleet.etcd.pause(true);
    fleet.crash(2);
    fleet.wait(30, |fleet| (0..2).all(|of| liveness_of(fleet, of, "n2")["gossip"] == "lost"));
    fleet.etcd.pause(false);
}

#[test]
fn renewed_certificate_is_loaded_and_the_identity_stays() {
    let fleet = secured(2);
    let secured = fleet.nodes[0].secured.clone().unwrap();
    let shown = || {
        let mut command = Command::new("openssl");
        command.args(["s_client", "-connect", &format!("127.0.0.1:{}", secured.port), "-showcerts"]);
        command.arg("-CAfile").arg(secured.pki.join("ca.crt"));
        command.arg("-cert").arg(secured.pki.join("n1.crt")).arg("-key").arg(secured.pki.join("n1.key"));
        let output = output(command.stdin(std::process::Stdio::null()));
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.split("-----BEGIN CERTIFICATE-----")
            .nth(1)
            .unwrap_or_default()
            .split("-----END")
            .next()
            .unwrap_or_default()
            .to_owned()
    };
    let before = shown();
    assert!(before.len() > 100, "{before}");
    let keys = fleet.nodes[0].status()["publicKeys"].clone();
    ok(towpath().args(["pki", "renew", "--dir"]).arg(&secured.pki).arg(secured.pki.join("n0.crt")));
    wait_until(Duration::from_secs(10), || shown() != before, || "the old certificate is still shown".into());
    assert_eq!(fleet.nodes[0].status()["publicKeys"], keys);
    // Its new signatures are valid, and its earlier ones still are.
    let head = fleet.publish(
        "metadata: {apiVersion: v1alpha, kind: TaskBook, name: web, namespace: app}
spec:
  targets: {nodeGroups: [web]}
  rollout: {serialize: {count: 1}}
  tasks:
    - name: web
      file: {path: /web, content: web}
",
    );
    fleet.wait_for(&head, 60);
}

#[test]
fn certificate_of_another_node_is_rejected_as_identity() {
    let fleet = secured(2);
    let node = &fleet.nodes[0];
    let pki = node.secured.as_ref().unwrap().pki.clone();
    fs::copy(pki.join("n1.crt"), pki.join("n0.crt")).unwrap();
    let once = node.once();
    assert!(once.code != 0 && once.log.contains("does not belong to the key"), "{}", once.log);
    fs::copy(pki.join("n1.key"), pki.join("n0.key")).unwrap();
    let once = node.once();
    assert!(once.code == 2 && once.log.contains("the certificate belongs to the node n1"), "{}", once.log);
}

#[test]
fn unsigned_and_forged_records_do_not_count() {
    let fleet = secured(2);
    fleet.repository.write(
        "list.yaml",
        "metadata: {apiVersion: v1alpha, kind: TaskBook, name: list, namespace: app}
spec:
  targets: {nodes: [n0]}
  tasks:
    - name: list
      file: {path: /list, content: \"{% for node in nodes('tier=web') %}{{ node.name }}={{ node.facts.hostname if node.facts else '?' }};{% endfor %}\"}
",
    );
    let head = fleet.repository.publish("list");
    fleet.wait_for(&head, 60);
    fleet.wait(30, |fleet| fleet.nodes[0].read("/list").is_some_and(|list| !list.contains('?')));
    let list = fleet.nodes[0].read("/list").unwrap();

    let key = "/towpath/default/fleet/facts/n1";
    let shown = ok(fleet.etcd.ctl().args(["get", "--print-value-only", key])).stdout;
    let signed: Value = serde_json::from_slice(&shown).unwrap();
    assert!(signed["signed"]["sig"].is_string(), "{signed}");
    let mut forged = signed.clone();
    forged["hostname"] = "evil".into();
    ok(fleet.etcd.ctl().args(["put", key, &forged.to_string()]));
    // Nodes ignore an unsigned record of acceptance.
    let accepted = "/towpath/default/shared/accepted";
    let real = ok(fleet.etcd.ctl().args(["get", "--print-value-only", accepted])).stdout;
    let mut bad: Value = serde_json::from_slice(&real).unwrap();
    bad["generation"] = 99.into();
    ok(fleet.etcd.ctl().args(["put", accepted, &bad.to_string()]));
    fleet.wait(30, |fleet| events(fleet, 0).contains("store.record-rejected"));
    fleet.repository.write(
        "more.yaml",
        "metadata: {apiVersion: v1alpha, kind: TaskBook, name: more, namespace: app}
spec:
  targets: {nodeGroups: [web]}
  tasks:
    - name: more
      file: {path: /more, content: more}
",
    );
    let head = fleet.repository.publish("more");
    fleet.wait_for(&head, 60);
    assert!(fleet.nodes[0].status()["generation"].as_u64().unwrap() < 99);
    let now = fleet.nodes[0].read("/list").unwrap();
    assert!(!now.contains("evil"), "{list} became {now}");
}

#[test]
fn status_without_certificates_is_insecure() {
    let fleet = Fleet::new(1, |folder| Etcd::single(folder, &programs()[0]));
    assert_eq!(fleet.nodes[0].status()["insecure"], true);
    let text = output(towpath().args(["status", "--socket"]).arg(&fleet.nodes[0].socket));
    assert!(String::from_utf8_lossy(&text.stdout).contains("insecure"));
}
