//! Agents by the thousand: bare sockets, for a reader's buffer each would be too
//! much.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use socket2::{Domain, SockRef, Socket, Type};

use hawk_testkit::*;

/// How many the server has the kernel keep for it until they are accepted, as
/// documented.
const BACKLOG: usize = 4096;

/// Agents that do as they are told, all together.
#[derive(Debug)]
pub(crate) struct Crowd {
    pub(crate) members: Vec<TcpStream>,
}

impl Crowd {
    /// Has so many connect and send a heartbeat, as nearly at once as there can be
    /// no more of them in the backlog than it takes, and each get its answer.
    ///
    /// As many as the backlog takes lie there before the server sees the first;
    /// then, however quick either side is, one more comes for each that is answered.
    #[track_caller]
    pub(crate) fn storm(server: &Server, size: usize) -> Self {
        let backlog = backlog();
        let mut suspended = Some(server.suspend());
        let mut crowd = Self {
            members: Vec::with_capacity(size),
        };
        for number in 0..size {
            if let Some(answered) = number.checked_sub(backlog) {
                suspended = None;
                expect_heartbeat(&mut crowd.members[answered]);
            }
            let mut member = connect(number, server.address);
            member.write_all(&heartbeat()).expect("it takes a frame");
            crowd.members.push(member);
        }
        drop(suspended);
        for member in &mut crowd.members[size.saturating_sub(backlog)..] {
            expect_heartbeat(member);
        }
        crowd
    }

    /// Everybody breaks off: the server gets a reset from each.
    pub(crate) fn reset(self) {
        for member in self.members {
            let lingerless = Some(Duration::ZERO);
            SockRef::from(&member).set_linger(lingerless).unwrap();
        }
    }
}

/// How many may wait to be accepted: [`BACKLOG`], unless the system allows less.
pub(crate) fn backlog() -> usize {
    let most = fs::read_to_string("/proc/sys/net/core/somaxconn").unwrap();
    let most: usize = most.trim().parse().unwrap();
    most.min(BACKLOG)
}

/// On loopback the members take turns with [source addresses](source).
#[track_caller]
fn connect(number: usize, address: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
    if address.ip().is_loopback() {
        let source = SocketAddr::new(source(number), 0);
        socket.bind(&source.into()).unwrap();
    }
    let connected = socket.connect_timeout(&address.into(), PATIENCE);
    connected.expect("it listens");
    let socket = TcpStream::from(socket);
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.set_write_timeout(Some(PATIENCE)).unwrap();
    socket
}

#[track_caller]
fn expect_heartbeat(member: &mut TcpStream) {
    let mut line = [0; HEARTBEAT.len() + 1];
    member.read_exact(&mut line).expect("an answer");
    assert_eq!(line, *b"heartBeat\n");
}

/// Whether the server has closed it: nothing else may have come.
#[track_caller]
pub(crate) fn has_ended(member: &mut TcpStream) -> bool {
    member.set_nonblocking(true).unwrap();
    let outcome = member.read(&mut [0]);
    member.set_nonblocking(false).unwrap();
    match outcome {
        Ok(read) => {
            assert_eq!(read, 0, "a byte although nothing was to come");
            true
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => false,
        // It went on sending for longer than the server listened.
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => true,
        Err(error) => panic!("{error} rather than an end of file"),
    }
}
