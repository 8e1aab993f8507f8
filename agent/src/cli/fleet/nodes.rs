//! `towpath nodes`: the nodes that the agent knows.

use clap::Args;
use towpath_proto::v1alpha as pb;

use crate::cli::{
    connection::Connection,
    exit::Failure,
    output::{self, Output},
    runtime::block_on,
};

/// Lists the nodes that the agent knows.
#[derive(Debug, Args)]
pub(in crate::cli) struct Nodes {
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    output: Output,
}

impl Nodes {
    pub(in crate::cli) fn run(self) -> Result<u8, Failure> {
        let nodes = block_on(async { self.connection.open().await?.nodes().await })??;
        output::print(self.output.output, &nodes, || text(&nodes))?;
        Ok(0)
    }
}

fn text(nodes: &[pb::NodeSummary]) -> String {
    let rows: Vec<Vec<String>> = nodes
        .iter()
        .map(|node| {
            let labels = node.labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",");
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
}
