//! Modules that fetch or edit: downloads, archives, repositories, custom programs, values of files. The agent runs with
//! a root of its own; the servers are real.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use towpath_tests::{
    Running,
    git::{FLEET, Repository, book},
    git_servers::Https,
    node::{Node, OnceResult, condition, task},
    ok, wait_until,
};

struct Fixture {
    repository: Repository,
    node: Node,
    folder: tempfile::TempDir,
}

impl Fixture {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let repository = Repository::new(folder.path(), "fleet");
        let allowed = "name: app}\nspec: {includes: {allow: [\"https://localhost:*\"]}}\n";
        repository.write("fleet.yaml", FLEET.replace("name: app}\n", allowed));
        let node = Node::new(folder.path(), &format!("url: {}", repository.bare.display()));
        Self { repository, node, folder }
    }

    fn publish(&self, tasks: &str) {
        let spec = format!("  prune: true\n  pruneBudget: 100%\n  tasks:\n{tasks}");
        self.repository.write(
            "book.yaml",
            book("b", if tasks.is_empty() { "  prune: true\n  pruneBudget: 100%\n" } else { &spec }),
        );
        self.repository.publish("next");
    }

    /// Publishes tasks, and runs the agent.
    fn apply(&self, tasks: &str) -> OnceResult {
        self.publish(tasks);
        self.node.once()
    }

    /// Runs the agent again, and expects no change.
    fn assert_in_sync(&self) {
        let once = self.node.once();
        let tasks = once.status["taskBooks"][0]["tasks"].as_array().unwrap();
        assert!(tasks.iter().all(|task| task["outcome"] == "unchanged"), "{:#}\n{}", once.status, once.log);
    }

    fn path(&self, path: &str) -> std::path::PathBuf {
        self.node.root.join(path.trim_start_matches('/'))
    }
}

fn said(once: &OnceResult, name: &str) -> String {
    task(&once.status, name)["message"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn interrupted_download_is_resumed() {
    let f = Fixture::new();
    let mut server = Https::start_with(&f.folder.path().join("https"), f.folder.path(), "limit_rate 300k;");
    let bytes: Vec<u8> = (0..1_200_000_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    fs::write(server.files().join("big"), &bytes).unwrap();
    let digest = hex::encode(Sha256::digest(&bytes));
    let (url, authority) = (server.file("big?token=hush"), server.authority.certificate());
    let tasks = |digest: &str| {
        format!(
            "    - name: big\n      download: {{path: /srv/in/big, url: \"{url}\", sha256: \"{digest}\", caFile: \"{}\", mode: \"0640\"}}\n",
            authority.display()
        )
    };
    f.publish(&tasks(&digest));
    let mut agent = f.node.agent();
    agent.args(["--once", "--output", "json"]);
    let running = Running::start(&agent, Stdio::piped(), Stdio::piped());
    let part = || {
        let names = fs::read_dir(f.path("/srv/in")).into_iter().flatten().flatten();
        names.filter_map(|entry| entry.metadata().ok()).map(|meta| meta.len()).max().unwrap_or(0)
    };
    wait_until(Duration::from_secs(20), || part() > 200_000, || "nothing comes".into());
    server.down();
    let output = running.output();
    let log = String::from_utf8_lossy(&output.stderr);
    let status: Value = serde_json::from_slice(&output.stdout).unwrap();
    let message = task(&status, "big")["message"].as_str().unwrap();
    assert!(message.contains("/srv/in/big") && message.contains("resumes the transfer"), "{message}");
    assert!(!message.contains("hush") && !log.contains("hush"), "the query is shown: {message}\n{log}");
    assert!(!f.path("/srv/in/big").exists(), "a part was put in place");
    server.up();
    let once = f.node.once();
    assert_eq!(once.code, 0, "{:#}\n{}", once.status, once.log);
    assert!(server.log().contains("\" 206 "), "it did not go on:\n{}", server.log());
    assert_eq!(fs::read(f.path("/srv/in/big")).unwrap(), bytes);
    assert_eq!(fs::read_dir(f.path("/srv/in")).unwrap().count(), 1, "something is left beside it");
    f.assert_in_sync();
    // A file with other bytes is drift.
    fs::write(f.path("/srv/in/big"), "mine").unwrap();
    assert_eq!(f.node.once().code, 0);
    assert_eq!(fs::read(f.path("/srv/in/big")).unwrap(), bytes);
    // A file with another digest is never put in place.
    fs::remove_file(f.path("/srv/in/big")).unwrap();
    let once = f.apply(&tasks(&"0".repeat(64)));
    assert!(said(&once, "big").contains(&digest), "{:#}", once.status);
    assert!(!f.path("/srv/in/big").exists());
    let once = f.apply("");
    assert_eq!(once.code, 0, "{}", once.log);
    assert!(!f.path("/srv/in/big").exists());
}

#[test]
fn download_respects_its_limits_and_sends_headers_to_one_server_only() {
    let f = Fixture::new();
    let folder = f.folder.path().join("https");
    let rules = format!(
        "limit_rate 300k; location = /led {{ if ($http_x_token = '') {{ return 401; }} return 302 https://localhost:$server_port/moved; }} location = /moved {{ if ($http_x_token) {{ return 403; }} alias {}/static/small; }}",
        folder.display()
    );
    let server = Https::start_with(&folder, f.folder.path(), &rules);
    let digest = |bytes: &[u8]| hex::encode(Sha256::digest(bytes));
    let big = vec![7; 900_000];
    fs::write(server.files().join("big"), &big).unwrap();
    fs::write(server.files().join("small"), "small").unwrap();
    let task = |url: &str, sha256: &str, more: &str| {
        let ca = server.authority.certificate();
        f.apply(&format!(
            "    - name: it\n      download: {{path: /srv/it, url: \"{url}\", sha256: {sha256}, caFile: \"{}\"{more}\n",
            ca.display()
        ))
    };
    let parts = || fs::read_dir(f.path("/srv")).into_iter().flatten().count();
    let once = task(&server.file("big"), &digest(&big), ", maxBytes: 899999}");
    assert!(said(&once, "it").contains("more than 899999 bytes"), "{:#}", once.status);
    assert_eq!(parts(), 0, "what is too large is kept");
    let once = task(&server.file("big"), &digest(&big), "}\n      timeout: 1s");
    assert!(said(&once, "it").contains("longer than the timeout of the task"), "{:#}", once.status);
    assert_eq!(parts(), 1, "what has come is not kept");
    let once = task(&server.file("big"), &digest(&big), ", maxBytes: 900000}");
    assert_eq!(once.code, 0, "{:#}", once.status);
    // A redirect to another server does not receive the headers.
    let led = server.file("big").replace("/static/big", "/led");
    let once = task(&led, &digest(b"small"), ", headers: {X-Token: hush}}");
    assert_eq!((once.code, f.node.read("/srv/it").as_deref()), (0, Some("small")), "{:#}", once.status);
}

/// Runs a shell line in an empty folder, and packs the result into a file of the working copy.
fn pack(f: &Fixture, line: &str, name: &str) {
    let folder = tempfile::tempdir().unwrap();
    let target = f.repository.work.join(name);
    ok(Command::new("sh").arg("-c").arg(format!("{line} && tar -czf {} .", target.display())).current_dir(&folder));
}

#[test]
fn archive_is_unpacked_and_kept_in_sync() {
    let f = Fixture::new();
    fs::create_dir_all(&f.repository.work).unwrap();
    let one = "mkdir -p app-1/bin app-1/doc && echo one > app-1/doc/text && echo run > app-1/bin/tool && chmod 755 app-1/bin/tool && ln -s bin/tool app-1/link && ln app-1/doc/text app-1/doc/same";
    pack(&f, one, "app.tar.gz");
    let tasks = "    - name: app\n      archive: {path: /opt/app, source: app.tar.gz, strip: 1}\n";
    let once = f.apply(tasks);
    assert_eq!(once.code, 0, "{:#}\n{}", once.status, once.log);
    let read = |path: &str| f.node.read(&format!("/opt/app/{path}")).unwrap_or_default();
    assert_eq!(
        (read("doc/text").as_str(), read("bin/tool").as_str(), read("doc/same").as_str()),
        ("one\n", "run\n", "one\n")
    );
    assert_eq!(fs::read_link(f.path("/opt/app/link")).unwrap(), Path::new("bin/tool"));
    use std::os::unix::fs::PermissionsExt as _;
    let mode = |path: &str| fs::metadata(f.path(path)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("/opt/app/bin/tool"), mode("/opt/app/doc/text")), (0o755, 0o644));
    f.assert_in_sync();
    // Drift of content, mode and link is corrected. A file that is not in the archive stays.
    fs::write(f.path("/opt/app/doc/text"), "two\n").unwrap();
    fs::set_permissions(f.path("/opt/app/bin/tool"), fs::Permissions::from_mode(0o644)).unwrap();
    fs::remove_file(f.path("/opt/app/link")).unwrap();
    fs::write(f.path("/opt/app/mine"), "mine").unwrap();
    assert_eq!(f.node.once().code, 0);
    assert_eq!((read("doc/text").as_str(), mode("/opt/app/bin/tool"), read("mine").as_str()), ("one\n", 0o755, "mine"));
    assert!(f.path("/opt/app/link").is_symlink());
    assert!(
        fs::read_dir(f.path("/opt/app/doc"))
            .unwrap()
            .flatten()
            .all(|entry| !entry.file_name().to_string_lossy().starts_with('.'))
    );
    let once = f.apply("");
    assert_eq!(once.code, 0, "{}", once.log);
    assert!(!f.path("/opt/app").exists());
}

#[test]
fn nothing_of_an_archive_leads_out_of_its_directory() {
    let f = Fixture::new();
    fs::create_dir_all(&f.repository.work).unwrap();
    fs::create_dir_all(f.path("/etc")).unwrap();
    fs::write(f.path("/etc/passwd"), "kept").unwrap();
    let python = |members: &str| {
        let file = f.repository.work.join("evil.tar");
        let script = format!(
            "import io, sys, tarfile\nt = tarfile.open({:?}, 'w')\ndef put(name, text='x', kind=None, target=''):\n    i = tarfile.TarInfo(name)\n    i.size = 0 if kind else len(text)\n    i.type = kind or tarfile.REGTYPE\n    i.linkname = target\n    t.addfile(i, None if kind else io.BytesIO(text.encode()))\n{members}\nt.close()\n",
            file.display().to_string()
        );
        ok(Command::new("python3").arg("-c").arg(script));
    };
    for (members, why) in [
        ("put('../../etc/passwd')", "leads out"),
        ("put('/etc/passwd')", "leads out"),
        ("put('a', kind=tarfile.SYMTYPE, target='/etc')\nput('a/passwd')", "leads out"),
        ("put('a', kind=tarfile.SYMTYPE, target='../../etc')\nput('a/passwd')", "leads out"),
        (
            "put('p', kind=tarfile.SYMTYPE, target='.')\nput('p/p/q', kind=tarfile.SYMTYPE, target='../../etc')\nput('q/passwd')",
            "below another link",
        ),
        ("put('a', kind=tarfile.LNKTYPE, target='../../etc/passwd')", "leads out"),
        ("put('a', kind=tarfile.CHRTYPE)", "device"),
        ("put('a')\nput('b')\nput('./a')", "is in the archive twice"),
    ] {
        python(members);
        let once = f.apply("    - name: app\n      archive: {path: /opt/app, source: evil.tar}\n");
        assert!(said(&once, "app").contains(why), "{members}: {:#}", once.status);
        assert_eq!(f.node.read("/etc/passwd").unwrap(), "kept", "{members}");
    }
}

#[test]
fn repository_at_one_commit_is_unpacked_as_files() {
    let f = Fixture::new();
    let site = Repository::new(f.folder.path(), "site");
    site.write("public/index.html", "one\n");
    site.write("public/old.html", "old\n");
    let one = site.publish("one");
    site.write("public/index.html", "two\n");
    fs::remove_file(site.work.join("public/old.html")).unwrap();
    let two = site.publish("two");
    let server = Https::start_with(&f.folder.path().join("https"), f.folder.path(), "");
    let tasks = |commit: &str, url: &str| {
        format!("    - name: site\n      git: {{path: /srv/site, url: \"{url}\", commit: {commit}, folder: public}}\n")
    };
    let url = server.url("site");
    let apply = |tasks: &str| {
        f.publish(tasks);
        f.node.once_with(f.node.agent().env("SSL_CERT_FILE", server.authority.certificate()))
    };
    let once = apply(&tasks(&one, &url));
    assert_eq!(once.code, 0, "{:#}\n{}", once.status, once.log);
    assert_eq!(
        (f.node.read("/srv/site/index.html").unwrap(), f.node.read("/srv/site/old.html").unwrap()),
        ("one\n".into(), "old\n".into())
    );
    fs::write(f.path("/srv/site/index.html"), "mine").unwrap();
    let once = apply(&tasks(&one, &url));
    assert_eq!((once.code, f.node.read("/srv/site/index.html").unwrap().as_str()), (0, "one\n"));
    // Another commit: `prune` removes the files that it no longer has.
    assert_eq!(apply(&tasks(&two, &url)).code, 0);
    assert_eq!(f.node.read("/srv/site/index.html").unwrap(), "two\n");
    assert!(!f.path("/srv/site/old.html").exists());
    let once = apply(&tasks("\"{{ vars.x }}\"", &url));
    assert!(once.log.contains("must not contain templates"), "{}", once.log);
    let once = apply(&tasks(&two, "https://elsewhere/site.git"));
    assert!(once.log.contains("must not include from https://elsewhere/site.git"), "{}", once.log);
    assert_eq!(apply("").code, 0);
    assert!(!f.path("/srv/site").exists());
}

/// The Python example and the shell example.
#[test]
fn custom_programs_of_the_example_correct_drift() {
    let f = Fixture::new();
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../repos-example/custom-modules/programs");
    for name in ["swapfile.py", "alternative.sh"] {
        f.repository.write(&format!("programs/{name}"), fs::read(examples.join(name)).unwrap());
    }
    let swap = |size: &str| {
        format!(
            "    - name: swap
      custom: {{name: swap, source: programs/swapfile.py, params: {{path: /swap, {size}}}}}
      register: swap
    - name: size
      file: {{path: /size, content: \"{{{{ steps.swap.data.bytes }}}}\"}}
"
        )
    };
    let once = f.apply(&swap("sizeMiB: 2"));
    assert_eq!(once.code, 0, "{:#}\n{}", once.status, once.log);
    assert_eq!(fs::metadata(f.path("/swap")).unwrap().len(), 2 << 20);
    assert_eq!(f.node.read("/size").unwrap(), "2097152");
    let again = f.node.once();
    assert_eq!(task(&again.status, "swap")["outcome"], "unchanged", "{:#}", again.status);
    fs::write(f.path("/swap"), "x").unwrap();
    assert_eq!(f.node.once().code, 0);
    assert_eq!(fs::metadata(f.path("/swap")).unwrap().len(), 2 << 20, "drift was not put right");
    for (params, why) in [("sizeMiB: 2, siez: 3", "does not support params.siez"), ("other: 1", "needs params.sizeMiB")]
    {
        let once = f.apply(&swap(params));
        assert!(said(&once, "swap").contains(why), "{:#}", once.status);
    }
    fs::create_dir_all(f.path("/etc/alternatives")).unwrap();
    fs::create_dir_all(f.path("/usr/bin")).unwrap();
    fs::write(f.path("/usr/bin/less"), "").unwrap();
    let pager = |path: &str| {
        format!(
            "    - name: pager\n      custom: {{name: pager, source: programs/alternative.sh, params: {{path: {path}}}}}\n"
        )
    };
    let once = f.apply(&pager("/usr/bin/less"));
    assert_eq!(once.code, 0, "{:#}\n{}", once.status, once.log);
    assert_eq!(fs::read_link(f.path("/etc/alternatives/pager")).unwrap(), Path::new("/usr/bin/less"));
    f.assert_in_sync();
    let once = f.apply(&pager("/usr/bin/nothing"));
    assert!(said(&once, "pager").contains("there is no /usr/bin/nothing"), "{:#}", once.status);
    // Programs that violate the protocol.
    for (text, why) in [
        ("echo '{'", "cannot parse the output of"),
        ("echo no >&2; exit 3", "ended with status 3: no"),
        ("sleep 60", "took longer than 1 s"),
        (
            "grep -q '\"describe\"' && echo '{}' || echo '{\"inSync\": false, \"changed\": true}'",
            "`check` still reports a difference",
        ),
    ] {
        f.repository.write("programs/bad.sh", format!("#!/bin/sh\n{text}\n"));
        let once = f.apply("    - name: bad\n      custom: {name: bad, source: programs/bad.sh}\n      timeout: 1s\n");
        let message = said(&once, "bad");
        assert!(message.contains(why) && message.contains("programs/bad.sh"), "{message}");
    }
}

#[test]
fn value_of_a_file_is_kept_in_sync_and_restored() {
    let f = Fixture::new();
    let was = [
        ("/etc/a.ini", "; head\n[one]\nkey = old ; why\n"),
        ("/etc/a.json", "{\n  // why\n  \"log\": {\"size\": \"1m\"}\n}\n"),
        ("/etc/a.yaml", "# head\nnet:\n  dhcp: false # why\n"),
        ("/etc/a.toml", "# head\n[grpc]\nsize = 1 # why\n"),
    ];
    for (path, text) in was {
        fs::create_dir_all(f.path("/etc")).unwrap();
        fs::write(f.path(path), text).unwrap();
    }
    let tasks = "    - name: i
      ini: {path: /etc/a.ini, section: one, key: key, value: new}
    - name: j
      json: {path: /etc/a.json, key: log.size, value: 9m}
    - name: more
      json: {path: /etc/a.json, key: hosts, value: [\"{{ node.name }}\", 2]}
    - name: y
      yaml: {path: /etc/a.yaml, key: net.dhcp, value: true}
    - name: t
      toml: {path: /etc/a.toml, key: grpc.size, value: \"{{ 4 * 4 }}\"}
";
    let once = f.apply(tasks);
    assert_eq!(once.code, 0, "{:#}\n{}", once.status, once.log);
    let now = |path: &str| f.node.read(path).unwrap();
    assert_eq!(now("/etc/a.ini"), "; head\n[one]\nkey = new ; why\n");
    assert_eq!(now("/etc/a.yaml"), "# head\nnet:\n  dhcp: true # why\n");
    assert_eq!(now("/etc/a.toml"), "# head\n[grpc]\nsize = 16 # why\n");
    assert!(now("/etc/a.json").contains("// why") && now("/etc/a.json").contains("\"9m\""), "{}", now("/etc/a.json"));
    f.assert_in_sync();
    fs::write(f.path("/etc/a.yaml"), "# head\nnet:\n  dhcp: false # mine\n").unwrap();
    assert_eq!(f.node.once().code, 0);
    assert_eq!(now("/etc/a.yaml"), "# head\nnet:\n  dhcp: true # mine\n");
    let once = f.apply("");
    assert_eq!(once.code, 0, "{:#}\n{}", once.status, once.log);
    assert_eq!(now("/etc/a.ini"), was[0].1);
    assert_eq!(now("/etc/a.toml"), was[3].1);
    assert_eq!(now("/etc/a.yaml"), "# head\nnet:\n  dhcp: false # mine\n");
    let json: Value = serde_json::from_str(&now("/etc/a.json").replace("// why", "")).unwrap();
    assert_eq!(json, json!({ "log": { "size": "1m" } }));
    fs::write(f.path("/etc/a.toml"), "size = ").unwrap();
    let once = f.apply("    - name: t\n      toml: {path: /etc/a.toml, key: a.b, value: 1}\n");
    assert!(said(&once, "t").starts_with("/etc/a.toml: a.b: the file is not valid TOML"), "{:#}", once.status);
    assert_eq!(condition(&once.status, "Ready")["status"], false);
}

#[test]
fn modules_that_change_the_machine_require_its_root() {
    let f = Fixture::new();
    let uses = [
        ("sysctl", "{name: net.ipv4.ip_forward, value: \"1\"}"),
        ("mount", "{path: /srv, device: tmpfs}"),
        ("service", "{name: ssh, state: started}"),
        ("package", "{name: nginx}"),
        ("user", "{name: web}"),
        ("group", "{name: web}"),
        ("hostname", "{name: web}"),
        ("reboot", "{when: always}"),
        ("unit", "{name: web, content: \"[Service]\\nExecStart=/bin/true\\n\"}"),
    ];
    for (module, params) in uses {
        let once = f.apply(&format!("    - name: it\n      {module}: {params}\n"));
        let message = said(&once, "it");
        assert!(message.contains("set `root: /`") && message.contains(module), "{module}: {message}");
    }
}
