//! `towpath rollouts`: the rollouts of coordinated TaskBooks.

use clap::Args;
use towpath_proto::v1alpha as pb;

use crate::cli::{
    connection::Connection,
    exit::Failure,
    output::{self, Output},
    runtime::block_on,
};

/// Lists the rollouts of coordinated TaskBooks.
#[derive(Debug, Args)]
pub(in crate::cli) struct Rollouts {
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    output: Output,
}

impl Rollouts {
    pub(in crate::cli) fn run(self) -> Result<u8, Failure> {
        let rollouts = block_on(async { self.connection.open().await?.rollouts().await })??;
        output::print(self.output.output, &rollouts, || text(&rollouts))?;
        Ok(0)
    }
}

fn text(rollouts: &[pb::RolloutSummary]) -> String {
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
