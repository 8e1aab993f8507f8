//! A git server, or a committer without a key, that sends data that nodes must reject.

use std::{
    fs,
    time::{Duration, Instant},
};

use towpath_tests::{
    git::{Repository, SshSigner, change, git, one_file as fleet},
    node::{Node, OnceResult, condition},
    ok,
};

fn stalled(once: &OnceResult) -> (i32, String) {
    (once.code, condition(&once.status, "Stalled")["reason"].as_str().unwrap_or_default().to_owned())
}

/// Creates a tree object from modes, names and ids.
fn tree(repository: &Repository, entries: &[(&str, &[u8], &str)]) -> String {
    let mut data = Vec::new();
    for (mode, name, id) in entries {
        data.extend_from_slice(mode.as_bytes());
        data.push(b' ');
        data.extend_from_slice(name);
        data.push(0);
        let bytes = (0..40).step_by(2).map(|at| u8::from_str_radix(&id[at..at + 2], 16).unwrap());
        data.extend(bytes);
    }
    repository.object("tree", &data)
}

/// Moves the branch to a new commit of a tree, with another commit as its parent.
fn publish_tree(repository: &Repository, tree: &str, parent: &str) {
    let text = format!("tree {tree}\nparent {parent}\nauthor a <a@x> 1 +0000\ncommitter a <a@x> 1 +0000\n\nm\n");
    let commit = repository.object("commit", text.as_bytes());
    repository.server(&["update-ref", "refs/heads/main", &commit]);
}

#[test]
fn trees_that_git_refuses_keep_the_last_revision() {
    let folder = tempfile::tempdir().unwrap();
    let repository = fleet(folder.path());
    let good = repository.publish("good");
    let node = Node::new(folder.path(), &format!("url: file://{}", repository.bare.display()));
    assert_eq!(node.once().code, 0);
    let blob = repository.object("blob", b"evil");
    let link = repository.object("blob", b"../../etc");
    let below = tree(&repository, &[("100644", b"evil", &blob)]);
    let variants = [
        tree(&repository, &[("100644", b"../../etc/evil", &blob)]),
        tree(&repository, &[("120000", b"a", &link), ("40000", b"a", &below)]),
        tree(&repository, &[("40000", b"GIT~1", &below)]),
        tree(&repository, &[("100644", b"odd\x1b[2J", &blob)]),
        tree(&repository, &[("104644", b"setuid", &blob)]),
    ];
    for bad in variants {
        let fleet = repository.server(&["rev-parse", &format!("{good}:fleet.yaml")]);
        let root = tree(&repository, &[("40000", b"files", &bad), ("100644", b"fleet.yaml", &fleet)]);
        publish_tree(&repository, &root, &good);
        let once = node.once();
        assert_eq!(stalled(&once), (2, "InvalidObjects".to_owned()), "{}", once.log);
        assert_eq!(once.status["commits"]["fleet"], good);
        assert!(!once.log.contains('\x1b'), "{}", once.log);
        assert!(!node.state.join("mirrors/fleet.git.new").exists());
    }
    repository.server(&["update-ref", "refs/heads/main", &good]);
    assert_eq!(node.once().code, 0);
}

#[test]
fn unfolding_trees_are_refused_before_they_unfold() {
    let folder = tempfile::tempdir().unwrap();
    let repository = fleet(folder.path());
    let alice = SshSigner::new(folder.path(), "alice");
    let good = alice.commit(&repository, "good");
    repository.push();
    let keys = folder.path().join("keys");
    fs::write(&keys, alice.line("")).unwrap();
    let url = format!("url: file://{}", repository.bare.display());
    let signed = format!("{url}\n      verify: {{mode: range, keyFiles: [{}]}}", keys.display());
    let nodes = [Node::named(folder.path(), "n1", &url, "", None), Node::named(folder.path(), "n2", &signed, "", None)];
    for node in &nodes {
        assert!(matches!(node.once().code, 0 | 1), "{}", node.once().log);
    }
    let blob = repository.object("blob", b"x");
    let names: Vec<String> = (0..10).map(|number| format!("d{number}")).collect();
    let level = |mode: &str, id: &str| {
        let entries: Vec<(&str, &[u8], &str)> = names.iter().map(|name| (mode, name.as_bytes(), id)).collect();
        tree(&repository, &entries)
    };
    let root = (1..10).fold(level("100644", &blob), |below, _| level("40000", &below));
    publish_tree(&repository, &root, &good);
    for (node, reason) in nodes.iter().zip(["InvalidObjects", "Unverified"]) {
        let begin = Instant::now();
        let once = node.once();
        assert_eq!(stalled(&once), (2, reason.to_owned()), "{}", once.log);
        assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
        assert_eq!(once.status["commits"]["fleet"], good);
    }
}

#[test]
fn blob_that_needs_more_than_its_limit_costs_only_the_fetch() {
    let folder = tempfile::tempdir().unwrap();
    let repository = fleet(folder.path());
    let good = repository.publish("good");
    let node = Node::new(folder.path(), &format!("url: file://{}", repository.bare.display()));
    assert_eq!(node.once().code, 0);
    repository.write("files/large", vec![0; 257 << 20]);
    repository.publish("large");
    let once = node.once();
    assert_eq!(once.code, 1, "{}", once.log);
    assert_eq!(condition(&once.status, "Reconciling")["reason"], "SourceUnreachable");
    assert_eq!((&once.status["commits"]["fleet"], node.read("/a").as_deref()), (&good.as_str().into(), Some("one")));
    // The mirror has not changed, and the next good commit is followed.
    fs::remove_file(repository.work.join("files/large")).unwrap();
    repository.git(&["reset", "-q", "--soft", &good]);
    change(&repository, "two");
    repository.commit("two");
    ok(git(&repository.work).args(["push", "-q", "-f", "origin", "HEAD:main"]));
    let once = node.once();
    assert_eq!((once.code, node.read("/a").as_deref()), (0, Some("two")), "{}", once.log);
}

#[test]
fn leftovers_of_a_killed_fetch_are_removed_by_the_next() {
    let folder = tempfile::tempdir().unwrap();
    let repository = fleet(folder.path());
    repository.publish("one");
    let node = Node::new(folder.path(), &format!("url: file://{}", repository.bare.display()));
    assert_eq!(node.once().code, 0);
    let mirrors = node.state.join("mirrors");
    let packs = mirrors.join("fleet.git/objects/pack");
    for name in [".tmpAAAA", ".tmpBBBB", "pack-11.pack", "pack-12.idx"] {
        fs::write(packs.join(name), "half").unwrap();
    }
    fs::write(mirrors.join("fleet.pack.part"), "half").unwrap();
    fs::create_dir_all(mirrors.join("fleet.git.new/objects")).unwrap();
    change(&repository, "two");
    repository.publish("two");
    let once = node.once();
    assert_eq!((once.code, node.read("/a").as_deref()), (0, Some("two")), "{}", once.log);
    let left: Vec<String> = fs::read_dir(&packs)
        .unwrap()
        .chain(fs::read_dir(&mirrors).unwrap())
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| !name.ends_with(".git") && (!name.starts_with("pack-") || name.contains("-1")))
        .collect();
    assert!(left.iter().all(|name| name.len() > 20), "{left:?}");
}

#[test]
fn tag_that_moves_or_goes_to_an_ancestor_is_a_rewind() {
    let folder = tempfile::tempdir().unwrap();
    let repository = fleet(folder.path());
    let signer = SshSigner::new(folder.path(), "alice");
    let keys = folder.path().join("keys");
    fs::write(&keys, signer.line("")).unwrap();
    let settings = signer.settings();
    let tag = |name: &str, commit: &str| {
        let mut command = git(&repository.work);
        settings.iter().for_each(|setting| {
            command.args(["-c", setting]);
        });
        ok(command.args(["tag", "-f", "-s", "-m", name, name, commit]));
        ok(git(&repository.work).args(["push", "-q", "-f", "--tags", "origin", "HEAD:main"]));
    };
    let old = signer.commit(&repository, "old");
    let first = signer.commit(&repository, "first");
    let second = signer.commit(&repository, "second");
    tag("v1.1.0", &first);
    let url = format!("url: {}\n      tag: \"v*\"", repository.bare.display());
    let node =
        Node::new(folder.path(), &format!("{url}\n      verify: {{mode: head, keyFiles: [{}]}}", keys.display()));
    let once = node.once();
    assert_eq!((once.code, &once.status["commits"]["fleet"]), (0, &first.as_str().into()), "{}", once.log);
    // Signed, but rejected: a version tag at an ancestor, and a version tag that moves to a newer commit.
    tag("v1.9.0", &old);
    assert_eq!(stalled(&node.once()), (2, "Rewound".to_owned()));
    ok(git(&repository.bare).args(["tag", "-d", "v1.9.0"]));
    ok(git(&repository.work).args(["tag", "-d", "v1.9.0"]));
    tag("v1.1.0", &second);
    let once = node.once();
    assert_eq!(stalled(&once), (2, "Rewound".to_owned()), "{}", once.log);
    assert_eq!(once.status["commits"]["fleet"], first);
    tag("v1.1.0", &first);
    // An unsigned tag at the same commit does not raise the version.
    ok(git(&repository.work).args(["tag", "v9.0.0", &first]));
    ok(git(&repository.work).args(["push", "-q", "--tags"]));
    assert_eq!(stalled(&node.once()), (2, "Unverified".to_owned()));
    ok(git(&repository.bare).args(["tag", "-d", "v9.0.0"]));
    ok(git(&repository.work).args(["tag", "-d", "v9.0.0"]));
    tag("v1.2.0", &second);
    let once = node.once();
    assert_eq!((once.code, &once.status["commits"]["fleet"]), (0, &second.as_str().into()), "{}", once.log);
}
