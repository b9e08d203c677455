//! Thousands of agents as bare sockets, because a reader's buffer for each would take too
//! much memory.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use socket2::{Domain, SockRef, Socket, Type};

use hawk_testkit::*;

/// The documented backlog: connections that the kernel keeps until the server accepts them.
const BACKLOG: usize = 4096;

/// Agents that act together on command.
#[derive(Debug)]
pub(crate) struct Crowd {
    pub(crate) members: Vec<TcpStream>,
}

impl Crowd {
    /// Connects so many agents, each of which sends a heartbeat and reads its answer, as
    /// fast as the backlog allows.
    ///
    /// The backlog is full before the server sees the first agent; then one more agent
    /// connects for each answer, at any speed of either side.
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

    /// Resets all connections.
    pub(crate) fn reset(self) {
        for member in self.members {
            let lingerless = Some(Duration::ZERO);
            SockRef::from(&member).set_linger(lingerless).unwrap();
        }
    }
}

/// Returns how many connections may wait to be accepted: [`BACKLOG`], or the system's limit
/// if that is less.
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

/// Returns whether the server has closed the connection, without any byte before.
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
        // The agent sent for longer than the server read.
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => true,
        Err(error) => panic!("{error} rather than an end of file"),
    }
}
