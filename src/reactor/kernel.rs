//! The operating system, as the event loop sees it.
//!
//! All input of the event loop but the handler's comes through these traits.
//! [`Linux`](super::Linux) implements them with mio; the simulator in `tests/sim` implements
//! them with simulated sockets; a seed decides their events and errors.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use crate::session::Wake;
use hawk_time::Moment;

/// The most connections that wait to be accepted. When a fleet reconnects at once, each
/// connection beyond the backlog loses its SYN and waits a second or more. Linux limits the
/// backlog to 4,096 by default (`net.core.somaxconn`).
pub const BACKLOG: u16 = 4096;

/// An operating system.
pub trait Kernel {
    /// The socket of a connection. Dropping it closes the connection, unless another process
    /// has it open.
    type Socket: Socket;
    /// A listening socket. Dropping it resets the connections in its backlog, likewise.
    type Listener: Accept<Socket = Self::Socket>;

    /// Returns the time.
    fn now(&self) -> Moment;

    /// Listens on `address` with a backlog of [`BACKLOG`]; port 0 picks a free one.
    ///
    /// # Errors
    /// As socket(2), bind(2) and listen(2).
    fn listen(&mut self, address: SocketAddr) -> io::Result<Self::Listener>;

    /// Reports new connections in the backlog of `listener` from now on, as
    /// [`Event::Incoming`] with this tag.
    ///
    /// # Errors
    /// As `epoll_ctl(2)`.
    fn watch_listener(&mut self, listener: &mut Self::Listener, tag: ListenerTag)
    -> io::Result<()>;

    /// Makes a waker that ends a [`wait`](Self::wait) from another thread. Called once.
    ///
    /// # Errors
    /// As `eventfd(2)` and `epoll_ctl(2)`.
    fn waker(&mut self) -> io::Result<Wake>;

    /// Reports changes in the readiness of `socket` from now on, under this token:
    /// edge-triggered.
    ///
    /// # Errors
    /// As `epoll_ctl(2)`.
    fn watch(&mut self, socket: &mut Self::Socket, token: SocketToken) -> io::Result<()>;

    /// Waits for events, until `timeout` at most. A signal ends the wait, but does not lose
    /// events.
    ///
    /// # Errors
    /// As `epoll_wait(2)`, without `EINTR`.
    fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()>;

    /// Yields the events of the last [`wait`](Self::wait).
    fn events(&self) -> impl Iterator<Item = Event>;

    /// Returns the signals received since the last call.
    fn signals(&mut self) -> Vec<Signal>;
}

/// The non-blocking socket of a connection.
pub trait Socket {
    /// read(2). A short read means that there was no more data, or that the end of file or
    /// urgent data follows.
    ///
    /// # Errors
    /// As read(2).
    fn read(&mut self, space: &mut [u8]) -> io::Result<usize>;

    /// write(2).
    ///
    /// # Errors
    /// As write(2).
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize>;

    /// Sends the end of file behind what was written: shutdown(2).
    ///
    /// # Errors
    /// As shutdown(2).
    fn end_output(&mut self) -> io::Result<()>;

    /// Ends both directions at once, for every process that has the socket: shutdown(2).
    ///
    /// # Errors
    /// As shutdown(2).
    fn end_both(&mut self) -> io::Result<()>;

    /// Returns how many bytes there are to read now: `FIONREAD`, see tcp(7).
    ///
    /// # Errors
    /// As ioctl(2).
    fn arrived(&self) -> io::Result<u64>;
}

/// A non-blocking listening socket.
pub trait Accept {
    /// The socket of an accepted connection.
    type Socket;

    /// Takes a connection out of the backlog: accept(2).
    ///
    /// # Errors
    /// As accept(2).
    fn accept(&mut self) -> io::Result<(Self::Socket, SocketAddr)>;

    /// Returns the address that was bound.
    ///
    /// # Errors
    /// As getsockname(2).
    fn local_addr(&self) -> io::Result<SocketAddr>;
}

/// An event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A connection came into the empty backlog of this listener.
    Incoming(ListenerTag),
    /// There are [`signals`](Kernel::signals).
    Signals,
    /// Another thread called the waker.
    Woken,
    /// A descriptor of the driver became ready, see
    /// [`watch_other`](super::Linux::watch_other).
    Other(OtherToken),
    /// The socket of a connection became ready.
    Ready(SocketToken, Readiness),
}

/// The name of a listener in the reactor's table and in events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenerTag(pub u8);

impl ListenerTag {
    /// The listener for agents.
    pub const AGENTS: Self = Self(0);
}

/// The name of a socket in events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketToken(pub u64);

/// The name of a descriptor of the driver in events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OtherToken(pub u8);

/// The readiness of a socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Readiness {
    /// There is data, the end of file or an error to read.
    pub readable: bool,
    /// There is room to write.
    pub writable: bool,
    /// The agent's end of file has arrived, behind the data.
    pub end_of_file: bool,
    /// Urgent data has arrived (tcp(7)).
    pub urgent: bool,
    /// The connection is broken.
    pub broken: bool,
}

/// The meaning of a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// Drain and stop; the second one stops at once.
    Stop,
    /// Log all statistics.
    Statistics,
    /// Hand over to a new process.
    Upgrade,
    /// Read the configuration again; there is none yet.
    Reload,
    /// No meaning: a signal with this number, which would end the process if not caught.
    Meaningless(i32),
}
