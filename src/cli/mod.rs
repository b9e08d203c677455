//! The command line: one binary, a subcommand for each job.

mod agents;
mod events;
mod journal;
mod load;
mod output;
mod ping;
mod reports;
mod send;
mod serve;
mod store_args;
mod values;
mod wire_args;

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
    Serve(serve::ServeArgs),
    Agents(agents::AgentsArgs),
    Events(events::EventsArgs),
    Reports(reports::ReportsArgs),
    Load(load::LoadArgs),
    Send(send::SendArgs),
    Ping(ping::PingArgs),
}

/// Runs the program: 0 for success, 1 for a failure told in one line on
/// stderr, 2 for a command line that makes no sense.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info")).init();
    let outcome = match cli.command {
        Command::Serve(args) => args.run(),
        Command::Agents(args) => args.run(),
        Command::Events(args) => args.run(),
        Command::Reports(args) => args.run(),
        Command::Load(args) => args.run(),
        Command::Send(args) => args.run(),
        Command::Ping(args) => args.run(),
    };
    output::conclude(outcome)
}
