//! The command line: one file for each command.

mod author;
mod connection;
mod exit;
mod fleet;
mod look;
mod output;
mod responder;
mod runtime;
mod setup;
mod terminal;
mod working_tree;

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};

use author::{
    explain::Explain, plan::Plan, render::Render, schema::Schema, secrets::Secrets, validate::Validate, vars::Vars,
};
use fleet::{nodes::Nodes, rollouts::Rollouts};
use look::{events::Events, facts::Facts, objects::Objects, runs::Runs, status::Status};
use setup::{agent::Agent, completions::Completions, demo::Demo, man, pki::Pki};

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
    Demo(Demo),
    /// Run the agent
    Agent(Agent),
    /// Show what would change on this node
    Plan(Plan),
    /// Report all mistakes of a state repository
    Validate(Validate),
    /// Show the tasks of a TaskBook as this node renders them
    Render(Render),
    /// Show the variables of a node, and the object that defines each variable
    Vars(Vars),
    /// Show the facts of this node
    Facts(Facts),
    /// Explain a kind or one of its fields, such as TaskBook.spec.tasks.file
    Explain(Explain),
    /// Print the JSON Schema of a kind, or of all kinds
    Schema(Schema),
    /// Encrypt and change the secret values of a state repository
    Secrets(Secrets),
    /// Show what the agent of this node is doing
    Status(Status),
    /// List the nodes that the agent knows
    Nodes(Nodes),
    /// List the objects of the accepted revision
    Objects(Objects),
    /// List the runs of this node
    Runs(Runs),
    /// List the rollouts of coordinated TaskBooks
    Rollouts(Rollouts),
    /// Show the events of this node
    Events(Events),
    /// Create the cluster's certificate authority, and certificates for nodes, viewers and operators
    Pki(Pki),
    /// Print completions for a shell
    Completions(Completions),
    /// Print the manual page
    Man,
    /// Read the data of a git server; only the agent runs this command
    #[command(hide = true)]
    GitWorker,
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
        Command::Secrets(secrets) => secrets.run(),
        Command::Status(status) => status.run(),
        Command::Nodes(nodes) => nodes.run(),
        Command::Objects(objects) => objects.run(),
        Command::Runs(runs) => runs.run(),
        Command::Rollouts(rollouts) => rollouts.run(),
        Command::Events(events) => events.run(),
        Command::Pki(pki) => pki.run(),
        Command::Completions(completions) => completions.run(Cli::command()),
        Command::Man => man::run(Cli::command()),
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
