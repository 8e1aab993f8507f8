//! `towpath plan`: the changes that the accepted revision or a working tree requires on a node.

use clap::Args;
use towpath_proto::v1alpha as pb;

use crate::{
    cli::{
        exit::{self, Failure},
        output::{self, Colour, Output},
        responder::{self, AsNode, Responder, SourceArgs},
        runtime::block_on,
    },
    reconcile::{Desired, compare},
    status::OtherNode,
};

/// Shows what would change on this node, or on another node.
///
/// The plan renders the working tree and the accepted revision for the other node, and compares the two results.
/// Without a working tree, the plan assumes that nothing is applied on the other node. If the accepted revision does
/// not name the node, the plan assumes that nothing is applied on the node.
#[derive(Debug, Args)]
pub(in crate::cli) struct Plan {
    #[command(flatten)]
    source: SourceArgs,
    #[command(flatten)]
    as_node: AsNode,
    /// Exit with status 5 if a task would change something, and with status 3 if a task would fail
    #[arg(long)]
    exit_code: bool,
    #[command(flatten)]
    output: Output,
}

impl Plan {
    pub(in crate::cli) fn run(self) -> Result<u8, Failure> {
        let plan = self.plan()?;
        output::print(self.output.output, &plan, || text(&plan))?;
        Ok(if self.exit_code { exit_code(&plan) } else { 0 })
    }

    fn plan(&self) -> Result<pb::PlanReply, Failure> {
        if let Some(other) = self.as_node.read()? {
            return self.plan_for(&other);
        }
        let asked = block_on(async {
            Ok::<_, Failure>(match self.source.responder(None).await? {
                Responder::Agent(client) => Ok(client.plan().await?),
                Responder::Local(local) => Err(local),
            })
        })??;
        // Checks block, so they must not run on a thread of the async runtime.
        let local = match asked {
            Ok(plan) => return Ok(plan),
            Err(local) => local,
        };
        let plan = match &local.revision {
            Some(revision) => local.queries.plan_of(revision),
            None => local.queries.plan(),
        };
        plan.map_err(|error| Failure::failed(error.to_string()))
    }

    /// Prints the plan for another node. The plan for another node does not read the files on that node.
    fn plan_for(&self, other: &OtherNode) -> Result<pb::PlanReply, Failure> {
        let (before, after) = block_on(async {
            Ok::<_, Failure>(if self.source.source_dir.is_some() {
                let accepted = match self.source.config.exists() {
                    true => desired(self.source.accepted().await?, other).await?,
                    false => Desired::default(),
                };
                (accepted, desired(self.source.responder(None).await?, other).await?)
            } else {
                (Desired::default(), desired(self.source.accepted().await?, other).await?)
            })
        })??;
        if after.tasks.is_none() {
            let within = self.source.source_dir.as_ref().map_or_else(
                || "the accepted revision (`towpath status` shows it)".to_owned(),
                |folder| folder.display().to_string(),
            );
            return Err(Failure::failed(format!("there is no node {} in {within}", other.name)));
        }
        let base = match &before.tasks {
            Some(_) => "the accepted revision",
            None => "a node on which nothing is applied",
        };
        output::progress(&format!("compared with {base}; the plan does not read the files on {}", other.name));
        Ok(pb::PlanReply { generation: after.generation, tasks: compare(&before, &after) })
    }
}

/// Returns the rendered tasks of another node. The agent or this process renders the tasks.
async fn desired(responder: Responder, other: &OtherNode) -> Result<Desired, Failure> {
    let view = match responder {
        Responder::Agent(client) => responder::parsed(&client.view("desired", "", false, Some(other)).await?)?,
        Responder::Local(local) => match &local.revision {
            Some(revision) => {
                return local.queries.desired(revision, other).map_err(|error| Failure::failed(error.to_string()));
            }
            None => local
                .queries
                .view("desired", "", false, Some(other))
                .map_err(|error| Failure::failed(error.to_string()))?,
        },
    };
    serde_json::from_value(view).map_err(|error| Failure::error(&error))
}

fn text(plan: &pb::PlanReply) -> String {
    let mut text = String::new();
    let mut book = "";
    let (mut changes, mut unknown) = (0, 0);
    for task in &plan.tasks {
        if task.action == "none" && task.diff.is_none() {
            continue;
        }
        if task.task_book != book {
            book = &task.task_book;
            text.push_str(&format!("{book}\n"));
        }
        changes += usize::from(would_change(task));
        unknown += usize::from(task.action == "unknown");
        let colour = match task.action.as_str() {
            "remove" => Colour::Bad,
            "unknown" => Colour::Odd,
            _ => Colour::Good,
        };
        text.push_str(&format!("  {} {} ({})\n", output::coloured(&task.action, colour), task.name, task.module));
        for line in task.diff.iter().flat_map(|diff| diff.lines()) {
            text.push_str(&format!("      {line}\n"));
        }
    }
    match changes {
        0 => text.push_str(&format!("{} tasks, nothing would change\n", plan.tasks.len())),
        1 => text.push_str(&format!("1 of {} tasks would change something\n", plan.tasks.len())),
        _ => text.push_str(&format!("{changes} of {} tasks would change something\n", plan.tasks.len())),
    }
    if unknown > 0 {
        text.truncate(text.len().saturating_sub(1));
        text.push_str(&format!("; {unknown} unknown\n"));
    }
    text
}

/// Returns true if a task needs a change. A task with an unknown result does not count as a change.
fn would_change(task: &pb::PlannedTask) -> bool {
    task.action != "none" && task.action != "unknown"
}

/// Returns the exit status of a plan; failed tasks take precedence over changes.
fn exit_code(plan: &pb::PlanReply) -> u8 {
    if plan.tasks.iter().any(|task| task.failed) {
        exit::FAILED
    } else if plan.tasks.iter().any(would_change) {
        exit::CHANGES
    } else {
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_code_separates_failures_from_changes_and_does_not_count_unknown() {
        let code = |tasks: &[(&str, bool)]| {
            let task = |(action, failed): &(&str, bool)| pb::PlannedTask {
                action: (*action).to_owned(),
                failed: *failed,
                ..pb::PlannedTask::default()
            };
            exit_code(&pb::PlanReply { generation: 1, tasks: tasks.iter().map(task).collect() })
        };
        assert_eq!(code(&[]), 0);
        assert_eq!(code(&[("none", false), ("unknown", false)]), 0);
        for action in ["create", "update", "remove", "run"] {
            assert_eq!(code(&[("unknown", false), (action, false)]), exit::CHANGES, "{action}");
        }
        assert_eq!(code(&[("create", false), ("unknown", true)]), exit::FAILED);
    }
}
