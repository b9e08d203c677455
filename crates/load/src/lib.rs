//! The load generator: many agents' connections from one thread, every reply
//! checked, latency measured from the moment at which a frame was due.
//!
//! ```text
//! traffic ──frames──► fleet ──bytes──► sockets
//!    ▲                                    │
//!    └──slots freed── expectations ◄──────┘
//!                         └──verdicts──► tally ──► summary
//! ```
//!
//! The engine is the event loop that drives all of them; start reading at [`run`]. Connections that
//! misbehave (`chaos`) run on a thread of their own, so that the engine measures the effect on good
//! agents. Nothing here depends on the server: only the wire format and the name resolution of the
//! client are shared.
//!
//! # Open loop and closed loop
//!
//! In the *open loop* ([`Traffic::Agents`], [`Traffic::Rate`]) a frame is due by the clock,
//! independent of the server. Its *intended send time* is that moment, so a stall of the server or
//! the client counts for every frame that was delayed.
//!
//! In the *closed loop* ([`Traffic::Saturate`]) each connection keeps a fixed number of frames in
//! flight, its *depth*. The intended send time of a frame is when its slot became free, which is
//! when it is sent: both columns of latency are nearly the same.

#![cfg_attr(not(test), deny(clippy::expect_used, clippy::unreachable))]

mod chaos;
mod dial;
mod engine;
mod expectations;
mod fleet;
mod summary;
mod tally;
mod traffic;

use std::io;
use std::net::SocketAddr;
use std::num::{NonZeroU32, NonZeroU64};
use std::time::Duration;

use hawk_client::ClientError;
use hawk_wire::{Encoding, PacketKind};

pub use chaos::{Chaos, Conduct, Counts};
pub use dial::{MOST_SOURCES, resolve, sources_for, watch_descriptors};
pub use engine::run;
pub use expectations::{Batch, Expectations, Verdicts};
pub use summary::{Bucket, ChaosSummary, Client, ErrorCount, Frames, Latency, Quantiles, Summary};
pub use tally::Fault;
pub use traffic::ContentSize;

/// A run: the server, the connections and their traffic.
#[derive(Clone, Debug)]
pub struct Config {
    /// The server as the user wrote it, for messages.
    pub address: String,
    /// The address of the server.
    pub target: SocketAddr,
    /// Connections that carry the traffic.
    pub connections: u32,
    /// Additional connections that send one packet when they are established, and then only
    /// heartbeats.
    pub idle: u32,
    /// The kind of that packet. After a report the heartbeats begin at a random point of their
    /// interval, after a heartbeat the next one is an interval later.
    pub greeting: PacketKind,
    /// Number of source addresses, from 127.0.0.1 on, at most [`MOST_SOURCES`]; with 1 the system
    /// chooses the address.
    pub sources: NonZeroU32,
    /// Time over which the connections are opened; zero opens all at once.
    pub ramp: Duration,
    /// Additional connections that misbehave; `None` without them.
    pub chaos: Option<Chaos>,
    /// The traffic on the connections.
    pub traffic: Traffic,
    /// Time between two heartbeats of a connection; unused by [`Traffic::Saturate`].
    pub heartbeat: Duration,
    /// Time during which frames are sent; `None` if only the count limits the run.
    pub duration: Option<Duration>,
    /// Limit of the frames sent, without those of idle connections; `None` without a limit.
    pub count: Option<u64>,
    /// Length of a report's content.
    pub content: ContentSize,
    /// Encoding of the packets.
    pub encoding: Encoding,
    /// Limit for a reply, and for all pending replies at the end.
    pub reply_timeout: Duration,
}

/// The traffic on the connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Traffic {
    /// Open loop: each connection has senders of one report per interval, at random phases.
    Agents {
        /// Senders on each connection.
        senders: u32,
        /// Time between two reports of one sender.
        interval: Duration,
    },
    /// Open loop: this many reports a second, evenly in time, the connections taking turns.
    Rate(NonZeroU64),
    /// Closed loop: frames encoded beforehand, sent as fast as replies come.
    Saturate {
        /// Frames in flight on each connection.
        depth: NonZeroU32,
        /// The kind of their packets.
        kind: PacketKind,
    },
}

/// The error of a run that could not take place: one line for the user, with the cause in it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct LoadError(String);

impl LoadError {
    /// Returns the error of a failed system call; `what` completes "cannot …".
    fn system(what: &'static str) -> impl Fn(io::Error) -> Self {
        move |source| Self(format!("cannot {what}: {source}"))
    }
}

impl From<ClientError> for LoadError {
    fn from(error: ClientError) -> Self {
        Self(error.to_string())
    }
}
