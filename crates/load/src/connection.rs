//! One connection: a socket, what it still owes, what could not be written yet.

use std::io::{self, Read as _, Write as _};
use std::net::Shutdown;

use mio::net::TcpStream;

use super::expectations::Expectations;

/// A connection of this client.
#[derive(Debug)]
pub(super) struct Connection {
    stream: Option<TcpStream>,
    /// Whether the connection is established.
    established: bool,
    /// The replies that are due on it.
    pub(super) expectations: Expectations,
    /// Where in the ring of frames it is, in the closed loop.
    pub(super) ring_position: usize,
    unsent: Vec<u8>,
    written: usize,
}

/// Room for unsent bytes that a connection may keep once they are sent.
const KEPT_ROOM: usize = 64 * 1024;

impl Connection {
    /// A connection that is being opened; without a socket, one that failed.
    pub(super) fn new(stream: Option<TcpStream>) -> Self {
        Self {
            stream,
            established: false,
            expectations: Expectations::default(),
            ring_position: 0,
            unsent: Vec::new(),
            written: 0,
        }
    }

    /// Whether it is established and not closed.
    pub(super) fn is_open(&self) -> bool {
        self.established && self.stream.is_some()
    }

    /// Whether it is still being opened.
    pub(super) fn is_connecting(&self) -> bool {
        !self.established && self.stream.is_some()
    }

    /// Bytes that wait for the socket to take them.
    pub(super) fn unsent(&self) -> usize {
        self.unsent.len() - self.written
    }

    /// After an event on a connection that is being opened: whether it is
    /// established now, or the error it ended with.
    pub(super) fn try_establish(&mut self) -> io::Result<bool> {
        let Some(stream) = &self.stream else {
            return Ok(false);
        };
        if let Some(error) = stream.take_error()? {
            return Err(error);
        }
        match stream.peer_addr() {
            Ok(_) => self.established = true,
            Err(error) if error.kind() == io::ErrorKind::NotConnected => {}
            Err(error) => return Err(error),
        }
        Ok(self.established)
    }

    /// One read into `buffer`; no bytes mean end of file.
    #[inline]
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(stream) = &mut self.stream else {
            return Err(io::ErrorKind::WouldBlock.into());
        };
        loop {
            match stream.read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                outcome => return outcome,
            }
        }
    }

    /// Space at the end of the unsent bytes, for frames to be appended.
    pub(super) fn outbox(&mut self) -> &mut Vec<u8> {
        &mut self.unsent
    }

    /// Sends `bytes` behind all that waits, and keeps what the socket does not
    /// take.
    #[inline]
    pub(super) fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut taken = 0;
        if self.unsent() == 0 {
            taken = self.write(bytes)?;
        }
        self.unsent.extend_from_slice(&bytes[taken..]);
        Ok(())
    }

    /// Writes as much of the unsent bytes as the socket takes; tells how many.
    pub(super) fn flush(&mut self) -> io::Result<usize> {
        let unsent = std::mem::take(&mut self.unsent);
        let outcome = self.write(&unsent[self.written..]);
        self.unsent = unsent;
        let written = outcome?;
        self.written += written;
        if self.written == self.unsent.len() {
            self.unsent.clear();
            self.written = 0;
            if self.unsent.capacity() > KEPT_ROOM {
                self.unsent = Vec::new();
            }
        } else if self.written > KEPT_ROOM && self.written > self.unsent.len() / 2 {
            self.unsent.drain(..self.written);
            self.written = 0;
        }
        Ok(written)
    }

    /// Tells the server that nothing more comes.
    pub(super) fn shut_down(&self) {
        if let Some(stream) = &self.stream {
            // It fails when the connection is gone, which the next read tells.
            let _gone = stream.shutdown(Shutdown::Write);
        }
    }

    /// Closes the socket; unsent bytes are dropped.
    pub(super) fn close(&mut self) {
        self.stream = None;
        self.unsent = Vec::new();
        self.written = 0;
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(stream) = &mut self.stream else {
            return Ok(0);
        };
        let mut written = 0;
        while written < bytes.len() {
            match stream.write(&bytes[written..]) {
                Ok(count) => written += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(written)
    }
}
