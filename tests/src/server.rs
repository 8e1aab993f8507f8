//! One real machine with the agent as its service, no data store, and a repository of packages of its own.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use serde_json::Value;

use crate::{git::Repository, machines::Machines, ok, output, site::UNIT, towpath, wait_until};

/// A machine, its state repository and its packages.
#[derive(Debug)]
pub struct Server {
    /// The state repository.
    pub repository: Repository,
    /// The machine, alone in its fleet.
    pub machines: Machines,
    _folder: tempfile::TempDir,
}

/// Makes a package: its name, its version, what its script does behind the installation.
fn package(folder: &Path, name: &str, version: &str, script: &str) {
    let tree = tempfile::tempdir().unwrap();
    let write = |path: &str, text: String| {
        let file = tree.path().join(path);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, text).unwrap();
    };
    write(
        "DEBIAN/control",
        format!(
            "Package: {name}\nVersion: {version}\nArchitecture: all\nMaintainer: t <t@example.invalid>\nDescription: for tests\n"
        ),
    );
    write("DEBIAN/conffiles", format!("/etc/{name}.conf\n"));
    write("DEBIAN/postinst", format!("#!/bin/sh\n{script}\n"));
    write(&format!("etc/{name}.conf"), format!("version={version}\n"));
    ok(Command::new("chmod").arg("755").arg(tree.path().join("DEBIAN/postinst")));
    ok(Command::new("dpkg-deb")
        .args(["--root-owner-group", "-b"])
        .arg(tree.path())
        .arg(folder.join(format!("{name}_{version}_all.deb"))));
}

/// A repository with a package in two versions, one whose script fails, and one whose script takes its time.
fn packages(folder: &Path) -> PathBuf {
    let packages = folder.join("packages");
    fs::create_dir_all(&packages).unwrap();
    package(&packages, "probeapp", "1.0", "exit 0");
    package(&packages, "probeapp", "2.0", "exit 0");
    package(&packages, "probebroken", "1.0", "echo the script of probebroken gives up >&2; exit 7");
    package(&packages, "probeslow", "1.0", "sleep 6");
    let index = ok(Command::new("dpkg-scanpackages").args(["-m", "."]).current_dir(&packages)).stdout;
    fs::write(packages.join("Packages"), index).unwrap();
    packages
}

impl Server {
    /// A machine whose agent has applied a first, empty book.
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let program = PathBuf::from(towpath().get_program());
        let packages = packages(folder.path());
        let git = folder.path().join("git");
        let repository = Repository::new(&git, "fleet");
        let machines =
            Machines::start(1, &[(&program, "/usr/bin/towpath"), (&packages, "/srv/repo"), (&git, "/srv/git")]);
        repository.write(
            "fleet.yaml",
            "metadata: {apiVersion: v1alpha, kind: Namespace, name: app}\n---\nmetadata: {apiVersion: v1alpha, kind: Node, name: n0}\n",
        );
        machines.put(
            0,
            "/etc/towpath/agent.yaml",
            "metadata: {apiVersion: v1alpha, kind: Config}\nspec:\n  node: n0\n  sources: [{name: fleet, url: /srv/git/fleet.git, interval: 1s}]\n  reconcile: {interval: 5s}\n",
        );
        machines.put(0, "/etc/systemd/system/towpath.service", UNIT);
        let server = Self { repository, machines, _folder: folder };
        server.write("");
        let head = server.repository.publish("first");
        ok(&mut server.machines.command(0, &["systemctl", "enable", "--now", "--no-block", "towpath"]));
        server.wait_for(&head);
        server
    }

    /// Writes the book: `rest` is what its spec holds beside the targets.
    pub fn write(&self, rest: &str) {
        let head = "metadata: {apiVersion: v1alpha, kind: TaskBook, name: web, namespace: app}\nspec:\n  targets: {nodes: [n0]}\n";
        self.repository.write("web.yaml", format!("{head}{rest}"));
    }

    /// Publishes the book, and waits until it was tried.
    pub fn publish(&self, rest: &str) -> Value {
        self.write(rest);
        let head = self.repository.publish("next");
        self.wait(|server| server.status()["lastAttempted"]["commits"]["fleet"] == *head);
        // A run that goes on says so.
        self.wait(|server| server.reason("Reconciling") != "Progressing");
        self.status()
    }

    /// Waits until a commit was applied.
    pub fn wait_for(&self, head: &str) {
        self.wait(|server| server.status()["lastApplied"]["commits"]["fleet"] == *head);
    }

    /// Waits until something holds.
    pub fn wait(&self, holds: impl Fn(&Self) -> bool) {
        wait_until(Duration::from_secs(90), || holds(self), || self.shown());
    }

    /// The status of the agent.
    pub fn status(&self) -> Value {
        let Some(live) = self.machines.try_live(0) else { return Value::Null };
        let socket = live.join("run/towpath/api.sock");
        let output = output(towpath().arg("status").arg("--socket").arg(socket).args(["--output", "json"]));
        serde_json::from_slice(&output.stdout).unwrap_or_default()
    }

    /// The reason of a condition.
    pub fn reason(&self, kind: &str) -> String {
        let status = self.status();
        let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
        let found = conditions.into_iter().find(|condition| condition["type"] == kind).unwrap_or_default();
        found["reason"].as_str().unwrap_or_default().to_owned()
    }

    /// The outcomes of the book's tasks by their names, with what there is to say.
    pub fn tasks(&self) -> Vec<(String, String, String)> {
        let status = self.status();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let tasks = status["taskBooks"][0]["tasks"].as_array().cloned().unwrap_or_default();
        tasks.iter().map(|task| (text(&task["name"]), text(&task["outcome"]), text(&task["message"]))).collect()
    }

    /// What a command on the machine says.
    pub fn says(&self, command: &[&str]) -> String {
        let output = self.machines.exec(0, command);
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// How everything is, for a test that fails.
    pub fn shown(&self) -> String {
        let log = self.says(&["journalctl", "-u", "towpath", "-n", "30", "--no-pager", "-o", "cat"]);
        format!("{:#}\n{log}", self.status())
    }
}

impl Default for Server {
    fn default() -> Self {
        Self::new()
    }
}
