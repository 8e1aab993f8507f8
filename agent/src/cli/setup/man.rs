//! `towpath man`: the manual page.

use clap::Command;

use crate::cli::{exit::Failure, output};

pub(in crate::cli) fn run(program: Command) -> Result<u8, Failure> {
    let mut text = Vec::new();
    clap_mangen::Man::new(program).render(&mut text).map_err(|error| Failure::error(&error))?;
    output::write(&String::from_utf8_lossy(&text))?;
    Ok(0)
}
