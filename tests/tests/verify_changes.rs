//! Changed verify settings and key files: the accepted commit stays, and the new rules apply to the next head.

use std::fs;

use towpath_tests::{
    git::{Repository, SshSigner, change, one_file},
    node::{Node, OnceResult, condition},
};

fn reason(once: &OnceResult, kind: &str) -> String {
    condition(&once.status, kind)["reason"].as_str().unwrap().to_owned()
}

/// Checks that the node stays at a commit and reports no problem.
fn stays(node: &Node, head: &str, name: &str) {
    let once = node.once();
    assert_eq!((once.code, once.status["commits"]["fleet"].as_str()), (0, Some(head)), "{name}: {}", once.log);
    assert_eq!(condition(&once.status, "Stalled")["status"], false, "{name}");
}

/// Checks that the node rejects the head and stays at a commit.
fn refuses(node: &Node, head: &str, name: &str) {
    let once = node.once();
    assert_eq!((once.code, reason(&once, "Stalled").as_str()), (2, "Unverified"), "{name}: {}", once.log);
    assert_eq!(once.status["commits"]["fleet"], head, "{name}");
}

#[test]
fn accepted_head_survives_changed_rules_and_the_next_is_judged_by_them() {
    let folder = tempfile::tempdir().unwrap();
    let repository = one_file(folder.path());
    let (alice, bob) = (SshSigner::new(folder.path(), "alice"), SshSigner::new(folder.path(), "bob"));
    let file = |name: &str, text: String| {
        let file = folder.path().join(name);
        fs::write(&file, text).unwrap();
        file.display().to_string()
    };
    let (root, copy) = (file("root", alice.line("")), file("copy", alice.line("")));
    let source = |verify: &str| format!("url: {}\n      verify: {{{verify}}}", repository.bare.display());
    let listed = format!("mode: range, keyFiles: [{root}], signers: signers");
    let node = Node::new(folder.path(), &source(&listed));
    repository.write("signers", bob.line(""));
    alice.commit(&repository, "one");
    repository.push();
    assert_eq!(node.once().code, 0);
    // Only the signers list of the previous commit contains Bob.
    let head = bob.commit(&repository, "by bob");
    repository.push();
    stays(&node, &head, "by bob");
    let settings = [
        ("a further key file", format!("mode: range, keyFiles: [{root}, {copy}], signers: signers")),
        ("no list of signers", format!("mode: range, keyFiles: [{root}]")),
        ("head alone", format!("mode: head, keyFiles: [{root}], signers: signers")),
        ("none", "mode: none".to_owned()),
        ("range again", listed.clone()),
    ];
    for (name, verify) in settings {
        node.configure(&source(&verify), "");
        stays(&node, &head, name);
    }
    // The content of the key file changes.
    let carol = SshSigner::new(folder.path(), "carol");
    for (name, text) in [("another key", carol.line("")), ("an empty file", String::new())] {
        fs::write(&root, text).unwrap();
        stays(&node, &head, name);
    }
    fs::remove_file(&root).unwrap();
    stays(&node, &head, "no file");
    node.configure(&source(&format!("mode: range, keyFiles: [{root}]")), "");
    let next = alice.commit(&repository, "by alice");
    repository.push();
    refuses(&node, &head, "no file");
    fs::write(&root, carol.line("")).unwrap();
    refuses(&node, &head, "a removed key");
    fs::write(&root, alice.line("")).unwrap();
    stays(&node, &next, "the key is back");
}

#[test]
fn unsigned_head_stays_accepted_when_signatures_become_required() {
    let folder = tempfile::tempdir().unwrap();
    let repository = one_file(folder.path());
    let alice = SshSigner::new(folder.path(), "alice");
    let keys = folder.path().join("keys");
    fs::write(&keys, alice.line("")).unwrap();
    let source = |repository: &Repository, mode: &str| {
        format!("url: {}\n      verify: {{mode: {mode}, keyFiles: [{}]}}", repository.bare.display(), keys.display())
    };
    let node = Node::new(folder.path(), &source(&repository, "none"));
    let unsigned = repository.publish("unsigned");
    stays(&node, &unsigned, "none");
    node.configure(&source(&repository, "range"), "");
    stays(&node, &unsigned, "range");
    change(&repository, "two");
    repository.publish("unsigned too");
    refuses(&node, &unsigned, "range");
    repository.git(&["reset", "-q", "--hard", &unsigned]);
    let signed = alice.commit(&repository, "signed");
    repository.git(&["push", "-q", "-f", "origin", "main"]);
    stays(&node, &signed, "range");
}

#[test]
fn password_over_http_and_unverified_fleets_are_warned_of_and_no_query_is_shown() {
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("secret");
    fs::write(&secret, "s3cret\n").unwrap();
    let store = "  dataStore: {type: etcd, endpoints: [\"http://127.0.0.1:9\"]}\n";
    let auth = format!("auth: {{usernameFile: {0}, passwordFile: {0}}}", secret.display());
    let url = "http://127.0.0.1:9/fleet.git?token=qu3ry";
    for (url, auth, store, warnings) in [
        (url, auth.as_str(), store, 3),
        (url, "library: false", "", 1),
        ("https://127.0.0.1:9/fleet.git?token=qu3ry", auth.as_str(), "", 0),
        ("https://127.0.0.1:9/fleet.git?token=qu3ry", "library: false", store, 1),
    ] {
        let node = Node::with(folder.path(), &format!("url: \"{url}\"\n      {auth}"), store);
        let once = node.once();
        assert_eq!(once.code, 1, "{}", once.log);
        let shown = once.status["warnings"].as_array().unwrap();
        assert_eq!(shown.len(), warnings, "{shown:?}");
        assert!(shown.iter().all(|warning| once.log.contains(warning.as_str().unwrap())), "{}", once.log);
        let all = format!("{} {}", once.status, once.log);
        assert!(all.contains("127.0.0.1:9/fleet.git"), "{all}");
        assert!(!all.contains("qu3ry") && !all.contains("s3cret"), "{all}");
    }
}
