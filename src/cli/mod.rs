//! The command line: one binary with a subcommand for each job.
//!
//! Owns the options, their conversion, and the output for people and programs. The server is
//! [`server`](crate::server), which knows no options. Start reading at [`main`].
//!
//! ```text
//! serve        the server's options, converted to settings
//! store        agents, events, reports: commands that read the store
//! control      stats, upgrade, confirm-clock: commands that use the control socket
//! clients      send and ping
//! load         the load generator's options
//! environment  variables for options, and RUST_LOG
//! values       the types of options
//! output, text results on stdout, one line on stderr, escaped text
//! ```

mod clients;
mod control;
mod environment;
mod load;
mod output;
mod serve;
mod store;
mod text;
mod values;

use std::process::ExitCode;

use clap::{ArgMatches, FromArgMatches as _, Parser, Subcommand};

use self::environment::LogLevel;
use crate::restart::channel::BUILD;
use crate::server::EffectiveSettings;

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
    Agents(store::AgentsArgs),
    Events(store::EventsArgs),
    Reports(store::ReportsArgs),
    Load(load::LoadArgs),
    Send(clients::SendArgs),
    Ping(clients::PingArgs),
    Upgrade(control::UpgradeArgs),
    Stats(control::StatsArgs),
    ConfirmClock(control::ConfirmClockArgs),
}

/// Runs the program. Returns 0 for success, 1 for a failure, which is one line on stderr, and
/// 2 for an invalid command line.
#[must_use]
pub fn main() -> ExitCode {
    let matches = environment::parse();
    let cli = match Cli::from_arg_matches(&matches) {
        Ok(cli) => cli,
        Err(error) => error.exit(),
    };
    let level = LogLevel::from_env();
    let mut notes: Vec<_> = level.complaint.iter().cloned().collect();
    notes.extend(environment::unknown_variables());
    let other = match cli.command {
        Command::Serve(args) => {
            let effective = effective_settings(&matches, &level);
            return args.run(level.logger(), effective, &notes);
        }
        Command::Other(other) => other,
    };
    level.logger().init();
    notes.iter().for_each(|note| output::note(note));
    output::exit_code(match other {
        Other::Agents(args) => args.run(),
        Other::Events(args) => args.run(),
        Other::Reports(args) => args.run(),
        Other::Load(args) => args.run(),
        Other::Send(args) => args.run(),
        Other::Ping(args) => args.run(),
        Other::Upgrade(args) => args.run(),
        Other::Stats(args) => args.run(),
        Other::ConfirmClock(args) => args.run(),
    })
}

/// The settings that `hawk serve` logs.
fn effective_settings(matches: &ArgMatches, level: &LogLevel) -> EffectiveSettings {
    let command = environment::command();
    let found = matches.subcommand();
    let serve = found.and_then(|(name, matches)| {
        let command = command.find_subcommand(name)?;
        Some(serve::effective_settings(command, matches))
    });
    let mut settings = serve.unwrap_or_default();
    let origin = level.is_given.then_some(serve::ENVIRONMENT);
    settings.add("rust_log", &level.filter, origin);
    settings
}
