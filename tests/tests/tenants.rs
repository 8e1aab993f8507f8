//! Several sources in one fleet: a later source does not block an earlier one.

use std::{path::Path, time::Duration};

use serde_json::json;
use towpath_tests::{
    git::Repository,
    node::{Node, condition},
    ok, towpath, wait_until,
};

const PLATFORM: &str = "metadata: {apiVersion: v1alpha, kind: Namespace, name: shop}
spec: {sources: [shop]}
---
metadata: {apiVersion: v1alpha, kind: NodeGroup, name: GROUP}
spec: {nodes: [n1]}
---
metadata: {apiVersion: v1alpha, kind: NodeGroup, name: all}
spec: {nodes: [n1]}
---
metadata: {apiVersion: v1alpha, kind: Config, name: fleet}
spec: {sources: [{name: shop, url: URL}]}
---
metadata: {apiVersion: v1alpha, kind: Namespace, name: base}
---
metadata: {apiVersion: v1alpha, kind: TaskBook, name: base, namespace: base}
spec:
  targets: {nodes: [n1]}
  tasks:
    - name: motd
      file: {path: /motd, content: GROUP}
";

fn platform(repository: &Repository, shop: &Repository, group: &str) -> String {
    let text = PLATFORM.replace("GROUP", group).replace("URL", &shop.bare.display().to_string());
    repository.write("fleet.yaml", text);
    repository.publish("platform")
}

fn book(name: &str, group: &str, text: &str) -> String {
    format!(
        "metadata: {{apiVersion: v1alpha, kind: TaskBook, name: {name}, namespace: shop}}
spec:
  prune: true
  targets: {{nodeGroups: [{group}]}}
  tasks:
    - name: {name}
      file: {{path: /{name}, content: \"{text}\"}}
"
    )
}

fn objects(node: &Node) -> String {
    let _running = node.start();
    // The agent answers before it has loaded its revision.
    wait_until(Duration::from_secs(10), || node.ask(&["objects"]).is_some_and(|all| all != json!([])), || node.log());
    let output = ok(towpath().args(["objects", "--output", "json", "--socket"]).arg(&node.socket));
    let events = ok(towpath().args(["events", "--output", "json", "--socket"]).arg(&node.socket));
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&events.stdout)
}

fn world(folder: &Path) -> (Repository, Repository, Node) {
    let (fleet, shop) = (Repository::new(folder, "fleet"), Repository::new(folder, "shop"));
    shop.write("shop.yaml", format!("{}---\n{}", book("site", "web", "one"), book("till", "all", "one")));
    shop.publish("shop");
    platform(&fleet, &shop, "web");
    let node = Node::new(folder, &format!("url: {}", fleet.bare.display()));
    assert_eq!(node.once().code, 0);
    assert_eq!(node.read("/site").as_deref(), Some("one"));
    (fleet, shop, node)
}

#[test]
fn object_of_a_later_source_that_no_longer_fits_is_held_alone() {
    let folder = tempfile::tempdir().unwrap();
    let (fleet, shop, node) = world(folder.path());
    // The platform removes a group that a book of the shop targets.
    let head = platform(&fleet, &shop, "www");
    let once = node.once();
    assert_eq!((once.code, node.read("/motd").as_deref()), (0, Some("www")), "{}", once.log);
    assert_eq!(once.status["commits"]["fleet"], head.as_str());
    assert_eq!(node.read("/site").as_deref(), Some("one"), "what is held is not gone");
    let shown = objects(&node);
    assert!(shown.contains("\"held: there is no NodeGroup web"), "{shown}");
    assert!(shown.contains("revision.object-held") && shown.contains("TaskBook/shop/site"), "{shown}");
    // The other book of the shop advances, even with a commit that still has the invalid book.
    shop.write("shop.yaml", format!("{}---\n{}", book("site", "web", "one"), book("till", "all", "two")));
    shop.publish("till");
    let once = node.once();
    assert_eq!((once.code, node.read("/till").as_deref()), (0, Some("two")), "{}", once.log);
    // After a commit that is valid, nothing is held.
    shop.write("shop.yaml", format!("{}---\n{}", book("site", "www", "three"), book("till", "all", "two")));
    shop.publish("site");
    let once = node.once();
    assert_eq!((once.code, node.read("/site").as_deref()), (0, Some("three")), "{}", once.log);
    assert!(!objects(&node).contains("\"held: "));
}

#[test]
fn later_source_that_does_not_fit_stays_at_its_commit() {
    let folder = tempfile::tempdir().unwrap();
    let (fleet, shop, node) = world(folder.path());
    shop.write("shop.yaml", format!("{}---\n{}", book("site", "absent", "two"), book("till", "all", "two")));
    shop.publish("mistaken");
    let head = platform(&fleet, &shop, "web");
    let once = node.once();
    assert_eq!(once.code, 2, "{}", once.log);
    assert_eq!(condition(&once.status, "Stalled")["reason"], "InvalidObjects");
    assert_eq!(once.status["commits"]["fleet"], head.as_str());
    assert_eq!((node.read("/site").as_deref(), node.read("/till").as_deref()), (Some("one"), Some("one")));
}
