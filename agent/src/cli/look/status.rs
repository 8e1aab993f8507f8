//! `towpath status`: the state of the agent of this node.

use std::{thread, time::Duration};

use clap::Args;
use towpath_proto::v1alpha as pb;

use crate::cli::{
    connection::Connection,
    exit::Failure,
    output::{self, Colour, Output},
    runtime::block_on,
};

/// Shows what the agent of this node is doing.
#[derive(Debug, Args)]
pub(in crate::cli) struct Status {
    #[command(flatten)]
    connection: Connection,
    /// Refresh every two seconds
    #[arg(long)]
    watch: bool,
    #[command(flatten)]
    output: Output,
}

impl Status {
    pub(in crate::cli) fn run(self) -> Result<u8, Failure> {
        loop {
            let status = block_on(async {
                let client = self.connection.open().await?;
                client.status().await
            })??;
            output::print(self.output.output, &status, || text(&status))?;
            if !self.watch {
                return Ok(0);
            }
            thread::sleep(Duration::from_secs(2));
        }
    }
}

/// Formats a status for people.
pub(in crate::cli) fn text(status: &pb::NodeStatus) -> String {
    let commits = status
        .commits
        .iter()
        .map(|(source, commit)| format!("{source} {}", commit.chars().take(12).collect::<String>()))
        .collect::<Vec<_>>()
        .join(", ");
    let mut text = format!(
        "{} (cluster {}), generation {}{}\n",
        status.node,
        status.cluster,
        status.generation,
        if commits.is_empty() { String::new() } else { format!(": {commits}") }
    );
    if status.insecure {
        text.push_str("insecure: without `tls`, anyone who reaches the data store can impersonate a node\n");
    }
    for warning in &status.warnings {
        text.push_str(&format!("{}: {warning}\n", output::coloured("warning", Colour::Odd)));
    }
    if let Some(applied) = &status.last_applied {
        text.push_str(&format!("last applied: generation {} at {}\n", applied.generation, applied.at));
    }
    for condition in &status.conditions {
        let good = condition.r#type == "Ready";
        if !good && !condition.status && condition.reason != "Uncoordinated" {
            continue;
        }
        let word = if condition.status { condition.r#type.clone() } else { format!("not {}", condition.r#type) };
        let colour = match (good, condition.status) {
            (true, true) => Colour::Good,
            (false, true) if condition.r#type == "Stalled" => Colour::Bad,
            _ => Colour::Odd,
        };
        text.push_str(&format!(
            "{} ({}, since {}): {}\n",
            output::coloured(&word, colour),
            condition.reason,
            condition.since,
            condition.message
        ));
    }
    for book in &status.task_books {
        text.push_str(&format!("\n{}/{}: {}\n", book.namespace, book.name, output::outcome(&book.outcome)));
        let shown = |task: &&pb::TaskStatus| book.tasks.len() <= 40 || task.outcome != "unchanged";
        for task in book.tasks.iter().filter(shown) {
            let message = task.message.as_ref().map(|message| format!(": {message}")).unwrap_or_default();
            text.push_str(&format!(
                "  {:9} {} ({}){message}\n",
                output::outcome(&task.outcome),
                task.name,
                task.module
            ));
        }
        if book.tasks.len() > 40 {
            let unchanged = book.tasks.iter().filter(|task| task.outcome == "unchanged").count();
            text.push_str(&format!("  and {unchanged} unchanged tasks\n"));
        }
    }
    text
}
