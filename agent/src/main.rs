//! The program `towpath`: parse, run, exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    towpath_agent::cli::main()
}
