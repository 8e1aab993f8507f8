//! `towpath facts`: the facts of this node.

use std::path::PathBuf;

use clap::Args;
use towpath_host::facts;

use crate::{
    cli::{
        exit::Failure,
        output::{self, Format, Output},
    },
    reconcile::host_facts,
};

/// Shows the facts of this node.
#[derive(Debug, Args)]
pub(in crate::cli) struct Facts {
    /// The bootstrap file of the node; the folder facts.d beside the bootstrap file contains custom facts
    #[arg(long, default_value = "/etc/towpath/agent.yaml")]
    config: PathBuf,
    #[command(flatten)]
    output: Output,
}

impl Facts {
    pub(in crate::cli) fn run(self) -> Result<u8, Failure> {
        let folders = self.config.parent().map(|folder| folder.join("facts.d")).into_iter().collect();
        let options = facts::Options { facts_d: folders, ..facts::Options::default() };
        let (found, problems) = host_facts(&options);
        for problem in problems {
            output::progress(&format!("{}: {}", problem.file, problem.message));
        }
        let format = if self.output.output == Format::Text { Format::Yaml } else { self.output.output };
        output::print(format, &found, String::new)?;
        Ok(0)
    }
}
