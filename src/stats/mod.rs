//! What the server did, counted, and the log lines that tell it.

mod cause;
mod lines;

pub use cause::Cause;
pub(crate) use lines::server_line;
pub use lines::{Figures, Mark, Statistics, StatsLog};

/// Counts of the reactor's own doings since the start. What the agents sent is
/// counted in [`Tally`](crate::session::Tally).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Connections accepted, those refused at the limit included.
    pub accepted: u64,
    /// Failed attempts to accept, most often for want of descriptors.
    pub accept_errors: u64,
    /// Bytes read from agents.
    pub bytes_in: u64,
    /// Bytes written to agents.
    pub bytes_out: u64,
    /// Calls of read that brought something.
    pub reads: u64,
    /// Times that a connection had to wait for the store before it was read.
    pub held: u64,
    /// Times that an agent was read more slowly because it sent more than it may.
    pub rate_limited: u64,
    /// Times that the limit of unsent replies was reached.
    pub output_limited: u64,
    /// Calls of write that took something.
    pub writes: u64,
    pub(crate) closed: ByCause,
}

/// How many connections ended, by cause; in the order of [`Cause::ALL`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ByCause(pub(crate) [u64; Cause::ALL.len()]);

impl Counters {
    /// Counts a connection that ended.
    pub fn closed(&mut self, cause: Cause) {
        // The order of `ALL` is the order of the declaration.
        self.closed.0[cause as usize] += 1;
    }

    /// How many connections ended, by cause.
    pub fn closings(&self) -> impl Iterator<Item = (Cause, u64)> {
        Cause::ALL.into_iter().zip(self.closed.0)
    }

    /// How many connections ended for `cause`.
    #[must_use]
    pub const fn closed_by(&self, cause: Cause) -> u64 {
        self.closed.0[cause as usize]
    }
}
