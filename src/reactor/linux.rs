//! The operating system, by way of mio.

mod listen;
pub(super) mod signals;

use std::fmt;
use std::io;
use std::net::{IpAddr, Shutdown, SocketAddr};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use mio::event::Event as Happened;
use mio::net::{TcpListener, TcpStream};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};
use signal_hook_mio::v1_0::Signals;

use super::kernel::{Accept, Event, Kernel, OtherToken, Readiness, Signal, Socket, SocketToken};
use crate::session::Wake;
use hawk_time::Moment;

/// Events taken from the kernel at once.
const EVENTS: usize = 1024;

const LISTENER: Token = Token(usize::MAX);
const SIGNALS: Token = Token(usize::MAX - 1);
const WAKER: Token = Token(usize::MAX - 2);

/// The first of those for what is no connection: 256 of them, below the ones above. No
/// socket has one of these, for no slot is as high (see [`SocketToken`]).
const OTHERS: usize = usize::MAX - 2 - 256;
const LAST_OTHER: usize = OTHERS + u8::MAX as usize;

// A socket's token must fit mio's.
const _: () = assert!(usize::BITS == u64::BITS, "hawk is for 64-bit machines");

/// The machine that the server runs on.
pub struct Linux {
    poll: Poll,
    events: Events,
    signals: Signals,
}

impl Linux {
    /// Makes what there is to wait with, and takes over the signals.
    ///
    /// # Errors
    /// Whatever `epoll_create(2)` and sigaction(2) have to say.
    pub fn new() -> io::Result<Self> {
        let poll = Poll::new()?;
        let mut signals = signals::catch()?;
        poll.registry()
            .register(&mut signals, SIGNALS, Interest::READABLE)?;
        Ok(Self {
            poll,
            events: Events::with_capacity(EVENTS),
            signals,
        })
    }

    /// The connection of this descriptor, which does not block.
    #[must_use]
    pub fn connection(descriptor: OwnedFd) -> TcpStream {
        TcpStream::from_std(descriptor.into())
    }

    /// Wraps the listening socket of this non-blocking descriptor, own or passed, and limits
    /// the buffers of the sockets that it accepts.
    #[must_use]
    pub fn listener(descriptor: OwnedFd) -> TcpListener {
        if let Err(error) = listen::limit_buffers(&descriptor) {
            log::warn!("cannot limit the buffers of connections: {error}");
        }
        TcpListener::from_std(descriptor.into())
    }

    /// From now on tells of `descriptor`, as [`Event::Other`] under this token, whenever it
    /// becomes ready for reading or writing and was not before: edge-triggered, so
    /// whoever is told goes on until it would block. It is to be
    /// [unwatched](Self::unwatch_other) before it is closed if a duplicate of it lives on.
    ///
    /// # Errors
    /// Whatever `epoll_ctl(2)` has to say.
    pub fn watch_other(
        &mut self,
        descriptor: BorrowedFd<'_>,
        OtherToken(token): OtherToken,
    ) -> io::Result<()> {
        let token = Token(OTHERS + usize::from(token));
        let both = Interest::READABLE | Interest::WRITABLE;
        let mut source = SourceFd(&descriptor.as_raw_fd());
        self.poll.registry().register(&mut source, token, both)
    }

    /// Tells of `descriptor` no more.
    ///
    /// # Errors
    /// Whatever `epoll_ctl(2)` has to say.
    pub fn unwatch_other(&mut self, descriptor: BorrowedFd<'_>) -> io::Result<()> {
        let mut source = SourceFd(&descriptor.as_raw_fd());
        self.poll.registry().deregister(&mut source)
    }

    /// Finds out whether `address` could be listened on at this moment.
    ///
    /// # Errors
    /// Whatever bind(2) has to say, if it could not.
    pub fn try_bind(address: SocketAddr) -> io::Result<()> {
        listen::bind(address).map(drop)
    }
}

impl Kernel for Linux {
    type Socket = TcpStream;
    type Listener = TcpListener;

    fn now(&self) -> Moment {
        Moment::now()
    }

    fn listen(&mut self, address: SocketAddr) -> io::Result<TcpListener> {
        Ok(TcpListener::from_std(listen::listen(address)?.into()))
    }

    fn watch_listener(&mut self, listener: &mut TcpListener) -> io::Result<()> {
        let newcomers = Interest::READABLE;
        self.poll.registry().register(listener, LISTENER, newcomers)
    }

    fn waker(&mut self) -> io::Result<Wake> {
        let waker = Waker::new(self.poll.registry(), WAKER)?;
        Ok(Wake::new(move || {
            // It fails only for want of memory in the kernel; the next one tells.
            let _missed = waker.wake();
        }))
    }

    fn watch(&mut self, socket: &mut TcpStream, SocketToken(token): SocketToken) -> io::Result<()> {
        #[allow(clippy::cast_possible_truncation)] // checked above
        let token = Token(token as usize);
        let both = Interest::READABLE | Interest::WRITABLE | Interest::PRIORITY;
        self.poll.registry().register(socket, token, both)
    }

    fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        // The kernel counts milliseconds, rounded up by mio: never too early.
        let mut timeout = timeout;
        while let Err(error) = self.poll.poll(&mut self.events, timeout) {
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
            // A signal came, or the process stood still for a while. What the
            // kernel had to say is still to be heard: otherwise agents that
            // have sent in time are found late, and a stop overlooks newcomers.
            timeout = Some(Duration::ZERO);
        }
        Ok(())
    }

    fn events(&self) -> impl Iterator<Item = Event> {
        self.events.iter().map(|event| match event.token() {
            LISTENER => Event::Newcomers,
            SIGNALS => Event::Signals,
            WAKER => Event::Woken,
            // What is cut off is zero: there are 256.
            #[allow(clippy::cast_possible_truncation)]
            Token(token @ OTHERS..=LAST_OTHER) => Event::Other(OtherToken((token - OTHERS) as u8)),
            Token(token) => Event::Ready(SocketToken(token as u64), readiness(event)),
        })
    }

    fn signals(&mut self) -> Vec<Signal> {
        self.signals.pending().map(signals::meaning).collect()
    }
}

fn readiness(event: &Happened) -> Readiness {
    Readiness {
        readable: event.is_readable(),
        writable: event.is_writable(),
        end_of_file: event.is_read_closed(),
        urgent: event.is_priority(),
        broken: event.is_error(),
    }
}

impl Socket for TcpStream {
    fn read(&mut self, space: &mut [u8]) -> io::Result<usize> {
        io::Read::read(self, space)
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        io::Write::write(self, bytes)
    }

    fn end_output(&mut self) -> io::Result<()> {
        self.shutdown(Shutdown::Write)
    }

    fn end_both(&mut self) -> io::Result<()> {
        self.shutdown(Shutdown::Both)
    }

    fn arrived(&self) -> io::Result<u64> {
        Ok(rustix::io::ioctl_fionread(self)?)
    }
}

/// The one form of an address: over a listening socket for both families, Linux gives IPv4
/// addresses inside IPv6 ones.
fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        ip @ IpAddr::V4(_) => SocketAddr::new(ip, address.port()),
        IpAddr::V6(_) => address,
    }
}

impl Accept for TcpListener {
    type Socket = TcpStream;

    fn accept(&mut self) -> io::Result<(TcpStream, SocketAddr)> {
        let (socket, peer) = TcpListener::accept(self)?;
        Ok((socket, canonical(peer)))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        TcpListener::local_addr(self)
    }
}

impl fmt::Debug for Linux {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Linux").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::os::fd::AsFd as _;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn what_is_no_connection_is_told_of_under_its_token_until_it_is_watched_no_more() {
        let mut linux = Linux::new().unwrap();
        let told = |linux: &mut Linux, timeout| {
            linux.wait(Some(timeout)).unwrap();
            linux.events().collect::<Vec<_>>()
        };
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        for token in [0, 7, u8::MAX].map(OtherToken) {
            linux.watch_other(ours.as_fd(), token).unwrap();
            assert_eq!(told(&mut linux, Duration::ZERO), [Event::Other(token)]);
            assert_eq!(told(&mut linux, Duration::ZERO), []);
            theirs.write_all(b"x").unwrap();
            let patience = Duration::from_secs(20);
            assert_eq!(told(&mut linux, patience), [Event::Other(token)]);
            linux.unwatch_other(ours.as_fd()).unwrap();
            theirs.write_all(b"x").unwrap();
            assert_eq!(told(&mut linux, Duration::ZERO), []);
        }
    }
}
