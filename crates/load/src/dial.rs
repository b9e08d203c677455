//! Where to connect to, from where, and with how many descriptors.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream as BlockingStream};
use std::num::NonZeroU32;
use std::time::Duration;

use mio::net::TcpStream;
use socket2::{Domain, Protocol, Socket, Type};

use super::LoadError;
use hawk_client::look_up;

/// Descriptors that are no connections: the terminal, the poll, the timer, and
/// what the runtime keeps.
const OTHER_DESCRIPTORS: u64 = 16;

/// How long each address of a host with several may take to answer.
const TRIAL: Duration = Duration::from_secs(5);

/// The address that `address` stands for. Where the name has several, the first
/// one that takes connections.
///
/// # Errors
/// [`LoadError::Dial`] if there is none.
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
/// [`LoadError::TooFewDescriptors`] when they do not.
pub fn watch_descriptors(connections: u64, limit: u64) -> Result<(), LoadError> {
    let needed = connections.saturating_add(OTHER_DESCRIPTORS);
    if needed > limit {
        return Err(LoadError::TooFewDescriptors {
            connections,
            needed,
            limit,
        });
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

/// How many source addresses so many connections to `target` come from by default. On IPv4
/// loopback, where there are any number of addresses: as many as the connections need for
/// their ports, and several where a share of the server could be too small for all of
/// them. Elsewhere: the system's one.
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

/// How much the kernel keeps for us that we have not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReceiveBuffer {
    /// As much as it likes.
    Usual,
    /// As little as it can: what is not read soon backs up to the server.
    Least,
}

/// Opens connections to one server, from one source address or from several in
/// turn.
#[derive(Clone, Debug)]
pub(super) struct Dialler {
    target: SocketAddr,
    sources: NonZeroU32,
}

impl Dialler {
    /// Dials `target` from this many addresses.
    ///
    /// # Errors
    /// [`LoadError::SourcesElsewhere`] if it is not to be reached from them.
    pub(super) fn new(target: SocketAddr, sources: NonZeroU32) -> Result<Self, LoadError> {
        if sources.get() > 1 && !is_local(target) {
            return Err(LoadError::SourcesElsewhere(target));
        }
        Ok(Self { target, sources })
    }

    /// Where it dials to.
    pub(super) const fn target(&self) -> SocketAddr {
        self.target
    }

    /// Starts to open the connection of this number.
    ///
    /// # Errors
    /// What stops the run: no descriptor or no port is left. What concerns this
    /// connection alone comes as the inner error.
    pub(super) fn dial(&self, number: usize) -> Result<io::Result<TcpStream>, LoadError> {
        match self.connect(number, ReceiveBuffer::Usual) {
            Ok(stream) => Ok(Ok(stream)),
            Err(error) => match rustix::io::Errno::from_io_error(&error) {
                Some(rustix::io::Errno::MFILE | rustix::io::Errno::NFILE) => {
                    Err(LoadError::OutOfDescriptors(number + 1))
                }
                Some(rustix::io::Errno::ADDRNOTAVAIL | rustix::io::Errno::ADDRINUSE) => {
                    Err(LoadError::OutOfPorts(number + 1))
                }
                _ => Ok(Err(error)),
            },
        }
    }

    /// The same, whatever the error.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn connect(&self, number: usize, buffer: ReceiveBuffer) -> io::Result<TcpStream> {
        let socket = Socket::new(
            Domain::for_address(self.target),
            Type::STREAM.nonblocking().cloexec(),
            Some(Protocol::TCP),
        )?;
        // A heartbeat must not wait for the reply to the frame before it.
        socket.set_tcp_nodelay(true)?;
        if buffer == ReceiveBuffer::Least {
            // Only before connecting does it bind the window that is offered; the
            // kernel takes its least size for 1 (`tcp(7)`).
            socket.set_recv_buffer_size(1)?;
        }
        if self.sources.get() > 1 {
            let source = SocketAddr::new(self.source(number), 0);
            socket.bind(&source.into())?;
        }
        match socket.connect(&self.target.into()) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(IN_PROGRESS) => {}
            Err(error) => return Err(error),
        }
        Ok(TcpStream::from_std(socket.into()))
    }

    fn source(&self, number: usize) -> IpAddr {
        let turn = u32::try_from(number).unwrap_or(0) % self.sources;
        IpAddr::V4(Ipv4Addr::from_bits(Ipv4Addr::LOCALHOST.to_bits() + turn))
    }
}

const IN_PROGRESS: i32 = rustix::io::Errno::INPROGRESS.raw_os_error();

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
