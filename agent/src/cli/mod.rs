//! The command line: one file for each command.

mod agent;
mod completions;
mod demo;
mod events;
mod exit;
mod explain;
mod facts;
mod lists;
mod man;
mod output;
mod pki;
mod plan;
mod render;
mod schema;
mod status;
mod terminal;
mod validate;
mod vars;
mod worktree;

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand, ValueEnum};

use exit::Failure;
use towpath_host::identity::TlsFiles;

use crate::serve::{CallError, Client, Remote};

/// A Git-native pull reconciler for plain Linux servers.
#[derive(Debug, Parser)]
#[command(name = "towpath", version, about, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a fleet of three nodes on this machine, with a repository from the quickstart example
    Demo(demo::Demo),
    /// Run the agent
    Agent(agent::Agent),
    /// Show what would change on this node
    Plan(plan::Plan),
    /// Report all mistakes of a state repository
    Validate(validate::Validate),
    /// Show the tasks of a TaskBook as this node renders them
    Render(render::Render),
    /// Show the variables of a node and where they come from
    Vars(vars::Vars),
    /// Show the facts of this node
    Facts(facts::Facts),
    /// Explain a kind or one of its fields, such as TaskBook.spec.tasks.file
    Explain(explain::Explain),
    /// Print the JSON Schema of a kind, or of all kinds
    Schema(schema::Schema),
    /// Show what the agent of this node is doing
    Status(status::Status),
    /// List the nodes that the agent knows
    Nodes(lists::List),
    /// List the objects of the accepted revision
    Objects(lists::List),
    /// List the runs of this node
    Runs(lists::List),
    /// List the rollouts of coordinated TaskBooks
    Rollouts(lists::List),
    /// Show the events of this node
    Events(events::Events),
    /// Create the cluster's certificate authority, and certificates for nodes, viewers and operators
    Pki(pki::Pki),
    /// Print completions for a shell
    Completions(completions::Completions),
    /// Print the manual page
    Man,
    /// Read the data of a git server; the agent starts this
    #[command(hide = true)]
    GitWorker,
}

/// The output format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Text for people
    Text,
    /// One JSON document
    Json,
    /// One YAML document
    Yaml,
}

/// The output options of commands that print data.
#[derive(Debug, Args)]
struct Output {
    /// The output format
    #[arg(long, short, value_enum, default_value = "text")]
    output: Format,
}

/// The address of an agent, and the certificate files for a remote agent.
#[derive(Debug, Args)]
struct Connection {
    /// The socket of the agent
    #[arg(long, default_value = "/run/towpath/api.sock", conflicts_with = "address")]
    socket: PathBuf,
    /// The listen.api address of an agent on another machine
    #[arg(long, value_name = "HOST:PORT", requires_all = ["ca", "cert", "key"])]
    address: Option<String>,
    /// The cluster's certificate authority
    #[arg(long, value_name = "FILE", requires = "address")]
    ca: Option<PathBuf>,
    /// The certificate of the caller; a viewer certificate is sufficient
    #[arg(long, value_name = "FILE", requires = "address")]
    cert: Option<PathBuf>,
    /// The private key of the certificate
    #[arg(long, value_name = "FILE", requires = "address")]
    key: Option<PathBuf>,
}

impl Connection {
    /// Connects to the agent on this machine, or on another machine.
    async fn open(&self) -> Result<Client, CallError> {
        match (&self.address, &self.ca, &self.cert, &self.key) {
            (Some(address), Some(ca), Some(cert), Some(key)) => {
                let tls = TlsFiles { ca: ca.clone(), cert: cert.clone(), key: key.clone() };
                Client::connect_to(&Remote { address: address.clone(), tls }).await
            }
            _ => Client::connect(&self.socket).await,
        }
    }
}

/// Parses the arguments, runs the command and returns its exit status.
pub fn main() -> ExitCode {
    // gix, reqwest and tonic use the cryptography provider that is installed here.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { exit::INVALID } else { 0 });
        }
    };
    if matches!(cli.command, Command::GitWorker) {
        return towpath_git::worker();
    }
    towpath_git::isolate(&["git-worker"]);
    logging(matches!(cli.command, Command::Agent(_)));
    let result = match cli.command {
        Command::Demo(demo) => demo.run(),
        Command::Agent(agent) => agent.run(),
        Command::Plan(plan) => plan.run(),
        Command::Validate(validate) => validate.run(),
        Command::Render(render) => render.run(),
        Command::Vars(vars) => vars.run(),
        Command::Facts(facts) => facts.run(),
        Command::Explain(explain) => explain.run(),
        Command::Schema(schema) => schema.run(),
        Command::Status(status) => status.run(),
        Command::Nodes(list) => list.run(lists::Kind::Nodes),
        Command::Objects(list) => list.run(lists::Kind::Objects),
        Command::Runs(list) => list.run(lists::Kind::Runs),
        Command::Rollouts(list) => list.run(lists::Kind::Rollouts),
        Command::Events(events) => events.run(),
        Command::Pki(pki) => pki.run(),
        Command::Completions(completions) => completions.run(),
        Command::Man => man::run(),
        Command::GitWorker => Ok(0),
    };
    match result {
        Ok(code) => ExitCode::from(code),
        Err(failure) => failure.report(),
    }
}

/// Sets up the log on stderr. The agent logs its work, and other commands log only errors.
fn logging(agent: bool) {
    let default = if agent { "info" } else { "error" };
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(default));
    // The systemd journal adds its own timestamps.
    let journal = towpath_host::process::environment("JOURNAL_STREAM").is_some();
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(|| terminal::Log)
        // The log output escapes control characters, so colours are turned off.
        .with_ansi(false)
        .log_internal_errors(false)
        .with_target(false);
    if journal { builder.without_time().init() } else { builder.init() }
}

/// Runs a future on a single-threaded runtime, for commands that query an agent.
fn block_on<T>(future: impl Future<Output = T>) -> Result<T, Failure> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| Failure::error(&error))?;
    Ok(runtime.block_on(future))
}
