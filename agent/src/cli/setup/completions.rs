//! `towpath completions`: completions for a shell.

use clap::{Args, Command};
use clap_complete::Shell;

use crate::cli::{exit::Failure, output};

/// Prints completions for a shell.
#[derive(Debug, Args)]
pub(in crate::cli) struct Completions {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

impl Completions {
    pub(in crate::cli) fn run(self, mut program: Command) -> Result<u8, Failure> {
        let mut text = Vec::new();
        clap_complete::generate(self.shell, &mut program, "towpath", &mut text);
        output::write(&String::from_utf8_lossy(&text))?;
        Ok(0)
    }
}
