//! Messages between two processes, each with descriptors.
//!
//! A pair of `SOCK_SEQPACKET` sockets (`unix(7)`): a message arrives whole or not at all,
//! and so do the descriptors with it, because whatever the kernel had to leave out is
//! told (`MSG_TRUNC`, `MSG_CTRUNC`) and makes the message void. Nothing here blocks but
//! [`Channel::wait`].

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

/// Descriptors in one message, at most: the kernel's `SCM_MAX_FD` (include/net/scm.h),
/// which `unix(7)` states too.
pub const MAX_DESCRIPTORS: usize = 253;

/// Bytes of a message, at most: room for the longest there is, which is a refusal with
/// its reason. Whatever grows with the number of connections travels in a file
/// ([`Sealed`](super::Sealed)) whose descriptor is sent, as a message must fit the
/// socket's send buffer (`socket(7)`, `SO_SNDBUF`), and one connection alone may have
/// more than that.
pub const MAX_MESSAGE: usize = 4096;

/// One end.
#[derive(Debug)]
pub struct Channel {
    socket: OwnedFd,
}

/// A message, as it came.
#[derive(Debug)]
pub struct Received {
    /// Its bytes; never none.
    pub bytes: Vec<u8>,
    /// Its descriptors, in the order in which they were sent. Programs that are started
    /// do not inherit them.
    pub descriptors: Vec<OwnedFd>,
}

/// Why a message could not be sent.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// Not now: the other end has not taken enough of what was sent before. To be
    /// tried again when the channel is writable.
    #[error("the other process takes no more messages at present")]
    Full,
    /// Not now: more descriptors are under way between the processes of this user than
    /// this one may have open (`ETOOMANYREFS`, `unix(7)`). To be tried again when the other
    /// end has taken some; others may take part in that count, so there is no event.
    #[error("too many descriptors are on their way between processes")]
    TooManyInFlight,
    /// Never: the other end is closed.
    #[error("the other process has closed the channel")]
    Gone,
    /// Never: more than [`MAX_DESCRIPTORS`].
    #[error("a message takes {MAX_DESCRIPTORS} descriptors at most, not {0}")]
    TooManyDescriptors(usize),
    /// Never: no bytes, or more than [`MAX_MESSAGE`].
    #[error("a message has 1 to {MAX_MESSAGE} bytes, not {0}")]
    Length(usize),
    /// Something else.
    #[error("cannot send to the other process")]
    Failed(#[source] io::Error),
}

/// Why there is no message.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveError {
    /// None has come yet.
    #[error("no message has come yet")]
    Empty,
    /// The other end is closed, and all that it sent was received.
    #[error("the other process has closed the channel")]
    Ended,
    /// It was longer than [`MAX_MESSAGE`], so that its end is lost (`MSG_TRUNC`).
    #[error("a message is longer than {MAX_MESSAGE} bytes")]
    TooLong,
    /// Some of its descriptors are lost (`MSG_CTRUNC`), most often because this process
    /// may not have so many open. Those that came are closed again.
    #[error(
        "descriptors were lost on their way, because too many files are open; \
             raise the limit of open files"
    )]
    DescriptorsLost,
    /// Something else.
    #[error("cannot receive from the other process")]
    Failed(#[source] io::Error),
}

impl Channel {
    /// Our end, and the socket that is to be the other process's stdin.
    ///
    /// # Errors
    /// What `socketpair(2)` says, such as that too many files are open.
    pub fn pair() -> io::Result<(Self, OwnedFd)> {
        // Neither is inherited as it is; the other one comes to be another process's
        // stdin as a duplicate, and is non-blocking there too.
        let (ours, theirs) = socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            None,
        )?;
        Ok((Self { socket: ours }, theirs))
    }

    /// The end that `socket` is.
    ///
    /// # Errors
    /// That it is no such socket, or what the kernel says instead of telling.
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

    /// The process that made the pair, as the kernel noted it then (`SO_PEERCRED`).
    ///
    /// # Errors
    /// The error of `getsockopt(2)`, or that the process is outside this PID namespace.
    pub fn maker(&self) -> io::Result<Pid> {
        PeerCredentials::of(&self.socket)?.process.ok_or_else(|| {
            io::Error::other("the process that made the channel is in another PID namespace")
        })
    }

    /// The end that this process was started with as its stdin, which is /dev/null
    /// from now on.
    ///
    /// # Errors
    /// That stdin is no such socket, or what the kernel says.
    pub fn from_stdin() -> io::Result<Self> {
        let channel = Self::from_socket(io::stdin().as_fd().try_clone_to_owned()?)?;
        // Who started this process must see the channel end when we close it.
        let nothing = std::fs::File::open("/dev/null")?;
        rustix::stdio::dup2_stdin(nothing)?;
        Ok(channel)
    }

    /// Sends a message, which `bytes` and `descriptors` are: all of it, or nothing.
    ///
    /// # Errors
    /// [`SendError`] has what can be tried again, and what cannot.
    pub fn send(&self, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> Result<(), SendError> {
        if bytes.is_empty() || bytes.len() > MAX_MESSAGE {
            // One without bytes would look like the end.
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
        let sent = again(|| {
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

    /// The next message.
    ///
    /// # Errors
    /// [`ReceiveError`]: none has come yet, or none ever will, or it is void.
    pub fn receive(&self) -> Result<Received, ReceiveError> {
        let mut bytes = vec![0; MAX_MESSAGE];
        let mut space = [MaybeUninit::uninit(); CONTROL];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut take = || {
            again(|| {
                recvmsg(
                    &self.socket,
                    &mut [IoSliceMut::new(&mut bytes)],
                    &mut control,
                    RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT,
                )
            })
        };
        // That it left without having read all that we sent is told once, and ahead of what
        // it said before it left (`__skb_try_recv_datagram` in the kernel's
        // net/core/datagram.c looks for an error first).
        let came = match take() {
            Err(Errno::CONNRESET) => take(),
            came => came,
        };
        let came = came.map_err(|error| match error {
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
        if came.flags.contains(ReturnFlags::CTRUNC) {
            return Err(ReceiveError::DescriptorsLost);
        }
        if came.flags.contains(ReturnFlags::TRUNC) {
            return Err(ReceiveError::TooLong);
        }
        if came.bytes == 0 {
            return Err(ReceiveError::Ended);
        }
        bytes.truncate(came.bytes);
        Ok(Received { bytes, descriptors })
    }

    /// Waits until there is something to receive, the other end is closed, or it is
    /// `until`; whether it was one of the former.
    ///
    /// # Errors
    /// What `poll(2)` says.
    pub fn wait(&self, until: Moment) -> io::Result<bool> {
        wait_readable(&self.socket, until)
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Bytes of the ancillary data that [`MAX_DESCRIPTORS`] take.
const CONTROL: usize = rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS));

/// Waits until there is something to read, or it is `until`; whether it was the former.
pub(super) fn wait_readable(descriptor: &OwnedFd, until: Moment) -> io::Result<bool> {
    loop {
        let left = until.since(Moment::now());
        let timeout = Timespec::try_from(left).map_err(|_| io::ErrorKind::InvalidInput)?;
        let mut watched = [PollFd::new(descriptor, PollFlags::IN)];
        match poll(&mut watched, Some(&timeout)) {
            Ok(0) if left.is_zero() => return Ok(false),
            // A signal, or a wait that was rounded down: there may be time left.
            Ok(0) | Err(Errno::INTR) => {}
            Ok(_) => return Ok(true),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Asks again when a signal came in between.
pub(super) fn again<T>(mut ask: impl FnMut() -> rustix::io::Result<T>) -> rustix::io::Result<T> {
    loop {
        match ask() {
            Err(Errno::INTR) => {}
            answer => return answer,
        }
    }
}

#[cfg(test)]
mod tests;
