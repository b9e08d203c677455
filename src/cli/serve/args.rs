//! What `hawk serve` can be told on the command line and in the environment.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{OsStringValueParser, TypedValueParser as _};
use clap::{Args, ValueEnum};
use ipnet::IpNet;

use crate::cli::store_args::DEFAULT_STORE;
use crate::cli::values::{self, StorePath};
use crate::store::FreeSpace;

/// When a report is answered.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub(super) enum AckArg {
    /// Once it is on disk: what was acknowledged is never lost
    #[default]
    Committed,
    /// As soon as it is read: quicker, and what the store has not taken yet is
    /// lost with the process or the power
    Received,
}

/// Take heartbeats and reports, and answer each
///
/// Prints `listening on ADDR:PORT` on stdout when it is ready, and logs on
/// stderr (RUST_LOG=debug for more). SIGTERM, SIGINT or SIGQUIT stops it gently, a second
/// one at once; SIGUSR1 logs the statistics; SIGUSR2 hands over to a new process (see
/// hawk upgrade); SIGHUP is logged and changes nothing.
#[derive(Debug, Args)]
pub(in crate::cli) struct ServeArgs {
    /// Where to listen; port 0 picks a free one [default: 127.0.0.1:9876, or the socket
    /// that the service manager passes, which comes first]
    #[arg(long, env = "HAWK_LISTEN", value_name = "ADDR:PORT", value_parser = values::listen_address)]
    pub(super) listen: Option<SocketAddr>,

    /// Connections beyond this many are turned away [default: the limit of open files less 64]
    #[arg(
        long,
        env = "HAWK_MAX_CONNECTIONS",
        value_name = "N",
        value_parser = values::number(1..=u32::MAX)
    )]
    pub(super) max_connections: Option<u32>,

    /// Connections of one IP address beyond this many are turned away; the addresses
    /// of an IPv6 network of 64 bits count as one [default: half of --max-connections]
    #[arg(long, env = "HAWK_MAX_CONNECTIONS_PER_IP", value_name = "N", value_parser = values::limit)]
    pub(super) max_connections_per_ip: Option<NonZeroU32>,

    /// Take connections from these addresses only; may be given several times
    /// [default: from all]
    #[arg(long, env = "HAWK_ALLOW", value_name = "CIDR", value_delimiter = ',', value_parser = values::network)]
    pub(super) allow: Vec<IpNet>,

    /// Take no connection from these addresses, even if they are allowed; may be
    /// given several times
    #[arg(long, env = "HAWK_DENY", value_name = "CIDR", value_delimiter = ',', value_parser = values::network)]
    pub(super) deny: Vec<IpNet>,

    /// Read no more frames a second than this from a connection, after as many at
    /// once [default: no limit]
    #[arg(long, env = "HAWK_RATE_LIMIT", value_name = "N", value_parser = values::limit)]
    pub(super) rate_limit: Option<NonZeroU32>,

    /// Memory that receive buffers may take
    #[arg(long, env = "HAWK_POOL_LIMIT", value_name = "SIZE", default_value = "64MiB", value_parser = values::size)]
    pub(super) pool_limit: usize,

    /// Replies that all agents together may leave unread; above this limit, connections
    /// with unread replies are paused
    #[arg(long, env = "HAWK_OUTPUT_LIMIT", value_name = "SIZE", default_value = "64MiB", value_parser = values::size)]
    pub(super) output_limit: usize,

    /// Close a connection on which no frame passed for this long (or for three
    /// times the interval of its own heartbeats, if that is longer)
    #[arg(long, env = "HAWK_IDLE_TIMEOUT", value_name = "TIME", default_value = "90s", value_parser = values::period)]
    pub(super) idle_timeout: Duration,

    /// Close a connection whose frame, once begun, does not end within this time
    #[arg(long, env = "HAWK_FRAME_TIMEOUT", value_name = "TIME", default_value = "10s", value_parser = values::period)]
    pub(super) frame_timeout: Duration,

    /// When stopping, give agents this long to take their last replies
    #[arg(long, env = "HAWK_DRAIN_TIMEOUT", value_name = "TIME", default_value = "10s", value_parser = values::period)]
    pub(super) drain_timeout: Duration,

    /// Log the statistics this often, unless nothing changed
    #[arg(long, env = "HAWK_STATS_INTERVAL", value_name = "TIME", default_value = "10s", value_parser = values::period)]
    pub(super) stats_interval: Duration,

    /// Store reports in this SQLite file, made if it is not there; none: nowhere
    #[arg(long, env = "HAWK_STORE", value_name = "PATH", default_value = DEFAULT_STORE, value_parser = values::store_path)]
    pub(super) store: StorePath,

    /// As root, use a store in a folder that another user owns or may write: this user can
    /// then replace the store's files
    #[arg(long, env = "HAWK_STORE_OWNER_OK", value_parser = values::switch)]
    pub(super) store_owner_ok: bool,

    /// When to answer a report
    #[arg(long, env = "HAWK_ACK", value_enum, default_value_t)]
    pub(super) ack: AckArg,

    /// Remove reports, events and silent agents that are older than this
    #[arg(long, env = "HAWK_RETAIN", value_name = "TIME", default_value = "30d", value_parser = values::period)]
    pub(super) retain: Duration,

    /// Remove the oldest reports when they take more of the store than this
    #[arg(long, env = "HAWK_RETAIN_SIZE", value_name = "SIZE", default_value = "10GiB", value_parser = values::store_size)]
    pub(super) retain_size: usize,

    /// Remove the oldest reports when the file system has less free space than this, a size
    /// or a percentage of the whole; 0: never
    #[arg(long, env = "HAWK_RETAIN_FREE", value_name = "SIZE|N%", default_value = "5%", value_parser = values::free_space)]
    pub(super) retain_free: FreeSpace,

    /// Remember this many agents at most. A new agent takes the place of the longest silent
    /// agent that is not established (heard in 3 different hours) and has no connection
    #[arg(long, env = "HAWK_MAX_AGENTS", value_name = "N", default_value = "100000", value_parser = values::number(1..=10_000_000_u32))]
    pub(super) max_agents: u32,

    /// An agent that is silent for longer than this is offline [default: three times
    /// the interval of its own heartbeats or regular reports, at least 10s and at most 1h; an
    /// agent that sends neither is not judged]
    #[arg(long, env = "HAWK_OFFLINE_AFTER", value_name = "TIME", value_parser = values::period)]
    pub(super) offline_after: Option<Duration>,

    /// After the start, declare no agent offline for this long
    #[arg(long, env = "HAWK_START_GRACE", value_name = "TIME", default_value = "90s", value_parser = values::period)]
    pub(super) start_grace: Duration,

    /// Run this with sh -c for each change of an agent's state, with the event on its
    /// stdin as one line of JSON; at most 4 at once
    #[arg(long, env = "HAWK_ON_EVENT", value_name = "CMD", value_parser = OsStringValueParser::new().try_map(values::command))]
    pub(super) on_event: Option<OsString>,

    /// Run this with sh -c for changes of agents' states, with all events of a window on its
    /// stdin, each as one line of JSON; at most 2 at once
    #[arg(long, env = "HAWK_ON_EVENTS", value_name = "CMD", value_parser = OsStringValueParser::new().try_map(values::command))]
    pub(super) on_events: Option<OsString>,

    /// Gather events for the --on-events command for this long
    #[arg(long, env = "HAWK_ON_EVENTS_WINDOW", value_name = "TIME", default_value = "1s", value_parser = values::period)]
    pub(super) on_events_window: Duration,

    /// Kill a command of --on-event or --on-events, with its process group, when it takes
    /// longer than this
    #[arg(long, env = "HAWK_ON_EVENT_TIMEOUT", value_name = "TIME", default_value = "10s", value_parser = values::period)]
    pub(super) on_event_timeout: Duration,

    /// Take requests on this Unix socket, from the server's own user: hawk stats, hawk
    /// upgrade, hawk confirm-clock [default: /run/hawk/control, where that folder is the user's own]
    #[arg(long, env = "HAWK_CONTROL", value_name = "PATH")]
    pub(super) control: Option<PathBuf>,

    /// Log each packet as a line, its text escaped
    #[arg(long, env = "HAWK_LOG_PACKETS", value_parser = values::switch)]
    pub(super) log_packets: bool,
}
