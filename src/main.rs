//! The `driftline` program: reads the command line, builds the real world, and runs an agent in it or
//! asks one something.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
