//! One end of the channel, for the process that has it: sends and receives typed messages,
//! and refuses a message in the wrong phase.
//!
//! Both ends track the phase by the messages that they send and receive:
//!
//! | phase | predecessor sends | successor sends | next phase |
//! |---|---|---|---|
//! | `Start` | `Hello` | | `Greeted` |
//! | `Greeted` | | `Hello` | `Preparing` |
//! | `Preparing` | | `Ready` | `Ready` |
//! | `Ready` | `Shared` | | `Copying` |
//! | `Copying` | `Batch` | | `Copied` |
//! | `Copied` | | `Ack` | `Copying` |
//! | `Copying` | `Freeze` | | `Frozen` |
//! | `Frozen` | | `Committed` | `Done` |
//! | any but `Done` | | `Refused` | `Done` |
//! | `Frozen`, `Done` | `Stop` | | `Done` |
//!
//! Batches are numbered from 1 without a gap. One batch is under way at a time, so the
//! descriptors in flight are those of one message. `Stop` is for a successor that has the
//! token, which the predecessor detects even without a `Committed`.

use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::process::Pid;

use super::message::{InvalidMessage, ToPredecessor, ToSuccessor};
use super::socket::{MessageSocket, ReceiveError, SendError};
use hawk_time::Moment;

/// Marks the predecessor's end.
#[derive(Debug)]
pub enum Predecessor {}

/// Marks the successor's end.
#[derive(Debug)]
pub enum Successor {}

/// The end of the process that `Role` names.
#[derive(Debug)]
pub struct Channel<Role> {
    socket: MessageSocket,
    state: ProtocolState,
    role: PhantomData<Role>,
}

/// Why a message was not sent or received.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// The message was not sent. The first two variants of [`SendError`] may be tried again.
    #[error(transparent)]
    Send(SendError),
    /// The channel ended, or the received message is incomplete.
    #[error(transparent)]
    Receive(ReceiveError),
    /// The received message cannot be decoded.
    #[error(transparent)]
    InvalidMessage(#[from] InvalidMessage),
    /// The message is not allowed in this phase.
    #[error(transparent)]
    UnexpectedMessage(#[from] UnexpectedMessage),
}

impl Channel<Predecessor> {
    /// Creates a channel. Returns it and the socket for the successor's stdin.
    ///
    /// # Errors
    /// The error of `socketpair(2)`.
    pub fn open() -> io::Result<(Self, OwnedFd)> {
        let (socket, theirs) = MessageSocket::pair()?;
        Ok((Self::on(socket), theirs))
    }

    /// Sends `message` whole or not at all.
    ///
    /// # Errors
    /// [`ChannelError`] if the message is not allowed now, or was not sent.
    pub fn send<F: AsFd>(&mut self, message: &ToSuccessor<F>) -> Result<(), ChannelError> {
        let after = self.state.after_predecessor(message)?;
        let (bytes, descriptors) = message.encode();
        self.send_bytes(&bytes, &descriptors, after)
    }

    /// Returns the successor's next message, if there is one.
    ///
    /// # Errors
    /// [`ChannelError`] if the channel ended, or the message is invalid.
    pub fn receive(&mut self) -> Result<Option<ToPredecessor>, ChannelError> {
        let Some(received) = self.socket.try_receive().map_err(ChannelError::Receive)? else {
            return Ok(None);
        };
        let message = ToPredecessor::decode(&received.bytes, &received.descriptors)?;
        self.state = self.state.after_successor(&message)?;
        Ok(Some(message))
    }

    /// Returns the number of the next batch, in the phase in which a batch or a freeze is
    /// allowed.
    #[must_use]
    pub const fn next_batch(&self) -> Option<u32> {
        match self.state.phase {
            ProtocolPhase::Copying => Some(self.state.batches + 1),
            _ => None,
        }
    }
}

impl Channel<Successor> {
    /// Creates the end on a `socket` that no message has used.
    #[must_use]
    pub const fn new(socket: MessageSocket) -> Self {
        Self::on(socket)
    }

    /// Returns the predecessor's process id.
    ///
    /// # Errors
    /// The error of `getsockopt(2)`.
    pub fn predecessor(&self) -> io::Result<Pid> {
        self.socket.creator()
    }

    /// Sends `message`.
    ///
    /// # Errors
    /// [`ChannelError`] if the message is not allowed now, or was not sent.
    pub fn send(&mut self, message: &ToPredecessor) -> Result<(), ChannelError> {
        let after = self.state.after_successor(message)?;
        self.send_bytes(&message.encode(), &[], after)
    }

    /// Returns the predecessor's next message, if there is one.
    ///
    /// # Errors
    /// [`ChannelError`] if the channel ended, or the message is invalid.
    pub fn receive(&mut self) -> Result<Option<ToSuccessor<OwnedFd>>, ChannelError> {
        let Some(received) = self.socket.try_receive().map_err(ChannelError::Receive)? else {
            return Ok(None);
        };
        let message = ToSuccessor::decode(&received.bytes, received.descriptors)?;
        self.state = self.state.after_predecessor(&message)?;
        Ok(Some(message))
    }
}

impl<Role> Channel<Role> {
    const fn on(socket: MessageSocket) -> Self {
        Self {
            socket,
            state: ProtocolState {
                phase: ProtocolPhase::Start,
                batches: 0,
            },
            role: PhantomData,
        }
    }

    /// Returns the phase of the protocol.
    #[must_use]
    pub const fn phase(&self) -> ProtocolPhase {
        self.state.phase
    }

    /// Waits for a message or the end of the channel. Returns false at the deadline `until`.
    /// No other method of the channel blocks.
    ///
    /// # Errors
    /// The error of `poll(2)`.
    pub fn wait(&self, until: Moment) -> io::Result<bool> {
        self.socket.wait(until)
    }

    fn send_bytes(
        &mut self,
        bytes: &[u8],
        descriptors: &[BorrowedFd<'_>],
        after: ProtocolState,
    ) -> Result<(), ChannelError> {
        let sent = self.socket.send(bytes, descriptors);
        sent.map_err(ChannelError::Send)?;
        self.state = after;
        Ok(())
    }
}

impl<Role> AsFd for Channel<Role> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The progress of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProtocolPhase {
    /// No message was sent.
    Start,
    /// The predecessor has sent its `Hello`.
    Greeted,
    /// Both have sent their `Hello`; the successor prepares.
    Preparing,
    /// The successor is ready.
    Ready,
    /// State is copied; no batch is under way.
    Copying,
    /// A batch is under way.
    Copied,
    /// The predecessor has frozen, and the successor can take the token.
    Frozen,
    /// The hand-over is complete or refused.
    Done,
}

/// A message that is not allowed in this phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the message {message} is not allowed in the phase {phase:?} of the hand-over")]
pub struct UnexpectedMessage {
    /// The kind of the message.
    pub message: &'static str,
    /// The phase.
    pub phase: ProtocolPhase,
}

#[derive(Clone, Copy, Debug)]
struct ProtocolState {
    phase: ProtocolPhase,
    /// The number of the last batch.
    batches: u32,
}

impl ProtocolState {
    /// Returns the state after a message of the predecessor.
    fn after_predecessor<F>(self, message: &ToSuccessor<F>) -> Result<Self, UnexpectedMessage> {
        use ProtocolPhase::{Copied, Copying, Done, Frozen, Greeted, Ready, Start};
        let mut batches = self.batches;
        let phase = match (message, self.phase) {
            (ToSuccessor::Hello(_), Start) => Greeted,
            (ToSuccessor::Shared { .. }, Ready) => Copying,
            (ToSuccessor::Batch { number, .. }, Copying) if *number == batches + 1 => {
                batches += 1;
                Copied
            }
            (ToSuccessor::Freeze { .. }, Copying) => Frozen,
            (ToSuccessor::Stop, Frozen | Done) => Done,
            _ => return Err(self.unexpected(message.kind())),
        };
        Ok(Self { phase, batches })
    }

    /// Returns the state after a message of the successor.
    fn after_successor(self, message: &ToPredecessor) -> Result<Self, UnexpectedMessage> {
        use ProtocolPhase::{Copied, Copying, Done, Frozen, Greeted, Preparing, Ready};
        let phase = match (message, self.phase) {
            (ToPredecessor::Hello(_), Greeted) => Preparing,
            (ToPredecessor::Ready, Preparing) => Ready,
            (ToPredecessor::Ack { number }, Copied) if *number == self.batches => Copying,
            (ToPredecessor::Committed(_), Frozen) => Done,
            (ToPredecessor::Refused { .. }, phase) if phase != Done => Done,
            _ => return Err(self.unexpected(message.kind())),
        };
        Ok(Self { phase, ..self })
    }

    const fn unexpected(self, message: &'static str) -> UnexpectedMessage {
        let phase = self.phase;
        UnexpectedMessage { message, phase }
    }
}

#[cfg(test)]
mod tests;
