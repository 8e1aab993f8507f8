//! Modules that change a machine, on a real one with systemd, dpkg and PackageKit.

use std::{collections::BTreeSet, path::Path, process::Command};

use sha2::{Digest as _, Sha256};
use towpath_proto::{ModuleKind, modules};
use towpath_tests::{git::Repository, ok, server::Server};

const UNIT: &str = "[Unit]\\nDescription=hello\\n[Service]\\nExecStart=/bin/sleep infinity\\n[Install]\\nWantedBy=multi-user.target\\n";

fn whole(more: &str) -> String {
    format!(
        "  prune: true\n  pruneBudget: 100%\n  tasks:\n    - name: package\n      package: {{name: probeapp, version: \"1.0\"}}\n    - name: group\n      group: {{name: webadm}}\n    - name: user\n      user: {{name: web, system: true, groups: [webadm], home: /var/lib/web, shell: /usr/sbin/nologin}}\n    - name: unit\n      unit: {{name: hello, content: \"{UNIT}{more}\"}}\n      notify: [restart]\n    - name: service\n      service: {{name: hello, state: started, enabled: true}}\n  handlers:\n    - name: restart\n      service: {{name: hello, state: restarted}}\n"
    )
}

fn outcomes(server: &Server) -> Vec<(String, String)> {
    server.tasks().into_iter().map(|(name, outcome, _)| (name, outcome)).collect()
}

#[test]
fn server_is_set_up_kept_in_sync_and_cleared() {
    let server = Server::new();
    server.publish(&whole(""));
    let all = |wanted: &'static str| {
        move |server: &Server| {
            let tasks = outcomes(server);
            !tasks.is_empty() && tasks.iter().all(|(_, outcome)| outcome == wanted)
        }
    };
    server.wait(|server| server.says(&["systemctl", "is-active", "hello"]) == "active");
    server.wait(|server| server.says(&["dpkg-query", "-W", "-f", "${Version}", "probeapp"]) == "1.0");
    assert_eq!(server.says(&["systemctl", "is-enabled", "hello"]), "enabled");
    assert!(server.says(&["id", "web"]).contains("webadm"), "{}", server.shown());
    // The second pass has no change.
    server.wait(all("unchanged"));

    // A killed service is started again, and a removed package is installed again.
    server.says(&["systemctl", "kill", "-s", "KILL", "hello"]);
    server.wait(|server| server.says(&["systemctl", "is-active", "hello"]) == "active");
    server.says(&["dpkg", "--purge", "probeapp"]);
    server.wait(|server| server.says(&["dpkg-query", "-W", "-f", "${Version}", "probeapp"]) == "1.0");
    server.wait(all("unchanged"));

    // A changed unit is reloaded, and the handler restarts its service.
    let before = server.says(&["systemctl", "show", "-P", "MainPID", "hello"]);
    server.publish(&whole("[Unit]\\nDocumentation=man:hello\\n"));
    server.wait(|server| server.says(&["systemctl", "show", "-P", "Documentation", "hello"]) == "man:hello");
    server.wait(|server| {
        let now = server.says(&["systemctl", "show", "-P", "MainPID", "hello"]);
        now != before && now != "0"
    });
    assert_eq!(server.says(&["systemctl", "show", "-P", "NeedDaemonReload", "hello"]), "no");

    // Resources that the book no longer mentions are removed.
    server.publish("  prune: true\n  pruneBudget: 100%\n  tasks: []\n");
    server.wait(|server| server.says(&["dpkg-query", "-W", "-f", "${db:Status-Status}", "probeapp"]) != "installed");
    server.wait(|server| {
        server.says(&["id", "web"]).is_empty() && server.says(&["getent", "group", "webadm"]).is_empty()
    });
    server.wait(|server| server.says(&["systemctl", "show", "-P", "LoadState", "hello"]) == "not-found");
    assert!(!server.machines.root(0).join("etc/systemd/system/hello.service").exists());
}

#[test]
fn service_named_by_an_alias_is_the_unit_that_the_alias_leads_to() {
    let server = Server::new();
    let unit = |name: &str, alias: &str| {
        let text =
            format!("[Service]\nExecStart=/bin/sleep infinity\n[Install]\nWantedBy=multi-user.target\nAlias={alias}\n");
        server.machines.put(0, &format!("/usr/lib/systemd/system/{name}"), &text);
    };
    unit("real.service", "nick.service");
    unit("real@.service", "nick@.service");
    server.says(&["systemctl", "daemon-reload"]);
    let task = |name: &str, more: &str| format!("    - {{name: {name}, service: {{name: {name}, {more}}}}}\n");
    let publish = |tasks: String| server.publish(&format!("  tasks:\n{tasks}"));
    let state =
        |unit: &str| (server.says(&["systemctl", "is-active", unit]), server.says(&["systemctl", "is-enabled", unit]));
    let is = |unit: &str, active: &str, enabled: &str| state(unit) == (active.to_owned(), enabled.to_owned());
    let settled = |server: &Server| {
        let tasks = outcomes(server);
        !tasks.is_empty() && tasks.iter().all(|(_, outcome)| outcome == "unchanged")
    };
    // The alias does not exist before the unit is enabled.
    publish(task("nick", "state: started, enabled: true"));
    server.wait(|_| is("real.service", "active", "enabled"));
    server.wait(settled);
    publish(task("nick", "state: stopped, enabled: false"));
    server.wait(|_| is("real.service", "inactive", "disabled"));
    server.wait(settled);
    // The alias was removed with it. Drift is still detected.
    server.says(&["systemctl", "start", "real"]);
    server.wait(|_| is("real.service", "inactive", "disabled"));
    publish(task("nick", "masked: true"));
    server.wait(|_| state("real.service").1 == "masked");
    server.wait(settled);
    publish(task("nick", "masked: false"));
    server.wait(|_| state("real.service").1 == "disabled");
    // Two names of one unit are one resource.
    publish(task("nick", "state: stopped") + &task("real", "state: started"));
    server.wait(|server| {
        server.tasks().iter().any(|(_, outcome, message)| outcome == "failed" && message.contains("is managed by"))
    });
    assert!(is("real.service", "inactive", "disabled"), "{}", server.shown());
}

#[test]
fn failed_service_is_reported_with_its_journal() {
    let server = Server::new();
    server.publish("  tasks:\n    - name: unit\n      unit: {name: sick, content: \"[Service]\\nType=oneshot\\nExecStart=/bin/sh -c 'echo no blood left; exit 3'\\n\"}\n    - name: service\n      service: {name: sick, state: started}\n");
    server.wait(|server| server.tasks().iter().any(|(name, outcome, _)| name == "service" && outcome == "failed"));
    let tasks = server.tasks();
    let message = &tasks.iter().find(|(name, ..)| name == "service").unwrap().2;
    assert!(message.contains("sick.service") && message.contains("no blood left"), "{message}");
    server.publish("  tasks:\n    - name: service\n      service: {name: absent, state: started}\n");
    server.wait(|server| server.tasks().iter().any(|(_, outcome, _)| outcome == "failed"));
    assert!(server.tasks()[0].2.contains("this node has no unit absent.service"), "{:?}", server.tasks());
}

#[test]
fn value_that_the_kernel_or_systemd_rejects_is_reported_and_not_written() {
    let server = Server::new();
    let failed = |task: &str| {
        server.publish(&format!("  tasks:\n    - name: it\n      {task}\n"));
        server.wait(|server| outcomes(server) == [("it".to_owned(), "failed".to_owned())]);
        server.tasks()[0].2.clone()
    };
    let applied = |task: &str| {
        server.publish(&format!("  tasks:\n    - name: it\n      {task}\n"));
        server.wait(|server| outcomes(server) == [("it".to_owned(), "unchanged".to_owned())]);
    };
    // A value that the kernel rewrites would be endless drift.
    let ports = |value: &str| format!("sysctl: {{name: net.ipv4.ip_local_reserved_ports, value: \"{value}\"}}");
    let message = failed(&ports("8000,8001,8002"));
    assert!(message.contains("the kernel stored 8000-8002 for"), "{message}");
    assert_eq!(server.says(&["ls", "/etc/sysctl.d/"]).matches("towpath").count(), 0);
    applied(&ports("8000-8002"));

    // While a mounted file system is in use, its unit keeps describing it.
    let mount = |device: &str, options: &str| {
        format!("mount: {{path: /srv/m, device: {device}, type: tmpfs, options: [{options}]}}")
    };
    let unit = || server.says(&["cat", "/etc/systemd/system/srv-m.mount"]);
    let mounted = || server.says(&["findmnt", "-no", "SOURCE,OPTIONS", "/srv/m"]);
    applied(&mount("one", "size=1m"));
    // A plain process and not a unit, because systemd would stop a unit before it unmounts.
    server.says(&["sh", "-c", "cd /srv/m && (sleep 98765 >/dev/null 2>&1 &)"]);
    let message = failed(&mount("two", "size=1m"));
    assert!(
        message.contains("srv-m.mount") && unit().contains("What=one") && mounted().starts_with("one"),
        "{message}"
    );
    server.says(&["pkill", "-f", "sleep 98765"]);
    server.wait(|server| outcomes(server) == [("it".to_owned(), "unchanged".to_owned())]);
    assert!(unit().contains("What=two") && mounted().starts_with("two"), "{}", mounted());
    failed(&mount("two", "size=nonsense"));
    assert!(unit().contains("Options=size=1m"), "{}", unit());
    applied(&mount("two", "size=2m"));
    assert!(mounted().contains("size=2048k"), "{}", mounted());
}

#[test]
fn reboot_that_does_not_happen_fails_and_is_repeated() {
    let server = Server::new();
    let boot = || server.says(&["cat", "/proc/sys/kernel/random/boot_id"]);
    let before = boot();
    server.machines.put(0, "/etc/systemd/system/reboot.target", "[Unit]\nDescription=nothing happens\n");
    server.says(&["systemctl", "daemon-reload"]);
    server.publish("  tasks:\n    - name: reboot\n      reboot: {when: always}\n      timeout: 3s\n    - {name: after, file: {path: /after, content: x}}\n");
    let failed = ["reboot failed", "after skipped"].map(|task| task.split_once(' ').unwrap());
    let failed = failed.map(|(name, outcome)| (name.to_owned(), outcome.to_owned()));
    server.wait(|server| outcomes(server) == failed);
    assert_eq!(server.tasks()[0].2, "the node did not reboot within 3 s");
    assert!(!server.machines.root(0).join("after").exists(), "it continued without the reboot");
    server.says(&["rm", "/etc/systemd/system/reboot.target"]);
    server.says(&["systemctl", "daemon-reload"]);
    server.wait(|server| server.reason("Ready") == "Applied");
    assert_ne!(boot(), before);
    assert!(server.machines.root(0).join("after").exists());
}

/// Tasks that use every state module, in a working order. Words in capitals are placeholders for what the servers
/// offer.
const EVERY: &str = r#"  prune: true
  pruneBudget: 100%
  tasks:
    - name: repository
      packageRepository: {name: tests, uris: ["file:/srv/repo"], suites: [./], trusted: true}
    - name: package
      package: {name: probeapp}
    - name: group
      group: {name: webadm, gid: 4242}
    - name: user
      user: {name: web, groups: [webadm], comment: "the web", shell: /bin/sh}
    - name: key
      authorizedKey: {user: web, key: "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl ann", options: 'from="10.0.0.0/8"'}
    - name: rights
      sudoers: {name: web, content: "web ALL=(root) NOPASSWD: /bin/true\n"}
    - name: zone
      timezone: {name: Europe/Berlin}
    - name: called
      hostname: {name: server.example.org}
    - name: file
      file: {path: /etc/every/file, content: "here\n", owner: web}
    - name: line
      line: {path: /etc/every/lines, line: "one"}
    - name: block
      block: {path: /etc/every/lines, block: "two"}
    - name: unit
      unit: {name: every, content: "[Service]\nExecStart=/bin/sleep infinity\n[Install]\nWantedBy=multi-user.target\n"}
    - name: drop-in
      unit: {name: every, dropIn: more, content: "[Service]\nNice=5\n"}
    - name: service
      service: {name: every, state: started, enabled: true}
    - name: setting
      sysctl: {name: net.ipv4.ip_forward, value: "1"}
    - name: mounted
      mount: {path: /srv/every, device: tmpfs, type: tmpfs, options: [size=1m, mode=0750]}
    - name: fetched
      download: {path: /var/cache/every.tar.gz, url: "ARCHIVE", sha256: DIGEST}
    - name: unpacked
      archive: {path: /opt/every, file: /var/cache/every.tar.gz, strip: 1, owner: web}
    - name: checkout
      git: {path: /srv/site, url: "SITE", commit: COMMIT}
    - name: setting of a section
      ini: {path: /etc/every/a.ini, section: one, key: two, value: three}
    - name: value of a map
      json: {path: /etc/every/a.json, key: one.two, value: [3]}
    - name: value of a block
      yaml: {path: /etc/every/a.yaml, key: one.two, value: true}
    - name: value of a table
      toml: {path: /etc/every/a.toml, key: one.two, value: 3}
    - name: program
      custom: {name: swap, source: programs/swapfile.py, params: {path: /swapfile, sizeMiB: 2}}
    - name: command
      command: {argv: [touch, /etc/every/made], creates: /etc/every/made}
"#;

/// Returns the book, after it has prepared the files to fetch.
fn every(server: &Server) -> String {
    let folder = tempfile::tempdir().unwrap();
    let archive = server.https.files().join("every.tar.gz");
    let pack = format!("mkdir -p app/bin && echo text > app/text && tar -czf {} app", archive.display());
    ok(Command::new("sh").args(["-c", &pack]).current_dir(&folder));
    let digest = hex::encode(Sha256::digest(std::fs::read(&archive).unwrap()));
    let site = Repository::new(server.repository.bare.parent().unwrap(), "site");
    site.write("index.html", "page\n");
    let commit = site.publish("one");
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("../repos-example/custom-modules/programs/swapfile.py");
    server.repository.write("programs/swapfile.py", std::fs::read(program).unwrap());
    EVERY
        .replace("ARCHIVE", &server.https.file("every.tar.gz"))
        .replace("DIGEST", &digest)
        .replace("SITE", &server.https.url("site"))
        .replace("COMMIT", &commit)
}

#[test]
fn every_module_checks_without_changes_and_is_in_sync_after_its_run() {
    // A new module needs a task in this book.
    let used: BTreeSet<&str> = EVERY
        .lines()
        .filter_map(|line| line.strip_prefix("      ")?.split_once(": {").map(|(module, _)| module))
        .collect();
    let of_state = modules().filter(|module| module.kind == ModuleKind::State);
    let missing: Vec<&str> =
        of_state.map(|module| module.key).filter(|name| *name != "publish" && !used.contains(name)).collect();
    assert!(missing.is_empty(), "not tested: {missing:?}");

    let server = Server::new();
    // A check that writes anything fails on a read-only file system.
    let every = every(&server);
    server.write(&every);
    let config = "metadata: {apiVersion: v1alpha, kind: Config}\nspec: {node: n0, stateDir: /run/plan, sources: [{name: fleet, url: /srv/git/fleet.git}]}\n";
    server.machines.put(0, "/etc/towpath/plan.yaml", config);
    let line = "mount --bind / / && mount -o remount,ro,bind / && cd / && touch /etc/x 2>/dev/null && exit 9; towpath plan --config /etc/towpath/plan.yaml --source-dir /srv/git/fleet-work --output json";
    let planned = server.machines.exec(0, &["unshare", "-m", "chroot", "/", "sh", "-c", line]);
    let text = String::from_utf8_lossy(&planned.stdout).into_owned();
    let plan: serde_json::Value = serde_json::from_str(&text)
        .unwrap_or_else(|error| panic!("{error}: {text}\n{}", String::from_utf8_lossy(&planned.stderr)));
    for task in plan["tasks"].as_array().unwrap() {
        // The effects of earlier tasks are unknown in a plan.
        let later = ["key", "file", "service", "unpacked", "checkout"].contains(&task["name"].as_str().unwrap());
        assert!(task["action"] != "none" || later, "{plan:#}");
    }

    server.publish(&every);
    let all_unchanged = |server: &Server| {
        let tasks = server.tasks();
        tasks.len() >= 25 && tasks.iter().all(|(_, outcome, _)| outcome == "unchanged")
    };
    server.wait(all_unchanged);
    assert_eq!(server.says(&["hostname"]), "server.example.org");
    assert!(server.says(&["date", "+%Z"]).starts_with("CE"));
    assert!(server.says(&["sudo", "-l", "-U", "web"]).contains("/bin/true"));
    assert_eq!(server.says(&["stat", "-c", "%U %a", "/home/web/.ssh/authorized_keys"]), "web 600");
    assert_eq!(server.says(&["systemctl", "show", "-P", "Nice", "every"]), "5");
    assert_eq!(server.says(&["cat", "/proc/sys/net/ipv4/ip_forward"]), "1");
    assert_eq!(server.says(&["findmnt", "-no", "FSTYPE", "/srv/every"]), "tmpfs");
    assert_eq!(server.says(&["stat", "-c", "%U", "/opt/every/text"]), "web");
    assert_eq!(server.says(&["cat", "/srv/site/index.html"]), "page");

    server.publish("  prune: true\n  pruneBudget: 100%\n  tasks: []\n");
    server.wait(|server| server.says(&["hostname"]) == "n0" && server.says(&["id", "web"]).is_empty());
    server.wait(|server| server.tasks().iter().all(|(_, outcome, _)| outcome != "failed"));
    for gone in [
        "etc/sudoers.d/web",
        "etc/apt/sources.list.d/tests.sources",
        "etc/systemd/system/every.service",
        "etc/systemd/system/every.service.d/more.conf",
        "etc/every/file",
        "etc/sysctl.d/60-towpath-net.ipv4.ip_forward.conf",
        "etc/systemd/system/srv-every.mount",
        "var/cache/every.tar.gz",
        "opt/every",
        "srv/site",
    ] {
        assert!(!server.machines.root(0).join(gone).exists(), "{gone} is still there\n{}", server.shown());
    }

    assert_eq!(server.says(&["cat", "/proc/sys/net/ipv4/ip_forward"]), "0");
    assert_eq!(server.says(&["findmnt", "-no", "FSTYPE", "/srv/every"]), "");
}

#[test]
fn sudoers_file_that_locks_out_is_never_installed() {
    let server = Server::new();
    server
        .publish("  tasks:\n    - name: rights\n      sudoers: {name: web, content: \"web ALL=(root NOPASSWD\\n\"}\n");
    server.wait(|server| server.tasks().iter().any(|(_, outcome, _)| outcome == "failed"));
    assert!(server.tasks()[0].2.contains("visudo"), "{:?}", server.tasks());
    assert!(!server.machines.root(0).join("etc/sudoers.d/web").exists());
}
