//! Linux, through mio: the poll, sockets, listeners and signals.
//!
//! # Signals
//!
//! Each signal that ends a process by default (signal(7)) is in one of these groups:
//!
//! | signals | what happens |
//! |---|---|
//! | TERM, INT, QUIT | stop; a second one stops at once |
//! | USR1, USR2, HUP | statistics, hand-over, reload |
//! | ALRM, VTALRM, PROF, IO, XCPU, XFSZ, STKFLT, PWR, real-time | caught and logged |
//! | PIPE | ignored by Rust's runtime, and reset in commands that the server starts |
//! | ABRT, BUS, FPE, ILL, SEGV, SYS, TRAP | default action: they report a fault of the program (systemd's watchdog sends ABRT) |
//! | KILL | cannot be caught |
//!
//! Caught and not ignored (`SIG_IGN`): a command that the server starts would inherit an
//! ignored signal, while a caught one is reset to its default action by execve(2).

use std::fmt;
use std::io;
use std::net::{IpAddr, Shutdown, SocketAddr};
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use mio::event::Event as Happened;
use mio::net::{TcpListener, TcpStream};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};
use rustix::process::Signal as Number;
use signal_hook::consts::{
    SIGALRM, SIGHUP, SIGINT, SIGIO, SIGPROF, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGVTALRM,
    SIGXCPU, SIGXFSZ,
};
use signal_hook::flag;
use signal_hook::low_level::signal_name;
use signal_hook_mio::v1_0::Signals;
use socket2::{Domain, Protocol, SockRef, TcpKeepalive, Type};

use super::kernel::{
    Accept, BACKLOG, Event, Kernel, ListenerTag, OtherToken, Readiness, Signal, Socket, SocketToken,
};
use crate::session::Wake;
use hawk_time::Moment;

/// The most events of one call of `epoll_wait(2)`.
const EVENTS: usize = 1024;

// The highest tokens are not for connections: no slot is as high (see `SocketToken`).
const SIGNALS: Token = Token(usize::MAX);
const WAKER: Token = Token(usize::MAX - 1);

/// The token of the first [`ListenerTag`], below the tokens above.
const LISTENERS: usize = usize::MAX - 1 - 256;
const LAST_LISTENER: usize = LISTENERS + u8::MAX as usize;

/// The token of the first [`OtherToken`], below the tokens above.
const OTHERS: usize = LISTENERS - 256;
const LAST_OTHER: usize = OTHERS + u8::MAX as usize;

// A socket's token must fit mio's.
const _: () = assert!(usize::BITS == u64::BITS, "hawk is for 64-bit machines");

/// The operating system that the server runs on.
pub struct Linux {
    poll: Poll,
    events: Events,
    signals: Signals,
}

impl Linux {
    /// Makes a poll and catches the signals.
    ///
    /// # Errors
    /// As `epoll_create(2)` and sigaction(2).
    pub fn new() -> io::Result<Self> {
        let poll = Poll::new()?;
        let mut signals = catch()?;
        poll.registry()
            .register(&mut signals, SIGNALS, Interest::READABLE)?;
        Ok(Self {
            poll,
            events: Events::with_capacity(EVENTS),
            signals,
        })
    }

    /// Returns the socket of this non-blocking descriptor.
    #[must_use]
    pub fn connection(descriptor: OwnedFd) -> TcpStream {
        TcpStream::from_std(descriptor.into())
    }

    /// Wraps the listening socket of this non-blocking descriptor, own or passed, and limits
    /// the buffers of the sockets that it accepts.
    #[must_use]
    pub fn listener(descriptor: OwnedFd) -> TcpListener {
        if let Err(error) = limit_buffers(&descriptor) {
            log::warn!("cannot limit the buffers of connections: {error}");
        }
        TcpListener::from_std(descriptor.into())
    }

    /// Reports changes in the readiness of `descriptor` from now on, as [`Event::Other`] with
    /// this token: edge-triggered. [Unwatch](Self::unwatch_other) it before closing it, if a
    /// duplicate of it stays open.
    ///
    /// # Errors
    /// As `epoll_ctl(2)`.
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

    /// Stops reporting `descriptor`.
    ///
    /// # Errors
    /// As `epoll_ctl(2)`.
    pub fn unwatch_other(&mut self, descriptor: BorrowedFd<'_>) -> io::Result<()> {
        let mut source = SourceFd(&descriptor.as_raw_fd());
        self.poll.registry().deregister(&mut source)
    }

    /// Checks that `address` can be bound at this moment.
    ///
    /// # Errors
    /// As bind(2).
    pub fn try_bind(address: SocketAddr) -> io::Result<()> {
        bind(address).map(drop)
    }
}

impl Kernel for Linux {
    type Socket = TcpStream;
    type Listener = TcpListener;

    fn now(&self) -> Moment {
        Moment::now()
    }

    fn listen(&mut self, address: SocketAddr) -> io::Result<TcpListener> {
        Ok(TcpListener::from_std(listen(address)?.into()))
    }

    fn watch_listener(&mut self, listener: &mut TcpListener, tag: ListenerTag) -> io::Result<()> {
        let token = Token(LISTENERS + usize::from(tag.0));
        let incoming = Interest::READABLE;
        self.poll.registry().register(listener, token, incoming)
    }

    fn waker(&mut self) -> io::Result<Wake> {
        let waker = Waker::new(self.poll.registry(), WAKER)?;
        Ok(Wake::new(move || {
            // It fails only if the kernel is out of memory; the next call has the same effect.
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
        // mio rounds up to whole milliseconds: the wait never ends early.
        let mut timeout = timeout;
        while let Err(error) = self.poll.poll(&mut self.events, timeout) {
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
            // A signal came, or the process was stopped for a while. Take the events all the
            // same: otherwise input that arrived in time is read late, and a stop misses new
            // connections.
            timeout = Some(Duration::ZERO);
        }
        Ok(())
    }

    fn events(&self) -> impl Iterator<Item = Event> {
        self.events.iter().map(|event| match event.token() {
            SIGNALS => Event::Signals,
            WAKER => Event::Woken,
            // There are 256 of each.
            #[allow(clippy::cast_possible_truncation)]
            Token(token @ LISTENERS..=LAST_LISTENER) => {
                Event::Incoming(ListenerTag((token - LISTENERS) as u8))
            }
            #[allow(clippy::cast_possible_truncation)]
            Token(token @ OTHERS..=LAST_OTHER) => Event::Other(OtherToken((token - OTHERS) as u8)),
            Token(token) => Event::Ready(SocketToken(token as u64), readiness(event)),
        })
    }

    fn signals(&mut self) -> Vec<Signal> {
        self.signals.pending().map(meaning).collect()
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

/// Returns the IPv4 address of an IPv4-mapped IPv6 address, which Linux reports on a listener
/// for both families; any other address unchanged.
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

/// Finds a dead host within two minutes, and costs a healthy one a packet a minute.
const KEEPALIVE: TcpKeepalive = TcpKeepalive::new()
    .with_time(Duration::from_secs(60))
    .with_interval(Duration::from_secs(15))
    .with_retries(4);

/// The receive and the send buffer of a connection, in bytes. The kernel allocates twice as
/// much, for its own bookkeeping, and several megabytes without these limits: 3,000 agents that
/// never read would use up its memory for all TCP connections of the machine.
///
/// Half of the receive buffer is the window offered to the agent: 64 KiB in flight are 640 kB/s
/// over a path of 100 ms, some 4,000 reports. Replies are shorter.
const RECEIVE_BUFFER: usize = 64 * 1024;
const SEND_BUFFER: usize = 32 * 1024;

/// Limits the buffers of the sockets that `listener` accepts.
fn limit_buffers(listener: &impl AsFd) -> io::Result<()> {
    let listener = SockRef::from(listener);
    listener.set_recv_buffer_size(RECEIVE_BUFFER)?;
    listener.set_send_buffer_size(SEND_BUFFER)
}

/// Makes a listener. Accepted sockets inherit no-delay, keepalive and the sizes of their buffers
/// from it, which saves six system calls each; a test checks it.
fn listen(address: SocketAddr) -> io::Result<socket2::Socket> {
    let socket = bind(address)?;
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(&KEEPALIVE)?;
    limit_buffers(&socket)?;
    socket.listen(BACKLOG.into())?;
    Ok(socket)
}

/// Makes a socket and binds it to `address`.
fn bind(address: SocketAddr) -> io::Result<socket2::Socket> {
    let socket = socket2::Socket::new(
        Domain::for_address(address),
        Type::STREAM.nonblocking(),
        Some(Protocol::TCP),
    )?;
    // A restarted server may bind while its old connections are in TIME_WAIT.
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        // `[::]` means every address of the machine, IPv4 included.
        socket.set_only_v6(false)?;
    }
    socket.bind(&address.into())?;
    Ok(socket)
}

/// Signals that stop the server.
const STOP: [i32; 3] = [SIGTERM, SIGINT, SIGQUIT];

/// Signals with another meaning.
const REQUESTS: [i32; 3] = [SIGUSR1, SIGUSR2, SIGHUP];

/// Signals without a meaning that would end the process if not caught.
const MEANINGLESS: [i32; 8] = [
    SIGALRM,
    SIGVTALRM,
    SIGPROF,
    SIGIO,
    SIGXCPU,
    SIGXFSZ,
    Number::STKFLT.as_raw(),
    Number::POWER.as_raw(),
];

/// Real-time signals. The C library reserves the first two or three.
const REAL_TIME: RangeInclusive<i32> = 34..=64;

/// Catches and discards every signal except those that stop the server, until a [`Linux`]
/// catches all of them. So none of these ends the process during a long start.
///
/// # Errors
/// As sigaction(2).
pub fn catch_signals() -> io::Result<()> {
    let discard = Arc::new(AtomicBool::new(false));
    for signal in REQUESTS.into_iter().chain(MEANINGLESS) {
        flag::register(signal, Arc::clone(&discard))?;
    }
    for signal in REAL_TIME {
        // Fails for a signal that the C library reserves.
        let _kept = flag::register(signal, Arc::clone(&discard));
    }
    Ok(())
}

/// Catches every signal.
fn catch() -> io::Result<Signals> {
    let signals = Signals::new(STOP.into_iter().chain(REQUESTS).chain(MEANINGLESS))?;
    for signal in REAL_TIME {
        let _kept = signals.add_signal(signal);
    }
    Ok(signals)
}

/// Returns the meaning of a signal.
const fn meaning(number: i32) -> Signal {
    match number {
        SIGTERM | SIGINT | SIGQUIT => Signal::Stop,
        SIGUSR1 => Signal::Statistics,
        SIGUSR2 => Signal::Upgrade,
        SIGHUP => Signal::Reload,
        other => Signal::Meaningless(other),
    }
}

/// Logs a signal without a meaning.
pub(super) fn log_meaningless(number: i32) {
    // The store logs that a file has reached its limit.
    let level = if number == SIGXFSZ {
        log::Level::Debug
    } else {
        log::Level::Warn
    };
    let name = signal_name(number).unwrap_or("unknown");
    log::log!(
        level,
        "signal {number} ({name}) has no meaning here and is ignored"
    );
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn other_descriptors_are_reported_until_they_are_unwatched() {
        let mut linux = Linux::new().unwrap();
        let events = |linux: &mut Linux, timeout| {
            linux.wait(Some(timeout)).unwrap();
            linux.events().collect::<Vec<_>>()
        };
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        for token in [0, 7, u8::MAX].map(OtherToken) {
            linux.watch_other(ours.as_fd(), token).unwrap();
            assert_eq!(events(&mut linux, Duration::ZERO), [Event::Other(token)]);
            assert_eq!(events(&mut linux, Duration::ZERO), []);
            theirs.write_all(b"x").unwrap();
            let patience = Duration::from_secs(20);
            assert_eq!(events(&mut linux, patience), [Event::Other(token)]);
            linux.unwatch_other(ours.as_fd()).unwrap();
            theirs.write_all(b"x").unwrap();
            assert_eq!(events(&mut linux, Duration::ZERO), []);
        }
    }

    #[test]
    fn accepted_sockets_inherit_their_options() {
        let listener = listen("127.0.0.1:0".parse().unwrap()).unwrap();
        listener.set_nonblocking(false).unwrap();
        let address = listener.local_addr().unwrap();
        let _agent = std::net::TcpStream::connect(address.as_socket().unwrap()).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        assert!(accepted.tcp_nodelay().unwrap());
        assert!(accepted.keepalive().unwrap());
        assert_eq!(
            accepted.tcp_keepalive_time().unwrap(),
            Duration::from_secs(60)
        );
        assert_eq!(
            accepted.tcp_keepalive_interval().unwrap(),
            Duration::from_secs(15)
        );
        assert_eq!(accepted.tcp_keepalive_retries().unwrap(), 4);
        expect_limited(&accepted);
    }

    #[track_caller]
    fn expect_limited(accepted: &socket2::Socket) {
        // A machine may allow less.
        assert!(accepted.recv_buffer_size().unwrap() <= 2 * RECEIVE_BUFFER);
        assert!(accepted.send_buffer_size().unwrap() <= 2 * SEND_BUFFER);
    }

    #[test]
    fn the_buffers_of_a_passed_listener_are_limited() {
        let passed = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = passed.local_addr().unwrap();
        let listener = Linux::listener(passed.into());
        let _agent = std::net::TcpStream::connect(address).unwrap();
        let accepted = socket2::Socket::from(
            std::net::TcpListener::from(OwnedFd::from(listener))
                .accept()
                .unwrap()
                .0,
        );
        expect_limited(&accepted);
    }

    #[test]
    fn a_taken_port_is_an_error() {
        let first = listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let taken = first.local_addr().unwrap().as_socket().unwrap();
        assert_eq!(listen(taken).unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn every_signal_that_ends_a_process_is_accounted_for() {
        // KILL, PIPE, and the signals that report a fault.
        let left = [
            Number::KILL,
            Number::PIPE,
            Number::ABORT,
            Number::BUS,
            Number::FPE,
            Number::ILL,
            Number::SEGV,
            Number::SYS,
            Number::TRAP,
        ];
        // Signals with the default action to ignore, stop or continue.
        let harmless = [
            Number::CHILD,
            Number::CONT,
            Number::STOP,
            Number::TSTP,
            Number::TTIN,
            Number::TTOU,
            Number::URG,
            Number::WINCH,
        ];
        let not_caught: Vec<i32> = [&left[..], &harmless]
            .concat()
            .iter()
            .map(|n| n.as_raw())
            .collect();
        for number in 1..32 {
            let caught = [&STOP[..], &REQUESTS, &MEANINGLESS]
                .concat()
                .contains(&number);
            assert_ne!(caught, not_caught.contains(&number), "{number}");
        }
    }
}
