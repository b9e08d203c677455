//! The command line: one binary, a subcommand for each job.

mod serve;
mod values;

use std::io::Write as _;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Takes heartbeats and reports from a fleet's agents, and answers each
#[derive(Debug, Parser)]
#[command(name = "hawk", version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::Serve),
}

/// Runs the program: 0 for success, 1 for a failure told in one line on
/// stderr, 2 for a command line that makes no sense.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info")).init();
    let outcome = match cli.command {
        Command::Serve(serve) => serve.run(),
    };
    outcome.unwrap_or_else(|error| {
        // Straight to stderr: it must be seen whatever the log level is. If
        // even that fails, the exit code is all there is to tell.
        writeln!(std::io::stderr(), "hawk: {error:#}").ok();
        ExitCode::FAILURE
    })
}
