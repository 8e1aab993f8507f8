//! `towpath runs`: the runs of this node.

use clap::Args;
use towpath_proto::v1alpha as pb;

use crate::cli::{
    connection::Connection,
    exit::Failure,
    output::{self, Output},
    runtime::block_on,
};

/// Lists the runs of this node.
#[derive(Debug, Args)]
pub(in crate::cli) struct Runs {
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    output: Output,
}

impl Runs {
    pub(in crate::cli) fn run(self) -> Result<u8, Failure> {
        let runs = block_on(async { self.connection.open().await?.runs().await })??;
        output::print(self.output.output, &runs, || text(&runs))?;
        Ok(0)
    }
}

fn text(runs: &[pb::RunSummary]) -> String {
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
}
