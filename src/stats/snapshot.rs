//! All statistics of one moment.

use hawk_pool::ClassStats;
use hawk_time::Moment;

use super::{HookCounters, ReactorCounters, SessionCounters, StoreCounters, Totals};

/// All statistics of one moment, filled in by the parts that count.
#[derive(Clone, Debug, PartialEq)]
pub struct Statistics {
    /// The moment.
    pub at: Moment,
    /// The server's.
    pub server: ServerStatistics,
    /// The agents'; `None` if the handler keeps none.
    pub agents: Option<AgentStatistics>,
    /// The store's; `None` without a store.
    pub store: Option<StoreStatistics>,
    /// One for each command that is run for events.
    pub hooks: Vec<HookStatistics>,
    /// Hand-overs; `None` before the main loop runs.
    pub restart: Option<RestartStatistics>,
    /// One for each class of receive buffers, the shortest first.
    pub pool: Vec<ClassStats>,
}

/// The reactor's and its sessions' statistics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServerStatistics {
    /// Connections now, including those being closed.
    pub connections: usize,
    /// Bytes of replies queued behind slow sockets now.
    pub unsent: usize,
    /// Replies that wait for a commit now; in the lines `owed`.
    pub pending: usize,
    /// Log lines left out since the start of the process because stderr was not read.
    pub log_left_out: u64,
    /// The reactor's counters.
    pub reactor: ReactorCounters,
    /// The sessions' counters.
    pub sessions: SessionCounters,
}

/// The roster's statistics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AgentStatistics {
    /// Agents now.
    pub known: usize,
    /// Agents online now.
    pub online: usize,
    /// Agents established now.
    pub established: usize,
    /// Packets of new agents that got no place.
    pub refused: u64,
    /// Agents removed to make room for others.
    pub evicted: u64,
    /// Agents now of which no absence is noted.
    pub unwatched: usize,
    /// Agents found cloned since the start of the process: two machines use one name.
    pub cloned: u64,
    /// Milliseconds for which no agent could go offline.
    pub stood_still_ms: u128,
}

/// The store's statistics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreStatistics {
    /// Whether it can be written.
    pub state: StoreState,
    /// The writer's counters, through every hand-over.
    pub counters: StoreCounters,
}

/// Whether the store can be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreState {
    /// The last attempt succeeded.
    Up,
    /// A commit takes unusually long.
    Stalled,
    /// The last attempt failed.
    Down,
}

/// The statistics of one consumer of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HookStatistics {
    /// The first word of its line.
    pub name: &'static str,
    /// Its counters.
    pub counters: HookCounters,
}

/// The statistics of hand-overs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RestartStatistics {
    /// The version of this build.
    pub version: &'static str,
    /// The number of this process in its line of processes; the first is 1.
    pub generation: u32,
    /// Hand-overs that this process rolled back.
    pub rolled_back: u64,
    /// This process's own take-over; `None` for the first process.
    pub take_over: Option<TakeOverStatistics>,
}

/// The statistics of a take-over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TakeOverStatistics {
    /// Connections taken over.
    pub connections: usize,
    /// Bytes of all snapshots.
    pub state_bytes: u64,
    /// Microseconds of copying while the predecessor served.
    pub precopy_us: u128,
    /// Microseconds in which the store committed its last batches.
    pub quiesce_us: u128,
    /// Microseconds from the freeze to the first turn of this process.
    pub pause_us: u128,
}

impl Statistics {
    /// Returns the server's statistics, without those of other parts.
    #[must_use]
    pub const fn new(at: Moment, server: ServerStatistics) -> Self {
        Self {
            at,
            server,
            agents: None,
            store: None,
            hooks: Vec::new(),
            restart: None,
            pool: Vec::new(),
        }
    }

    /// Returns the counts from which rates are computed.
    #[must_use]
    pub const fn totals(&self) -> Totals {
        let ServerStatistics {
            reactor, sessions, ..
        } = &self.server;
        Totals::new(self.at, reactor, sessions)
    }
}
