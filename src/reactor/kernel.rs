//! What the event loop asks of the operating system.
//!
//! The rest of this folder decides; what it decides on comes through these
//! traits. [`Linux`](super::Linux) is the machine that the server runs on;
//! the simulator in `tests/sim` is another one, in which a seed decides what
//! happens, and when.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use crate::session::Wake;
use hawk_time::Moment;

/// Connections that may wait to be accepted. When a fleet reconnects at once,
/// each beyond the backlog loses its SYN and waits a second or more; 4,096 is
/// what Linux clips it to unless `net.core.somaxconn` says otherwise.
pub const BACKLOG: u16 = 4096;

/// An operating system, as far as an event loop needs one.
pub trait Kernel {
    /// A connection's socket. Dropping it closes the connection, unless another process
    /// has it open too.
    type Socket: Socket;
    /// A listening socket. Dropping it resets those who wait in its backlog, likewise.
    type Listener: Accept<Socket = Self::Socket>;

    /// The time.
    fn now(&self) -> Moment;

    /// Listens on `address` with a backlog of [`BACKLOG`], port 0 for any free one.
    ///
    /// # Errors
    /// Whatever bind(2) and its like have to say.
    fn listen(&mut self, address: SocketAddr) -> io::Result<Self::Listener>;

    /// From now on tells of those who come to `listener`, as [`Event::Newcomers`].
    ///
    /// # Errors
    /// Whatever `epoll_ctl(2)` has to say.
    fn watch_listener(&mut self, listener: &mut Self::Listener) -> io::Result<()>;

    /// What ends a [`wait`](Self::wait) from another thread. To be asked for once.
    ///
    /// # Errors
    /// Whatever `eventfd(2)` and `epoll_ctl(2)` have to say.
    fn waker(&mut self) -> io::Result<Wake>;

    /// From now on tells of `socket`, under this token, whenever it becomes ready
    /// for something that it was not ready for before.
    ///
    /// # Errors
    /// Whatever `epoll_ctl(2)` has to say.
    fn watch(&mut self, socket: &mut Self::Socket, token: SocketToken) -> io::Result<()>;

    /// Waits until something happens, or `timeout` is over. A signal ends the wait,
    /// and what there is to tell by then is told all the same.
    ///
    /// # Errors
    /// Whatever `epoll_wait(2)` has to say, interruptions apart.
    fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()>;

    /// What happened during the last [`wait`](Self::wait).
    fn events(&self) -> impl Iterator<Item = Event>;

    /// The signals that have come since the last call.
    fn signals(&mut self) -> Vec<Signal>;
}

/// A connection's socket, which never blocks.
pub trait Socket {
    /// read(2). Fewer bytes than `space` takes mean that no more were there, or
    /// that end of file or urgent data follow.
    ///
    /// # Errors
    /// As read(2).
    fn read(&mut self, space: &mut [u8]) -> io::Result<usize>;

    /// write(2).
    ///
    /// # Errors
    /// As write(2).
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize>;

    /// Sends our end of file behind what was written: shutdown(2).
    ///
    /// # Errors
    /// As shutdown(2).
    fn end_output(&mut self) -> io::Result<()>;

    /// Ends both directions at once, whoever else has the socket open: shutdown(2).
    ///
    /// # Errors
    /// As shutdown(2).
    fn end_both(&mut self) -> io::Result<()>;

    /// Bytes that a read would find now: `FIONREAD`, see tcp(7).
    ///
    /// # Errors
    /// As ioctl(2).
    fn arrived(&self) -> io::Result<u64>;
}

/// A listening socket, which never blocks.
pub trait Accept {
    /// What is accepted.
    type Socket;

    /// Takes one out of the backlog: accept(2).
    ///
    /// # Errors
    /// As accept(2).
    fn accept(&mut self) -> io::Result<(Self::Socket, SocketAddr)>;

    /// The address that was really bound.
    ///
    /// # Errors
    /// As getsockname(2).
    fn local_addr(&self) -> io::Result<SocketAddr>;
}

/// Something that happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Somebody came into the empty backlog.
    Newcomers,
    /// There are [`signals`](Kernel::signals).
    Signals,
    /// Another thread called the waker.
    Woken,
    /// Something that is no connection became ready, see
    /// [`watch_other`](super::Linux::watch_other).
    Other(OtherToken),
    /// A socket became ready.
    Ready(SocketToken, Readiness),
}

/// The name under which a socket is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketToken(pub u64);

/// The name under which something that is no connection is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OtherToken(pub u8);

/// What a socket is ready for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Readiness {
    /// A read would bring something, be it the end of file or an error.
    pub readable: bool,
    /// A write would take something.
    pub writable: bool,
    /// The other side's end of file is in, behind what there is to be read.
    pub end_of_file: bool,
    /// Urgent data is in (tcp(7)).
    pub urgent: bool,
    /// The connection is broken.
    pub broken: bool,
}

/// A request to the whole server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// Stop gently; for the second time, at once.
    Stop,
    /// Log all statistics.
    Statistics,
    /// Hand everything over to a new process.
    Upgrade,
    /// Read the configuration again. There is none yet.
    Reload,
    /// None: a signal of this number, which would otherwise end the process.
    Meaningless(i32),
}
