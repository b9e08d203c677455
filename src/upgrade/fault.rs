//! Faults on demand, so that tests see what either process does when the other one fails at
//! any step. Only builds with debug assertions have them; in others nothing is looked at.
//!
//! The environment variable `HAWK_FAULT` names a file, which is read at each [`Point`]: a
//! test can change it between two attempts, and both processes read the same one. Each line
//! is a point and what happens there, or how long a step may take, in milliseconds:
//!
//! ```text
//! successor:batch hang
//! deadline:pre-copy 50
//! ```

use std::os::fd::AsFd;
#[cfg(debug_assertions)]
use std::os::fd::BorrowedFd;
use std::time::Duration;

#[cfg(debug_assertions)]
use rustix::net::{SendFlags, send};
#[cfg(debug_assertions)]
use rustix::process::{Signal, getpid, kill_process};

use crate::handover::Step;
#[cfg(debug_assertions)]
use crate::handover::{ToPredecessor, ToSuccessor};

/// Names the file.
#[cfg(debug_assertions)]
const VARIABLE: &str = "HAWK_FAULT";

/// Where a process can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Point {
    /// The predecessor has started the successor, and said nothing.
    PredecessorSpawned,
    /// It has said hello.
    PredecessorGreeted,
    /// It hears that the successor is set up.
    PredecessorReady,
    /// It is about to send a batch.
    PredecessorBatch,
    /// It is about to wait for the last commit.
    PredecessorQuiesce,
    /// It stands still, and has not said so.
    PredecessorFreeze,
    /// It has given the token away.
    PredecessorFrozen,
    /// It knows that the successor has taken it.
    PredecessorHandedOver,
    /// The successor has heard hello.
    SuccessorGreeted,
    /// It is set up, and has not said so.
    SuccessorReady,
    /// It has the listener.
    SuccessorShared,
    /// It has heard a batch.
    SuccessorBatch,
    /// It has taken it in.
    SuccessorAck,
    /// It has heard the last snapshot, and has the token within reach.
    SuccessorFreeze,
    /// It is about to take the token.
    SuccessorCommit,
    /// It has taken it, and has not said so.
    SuccessorTaken,
    /// It has said so.
    SuccessorCommitted,
}

#[cfg(debug_assertions)]
impl Point {
    /// As a line of the file has it.
    const fn name(self) -> &'static str {
        match self {
            Self::PredecessorSpawned => "predecessor:spawned",
            Self::PredecessorGreeted => "predecessor:greeted",
            Self::PredecessorReady => "predecessor:ready",
            Self::PredecessorBatch => "predecessor:batch",
            Self::PredecessorQuiesce => "predecessor:quiesce",
            Self::PredecessorFreeze => "predecessor:freeze",
            Self::PredecessorFrozen => "predecessor:frozen",
            Self::PredecessorHandedOver => "predecessor:handed-over",
            Self::SuccessorGreeted => "successor:greeted",
            Self::SuccessorReady => "successor:ready",
            Self::SuccessorShared => "successor:shared",
            Self::SuccessorBatch => "successor:batch",
            Self::SuccessorAck => "successor:ack",
            Self::SuccessorFreeze => "successor:freeze",
            Self::SuccessorCommit => "successor:commit",
            Self::SuccessorTaken => "successor:taken",
            Self::SuccessorCommitted => "successor:committed",
        }
    }
}

/// Has this process fail at this point, if it is to: it ends, hangs, or says on its `line`
/// what it should not.
#[cfg(debug_assertions)]
pub(super) fn at(point: Point, line: &impl AsFd) {
    let Some(word) = word_for(point.name()) else {
        return;
    };
    let rubbish = || b"no message of ours".to_vec();
    let is_successor = point.name().starts_with("successor");
    // Each is a message of its side, and due at no point.
    let untimely = || match is_successor {
        true => ToPredecessor::Ack { number: u32::MAX }.encode(),
        false => ToSuccessor::<BorrowedFd<'_>>::Stop.encode().0,
    };
    let said = match word.as_str() {
        "abort" => kill_process(getpid(), Signal::ABORT).map(|()| Vec::new()),
        "kill" => kill_process(getpid(), Signal::KILL).map(|()| Vec::new()),
        "hang" => hang(),
        "rubbish" => Ok(rubbish()),
        "untimely" => Ok(untimely()),
        _ => return,
    };
    let said = said.and_then(|bytes| send(line, &bytes, SendFlags::NOSIGNAL));
    assert!(said.is_ok(), "a fault that a test asked for: {said:?}");
    if is_successor {
        // As some other program would that does not know what to do with what it hears.
        hang();
    }
}

#[cfg(debug_assertions)]
fn hang() -> ! {
    loop {
        std::thread::park();
    }
}

#[cfg(not(debug_assertions))]
pub(super) const fn at(_point: Point, _line: &impl AsFd) {}

/// How long `step` may take, if not as long as `usual`.
#[cfg(debug_assertions)]
pub(super) fn deadline(step: Step, usual: Duration) -> Duration {
    let word = word_for(&format!("deadline:{step}"));
    let milliseconds = word.and_then(|word| word.parse().ok());
    milliseconds.map_or(usual, Duration::from_millis)
}

#[cfg(not(debug_assertions))]
pub(super) const fn deadline(_step: Step, usual: Duration) -> Duration {
    usual
}

/// The word behind `name` in the file.
#[cfg(debug_assertions)]
fn word_for(name: &str) -> Option<String> {
    let file = std::fs::read_to_string(std::env::var_os(VARIABLE)?).ok()?;
    let mut lines = file.lines().filter_map(|line| line.split_once(' '));
    let (_, word) = lines.find(|(point, _)| *point == name)?;
    Some(word.to_owned())
}
