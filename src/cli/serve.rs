//! `hawk serve`: the server.

use std::ffi::OsString;
use std::io;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::process::ExitCode;
use std::time::Duration;

use anstream::{AutoStream, ColorChoice};
use anyhow::{Context as _, bail};
use clap::builder::{OsStringValueParser, TypedValueParser as _};
use clap::{Args, ValueEnum};
use env_logger::{DEFAULT_WRITE_STYLE_ENV as STYLE, Target, WriteStyle};
use humantime::format_duration;
use ipnet::IpNet;

use super::store_args::DEFAULT_STORE;
use super::values::StorePath;
use super::wire_args::DEFAULT_ADDRESS;
use super::{output, values};
use crate::admission;
use crate::descriptors;
use crate::handler::{self, Ack, Keeper};
use crate::hook::{self, Hook};
use crate::log_sink::{LeftOut, LogSink};
use crate::reactor::{
    Config, Error, Linux, MIN_POOL_LIMIT, PhaseBudget, RESERVED_DESCRIPTORS, Reactor, Stop,
};
use crate::roster;
use crate::session::{Limits, Rate};
use crate::store::{Retention, Store};

/// Agents that are remembered, at most, unless more of them may be connected:
/// with some 300 bytes each this is 30 MB, should something make names up.
const MOST_AGENTS: usize = 100_000;

/// When agents have used up all of the drain timeout, the store still has this long
/// to commit what it was given: many times what that takes, unless the disk hangs.
const STORE_TIME: Duration = Duration::from_secs(3);

/// When a report is answered.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum AckArg {
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
/// stderr (RUST_LOG=debug for more). SIGTERM or SIGINT stops it gently, a second
/// one at once; SIGUSR1 logs the statistics.
#[derive(Debug, Args)]
pub(super) struct ServeArgs {
    /// Where to listen; port 0 picks a free one
    #[arg(
        long,
        env = "HAWK_LISTEN",
        value_name = "ADDR:PORT",
        default_value = DEFAULT_ADDRESS,
        value_parser = values::listen_address
    )]
    listen: SocketAddr,

    /// Connections beyond this many are turned away [default: the limit of open files less 64]
    #[arg(
        long,
        env = "HAWK_MAX_CONNECTIONS",
        value_name = "N",
        value_parser = values::number(1..=u32::MAX)
    )]
    max_connections: Option<u32>,

    /// Connections of one IP address beyond this many are turned away; the addresses
    /// of an IPv6 network of 64 bits count as one [default: no limit]
    #[arg(long, env = "HAWK_MAX_CONNECTIONS_PER_IP", value_name = "N", value_parser = values::limit)]
    max_connections_per_ip: Option<NonZeroU32>,

    /// Take connections from these addresses only; may be given several times
    /// [default: from all]
    #[arg(long, env = "HAWK_ALLOW", value_name = "CIDR", value_delimiter = ',', value_parser = values::network)]
    allow: Vec<IpNet>,

    /// Take no connection from these addresses, even if they are allowed; may be
    /// given several times
    #[arg(long, env = "HAWK_DENY", value_name = "CIDR", value_delimiter = ',', value_parser = values::network)]
    deny: Vec<IpNet>,

    /// Read no more frames a second than this from a connection, after as many at
    /// once [default: no limit]
    #[arg(long, env = "HAWK_RATE_LIMIT", value_name = "N", value_parser = values::limit)]
    rate_limit: Option<NonZeroU32>,

    /// Memory that receive buffers may take
    #[arg(long, env = "HAWK_POOL_LIMIT", value_name = "SIZE", default_value = "64MiB", value_parser = values::size)]
    pool_limit: usize,

    /// Replies that all agents together may leave unread; beyond it, who has unread
    /// replies is not read from
    #[arg(long, env = "HAWK_OUTPUT_LIMIT", value_name = "SIZE", default_value = "64MiB", value_parser = values::size)]
    output_limit: usize,

    /// Close a connection on which no frame passed for this long (or for three
    /// times the interval of its own heartbeats, if that is longer)
    #[arg(long, env = "HAWK_IDLE_TIMEOUT", value_name = "TIME", default_value = "90s", value_parser = values::period)]
    idle_timeout: Duration,

    /// Close a connection whose frame, once begun, does not end within this time
    #[arg(long, env = "HAWK_FRAME_TIMEOUT", value_name = "TIME", default_value = "10s", value_parser = values::period)]
    frame_timeout: Duration,

    /// When stopping, give agents this long to take their last replies
    #[arg(long, env = "HAWK_DRAIN_TIMEOUT", value_name = "TIME", default_value = "10s", value_parser = values::period)]
    drain_timeout: Duration,

    /// Log the statistics this often, unless nothing changed
    #[arg(long, env = "HAWK_STATS_INTERVAL", value_name = "TIME", default_value = "10s", value_parser = values::period)]
    stats_interval: Duration,

    /// Store reports in this SQLite file, made if it is not there; none: nowhere
    #[arg(long, env = "HAWK_STORE", value_name = "PATH", default_value = DEFAULT_STORE, value_parser = values::store_path)]
    store: StorePath,

    /// When to answer a report
    #[arg(long, env = "HAWK_ACK", value_enum, default_value_t)]
    ack: AckArg,

    /// Remove reports, events and silent agents that are older than this
    #[arg(long, env = "HAWK_RETAIN", value_name = "TIME", default_value = "30d", value_parser = values::period)]
    retain: Duration,

    /// Remove the oldest reports when the store holds more than this
    #[arg(long, env = "HAWK_RETAIN_SIZE", value_name = "SIZE", default_value = "10GiB", value_parser = values::store_size)]
    retain_size: usize,

    /// An agent that is silent for longer than this is offline [default: three times
    /// the interval of its own heartbeats, at least 10s and at most 1h]
    #[arg(long, env = "HAWK_OFFLINE_AFTER", value_name = "TIME", value_parser = values::period)]
    offline_after: Option<Duration>,

    /// After the start, declare no agent offline for this long
    #[arg(long, env = "HAWK_START_GRACE", value_name = "TIME", default_value = "30s", value_parser = values::period)]
    start_grace: Duration,

    /// Run this with sh -c for each change of an agent's state, with the event on its
    /// stdin as one line of JSON; at most 4 at once
    #[arg(long, env = "HAWK_ON_EVENT", value_name = "CMD", value_parser = OsStringValueParser::new().try_map(values::command))]
    on_event: Option<OsString>,

    /// Kill such a command, and all it has started, when it takes longer than this
    #[arg(long, env = "HAWK_ON_EVENT_TIMEOUT", value_name = "TIME", default_value = "10s", value_parser = values::period)]
    on_event_timeout: Duration,

    /// Log each packet as a line, its text escaped
    #[arg(long, env = "HAWK_LOG_PACKETS", value_parser = values::switch)]
    log_packets: bool,
}

impl ServeArgs {
    /// Serves, and logs by way of a queue: whoever reads stderr must not hold up the
    /// event loop, nor the end.
    pub(super) fn main(&self, mut logger: env_logger::Builder) -> ExitCode {
        let sink = match LogSink::start(io::stderr()) {
            Ok(sink) => sink,
            Err(error) => {
                let failure = anyhow::Error::new(error).context("cannot start the log's thread");
                return output::conclude(Err(failure));
            }
        };
        let is_auto = matches!(std::env::var(STYLE).as_deref(), Err(_) | Ok("auto"));
        if is_auto && AutoStream::choice(&io::stderr()) != ColorChoice::Never {
            // The logger sees a queue and not what is behind it.
            logger.write_style(WriteStyle::Always);
        }
        logger.target(Target::Pipe(Box::new(sink.writer()))).init();
        output::conclude_on(sink.writer(), self.run(sink.left_out()))
    }

    fn run(&self, log_left_out: LeftOut) -> anyhow::Result<()> {
        let max_connections = self.max_connections()?;
        anyhow::ensure!(
            self.pool_limit >= MIN_POOL_LIMIT,
            "a pool limit of {} bytes is too little; give --pool-limit {MIN_POOL_LIMIT} (136KiB) \
             or more",
            self.pool_limit
        );
        let config = Config {
            listen: self.listen,
            max_connections,
            admission: admission::Rules {
                allow: self.allow.clone(),
                deny: self.deny.clone(),
                per_ip: self.max_connections_per_ip,
            },
            pool_limit: self.pool_limit,
            output_limit: self.output_limit,
            phase_budget: PhaseBudget::default(),
            limits: Limits {
                idle: self.idle_timeout,
                frame: self.frame_timeout,
                rate: self.rate_limit.map(Rate::per_second),
            },
            drain_timeout: self.drain_timeout,
            stats_interval: self.stats_interval,
            log_left_out,
        };
        // Better known before a store is made for nothing.
        Linux::try_bind(self.listen).map_err(|error| Error::Listen(self.listen, error))?;
        // Before signals are taken over: opening a store may take a while, and a signal
        // is to end it.
        let keeper = self.keeper(max_connections)?;
        let kernel = Linux::new().map_err(Error::EventLoop)?;
        let mut reactor = Reactor::new(config, keeper, kernel)?;
        let address = reactor.local_addr().context("cannot tell the address")?;
        log::info!(
            "started version={} listen={address} max_connections={max_connections} pool_limit={} \
             output_limit={} max_connections_per_ip={} rate_limit={} idle_timeout={} \
             frame_timeout={} store={}",
            env!("CARGO_PKG_VERSION"),
            self.pool_limit,
            self.output_limit,
            or_none(self.max_connections_per_ip),
            or_none(self.rate_limit),
            format_duration(self.idle_timeout),
            format_duration(self.frame_timeout),
            match &self.store {
                StorePath::Nowhere => "none".to_owned(),
                StorePath::File(path) => format!("{path:?}"),
            },
        );
        output::print(&format!("listening on {address}\n"))?;
        let stop = drive(&mut reactor)?;
        log::info!("served {}", reactor.served());
        match stop {
            Stop::Drained => {
                let left = reactor.drain_left();
                let for_store = left.max(self.drain_timeout.min(STORE_TIME));
                Ok(reactor.into_handler().finish(for_store, left)?)
            }
            Stop::Interrupted => bail!("stopped at once by a second signal; replies may be lost"),
        }
    }

    /// What takes the packets, with its store open.
    fn keeper(&self, max_connections: usize) -> anyhow::Result<Keeper> {
        let capacity = MOST_AGENTS.max(2 * max_connections);
        let mut keeper = Keeper::new(handler::Config {
            ack: match self.ack {
                AckArg::Committed => Ack::Committed,
                AckArg::Received => Ack::Received,
            },
            roster: roster::Config {
                offline_after: self.offline_after,
                start_grace: self.start_grace,
                capacity,
            },
            remember: self.retain,
            log_packets: self.log_packets,
        });
        if let StorePath::File(path) = &self.store {
            let store = Store::open(path.clone()).context("cannot use the store")?;
            let last = store.last_received()?;
            store.agents(capacity, |agent| keeper.remember(agent))?;
            let retention = Retention {
                age: self.retain,
                size: self.retain_size as u64,
            };
            let intake = store
                .start(retention)
                .context("cannot start the store's thread")?;
            keeper.store_in(intake, last);
        }
        if let Some(command) = self.on_event.clone() {
            let timeout = self.on_event_timeout;
            let hook = Hook::start(hook::Config { command, timeout })
                .context("cannot start the thread for --on-event")?;
            keeper.run_on_changes(hook);
        }
        Ok(keeper)
    }

    /// How many connections there may be, given the limit of open files, which
    /// is raised as far as it goes.
    fn max_connections(&self) -> anyhow::Result<usize> {
        let descriptors = usize::try_from(descriptors::raise_limit()).unwrap_or(usize::MAX);
        let most = descriptors.saturating_sub(RESERVED_DESCRIPTORS);
        anyhow::ensure!(
            most > 0,
            "this process may have {descriptors} files open, and {RESERVED_DESCRIPTORS} are needed \
             before the first connection; raise the limit (ulimit -n, or LimitNOFILE= in the unit)"
        );
        let Some(wanted) = self.max_connections else {
            return Ok(most);
        };
        let wanted = wanted as usize;
        anyhow::ensure!(
            wanted <= most,
            "cannot serve {wanted} connections: this process may have {descriptors} files open, \
             {RESERVED_DESCRIPTORS} of which are needed otherwise; raise the limit \
             (ulimit -n, or LimitNOFILE= in the unit) or give --max-connections {most} or less"
        );
        Ok(wanted)
    }
}

/// Has the loop turn until it has stopped.
fn drive(reactor: &mut Reactor<Keeper, Linux>) -> Result<Stop, Error> {
    loop {
        let stop = reactor.turn(None)?;
        if reactor.upgrade_wanted() {
            log::warn!(
                "SIGUSR2: this version cannot hand over to another while it serves; stop it and \
                 start the other one"
            );
        }
        if let Some(stop) = stop {
            return Ok(stop);
        }
    }
}

/// A limit as the log has it.
fn or_none(limit: Option<NonZeroU32>) -> String {
    limit.map_or_else(|| "none".to_owned(), |limit| limit.to_string())
}
