//! The program `towpath`, which parses its arguments, runs a command and returns an exit status.

use std::process::ExitCode;

fn main() -> ExitCode {
    towpath_agent::cli::main()
}
