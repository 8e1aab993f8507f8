//! `towpath events`: what happened.

use clap::Args;
use towpath_proto::v1alpha as pb;

use super::{Connection, Format, Output, block_on, exit::Failure, output};
use crate::serve::CallError;

/// Shows what happened.
#[derive(Debug, Args)]
pub(super) struct Events {
    #[command(flatten)]
    connection: Connection,
    /// Go on with events to come
    #[arg(long, short)]
    follow: bool,
    #[command(flatten)]
    output: Output,
}

impl Events {
    pub(super) fn run(self) -> Result<u8, Failure> {
        block_on(async {
            let client = self.connection.open().await?;
            let mut events = client.events(self.follow).await?;
            while let Some(event) = events.message().await.map_err(CallError::from)? {
                output::write(&self.line(&event)?)?;
            }
            Ok(0)
        })?
    }

    /// One event a line, also as JSON.
    fn line(&self, event: &pb::EventRecord) -> Result<String, Failure> {
        match self.output.output {
            Format::Json => {
                serde_json::to_string(event).map(|text| text + "\n").map_err(|error| Failure::error(&error))
            }
            Format::Yaml => Ok(format!(
                "---\n{}",
                towpath_render::document::to_yaml(
                    &serde_json::to_value(event).map_err(|error| Failure::error(&error))?
                )
            )),
            Format::Text => {
                let state = event.state.as_ref().map(|state| format!(" {state}")).unwrap_or_default();
                Ok(format!("{} {}{state}: {}\n", event.time, event.r#type, event.message))
            }
        }
    }
}
