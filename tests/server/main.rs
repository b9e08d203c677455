//! The server as agents and operators see it: the real binary, on a port of its own, over real
//! sockets.
//!
//! The tests set short time limits by options. They wait with patience for a limit to strike,
//! and check that it does not strike early only where no delay of the machine could look like
//! it.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "clippy.toml allows them in tests, but does not see helpers as such"
)]

mod admission;
mod churn;
mod clients;
mod closing;
mod decoding;
mod fairness;
mod limits;
mod log_sink;
mod output_limit;
mod packet_log;
mod pool;
mod replies;
mod signals;
mod startup;
mod statistics;
mod stop;
mod system_calls;
mod timeouts;
