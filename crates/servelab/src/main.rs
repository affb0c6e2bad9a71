//! The `servelab` binary: command line in, text and exit codes out. Everything that is worth testing without a process
//! lives in the other crates; what a command does stands in `commands/`, one file each.

mod cli;
mod commands;
mod convert;
mod error;
mod feed;
mod files;
mod predict;
mod requests;
mod study_input;
mod ui;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
