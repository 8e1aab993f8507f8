//! One real machine with the agent as its service, no data store, and a repository of packages of its own.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::{
    git::{Repository, gpg_agent},
    git_servers::Https,
    image,
    nspawn::{HUB, NspawnHosts},
    ok, output,
    site::UNIT,
    towpath, wait_until,
};

/// A machine, its state repository and its packages.
#[derive(Debug)]
pub struct Server {
    /// The key that its packages are signed with, in ASCII armour.
    pub key: String,
    /// The repository of its packages.
    pub packages: PathBuf,
    /// The state repository.
    pub repository: Repository,
    /// Files and repositories over https, which the machine trusts.
    pub https: Https,
    /// The machine, alone in its fleet.
    pub machines: NspawnHosts,
    _folder: tempfile::TempDir,
}

/// Makes a package: its name, its version, the work of its script after the installation.
fn package(folder: &Path, name: &str, version: &str, script: &str) {
    package_with(folder, name, version, script, "");
}

/// Makes a package with further fields.
fn package_with(folder: &Path, name: &str, version: &str, script: &str, fields: &str) {
    let tree = tempfile::tempdir().unwrap();
    let write = |path: &str, text: String| {
        let file = tree.path().join(path);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, text).unwrap();
    };
    write(
        "DEBIAN/control",
        format!(
            "Package: {name}\nVersion: {version}\nArchitecture: all\nMaintainer: t <t@example.invalid>\nDescription: for tests\n{fields}"
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

/// The distribution's own nginx, fetched once.
fn nginx(packages: &Path) {
    let kept = image::cache().join("nginx");
    let _one_at_a_time = image::lock(&image::cache().join("nginx.lock"));
    let found = || fs::read_dir(&kept).into_iter().flatten().flatten().map(|entry| entry.path()).collect::<Vec<_>>();
    if found().len() < 2 {
        fs::create_dir_all(&kept).unwrap();
        ok(Command::new("apt-get")
            .args(["-qq", "-o", "APT::Sandbox::User=root", "download", "nginx", "nginx-common"])
            .current_dir(&kept));
    }
    for file in found() {
        fs::copy(&file, packages.join(file.file_name().unwrap())).unwrap();
    }
}

/// Signs a repository, and gives the key.
fn sign(packages: &Path, folder: &Path) -> String {
    let home = folder.join("gnupg");
    fs::create_dir_all(&home).unwrap();
    let _agent = gpg_agent(&home);
    let gpg = || {
        let mut gpg = Command::new("gpg");
        gpg.arg("--homedir").arg(&home).args(["--batch", "--yes", "--quiet", "--passphrase", ""]);
        gpg
    };
    ok(gpg().args(["--quick-generate-key", "packages@example.invalid", "ed25519", "sign", "never"]));
    let index = fs::read(packages.join("Packages")).unwrap();
    let date = String::from_utf8(ok(Command::new("date").args(["-Ru"])).stdout).unwrap();
    let digest = hex::encode(Sha256::digest(&index));
    let release = format!("Date: {}\nSHA256:\n {digest} {} Packages\n", date.trim(), index.len());
    fs::write(packages.join("Release"), release).unwrap();
    ok(gpg().args(["--clearsign", "--output", "InRelease", "Release"]).current_dir(packages));
    let key = ok(gpg().args(["--armor", "--export"])).stdout;
    String::from_utf8(key).unwrap()
}

/// A signed repository: a package in two versions, one whose script fails, some whose script takes its time, and nginx.
fn packages(folder: &Path) -> (PathBuf, String) {
    let packages = folder.join("packages");
    fs::create_dir_all(&packages).unwrap();
    package(&packages, "probeapp", "1.0", "exit 0");
    package(&packages, "probeapp", "2.0", "exit 0");
    package(&packages, "probebroken", "1.0", "echo the script of probebroken gives up >&2; exit 7");
    package(&packages, "probeslow", "1.0", "sleep 6");
    package(&packages, "probelong", "1.0", "sleep 14");
    package(&packages, "probebase", "1.0", "exit 0");
    package(&packages, "probemore", "1.0", "exit 0");
    package_with(&packages, "proberival", "1.0", "exit 0", "Conflicts: probebase\nReplaces: probebase\n");
    package_with(&packages, "probeneeds", "1.0", "exit 0", "Depends: probeapp (<< 2.0)\n");
    nginx(&packages);
    let index = ok(Command::new("dpkg-scanpackages").args(["-m", "."]).current_dir(&packages)).stdout;
    fs::write(packages.join("Packages"), index).unwrap();
    let key = sign(&packages, folder);
    (packages, key)
}

impl Server {
    /// Makes a repository for dnf beside that for apt: a package in two versions, one that needs it, and one whose
    /// script fails.
    pub fn rpms(&self) {
        let build = tempfile::tempdir().unwrap();
        let target = self.packages.join("rpm");
        for (name, version, more) in [
            ("probeneeds", "1.0", "Requires: probeapp\n"),
            ("probeapp", "1.0", ""),
            ("probeapp", "2.0", ""),
            ("probebroken", "1.0", "%pre -p <lua>\nerror('the script of probebroken gives up')\n"),
        ] {
            let spec = build.path().join("package.spec");
            let text = format!(
                "Name: {name}\nVersion: {version}\nRelease: 1\nSummary: for tests\nLicense: none\nBuildArch: noarch\n{}%description\nfor tests\n{}%files\n",
                if more.starts_with('%') { "" } else { more },
                if more.starts_with('%') { more } else { "" },
            );
            fs::write(&spec, text).unwrap();
            let define = |name: &str, value: &Path| ["--define".to_owned(), format!("{name} {}", value.display())];
            ok(Command::new("rpmbuild")
                .args(define("_topdir", build.path()))
                .args(define("_rpmdir", &target))
                .arg("-bb")
                .arg(&spec));
        }
        ok(Command::new("createrepo_c").arg("-q").arg(&target));
    }

    /// A machine whose agent has applied a first, empty book.
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let program = PathBuf::from(towpath().get_program());
        let (packages, key) = packages(folder.path());
        let git = folder.path().join("git");
        let repository = Repository::new(&git, "fleet");
        let machines =
            NspawnHosts::start(1, &[(&program, "/usr/bin/towpath"), (&packages, "/srv/repo"), (&git, "/srv/git")]);
        let https = Https::start_at(&folder.path().join("https"), &git, "", HUB, &machines.hub(&[]));
        let authority = fs::read(https.authority.certificate()).unwrap();
        machines.put(0, "/usr/local/share/ca-certificates/tests.crt", authority);
        ok(&mut machines.command(0, &["update-ca-certificates"]));
        repository.write(
            "fleet.yaml",
            format!(
                "metadata: {{apiVersion: v1alpha, kind: Namespace, name: app}}
spec: {{includes: {{allow: [\"https://{HUB}:*\"]}}}}
---
metadata: {{apiVersion: v1alpha, kind: Node, name: n0}}
"
            ),
        );
        machines.put(
            0,
            "/etc/towpath/agent.yaml",
            "metadata: {apiVersion: v1alpha, kind: Config}
spec:
  node: n0
  sources: [{name: fleet, url: /srv/git/fleet.git, interval: 1s}]
  reconcile: {interval: 5s}
",
        );
        machines.put(0, "/etc/systemd/system/towpath.service", UNIT);
        let server = Self { key, packages, repository, https, machines, _folder: folder };
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

    /// Publishes repos-example/single-server, with the packages of the test instead of the distribution's.
    pub fn publish_single_server(&self) -> String {
        let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../repos-example/single-server");
        ok(Command::new("cp").arg("-r").arg(example.join(".")).arg(&self.repository.work));
        for name in ["fleet.yaml", "server.yaml"] {
            let text = fs::read_to_string(example.join(name)).unwrap();
            let text = text.replace("kind: Node, name: server", "kind: Node, name: n0");
            self.repository.write(name, text.replace("nodes: [server]", "nodes: [n0]"));
        }
        let _ = fs::remove_file(self.repository.work.join("web.yaml"));
        let key: String = self.key.lines().map(|line| format!("        {line}\n")).collect();
        self.repository.write(
            "here.yaml",
            format!(
                "metadata: {{apiVersion: v1alpha, kind: Variables, name: here, namespace: web}}
spec:
  priority: 10
  values:
    packages:
      uri: file:/srv/repo
      suite: ./
      components: []
      key: |
{key}"
            ),
        );
        // Only what the example says itself is believed.
        self.machines.put(0, "/etc/apt/sources.list", "");
        self.repository.publish("the example")
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

    /// Returns the names and outcomes of the tasks in the last run of the book that changed something.
    pub fn last_change(&self) -> Vec<(String, String)> {
        let Some(live) = self.machines.try_live(0) else { return Vec::new() };
        let socket = live.join("run/towpath/api.sock");
        let output = output(towpath().arg("runs").arg("--socket").arg(socket).args(["--output", "json"]));
        let runs: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let tasks = runs.first().and_then(|run| run["tasks"].as_array().cloned()).unwrap_or_default();
        tasks.iter().map(|task| (text(&task["name"]), text(&task["outcome"]))).collect()
    }

    /// Returns the output of a command on the machine.
    pub fn says(&self, command: &[&str]) -> String {
        let output = self.machines.exec(0, command);
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// Returns the status and the end of the log, for a test that fails.
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
