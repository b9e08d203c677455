//! A blocking connection to a server, for sending a few packets or many and
//! waiting for their replies.

#![cfg_attr(not(test), deny(clippy::expect_used, clippy::unreachable))]

mod dial;
mod pipeline;
mod reply_line;

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use hawk_wire::{MAX_REPLY_LINE, Reply};

pub use dial::{DialError, look_up, reason};
pub use pipeline::{Outcome, Pipeline, Stopped};
pub use reply_line::{ReplyLine, next_reply};

/// A connection to a server.
#[derive(Debug)]
pub struct Client {
    stream: TcpStream,
    peer: String,
    timeout: Duration,
}

/// Why a client gave up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// There is no connection.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// The server ended the connection while a reply was due.
    #[error("{0} closed the connection without a reply; its log may say why")]
    Closed(String),
    /// No reply came in time.
    #[error("{address} did not reply within {}", humantime::format_duration(*timeout))]
    Silent {
        /// The server.
        address: String,
        /// How long it was waited for.
        timeout: Duration,
    },
    /// A line came that is no reply of this protocol.
    #[error("{address} replied \"{line}\", which is not hawk's protocol; is that a hawk server?")]
    Foreign {
        /// The server.
        address: String,
        /// What it said, made printable.
        line: String,
    },
    /// The connection broke.
    #[error("the connection to {address} broke: {reason}")]
    Broken {
        /// The server.
        address: String,
        /// How.
        reason: String,
    },
}

impl Client {
    /// Connects to `address`, a host or number with a port; where the name has
    /// several addresses, to the first that answers. `timeout` bounds this and
    /// every later wait.
    ///
    /// # Errors
    /// [`ClientError::Dial`].
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
        Err(DialError::unreachable(address, &last).into())
    }

    fn connect_to(target: SocketAddr, timeout: Duration) -> io::Result<TcpStream> {
        let stream = TcpStream::connect_timeout(&target, timeout)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(timeout))?;
        stream.set_write_timeout(Some(timeout))?;
        Ok(stream)
    }

    /// Sends one frame; its reply, and how long that took.
    ///
    /// # Errors
    /// [`ClientError`] when no reply comes.
    pub fn ask(&mut self, frame: &[u8]) -> Result<(Reply, Duration), ClientError> {
        let start = Instant::now();
        // The reply to a server's refusal may be there although a write fails.
        let written = self.stream.write_all(frame);
        let mut line = Vec::with_capacity(MAX_REPLY_LINE);
        let deadline = start + self.timeout;
        while line.last() != Some(&b'\n') {
            let mut piece = [0; MAX_REPLY_LINE];
            match self.stream.read(&mut piece) {
                Ok(0) => return Err(ClientError::Closed(self.peer.clone())),
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
            None => Err(ClientError::Foreign {
                address: self.peer.clone(),
                line: text.escape_ascii().to_string(),
            }),
        }
    }

    fn failure(&self, error: &io::Error) -> ClientError {
        ClientError::of(&self.peer, self.timeout, error)
    }
}

impl ClientError {
    /// What an error of a connection to `address` means.
    fn of(address: &str, timeout: Duration, error: &io::Error) -> Self {
        let address = address.to_owned();
        match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                Self::Silent { address, timeout }
            }
            _ => Self::Broken {
                address,
                reason: reason(error),
            },
        }
    }
}
