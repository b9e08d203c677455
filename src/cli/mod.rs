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
mod stats;
mod store_args;
mod upgrade;
mod values;
mod wire_args;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::handover::BUILD;

/// Takes heartbeats and reports from a fleet's agents, and answers each
#[derive(Debug, Parser)]
#[command(name = "hawk", version = BUILD, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::ServeArgs),
    #[command(flatten)]
    Other(Other),
}

#[derive(Debug, Subcommand)]
enum Other {
    Agents(agents::AgentsArgs),
    Events(events::EventsArgs),
    Reports(reports::ReportsArgs),
    Load(load::LoadArgs),
    Send(send::SendArgs),
    Ping(ping::PingArgs),
    Upgrade(upgrade::UpgradeArgs),
    Stats(stats::StatsArgs),
}

/// Runs the program: 0 for success, 1 for a failure told in one line on
/// stderr, 2 for a command line that makes no sense.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let default = env_logger::Env::default().default_filter_or("info");
    let mut logger = env_logger::Builder::from_env(default);
    let other = match cli.command {
        Command::Serve(args) => return args.main(logger),
        Command::Other(other) => other,
    };
    logger.init();
    output::conclude(match other {
        Other::Agents(args) => args.run(),
        Other::Events(args) => args.run(),
        Other::Reports(args) => args.run(),
        Other::Load(args) => args.run(),
        Other::Send(args) => args.run(),
        Other::Ping(args) => args.run(),
        Other::Upgrade(args) => args.run(),
        Other::Stats(args) => args.run(),
    })
}
