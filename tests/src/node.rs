//! A node: its configuration, its root, and the agent as a process of its own.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use serde_json::Value;

use crate::{Running, ok, towpath, wait_until};

/// One node below a folder.
#[derive(Debug)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Everything of it.
    pub folder: PathBuf,
    /// The folder that it uses as the root of the machine.
    pub root: PathBuf,
    /// Its state directory.
    pub state: PathBuf,
    /// Its bootstrap file.
    pub config: PathBuf,
    /// Its socket.
    pub socket: PathBuf,
    /// The port for other machines, and the certificate.
    pub secured: Option<Secured>,
}

/// The identity of a node for other machines.
#[derive(Debug, Clone)]
pub struct Secured {
    /// The port that it listens on.
    pub port: u16,
    /// The folder of the authority, which has the node's certificate too.
    pub pki: PathBuf,
}

/// The result of an agent that ran once.
#[derive(Debug)]
pub struct OnceResult {
    /// Its exit status.
    pub code: i32,
    /// Its status.
    pub status: Value,
    /// Its log.
    pub log: String,
}

impl Node {
    /// A node that follows one source; `source` is what stands below the source's name.
    pub fn new(folder: &Path, source: &str) -> Self {
        Self::with(folder, source, "")
    }

    /// A node with further settings.
    pub fn with(folder: &Path, source: &str, settings: &str) -> Self {
        Self::named(folder, "n1", source, settings, None)
    }

    /// A node of some name.
    pub fn named(folder: &Path, name: &str, source: &str, settings: &str, secured: Option<Secured>) -> Self {
        let folder = folder.join(name);
        let node = Self {
            name: name.to_owned(),
            root: folder.join("root"),
            state: folder.join("state"),
            config: folder.join("agent.yaml"),
            socket: folder.join("api.sock"),
            secured,
            folder,
        };
        fs::create_dir_all(&node.root).unwrap();
        node.configure(source, settings);
        node
    }

    /// Writes the bootstrap file again.
    pub fn configure(&self, source: &str, settings: &str) {
        let secured = self.secured.as_ref().map(|Secured { port, pki }| {
            let file = |name: &str| pki.join(name).display().to_string();
            let (ca, cert, key) =
                (file("ca.crt"), file(&format!("{}.crt", self.name)), file(&format!("{}.key", self.name)));
            (
                format!(", api: \"127.0.0.1:{port}\""),
                format!("  tls: {{caFile: {ca}, certFile: {cert}, keyFile: {key}}}\n"),
            )
        });
        let (api, tls) = secured.unwrap_or_default();
        let text = format!(
            "metadata: {{apiVersion: v1alpha, kind: Config}}
spec:
  node: {}
  root: {}
  stateDir: {}
  listen: {{socket: {}{api}}}
{tls}  sources:
    - name: fleet
      {source}
{settings}",
            self.name,
            self.root.display(),
            self.state.display(),
            self.socket.display()
        );
        fs::write(&self.config, text).unwrap();
    }

    /// The agent's command line.
    pub fn agent(&self) -> Command {
        let mut command = towpath();
        command.arg("agent").arg("--config").arg(&self.config);
        command
    }

    /// Runs the agent once.
    pub fn once(&self) -> OnceResult {
        self.once_with(&mut self.agent())
    }

    /// Runs the agent once, through a command that was prepared.
    pub fn once_with(&self, command: &mut Command) -> OnceResult {
        let command = command.args(["--once", "--output", "json"]);
        let output = Running::start(command, Stdio::piped(), Stdio::piped()).output();
        OnceResult {
            code: output.status.code().unwrap_or(-1),
            status: serde_json::from_slice(&output.stdout).unwrap_or(Value::Null),
            log: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Starts the agent, and waits until it answers.
    pub fn start(&self) -> Running {
        self.start_with(&mut self.agent())
    }

    /// Starts the agent through a command that was prepared.
    pub fn start_with(&self, command: &mut Command) -> Running {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.folder.join("log")).unwrap();
        let agent = Running::start(command, Stdio::null(), log);
        wait_until(Duration::from_secs(20), || self.ask(&["status"]).is_some(), || self.log());
        agent
    }

    /// Returns the log of the agent.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    /// Asks the agent, for JSON.
    pub fn ask(&self, arguments: &[&str]) -> Option<Value> {
        let output =
            towpath().args(arguments).arg("--socket").arg(&self.socket).args(["--output", "json"]).output().unwrap();
        serde_json::from_slice(&output.stdout).ok().filter(|_| output.status.success())
    }

    /// The agent's status.
    pub fn status(&self) -> Value {
        self.ask(&["status"]).unwrap_or_else(|| panic!("the agent does not answer:\n{}", self.log()))
    }

    /// Waits until the agent has applied a commit.
    pub fn wait_for(&self, commit: &str) -> Duration {
        wait_until(Duration::from_secs(30), || self.applied(commit), || format!("{:#}\n{}", self.status(), self.log()))
    }

    /// Returns whether the agent has applied a commit.
    pub fn applied(&self, commit: &str) -> bool {
        self.ask(&["status"]).is_some_and(|status| status["lastApplied"]["commits"]["fleet"] == commit)
    }

    /// A file below the node's root.
    pub fn read(&self, path: &str) -> Option<String> {
        fs::read_to_string(self.root.join(path.trim_start_matches('/'))).ok()
    }

    /// Waits until a file has a text.
    pub fn wait_for_file(&self, path: &str, text: &str) -> Duration {
        let shown = || {
            format!("{path} is {:?}\n{:#}\n{}", self.read(path), self.ask(&["status"]).unwrap_or_default(), self.log())
        };
        wait_until(Duration::from_secs(30), || self.read(path).as_deref() == Some(text), shown)
    }
}

/// A condition of a status.
pub fn condition<'a>(status: &'a Value, kind: &str) -> &'a Value {
    status["conditions"].as_array().unwrap().iter().find(|condition| condition["type"] == kind).unwrap()
}

/// The outcome of a task of a status, by its name.
pub fn task<'a>(status: &'a Value, name: &str) -> &'a Value {
    let books = status["taskBooks"].as_array().unwrap();
    let tasks = books.iter().flat_map(|book| book["tasks"].as_array().unwrap());
    let mut found = tasks.filter(|task| task["name"] == name);
    found.next().unwrap_or_else(|| panic!("there is no task {name} in {status:#}"))
}

/// A file that can't be removed, as something is mounted on it.
#[derive(Debug)]
pub struct BusyMount(PathBuf);

impl BusyMount {
    /// Mounts it on itself, until this is dropped.
    pub fn new(file: &Path) -> Self {
        ok(Command::new("mount").arg("--bind").args([file, file]));
        Self(file.to_owned())
    }
}

impl Drop for BusyMount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}
