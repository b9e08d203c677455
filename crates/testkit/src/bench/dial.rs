//! Connections of agents that do not wait for each other.

use std::io::{self, ErrorKind, Read as _};
use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context as _, bail, ensure};
use mio::net::TcpStream;
use socket2::{Domain, Protocol, Socket, Type};

/// Source addresses, from 127.0.0.2 on: one has ports for some 28,000 connections,
/// and those that were used may rest for a minute.
const SOURCES: usize = 64;
const FIRST: u8 = 2;

/// Begins to connect the agent of this number.
pub fn dial(
    number: usize,
    target: SocketAddr,
    receive_buffer: Option<usize>,
) -> io::Result<TcpStream> {
    let kind = Type::STREAM.nonblocking().cloexec();
    let socket = Socket::new(Domain::IPV4, kind, Some(Protocol::TCP))?;
    socket.set_tcp_nodelay(true)?;
    if let Some(bytes) = receive_buffer {
        socket.set_recv_buffer_size(bytes)?;
    }
    let source = u8::try_from(number % SOURCES).map_or(FIRST, |turn| FIRST + turn);
    socket.bind(&SocketAddr::from((Ipv4Addr::new(127, 0, 0, source), 0)).into())?;
    match socket.connect(&target.into()) {
        Err(error) if error.raw_os_error() != Some(IN_PROGRESS) => Err(error),
        _ => Ok(TcpStream::from_std(socket.into())),
    }
}

const IN_PROGRESS: i32 = rustix::io::Errno::INPROGRESS.raw_os_error();

/// Whether there is nothing to do but to wait for an event.
pub fn is_temporary(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::WouldBlock | ErrorKind::Interrupted | ErrorKind::NotConnected
    )
}

/// Whether the reply to what was sent is there; it has to be `line`.
pub fn is_answered(stream: &mut TcpStream, line: &str) -> anyhow::Result<bool> {
    let mut reply = [0; 64];
    match stream.read(&mut reply) {
        Ok(0) => bail!("the server has closed an agent's connection"),
        Ok(read) => {
            let said = String::from_utf8_lossy(&reply[..read]);
            ensure!(said == line, "an agent was answered {said:?}");
            Ok(true)
        }
        Err(error) if is_temporary(&error) => Ok(false),
        Err(error) => Err(error).context("an agent cannot read its reply"),
    }
}
