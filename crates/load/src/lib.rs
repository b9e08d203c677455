//! The load generator: many agents' connections from one thread, every reply
//! checked, latency measured from the moment at which a frame was due.
//!
//! ```text
//! plan ──due──► source ──frames──► fleet ──bytes──► sockets
//!                 ▲                                   │
//!                 └──slots freed── expectations ◄─────┘
//!                                    └──verdicts──► tally ──► summary ──► report
//! ```
//!
//! The engine is the event loop that drives all of them; start there. Connections that
//! misbehave (`chaos`) run on a thread of their own, so that the engine measures what good
//! agents experience. Nothing here depends on the server: only the wire format and the
//! client's dialling are shared.
//!
//! # Open loop and closed loop
//!
//! In the *open loop* ([`Traffic::Agents`], [`Traffic::Rate`]) a frame is due
//! by the clock, whatever the server does. Its *intended send time* is that
//! moment, so a server or client that stalls is charged for every frame that
//! had to wait, not only for the first.
//!
//! In the *closed loop* ([`Traffic::Saturate`]) each connection keeps a fixed
//! number of frames in flight, its *depth*. The intended send time of a frame
//! is when its slot became free, which is when it is sent: both columns of
//! latency are then nearly the same.

#![cfg_attr(not(test), deny(clippy::expect_used, clippy::unreachable))]

mod chaos;
mod dial;
mod engine;
mod expectations;
mod fleet;
mod frames;
mod plan;
mod progress;
mod report;
mod source;
mod summary;
mod tally;
mod timer;

use std::io;
use std::net::SocketAddr;
use std::num::{NonZeroU32, NonZeroU64};
use std::time::Duration;

use hawk_client::DialError;
use hawk_wire::{Encoding, MAX_DATA, PacketKind};

pub use chaos::{Chaos, Conduct, Counts, Ending};
pub use dial::{MOST_SOURCES, resolve, sources_for, watch_descriptors};
pub use engine::run;
pub use expectations::{Batch, Expectations, Verdicts};
pub use frames::ContentSize;
pub use progress::{Progress, Tick};
pub use report::Report;
pub use summary::{Bucket, ChaosSummary, Client, ErrorCount, Frames, Latency, Quantiles, Summary};
pub use tally::Fault;

/// A run: the server, the connections and their traffic.
#[derive(Clone, Debug)]
pub struct Config {
    /// The server as the user wrote it, for messages.
    pub address: String,
    /// The server.
    pub target: SocketAddr,
    /// Connections that carry the traffic.
    pub connections: u32,
    /// Connections besides those that send one packet when they are
    /// established, and only heartbeats from then on.
    pub idle: u32,
    /// What that one packet is. After a report the heartbeats begin anywhere within
    /// their interval, after a heartbeat the next one is an interval later.
    pub greeting: PacketKind,
    /// How many addresses from 127.0.0.1 on the connections come from; with 1
    /// the system chooses.
    pub sources: NonZeroU32,
    /// Over how long the opening of the connections is spread.
    pub ramp: Duration,
    /// Connections besides that misbehave.
    pub chaos: Option<Chaos>,
    /// What the connections carry.
    pub traffic: Traffic,
    /// How often a connection sends a heartbeat, but for saturating ones.
    pub heartbeat: Duration,
    /// For how long frames are sent; `None` where only the count decides.
    pub duration: Option<Duration>,
    /// How many frames are sent at most, those of idle connections aside.
    pub count: Option<u64>,
    /// How long the content of reports is.
    pub content: ContentSize,
    /// How packets are written into frames.
    pub encoding: Encoding,
    /// How long a reply may take, and how long outstanding ones are waited for
    /// at the end.
    pub reply_timeout: Duration,
}

/// What the connections carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Traffic {
    /// Open loop: each connection has so many senders of one report per
    /// interval, their phases spread randomly over it.
    Agents {
        /// Senders on each connection.
        senders: u32,
        /// Time between two reports of one sender.
        interval: Duration,
    },
    /// Open loop: so many reports a second, evenly in time, the connections
    /// taking turns.
    Rate(NonZeroU64),
    /// Closed loop: frames encoded beforehand, as fast as replies come.
    Saturate {
        /// Frames in flight on each connection.
        depth: NonZeroU32,
        /// Which kind of packet they carry.
        kind: PacketKind,
    },
}

/// Why a run could not take place.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// There is no connection.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// The process may not open as many files as there are to be connections.
    #[error(
        "{connections} connections need {needed} open files, but the limit is {limit}; use fewer connections or raise the limit (ulimit -Hn)"
    )]
    TooFewDescriptors {
        /// Connections asked for.
        connections: u64,
        /// Descriptors that takes.
        needed: u64,
        /// The hard limit.
        limit: u64,
    },
    /// The system as a whole, or the process, ran out of descriptors.
    #[error("connection {0} found no free file descriptor; use fewer connections")]
    OutOfDescriptors(usize),
    /// Every port of the source address is taken.
    #[error(
        "connection {0} found no free local port; spread them over more addresses with --sources"
    )]
    OutOfPorts(usize),
    /// Source addresses other than the system's choice exist on IPv4 loopback
    /// only.
    #[error("--sources needs a server on 127.0.0.0/8, {0} is not")]
    SourcesElsewhere(SocketAddr),
    /// The content does not fit a frame.
    #[error(
        "content of {0} bytes does not fit a frame, which carries at most {MAX_DATA} bytes of \
         data; give a smaller --size"
    )]
    Content(usize),
    /// The run was stopped before the traffic began.
    #[error("interrupted before all connections were open")]
    Interrupted,
    /// The operating system refused something else.
    #[error("cannot {what}: {source}")]
    System {
        /// What was attempted.
        what: &'static str,
        /// How it failed.
        source: io::Error,
    },
}
