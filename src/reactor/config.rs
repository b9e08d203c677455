//! How a reactor is told to run, and how it ends.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use super::work::PhaseBudget;
use crate::admission;
use crate::log_sink::LeftOut;
use crate::session::Limits;

/// How the server is to run.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where to listen; port 0 picks a free one.
    pub listen: SocketAddr,
    /// Connections beyond this many are turned away.
    pub max_connections: usize,
    /// Who may connect.
    pub admission: admission::Rules,
    /// Bytes of memory that receive buffers may take.
    pub pool_limit: usize,
    /// Bytes of replies that all agents together may leave unread before only those
    /// are read from that have read all of theirs.
    pub output_limit: usize,
    /// What each phase of a turn may do before the next has its turn.
    pub phase_budget: PhaseBudget,
    /// How long sessions may take over what.
    pub limits: Limits,
    /// How long a stop may take.
    pub drain_timeout: Duration,
    /// Time between two looks at the statistics.
    pub stats_interval: Duration,
    /// How many log lines were left out, to be told with them.
    pub log_left_out: LeftOut,
}

/// Why a reactor could not be made or could not go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The listening socket could not be had.
    #[error("cannot listen on {0}")]
    Listen(SocketAddr, #[source] io::Error),
    /// The pool's limit is too low.
    #[error("cannot make the buffer pool")]
    Pool(#[from] hawk_pool::ConfigError),
    /// The kernel refused what every event loop needs.
    #[error("cannot run the event loop")]
    EventLoop(#[from] io::Error),
}

/// How a server that was told to stop came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Everyone was answered and gone, or the drain timeout was over.
    Drained,
    /// A second signal ended it at once.
    Interrupted,
}
