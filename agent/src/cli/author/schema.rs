//! `towpath schema`: JSON Schema for editors.

use clap::Args;

use crate::cli::{exit::Failure, output};

/// Prints JSON Schema.
#[derive(Debug, Args)]
pub(in crate::cli) struct Schema {
    /// The kind. Default: all kinds
    kind: Option<String>,
}

impl Schema {
    pub(in crate::cli) fn run(self) -> Result<u8, Failure> {
        let kind = self.kind.as_deref();
        let schema = towpath_proto::json_schema(kind).ok_or_else(|| {
            let kind = kind.unwrap_or_default();
            let failure = Failure::invalid(format!("there is no kind {kind:?}"));
            match towpath_proto::did_you_mean(kind, towpath_proto::kinds().map(|kind| kind.name)) {
                Some(meant) => failure.hint(format!("did you mean {meant}?")),
                None => failure.hint("`towpath explain` lists the kinds"),
            }
        })?;
        let text = serde_json::to_string_pretty(&schema).map_err(|error| Failure::error(&error))?;
        output::write(&(text + "\n"))?;
        Ok(0)
    }
}
