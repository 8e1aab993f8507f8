//! Selects the process that answers the commands `plan`, `render` and `vars`: a running agent, or this process. Without
//! an agent, this process reads the state directory or a working tree.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use clap::Args;
use towpath_coordination::{Accepted, LocalStore, accept::RevisionManifest};
use towpath_host::{FsReader, SystemClock, facts, lock::StateDir};
use towpath_render::{document::plain_value, problem::Problem};
use towpath_state::Journal;

use super::{exit::Failure, output, working_tree};
use crate::{
    config::{self, ConfigError, Settings},
    events::Events,
    node::{Node, Options},
    reconcile::{Revision, pass::HostContext},
    serve::Client,
    status::{OtherNode, Queries, StatusSnapshot},
};

/// The arguments that select the source of the objects.
#[derive(Debug, Args)]
pub(super) struct SourceArgs {
    /// The node's bootstrap file
    #[arg(long, default_value = "/etc/towpath/agent.yaml")]
    pub(super) config: PathBuf,
    /// Use a working tree instead of the accepted revision
    #[arg(long)]
    pub(super) source_dir: Option<PathBuf>,
    /// The working tree of an additional source
    #[arg(long = "source", value_name = "NAME=DIR")]
    pub(super) sources: Vec<String>,
}

/// Another node, for which the objects are rendered.
#[derive(Debug, Args)]
pub(super) struct AsNode {
    /// Render as another node. Requires --facts
    #[arg(long, requires = "facts")]
    node: Option<String>,
    /// The file with the facts of the other node as YAML or JSON, printed by `towpath facts` on that node
    #[arg(long, requires = "node", value_name = "FILE")]
    facts: Option<PathBuf>,
}

impl AsNode {
    /// Reads the facts of the other node from the given file. Returns `None` if no node is given.
    pub(super) fn read(&self) -> Result<Option<OtherNode>, Failure> {
        let (Some(name), Some(file)) = (&self.node, &self.facts) else { return Ok(None) };
        let shown = file.display();
        let bytes = config::read(file).map_err(|error| match error {
            ConfigError::Unreadable { source, .. } => {
                Failure::failed(format!("cannot read the facts in {shown}: {source}"))
                    .hint("write the file with `towpath facts -o json` on that node")
            }
            invalid @ ConfigError::Invalid(_) => invalid.into(),
        })?;
        let text = String::from_utf8_lossy(&bytes);
        let facts = plain_value(&text).map_err(|error| Failure::invalid(format!("cannot read {shown}: {error}")))?;
        if !facts.is_object() {
            return Err(Failure::invalid(format!("cannot use {shown}: facts must be a map")));
        }
        Ok(Some(OtherNode { name: name.clone(), facts }))
    }
}

/// The process that answers a command.
pub(super) enum Responder {
    /// The agent that holds the lock of the state directory.
    Agent(Client),
    /// This process answers, because no agent is available.
    Local(Box<LocalAnswer>),
}

/// The data that this process uses to answer a command.
pub(super) struct LocalAnswer {
    pub(super) queries: Queries,
    pub(super) revision: Option<Arc<Revision>>,
    _node: Option<Node>,
    /// The lock of the state directory. This process holds the lock while it reads the journal.
    _state: Option<StateDir>,
}

impl SourceArgs {
    /// Selects the process that answers the command.
    pub(super) async fn responder(&self, node: Option<&str>) -> Result<Responder, Failure> {
        if let Some(folder) = &self.source_dir {
            return self.working_tree(folder, node).map(|local| Responder::Local(Box::new(local)));
        }
        self.accepted().await
    }

    /// Selects the process that answers a command about the accepted revision, even if a working tree is given.
    pub(super) async fn accepted(&self) -> Result<Responder, Failure> {
        let settings = self.settings()?;
        match Client::connect(&settings.socket).await {
            Ok(client) => Ok(Responder::Agent(client)),
            Err(_) => {
                let mut node = Node::open(Options {
                    settings,
                    store: Arc::new(LocalStore::default()),
                    clock: Arc::new(SystemClock),
                    // No certificate is needed, because other nodes are not queried.
                    credentials: None,
                })?;
                node.load_last_good();
                let queries = node.queries();
                Ok(Responder::Local(Box::new(LocalAnswer { revision: None, queries, _node: Some(node), _state: None })))
            }
        }
    }

    fn settings(&self) -> Result<Settings, Failure> {
        Ok(config::load(&self.config, &facts::host_name())?)
    }

    fn working_tree(&self, folder: &Path, node: Option<&str>) -> Result<LocalAnswer, Failure> {
        let settings = if self.config.exists() { Some(self.settings()?) } else { None };
        let first = settings
            .as_ref()
            .and_then(|settings| settings.sources.first())
            .map_or("first", |source| source.git.name.as_str());
        let given = node;
        let node = given
            .map(str::to_owned)
            .or_else(|| settings.as_ref().map(|settings| settings.node.clone()))
            .unwrap_or_else(facts::host_name);
        let loaded = working_tree::load_folders(first, folder, &self.sources)?;
        if !loaded.errors.is_empty() {
            return Err(Failure::invalid(report(&loaded.errors)));
        }
        if let Some(given) = given.filter(|given| !loaded.set.all_nodes().contains(*given)) {
            return Err(Failure::failed(format!("there is no node {given} in {}", folder.display())));
        }
        let revision =
            Arc::new(Revision::new(Accepted::default(), RevisionManifest::default(), Arc::new(loaded.set), &node));
        let root = settings.as_ref().map_or_else(|| PathBuf::from("/"), |settings| settings.root.clone());
        let reader = FsReader::at(&root).map_err(|error| Failure::error(&error))?;
        let state = settings.as_ref().filter(|_| given.is_none()).and_then(own_state);
        let (state, journal, digest_key) = match state {
            Some((state, journal, key)) => (Some(state), Some(journal), key),
            None => (None, None, [0; 32]),
        };
        let machine = Arc::new(HostContext::new(
            node.clone(),
            reader,
            journal,
            Arc::new(SystemClock),
            digest_key,
            Arc::default(),
        ));
        let facts_d = self.config.parent().map(|folder| folder.join("facts.d")).into_iter().collect();
        let facts = facts::Options { facts_d, ..facts::Options::default() };
        let reconcile = settings.as_ref().map(|settings| settings.reconcile).unwrap_or_default();
        // Without a bootstrap file, the data store of the node is not known.
        let shares_store = settings.as_ref().is_none_or(Settings::coordinated);
        let cluster = settings.map_or_else(|| "default".to_owned(), |settings| settings.cluster);
        let status = StatusSnapshot::new(node.clone(), cluster, Events::new(node, None));
        let queries = Queries::of_plan(status, machine, facts, reconcile, shares_store);
        Ok(LocalAnswer { queries, revision: Some(revision), _node: None, _state: state })
    }
}

/// Opens the journal, which lists the items that the agent manages on this node. Returns `None` if an agent holds the
/// lock, or if there is no journal.
fn own_state(settings: &Settings) -> Option<(StateDir, Arc<Journal>, [u8; 32])> {
    if !settings.state_dir.exists() {
        return None;
    }
    let state = StateDir::take(&settings.state_dir, &settings.node).ok()?;
    let journal = Journal::open_existing(state.path()).ok()??;
    let key = journal.digest_key().ok()?;
    Some((state, Arc::new(journal), key))
}

/// Returns the number of problems, and the text of each problem.
fn report(problems: &[Problem]) -> String {
    let shown = problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    format!("the objects have {} mistake(s):\n{shown}", problems.len())
}

/// Parses the JSON text that an agent sent.
pub(super) fn parsed(text: &str) -> Result<serde_json::Value, Failure> {
    serde_json::from_str(text).map_err(|error| Failure::error(&error))
}

/// Prints a note if the answer is about a working tree instead of the accepted revision.
pub(super) fn note_working_tree(folder: Option<&PathBuf>) {
    if let Some(folder) = folder {
        output::progress(&format!("from the working tree {}", folder.display()));
    }
}
