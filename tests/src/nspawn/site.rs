//! A fleet on real machines: the agent is a service of each, etcd and git run in the hub.

use std::{
    fs,
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

use serde_json::Value;

use crate::{
    Running,
    etcd::Etcd,
    git::Repository,
    nspawn::{HUB, NspawnHosts},
    ok, output, towpath, wait_until,
};

/// The unit that administrators install.
pub(crate) const UNIT: &str = include_str!("../../../deploy/systemd/towpath.service");

/// A fleet on real machines; `n0` is the first.
#[derive(Debug)]
pub struct NspawnFleet {
    /// The state repository.
    pub repository: Repository,
    /// The data store.
    pub etcd: Etcd,
    count: usize,
    _git: Running,
    /// The machines. They end before what they talk to.
    pub machines: NspawnHosts,
    _folder: tempfile::TempDir,
}

impl NspawnFleet {
    /// Machines with an agent each that have applied a first book.
    pub fn new(count: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let program = PathBuf::from(towpath().get_program());
        let machines = NspawnHosts::start(count, &[(&program, "/usr/bin/towpath")]);
        let etcd = Etcd::elsewhere(folder.path(), HUB, &machines.hub(&[]));
        let repository = Repository::new(folder.path(), "fleet");
        let mut git = machines.hub(&["git", "daemon", "--export-all", "--reuseaddr", &format!("--listen={HUB}")]);
        git.arg(format!("--base-path={}", folder.path().display()));
        let git = Running::start(&git, Stdio::null(), Stdio::null());
        let pki = folder.path().join("pki");
        ok(towpath().args(["pki", "init", "--dir"]).arg(&pki));
        let mut objects = String::from(
            "metadata: {apiVersion: v1alpha, kind: Namespace, name: app}
---
metadata: {apiVersion: v1alpha, kind: NodeGroup, name: web}
spec: {selector: tier=web}
",
        );
        for number in 0..count {
            objects.push_str(&format!(
                "---\nmetadata: {{apiVersion: v1alpha, kind: Node, name: n{number}, labels: {{tier: web}}}}\nspec: {{address: {}}}\n",
                machines.address(number)
            ));
        }
        repository.write("fleet.yaml", objects);
        repository.write(
            "base.yaml",
            "metadata: {apiVersion: v1alpha, kind: TaskBook, name: base, namespace: app}
spec:
  targets: {nodeGroups: [web]}
  tasks:
    - name: base
      file: {path: /etc/base, content: base}
",
        );
        let head = repository.publish("first");
        let bare = repository.bare.file_name().unwrap().to_string_lossy().into_owned();
        for number in 0..count {
            let name = format!("n{number}");
            ok(towpath().args(["pki", "issue", &name, "--address", &machines.address(number), "--dir"]).arg(&pki));
            for (from, to) in
                [("ca.crt", "ca.crt"), (&format!("{name}.crt"), "node.crt"), (&format!("{name}.key"), "node.key")]
            {
                machines.put(number, &format!("/etc/towpath/{to}"), fs::read(pki.join(from)).unwrap());
            }
            machines.put(
                number,
                "/etc/towpath/agent.yaml",
                format!(
                    "metadata: {{apiVersion: v1alpha, kind: Config}}
spec:
  node: {name}
  sources: [{{name: fleet, url: \"git://{HUB}/{bare}\", interval: 1s}}]
  dataStore: {{type: etcd, endpoints: [\"http://{HUB}:2379\"]}}
  listen: {{api: \"0.0.0.0:7443\"}}
  tls: {{caFile: /etc/towpath/ca.crt, certFile: /etc/towpath/node.crt, keyFile: /etc/towpath/node.key}}
  reconcile: {{interval: 5s}}
",
                ),
            );
            machines.put(number, "/etc/systemd/system/towpath.service", UNIT);
            ok(&mut machines.command(number, &["systemctl", "enable", "--now", "--no-block", "towpath"]));
        }
        let site = Self { repository, etcd, count, _git: git, machines, _folder: folder };
        site.wait_for(&head, 60);
        site
    }

    /// Asks the agent of a machine, for JSON.
    pub fn ask(&self, number: usize, what: &[&str]) -> Option<Value> {
        let socket = self.machines.try_live(number)?.join("run/towpath/api.sock");
        let output = output(towpath().args(what).arg("--socket").arg(socket).args(["--output", "json"]));
        serde_json::from_slice(&output.stdout).ok().filter(|_| output.status.success())
    }

    /// Returns whether a machine has applied a commit.
    pub fn applied(&self, number: usize, head: &str) -> bool {
        self.ask(number, &["status"]).is_some_and(|status| status["lastApplied"]["commits"]["fleet"] == head)
    }

    /// Waits until all machines have applied a commit.
    pub fn wait_for(&self, head: &str, seconds: u64) {
        self.wait(seconds, |site| (0..site.count).all(|number| site.applied(number, head)));
    }

    /// Waits until something holds.
    pub fn wait(&self, seconds: u64, holds: impl Fn(&Self) -> bool) {
        wait_until(Duration::from_secs(seconds), || holds(self), || self.shown());
    }

    /// Returns the state of one machine as another one sees it.
    pub fn liveness_of(&self, of: usize, about: usize) -> Value {
        let nodes = self.ask(of, &["nodes"]).unwrap_or_default();
        let name = format!("n{about}");
        let found = nodes.as_array().and_then(|nodes| nodes.iter().find(|node| node["name"] == name.as_str()).cloned());
        found.unwrap_or_default()
    }

    /// The lines that tasks of a machine have written to /var/tmp/happened.
    pub fn happened(&self, number: usize) -> Vec<String> {
        let file = self.machines.root(number).join("var/tmp/happened");
        fs::read_to_string(file).unwrap_or_default().lines().map(str::to_owned).collect()
    }

    /// Returns the status and logs of all machines, for a test that fails.
    pub fn shown(&self) -> String {
        let machine = |number: usize| {
            let status = self.ask(number, &["status"]).unwrap_or_default();
            let log = match self.machines.try_live(number) {
                Some(_) => {
                    let mut journal: Command = self
                        .machines
                        .command(number, &["journalctl", "-u", "towpath", "-n", "25", "--no-pager", "-o", "cat"]);
                    String::from_utf8_lossy(&output(&mut journal).stdout).into_owned()
                }
                None => "it is off".into(),
            };
            format!("n{number}: {}\n{:?}\n{log}\n", status["conditions"], self.happened(number))
        };
        (0..self.count).map(machine).collect()
    }
}
