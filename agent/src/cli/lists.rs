//! The commands `towpath nodes`, `objects`, `runs` and `rollouts`.

use clap::Args;
use towpath_proto::v1alpha as pb;

use super::{Connection, Output, block_on, exit::Failure, output};
use crate::serve::Client;

/// Lists the nodes, objects, runs or rollouts that an agent knows.
#[derive(Debug, Args)]
pub(super) struct List {
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    output: Output,
}

/// The kind of things that a command lists.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    Nodes,
    Objects,
    Runs,
    Rollouts,
}

impl List {
    pub(super) fn run(self, kind: Kind) -> Result<u8, Failure> {
        block_on(async {
            let client = self.connection.open().await?;
            match kind {
                Kind::Nodes => self.nodes(&client).await,
                Kind::Objects => self.objects(&client).await,
                Kind::Runs => self.runs(&client).await,
                Kind::Rollouts => self.rollouts(&client).await,
            }
        })?
    }

    async fn nodes(&self, client: &Client) -> Result<u8, Failure> {
        let nodes = client.nodes().await?;
        output::print(self.output.output, &nodes, || {
            let rows: Vec<Vec<String>> = nodes
                .iter()
                .map(|node| {
                    let labels =
                        node.labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",");
                    vec![
                        node.name.clone(),
                        node.liveness.clone(),
                        node.lease.clone().unwrap_or_else(|| "-".into()),
                        node.gossip.clone().unwrap_or_else(|| "-".into()),
                        node.generation.map_or_else(|| "-".into(), |generation| generation.to_string()),
                        labels,
                    ]
                })
                .collect();
            output::table(&["NODE", "LIVENESS", "LEASE", "GOSSIP", "GENERATION", "LABELS"], &rows)
        })?;
        Ok(0)
    }

    async fn objects(&self, client: &Client) -> Result<u8, Failure> {
        let objects = client.objects().await?;
        output::print(self.output.output, &objects, || {
            let rows: Vec<Vec<String>> = objects
                .iter()
                .map(|object| {
                    vec![
                        object.kind.clone(),
                        object.namespace.clone().unwrap_or_else(|| "-".into()),
                        object.name.clone(),
                        format!("{}:{}:{}", object.source, object.file, object.line),
                    ]
                })
                .collect();
            output::table(&["KIND", "NAMESPACE", "NAME", "FROM"], &rows)
        })?;
        Ok(0)
    }

    async fn runs(&self, client: &Client) -> Result<u8, Failure> {
        let runs = client.runs().await?;
        output::print(self.output.output, &runs, || {
            let rows: Vec<Vec<String>> = runs
                .iter()
                .map(|run| {
                    vec![
                        run.started.clone(),
                        run.run.clone(),
                        run.outcome.clone(),
                        format!("{:.1}s", run.took),
                        run.tasks.iter().filter(|task| task.changed).count().to_string(),
                    ]
                })
                .collect();
            output::table(&["STARTED", "RUN", "OUTCOME", "TOOK", "CHANGED"], &rows)
        })?;
        Ok(0)
    }

    async fn rollouts(&self, client: &Client) -> Result<u8, Failure> {
        let rollouts = client.rollouts().await?;
        output::print(self.output.output, &rollouts, || rollouts_text(&rollouts))?;
        Ok(0)
    }
}

fn rollouts_text(rollouts: &[pb::RolloutSummary]) -> String {
    let listed = |names: Vec<String>| if names.is_empty() { "-".to_owned() } else { names.join(", ") };
    let row = |rollout: &pb::RolloutSummary| {
        let holder = |holding: &pb::Holding| match holding.liveness.as_str() {
            "alive" => holding.node.clone(),
            liveness => format!("{} ({liveness})", holding.node),
        };
        vec![
            rollout.run.clone(),
            rollout.phase.clone(),
            format!("{}/{}", rollout.segment, rollout.segments),
            format!("{}/{}", rollout.wave, rollout.waves),
            format!("{}/{}", rollout.done, rollout.total),
            listed(rollout.holding.iter().map(holder).collect()),
            listed(rollout.waiting.clone()),
            listed(rollout.skipped.clone()),
            listed(rollout.failed.iter().map(|failed| failed.node.clone()).collect()),
        ]
    };
    let rows: Vec<Vec<String>> = rollouts.iter().map(row).collect();
    let head = ["RUN", "PHASE", "SEGMENT", "WAVE", "DONE", "HOLDING", "WAITING", "SKIPPED", "FAILED"];
    let mut text = output::table(&head, &rows);
    for rollout in rollouts {
        for failed in &rollout.failed {
            text.push_str(&format!("\n{} failed on {}: {}", rollout.run, failed.node, failed.message));
        }
        for blocked in &rollout.blocked_by {
            let since = blocked.since.as_ref().map_or_else(String::new, |since| format!(", since {since}"));
            let action = blocked.action.as_ref().map_or_else(String::new, |action| format!(". {action}"));
            text.push_str(&format!("\n{} ({}{since}): {}{action}", rollout.run, blocked.gate, blocked.opens));
        }
    }
    if rollouts.iter().any(|rollout| !rollout.blocked_by.is_empty() || !rollout.failed.is_empty()) {
        text.push('\n');
    }
    text
}
