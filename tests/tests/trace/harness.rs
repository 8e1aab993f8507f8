//! Nodes of one process over one repository and one store in memory, which act one after another by a clock that the
//! test moves.

use std::{fs, os::unix::fs::PermissionsExt as _, path::PathBuf, sync::Arc, thread, time::Duration};

use towpath_agent::{
    config,
    node::{Node, Options, RunResult},
};
use towpath_coordination::{
    LocalStore, Store,
    store::{Op, Page, Txn},
};
use towpath_host::{Clock, TestClock, clock::rfc3339};
use towpath_state::Journal;
use towpath_tests::{git::Repository, wait_until};

use crate::recorder::{Recorded, Recorder};

/// The start of each trace: 2026-01-05T12:00:00Z, a Monday.
const BEGIN: i64 = 1_767_614_400_000;

/// The time between two steps, in milliseconds: a view of the store is read again, and an offer is still valid.
const PAUSE: u32 = 2_000;

/// A node, with its store while it runs.
struct Member {
    name: String,
    running: Option<(Node, Arc<Recorded>)>,
}

/// A trace while it is made.
pub struct Trace {
    folder: tempfile::TempDir,
    root: Option<PathBuf>,
    repository: Repository,
    recorder: Arc<Recorder>,
    store: Arc<LocalStore>,
    clock: TestClock,
    members: Vec<Member>,
    /// The value of the row that expired last.
    expired: Option<Vec<u8>>,
}

impl Trace {
    /// Nodes with the names `n1`, `n2` and so on, each with a root of its own.
    pub fn new(count: usize) -> Self {
        Self::with_root(count, None)
    }

    /// The same, with another root for all of them.
    pub fn with_root(count: usize, root: Option<PathBuf>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let recorder = Recorder::new();
        recorder.replace(folder.path().display().to_string(), "<folder>");
        let repository = Repository::new(folder.path(), "fleet");
        let mut objects = String::from(FLEET);
        let members: Vec<Member> =
            (1..=count).map(|number| Member { name: format!("n{number}"), running: None }).collect();
        for Member { name, .. } in &members {
            objects.push_str(&format!("---\nmetadata:\n  apiVersion: v1alpha\n  kind: Node\n  name: {name}\n"));
            objects.push_str("  labels: {role: web}\n");
        }
        repository.write("fleet.yaml", objects);
        let clock = TestClock::at(BEGIN);
        let store = Arc::default();
        let mut trace = Self { folder, root, repository, recorder, store, clock, members, expired: None };
        for index in 0..count {
            trace.open(index);
        }
        trace
    }

    fn say(&self, text: &str) {
        let time = rfc3339(self.clock.wall());
        self.recorder.add(format!("\n== {} {text}\n", &time[11..19]));
    }

    fn folder_of(&self, node: &str) -> PathBuf {
        self.folder.path().join(node)
    }

    /// A path below the root of a node.
    pub fn path(&self, node: &str, path: &str) -> PathBuf {
        let root = self.root.clone().unwrap_or_else(|| self.folder_of(node).join("root"));
        root.join(path.trim_start_matches('/'))
    }

    /// Begins the trace here: drops the blocks so far.
    pub fn begin(&self) {
        self.recorder.forget();
    }

    fn open(&mut self, index: usize) {
        let name = self.members[index].name.clone();
        let folder = self.folder_of(&name);
        fs::create_dir_all(folder.join("root")).unwrap();
        let text = CONFIG
            .replace("NODE", &name)
            .replace("ROOT", &self.path(&name, "").display().to_string())
            .replace("URL", &self.repository.bare.display().to_string())
            .replace("FOLDER", &folder.display().to_string());
        let file = folder.join("agent.yaml");
        fs::write(&file, text).unwrap();
        let settings = config::load(&file, &name).unwrap();
        let store = Arc::new(Recorded::new(&name, Arc::clone(&self.store), Arc::clone(&self.recorder)));
        let clock: Arc<dyn Clock> = Arc::new(self.clock.clone());
        let shared = Arc::clone(&store) as Arc<dyn Store>;
        let node = Node::open(Options { settings, store: shared, clock, credentials: None }).unwrap();
        self.members[index].running = Some((node, store));
    }

    fn stop(&mut self, index: usize) {
        let Some((node, store)) = self.members[index].running.take() else { return };
        drop(node);
        store.close();
        // The threads that watch the store keep the journal open until they have ended.
        for _ in 0..1000 {
            if Arc::strong_count(&store) == 1 {
                return;
            }
            thread::sleep(Duration::from_millis(10));
        }
        panic!("a thread of {} does not end", self.members[index].name);
    }

    /// Ends the only node, and starts it as a new process would, without the state in memory.
    pub fn restart(&mut self) {
        self.say("n1 starts again");
        self.stop(0);
        self.store = Arc::default();
        self.open(0);
    }

    /// Works with the journal of the only node while it does not run.
    pub fn between(&mut self, what: &str, work: impl FnOnce(&Journal)) {
        self.say(what);
        self.stop(0);
        self.store = Arc::default();
        let (journal, damaged) = Journal::open(&self.folder_of("n1").join("state")).unwrap();
        assert_eq!(damaged, None);
        work(&journal);
        drop(journal);
        self.open(0);
    }

    /// Publishes files, which a message describes.
    pub fn publish(&mut self, message: &str, files: &[(&str, &str)]) {
        for (path, text) in files {
            self.repository.write(path, text);
        }
        self.repository.publish(message);
        self.say(&format!("commit: {message}"));
    }

    /// Publishes the removal of a file.
    pub fn remove(&mut self, message: &str, path: &str) {
        fs::remove_file(self.repository.work.join(path)).unwrap();
        self.publish(message, &[]);
    }

    /// Lets time pass.
    pub fn wait(&self, seconds: u32) {
        self.clock.advance(seconds * 1000);
    }

    /// Writes a file of a node, as an administrator would.
    pub fn write(&self, node: &str, path: &str, text: &str) {
        let file = self.path(node, path);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, text).unwrap();
        fs::set_permissions(file, fs::Permissions::from_mode(0o644)).unwrap();
        self.say(&format!("an administrator writes {path} on {node}"));
    }

    /// Removes a file of a node, as an administrator would.
    pub fn delete(&self, node: &str, path: &str) {
        fs::remove_file(self.path(node, path)).unwrap();
        self.say(&format!("an administrator removes {path} on {node}"));
    }

    /// Removes a row of the store, as the end of a lease would.
    pub fn expire(&mut self, key: &str) {
        let rows = self.store.read(key, &Page::default()).unwrap().rows;
        self.expired = rows.into_iter().find(|row| row.key == key).map(|row| row.value);
        assert!(self.expired.is_some(), "{key}");
        self.say(&format!("the lease of {key} ends"));
        self.store.commit(&Txn { then: vec![Op::Delete(key.to_owned())], ..Txn::default() }).unwrap();
    }

    /// Puts back the row that expired last, as its node would.
    pub fn is_back(&mut self, key: &str) {
        self.say(&format!("{key} is back"));
        let put = Op::put(key, self.expired.take().unwrap());
        self.store.commit(&Txn { then: vec![put], ..Txn::default() }).unwrap();
    }

    /// Has a node look, and asks its agent to end once a task has written a file. The task waits for another file, so
    /// that the agent is asked before the task has ended.
    pub fn cut_off(&mut self, name: &str, begun: &str, go: &str) {
        let (begun, go) = (self.path(name, begun), self.path(name, go));
        let inbox = self.node(name).inbox();
        let asks = thread::spawn(move || {
            wait_until(Duration::from_secs(30), || begun.exists(), || "the task does not begin".to_owned());
            inbox.notify(|work| work.stop = true);
            fs::write(go, "x").unwrap();
        });
        self.looks(&[name]);
        asks.join().unwrap();
        self.node(name).inbox().take(Duration::ZERO);
    }

    /// Returns a node that runs.
    pub fn node(&mut self, name: &str) -> &mut Node {
        let member = self.members.iter_mut().find(|member| member.name == name).unwrap();
        &mut member.running.as_mut().unwrap().0
    }

    /// Has nodes look at the sources and make a pass, one after another.
    pub fn looks(&mut self, nodes: &[&str]) {
        for name in nodes {
            self.clock.advance(PAUSE);
            self.say(&format!("{name} looks"));
            let node = self.node(name);
            let looked = node.refresh_and_propose();
            assert_ne!(looked, RunResult::Rejected, "{name} rejects the commit");
            let passed = node.pass();
            self.ended(name, &format!("looked {looked:?}, passed {passed:?}"));
        }
    }

    /// Has the only node run as `towpath agent --once` does.
    pub fn once(&mut self) {
        self.clock.advance(PAUSE);
        self.say("n1 runs once");
        let ended = self.node("n1").once();
        self.ended("n1", &format!("ended {ended:?}"));
    }

    /// Records the outcomes and conditions of a node.
    fn ended(&mut self, name: &str, how: &str) {
        let status = self.node(name).queries().status();
        let mut block = format!("{name} {how}\n");
        for book in &status.task_books {
            block.push_str(&format!("    book {}/{} {}\n", book.namespace, book.name, book.outcome));
            for task in &book.tasks {
                let message = task.message.as_ref().map(|message| format!(": {message}")).unwrap_or_default();
                block.push_str(&format!("    outcome {} ({}) {}{message}\n", task.name, task.module, task.outcome));
            }
        }
        for condition in &status.conditions {
            let (kind, reason, message) = (&condition.r#type, &condition.reason, &condition.message);
            block.push_str(&format!("    condition {kind}={} {reason}: {message}\n", condition.status));
        }
        self.recorder.add(block);
    }

    /// Records a file of each node.
    pub fn shows(&self, path: &str) {
        let read = |member: &Member| {
            let text = fs::read_to_string(self.path(&member.name, path));
            let text = text.map_or_else(|_| "nothing".to_owned(), |text| format!("{text:?}"));
            format!("{} has {path}: {text}\n", member.name)
        };
        self.recorder.add(self.members.iter().map(read).collect::<String>());
    }

    /// Compares the trace with its snapshot.
    pub fn ends(mut self, name: &str) {
        for index in 0..self.members.len() {
            self.stop(index);
        }
        let mut settings = insta::Settings::clone_current();
        settings.set_snapshot_path("../snapshots/trace");
        settings.set_prepend_module_to_snapshot(false);
        settings.set_omit_expression(true);
        settings.bind(|| insta::assert_snapshot!(name, self.recorder.text()));
    }
}

/// The objects that each repository begins with.
const FLEET: &str = "\
metadata:
  apiVersion: v1alpha
  kind: Namespace
  name: app
---
metadata:
  apiVersion: v1alpha
  kind: NodeGroup
  name: web
spec:
  selector: role=web
";

const CONFIG: &str = "\
metadata:
  apiVersion: v1alpha
  kind: Config
spec:
  node: NODE
  root: ROOT
  stateDir: FOLDER/state
  listen: {socket: FOLDER/api.sock}
  sources:
    - name: fleet
      url: URL
";
