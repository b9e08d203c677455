//! Counters and statistics.
//!
//! Owns the plain data: the counters that the reactor, the sessions, the store and the commands
//! keep (`counters.rs`), one snapshot of everything ([`Statistics`]), its one encoding so far,
//! `key=value` lines (`lines.rs`), and the log of these lines ([`StatsLog`]).
//!
//! Knows nothing of the parts that count: each fills in its share of a snapshot. An encoding
//! for another reader is another function of [`Statistics`].
//!
//! The lines are also the answer on the control socket, where an operator can read them with
//! `nc`, and where a client and a server of different builds meet: a client prints them as they
//! are. `hawk stats` alone parses them, in `cli::control`, for JSON and for rates of its own.
//!
//! Start at [`Statistics`].

mod counters;
mod lines;
mod log;
mod snapshot;

pub use counters::{Cause, HookCounters, ReactorCounters, SessionCounters, StoreCounters};
pub(crate) use counters::{CountByCause, CountByRefusal};
pub use log::{Rates, StatsLog, Totals};
pub use snapshot::{
    AgentStatistics, HookStatistics, RestartStatistics, ServerStatistics, Statistics, StoreState,
    StoreStatistics, TakeOverStatistics,
};
