//! Seamless restart: a new process takes over every connection, and no agent notices.
//!
//! The *predecessor* advances a [`HandOver`] between the turns of its event loop; the
//! *successor* completes a [`TakeOver`] before its first turn. Knows the reactor, the handler
//! and the store's lock, and nothing of the control socket or the service manager. Start reading
//! at `docs/restart.md`, which describes the messages and the reason for their order, and then
//! at [`HandOver::advance`].
//!
//! ```text
//! predecessor   the process that hands over: copies its state while it serves
//! successor     the process that takes over: adopts that state before its first turn
//! program       the program and the process of a successor
//! channel       messages with descriptors between the two processes
//! snapshot      state to bytes and back; pure computation
//! fault         failures on demand, for tests
//! ```

pub mod channel;
#[macro_use]
mod fault;
mod predecessor;
mod program;
pub mod snapshot;
mod successor;

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::handler::PacketHandler;
use crate::reactor::{Linux, Reactor};

pub use predecessor::HandOver;
use program::Process;
pub use program::{Binary, SUCCESSOR};
pub use successor::{SharedDescriptors, TakeOver, TakeOverFigures};

/// The reactor of a server. A hand-over moves its state.
pub type ServerReactor = Reactor<PacketHandler, Linux>;

/// Lowers this thread to minimum priority. Closing 15,000 sockets takes 17 ms of CPU time, for
/// which the successor's agents would wait on the same core.
pub fn lower_priority() {
    // setpriority(2) always permits the minimum. If it fails, closing delays the successor.
    let _previous = rustix::process::setpriority_process(None, 19);
}

/// The steps of a hand-over up to the commit. The log and the answer to `hawk upgrade` name the
/// step that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum UpgradeStep {
    /// The predecessor checks the binary.
    Preflight,
    /// The predecessor starts the successor.
    Spawn,
    /// Both processes announce their versions.
    Hello,
    /// The successor sets itself up: its limits, the store, the event loop.
    Prepare,
    /// The predecessor copies connections and agents while it serves.
    PreCopy,
    /// The store commits its last batches and accepts no more.
    Quiesce,
    /// The predecessor stops its event loop and copies the last changes; the successor takes
    /// the token.
    Freeze,
}

impl UpgradeStep {
    /// Returns the step as one word, for the log and for operators.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Preflight => "preflight",
            Self::Spawn => "spawn",
            Self::Hello => "hello",
            Self::Prepare => "prepare",
            Self::PreCopy => "pre-copy",
            Self::Quiesce => "quiesce",
            Self::Freeze => "freeze",
        }
    }
}

impl fmt::Display for UpgradeStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The step at which a hand-over failed, and why. The predecessor continues to serve.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct HandOverFailure {
    /// The step that failed.
    pub step: UpgradeStep,
    /// The reason in one line.
    pub why: String,
}

impl HandOverFailure {
    fn new(step: UpgradeStep, why: &dyn fmt::Display) -> Self {
        let why = why.to_string();
        Self { step, why }
    }
}

/// The progress of a hand-over.
#[derive(Debug)]
pub enum Progress {
    /// It is under way.
    Going,
    /// It is over, and this process serves.
    RolledBack(HandOverFailure),
    /// It is over, and the successor serves. This process must neither read nor write.
    HandedOver(HandOverFigures),
    /// It is over: the successor took over and then ended or stopped answering. This process
    /// must neither read nor write.
    Lost(HandOverFailure),
}

/// The figures of a complete hand-over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HandOverFigures {
    /// The successor's process id.
    pub successor: u32,
    /// The successor's build.
    pub build: String,
    /// The successor's program.
    pub binary: PathBuf,
    /// The successor's generation; that of the first process is 1.
    pub generation: u32,
    /// The format of the snapshots.
    pub format: u16,
    /// The successor's number of connections.
    pub connections: u32,
    /// Bytes of all snapshots.
    pub bytes: u64,
    /// The duration of the copy while agents were served.
    pub precopy: Duration,
    /// The duration of the store's last commit, in which no packet was handled.
    pub quiesce: Duration,
    /// From the stop of this process's event loop to the successor's first turn.
    pub freeze: Duration,
}

/// `key=value` pairs, for the log and the answer to `hawk upgrade`.
impl fmt::Display for HandOverFigures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "generation={} pid={} version={} binary={:?} connections={} pause_us={} \
             precopy_us={} quiesce_us={} state_bytes={} format={}",
            self.generation,
            self.successor,
            self.build,
            self.binary,
            self.connections,
            self.freeze.as_micros(),
            self.precopy.as_micros(),
            self.quiesce.as_micros(),
            self.bytes,
            self.format,
        )
    }
}
