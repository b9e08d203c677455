//! `hawk serve`: its options, and their conversion to the settings of a server.

use std::ffi::OsString;
use std::io;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anstream::{AutoStream, ColorChoice};
use clap::builder::{OsStringValueParser, TypedValueParser as _};
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, ValueEnum};
use env_logger::{DEFAULT_WRITE_STYLE_ENV as STYLE, Target, WriteStyle};
use ipnet::IpNet;

use super::output;
use super::store::DEFAULT_STORE;
use super::values::{self, StorePath};
use crate::handler::Ack;
use crate::log_sink::LogSink;
use crate::server::{self, EffectiveSettings, Settings};
use crate::service;
use crate::store::FreeSpace;

/// When a report is answered.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum AckArg {
    /// Once it is on disk: an acknowledged report is never lost
    #[default]
    Committed,
    /// As soon as it is read: quicker, but reports that are not committed are lost with the
    /// process or the power
    Received,
}

/// Take heartbeats and reports, and answer each
///
/// Prints `listening on ADDR:PORT` on stdout when it is ready, and logs to stderr
/// (RUST_LOG=debug for more). SIGTERM, SIGINT or SIGQUIT stops it gently, a second one at
/// once; SIGUSR1 logs the statistics; SIGUSR2 hands over to a new process (see hawk upgrade);
/// SIGHUP is logged and has no effect.
///
/// Each option has an environment variable, such as HAWK_MAX_AGENTS for --max-agents; the
/// command line outranks it.
#[derive(Debug, Args)]
pub(super) struct ServeArgs {
    /// Address to listen on; port 0 picks a free one [default: 127.0.0.1:9876; a socket that the
    /// service manager passes has precedence]
    #[arg(long, env = "HAWK_LISTEN", value_name = "ADDR:PORT", value_parser = values::listen_address)]
    listen: Option<SocketAddr>,

    /// Maximum number of connections; further ones are turned away [default: the limit of open
    /// files minus 64]
    #[arg(
        long,
        env = "HAWK_MAX_CONNECTIONS",
        value_name = "N",
        value_parser = values::number(1..=u32::MAX)
    )]
    max_connections: Option<u32>,

    /// Maximum number of connections from one IP address; the addresses of an IPv6 network of 64
    /// bits count as one [default: half of --max-connections]
    #[arg(long, env = "HAWK_MAX_CONNECTIONS_PER_IP", value_name = "N", value_parser = values::limit)]
    max_connections_per_ip: Option<NonZeroU32>,

    /// Accept connections only from these addresses; may be given several times
    /// [default: from all]
    #[arg(long, env = "HAWK_ALLOW", value_name = "CIDR", value_delimiter = ',', value_parser = values::network)]
    allow: Vec<IpNet>,

    /// Accept no connection from these addresses, even if they are allowed; may be given several
    /// times
    #[arg(long, env = "HAWK_DENY", value_name = "CIDR", value_delimiter = ',', value_parser = values::network)]
    deny: Vec<IpNet>,

    /// Maximum number of frames a second from a connection, after a burst of as many
    /// [default: no limit]
    #[arg(long, env = "HAWK_RATE_LIMIT", value_name = "N", value_parser = values::limit)]
    rate_limit: Option<NonZeroU32>,

    /// Maximum memory of all receive buffers
    #[arg(long, env = "HAWK_POOL_LIMIT", value_name = "SIZE", default_value = "64MiB", value_parser = values::size)]
    pool_limit: usize,

    /// Replies that all agents together may leave unread; above this limit, connections
    /// with unread replies are paused
    #[arg(long, env = "HAWK_OUTPUT_LIMIT", value_name = "SIZE", default_value = "64MiB", value_parser = values::size)]
    output_limit: usize,

    /// Close a connection without a frame for this long (or for three times the interval of its
    /// own heartbeats, if that is longer)
    #[arg(long, env = "HAWK_IDLE_TIMEOUT", value_name = "TIME", default_value = "90s", value_parser = values::period)]
    idle_timeout: Duration,

    /// Close a connection with a partial frame that is not complete within this time
    #[arg(long, env = "HAWK_FRAME_TIMEOUT", value_name = "TIME", default_value = "10s", value_parser = values::period)]
    frame_timeout: Duration,

    /// Time for agents to receive their last replies at a stop
    #[arg(long, env = "HAWK_DRAIN_TIMEOUT", value_name = "TIME", default_value = "10s", value_parser = values::period)]
    drain_timeout: Duration,

    /// Interval of the statistics in the log; unchanged ones are not logged
    #[arg(long, env = "HAWK_STATS_INTERVAL", value_name = "TIME", default_value = "10s", value_parser = values::period)]
    stats_interval: Duration,

    /// SQLite file for reports, created if it does not exist; none: reports are not stored
    #[arg(long, env = "HAWK_STORE", value_name = "PATH", default_value = DEFAULT_STORE, value_parser = values::store_path)]
    store: StorePath,

    /// As root, use a store in a folder that another user owns or may write: that user can then
    /// replace the store's files
    #[arg(long, env = "HAWK_STORE_OWNER_OK", value_parser = values::switch)]
    store_owner_ok: bool,

    /// When to reply to a report
    #[arg(long, env = "HAWK_ACK", value_enum, default_value_t)]
    ack: AckArg,

    /// Remove reports, events and silent agents that are older than this
    #[arg(long, env = "HAWK_RETAIN", value_name = "TIME", default_value = "30d", value_parser = values::period)]
    retain: Duration,

    /// Remove the oldest reports when all reports take more space than this
    #[arg(long, env = "HAWK_RETAIN_SIZE", value_name = "SIZE", default_value = "10GiB", value_parser = values::store_size)]
    retain_size: usize,

    /// Remove the oldest reports when the file system has less free space than this, a size
    /// or a percentage of the whole; 0: never
    #[arg(long, env = "HAWK_RETAIN_FREE", value_name = "SIZE|N%", default_value = "5%", value_parser = values::free_space)]
    retain_free: FreeSpace,

    /// Maximum number of agents. A new agent takes the place of the longest silent agent that is
    /// not established (it sent packets in 3 different hours) and has no connection
    #[arg(long, env = "HAWK_MAX_AGENTS", value_name = "N", default_value = "100000", value_parser = values::number(1..=10_000_000_u32))]
    max_agents: u32,

    /// An agent that is silent for longer than this is offline [default: three times
    /// the interval of its own heartbeats or regular reports, at least 10s and at most 1h; an
    /// agent that sends neither is not judged]
    #[arg(long, env = "HAWK_OFFLINE_AFTER", value_name = "TIME", value_parser = values::period)]
    offline_after: Option<Duration>,

    /// Time after the start in which no agent is declared offline
    #[arg(long, env = "HAWK_START_GRACE", value_name = "TIME", default_value = "90s", value_parser = values::period)]
    start_grace: Duration,

    /// Run this with sh -c for each change of an agent's state, with the event on its
    /// stdin as one line of JSON; at most 4 at once
    #[arg(long, env = "HAWK_ON_EVENT", value_name = "CMD", value_parser = OsStringValueParser::new().try_map(values::command))]
    on_event: Option<OsString>,

    /// Run this with sh -c for changes of agents' states, with all events of a window on its
    /// stdin, each as one line of JSON; at most 2 at once
    #[arg(long, env = "HAWK_ON_EVENTS", value_name = "CMD", value_parser = OsStringValueParser::new().try_map(values::command))]
    on_events: Option<OsString>,

    /// Length of the window of --on-events
    #[arg(long, env = "HAWK_ON_EVENTS_WINDOW", value_name = "TIME", default_value = "1s", value_parser = values::period)]
    on_events_window: Duration,

    /// Kill a command of --on-event or --on-events, with its process group, when it takes
    /// longer than this
    #[arg(long, env = "HAWK_ON_EVENT_TIMEOUT", value_name = "TIME", default_value = "10s", value_parser = values::period)]
    on_event_timeout: Duration,

    /// Unix socket for requests of the server's own user: hawk stats, hawk upgrade, hawk
    /// confirm-clock [default: /run/hawk/control if its folder is the user's own]
    #[arg(long, env = "HAWK_CONTROL", value_name = "PATH")]
    control: Option<PathBuf>,

    /// Log each packet as a line, its text escaped
    #[arg(long, env = "HAWK_LOG_PACKETS", value_parser = values::switch)]
    log_packets: bool,
}

impl ServeArgs {
    /// Runs the server to its end. Log lines go through a queue, so that a full pipe behind
    /// stderr blocks neither the event loop nor the end.
    ///
    /// `effective` are the settings to log; `notes` are logged first.
    pub(super) fn run(
        self,
        mut logger: env_logger::Builder,
        effective: EffectiveSettings,
        notes: &[String],
    ) -> ExitCode {
        // First of all: this takes descriptor 3, which is free otherwise.
        let passed = match service::listener() {
            Ok(passed) => passed,
            Err(error) => return output::exit_code(Err(error)),
        };
        let sink = match LogSink::start(io::stderr()) {
            Ok(sink) => sink,
            Err(error) => {
                let failure = anyhow::Error::new(error).context("cannot start the log's thread");
                return output::exit_code(Err(failure));
            }
        };
        let is_auto = matches!(std::env::var(STYLE).as_deref(), Err(_) | Ok("auto"));
        if is_auto && AutoStream::choice(&io::stderr()) != ColorChoice::Never {
            // The logger sees the queue, which is no terminal.
            logger.write_style(WriteStyle::Always);
        }
        logger.target(Target::Pipe(Box::new(sink.writer()))).init();
        notes.iter().for_each(|note| log::warn!("{note}"));
        let announce = |address| output::print(&format!("listening on {address}\n"));
        let settings = self.settings();
        let ended = server::run(&settings, effective, passed, sink.left_out(), announce);
        output::exit_code_on(sink.writer(), ended)
    }

    fn settings(self) -> Settings {
        Settings {
            listen: self.listen,
            max_connections: self.max_connections,
            max_connections_per_ip: self.max_connections_per_ip,
            allow: self.allow,
            deny: self.deny,
            rate_limit: self.rate_limit,
            pool_limit: self.pool_limit,
            output_limit: self.output_limit,
            idle_timeout: self.idle_timeout,
            frame_timeout: self.frame_timeout,
            drain_timeout: self.drain_timeout,
            stats_interval: self.stats_interval,
            store: match self.store {
                StorePath::Nowhere => None,
                StorePath::File(path) => Some(path),
            },
            store_owner_ok: self.store_owner_ok,
            ack: match self.ack {
                AckArg::Committed => Ack::Committed,
                AckArg::Received => Ack::Received,
            },
            retain: self.retain,
            retain_size: self.retain_size as u64,
            retain_free: self.retain_free,
            max_agents: self.max_agents,
            offline_after: self.offline_after,
            start_grace: self.start_grace,
            on_event: self.on_event,
            on_events: self.on_events,
            on_events_window: self.on_events_window,
            on_event_timeout: self.on_event_timeout,
            control: self.control,
            log_packets: self.log_packets,
        }
    }
}

/// The origin of a value that a variable sets.
pub(super) const ENVIRONMENT: &str = "environment";

/// Every option that `command` declares, in the order of `--help`, with its parsed value.
pub(super) fn effective_settings(command: &Command, matches: &ArgMatches) -> EffectiveSettings {
    let mut settings = EffectiveSettings::default();
    for arg in command.get_arguments().filter(|arg| is_setting(arg)) {
        let id = arg.get_id().as_str();
        let origin = match matches.value_source(id) {
            Some(ValueSource::CommandLine) => Some("command-line"),
            Some(ValueSource::EnvVariable) => Some(ENVIRONMENT),
            _ => None,
        };
        let value = match arg.get_action() {
            ArgAction::SetTrue => matches.get_flag(id).to_string(),
            _ => {
                let values = matches.get_raw(id).into_iter().flatten();
                let values: Vec<_> = values.map(|value| value.to_string_lossy()).collect();
                match values.is_empty() {
                    true => "none".to_owned(),
                    false => values.join(","),
                }
            }
        };
        settings.add(id, &value, origin);
    }
    settings
}

fn is_setting(arg: &Arg) -> bool {
    let is_action = matches!(
        arg.get_action(),
        ArgAction::Help | ArgAction::HelpShort | ArgAction::HelpLong | ArgAction::Version
    );
    !is_action && !arg.is_positional()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(args: &[&str]) -> EffectiveSettings {
        let command = Command::new("x")
            .arg(Arg::new("size").long("size").default_value("64MiB"))
            .arg(
                Arg::new("allow")
                    .long("allow")
                    .value_delimiter(',')
                    .action(ArgAction::Append),
            )
            .arg(Arg::new("command").long("command"))
            .arg(Arg::new("quick").long("quick").action(ArgAction::SetTrue));
        let matches = command.clone().try_get_matches_from(args).unwrap();
        effective_settings(&command, &matches)
    }

    #[test]
    fn each_option_is_a_pair_and_has_its_origin_unless_it_is_the_default() {
        let text = settings(&["x"]).to_string();
        assert_eq!(text, "size=64MiB allow=none command=none quick=false");
        let args = [
            "x",
            "--quick",
            "--allow=10.0.0.0/8,::1",
            "--command",
            "a b\n",
        ];
        let mut settings = settings(&args);
        settings.resolve("size", &17);
        settings.add("rust_log", "warn,hawk::stats=info", Some(ENVIRONMENT));
        let text = settings.to_string();
        let expected = "size=17 allow=10.0.0.0/8,::1 allow_from=command-line \
                        command=\"a b\\n\" command_from=command-line quick=true \
                        quick_from=command-line rust_log=\"warn,hawk::stats=info\" \
                        rust_log_from=environment";
        assert_eq!(text, expected);
    }
}
