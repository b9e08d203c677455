//! What becomes of an attempt.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::restart::channel::Step;

/// Why an attempt did not come to its end, and at which step. The server goes on as if
/// there had been none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct HandOverFailure {
    /// The step that failed.
    pub step: Step,
    /// Why, for people to read.
    pub why: String,
}

/// How an attempt stands.
#[derive(Debug)]
pub enum Progress {
    /// It goes on.
    Going,
    /// It is over, and this process serves.
    RolledBack(HandOverFailure),
    /// It is over, and the successor serves: this process must neither read nor write.
    HandedOver(HandOverFigures),
    /// It is over, and nobody is known to serve: the successor has taken over, and then
    /// ended or said no more. This process must neither read nor write.
    Lost(HandOverFailure),
}

/// How a hand-over went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HandOverFigures {
    /// The process that serves now.
    pub successor: u32,
    /// Which build it is.
    pub build: String,
    /// What it was started from.
    pub binary: PathBuf,
    /// Which of the processes, one after the other, that is; the first is 1.
    pub generation: u32,
    /// The format of snapshots in which both processes understood each other.
    pub format: u16,
    /// Connections that it has.
    pub connections: u32,
    /// Bytes of all snapshots.
    pub bytes: u64,
    /// How long it took to copy while agents were served.
    pub precopy: Duration,
    /// How long the store took to commit what it had, during which no packet was taken.
    pub quiesce: Duration,
    /// From the moment at which this process stood still to the successor's first turn.
    pub freeze: Duration,
}

impl HandOverFailure {
    pub(super) fn new(step: Step, why: &dyn fmt::Display) -> Self {
        Self {
            step,
            why: why.to_string(),
        }
    }
}

/// `key=value` pairs, for the log and for who asked.
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
