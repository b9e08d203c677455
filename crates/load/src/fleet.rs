//! All connections, and the only code that opens, reads, writes and closes them.

use std::io::{self, Read as _, Write as _};
use std::net::Shutdown;
use std::time::Duration;

use mio::event::Event;
use mio::net::TcpStream;
use mio::{Interest, Registry, Token};

use super::LoadError;
use super::dial::Dialler;
use super::expectations::{Batch, Expectations};
use super::tally::{Fault, Tally};
use hawk_client::{reason, unreachable};
use hawk_time::Moment;

/// The connections of a run, by their number.
#[derive(Debug)]
pub(super) struct Fleet {
    registry: Registry,
    pub(super) dialler: Dialler,
    connections: Vec<Connection>,
    /// Counts, faults and latencies of all connections.
    pub(super) tally: Tally,
    /// Established and not closed.
    pub(super) open: usize,
    /// Being opened.
    pub(super) connecting: usize,
    /// Frames sent and not answered yet.
    pub(super) outstanding: u64,
    /// Unsent bytes of all connections.
    unsent: usize,
    /// Whether all streams have been ended, so that an end of file is no fault.
    ending: bool,
    buffer: Box<[u8]>,
    /// Connections with frames appended to their outbox since the last flush.
    dirty: Vec<usize>,
    /// Connections that may hold more bytes than their last read brought, to be read again
    /// without another event.
    pub(super) unread: Vec<Unread>,
}

/// A connection to be read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unread {
    pub(super) connection: usize,
    /// Whether its peer has ended the stream.
    pub(super) to_the_end: bool,
}

/// Bytes of the one read buffer: as much as a connection at a large depth can
/// have waiting, yet within the second-level cache.
const READ_BUFFER: usize = 128 * 1024;

/// Limits of unsent bytes and unanswered frames. Above them, frames that fall due are dropped and
/// counted: a server that does not read must not fill this machine's memory.
const MOST_UNSENT: usize = 256 << 20;
const MOST_OUTSTANDING: u64 = 8_000_000;

impl Fleet {
    pub(super) fn new(registry: Registry, dialler: Dialler, reply_timeout: Duration) -> Self {
        Self {
            registry,
            dialler,
            connections: Vec::new(),
            tally: Tally::new(reply_timeout),
            open: 0,
            connecting: 0,
            outstanding: 0,
            unsent: 0,
            ending: false,
            buffer: vec![0; READ_BUFFER].into(),
            dirty: Vec::new(),
            unread: Vec::new(),
        }
    }

    /// Returns the number of connections dialled so far, open or not.
    pub(super) fn dialled(&self) -> usize {
        self.connections.len()
    }

    /// Returns whether this connection is established and not closed.
    #[inline]
    pub(super) fn is_open(&self, connection: usize) -> bool {
        self.connections
            .get(connection)
            .is_some_and(Connection::is_open)
    }

    /// Starts to open one more connection.
    pub(super) fn dial(&mut self) -> Result<(), LoadError> {
        let number = self.connections.len();
        let mut stream = match self.dialler.dial(number)? {
            Ok(stream) => stream,
            // An immediate refusal counts as a later one.
            Err(error) => {
                self.connections.push(Connection::new(None));
                return self.cannot_connect(&error);
            }
        };
        let interest = Interest::READABLE | Interest::WRITABLE;
        self.registry
            .register(&mut stream, Token(number), interest)
            .map_err(LoadError::system("watch a socket"))?;
        self.connections.push(Connection::new(Some(stream)));
        self.connecting += 1;
        Ok(())
    }

    /// Handles an event on a connection. Returns whether the connection has just been
    /// established, and the number of frames completed.
    #[inline]
    pub(super) fn on_event(
        &mut self,
        connection: usize,
        event: &Event,
    ) -> Result<(bool, u32), LoadError> {
        let (mut established, mut completed) = (false, 0);
        let Some(it) = self.connections.get_mut(connection) else {
            return Ok((false, 0));
        };
        if it.is_connecting() {
            match it.try_establish() {
                Ok(false) => return Ok((false, 0)),
                Ok(true) => {
                    self.connecting -= 1;
                    self.open += 1;
                    established = true;
                }
                Err(error) => {
                    it.close();
                    self.connecting -= 1;
                    self.cannot_connect(&error)?;
                    return Ok((false, 0));
                }
            }
        }
        if event.is_writable() {
            self.flush(connection);
        }
        if event.is_readable() || event.is_read_closed() || event.is_error() {
            completed = self.read(Unread {
                connection,
                to_the_end: event.is_read_closed() || event.is_error(),
            });
        }
        Ok((established, completed))
    }

    /// Reads from a connection. Returns the number of frames completed.
    ///
    /// One read, unless the peer has ended the stream: bytes that come after the
    /// event raise another one, but those and an end of file that were there
    /// before it do not.
    pub(super) fn read(&mut self, unread: Unread) -> u32 {
        let at_the_end = (!self.ending).then_some("closed by the server");
        self.read_until(unread, at_the_end)
    }

    /// Does the same; `at_the_end` is the cause of the fault that an end of file is, if any.
    fn read_until(&mut self, unread: Unread, at_the_end: Option<&str>) -> u32 {
        let connection = unread.connection;
        let mut completed = 0;
        loop {
            let it = &mut self.connections[connection];
            match it.read(&mut self.buffer) {
                Ok(0) => {
                    completed += it.expectations.end_of_file(&mut self.tally);
                    self.close(connection, completed, at_the_end);
                    return completed;
                }
                Ok(count) => {
                    self.tally.clock = Moment::now();
                    let bytes = &self.buffer[..count];
                    completed += it.expectations.receive(bytes, &mut self.tally);
                    if count == self.buffer.len() {
                        self.unread.push(unread);
                        break;
                    }
                    if !unread.to_the_end {
                        break;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => {
                    self.close(connection, completed, Some(&reason(&error)));
                    return completed;
                }
            }
        }
        self.outstanding -= u64::from(completed);
        completed
    }

    /// Appends the frame of `batch`, which `encode` writes, to a connection's unsent bytes.
    /// [`flush_dirty`](Self::flush_dirty) writes them.
    pub(super) fn post(
        &mut self,
        connection: usize,
        batch: Batch,
        encode: impl FnOnce(&mut Vec<u8>),
    ) {
        if self.unsent > MOST_UNSENT || self.outstanding > MOST_OUTSTANDING {
            let cause = "the server had fallen too far behind";
            let count = u64::from(batch.count);
            self.tally.faults.add(Fault::Unsent, cause, count);
            return;
        }
        let it = &mut self.connections[connection];
        if it.unsent() == 0 {
            self.dirty.push(connection);
        }
        let before = it.unsent.len();
        encode(&mut it.unsent);
        self.unsent += it.unsent.len() - before;
        self.expect(connection, batch);
    }

    /// Writes the unsent bytes of all connections in `dirty`.
    pub(super) fn flush_dirty(&mut self) {
        for at in 0..self.dirty.len() {
            self.flush(self.dirty[at]);
        }
        self.dirty.clear();
    }

    /// Counts frames as sent, and expects their replies.
    #[inline]
    pub(super) fn expect(&mut self, connection: usize, batch: Batch) {
        self.tally.sent(&batch);
        self.outstanding += u64::from(batch.count);
        self.connections[connection].expectations.expect(batch);
    }

    /// Sends frames that were [expected](Self::expect) before.
    #[inline]
    pub(super) fn send(&mut self, connection: usize, frames: &[u8]) {
        let it = &mut self.connections[connection];
        if !it.is_open() {
            return;
        }
        let before = it.unsent();
        let outcome = it.send(frames);
        self.unsent += it.unsent() - before;
        if let Err(error) = outcome {
            self.broken(connection, &error);
        }
    }

    /// Ends all streams: nothing more will be sent.
    pub(super) fn shut_down(&mut self) {
        self.ending = true;
        for connection in &self.connections {
            connection.shut_down();
        }
    }

    /// Closes the connections that are not established yet.
    pub(super) fn close_connecting(&mut self) -> Result<(), LoadError> {
        let late = io::ErrorKind::TimedOut.into();
        for number in 0..self.connections.len() {
            if self.connections[number].is_connecting() {
                self.connections[number].close();
                self.connecting -= 1;
                self.cannot_connect(&late)?;
            }
        }
        Ok(())
    }

    /// Closes what the server has left open.
    pub(super) fn close_rest(&mut self) {
        let cause = "left open by the server after our end of file";
        for number in 0..self.connections.len() {
            if self.is_open(number) {
                self.close(number, 0, Some(cause));
            }
        }
    }

    fn flush(&mut self, connection: usize) {
        let it = &mut self.connections[connection];
        if it.unsent() == 0 {
            return;
        }
        match it.flush() {
            Ok(written) => self.unsent -= written,
            Err(error) => self.broken(connection, &error),
        }
    }

    /// Closes a connection after a failed write. Reads it first: the server's last line may be
    /// there, and usually contains the cause.
    fn broken(&mut self, connection: usize, error: &io::Error) {
        // The kernel reports a reset once, to this write; reads then get an end of file.
        let cause = match error.kind() {
            io::ErrorKind::BrokenPipe => "closed by the server".to_owned(),
            _ => reason(error),
        };
        let unread = Unread {
            connection,
            to_the_end: true,
        };
        self.read_until(unread, Some(&cause));
        if self.is_open(connection) {
            self.close(connection, 0, Some(&cause));
        }
    }

    /// Closes an open connection. `completed` is the number of its frames that still count as
    /// outstanding although they are complete; its other frames are lost.
    fn close(&mut self, connection: usize, completed: u32, cause: Option<&str>) {
        let it = &mut self.connections[connection];
        let lost = it.expectations.drain();
        self.unsent -= it.unsent();
        it.close();
        self.open -= 1;
        self.outstanding -= u64::from(completed) + lost;
        let faults = &mut self.tally.faults;
        faults.add(Fault::Lost, cause.unwrap_or("no reply by the end"), lost);
        if let Some(cause) = cause {
            faults.add(Fault::Connection, cause, 1);
        }
    }

    /// Counts a connection that was not made. If the first of all is refused, no server
    /// listens there, and the run ends.
    fn cannot_connect(&mut self, error: &io::Error) -> Result<(), LoadError> {
        let refused = error.kind() == io::ErrorKind::ConnectionRefused;
        if refused && self.open == 0 && self.tally.faults.count() == 0 {
            return Err(unreachable(self.dialler.target, &reason(error)).into());
        }
        let cause = format!("not made: {}", reason(error));
        self.tally.faults.add(Fault::Connection, &cause, 1);
        Ok(())
    }
}

/// A connection of this client.
#[derive(Debug)]
struct Connection {
    /// `None` once the connection is closed or could not be made.
    stream: Option<TcpStream>,
    /// Whether the connection is established.
    established: bool,
    expectations: Expectations,
    /// Bytes to be sent.
    unsent: Vec<u8>,
    /// How many of them, from the front, the socket has taken.
    written: usize,
}

/// Room for unsent bytes that a connection may keep once they are sent.
const KEPT_ROOM: usize = 64 * 1024;

impl Connection {
    /// Creates a connection that is being opened; without a socket, one that failed.
    fn new(stream: Option<TcpStream>) -> Self {
        Self {
            stream,
            established: false,
            expectations: Expectations::default(),
            unsent: Vec::new(),
            written: 0,
        }
    }

    /// Returns whether it is established and not closed.
    fn is_open(&self) -> bool {
        self.established && self.stream.is_some()
    }

    /// Returns whether it is still being opened.
    fn is_connecting(&self) -> bool {
        !self.established && self.stream.is_some()
    }

    /// Returns the number of bytes that the socket has not taken yet.
    fn unsent(&self) -> usize {
        self.unsent.len() - self.written
    }

    /// Returns whether a connection that is being opened is established now.
    fn try_establish(&mut self) -> io::Result<bool> {
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

    /// Reads once into `buffer`. Returns 0 at the end of the stream.
    #[inline]
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
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

    /// Sends `bytes` after all unsent bytes, and keeps what the socket does not take.
    #[inline]
    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut taken = 0;
        if self.unsent() == 0 {
            taken = self.write(bytes)?;
        }
        self.unsent.extend_from_slice(&bytes[taken..]);
        Ok(())
    }

    /// Writes as much of the unsent bytes as the socket takes; returns how many.
    fn flush(&mut self) -> io::Result<usize> {
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

    /// Ends the stream towards the server.
    fn shut_down(&self) {
        if let Some(stream) = &self.stream {
            // It fails if the connection is gone; the next read returns that error.
            let _gone = stream.shutdown(Shutdown::Write);
        }
    }

    /// Closes the socket; unsent bytes are dropped.
    fn close(&mut self) {
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
