//! Many frames on one connection without waiting for each reply, in bounded
//! memory.
//!
//! Replies are read by a thread of their own, which is there before the first
//! frame leaves: a client that only wrote would stop when the server, its
//! replies unread, stops reading. A channel of fixed length between the two is
//! the window of frames in flight.

use std::collections::BTreeMap;
use std::io::{self, BufReader, BufWriter, Write as _};
use std::net::{Shutdown, TcpStream};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::{self, JoinHandle};

use super::reply_line::{ReplyLine, next_reply};
use super::{Client, ClientError};
use crate::wire::{MAX_REPLY_LINE, PacketKind, Reply};

/// Frames in flight: enough to hide a round trip of some milliseconds at a
/// million frames a second, and little memory.
const WINDOW: usize = 4096;

/// Bytes gathered for one write.
const WRITE_BUFFER: usize = 64 * 1024;

/// A connection on which frames follow each other.
#[derive(Debug)]
pub struct Pipeline {
    writer: BufWriter<TcpStream>,
    window: SyncSender<PacketKind>,
    reader: JoinHandle<Outcome>,
    client: Client,
    write_error: Option<io::Error>,
}

/// What became of all frames.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Frames answered as taken.
    pub taken: u64,
    /// Frames answered otherwise, by the text of their reply.
    pub refused: BTreeMap<String, u64>,
    /// Why frames are left without an answer, if there are any.
    pub failure: Option<ClientError>,
}

/// The server hears or says nothing more; [`Pipeline::finish`] tells why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stopped;

impl Pipeline {
    pub(super) fn new(client: Client) -> Result<Self, ClientError> {
        let share = |client: &Client| client.stream.try_clone();
        let writing = share(&client).map_err(|error| client.failure(&error))?;
        let reading = share(&client).map_err(|error| client.failure(&error))?;
        let (window, due) = sync_channel(WINDOW);
        let replies = Replies {
            lines: BufReader::new(reading),
            client: Client {
                stream: share(&client).map_err(|error| client.failure(&error))?,
                peer: client.peer.clone(),
                timeout: client.timeout,
            },
        };
        let reader = thread::Builder::new()
            .name("replies".into())
            .spawn(move || replies.read(&due))
            .map_err(|error| client.failure(&error))?;
        Ok(Self {
            writer: BufWriter::with_capacity(WRITE_BUFFER, writing),
            window,
            reader,
            client,
            write_error: None,
        })
    }

    /// Sends a frame that carries this kind of packet, or keeps it to be sent
    /// together with those that follow.
    ///
    /// # Errors
    /// [`Stopped`] when there is no use in going on.
    pub fn send(&mut self, kind: PacketKind, frame: &[u8]) -> Result<(), Stopped> {
        self.write(|writer| writer.write_all(frame))?;
        match self.window.try_send(kind) {
            Ok(()) => Ok(()),
            Err(TrySendError::Full(kind)) => {
                // What is waited for now must be on its way.
                self.flush()?;
                self.window.send(kind).map_err(|_| Stopped)
            }
            Err(TrySendError::Disconnected(_)) => Err(Stopped),
        }
    }

    /// Sends what was kept: to be called before a wait for further input.
    ///
    /// # Errors
    /// [`Stopped`] when there is no use in going on.
    pub fn flush(&mut self) -> Result<(), Stopped> {
        self.write(BufWriter::flush)
    }

    /// Sends the rest, waits for the replies that are due, and closes.
    #[must_use]
    pub fn finish(mut self) -> Outcome {
        let flushed = self.flush();
        drop(self.window);
        if flushed.is_ok() {
            // It fails only when the connection is gone, which the reader tells.
            let _gone = self.client.stream.shutdown(Shutdown::Write);
        }
        let outcome = self.reader.join();
        let mut outcome = outcome.unwrap_or_default();
        if let (None, Some(error)) = (&outcome.failure, &self.write_error) {
            outcome.failure = Some(self.client.failure(error));
        }
        // Bytes that could not be written are not to be tried again.
        let (_stream, _unwritten) = self.writer.into_parts();
        outcome
    }

    fn write(
        &mut self,
        write: impl FnOnce(&mut BufWriter<TcpStream>) -> io::Result<()>,
    ) -> Result<(), Stopped> {
        if self.write_error.is_some() {
            return Err(Stopped);
        }
        write(&mut self.writer).map_err(|error| {
            self.write_error = Some(error);
            Stopped
        })
    }
}

/// The reading half.
struct Replies {
    lines: BufReader<TcpStream>,
    client: Client,
}

impl Replies {
    /// Reads a line for each frame that is due, until there are no more; then
    /// to the end of file, where no further line may come.
    fn read(mut self, due: &Receiver<PacketKind>) -> Outcome {
        let mut outcome = Outcome::default();
        let mut line = Vec::with_capacity(MAX_REPLY_LINE + 1);
        for kind in due {
            match self.next_line(&mut line) {
                Ok(reply) if is_taken(reply, kind) => outcome.taken += 1,
                Ok(reply) => {
                    let text = reply.line().trim_ascii_end().escape_ascii().to_string();
                    *outcome.refused.entry(text).or_default() += 1;
                }
                Err(failure) => {
                    outcome.failure = Some(failure);
                    return outcome;
                }
            }
        }
        outcome.failure = self.extra(&mut line);
        outcome
    }

    fn next_line(&mut self, line: &mut Vec<u8>) -> Result<Reply, ClientError> {
        match next_reply(&mut self.lines, line) {
            Err(error) => Err(self.client.failure(&error)),
            Ok(ReplyLine::Reply(reply)) => Ok(reply),
            Ok(ReplyLine::Foreign) => Err(self.foreign(line)),
            Ok(ReplyLine::End) => Err(ClientError::Closed(self.client.peer.clone())),
        }
    }

    /// A line beyond the replies that were due, if there is one.
    fn extra(&mut self, line: &mut Vec<u8>) -> Option<ClientError> {
        match next_reply(&mut self.lines, line) {
            // All frames are answered: how the server hangs up does not matter.
            Err(_) => None,
            Ok(ReplyLine::End) if line.is_empty() => None,
            Ok(_) => Some(self.foreign(line)),
        }
    }

    fn foreign(&self, line: &[u8]) -> ClientError {
        ClientError::Foreign {
            address: self.client.peer.clone(),
            line: line.trim_ascii_end().escape_ascii().to_string(),
        }
    }
}

fn is_taken(reply: Reply, kind: PacketKind) -> bool {
    match kind {
        PacketKind::Heartbeat => reply == Reply::Heartbeat,
        PacketKind::Report => reply == Reply::Report,
    }
}
