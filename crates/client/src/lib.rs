//! A blocking connection to a server: [`Client`] sends one frame at a time and waits for its
//! reply, [`Pipeline`] sends many frames without waiting for each.
//!
//! Nothing here depends on the server; only the wire format is shared. Start reading at
//! [`Client::connect`].

#![cfg_attr(not(test), deny(clippy::expect_used, clippy::unreachable))]

mod pipeline;

use std::fmt::Display;
use std::io::{self, BufRead, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs as _};
use std::time::{Duration, Instant};

use hawk_wire::{MAX_REPLY_LINE, Reply};

pub use pipeline::{Outcome, Pipeline, Stopped};

/// A connection to a server.
#[derive(Debug)]
pub struct Client {
    stream: TcpStream,
    peer: String,
    timeout: Duration,
}

/// The error of a connection: one line for the user, with the address and the cause in it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ClientError(String);

impl Client {
    /// Connects to `address`, a host or number with a port; if the name has several addresses, to
    /// the first that answers. `timeout` bounds this and every later wait.
    ///
    /// # Errors
    /// [`ClientError`] if the name has no address or no server accepts the connection.
    pub fn connect(address: &str, timeout: Duration) -> Result<Self, ClientError> {
        let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
        for target in look_up(address)? {
            match Self::connect_to(target, timeout) {
                Ok(stream) => {
                    return Ok(Self {
                        stream,
                        peer: address.to_owned(),
                        timeout,
                    });
                }
                Err(error) => last = error,
            }
        }
        Err(unreachable(address, &reason(&last)))
    }

    fn connect_to(target: SocketAddr, timeout: Duration) -> io::Result<TcpStream> {
        let stream = TcpStream::connect_timeout(&target, timeout)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(timeout))?;
        stream.set_write_timeout(Some(timeout))?;
        Ok(stream)
    }

    /// Sends one frame. Returns its reply and the time that took.
    ///
    /// # Errors
    /// [`ClientError`] if no reply, or a line of another protocol, comes within the timeout.
    pub fn ask(&mut self, frame: &[u8]) -> Result<(Reply, Duration), ClientError> {
        let start = Instant::now();
        // A server that refuses may have sent its reply although the write fails.
        let written = self.stream.write_all(frame);
        let mut line = Vec::with_capacity(MAX_REPLY_LINE);
        let deadline = start + self.timeout;
        while line.last() != Some(&b'\n') {
            let mut piece = [0; MAX_REPLY_LINE];
            match self.stream.read(&mut piece) {
                Ok(0) => return Err(ClientError::closed(&self.peer)),
                Ok(count) => line.extend_from_slice(&piece[..count]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.failure(&written.err().unwrap_or(error))),
            }
            if line.len() > MAX_REPLY_LINE {
                break;
            }
            if Instant::now() > deadline {
                return Err(self.failure(&io::ErrorKind::TimedOut.into()));
            }
        }
        let elapsed = start.elapsed();
        let text = line.strip_suffix(b"\n").unwrap_or(&line);
        match Reply::parse(text) {
            Some(reply) => Ok((reply, elapsed)),
            None => Err(ClientError::foreign(&self.peer, text)),
        }
    }

    fn failure(&self, error: &io::Error) -> ClientError {
        ClientError::broken(&self.peer, self.timeout, error)
    }
}

impl ClientError {
    /// Returns the error of a connection to `address` that the server ended while a reply was
    /// pending.
    fn closed(address: &str) -> Self {
        Self(format!(
            "{address} closed the connection without a reply; its log may say why"
        ))
    }

    /// Returns the error for a line that is no reply of this protocol.
    fn foreign(address: &str, line: &[u8]) -> Self {
        let line = line.trim_ascii_end().escape_ascii();
        Self(format!(
            "{address} replied \"{line}\", which is not hawk's protocol; is that a hawk server?"
        ))
    }

    /// Returns the error for a failed system call; `timeout` is the limit that a timeout reached.
    fn broken(address: &str, timeout: Duration, error: &io::Error) -> Self {
        Self(match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                let timeout = humantime::format_duration(timeout);
                format!("{address} did not reply within {timeout}")
            }
            _ => format!("the connection to {address} broke: {}", reason(error)),
        })
    }
}

/// Returns the error for an `address` at which no server accepts connections.
#[must_use]
pub fn unreachable(address: impl Display, reason: &str) -> ClientError {
    ClientError(format!(
        "cannot connect to {address}: {reason}; is the server running there? start one with: hawk serve"
    ))
}

/// Returns all addresses of `address`, a host or number with a port; at least one.
///
/// # Errors
/// [`ClientError`] if there is none.
pub fn look_up(address: &str) -> Result<Vec<SocketAddr>, ClientError> {
    let reason = match address.to_socket_addrs() {
        Ok(found) => {
            let found: Vec<_> = found.collect();
            if !found.is_empty() {
                return Ok(found);
            }
            "the name has no address".to_owned()
        }
        Err(error) => reason(&error),
    };
    Err(ClientError(format!(
        "cannot find {address}: {reason}; write it like 127.0.0.1:9876, [::1]:9876 or host:9876"
    )))
}

/// Returns an error's cause in a few lower-case words, without the system's number.
#[must_use]
pub fn reason(error: &io::Error) -> String {
    use io::ErrorKind as K;
    match error.kind() {
        // The error of a socket with a time limit.
        K::WouldBlock => K::TimedOut.to_string(),
        K::ConnectionRefused
        | K::ConnectionReset
        | K::ConnectionAborted
        | K::BrokenPipe
        | K::TimedOut
        | K::HostUnreachable
        | K::NetworkUnreachable
        | K::AddrNotAvailable => error.kind().to_string(),
        _ => error.to_string(),
    }
}

/// The next line from a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplyLine {
    /// A line of the protocol.
    Reply(Reply),
    /// Another line, or more bytes without an end of line than any reply has.
    Foreign,
    /// The stream ended, perhaps within a line.
    End,
}

/// Reads the next line into `line`, without its end. Reads at most [`MAX_REPLY_LINE`]
/// bytes, whatever the server sends.
///
/// # Errors
/// Errors of the stream.
pub fn next_reply(lines: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<ReplyLine> {
    line.clear();
    let most = MAX_REPLY_LINE as u64;
    let count = lines.take(most).read_until(b'\n', line)?;
    if line.pop_if(|last| *last == b'\n').is_some() {
        return Ok(Reply::parse(line).map_or(ReplyLine::Foreign, ReplyLine::Reply));
    }
    Ok(if count < MAX_REPLY_LINE {
        ReplyLine::End
    } else {
        ReplyLine::Foreign
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_names_or_numbers_with_a_port() {
        assert_eq!(
            look_up("127.0.0.1:9876").unwrap(),
            [SocketAddr::from(([127, 0, 0, 1], 9876))]
        );
        assert_eq!(
            look_up("[::1]:80").unwrap(),
            [SocketAddr::new("::1".parse().unwrap(), 80)]
        );
        assert!(look_up("localhost:1").unwrap()[0].ip().is_loopback());
        for bad in ["127.0.0.1", "::1", "", "127.0.0.1:http"] {
            let error = look_up(bad).unwrap_err().to_string();
            let expected = format!("cannot find {bad}: ");
            assert!(error.starts_with(&expected), "{error}");
        }
    }

    #[test]
    fn reasons_are_words_without_numbers() {
        let error = io::Error::from_raw_os_error(rustix::io::Errno::CONNREFUSED.raw_os_error());
        assert_eq!(reason(&error), "connection refused");
    }

    #[test]
    fn lines_are_separated_and_never_read_beyond_the_longest() {
        let long = [b'x'; MAX_REPLY_LINE];
        let stream = [b"heartBeat\nHTTP/1.1 400\n", &long[..], b"y\nbusy"].concat();
        let (mut lines, mut line) = (&stream[..], Vec::new());
        let mut next = || {
            let found = next_reply(&mut lines, &mut line).unwrap();
            (found, line.clone())
        };
        assert_eq!(
            next(),
            (ReplyLine::Reply(Reply::Heartbeat), b"heartBeat".to_vec())
        );
        assert_eq!(next(), (ReplyLine::Foreign, b"HTTP/1.1 400".to_vec()));
        assert_eq!(next(), (ReplyLine::Foreign, long.to_vec()));
        assert_eq!(next(), (ReplyLine::Foreign, b"y".to_vec()));
        assert_eq!(next(), (ReplyLine::End, b"busy".to_vec()));
    }
}
