//! `towpath demo`: three nodes in this process, which share one store and follow a repository in a folder.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::Duration,
};

use clap::Args;
use towpath_coordination::{
    LocalStore, Store,
    store::{
        Page,
        etcd::{EtcdOptions, EtcdStore},
    },
};
use towpath_git as git;
use towpath_host::{
    Clock as _, SystemClock,
    own::files,
    process::{Cancel, Invocation, run},
};

use crate::{
    cli::{exit::Failure, look::status, output, runtime::block_on},
    config::{DataStore, Settings, Source, WrittenReconcile},
    node::{Inbox, Node, Options},
    status::Queries,
};

const NODES: [&str; 3] = ["web1", "web2", "web3"];
const FILES: [(&str, &str); 3] = [
    ("fleet.yaml", include_str!("../../../../repos-example/quickstart/fleet.yaml")),
    ("hello.yaml", include_str!("../../../../repos-example/quickstart/hello.yaml")),
    ("templates/hello.txt.j2", include_str!("../../../../repos-example/quickstart/templates/hello.txt.j2")),
];
/// The time limit for all nodes to apply a pushed commit.
const APPLY_TIMEOUT: Duration = Duration::from_secs(60);

/// Shows a fleet of three nodes on this machine.
#[derive(Debug, Args)]
pub(in crate::cli) struct Demo {
    /// Push a commit, show that all three nodes apply the commit, and exit
    #[arg(long)]
    once: bool,
    /// The etcd of the nodes. Default: a store in this process
    #[arg(long, value_name = "ENDPOINT")]
    etcd: Option<String>,
    /// The folder of the demo. Default: a new temporary folder
    #[arg(long)]
    dir: Option<PathBuf>,
}

struct Fleet {
    folder: PathBuf,
    nodes: Vec<(Queries, Inbox, thread::JoinHandle<()>)>,
}

impl Demo {
    pub(in crate::cli) fn run(self) -> Result<u8, Failure> {
        let folder = match &self.dir {
            Some(folder) => folder.clone(),
            None => std::env::temp_dir().join(format!("towpath-demo-{}", std::process::id())),
        };
        files::create_folder(&folder).map_err(|error| Failure::failed(format!("{}: {error}", folder.display())))?;
        make_repository(&folder)?;
        let fleet = Fleet::start(&folder, self.store()?)?;
        let result = self.show(&fleet);
        fleet.stop();
        if self.once && self.dir.is_none() {
            // An error is ignored, because leftovers in the temporary folder are harmless.
            let _ = files::remove_folder(&folder);
        }
        result
    }

    /// Opens the data store of the demo. Each demo uses a separate key prefix in the data store.
    fn store(&self) -> Result<Arc<dyn Store>, Failure> {
        let Some(endpoint) = &self.etcd else { return Ok(Arc::new(LocalStore::default())) };
        let endpoint = if endpoint.contains("://") { endpoint.clone() } else { format!("http://{endpoint}") };
        let options = EtcdOptions {
            endpoints: vec![endpoint],
            prefix: format!("/towpath/demo-{}/", SystemClock.wall()),
            ..EtcdOptions::default()
        };
        let store = EtcdStore::new(options).map_err(|error| Failure::error(&error))?;
        store.read("", &Page { after: None, limit: 1 }).map_err(|error| Failure::error(&error))?;
        Ok(Arc::new(store))
    }

    fn show(&self, fleet: &Fleet) -> Result<u8, Failure> {
        fleet.wait_for(&head(&fleet.folder)?)?;
        output::write(&fleet.shown())?;
        if !self.once {
            output::write(&fleet.instructions())?;
            return fleet.follow();
        }
        let template = fleet.folder.join("work/templates/hello.txt.j2");
        let text = files::read_text(&template).map_err(|error| Failure::error(&error))?;
        files::write_text(&template, &format!("{text}Pulled along by a push.\n"))
            .map_err(|error| Failure::error(&error))?;
        output::write("\npushing a change: one line more in templates/hello.txt.j2\n")?;
        let work = fleet.folder.join("work");
        git_in(&work, &["commit", "-qam", "one line more"])?;
        git_in(&work, &["push", "-q", "origin", "main"])?;
        fleet.wait_for(&head(&fleet.folder)?)?;
        output::write(&fleet.shown())?;
        for node in NODES {
            let file = fleet.folder.join("nodes").join(node).join("etc/hello.txt");
            let text =
                files::read_text(&file).map_err(|error| Failure::failed(format!("{}: {error}", file.display())))?;
            if !text.ends_with("Pulled along by a push.\n") {
                return Err(Failure::failed(format!("{} does not have the new line", file.display())));
            }
        }
        output::write("all three nodes have followed\n")?;
        Ok(0)
    }
}

/// Runs git in a folder, without the name and signing settings of the user.
fn git_in(folder: &Path, arguments: &[&str]) -> Result<String, Failure> {
    let mut argv = vec![
        "git".to_owned(),
        "-c".into(),
        "user.name=Towpath demo".into(),
        "-c".into(),
        "user.email=demo@example.invalid".into(),
        "-c".into(),
        "commit.gpgSign=false".into(),
    ];
    argv.extend(arguments.iter().map(|argument| (*argument).to_owned()));
    let invocation =
        Invocation { argv, cwd: Some(folder.to_owned()), timeout: Some(APPLY_TIMEOUT), ..Invocation::default() };
    let ran = run(&invocation, &Cancel::default()).map_err(|error| {
        Failure::failed(format!("cannot run git: {error}")).hint("the demo pushes with git: install the package git")
    })?;
    if ran.rc != 0 {
        return Err(Failure::failed(format!("git {}: {}", arguments.join(" "), ran.stderr.trim())));
    }
    Ok(ran.stdout)
}

fn make_repository(folder: &Path) -> Result<(), Failure> {
    let work = folder.join("work");
    if work.exists() {
        return Ok(());
    }
    let failed = |error: std::io::Error| Failure::failed(format!("{}: {error}", folder.display()));
    git_in(folder, &["init", "-q", "--bare", "-b", "main", "fleet.git"])?;
    git_in(folder, &["init", "-q", "-b", "main", "work"])?;
    for (path, text) in FILES {
        let file = work.join(path);
        files::write_text(&file, text).map_err(failed)?;
    }
    let remote = folder.join("fleet.git").display().to_string();
    git_in(&work, &["remote", "add", "origin", &remote])?;
    git_in(&work, &["add", "."])?;
    git_in(&work, &["commit", "-qm", "the quickstart example"])?;
    git_in(&work, &["push", "-q", "-u", "origin", "main"])?;
    Ok(())
}

fn head(folder: &Path) -> Result<String, Failure> {
    Ok(git_in(&folder.join("work"), &["rev-parse", "HEAD"])?.trim().to_owned())
}

impl Fleet {
    fn start(folder: &Path, store: Arc<dyn Store>) -> Result<Self, Failure> {
        let mut nodes = Vec::new();
        for name in NODES {
            let mut node = Node::open(Options {
                settings: settings(folder, name),
                store: Arc::clone(&store),
                clock: Arc::new(SystemClock),
                credentials: None,
            })?;
            let (queries, inbox) = (node.queries(), node.inbox());
            nodes.push((queries, inbox, thread::spawn(move || node.run(&|_| {}))));
        }
        Ok(Self { folder: folder.to_owned(), nodes })
    }

    fn stop(self) {
        for (_, inbox, _) in &self.nodes {
            inbox.notify(|work| work.stop = true);
        }
        for (_, _, thread) in self.nodes {
            // A thread that panicked has already printed the message of the panic.
            let _ = thread.join();
        }
    }

    /// Waits until every node has applied a commit.
    fn wait_for(&self, commit: &str) -> Result<(), Failure> {
        let begin = SystemClock.monotonic();
        loop {
            let statuses: Vec<_> = self.nodes.iter().map(|(queries, _, _)| queries.status()).collect();
            let applied = |status: &towpath_proto::v1alpha::NodeStatus| {
                status
                    .last_applied
                    .as_ref()
                    .is_some_and(|applied| applied.commits.values().any(|applied| applied == commit))
            };
            if statuses.iter().all(applied) {
                return Ok(());
            }
            if begin.elapsed() > APPLY_TIMEOUT {
                let messages: Vec<String> = statuses.iter().map(status::text).collect();
                return Err(Failure::failed(format!(
                    "not all nodes applied the commit within {} s:\n{}",
                    APPLY_TIMEOUT.as_secs(),
                    messages.join("\n")
                )));
            }
            thread::sleep(Duration::from_millis(50));
        }
    }

    fn shown(&self) -> String {
        let rows: Vec<Vec<String>> = self
            .nodes
            .iter()
            .map(|(queries, _, _)| {
                let status = queries.status();
                let commit = status
                    .commits
                    .values()
                    .next()
                    .map(|commit| commit[..12.min(commit.len())].to_owned())
                    .unwrap_or_default();
                let file = self.folder.join("nodes").join(&status.node).join("etc/hello.txt");
                let line = files::read_text(&file)
                    .ok()
                    .and_then(|text| text.lines().next().map(str::to_owned))
                    .unwrap_or_default();
                vec![status.node, status.generation.to_string(), commit, line]
            })
            .collect();
        output::table(&["NODE", "GENERATION", "COMMIT", "etc/hello.txt"], &rows)
    }

    fn instructions(&self) -> String {
        let folder = self.folder.display();
        format!(
            "\nThe fleet follows {folder}/fleet.git. Change it:\n\n    cd {folder}/work\n    $EDITOR hello.yaml templates/hello.txt.j2\n    git commit -am 'a change' && git push\n\nThe servers' files are below {folder}/nodes; edit one, and it is corrected. Ctrl-C ends the demo.\n\n"
        )
    }

    /// Prints the state of the fleet after each change, until Ctrl-C.
    fn follow(&self) -> Result<u8, Failure> {
        let stopped = Arc::new(Cancel::default());
        let flag = Arc::clone(&stopped);
        thread::spawn(move || {
            let waited = block_on(tokio::signal::ctrl_c());
            drop(waited);
            flag.cancel();
        });
        let mut last = self.generations();
        while !stopped.is_cancelled() {
            thread::sleep(Duration::from_millis(200));
            let now = self.generations();
            if now != last {
                output::write(&self.shown())?;
                last = now;
            }
        }
        Ok(0)
    }

    fn generations(&self) -> Vec<u64> {
        self.nodes
            .iter()
            .map(|(queries, _, _)| queries.status().last_applied.map_or(0, |applied| applied.generation))
            .collect()
    }
}

fn settings(folder: &Path, name: &str) -> Settings {
    let source = Source {
        git: git::Options {
            name: "fleet".into(),
            url: folder.join("fleet.git").display().to_string(),
            reference: git::Reference::Branch("main".into()),
            path: ".".into(),
            auth: git::Auth::default(),
            verify: git::VerifyOptions::default(),
            allow_rewind: true,
            limits: git::Limits::default(),
        },
        interval: Duration::from_secs(1),
        library: false,
        globals: true,
    };
    Settings {
        api: None,
        tls: None,
        node: name.to_owned(),
        cluster: "demo".into(),
        root: folder.join("nodes").join(name),
        state_dir: folder.join("state").join(name),
        sources: vec![source],
        socket: folder.join("state").join(name).join("api.sock"),
        reconcile: WrittenReconcile { interval: Some(Duration::from_secs(60)), ..WrittenReconcile::default() },
        facts_d: Vec::new(),
        data_store: DataStore::Local,
        revoked: Vec::new(),
        warnings: Vec::new(),
    }
}
