//! The listening socket, and how it takes what comes.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use mio::net::{TcpListener, TcpStream};
use mio::{Interest, Registry, Token};
use rustix::io::Errno;
use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};

use crate::throttle::Throttle;
use crate::time::Moment;

/// Connections that may wait to be accepted. When a fleet reconnects at once,
/// each beyond the backlog loses its SYN and waits a second or more; 4,096 is
/// what Linux clips it to unless `net.core.somaxconn` says otherwise.
pub(super) const BACKLOG: u16 = 4096;

/// How long to leave the listener alone when there was no descriptor for a
/// newcomer, unless a connection ends before.
const RETRY: Duration = Duration::from_millis(100);

/// When a silent peer's host is asked whether it is still there, how often
/// again, and how many times: a dead host is noticed within two minutes, a
/// healthy one is bothered with a packet a minute.
const KEEPALIVE: TcpKeepalive = TcpKeepalive::new()
    .with_time(Duration::from_secs(60))
    .with_interval(Duration::from_secs(15))
    .with_retries(4);

/// A listening socket with readiness kept in software.
#[derive(Debug)]
pub(super) struct Listener {
    socket: TcpListener,
    ready: bool,
    retry_at: Option<Moment>,
    log: Throttle,
}

/// What became of an attempt to accept.
#[derive(Debug)]
pub(super) enum Accepted {
    /// A newcomer.
    Newcomer(TcpStream, SocketAddr),
    /// This newcomer was gone again; there may be others.
    Gone,
    /// Nobody waits, or nobody can be taken now.
    Nobody,
    /// There is no descriptor or memory for a newcomer, who goes on waiting.
    Failed,
}

impl Listener {
    pub(super) fn bind(address: SocketAddr) -> io::Result<Self> {
        Ok(Self {
            socket: TcpListener::from_std(listen(address)?.into()),
            ready: false,
            retry_at: None,
            log: Throttle::default(),
        })
    }

    pub(super) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    pub(super) fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        registry.register(&mut self.socket, token, Interest::READABLE)
    }

    pub(super) fn mark_ready(&mut self) {
        self.ready = true;
    }

    /// Whether [`accept`](Self::accept) is worth calling.
    pub(super) fn is_ready(&self, now: Moment) -> bool {
        self.ready && self.retry_at.is_none_or(|retry_at| retry_at <= now)
    }

    /// When to try again after a failure.
    pub(super) fn retry_at(&self) -> Option<Moment> {
        self.retry_at.filter(|_| self.ready)
    }

    /// A descriptor was freed: a newcomer may fit now.
    pub(super) fn retry_now(&mut self) {
        self.retry_at = None;
    }

    /// Leaves those who wait alone for a while, after a failure of ours.
    pub(super) fn back_off(&mut self, now: Moment, error: &io::Error) {
        self.retry_at = Some(now.after(RETRY));
        if let Some(left_out) = self.log.allow(now) {
            log::error!(
                "cannot accept connections: {error}; those that wait are tried again (for want \
                 of open files, raise their limit or lower --max-connections) left_out={left_out}"
            );
        }
    }

    /// Takes one newcomer. After a failure it stays ready: the kernel reports
    /// a connection that waits only once.
    pub(super) fn accept(&mut self, now: Moment) -> Accepted {
        match self.socket.accept() {
            Ok((socket, peer)) => Accepted::Newcomer(socket, peer),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.ready = false;
                Accepted::Nobody
            }
            Err(error) if !is_the_newcomers(&error) => {
                self.back_off(now, &error);
                Accepted::Failed
            }
            Err(_) => Accepted::Gone,
        }
    }
}

/// Whether it is this newcomer's own trouble, after which accept(2) says to go
/// on with the next. All else may last, so that going on at once would spin.
fn is_the_newcomers(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(
            Errno::CONNABORTED
                | Errno::HOSTDOWN
                | Errno::HOSTUNREACH
                | Errno::INTR
                | Errno::NETDOWN
                | Errno::NETUNREACH
                | Errno::NONET
                | Errno::NOPROTOOPT
                | Errno::OPNOTSUPP
                | Errno::PERM
                | Errno::PROTO
        )
    )
}

/// Accepted sockets inherit no-delay and keepalive from the listener on Linux,
/// which saves four system calls for each; a test below holds it to that.
fn listen(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM.nonblocking(),
        Some(Protocol::TCP),
    )?;
    // A restarted server may bind while its old connections are in TIME_WAIT.
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        // `[::]` means every address of the machine, as people expect.
        socket.set_only_v6(false)?;
    }
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(&KEEPALIVE)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG.into())?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

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
    }

    #[test]
    fn a_taken_port_is_an_error() {
        let first = Listener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let error = Listener::bind(first.local_addr().unwrap()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn after_a_failure_it_rests_until_it_is_time_or_a_descriptor_is_freed() {
        let mut listener = Listener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let now = Moment::from_nanos(1_000_000_000);
        let failure = io::Error::from(Errno::MFILE);
        assert!(!listener.is_ready(now), "nobody has come");
        listener.mark_ready();
        assert!(listener.is_ready(now));
        listener.back_off(now, &failure);
        assert!(!listener.is_ready(now));
        // Another newcomer changes nothing.
        listener.mark_ready();
        assert!(!listener.is_ready(now));
        let later = now.after(RETRY);
        assert_eq!(listener.retry_at(), Some(later));
        assert!(listener.is_ready(later));

        listener.back_off(later, &failure);
        assert!(!listener.is_ready(later));
        listener.retry_now();
        assert!(listener.is_ready(later));
        assert_eq!(listener.retry_at(), None);
    }
}
