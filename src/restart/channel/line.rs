//! The line between both processes: messages over a channel, in their order. Each process
//! has its own end, which says only what that process may say.

use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::process::Pid;

use super::message::{BadMessage, ToPredecessor, ToSuccessor};
use super::order::{Order, OutOfOrder, Phase};
use super::socket::{Channel, ReceiveError, Received, SendError};
use hawk_time::Moment;

/// The end that speaks as the predecessor.
#[derive(Debug)]
pub enum Predecessor {}

/// The end that speaks as the successor.
#[derive(Debug)]
pub enum Successor {}

/// One end, in the hands of the process that it is named after.
#[derive(Debug)]
pub struct Line<Role> {
    channel: Channel,
    order: Order,
    role: PhantomData<Role>,
}

/// What became of a message that was not refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sending {
    /// It is on its way.
    Sent,
    /// It is not: to be sent again once the channel is writable.
    Full,
    /// It is not: to be sent again after a while ([`SendError::TooManyInFlight`]).
    TooManyInFlight,
}

/// Why a hand-over cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum LineError {
    /// A message cannot be sent, now or ever.
    #[error(transparent)]
    Send(SendError),
    /// None comes any more, or one came that is void.
    #[error(transparent)]
    Receive(ReceiveError),
    /// The other process said what is no message.
    #[error(transparent)]
    BadMessage(#[from] BadMessage),
    /// One of the two said what is not due.
    #[error(transparent)]
    OutOfOrder(#[from] OutOfOrder),
}

impl Line<Predecessor> {
    /// A new line, and the socket that is to be the successor's stdin.
    ///
    /// # Errors
    /// What `socketpair(2)` says.
    pub fn open() -> io::Result<(Self, OwnedFd)> {
        let (channel, theirs) = Channel::pair()?;
        Ok((Self::over(channel), theirs))
    }

    /// Sends `message`, all of it or nothing.
    ///
    /// # Errors
    /// [`LineError`], if it is not due, or nobody will ever receive it.
    pub fn send<F: AsFd>(&mut self, message: &ToSuccessor<F>) -> Result<Sending, LineError> {
        let mut order = self.order.clone();
        order.predecessor_says(message)?;
        let (bytes, descriptors) = message.encode();
        self.say(&bytes, &descriptors, order)
    }

    /// What the successor said next, if it has said something.
    ///
    /// # Errors
    /// [`LineError`], if it says nothing more, or what makes no sense.
    pub fn receive(&mut self) -> Result<Option<ToPredecessor>, LineError> {
        let Some(received) = self.hear()? else {
            return Ok(None);
        };
        let message = ToPredecessor::decode(&received.bytes, &received.descriptors)?;
        self.order.successor_says(&message)?;
        Ok(Some(message))
    }

    /// The number that the next batch is to have, if there may be one now: if state is
    /// copied, and none is under way. Nor may there be a freeze otherwise.
    #[must_use]
    pub const fn next_batch(&self) -> Option<u32> {
        match self.order.phase() {
            Phase::Copying => Some(self.order.next_batch()),
            _ => None,
        }
    }
}

impl Line<Successor> {
    /// The line that `channel` is, on which nothing was said yet.
    #[must_use]
    pub const fn new(channel: Channel) -> Self {
        Self::over(channel)
    }

    /// The predecessor's process.
    ///
    /// # Errors
    /// What `getsockopt(2)` says.
    pub fn predecessor(&self) -> io::Result<Pid> {
        self.channel.maker()
    }

    /// Sends `message`.
    ///
    /// # Errors
    /// [`LineError`], if it is not due, or nobody will ever receive it.
    pub fn send(&mut self, message: &ToPredecessor) -> Result<Sending, LineError> {
        let mut order = self.order.clone();
        order.successor_says(message)?;
        self.say(&message.encode(), &[], order)
    }

    /// What the predecessor said next, if it has said something.
    ///
    /// # Errors
    /// [`LineError`], if it says nothing more, or what makes no sense.
    pub fn receive(&mut self) -> Result<Option<ToSuccessor<OwnedFd>>, LineError> {
        let Some(received) = self.hear()? else {
            return Ok(None);
        };
        let message = ToSuccessor::decode(&received.bytes, received.descriptors)?;
        self.order.predecessor_says(&message)?;
        Ok(Some(message))
    }
}

impl<Role> Line<Role> {
    const fn over(channel: Channel) -> Self {
        Self {
            channel,
            order: Order::new(),
            role: PhantomData,
        }
    }

    /// How far the conversation has come.
    #[must_use]
    pub const fn phase(&self) -> Phase {
        self.order.phase()
    }

    /// Waits for the other process to say something or to end; whether it did, before it
    /// was `until`. Nothing else on this line waits.
    ///
    /// # Errors
    /// What `poll(2)` says.
    pub fn wait(&self, until: Moment) -> io::Result<bool> {
        self.channel.wait(until)
    }

    /// Sends what brings the conversation to `then`. What can be tried again is no error.
    fn say(
        &mut self,
        bytes: &[u8],
        descriptors: &[BorrowedFd<'_>],
        then: Order,
    ) -> Result<Sending, LineError> {
        match self.channel.send(bytes, descriptors) {
            Ok(()) => {
                self.order = then;
                Ok(Sending::Sent)
            }
            Err(SendError::Full) => Ok(Sending::Full),
            Err(SendError::TooManyInFlight) => Ok(Sending::TooManyInFlight),
            Err(error) => Err(LineError::Send(error)),
        }
    }

    fn hear(&self) -> Result<Option<Received>, LineError> {
        match self.channel.receive() {
            Ok(received) => Ok(Some(received)),
            Err(ReceiveError::Empty) => Ok(None),
            Err(error) => Err(LineError::Receive(error)),
        }
    }
}

/// To be watched.
impl<Role> AsFd for Line<Role> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }
}

#[cfg(test)]
mod tests;
