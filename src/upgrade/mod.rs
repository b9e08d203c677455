//! Seamless restart: a new process takes over every connection, and no agent notices.
//!
//! The *predecessor* drives an [`Attempt`] between the turns of its event loop; the
//! *successor* goes through a [`Succession`] before its first. `handover` is the line
//! between them; what is said on it, and why in that order, is in `docs/restart.md`.

mod attempt;
mod fault;
mod outcome;
mod succession;

pub use attempt::Attempt;
pub use outcome::{Failure, Progress, Report};
pub use succession::{Inherited, Succeeded, Succession, SuccessionError};

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
