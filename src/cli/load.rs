//! `hawk load`: puts load on a server and checks every reply.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::num::{NonZeroU32, NonZeroU64};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use clap::Args;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use super::clients::{EncodingArg, KindArg, ServerArg};
use super::output;
use super::values::{Portion, duration, number, portion, size};
use crate::descriptors;
use hawk_load::{
    Chaos, Config, ContentSize, MOST_SOURCES, Summary, Traffic, resolve, run, sources_for,
    watch_descriptors,
};

/// Put load on a server, check every reply and measure latency
///
/// Without options this is the load of `make demo`: 7 connections, each
/// with 300 senders of one report a second and a heartbeat every 2 s, for 10 s.
///
/// Latency is measured from the intended send time, so the stall of a server counts for
/// every report that waited. The latency from the actual send time is printed beside it.
///
/// With --chaos some of the connections misbehave, in turn: they corrupt frames by
/// flips, insertions and deletions, cut them off, stall within one, never read, read
/// a byte now and then, reset, half-close, or send junk; then they connect again, with
/// full jitter. The other connections measure the effect on regular agents. Errors of the
/// chaotic connections are counted and do not fail the run, unless the server violates the
/// protocol. Their agents are chaos-1, chaos-2 and so on.
///
/// Exits with 0 only if every reply was right and in time. Ctrl-C ends the run early and
/// prints its figures.
#[derive(Debug, Args)]
pub(super) struct LoadArgs {
    #[command(flatten)]
    server: ServerArg,

    /// Connections that carry the traffic
    #[arg(short, long, value_name = "N", default_value_t = 7, value_parser = number(0..=u32::MAX))]
    connections: u32,

    /// Senders on each connection
    #[arg(long, value_name = "N", default_value_t = 300, value_parser = number(0..=u32::MAX))]
    senders: u32,

    /// Time between two reports of one sender
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = duration)]
    interval: Duration,

    /// Time between two heartbeats of one connection
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = duration)]
    heartbeat: Duration,

    /// The duration of the run [default: 10s, without --count]
    #[arg(short, long, value_name = "TIME", value_parser = duration)]
    duration: Option<Duration>,

    /// Stop after this many frames, without those of idle connections
    #[arg(short = 'n', long, value_name = "N", value_parser = number(0..=u64::MAX))]
    count: Option<u64>,

    /// Send this many reports a second in all, evenly in time, instead of
    /// having senders
    #[arg(short, long, value_name = "N", conflicts_with_all = ["senders", "interval"], value_parser = number(NonZeroU64::MIN..=NonZeroU64::MAX))]
    rate: Option<NonZeroU64>,

    /// Send as fast as replies come (closed loop), instead of by the clock
    #[arg(short, long, conflicts_with_all = ["senders", "interval", "rate"])]
    saturate: bool,

    /// Frames in flight on each connection
    #[arg(long, value_name = "N", default_value = "128", requires = "saturate", value_parser = number(NonZeroU32::MIN..=NonZeroU32::MAX))]
    depth: NonZeroU32,

    /// The packet of a frame in flight
    #[arg(long, value_enum, default_value_t = KindArg::Report, requires = "saturate")]
    kind: KindArg,

    /// Bytes of a report's content [default: 0 to 49 at random]
    #[arg(long, value_name = "BYTES", value_parser = size)]
    size: Option<usize>,

    /// How packets are written into frames
    #[arg(long, value_enum, default_value_t = EncodingArg::Classic)]
    encoding: EncodingArg,

    /// Time over which the connections are opened [default: all at once]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    ramp: Option<Duration>,

    /// Additional connections that send one packet and then only heartbeats
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = number(0..=u32::MAX))]
    idle: u32,

    /// The first packet of an idle connection
    #[arg(long, value_enum, default_value_t = KindArg::Report, requires = "idle")]
    greeting: KindArg,

    /// How many of --connections misbehave: a number (20) or a share (20%)
    #[arg(long, value_name = "N|N%", value_parser = portion)]
    chaos: Option<Portion>,

    /// Repeat the behaviour of the chaotic connections; a run prints its seed
    #[arg(long, value_name = "N", requires = "chaos", value_parser = number(0..=u64::MAX))]
    seed: Option<u64>,

    /// Spread the connections over this many addresses, from 127.0.0.1 on; one address
    /// has ports for some 28,000, and on the server a share of all connections [default:
    /// up to 16, one for each 256 connections, and one for each 7,000 if those are more,
    /// if the server is on 127.0.0.0/8; else 1]
    #[arg(long, value_name = "N", value_parser = number(1..=MOST_SOURCES))]
    sources: Option<u32>,

    /// The limit for a reply
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = duration)]
    reply_timeout: Duration,

    /// Fail if the p99 latency from the intended send time is above this
    #[arg(long, value_name = "TIME", value_parser = duration)]
    max_p99: Option<Duration>,

    /// Also write the figures to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// The duration of a run with neither --duration nor --count.
const DEFAULT_DURATION: Duration = Duration::from_secs(10);

/// The greatest number of senders or frames in flight of all connections: some hundred bytes
/// each.
const MOST_AT_ONCE: u64 = 5_000_000;

/// The number of causes of failure in the line on stderr; the table has all of them.
const MAX_CAUSES: usize = 3;

impl LoadArgs {
    pub(super) fn run(&self) -> anyhow::Result<()> {
        let connections = u64::from(self.connections) + u64::from(self.idle);
        ensure!(
            connections > 0,
            "there is nothing to do without connections; give --connections or --idle"
        );
        ensure!(
            self.chaotic() < self.connections
                || (self.idle > 0 && self.chaotic() == self.connections),
            "of {} connections {} cannot be chaotic, as good ones are needed to measure; \
             give fewer to --chaos, or more --connections",
            self.connections,
            self.chaotic()
        );
        self.check_size()?;
        watch_descriptors(connections, descriptors::raise_limit())?;
        let config = self.config()?;
        // An error of this file ends the command before the run.
        let json = self.json.as_ref().map(|path| {
            File::create(path).with_context(|| format!("cannot create {}", path.display()))
        });
        let json = json.transpose()?;

        let stop = stop_on_signals()?;
        let mut summary = run(&config, &stop)?;
        if let Some(limit) = self.max_p99 {
            summary.limit_p99(limit);
        }
        output::print(&summary.to_string())?;
        if let Some(file) = json {
            write_json(file, &summary).context("cannot write the JSON file")?;
        }
        verdict(&summary)
    }

    /// Returns the number of connections that misbehave.
    fn chaotic(&self) -> u32 {
        self.chaos.map_or(0, |chaos| chaos.of(self.connections))
    }

    /// Bounds the memory of the plan and the frames in flight.
    fn check_size(&self) -> anyhow::Result<()> {
        let (what, each) = match (self.saturate, self.rate) {
            (true, _) => ("frames in flight", self.depth.get()),
            (false, None) => ("senders", self.senders),
            (false, Some(_)) => return Ok(()),
        };
        let connections = self.connections - self.chaotic();
        let all = u64::from(connections) * u64::from(each);
        ensure!(
            all <= MOST_AT_ONCE,
            "{connections} connections with {each} {what} each are more than this client can hold; \
             give {MOST_AT_ONCE} {what} or fewer in all"
        );
        Ok(())
    }

    fn config(&self) -> anyhow::Result<Config> {
        let traffic = if self.saturate {
            Traffic::Saturate {
                depth: self.depth,
                kind: self.kind.into(),
            }
        } else if let Some(rate) = self.rate {
            Traffic::Rate(rate)
        } else {
            Traffic::Agents {
                senders: self.senders,
                interval: self.interval,
            }
        };
        let duration = match (self.duration, self.count) {
            (None, Some(_)) if self.connections > self.chaotic() => None,
            (duration, _) => duration.or(Some(DEFAULT_DURATION)),
        };
        let connections = self.connections - self.chaotic();
        // 32 bits: easy to type again.
        let seed = || self.seed.unwrap_or_else(|| rand::random::<u32>().into());
        let chaos = (self.chaotic() > 0).then(|| Chaos {
            connections: self.chaotic(),
            seed: seed(),
        });
        let target = resolve(self.server.address())?;
        let all = u64::from(self.connections) + u64::from(self.idle);
        let sources = self.sources.and_then(NonZeroU32::new);
        Ok(Config {
            target,
            address: self.server.address().to_owned(),
            connections,
            idle: self.idle,
            chaos,
            greeting: self.greeting.into(),
            sources: sources.unwrap_or_else(|| sources_for(all, target)),
            ramp: self.ramp.unwrap_or_default(),
            traffic,
            heartbeat: self.heartbeat,
            duration,
            count: self.count,
            content: self.size.map_or(ContentSize::Random, ContentSize::Fixed),
            encoding: self.encoding.into(),
            reply_timeout: self.reply_timeout,
        })
    }
}

/// Returns a flag that Ctrl-C sets, so that the run ends early with its figures. A second
/// Ctrl-C ends the process.
fn stop_on_signals() -> anyhow::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&stop))
            .and_then(|_| flag::register(signal, Arc::clone(&stop)))
            .context("cannot watch for Ctrl-C")?;
    }
    Ok(stop)
}

fn write_json(file: File, summary: &Summary) -> anyhow::Result<()> {
    let mut file = BufWriter::new(file);
    serde_json::to_writer_pretty(&mut file, summary)?;
    writeln!(file)?;
    file.flush()?;
    Ok(())
}

/// Returns an error with the causes if the run has failed.
fn verdict(summary: &Summary) -> anyhow::Result<()> {
    if summary.passed {
        return Ok(());
    }
    let mut causes: Vec<_> = summary
        .errors
        .iter()
        .map(|error| format!("{} {}: {}", error.count, error.fault, error.cause))
        .collect();
    let more = causes.len().saturating_sub(MAX_CAUSES);
    causes.truncate(MAX_CAUSES);
    if more > 0 {
        causes.push(format!("{more} more causes in the table"));
    }
    if let Some(limit) = summary.missed_p99() {
        let p99 = Duration::from_nanos(summary.latency.from_intended.p99);
        causes.push(format!("p99 of {p99:.1?} is above --max-p99 {limit:?}"));
    }
    bail!("{} failed the run: {}", summary.address, causes.join("; "))
}
