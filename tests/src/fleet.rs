//! A fleet: agents as processes of their own, over one real etcd and one repository.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use crate::{
    Running,
    etcd::Etcd,
    git::{Repository, SshSigner},
    git_servers::free_port,
    node::{Node, Secured},
    ok, towpath, wait_until,
};

/// A fleet: agents as processes, over one etcd and one repository.
#[derive(Debug)]
pub struct Fleet {
    /// Everything of it.
    pub folder: tempfile::TempDir,
    /// The data store.
    pub etcd: Etcd,
    /// The state repository.
    pub repository: Repository,
    /// The signer of the commits, where the nodes require one.
    pub signer: Option<SshSigner>,
    /// The nodes, n0 first.
    pub nodes: Vec<Node>,
    /// Their agents; `None` for a dead one.
    pub agents: Vec<Option<Running>>,
    /// The agents that have crashed. Commands that they had started run until the test ends.
    crashed: Vec<Running>,
}

impl Fleet {
    /// Starts a fleet, and waits until all nodes have joined and applied a first book.
    pub fn new(count: usize, etcd: impl FnOnce(&Path) -> Etcd) -> Self {
        Self::of(count, etcd, |_| None, false)
    }

    /// The same with certificates, so that the nodes speak to one another.
    pub fn secured(count: usize, etcd: impl FnOnce(&Path) -> Etcd) -> Self {
        Self::of(count, etcd, authority, false)
    }

    /// The same where the head must be signed.
    pub fn signed(count: usize, etcd: impl FnOnce(&Path) -> Etcd) -> Self {
        Self::of(count, etcd, authority, true)
    }

    fn of(
        count: usize,
        etcd: impl FnOnce(&Path) -> Etcd,
        pki: impl FnOnce(&Path) -> Option<PathBuf>,
        signed: bool,
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let signer = signed.then(|| SshSigner::new(folder.path(), "signer"));
        let pki = pki(folder.path());
        let etcd = etcd(folder.path());
        let repository = Repository::new(folder.path(), "fleet");
        let mut objects = String::from("metadata: {apiVersion: v1alpha, kind: Namespace, name: app}\n");
        let mut secured = Vec::new();
        for number in 0..count {
            objects.push_str(&format!(
                "---\nmetadata: {{apiVersion: v1alpha, kind: Node, name: n{number}, labels: {{tier: web}}}}\n"
            ));
            secured.push(pki.as_ref().map(|pki| {
                ok(towpath().args(["pki", "issue", &format!("n{number}"), "--address", "127.0.0.1", "--dir"]).arg(pki));
                let port = free_port();
                objects.push_str(&format!("spec: {{address: \"127.0.0.1:{port}\"}}\n"));
                Secured { port, pki: pki.clone() }
            }));
        }
        objects
            .push_str("---\nmetadata: {apiVersion: v1alpha, kind: NodeGroup, name: web}\nspec: {selector: tier=web}\n");
        repository.write("fleet.yaml", objects);
        repository.write(
            "base.yaml",
            "metadata: {apiVersion: v1alpha, kind: TaskBook, name: base, namespace: app}
spec:
  targets: {nodeGroups: [web]}
  tasks:
    - name: base
      file: {path: /base, content: base}
",
        );
        let mut source = format!("url: {}\n      interval: 1s", repository.bare.display());
        if let Some(signer) = &signer {
            let keys = folder.path().join("signers");
            fs::write(&keys, signer.line("")).unwrap();
            source.push_str(&format!("\n      verify: {{mode: head, keyFiles: [{}]}}", keys.display()));
        }
        publish(&repository, signer.as_ref(), "first");
        let settings = format!("{}  reconcile: {{interval: 5s}}\n", etcd.data_store());
        let nodes = secured
            .into_iter()
            .enumerate()
            .map(|(number, secured)| Node::named(folder.path(), &format!("n{number}"), &source, &settings, secured))
            .collect();
        let mut fleet = Self {
            folder,
            etcd,
            repository,
            signer,
            nodes,
            agents: (0..count).map(|_| None).collect(),
            crashed: Vec::new(),
        };
        for number in 0..count {
            fleet.begin(number);
        }
        let head = fleet.repository.head();
        fleet.wait(60, |fleet| fleet.nodes.iter().all(|node| node.applied(&head)));
        fleet
    }

    /// Starts an agent.
    pub fn begin(&mut self, number: usize) {
        let node = &self.nodes[number];
        let log = fs::OpenOptions::new().create(true).append(true).open(node.folder.join("log")).unwrap();
        let mut command = node.agent();
        command.env("RUST_LOG", "info,towpath_coordination=debug,towpath_coordination::store::etcd::cluster=trace");
        self.agents[number] = Some(Running::start(&command, Stdio::null(), log));
    }

    /// Kills an agent alone, as a crash does. Its commands run on.
    pub fn crash(&mut self, number: usize) {
        if let Some(mut agent) = self.agents[number].take() {
            agent.kill();
            self.crashed.push(agent);
        }
    }

    /// Returns the file that tasks append their actions to.
    pub fn log_file(&self) -> PathBuf {
        self.folder.path().join("happened")
    }

    /// Returns the lines of the tasks, `time word node`, in the order of their times.
    pub fn happened(&self) -> Vec<(u64, String, String)> {
        let text = fs::read_to_string(self.log_file()).unwrap_or_default();
        let mut lines: Vec<(u64, String, String)> = text
            .lines()
            .filter_map(|line| {
                let mut words = line.split(' ');
                Some((words.next()?.parse().ok()?, words.next()?.to_owned(), words.next()?.to_owned()))
            })
            .collect();
        lines.sort();
        lines
    }

    /// Waits until something holds.
    pub fn wait(&self, seconds: u64, holds: impl Fn(&Self) -> bool) {
        wait_until(Duration::from_secs(seconds), || holds(self), || self.shown());
    }

    /// Returns the status of all nodes, for a test that fails, and the threads that the kernel does not let run.
    pub fn shown(&self) -> String {
        let nodes = self.nodes.iter().zip(&self.agents).map(|(node, agent)| {
            let blocked = agent.as_ref().map(|agent| blocked_threads(agent.id())).unwrap_or_default();
            let status = node.ask(&["status"]).unwrap_or_default();
            let log = node.log();
            let last: Vec<&str> = log.lines().rev().take(25).collect();
            format!(
                "{}: {}\nblocked threads: {blocked:?}\n{}\n",
                node.folder.display(),
                status["conditions"],
                last.into_iter().rev().collect::<Vec<_>>().join("\n")
            )
        });
        format!("{:?}\n{}", self.happened(), nodes.collect::<String>())
    }

    /// Publishes the book `web`; gives the commit.
    pub fn publish(&self, book: &str) -> String {
        self.repository.write("web.yaml", book);
        publish(&self.repository, self.signer.as_ref(), "next")
    }

    /// Waits until all nodes have applied a commit.
    pub fn wait_for(&self, head: &str, seconds: u64) {
        self.wait(seconds, |fleet| fleet.nodes.iter().all(|node| node.applied(head)));
    }
}

/// Returns the threads of a process that wait for a disk or another device: the name, and the function of the kernel. Such
/// a thread makes no request, also if its node should.
fn blocked_threads(process: u32) -> Vec<String> {
    let threads = fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten();
    let blocked = threads.filter_map(|thread| {
        let read = |file: &str| fs::read_to_string(thread.path().join(file)).ok();
        let state = read("stat")?.rsplit_once(") ")?.1.chars().next()?;
        (state == 'D')
            .then(|| format!("{} {}", read("comm").unwrap_or_default().trim(), read("wchan").unwrap_or_default()))
    });
    blocked.collect()
}

fn authority(folder: &Path) -> Option<PathBuf> {
    let pki = folder.join("pki");
    ok(towpath().args(["pki", "init", "--dir"]).arg(&pki));
    Some(pki)
}

/// Commits and pushes everything, with a signature if there is a signer.
fn publish(repository: &Repository, signer: Option<&SshSigner>, message: &str) -> String {
    let Some(signer) = signer else { return repository.publish(message) };
    let settings = signer.settings();
    let arguments: Vec<&str> = settings.iter().flat_map(|setting| ["-c", setting.as_str()]).collect();
    let head = repository.commit_with(message, &arguments);
    repository.push();
    head
}
