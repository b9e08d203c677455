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
use super::tally::Fault;
use super::tally::Tally;
use hawk_client::{DialError, reason};
use hawk_time::Moment;

/// The connections of a run, by their number.
#[derive(Debug)]
pub(super) struct Fleet {
    registry: Registry,
    dialler: Dialler,
    connections: Vec<Connection>,
    /// What has happened on them.
    pub(super) tally: Tally,
    /// Established and not closed.
    pub(super) open: usize,
    /// Being opened.
    pub(super) connecting: usize,
    /// Frames sent and not answered yet.
    pub(super) outstanding: u64,
    /// Bytes that wait in connections.
    unsent: usize,
    /// Whether an end of file is what we wait for.
    ending: bool,
    buffer: Box<[u8]>,
    /// Connections with frames appended to their outbox since the last flush.
    dirty: Vec<usize>,
    /// Connections that may hold more bytes than their last read brought.
    unread: Vec<Unread>,
}

/// A connection to read again without another event.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unread {
    /// Which one.
    pub(super) connection: usize,
    /// Whether its peer has ended the stream.
    pub(super) to_the_end: bool,
}

/// What an event came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Outcome {
    /// The connection has just been established.
    pub(super) established: bool,
    /// So many frames were completed.
    pub(super) completed: u32,
}

/// Bytes of the one read buffer: as much as a connection at a large depth can
/// have waiting, yet within the second-level cache.
const READ_BUFFER: usize = 128 * 1024;

/// Bytes that may wait unsent, and frames unanswered, before frames that fall
/// due are dropped and counted instead: a server that stands still must not
/// fill this machine's memory.
const MOST_UNSENT: usize = 256 << 20;
const MOST_OUTSTANDING: u64 = 8_000_000;

impl Fleet {
    /// No connections yet.
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

    /// What opens its connections.
    pub(super) const fn dialler(&self) -> &Dialler {
        &self.dialler
    }

    /// Connections dialled so far, whatever became of them.
    pub(super) fn dialled(&self) -> usize {
        self.connections.len()
    }

    /// Whether this connection is established and not closed.
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
            // A target that refuses at once; like one that does so later.
            Err(error) => {
                self.connections.push(Connection::new(None));
                return self.cannot_connect(&error);
            }
        };
        let interest = Interest::READABLE | Interest::WRITABLE;
        self.registry
            .register(&mut stream, Token(number), interest)
            .map_err(|source| LoadError::System {
                what: "watch a socket",
                source,
            })?;
        self.connections.push(Connection::new(Some(stream)));
        self.connecting += 1;
        Ok(())
    }

    /// Handles an event on a connection.
    #[inline]
    pub(super) fn on_event(
        &mut self,
        connection: usize,
        event: &Event,
    ) -> Result<Outcome, LoadError> {
        let mut outcome = Outcome::default();
        let Some(it) = self.connections.get_mut(connection) else {
            return Ok(outcome);
        };
        if it.is_connecting() {
            match it.try_establish() {
                Ok(false) => return Ok(outcome),
                Ok(true) => {
                    self.connecting -= 1;
                    self.open += 1;
                    outcome.established = true;
                }
                Err(error) => {
                    it.close();
                    self.connecting -= 1;
                    self.cannot_connect(&error)?;
                    return Ok(outcome);
                }
            }
        }
        if event.is_writable() {
            self.flush(connection);
        }
        if event.is_readable() || event.is_read_closed() || event.is_error() {
            let to_the_end = event.is_read_closed() || event.is_error();
            outcome.completed = self.read(connection, to_the_end);
        }
        Ok(outcome)
    }

    /// Reads what has come on a connection; returns the number of frames that it completed.
    ///
    /// One read, unless the peer has ended the stream: bytes that come after the
    /// event raise another one, but those and an end of file that were there
    /// before it do not.
    pub(super) fn read(&mut self, connection: usize, to_the_end: bool) -> u32 {
        let at_the_end = (!self.ending).then_some("closed by the server");
        self.read_until(connection, to_the_end, at_the_end)
    }

    /// The same, with what an end of file is called, if it is an error.
    fn read_until(&mut self, connection: usize, to_the_end: bool, at_the_end: Option<&str>) -> u32 {
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
                        self.unread.push(Unread {
                            connection,
                            to_the_end,
                        });
                        break;
                    }
                    if !to_the_end {
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

    /// Connections to be read again.
    pub(super) fn take_unread(&mut self) -> Vec<Unread> {
        std::mem::take(&mut self.unread)
    }

    /// Whether there are any.
    pub(super) fn has_unread(&self) -> bool {
        !self.unread.is_empty()
    }

    /// Has `encode` append the frame of `batch` to a connection's outbox, to be
    /// written by [`flush_dirty`](Self::flush_dirty).
    pub(super) fn post(
        &mut self,
        connection: usize,
        batch: Batch,
        encode: impl FnOnce(&mut Vec<u8>),
    ) {
        if self.unsent > MOST_UNSENT || self.outstanding > MOST_OUTSTANDING {
            let cause = "the server had fallen too far behind";
            self.tally
                .fault(Fault::Unsent, cause, u64::from(batch.count));
            return;
        }
        let it = &mut self.connections[connection];
        if it.unsent() == 0 {
            self.dirty.push(connection);
        }
        let outbox = it.outbox();
        let before = outbox.len();
        encode(outbox);
        self.unsent += outbox.len() - before;
        self.expect(connection, batch);
    }

    /// Writes all outboxes with something new in them.
    pub(super) fn flush_dirty(&mut self) {
        for at in 0..self.dirty.len() {
            self.flush(self.dirty[at]);
        }
        self.dirty.clear();
    }

    /// Notes frames as sent, to be answered.
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

    /// Where in the ring of frames a connection is.
    pub(super) fn ring_position(&mut self, connection: usize) -> &mut usize {
        &mut self.connections[connection].ring_position
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
        for number in 0..self.connections.len() {
            if self.is_open(number) {
                self.close(
                    number,
                    0,
                    Some("left open by the server after our end of file"),
                );
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

    /// A write has failed. What the server said before it hung up may still be
    /// there to be read, and usually says why.
    fn broken(&mut self, connection: usize, error: &io::Error) {
        // The kernel reports a reset once, to this write: reads then return end of file.
        let cause = match error.kind() {
            io::ErrorKind::BrokenPipe => "closed by the server".to_owned(),
            _ => reason(error),
        };
        self.read_until(connection, true, Some(&cause));
        if self.is_open(connection) {
            self.close(connection, 0, Some(&cause));
        }
    }

    /// Closes an open connection. Its last `completed` frames still count as outstanding.
    fn close(&mut self, connection: usize, completed: u32, cause: Option<&str>) {
        let it = &mut self.connections[connection];
        let lost = it.expectations.drain();
        self.unsent -= it.unsent();
        it.close();
        self.open -= 1;
        self.outstanding -= u64::from(completed) + lost;
        self.tally
            .fault(Fault::Lost, cause.unwrap_or("no reply by the end"), lost);
        if let Some(cause) = cause {
            self.tally.fault(Fault::Connection, cause, 1);
        }
    }

    /// Counts a connection that was not made. If the first of all is refused, no server
    /// listens there, and the run ends.
    fn cannot_connect(&mut self, error: &io::Error) -> Result<(), LoadError> {
        let refused = error.kind() == io::ErrorKind::ConnectionRefused;
        if refused && self.open == 0 && self.tally.fault_count() == 0 {
            let target = self.dialler.target().to_string();
            return Err(DialError::unreachable(&target, error).into());
        }
        let cause = format!("not made: {}", reason(error));
        self.tally.fault(Fault::Connection, &cause, 1);
        Ok(())
    }
}

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

    /// Writes as much of the unsent bytes as the socket takes; returns how many.
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

    /// Ends the stream towards the server.
    pub(super) fn shut_down(&self) {
        if let Some(stream) = &self.stream {
            // It fails when the connection is gone; the next read reports that.
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
