//! Trust in git: signatures, history and transport, with the real git, gpg, ssh-keygen, nginx and sshd.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpListener,
    path::Path,
    time::Duration,
};

use towpath_tests::{
    git::{FLEET, GpgSigner, Repository, SshSigner, book, change, git, one_file as fleet},
    git_servers::{Https, Ssh},
    node::{Node, OnceResult, condition},
    ok,
};

fn reason(once: &OnceResult, kind: &str) -> String {
    condition(&once.status, kind)["reason"].as_str().unwrap().to_owned()
}

fn message(once: &OnceResult, kind: &str) -> String {
    condition(&once.status, kind)["message"].as_str().unwrap().to_owned()
}

fn verified(folder: &Path, repository: &Repository, mode: &str, keys: &str, rest: &str) -> Node {
    let file = folder.join("keys");
    fs::create_dir_all(folder).unwrap();
    fs::write(&file, keys).unwrap();
    Node::new(
        folder,
        &format!(
            "url: {}\n      verify: {{mode: {mode}, keyFiles: [{}]{rest}}}",
            repository.bare.display(),
            file.display()
        ),
    )
}

#[test]
fn lock_of_a_killed_agent_is_removed() {
    let folder = tempfile::tempdir().unwrap();
    let repository = fleet(folder.path());
    repository.publish("first");
    let node = Node::new(folder.path(), &format!("url: {}", repository.bare.display()));
    assert_eq!(node.once().code, 0);
    let mirror = node.state.join("mirrors/fleet.git");
    for lock in ["refs/heads/main.lock", "packed-refs.lock", "HEAD.lock"] {
        fs::create_dir_all(mirror.join(lock).parent().unwrap()).unwrap();
        fs::write(mirror.join(lock), "").unwrap();
    }
    change(&repository, "two");
    repository.publish("second");
    let once = node.once();
    assert_eq!((once.code, node.read("/a").as_deref()), (0, Some("two")), "{}", once.log);
}

#[test]
fn head_signed_by_an_ssh_key_is_accepted() {
    let folder = tempfile::tempdir().unwrap();
    let repository = fleet(folder.path());
    let (alice, mallory) = (SshSigner::new(folder.path(), "alice"), SshSigner::new(folder.path(), "mallory"));
    let good = alice.commit(&repository, "by alice");
    repository.push();
    let node = verified(folder.path(), &repository, "head", &alice.line(""), "");
    assert_eq!(node.once().code, 0);
    mallory.commit(&repository, "by mallory");
    repository.push();
    let once = node.once();
    assert_eq!((once.code, reason(&once, "Stalled").as_str()), (2, "Unverified"), "{}", once.log);
    assert!(message(&once, "Stalled").contains("not listed"), "{}", message(&once, "Stalled"));
    assert_eq!(once.status["commits"]["fleet"], good);
    change(&repository, "unsigned");
    repository.publish("unsigned");
    assert!(message(&node.once(), "Stalled").contains("not signed"));
    alice.commit(&repository, "again by alice");
    repository.push();
    assert_eq!(node.once().code, 0, "head looks at the newest commit alone");
    assert_eq!(node.read("/a").unwrap(), "again by alice");
}

#[test]
fn signer_outside_its_time_or_namespace_does_not_count() {
    let folder = tempfile::tempdir().unwrap();
    for (options, why) in [
        ("valid-before=\"20200101\" ", "no longer valid"),
        ("valid-after=\"20900101\" ", "not valid yet"),
        ("namespaces=\"file\" ", "not allowed for the namespace git"),
    ] {
        let folder = folder.path().join(why.replace(' ', "-"));
        let repository = fleet(&folder);
        let alice = SshSigner::new(&folder, "alice");
        alice.commit(&repository, "signed");
        repository.push();
        let node = verified(&folder, &repository, "head", &alice.line(options), "");
        let once = node.once();
        assert_eq!(once.code, 2);
        assert!(message(&once, "Stalled").contains(why), "{}", message(&once, "Stalled"));
    }
}

#[test]
fn head_signed_by_gpg_is_accepted() {
    let folder = tempfile::tempdir().unwrap();
    let repository = fleet(folder.path());
    let (alice, mallory) =
        (GpgSigner::new(folder.path(), "alice", "never"), GpgSigner::new(folder.path(), "mallory", "never"));
    alice.commit(&repository, "by alice");
    repository.push();
    let node = verified(folder.path(), &repository, "head", &alice.public(), "");
    let once = node.once();
    assert_eq!(once.code, 0, "{}", once.log);
    let stolen = mallory.commit(&repository, "by mallory");
    repository.push();
    let once = node.once();
    assert_eq!((once.code, reason(&once, "Stalled").as_str()), (2, "Unverified"));
    // A signature that is moved to another commit does not match it.
    let raw = String::from_utf8(ok(git(&repository.work).args(["cat-file", "commit", "HEAD~1"])).stdout).unwrap();
    let tampered = raw.replace("by alice", "by malory");
    let file = folder.path().join("tampered");
    fs::write(&file, tampered).unwrap();
    let id = String::from_utf8(ok(git(&repository.work).args(["hash-object", "-t", "commit", "-w"]).arg(&file)).stdout)
        .unwrap();
    assert_ne!(id.trim(), stolen);
    ok(git(&repository.work).args(["push", "-q", "-f", "origin", &format!("{}:main", id.trim())]));
    let node = verified(&folder.path().join("second"), &repository, "head", &alice.public(), "");
    let once = node.once();
    assert_eq!((once.code, reason(&once, "Stalled").as_str()), (2, "Unverified"), "{}", once.log);
}

#[test]
fn gpg_keys_that_expired_or_were_revoked_do_not_count() {
    let folder = tempfile::tempdir().unwrap();
    let repository = fleet(folder.path());
    let brief = GpgSigner::new(folder.path(), "brief", "seconds=3");
    brief.commit(&repository, "signed in time");
    repository.push();
    std::thread::sleep(Duration::from_secs(4));
    let node = verified(folder.path(), &repository, "head", &brief.public(), "");
    let once = node.once();
    assert!(message(&once, "Stalled").contains("expired"), "{} {}", message(&once, "Stalled"), once.log);

    let folder = folder.path().join("revoked");
    let repository = fleet(&folder);
    let revoked = GpgSigner::new(&folder, "revoked", "never");
    revoked.commit(&repository, "signed before");
    repository.push();
    let certificate = fs::read_dir(revoked.home.join("openpgp-revocs.d"))
        .unwrap()
        .flatten()
        .find(|entry| entry.path().extension().is_some_and(|ending| ending == "rev"))
        .unwrap()
        .path();
    let text = fs::read_to_string(&certificate).unwrap().replace(":-----BEGIN", "-----BEGIN");
    fs::write(&certificate, text).unwrap();
    ok(revoked.gpg().arg("--import").arg(&certificate));
    let node = verified(&folder, &repository, "head", &revoked.public(), "");
    let once = node.once();
    assert!(message(&once, "Stalled").contains("revoked"), "{} {}", message(&once, "Stalled"), once.log);
}

#[test]
fn range_asks_for_every_step_along_first_parents() {
    let folder = tempfile::tempdir().unwrap();
    let repository = fleet(folder.path());
    let (alice, mallory) = (SshSigner::new(folder.path(), "alice"), SshSigner::new(folder.path(), "mallory"));
    let first = alice.commit(&repository, "one");
    repository.push();
    let node = verified(folder.path(), &repository, "range", &alice.line(""), "");
    assert_eq!(node.once().code, 0);
    // An unsigned commit below a signed head.
    change(&repository, "unsigned");
    repository.commit("unsigned");
    alice.commit(&repository, "signed head");
    repository.push();
    let once = node.once();
    assert_eq!((once.code, reason(&once, "Stalled").as_str()), (2, "Unverified"));
    assert_eq!(once.status["commits"]["fleet"], first);
    // A signed merge vouches for the commits that it merges.
    repository.git(&["reset", "-q", "--hard", &first]);
    repository.git(&["checkout", "-q", "-b", "side"]);
    mallory.commit(&repository, "on a side branch");
    repository.git(&["checkout", "-q", "main"]);
    let settings = alice.settings();
    let mut merge = git(&repository.work);
    merge
        .args(settings.iter().flat_map(|setting| ["-c", setting.as_str()]))
        .args(["merge", "-q", "--no-ff", "-S", "-m", "merge", "side"]);
    ok(&mut merge);
    repository.git(&["push", "-q", "-f", "origin", "main"]);
    let once = node.once();
    assert_eq!(once.code, 0, "{}", once.log);
    assert_eq!(node.read("/a").unwrap(), "on a side branch");
}

#[test]
fn signers_in_the_source_are_judged_by_the_step_before() {
    let folder = tempfile::tempdir().unwrap();
    let repository = fleet(folder.path());
    let (alice, bob) = (SshSigner::new(folder.path(), "alice"), SshSigner::new(folder.path(), "bob"));
    repository.write("signers", "# none yet\n");
    alice.commit(&repository, "one");
    repository.push();
    let node = verified(folder.path(), &repository, "range", &alice.line(""), ", signers: signers");
    assert_eq!(node.once().code, 0);
    // Bob cannot add himself to the signers.
    repository.write("signers", bob.line(""));
    bob.commit(&repository, "by bob himself");
    repository.push();
    assert_eq!(node.once().code, 2);
    repository.git(&["reset", "-q", "--hard", "HEAD~1"]);
    // Alice adds Bob. His later commits count.
    repository.write("signers", bob.line(""));
    alice.commit(&repository, "alice lets bob in");
    bob.commit(&repository, "by bob");
    repository.git(&["push", "-q", "-f", "origin", "main"]);
    let once = node.once();
    assert_eq!(once.code, 0, "{}", once.log);
    assert_eq!(node.read("/a").unwrap(), "by bob");
}

#[test]
fn rewritten_history_is_refused_and_a_lagging_mirror_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let repository = fleet(folder.path());
    let first = repository.publish("one");
    change(&repository, "two");
    let second = repository.publish("two");
    let node = Node::new(folder.path(), &format!("url: {}", repository.bare.display()));
    assert_eq!(node.once().code, 0);
    // An older head: a mirror that lags.
    ok(git(&repository.bare).args(["update-ref", "refs/heads/main", &first]));
    let once = node.once();
    assert_eq!(once.code, 0, "{}", once.log);
    assert_eq!(once.status["commits"]["fleet"], second);
    // A rewritten history.
    repository.git(&["reset", "-q", "--hard", &first]);
    change(&repository, "other");
    let other = repository.commit("other");
    repository.git(&["push", "-q", "-f", "origin", "main"]);
    let once = node.once();
    assert_eq!((once.code, reason(&once, "Stalled").as_str()), (2, "Rewound"));
    assert_eq!(node.read("/a").unwrap(), "two");
    // The last accepted commit is remembered after the mirror is lost.
    fs::remove_dir_all(node.state.join("mirrors")).unwrap();
    let once = node.once();
    assert_eq!((once.code, reason(&once, "Stalled").as_str()), (2, "Rewound"), "{}", once.log);
    // `allowRewind` accepts the rewritten history.
    node.configure(&format!("url: {}\n      allowRewind: true", repository.bare.display()), "");
    let once = node.once();
    assert_eq!(once.code, 0, "{}", once.log);
    assert_eq!(once.status["commits"]["fleet"], other);
}

#[test]
fn tag_moves_only_to_a_higher_version_and_commit_stays() {
    let folder = tempfile::tempdir().unwrap();
    let repository = fleet(folder.path());
    let first = repository.publish("one");
    repository.git(&["tag", "-a", "v1.2.0", "-m", "annotated"]);
    repository.git(&["push", "-q", "origin", "v1.2.0"]);
    let node = Node::new(folder.path(), &format!("url: {}\n      tag: \"v1.*\"", repository.bare.display()));
    let once = node.once();
    assert_eq!((once.code, &once.status["commits"]["fleet"]), (0, &serde_json::json!(first)), "{}", once.log);
    change(&repository, "two");
    let second = repository.publish("two");
    for tag in ["v1.10.0", "v2.0.0"] {
        repository.git(&["tag", tag]);
        repository.git(&["push", "-q", "origin", tag]);
    }
    assert_eq!(node.once().status["commits"]["fleet"], second);
    ok(git(&repository.bare).args(["tag", "-d", "v1.10.0"]));
    let once = node.once();
    assert_eq!((once.code, reason(&once, "Stalled").as_str()), (2, "Rewound"), "{}", once.log);
    node.configure(&format!("url: {}\n      commit: {first}", repository.bare.display()), "");
    let once = node.once();
    assert_eq!((once.code, node.read("/a").unwrap().as_str()), (0, "one"), "{}", once.log);
}

#[test]
fn each_https_credential_authenticates() {
    let folder = tempfile::tempdir().unwrap();
    let repository = fleet(folder.path());
    repository.publish("one");
    let write = |name: &str, text: &str| {
        let file = folder.path().join(name);
        fs::write(&file, text).unwrap();
        file.display().to_string()
    };
    let (user, password, wrong) = (write("user", "agent\n"), write("password", "gitpw\n"), write("wrong", "gitpx\n"));
    let basic = Https::start(&folder.path().join("basic"), folder.path());
    let ca = basic.authority.certificate().display().to_string();
    let node = |name: &str, url: &str, auth: &str| {
        Node::new(&folder.path().join(name), &format!("url: {url}\n      auth: {{{auth}}}")).once()
    };
    assert_eq!(
        node("good", &basic.url("fleet"), &format!("usernameFile: {user}, passwordFile: {password}, caFile: {ca}"))
            .code,
        0
    );
    let refused = node(
        "wrong-password",
        &basic.url("fleet"),
        &format!("usernameFile: {user}, passwordFile: {wrong}, caFile: {ca}"),
    );
    assert_eq!((refused.code, reason(&refused, "Reconciling").as_str()), (1, "SourceUnreachable"));
    assert!(!refused.log.contains("gitpx") && !message(&refused, "Reconciling").contains("gitpx"));
    let unknown =
        node("unknown-authority", &basic.url("fleet"), &format!("usernameFile: {user}, passwordFile: {password}"));
    assert_eq!(unknown.code, 1);
    assert!(
        message(&unknown, "Reconciling").to_lowercase().contains("certificate"),
        "{}",
        message(&unknown, "Reconciling")
    );
    let missing = node("missing-file", &basic.url("fleet"), &format!("passwordFile: /nonexistent, caFile: {ca}"));
    assert!(
        message(&missing, "Reconciling").contains("auth.passwordFile /nonexistent"),
        "{}",
        message(&missing, "Reconciling")
    );

    let token = write("token", "t0ken\n");
    let signing_identity = Https::start_with(
        &folder.path().join("bearer"),
        folder.path(),
        "if ($http_authorization != \"Bearer t0ken\") { return 401; }",
    );
    let ca = signing_identity.authority.certificate().display().to_string();
    assert_eq!(node("bearer", &signing_identity.url("fleet"), &format!("tokenFile: {token}, caFile: {ca}")).code, 0);
    assert_eq!(node("no-bearer", &signing_identity.url("fleet"), &format!("caFile: {ca}")).code, 1);

    let mutual = Https::start_with(
        &folder.path().join("mutual"),
        folder.path(),
        "ssl_client_certificate CA; ssl_verify_client on;",
    );
    let ca = mutual.authority.certificate().display().to_string();
    let (certificate, key) = mutual.authority.issue("client");
    let own = format!("clientCertFile: {}, clientKeyFile: {}, caFile: {ca}", certificate.display(), key.display());
    let once = node("client-certificate", &mutual.url("fleet"), &own);
    assert_eq!(once.code, 0, "{}", once.log);
    assert_eq!(node("no-client-certificate", &mutual.url("fleet"), &format!("caFile: {ca}")).code, 1);
}

#[test]
fn ssh_requires_the_pinned_host_key_and_accepts_scp_urls() {
    let folder = tempfile::tempdir().unwrap();
    let repository = fleet(folder.path());
    repository.publish("one");
    let server = Ssh::start(&folder.path().join("ssh"));
    let (key, good) = (server.key.display(), server.known_hosts.display());
    let wrong = server.known_hosts.with_file_name("wrong_hosts");
    let other = server.key.with_file_name("other");
    let node = |name: &str, url: &str, auth: &str| {
        Node::new(&folder.path().join(name), &format!("url: {url}\n      auth: {{{auth}}}")).once()
    };
    let url = server.url(&repository.bare);
    let once = node("good", &url, &format!("sshKeyFile: {key}, knownHostsFile: {good}"));
    assert_eq!(once.code, 0, "{}", once.log);
    assert_eq!(node("changed-host", &url, &format!("sshKeyFile: {key}, knownHostsFile: {}", wrong.display())).code, 1);
    assert_eq!(node("other-key", &url, &format!("sshKeyFile: {}, knownHostsFile: {good}", other.display())).code, 1);
    // The scp form cannot hold a port. The connection to port 22 fails, but the form is understood.
    let scp = format!("root@127.0.0.1:{}", repository.bare.display());
    let once = node("scp", &scp, &format!("sshKeyFile: {key}, knownHostsFile: {good}"));
    assert_eq!(once.code, 1, "no server listens at port 22, but the form is understood: {}", once.log);
    assert_eq!(reason(&once, "Reconciling"), "SourceUnreachable");
    assert!(message(&once, "Reconciling").contains("127.0.0.1"), "{}", message(&once, "Reconciling"));
}

#[test]
fn empty_unborn_and_missing_refs_are_reported() {
    let folder = tempfile::tempdir().unwrap();
    let repository = Repository::new(folder.path(), "fleet");
    let node = Node::new(folder.path(), &format!("url: {}", repository.bare.display()));
    let once = node.once();
    assert_eq!(once.code, 1);
    assert!(message(&once, "Reconciling").contains("it is empty"), "{}", message(&once, "Reconciling"));
    repository.write("fleet.yaml", FLEET);
    repository.commit("on another branch");
    repository.git(&["push", "-q", "origin", "HEAD:other"]);
    let once = node.once();
    assert!(message(&once, "Reconciling").contains("has no branch main"), "{}", message(&once, "Reconciling"));
    repository.publish("on main");
    let once = node.once();
    assert_eq!(once.code, 0, "{}", once.log);
}

#[test]
fn submodules_and_lfs_are_refused_clearly() {
    let folder = tempfile::tempdir().unwrap();
    let repository = fleet(folder.path());
    let commit = repository.publish("one");
    repository.git(&["update-index", "--add", "--cacheinfo", &format!("160000,{commit},vendor")]);
    ok(git(&repository.work).args(["commit", "-q", "-m", "a submodule"]));
    repository.push();
    let node = Node::new(folder.path(), &format!("url: {}", repository.bare.display()));
    let once = node.once();
    assert_eq!(once.code, 2);
    assert!(message(&once, "Stalled").contains("git submodules are not followed"), "{}", message(&once, "Stalled"));
    repository.git(&["rm", "-q", "--cached", "vendor"]);
    repository.write("files/big", "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n");
    repository.write("b.yaml", book("b", "  tasks:\n    - name: b\n      file: {path: /b, source: files/big}\n"));
    repository.publish("a pointer");
    let once = node.once();
    assert_eq!(once.code, 3, "{}", once.log);
    assert!(message(&once, "Stalled").contains("Git LFS"), "{}", message(&once, "Stalled"));
}

/// Starts a server that answers every connection in a hostile way. Returns its port.
fn hostile(answer: impl Fn(&mut std::net::TcpStream) + Send + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming().take(50).flatten() {
            let mut stream = stream;
            let mut buffer = [0; 4096];
            let _ = stream.read(&mut buffer);
            answer(&mut stream);
        }
    });
    port
}

#[test]
fn malformed_or_truncated_answer_of_a_remote_is_reported() {
    let folder = tempfile::tempdir().unwrap();
    let head =
        "HTTP/1.1 200 OK\r\nContent-Type: application/x-git-upload-pack-advertisement\r\nConnection: close\r\n\r\n";
    let garbage = hostile(move |stream| {
        let _ = stream.write_all(head.as_bytes());
        let _ = stream.write_all(&[0xff; 2000]);
    });
    let truncated = hostile(move |stream| {
        let _ = stream.write_all(head.as_bytes());
        let _ = stream.write_all(b"001e# service=git-upload-pack\n0000000eversion 2\n00");
    });
    let html = hostile(|stream| {
        let _ = stream
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nConnection: close\r\n\r\n<html>log in</html>");
    });
    let refused = hostile(|stream| {
        let _ = stream.write_all(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n");
    });
    for (name, port) in [("garbage", garbage), ("truncated", truncated), ("html", html), ("refused", refused)] {
        let node = Node::new(&folder.path().join(name), &format!("url: http://127.0.0.1:{port}/fleet.git"));
        let once = node.once();
        assert_eq!(
            (once.code, reason(&once, "Reconciling").as_str()),
            (1, "SourceUnreachable"),
            "{name}: {:#}\n{}",
            once.status,
            once.log
        );
        assert!(!once.log.contains("panicked"), "{name}: {}", once.log);
        assert!(once.log.contains("without TLS and without `verify`"), "{name}: a warning is due");
    }
}

#[test]
fn remote_that_sends_too_much_is_stopped() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let folder = tempfile::tempdir().unwrap();
    let repository = fleet(folder.path());
    let mut random = fs::File::open("/dev/urandom").unwrap();
    let mut bytes = vec![0; 64 << 20];
    random.read_exact(&mut bytes).unwrap();
    repository.write("files/large", &bytes);
    repository.publish("large");
    let server = Https::start_with(&folder.path().join("https"), folder.path(), "limit_rate 20m;");
    let options = towpath_git::Options {
        name: "fleet".into(),
        url: server.url("fleet"),
        reference: towpath_git::Reference::Branch("main".into()),
        path: String::new(),
        auth: towpath_git::Auth { ca_file: Some(server.authority.certificate()), ..Default::default() },
        verify: Default::default(),
        allow_rewind: false,
        limits: towpath_git::Limits { bytes: 4 << 20, ..Default::default() },
    };
    let mirror = towpath_git::Mirror::new(options, &folder.path().join("mirrors"));
    let error = mirror.fetch(None).unwrap_err();
    assert!(matches!(error, towpath_git::SourceError::TooMuch { .. }), "{error}");
}

#[test]
fn silent_remote_times_out() {
    let folder = tempfile::tempdir().unwrap();
    // The server accepts the connection and never answers.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let node = Node::new(folder.path(), &format!("url: http://127.0.0.1:{port}/fleet.git"));
    let begin = std::time::Instant::now();
    let once = node.once();
    assert_eq!((once.code, reason(&once, "Reconciling").as_str()), (1, "SourceUnreachable"), "{}", once.log);
    assert!(begin.elapsed() < Duration::from_secs(100), "{:?}", begin.elapsed());
    drop(listener);
}

#[test]
fn pack_with_missing_objects_is_rejected() {
    let folder = tempfile::tempdir().unwrap();
    let repository = fleet(folder.path());
    let good = repository.publish("one");
    let node = Node::new(folder.path(), &format!("url: file://{}", repository.bare.display()));
    assert_eq!(node.once().code, 0);
    change(&repository, "two");
    let commit = repository.publish("two");
    // The remote names a commit whose objects it has lost.
    let object = repository.bare.join("objects").join(&commit[..2]).join(&commit[2..]);
    fs::remove_file(&object).unwrap();
    let once = node.once();
    assert_eq!(once.code, 1, "{}", once.log);
    assert_eq!(once.status["commits"]["fleet"], good);
    assert_eq!(node.read("/a").unwrap(), "one");
}

#[test]
fn mirror_bounds_its_packs() {
    let folder = tempfile::tempdir().unwrap();
    let repository = fleet(folder.path());
    repository.publish("one");
    let node = Node::new(folder.path(), &format!("url: {}", repository.bare.display()));
    for number in 0..60 {
        change(&repository, &format!("number {number}"));
        repository.publish("next");
        assert_eq!(node.once().code, 0);
    }
    let packs = fs::read_dir(node.state.join("mirrors/fleet.git/objects/pack"))
        .unwrap()
        .flatten()
        .filter(|entry| entry.path().extension().is_some_and(|ending| ending == "pack"))
        .count();
    assert!(packs <= 50, "{packs} packs");
    assert_eq!(node.read("/a").unwrap(), "number 59");
}
