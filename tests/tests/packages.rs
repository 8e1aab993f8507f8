//! The module `package` on a real machine: PackageKit, apt and dnf, and their failures.

use std::{process::Command, time::Duration};

use towpath_tests::{ok, server::Server};

/// Returns the messages of all tasks of the book.
fn said(server: &Server) -> String {
    server.tasks().into_iter().map(|(_, _, message)| message).collect()
}

fn unchanged(server: &Server) -> bool {
    let tasks = server.tasks();
    !tasks.is_empty() && tasks.iter().all(|(_, outcome, _)| outcome == "unchanged")
}

fn installed(server: &Server, name: &str) -> bool {
    server.says(&["dpkg-query", "-W", "-f", "${db:Status-Status}", name]) == "installed"
}

#[test]
fn packages_are_installed_removed_and_fail_with_reasons() {
    let server = Server::new();
    let package = |task: &str| server.publish(&format!("  tasks:\n    - name: it\n      package: {{{task}}}\n"));
    let version = || server.says(&["dpkg-query", "-W", "-f", "${Version} ${db:Status-Want}", "probeapp"]);
    // PackageKit installs it and quits afterwards. A check does not start PackageKit.
    package("name: probeapp");
    server.wait(|_| version() == "2.0 install");
    server.wait(|server| server.says(&["pgrep", "packagekitd"]).is_empty());
    server.wait(|server| server.tasks().iter().all(|(_, outcome, _)| outcome == "unchanged"));
    assert_eq!(server.says(&["pgrep", "packagekitd"]), "", "who only looks has started PackageKit");
    assert!(
        server.says(&["journalctl", "-u", "packagekit", "-o", "cat"]).contains("install-packages"),
        "not by PackageKit"
    );
    // Configuration files that the administrator has changed stay.
    server.machines.put(0, "/etc/probeapp.conf", "mine\n");
    package("name: probeapp, version: \"1.0\", hold: true");
    server.wait(|_| version() == "1.0 hold");
    let kept = std::fs::read_to_string(server.machines.root(0).join("etc/probeapp.conf")).unwrap();
    assert_eq!(kept, "mine\n");
    let conffile = || std::fs::read_to_string(server.machines.root(0).join("etc/probeapp.conf")).unwrap();
    package("name: probeapp, hold: false, state: latest, backend: packagekit");
    server.wait(|_| version() == "2.0 install");
    assert_eq!(conffile(), "mine\n", "PackageKit has taken it away");
    package("name: probeapp, version: \"1.0\", conffiles: replace");
    server.wait(|_| version() == "1.0 install");
    assert_eq!(conffile(), "version=1.0\n");
    package("name: probeapp, state: latest, backend: apt");
    server.wait(|_| version() == "2.0 install");
    package("name: probeapp, state: absent");
    server.wait(|server| server.says(&["dpkg-query", "-W", "-f", "${db:Status-Status}", "probeapp"]) != "installed");
    for backend in ["packagekit", "apt"] {
        package(&format!("name: nothing-of-that-name, backend: {backend}"));
        server.wait(|server| said(server).contains("nothing-of-that-name"));
    }
    package("name: probebroken, backend: apt");
    server.wait(|server| {
        said(server).contains("the script of probebroken gives up") && server.reason("Stalled") == "TaskFailed"
    });
}

#[test]
fn installation_that_would_remove_or_downgrade_another_package_is_refused_with_its_name() {
    let server = Server::new();
    let package = |task: &str| server.publish(&format!("  tasks:\n    - name: it\n      package: {{{task}}}\n"));
    package("names: [probebase, probeapp]");
    server.wait(|server| installed(server, "probebase") && installed(server, "probeapp"));
    let version = || server.says(&["dpkg-query", "-W", "-f", "${Version}", "probeapp"]);
    for backend in ["packagekit", "apt"] {
        package(&format!("name: proberival, backend: {backend}"));
        server.wait(|server| said(server).contains("remove probebase"));
        package(&format!("name: probeneeds, backend: {backend}"));
        server.wait(|server| said(server).contains("probeapp"));
        assert!(installed(&server, "probebase") && version() == "2.0", "{backend}: {}", server.shown());
        assert!(!installed(&server, "proberival") && !installed(&server, "probeneeds"), "{backend}");
    }
    package("name: proberival, replaces: [probebase], backend: packagekit");
    server.wait(|server| installed(server, "proberival") && !installed(server, "probebase") && unchanged(server));
    package("name: probebase, replaces: [proberival], backend: apt");
    server.wait(|server| installed(server, "probebase") && !installed(server, "proberival") && unchanged(server));
}

#[test]
fn upgrade_that_a_tool_reports_and_does_not_make_fails() {
    let server = Server::new();
    let package = |task: &str| server.publish(&format!("  tasks:\n    - name: it\n      package: {{{task}}}\n"));
    package("name: probeapp, version: \"1.0\"");
    server.wait(|server| installed(server, "probeapp") && unchanged(server));
    // This apt-get takes the place of the real one for the agent, and does nothing.
    server.machines.put(0, "/usr/local/sbin/apt-get", "#!/bin/sh\nexit 0\n");
    ok(&mut server.machines.command(0, &["chmod", "755", "/usr/local/sbin/apt-get"]));
    for state in ["present", "latest"] {
        package(&format!("name: probemore, state: {state}, backend: apt"));
        server.wait(|server| said(server).contains("did not make these changes: install probemore"));
    }
    package("name: probeapp, state: latest, backend: apt");
    server.wait(|server| said(server).contains("did not make these changes: probeapp 1.0 becomes 2.0"));
    server.wait(|server| server.reason("Stalled") == "TaskFailed");
    // The error ends with the cause.
    server.says(&["rm", "/usr/local/sbin/apt-get"]);
    server.wait(|server| server.says(&["dpkg-query", "-W", "-f", "${Version}", "probeapp"]) == "2.0");
    server.wait(unchanged);
}

#[test]
fn killed_packagekit_is_reported_and_the_next_pass_recovers() {
    let server = Server::new();
    server.write("  tasks:\n    - name: it\n      package: {name: probeslow}\n");
    server.repository.publish("slow");
    server.wait(|server| !server.says(&["pgrep", "-f", "probeslow.postinst"]).is_empty());
    ok(&mut server.machines.command(0, &["pkill", "-9", "packagekitd"]));
    server.wait(|server| server.says(&["journalctl", "-u", "towpath", "-o", "cat"]).contains("PackageKit ended"));
    server.wait(|server| {
        let status = server.says(&["dpkg-query", "-W", "-f", "${db:Status-Status}", "probeslow"]);
        status == "installed" && server.tasks().iter().all(|(_, outcome, _)| outcome == "unchanged")
    });
    assert_eq!(server.reason("Ready"), "Applied");
}

#[test]
fn packagekit_that_does_not_answer_is_replaced_by_apt() {
    let server = Server::new();
    ok(&mut server.machines.command(0, &["systemctl", "start", "packagekit"]));
    ok(&mut server.machines.command(0, &["pkill", "-STOP", "packagekitd"]));
    server.publish("  tasks:\n    - name: it\n      package: {name: probeapp}\n      timeout: 15s\n");
    server.wait(|server| installed(server, "probeapp") && unchanged(server));
    assert_eq!(server.reason("Ready"), "Applied");
    // A task that requires PackageKit reports that it does not answer.
    server.publish(
        "  tasks:\n    - name: it\n      package: {name: probemore, backend: packagekit}\n      timeout: 15s\n",
    );
    server.wait(|server| said(server).contains("cannot use PackageKit: it does not answer"));
    ok(&mut server.machines.command(0, &["pkill", "-CONT", "packagekitd"]));
    server.wait(|server| installed(server, "probemore") && unchanged(server));
}

/// Starts another apt. It holds the lock as long as the script of its package runs.
fn another_apt(server: &Server) -> std::process::Child {
    let mut other = server.machines.command(0, &["apt-get", "-y", "-q", "install", "probelong"]);
    let child = other.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().unwrap();
    server.wait(|server| !server.says(&["pgrep", "-f", "probelong.postinst"]).is_empty());
    child
}

#[test]
fn another_apt_is_waited_for_and_named() {
    let server = Server::new();
    ok(&mut server.machines.command(0, &["apt-get", "-q", "update"]));
    let mut other = another_apt(&server);
    server.write("  tasks:\n    - name: it\n      package: {name: probeapp, backend: apt}\n      timeout: 12s\n");
    server.repository.publish("while another apt runs");
    server.wait(|server| said(server).contains("lock"));
    let message = said(&server);
    assert!(message.contains("/var/lib/dpkg/lock-frontend") && message.contains("(apt-get)"), "{message}");
    assert!(other.try_wait().unwrap().is_none(), "the other one has ended before: {message}");
    // After the other apt has ended, the next pass installs the package.
    assert!(other.wait().unwrap().success());
    server.wait(|server| installed(server, "probeapp") && unchanged(server));
    assert_eq!(server.reason("Ready"), "Applied");
    // Tasks with enough time wait.
    let before = server.says(&["journalctl", "-u", "towpath", "-o", "cat"]).matches("ERROR").count();
    ok(&mut server.machines.command(0, &["dpkg", "--purge", "probelong"]));
    let mut other = another_apt(&server);
    let tasks = "    - name: one\n      package: {name: probebase, backend: apt}\n    - name: other\n      package: {name: probemore}\n";
    server.write(&format!("  order: parallel\n  tasks:\n{tasks}"));
    server.repository.publish("with time");
    server.wait(|server| installed(server, "probebase") && installed(server, "probemore") && unchanged(server));
    assert!(other.wait().unwrap().success());
    let log = server.says(&["journalctl", "-u", "towpath", "-o", "cat"]);
    assert_eq!(log.matches("ERROR").count(), before, "a task did not wait: {log}");
}

#[test]
fn adjacent_packages_are_one_transaction_and_each_task_has_its_own_outcome() {
    let server = Server::new();
    let transactions = |what: &str| {
        let log = server.says(&["journalctl", "-u", "packagekit", "-o", "cat"]);
        log.lines().filter(|line| line.contains(what) && line.contains("finished with success")).count()
    };
    let shown = |server: &Server| {
        let status = server.status();
        status["conditions"][1]["message"].as_str().unwrap_or_default().to_owned()
    };
    server.write(
        "  prune: true
  pruneBudget: 100%
  handlers:
    - name: mark
      command: {argv: [touch, /marked]}
  tasks:
    - {name: base, package: {name: probebase}}
    - {name: some, package: {name: '{{ item }}'}, loop: [probemore, probeslow], notify: [mark]}
    - {name: file, file: {path: /after, content: x}}
",
    );
    server.repository.publish("three");
    // Status shows the progress meanwhile.
    server.wait(|server| {
        let shown = shown(server);
        shown.contains("at work: app/web, task base, for ") && shown.contains("installing")
    });
    server.wait(unchanged);
    assert!(!shown(&server).contains("at work"), "{}", shown(&server));
    let changed = |name: &str| (name.to_owned(), "changed".to_owned());
    let tasks = ["base", "some [probemore]", "some [probeslow]", "file", "mark"];
    assert_eq!(server.last_change(), tasks.map(changed));
    // The log of PackageKit names a simulation like a transaction, so there is one of each for the three packages.
    assert_eq!(transactions("install-packages"), 2, "not one simulation and one transaction");
    // The removal is one transaction, too.
    server.publish("  prune: true\n  pruneBudget: 100%\n  tasks: []\n");
    server.wait(|server| ["probebase", "probemore", "probeslow"].iter().all(|name| !installed(server, name)));
    assert_eq!(transactions("remove-packages"), 1, "not one transaction");
}

#[test]
fn one_of_adjacent_packages_that_fails_is_the_failure_of_its_own_task() {
    let server = Server::new();
    let mark = "  handlers: [{name: mark, command: {argv: [touch, /marked]}}]\n";
    let book = |first: &str| {
        format!(
            "{mark}  tasks:\n    - {{name: broken, package: {{name: probebroken, backend: apt}}{first}}}\n    - {{name: more, package: {{name: probemore, backend: apt}}, notify: [mark]}}\n    - {{name: none, package: {{name: nothing-of-that-name, backend: apt}}}}\n"
        )
    };
    let outcomes = |server: &Server| {
        let tasks = server.tasks().into_iter();
        tasks.map(|(name, outcome, _)| format!("{name} {outcome}")).collect::<Vec<_>>().join(", ")
    };
    let marked = || server.machines.root(0).join("marked").exists();
    // The book decides if later tasks run.
    server.publish(&book(""));
    server.wait(|server| outcomes(server) == "broken failed");
    assert!(said(&server).contains("the script of probebroken gives up"), "{}", said(&server));
    assert!(!installed(&server, "probemore"), "it ran after a failed task");
    server.publish(&format!("{mark}  tasks: []\n"));
    server.wait(|server| server.reason("Ready") == "Applied");
    assert!(!marked(), "a task that did not run has notified a handler");
    server.publish(&book(", onFailure: continue"));
    server.wait(|server| outcomes(server) == "broken failed, more unchanged, none failed");
    assert!(installed(&server, "probemore"));
    // A registered loop after packages of which one fails.
    ok(&mut server.machines.command(0, &["dpkg", "--purge", "probemore"]));
    // apt fails because of another package, but the package of this task is installed.
    server.publish("  tasks: [{name: base, package: {name: probebase, backend: apt}}]\n");
    server.wait(|server| outcomes(server) == "base unchanged");
    assert_eq!(server.last_change()[0], ("base".to_owned(), "changed".to_owned()));
    let looped = "    - {name: some, package: {name: '{{ item }}', backend: apt}, loop: [probebase, probeslow], register: some}\n";
    let first = "    - {name: broken, package: {name: probebroken, backend: apt}}\n    - {name: more, package: {name: probemore, backend: apt}}\n";
    server.publish(&format!("  tasks:\n{first}{looped}"));
    server.wait(|server| outcomes(server) == "broken failed, more unchanged");
    // A later task stops the book before the pending packages are applied. They are still applied, because they come
    // first.
    ok(&mut server.machines.command(0, &["dpkg", "--purge", "probemore", "probebroken"]));
    server.publish("  tasks:\n    - {name: more, package: {name: probemore, backend: apt}}\n    - {name: none, package: {name: nothing-of-that-name, backend: apt}}\n    - {name: file, file: {path: /after, content: '{{ 1 // (facts.cpus - facts.cpus) }}'}}\n");
    server.wait(|server| outcomes(server) == "more unchanged, none failed, file failed");
    assert_eq!(server.says(&["systemctl", "show", "-P", "NRestarts", "towpath"]), "0", "the agent has broken off");
}

#[test]
fn package_without_a_network_fails_in_time_and_the_next_pass_recovers() {
    let server = Server::new();
    ok(Command::new("cp").arg("-r").arg(&server.packages).arg(server.https.files().join("repo")));
    server.machines.put(0, "/etc/apt/sources.list", "");
    server.machines.cut(0);
    let uri = server.https.file("repo");
    for backend in ["apt", "auto"] {
        let name = if backend == "apt" { "probeapp" } else { "probemore" };
        server.machines.cut(0);
        server.write(&format!(
            "  tasks:
    - name: repository
      packageRepository: {{name: far, uris: [\"{uri}\"], suites: [./], trusted: true}}
    - name: it
      package: {{name: {name}, backend: {backend}}}
      timeout: 40s
"
        ));
        let begin = std::time::Instant::now();
        server.repository.publish(backend);
        server.wait(|server| server.tasks().iter().any(|(name, outcome, _)| name == "it" && outcome == "failed"));
        let message = said(&server);
        assert!(message.contains(name) || message.contains("10.77.0.1"), "{message}");
        assert!(begin.elapsed() < Duration::from_secs(80), "it took {:?}: {message}", begin.elapsed());
        server.machines.heal(0);
        server.wait(|server| installed(server, name) && unchanged(server));
        server.says(&["rm", "-rf", "/var/lib/apt/lists"]);
    }
    assert_eq!(server.reason("Ready"), "Applied");
}

#[test]
fn dnf_installs_downgrades_and_removes_from_a_repository_of_its_own() {
    let server = Server::new();
    server.rpms();
    let package = |task: &str| {
        server.publish(&format!(
            "  tasks:
    - name: repository
      packageRepository: {{name: tests, baseUrl: \"file:///srv/repo/rpm\", trusted: true}}
    - name: it
      package: {{{task}, backend: dnf}}
"
        ))
    };
    let version = || server.says(&["rpm", "-q", "--qf", "%{VERSION}", "probeapp"]);
    package("name: probeapp, version: \"1.0\"");
    server.wait(|server| version() == "1.0" && unchanged(server));
    package("name: probeapp, state: latest");
    server.wait(|server| version() == "2.0" && unchanged(server));
    package("name: probeapp, version: 1.0-1");
    server.wait(|server| version() == "1.0" && unchanged(server));
    // Dependent packages are not removed unasked.
    ok(&mut server.machines.command(0, &["dnf", "-y", "-q", "install", "probeneeds"]));
    package("name: probeapp, state: absent");
    server.wait(|server| said(server).contains("probeneeds") && server.reason("Stalled") == "TaskFailed");
    assert!(server.says(&["rpm", "-q", "probeneeds"]).starts_with("probeneeds-1.0"), "it went unasked");
    package("names: [probeapp, probeneeds], state: absent");
    server.wait(|server| version().contains("not installed") && unchanged(server));
    package("name: nothing-of-that-name");
    server.wait(|server| said(server).contains("nothing-of-that-name"));
    package("name: probebroken");
    server.wait(|server| said(server).contains("probebroken gives up") && server.reason("Stalled") == "TaskFailed");
    assert!(!installed(&server, "probeapp"), "it went to dpkg");
}
