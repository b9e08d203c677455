//! When what may be said. Both ends keep the same books, each of what it says and what it
//! hears, so that either notices when the other one breaks the order.
//!
//! | phase | predecessor says | successor says | then |
//! |---|---|---|---|
//! | `Silent` | `Hello` | | `Greeted` |
//! | `Greeted` | | `Hello` | `Preparing` |
//! | `Preparing` | | `Ready` | `Ready` |
//! | `Ready` | `Shared` | | `Copying` |
//! | `Copying` | `Batch` | | `Copied` |
//! | `Copied` | | `Ack` | `Copying` |
//! | `Copying` | `Freeze` | | `Frozen` |
//! | `Frozen` | | `Committed` | `Over` |
//! | any but `Over` | | `Refused` | `Over` |
//! | `Frozen`, `Over` | `Stop` | | `Over` |
//!
//! Batches are numbered from 1 without a gap, and one is under way at a time: the two
//! processes take turns, and the descriptors that are under way are those of one message.
//! `Stop` is for a successor that has the token, which the predecessor knows even if it has
//! not heard `Committed`.

use super::message::{ToPredecessor, ToSuccessor};

/// How far the conversation has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Nothing is said yet.
    Silent,
    /// The predecessor has said hello.
    Greeted,
    /// Both have; the successor sets itself up.
    Preparing,
    /// It has.
    Ready,
    /// State is copied.
    Copying,
    /// Some is under way.
    Copied,
    /// The predecessor stands still, and the token is in the successor's hands.
    Frozen,
    /// Nothing more is to be said.
    Over,
}

/// Something was said that is not due.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the message {message} is not due while the hand-over is {phase:?}")]
pub struct OutOfOrder {
    /// What was said.
    pub message: &'static str,
    /// When.
    pub phase: Phase,
}

/// What has been said so far.
#[derive(Clone, Debug)]
pub(super) struct Order {
    phase: Phase,
    batches: u32,
}

impl Order {
    pub(super) const fn new() -> Self {
        Self {
            phase: Phase::Silent,
            batches: 0,
        }
    }

    pub(super) const fn phase(&self) -> Phase {
        self.phase
    }

    /// The number that the next batch is to have.
    pub(super) const fn next_batch(&self) -> u32 {
        self.batches + 1
    }

    /// The predecessor says `message`.
    ///
    /// # Errors
    /// That it is not due; then it counts as not said.
    pub(super) fn predecessor_says<F>(
        &mut self,
        message: &ToSuccessor<F>,
    ) -> Result<(), OutOfOrder> {
        let (name, due) = match message {
            ToSuccessor::Hello(_) => ("Hello", self.phase == Phase::Silent),
            ToSuccessor::Shared { .. } => ("Shared", self.phase == Phase::Ready),
            ToSuccessor::Batch { number, .. } => (
                "Batch",
                self.phase == Phase::Copying && *number == self.next_batch(),
            ),
            ToSuccessor::Freeze { .. } => ("Freeze", self.phase == Phase::Copying),
            ToSuccessor::Stop => ("Stop", matches!(self.phase, Phase::Frozen | Phase::Over)),
        };
        self.expect(name, due)?;
        match message {
            ToSuccessor::Hello(_) => self.phase = Phase::Greeted,
            ToSuccessor::Shared { .. } => self.phase = Phase::Copying,
            ToSuccessor::Batch { .. } => {
                self.batches += 1;
                self.phase = Phase::Copied;
            }
            ToSuccessor::Freeze { .. } => self.phase = Phase::Frozen,
            ToSuccessor::Stop => self.phase = Phase::Over,
        }
        Ok(())
    }

    /// The successor says `message`.
    ///
    /// # Errors
    /// That it is not due; then it counts as not said.
    pub(super) fn successor_says(&mut self, message: &ToPredecessor) -> Result<(), OutOfOrder> {
        let (name, due) = match message {
            ToPredecessor::Hello(_) => ("Hello", self.phase == Phase::Greeted),
            ToPredecessor::Ready => ("Ready", self.phase == Phase::Preparing),
            ToPredecessor::Ack { number } => (
                "Ack",
                self.phase == Phase::Copied && *number == self.batches,
            ),
            ToPredecessor::Committed(_) => ("Committed", self.phase == Phase::Frozen),
            ToPredecessor::Refused { .. } => ("Refused", self.phase != Phase::Over),
        };
        self.expect(name, due)?;
        match message {
            ToPredecessor::Hello(_) => self.phase = Phase::Preparing,
            ToPredecessor::Ready => self.phase = Phase::Ready,
            ToPredecessor::Ack { .. } => self.phase = Phase::Copying,
            ToPredecessor::Committed(_) | ToPredecessor::Refused { .. } => {
                self.phase = Phase::Over;
            }
        }
        Ok(())
    }

    const fn expect(&self, message: &'static str, due: bool) -> Result<(), OutOfOrder> {
        if due {
            Ok(())
        } else {
            let phase = self.phase;
            Err(OutOfOrder { message, phase })
        }
    }
}
