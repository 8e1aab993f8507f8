//! `towpath objects`: the objects of the accepted revision.

use clap::Args;
use towpath_proto::v1alpha as pb;

use crate::cli::{
    connection::Connection,
    exit::Failure,
    output::{self, Output},
    runtime::block_on,
};

/// Lists the objects of the accepted revision.
#[derive(Debug, Args)]
pub(in crate::cli) struct Objects {
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    output: Output,
}

impl Objects {
    pub(in crate::cli) fn run(self) -> Result<u8, Failure> {
        let objects = block_on(async { self.connection.open().await?.objects().await })??;
        output::print(self.output.output, &objects, || text(&objects))?;
        Ok(0)
    }
}

fn text(objects: &[pb::ObjectSummary]) -> String {
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
}
