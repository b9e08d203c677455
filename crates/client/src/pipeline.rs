//! Many frames without waiting for each reply, in bounded memory, over as many connections
//! as that takes.
//!
//! One loop reads and writes: a client that only wrote would block once the server, its
//! replies unread, stops reading. Each frame is kept until it is answered. A connection
//! that ends before is replaced, and what was not answered is sent again, the same bytes.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::thread;
use std::time::{Duration, Instant};

use rand::RngExt as _;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::{Client, ClientError, ReplyLine, next_reply};
use hawk_wire::{MAX_REPLY_LINE, PacketKind, Reply};

/// Frames in flight: enough to hide a round trip of some milliseconds at a
/// million frames a second.
const WINDOW: usize = 4096;

/// Bytes of frames in flight, for long ones.
const WINDOW_BYTES: usize = 4 << 20;

/// Bytes gathered for one write.
const WRITE_BUFFER: usize = 64 * 1024;

/// The longest wait before the first attempt to connect again, doubled for each attempt
/// without a reply.
const FIRST_WAIT: Duration = Duration::from_millis(100);

/// The longest wait of all.
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// A stream of frames to a server, over one connection after another.
#[derive(Debug)]
pub struct Pipeline {
    address: String,
    timeout: Duration,
    /// The present connection; `None` after the server has ended it.
    link: Option<Link>,
    /// Sent or to be sent, and not answered; the oldest first.
    unanswered: VecDeque<Frame>,
    /// Bytes of these frames.
    bytes: usize,
    /// When the last reply came, or the first of these frames was added if that was later.
    progress_at: Instant,
    /// Attempts to connect again since the last reply.
    attempts: u32,
    /// The error of the last of these connections.
    trouble: Option<ClientError>,
    outcome: Outcome,
}

#[derive(Debug)]
struct Frame {
    kind: PacketKind,
    bytes: Box<[u8]>,
}

/// A connection.
#[derive(Debug)]
struct Link {
    stream: TcpStream,
    /// Bytes to be written.
    unsent: Vec<u8>,
    /// How many of them are written.
    written: usize,
    /// Frames among the unanswered that are in `unsent` or written.
    queued: usize,
    /// The beginning of a line that has no end yet.
    line: Vec<u8>,
}

/// The result of all frames.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Frames that the server has taken.
    pub taken: u64,
    /// Frames with another reply, by its text.
    pub refused: BTreeMap<String, u64>,
    /// The error that left frames without a reply; `None` if all have one.
    pub failure: Option<ClientError>,
}

/// No more frames are sent; [`Pipeline::finish`] returns why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stopped;

impl Pipeline {
    /// Connects to `address`, as [`Client::connect`] does. `timeout` bounds the connection,
    /// and then each time without a reply while one is due, reconnections included.
    ///
    /// # Errors
    /// [`ClientError`] when the first connection fails.
    pub fn connect(address: &str, timeout: Duration) -> Result<Self, ClientError> {
        Ok(Self {
            address: address.to_owned(),
            timeout,
            link: Some(Link::connect(address, timeout)?),
            unanswered: VecDeque::new(),
            bytes: 0,
            progress_at: Instant::now(),
            attempts: 0,
            trouble: None,
            outcome: Outcome::default(),
        })
    }

    /// Sends a frame that carries this kind of packet, or keeps it to be sent together with
    /// later frames. Blocks while too many are in flight.
    ///
    /// # Errors
    /// [`Stopped`] once a failure is final. The frame counts as sent.
    pub fn send(&mut self, kind: PacketKind, frame: &[u8]) -> Result<(), Stopped> {
        if self.unanswered.is_empty() {
            self.progress_at = Instant::now();
        }
        self.bytes += frame.len();
        self.unanswered.push_back(Frame {
            kind,
            bytes: frame.into(),
        });
        self.check()?;
        let is_full = |this: &Self| this.unanswered.len() >= WINDOW || this.bytes >= WINDOW_BYTES;
        let unsent = self
            .link
            .as_mut()
            .map_or(0, |link| link.fill(&self.unanswered));
        if unsent >= WRITE_BUFFER {
            self.turn(None, Some(Duration::ZERO))?;
        }
        while is_full(self) {
            self.turn(None, None)?;
        }
        Ok(())
    }

    /// Reads replies and writes frames until `input` can be read. A connection that ends
    /// meanwhile is noticed; the next frame opens another.
    ///
    /// # Errors
    /// [`Stopped`] once a failure is final.
    pub fn wait_for(&mut self, input: BorrowedFd<'_>) -> Result<(), Stopped> {
        self.check()?;
        while !self.turn(Some(input), None)? {}
        Ok(())
    }

    /// Sends the rest, waits for the replies that are due, and closes.
    #[must_use]
    pub fn finish(mut self) -> Outcome {
        while self.check().is_ok() && !self.unanswered.is_empty() {
            // The outcome has the failure.
            let _stopped = self.turn(None, None);
        }
        if self.outcome.failure.is_none()
            && let Some(link) = self.link.take()
        {
            self.outcome.failure = link.close(&self.address, self.timeout);
        }
        self.outcome
    }

    const fn check(&self) -> Result<(), Stopped> {
        match self.outcome.failure {
            None => Ok(()),
            Some(_) => Err(Stopped),
        }
    }

    /// Moves bytes in both directions once, and waits up to `patience` for that, or as long
    /// as a reply may take. Returns whether `input` can be read.
    fn turn(
        &mut self,
        input: Option<BorrowedFd<'_>>,
        patience: Option<Duration>,
    ) -> Result<bool, Stopped> {
        let is_due = !self.unanswered.is_empty();
        if is_due && self.link.is_none() {
            self.reconnect(None)?;
        }
        if let Some(link) = &mut self.link {
            link.fill(&self.unanswered);
        }
        let left = self.time_left();
        let ready = self.poll(
            input,
            match (patience, is_due) {
                (Some(patience), _) => Some(patience),
                (None, true) => Some(left),
                (None, false) => None,
            },
        );
        let (moves, input) = match ready {
            Ok(ready) => ready,
            Err(error) => return Err(self.fail(self.failure(&error))),
        };
        if moves && let Err(trouble) = self.exchange() {
            self.after(trouble)?;
        }
        if is_due && !self.unanswered.is_empty() && self.time_left().is_zero() {
            let silent = self.failure(&io::ErrorKind::TimedOut.into());
            let failure = self.trouble.take().unwrap_or(silent);
            return Err(self.fail(failure));
        }
        Ok(input)
    }

    /// Returns the time limit of the next reply.
    fn time_left(&self) -> Duration {
        self.timeout.saturating_sub(self.progress_at.elapsed())
    }

    /// Waits until the connection can move bytes or `input` can be read. Returns which of both is
    /// ready.
    fn poll(
        &self,
        input: Option<BorrowedFd<'_>>,
        patience: Option<Duration>,
    ) -> io::Result<(bool, bool)> {
        let mut sources = Vec::with_capacity(2);
        if let Some(link) = &self.link {
            let mut flags = PollFlags::IN;
            flags.set(PollFlags::OUT, link.has_unsent());
            sources.push(PollFd::from_borrowed_fd(link.stream.as_fd(), flags));
        }
        if let Some(input) = input {
            sources.push(PollFd::from_borrowed_fd(input, PollFlags::IN));
        }
        let patience = patience.map(|it| Timespec::try_from(it).unwrap_or_default());
        match poll(&mut sources, patience.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let is_ready =
            |source: Option<&PollFd<'_>>| source.is_some_and(|it| !it.revents().is_empty());
        let at_input = usize::from(self.link.is_some());
        let moves = self.link.is_some() && is_ready(sources.first());
        Ok((moves, input.is_some() && is_ready(sources.get(at_input))))
    }

    /// Reads and writes what is possible now.
    fn exchange(&mut self) -> Result<(), Trouble> {
        let Some(link) = &mut self.link else {
            return Ok(());
        };
        // Replies that came before a reset are read first.
        let written = link.write();
        let ended = link.read();
        let lines = std::mem::take(&mut link.line);
        let mut rest = lines.as_slice();
        let mut line = Vec::new();
        loop {
            let begun = rest;
            let reply = match next_reply(&mut rest, &mut line)? {
                ReplyLine::Reply(reply) => reply,
                ReplyLine::Foreign => return Err(Trouble::Foreign(line)),
                ReplyLine::End => {
                    link.line = begun.to_vec();
                    break;
                }
            };
            let Some(frame) = self.unanswered.pop_front() else {
                // A server that turns a connection away says so before it gets a frame.
                return Err(match reply {
                    Reply::Busy(_) => Trouble::Ended,
                    _ => Trouble::Foreign(line),
                });
            };
            link.queued = link.queued.saturating_sub(1);
            self.bytes -= frame.bytes.len();
            self.progress_at = Instant::now();
            self.attempts = 0;
            self.trouble = None;
            self.outcome.count(reply, frame.kind);
        }
        match ended? {
            false => written.map_err(Trouble::Lost),
            true if link.line.is_empty() => Err(Trouble::Ended),
            true => Err(Trouble::Foreign(std::mem::take(&mut link.line))),
        }
    }

    /// Ends a connection, and opens another if replies are due.
    fn after(&mut self, trouble: Trouble) -> Result<(), Stopped> {
        self.link = None;
        let failure = match trouble {
            Trouble::Foreign(line) => {
                return Err(self.fail(ClientError::foreign(&self.address, &line)));
            }
            Trouble::Ended => ClientError::closed(&self.address),
            Trouble::Lost(error) => self.failure(&error),
        };
        match self.unanswered.is_empty() {
            // Mostly the server's idle timeout.
            true => Ok(()),
            false => self.reconnect(Some(failure)),
        }
    }

    /// Connects again, and again until a reply is overdue, with full jitter. `failure` is
    /// that of the last connection, if frames were unanswered on it.
    fn reconnect(&mut self, mut failure: Option<ClientError>) -> Result<(), Stopped> {
        loop {
            if let Some(failure) = failure.take() {
                let span = FIRST_WAIT
                    .saturating_mul(1 << self.attempts.min(16))
                    .min(LONGEST_WAIT);
                let wait = span.mul_f64(rand::rng().random_range(0.0..=1.0));
                if wait >= self.time_left() {
                    return Err(self.fail(failure));
                }
                self.trouble = Some(failure);
                thread::sleep(wait);
                self.attempts = self.attempts.saturating_add(1);
            }
            match Link::connect(
                &self.address,
                self.time_left().max(Duration::from_millis(1)),
            ) {
                Ok(link) => {
                    self.link = Some(link);
                    return Ok(());
                }
                Err(error) => failure = Some(error),
            }
        }
    }

    fn fail(&mut self, failure: ClientError) -> Stopped {
        self.outcome.failure = Some(failure);
        Stopped
    }

    fn failure(&self, error: &io::Error) -> ClientError {
        ClientError::broken(&self.address, self.timeout, error)
    }
}

/// The end of a connection.
enum Trouble {
    /// The server ended it.
    Ended,
    /// It broke.
    Lost(io::Error),
    /// A line came that is no reply, or answers nothing.
    Foreign(Vec<u8>),
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Self::Lost(error)
    }
}

impl Link {
    fn connect(address: &str, timeout: Duration) -> Result<Self, ClientError> {
        let stream = Client::connect(address, timeout)?.stream;
        let nonblocking = stream.set_nonblocking(true);
        nonblocking.map_err(|error| ClientError::broken(address, timeout, &error))?;
        Ok(Self {
            stream,
            unsent: Vec::with_capacity(WRITE_BUFFER),
            written: 0,
            queued: 0,
            line: Vec::new(),
        })
    }

    /// Appends frames to what is to be written, up to a write's size. Returns how many bytes
    /// are to be written.
    fn fill(&mut self, frames: &VecDeque<Frame>) -> usize {
        while self.unsent.len() - self.written < WRITE_BUFFER
            && let Some(frame) = frames.get(self.queued)
        {
            self.unsent.extend_from_slice(&frame.bytes);
            self.queued += 1;
        }
        self.unsent.len() - self.written
    }

    const fn has_unsent(&self) -> bool {
        self.written < self.unsent.len()
    }

    fn write(&mut self) -> io::Result<()> {
        while self.has_unsent() {
            match self.stream.write(&self.unsent[self.written..]) {
                Ok(count) => self.written += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        self.unsent.clear();
        self.written = 0;
        Ok(())
    }

    /// Reads all bytes that have come. Returns whether the stream is at its end.
    fn read(&mut self) -> io::Result<bool> {
        let mut space = [0; 16 * 1024];
        loop {
            match self.stream.read(&mut space) {
                Ok(0) => return Ok(true),
                Ok(count) => {
                    self.line.extend_from_slice(&space[..count]);
                    if count < space.len() {
                        return Ok(false);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
    }

    /// Ends the stream and reads to its end. Returns an error for any further line.
    fn close(mut self, address: &str, timeout: Duration) -> Option<ClientError> {
        // All frames are answered, so errors of the close do not matter.
        self.stream.shutdown(Shutdown::Write).ok()?;
        self.stream.set_nonblocking(false).ok()?;
        self.stream.set_read_timeout(Some(timeout)).ok()?;
        let limit = MAX_REPLY_LINE as u64;
        let _ended = (&self.stream).take(limit).read_to_end(&mut self.line);
        (!self.line.is_empty()).then(|| ClientError::foreign(address, &self.line))
    }
}

impl Outcome {
    fn count(&mut self, reply: Reply, kind: PacketKind) {
        if reply == kind.reply() {
            self.taken += 1;
        } else {
            let text = reply.line().trim_ascii_end().escape_ascii().to_string();
            *self.refused.entry(text).or_default() += 1;
        }
    }
}
