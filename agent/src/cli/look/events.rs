//! `towpath events`: the events of a node.

use clap::Args;
use towpath_proto::v1alpha as pb;

use crate::{
    cli::{
        connection::Connection,
        exit::Failure,
        output::{self, Output},
        runtime::block_on,
    },
    serve::CallError,
};

/// Shows the events of a node.
#[derive(Debug, Args)]
pub(in crate::cli) struct Events {
    #[command(flatten)]
    connection: Connection,
    /// Follow new events
    #[arg(long, short)]
    follow: bool,
    #[command(flatten)]
    output: Output,
}

impl Events {
    pub(in crate::cli) fn run(self) -> Result<u8, Failure> {
        block_on(async {
            let client = self.connection.open().await?;
            let mut events = client.events(self.follow).await?;
            while let Some(event) = events.message().await.map_err(CallError::from)? {
                output::print_record(self.output.output, &event, || line(&event))?;
            }
            Ok(0)
        })?
    }
}

/// Returns an event as one line. All lines of the message except the first are indented, so that no line can imitate an
/// event.
fn line(event: &pb::EventRecord) -> String {
    let state = event.state.as_ref().map(|state| format!(" {state}")).unwrap_or_default();
    format!("{} {}{state}: {}\n", event.time, event.r#type, event.message.replace('\n', "\n    "))
}
