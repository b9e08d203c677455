//! How the listening socket is made.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};

use crate::reactor::kernel::BACKLOG;

/// When a silent peer's host is asked whether it is still there, how often
/// again, and how many times: a dead host is noticed within two minutes, a
/// healthy one is bothered with a packet a minute.
const KEEPALIVE: TcpKeepalive = TcpKeepalive::new()
    .with_time(Duration::from_secs(60))
    .with_interval(Duration::from_secs(15))
    .with_retries(4);

/// The receive and the send buffer of a connection, in bytes. The kernel takes twice as much,
/// for its own books, and without these limits several megabytes: 3,000 agents that never
/// read would fill its memory for all TCP connections of the machine.
///
/// Half of the receive buffer is the window that an agent is offered: 64 KiB in flight are
/// 640 kB a second over a path of 100 ms, some 4,000 reports. Replies are shorter.
const RECEIVE_BUFFER: usize = 64 * 1024;
const SEND_BUFFER: usize = 32 * 1024;

/// Limits the buffers of the sockets that `listener` accepts from now on.
pub(super) fn limit_buffers(listener: &impl AsFd) -> io::Result<()> {
    let listener = SockRef::from(listener);
    listener.set_recv_buffer_size(RECEIVE_BUFFER)?;
    listener.set_send_buffer_size(SEND_BUFFER)
}

/// Accepted sockets inherit no-delay, keepalive and the sizes of their buffers from the
/// listener on Linux, which saves six system calls for each; a test below holds it to that.
pub(super) fn listen(address: SocketAddr) -> io::Result<Socket> {
    let socket = bind(address)?;
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(&KEEPALIVE)?;
    limit_buffers(&socket)?;
    socket.listen(BACKLOG.into())?;
    Ok(socket)
}

/// A socket that has the address, which nobody else listens on.
pub(super) fn bind(address: SocketAddr) -> io::Result<Socket> {
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
    socket.bind(&address.into())?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;

    use super::*;
    use crate::reactor::Linux;

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
    fn expect_limited(accepted: &Socket) {
        // A machine may allow less.
        assert!(accepted.recv_buffer_size().unwrap() <= 2 * RECEIVE_BUFFER);
        assert!(accepted.send_buffer_size().unwrap() <= 2 * SEND_BUFFER);
    }

    #[test]
    fn the_buffers_of_a_listener_that_is_passed_are_limited() {
        let passed = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = passed.local_addr().unwrap();
        let listener = Linux::listener(passed.into());
        let _agent = std::net::TcpStream::connect(address).unwrap();
        let accepted = Socket::from(
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
}
