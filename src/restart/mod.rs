//! Seamless restart: a new process takes over every connection, and no agent notices.
//!
//! The *predecessor* drives an [`HandOver`] between the turns of its event loop; the
//! *successor* goes through a [`TakeOver`] before its first. `docs/restart.md` describes
//! the messages between them and the reason for their order.
//!
//! ```text
//! predecessor   the process that hands over: copies its state while it serves
//! successor     the process that takes over: adopts that state before its first turn
//! channel       messages with descriptors between the two processes
//! snapshot      state to bytes and back; pure computation
//! ```

pub mod channel;
mod fault;
mod outcome;
mod predecessor;
pub mod snapshot;
mod successor;

pub use outcome::{HandOverFailure, HandOverFigures, Progress};
pub use predecessor::HandOver;
pub use successor::{SharedDescriptors, TakeOver, TakeOverError, TakeOverFigures};

use crate::handler::PacketHandler;
use crate::reactor::{Linux, Reactor};

/// Lowers this thread to minimum priority. Closing 15,000 sockets takes 17 ms of CPU time, for
/// which the successor's agents would wait on the same core.
pub fn lower_priority() {
    // setpriority(2) always permits the minimum. If it fails, closing delays the successor.
    let _previous = rustix::process::setpriority_process(None, 19);
}

/// The reactor of a server, whose state a hand-over moves.
pub type ServerReactor = Reactor<PacketHandler, Linux>;
