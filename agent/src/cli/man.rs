//! `towpath man`: the manual page.

use clap::CommandFactory as _;

use super::{Cli, exit::Failure, output};

pub(super) fn run() -> Result<u8, Failure> {
    let mut text = Vec::new();
    clap_mangen::Man::new(Cli::command()).render(&mut text).map_err(|error| Failure::error(&error))?;
    output::write(&String::from_utf8_lossy(&text))?;
    Ok(0)
}
