//! Seamless restart: a new process takes over every connection, and no agent notices.
//!
//! The *predecessor* drives an [`Attempt`] between the turns of its event loop; the
//! *successor* goes through a [`Succession`] before its first. `docs/restart.md` describes
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

pub use outcome::{Failure, Progress, Report};
pub use predecessor::Attempt;
pub use successor::{Inherited, Succeeded, Succession, SuccessionError};

use crate::handler::Keeper;
use crate::reactor::{Linux, Reactor};

/// Has this thread, whose successor serves, run when nobody else wants the core: closing
/// 15,000 sockets takes 17 ms of it, and agents wait for the successor meanwhile.
pub fn give_way() {
    // The least there is, setpriority(2). It may always be had, and if not, nothing is lost.
    let _as_before = rustix::process::setpriority_process(None, 19);
}

/// The server that is handed over.
pub type Server = Reactor<Keeper, Linux>;
