//! The target, the source addresses and the number of descriptors; opens sockets.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream as BlockingStream};
use std::num::NonZeroU32;
use std::time::Duration;

use mio::net::TcpStream;
use rustix::io::Errno;
use socket2::{Domain, Protocol, Socket, Type};

use super::LoadError;
use hawk_client::look_up;

/// Descriptors that are no connections: the terminal, the poll, the timer, and
/// what the runtime keeps.
const OTHER_DESCRIPTORS: u64 = 16;

/// How long each address of a host with several may take to answer.
const TRIAL: Duration = Duration::from_secs(5);

/// Resolves `address`, a host or number with a port. If the name has several addresses, returns
/// the first one that accepts a connection within 5 s, or else the first.
///
/// # Errors
/// [`LoadError`] if the name has no address.
pub fn resolve(address: &str) -> Result<SocketAddr, LoadError> {
    let found = look_up(address)?;
    if let [only] = found[..] {
        return Ok(only);
    }
    let answers = |it: &&SocketAddr| BlockingStream::connect_timeout(it, TRIAL).is_ok();
    Ok(*found.iter().find(answers).unwrap_or(&found[0]))
}

/// Checks that so many connections fit into `limit`, the process's limit of open files.
///
/// # Errors
/// [`LoadError`] if they do not.
pub fn watch_descriptors(connections: u64, limit: u64) -> Result<(), LoadError> {
    let needed = connections.saturating_add(OTHER_DESCRIPTORS);
    if needed > limit {
        return Err(LoadError(format!(
            "{connections} connections need {needed} open files, but the limit is {limit}; use fewer connections or raise the limit (ulimit -Hn)"
        )));
    }
    Ok(())
}

/// The most source addresses: 127.0.0.1 to 127.255.255.254, the last of 127.0.0.0/8
/// before the broadcast address.
pub const MOST_SOURCES: u32 = (1 << 24) - 2;

/// Connections from one source address, where it is ours to say. An address has some
/// 28,000 ports (`net.ipv4.ip_local_port_range`), and those of connections that have
/// ended stay taken for a minute; up to a quarter of them the kernel finds a free one
/// at the second attempt or so, and near the end it tries thousands.
const CONNECTIONS_A_SOURCE: u64 = 7_000;

/// Connections from one source address, up to [`SPREAD`] of them. A server limits the
/// connections of one address, `hawk serve` to half of all that it takes by default.
const CONNECTIONS_A_SHARE: u64 = 256;
const SPREAD: u64 = 16;

/// Returns the default number of source addresses for so many connections to `target`. On IPv4
/// loopback, which has 2^24 addresses: as many as the connections need for their ports, and up to
/// 16 so that they fit into the server's limit per address. Elsewhere: 1, the system's choice.
#[must_use]
pub fn sources_for(connections: u64, target: SocketAddr) -> NonZeroU32 {
    let needed = match is_local(target) {
        true => {
            let for_shares = connections.div_ceil(CONNECTIONS_A_SHARE).min(SPREAD);
            connections.div_ceil(CONNECTIONS_A_SOURCE).max(for_shares)
        }
        false => 1,
    };
    let needed = u32::try_from(needed).map_or(MOST_SOURCES, |it| it.min(MOST_SOURCES));
    NonZeroU32::new(needed).unwrap_or(NonZeroU32::MIN)
}

fn is_local(target: SocketAddr) -> bool {
    matches!(target.ip(), IpAddr::V4(ip) if ip.is_loopback())
}

/// Opens connections to one server, from one source address or from several in
/// turn.
#[derive(Clone, Debug)]
pub(super) struct Dialler {
    pub(super) target: SocketAddr,
    sources: NonZeroU32,
}

impl Dialler {
    /// Dials `target` from this many addresses.
    ///
    /// # Errors
    /// [`LoadError`] for several addresses and a target that is not on IPv4 loopback.
    pub(super) fn new(target: SocketAddr, sources: NonZeroU32) -> Result<Self, LoadError> {
        if sources.get() > 1 && !is_local(target) {
            return Err(LoadError(format!(
                "--sources needs a server on 127.0.0.0/8, {target} is not"
            )));
        }
        Ok(Self { target, sources })
    }

    /// Starts to open the connection of this number.
    ///
    /// # Errors
    /// [`LoadError`] if no descriptor or no port is left, which stops the run. An error of this
    /// connection alone is the inner error.
    pub(super) fn dial(&self, number: usize) -> Result<io::Result<TcpStream>, LoadError> {
        let outcome = self.connect(number, None);
        let errno = outcome.as_ref().err().and_then(Errno::from_io_error);
        let number = number + 1;
        match errno {
            Some(Errno::MFILE | Errno::NFILE) => Err(LoadError(format!(
                "connection {number} found no free file descriptor; use fewer connections"
            ))),
            Some(Errno::ADDRNOTAVAIL | Errno::ADDRINUSE) => Err(LoadError(format!(
                "connection {number} found no free local port; spread them over more addresses with --sources"
            ))),
            _ => Ok(outcome),
        }
    }

    /// Starts to open the connection of this number. `receive_buffer` is its size in bytes,
    /// which the kernel rounds up; `None` leaves it to the kernel.
    ///
    /// # Errors
    /// Errors of the system calls.
    pub(super) fn connect(
        &self,
        number: usize,
        receive_buffer: Option<usize>,
    ) -> io::Result<TcpStream> {
        let socket = Socket::new(
            Domain::for_address(self.target),
            Type::STREAM.nonblocking().cloexec(),
            Some(Protocol::TCP),
        )?;
        // A heartbeat must not wait for the reply to the frame before it.
        socket.set_tcp_nodelay(true)?;
        if let Some(size) = receive_buffer {
            // The size limits the offered window only if it is set before the connect.
            socket.set_recv_buffer_size(size)?;
        }
        if self.sources.get() > 1 {
            let source = SocketAddr::new(self.source(number), 0);
            socket.bind(&source.into())?;
        }
        match socket.connect(&self.target.into()) {
            Ok(()) => {}
            Err(error) if Errno::from_io_error(&error) == Some(Errno::INPROGRESS) => {}
            Err(error) => return Err(error),
        }
        Ok(TcpStream::from_std(socket.into()))
    }

    fn source(&self, number: usize) -> IpAddr {
        let turn = u32::try_from(number).unwrap_or(0) % self.sources;
        IpAddr::V4(Ipv4Addr::from_bits(Ipv4Addr::LOCALHOST.to_bits() + turn))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dialler(target: [u8; 4], sources: u32) -> Result<Dialler, LoadError> {
        Dialler::new((target, 1).into(), NonZeroU32::new(sources).unwrap())
    }

    #[test]
    fn sources_take_turns_on_loopback() {
        let dialler = dialler([127, 0, 0, 1], 3).unwrap();
        let sources: Vec<_> = (0..4).map(|n| dialler.source(n).to_string()).collect();
        assert_eq!(
            sources,
            ["127.0.0.1", "127.0.0.2", "127.0.0.3", "127.0.0.1"]
        );
    }

    #[test]
    fn sources_are_as_many_as_loopback_has_and_elsewhere_one() {
        let most = dialler([127, 0, 0, 1], MOST_SOURCES).unwrap();
        assert_eq!(most.source(256).to_string(), "127.0.1.1");
        let last = MOST_SOURCES as usize - 1;
        assert_eq!(most.source(last).to_string(), "127.255.255.254");
        assert_eq!(most.source(last + 1).to_string(), "127.0.0.1");
        assert!(dialler([192, 0, 2, 1], 3).is_err());
        assert!(dialler([192, 0, 2, 1], 1).is_ok());
    }

    #[test]
    fn connections_have_the_sources_that_they_need() {
        let sources =
            |connections, target: &str| sources_for(connections, target.parse().unwrap()).get();
        assert_eq!(sources(0, "127.0.0.1:1"), 1);
        assert_eq!(sources(256, "127.0.0.1:1"), 1);
        assert_eq!(sources(257, "127.0.0.1:1"), 2);
        assert_eq!(sources(7_000, "127.0.0.1:1"), 16);
        assert_eq!(sources(112_001, "127.0.0.1:1"), 17);
        assert_eq!(sources(200_000, "127.0.0.1:1"), 29);
        assert_eq!(sources(u64::MAX, "127.0.0.1:1"), MOST_SOURCES);
        for elsewhere in ["192.0.2.1:1", "[::1]:1"] {
            assert_eq!(sources(200_000, elsewhere), 1);
        }
    }

    #[test]
    fn more_connections_than_descriptors_are_refused() {
        assert!(watch_descriptors(1, 17).is_ok());
        let refused = watch_descriptors(2, 17).unwrap_err();
        assert!(refused.to_string().contains("open files"), "{refused}");
    }
}
