//! Messages between two processes, each with descriptors.
//!
//! A pair of `SOCK_SEQPACKET` sockets (`unix(7)`). A message arrives whole, with all of its
//! descriptors, or not at all: the kernel reports what it omitted (`MSG_TRUNC`, `MSG_CTRUNC`),
//! and such a message is refused. Only [`MessageSocket::wait`] blocks.

use std::io;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::sockopt::{socket_domain, socket_type};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg,
    sendmsg, socketpair,
};
use rustix::process::Pid;

use crate::peer_credentials::PeerCredentials;
use hawk_time::Moment;

/// The greatest number of descriptors in a message: the kernel's `SCM_MAX_FD` (include/net/scm.h),
/// which `unix(7)` states too.
pub const MAX_DESCRIPTORS: usize = 253;

/// The greatest length of a message: room for the longest one, a refusal with its reason.
/// State travels in a [`SealedFile`](super::SealedFile): a message sends its descriptor, as it
/// must fit the socket's send buffer (`socket(7)`, `SO_SNDBUF`), and the state of one
/// connection may be longer.
pub const MAX_MESSAGE: usize = 4096;

/// One socket of the pair.
#[derive(Debug)]
pub struct MessageSocket {
    socket: OwnedFd,
}

/// A received message.
#[derive(Debug)]
pub struct Received {
    /// At least one byte.
    pub bytes: Vec<u8>,
    /// The descriptors in the order in which they were sent, close-on-exec.
    pub descriptors: Vec<OwnedFd>,
}

/// Why a message could not be sent.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// The send buffer is full. The caller tries again when the socket is writable.
    #[error("the other process takes no more messages at present")]
    Full,
    /// More descriptors of this user are in flight than this process may have open
    /// (`ETOOMANYREFS`, `unix(7)`). The caller tries again later. There is no event: other
    /// processes of the user may receive them.
    #[error("too many descriptors are on their way between processes")]
    TooManyInFlight,
    /// The other end is closed.
    #[error("the other process has closed the channel")]
    Gone,
    /// There are more than [`MAX_DESCRIPTORS`].
    #[error("a message takes {MAX_DESCRIPTORS} descriptors at most, not {0}")]
    TooManyDescriptors(usize),
    /// The message is empty or longer than [`MAX_MESSAGE`].
    #[error("a message has 1 to {MAX_MESSAGE} bytes, not {0}")]
    Length(usize),
    /// Something else.
    #[error("cannot send to the other process")]
    Failed(#[source] io::Error),
}

/// Why no message was received.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveError {
    /// There is no message yet.
    #[error("there is no message yet")]
    Empty,
    /// The other end is closed, and every message was received.
    #[error("the other process has closed the channel")]
    Ended,
    /// The message was longer than [`MAX_MESSAGE`] (`MSG_TRUNC`).
    #[error("a message is longer than {MAX_MESSAGE} bytes")]
    TooLong,
    /// The kernel omitted descriptors (`MSG_CTRUNC`), most often because this process may not
    /// have so many open. The received ones are closed again.
    #[error(
        "descriptors were lost on their way, because too many files are open; \
             raise the limit of open files"
    )]
    DescriptorsLost,
    /// Something else.
    #[error("cannot receive from the other process")]
    Failed(#[source] io::Error),
}

impl MessageSocket {
    /// Creates a pair. Returns this process's socket, and the one for another process's stdin.
    ///
    /// # Errors
    /// The error of `socketpair(2)`.
    pub fn pair() -> io::Result<(Self, OwnedFd)> {
        // The other process inherits a duplicate of its socket as stdin, which is
        // non-blocking as well.
        let (ours, theirs) = socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            None,
        )?;
        Ok((Self { socket: ours }, theirs))
    }

    /// Uses `socket` as one socket of a pair.
    ///
    /// # Errors
    /// That the socket has another type, or the error of the kernel.
    pub fn from_socket(socket: OwnedFd) -> io::Result<Self> {
        let kind = (socket_domain(&socket)?, socket_type(&socket)?);
        if kind != (AddressFamily::UNIX, SocketType::SEQPACKET) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "it is a socket of another kind",
            ));
        }
        rustix::io::ioctl_fionbio(&socket, true)?;
        Ok(Self { socket })
    }

    /// Returns the process that created the pair (`SO_PEERCRED`).
    ///
    /// # Errors
    /// The error of `getsockopt(2)`, or that the process is outside this PID namespace.
    pub fn creator(&self) -> io::Result<Pid> {
        PeerCredentials::of(&self.socket)?.process.ok_or_else(|| {
            io::Error::other("the process that created the channel is in another PID namespace")
        })
    }

    /// Uses this process's stdin, and replaces stdin by /dev/null.
    ///
    /// # Errors
    /// That stdin is another type of file, or the error of the kernel.
    pub fn from_stdin() -> io::Result<Self> {
        let channel = Self::from_socket(io::stdin().as_fd().try_clone_to_owned()?)?;
        // A second descriptor would keep the channel open after this one is closed.
        let nothing = std::fs::File::open("/dev/null")?;
        rustix::stdio::dup2_stdin(nothing)?;
        Ok(channel)
    }

    /// Sends a message of `bytes` and `descriptors` whole or not at all.
    ///
    /// # Errors
    /// [`SendError`]; the first two variants may be tried again.
    pub fn send(&self, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> Result<(), SendError> {
        if bytes.is_empty() || bytes.len() > MAX_MESSAGE {
            // An empty message looks like the end.
            return Err(SendError::Length(bytes.len()));
        }
        if descriptors.len() > MAX_DESCRIPTORS {
            return Err(SendError::TooManyDescriptors(descriptors.len()));
        }
        let mut space = [MaybeUninit::uninit(); CONTROL];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
            return Err(SendError::TooManyDescriptors(descriptors.len()));
        }
        let sent = retry(|| {
            sendmsg(
                &self.socket,
                &[IoSlice::new(bytes)],
                &mut control,
                SendFlags::NOSIGNAL | SendFlags::DONTWAIT,
            )
        });
        match sent {
            Ok(_) => Ok(()),
            Err(Errno::AGAIN) => Err(SendError::Full),
            Err(Errno::TOOMANYREFS) => Err(SendError::TooManyInFlight),
            Err(Errno::PIPE | Errno::CONNRESET | Errno::NOTCONN) => Err(SendError::Gone),
            Err(error) => Err(SendError::Failed(error.into())),
        }
    }

    /// Returns the next message, if there is one.
    ///
    /// # Errors
    /// [`ReceiveError`] other than [`Empty`](ReceiveError::Empty).
    pub(super) fn try_receive(&self) -> Result<Option<Received>, ReceiveError> {
        match self.receive() {
            Ok(received) => Ok(Some(received)),
            Err(ReceiveError::Empty) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Returns the next message.
    ///
    /// # Errors
    /// [`ReceiveError`].
    pub fn receive(&self) -> Result<Received, ReceiveError> {
        let mut bytes = vec![0; MAX_MESSAGE];
        let mut space = [MaybeUninit::uninit(); CONTROL];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut take = || {
            retry(|| {
                recvmsg(
                    &self.socket,
                    &mut [IoSliceMut::new(&mut bytes)],
                    &mut control,
                    RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT,
                )
            })
        };
        // If the other end was closed before it read every message, the kernel reports that
        // once, before the messages that it sent (`__skb_try_recv_datagram` in
        // net/core/datagram.c checks for an error first).
        let received = match take() {
            Err(Errno::CONNRESET) => take(),
            received => received,
        };
        let received = received.map_err(|error| match error {
            Errno::AGAIN => ReceiveError::Empty,
            Errno::CONNRESET | Errno::NOTCONN => ReceiveError::Ended,
            error => ReceiveError::Failed(error.into()),
        })?;
        let descriptors: Vec<OwnedFd> = control
            .drain()
            .filter_map(|message| match message {
                RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
                _ => None,
            })
            .flatten()
            .collect();
        if received.flags.contains(ReturnFlags::CTRUNC) {
            return Err(ReceiveError::DescriptorsLost);
        }
        if received.flags.contains(ReturnFlags::TRUNC) {
            return Err(ReceiveError::TooLong);
        }
        if received.bytes == 0 {
            return Err(ReceiveError::Ended);
        }
        bytes.truncate(received.bytes);
        Ok(Received { bytes, descriptors })
    }

    /// Waits for a message or the end. Returns false at the deadline `until`.
    ///
    /// # Errors
    /// The error of `poll(2)`.
    pub fn wait(&self, until: Moment) -> io::Result<bool> {
        wait_readable(&self.socket, until)
    }
}

impl AsFd for MessageSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Bytes of the ancillary data of [`MAX_DESCRIPTORS`].
const CONTROL: usize = rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS));

/// Waits until `descriptor` is readable. Returns false at the deadline `until`.
pub(crate) fn wait_readable(descriptor: impl AsFd, until: Moment) -> io::Result<bool> {
    loop {
        let left = until.since(Moment::now());
        let timeout = Timespec::try_from(left).map_err(|_| io::ErrorKind::InvalidInput)?;
        let mut watched = [PollFd::new(&descriptor, PollFlags::IN)];
        match poll(&mut watched, Some(&timeout)) {
            Ok(0) if left.is_zero() => return Ok(false),
            // A signal, or a timeout that was rounded down.
            Ok(0) | Err(Errno::INTR) => {}
            Ok(_) => return Ok(true),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Retries a system call that a signal interrupts.
pub(super) fn retry<T>(mut call: impl FnMut() -> rustix::io::Result<T>) -> rustix::io::Result<T> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            answer => return answer,
        }
    }
}

#[cfg(test)]
mod tests;
