//! `towpath secrets`: keys, and the encrypted values in the files of a state repository. No command reaches a fleet.

mod check;
mod edit;
mod edits;
mod encrypt;
mod keygen;
mod paths;
mod readers;
mod repository;
mod rewrap;

use clap::{Args, Subcommand};

pub(in crate::cli) use check::problems;

use crate::cli::exit::Failure;

/// Encrypts and changes the secret values of a state repository.
#[derive(Debug, Args)]
pub(in crate::cli) struct Secrets {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Create an age identity, and print its recipient
    Keygen(keygen::Keygen),
    /// Encrypt one value of a Secret to its readers, and write it into the file of the Secret
    Encrypt(encrypt::Encrypt),
    /// Edit the values of a Secret in $EDITOR; only changed values are encrypted again
    Edit(edit::Edit),
    /// Encrypt again what is not encrypted to exactly the readers of its Secret
    Rewrap(rewrap::Rewrap),
}

impl Secrets {
    pub(in crate::cli) fn run(self) -> Result<u8, Failure> {
        // A core file of this process could contain decrypted values.
        towpath_host::memory::not_dumpable().map_err(|error| Failure::error(&error))?;
        match self.command {
            Command::Keygen(keygen) => keygen.run(),
            Command::Encrypt(encrypt) => encrypt.run(),
            Command::Edit(edit) => edit.run(),
            Command::Rewrap(rewrap) => rewrap.run(),
        }
    }
}
