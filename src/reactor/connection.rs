//! One connection: a socket, its session, and the bytes between them.
//!
//! [`serve`](Connection::serve) is one turn: it writes, decodes and reads until there is no
//! more work or the budget is spent. The other entry points are a timer
//! ([`expire`](Connection::expire)), a buffer ([`serve_waiting`](Connection::serve_waiting)),
//! a commit ([`complete`](Connection::complete)) and the stop
//! ([`finish_arrived`](Connection::finish_arrived)).

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::Duration;

use hawk_pool::{Buffer, From};

use super::LoopContext;
use super::buffers::{CLASSES, Input};
use super::handover::ConnectionState;
use super::kernel::{Readiness, Socket};
use super::phase::{ConnectionPhase, PhaseCell};
use super::replies::{MIN_READ, final_reply};
use crate::network::Network;
use crate::session::{
    Expiry, Fate, Handler, Limits, OutputRoom, Progress, Rate, Session, SessionContext, StopReason,
    UnsentTotal,
};
use crate::stats::{Cause, ReactorCounters};
use hawk_time::{Moment, log_limited};
use hawk_wire::Reply;

/// Frames that a connection may have answered in a turn. Bounds the replies of one write: 64
/// KiB can hold 8,000 frames without data.
const TURN_FRAMES: u32 = 1024;

/// Bytes read under a rate limit for each frame that the agent may send. Input beyond the
/// limit stays in the kernel, and not in a receive buffer that other connections wait for.
const BYTES_PER_FRAME: usize = 256;

/// Time for the agent to read its replies and close, once the server has sent its end of
/// file. Closing with unread input would reset the connection and destroy those replies.
const LINGER: Duration = Duration::from_secs(2);

/// What a connection needs after its turn.
#[derive(Clone, Copy, Debug)]
pub(super) enum ServeOutcome {
    /// An event or its deadline.
    Idle,
    /// Another turn, behind the other connections: its budget is spent.
    Again,
    /// A receive buffer: the pool has none.
    WaitForBuffer,
    /// Store back-pressure to end: no packet can be taken.
    WaitForStore,
    /// To be removed.
    Ended(Cause),
}

/// A connection.
#[derive(Debug)]
pub(super) struct Connection<S> {
    pub(super) socket: S,
    pub(super) session: Session,
    pub(super) input: Input,
    /// Distinguishes this connection from others that had the same slot.
    pub(super) generation: u32,
    /// Whether it is in the run queue.
    pub(super) queued: bool,
    /// Whether it is paused by store back-pressure.
    pub(super) paused: bool,
    readable: bool,
    writable: bool,
    ahead: Ahead,
    /// What it counts as for its network.
    pub(super) counted: Counted,
    /// A write has failed: input is still read and handled, but replies are dropped.
    write_failed: bool,
    /// The input holds bytes that were not decoded.
    undecoded: bool,
    phase: PhaseCell,
}

/// The memory of an idle connection, with 12 bytes more in the timer wheel, and the agent's
/// name. A socket is a descriptor here; in a debug build it has another 8 bytes.
const _: () = assert!(size_of::<Connection<OwnedFd>>() == 144);

/// What a connection counts as for its network, in one byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Counted(u8);

impl Counted {
    /// A new connection without a receive buffer.
    const NEW: Self = Self(Self::FLAG);
    const FLAG: u8 = 0x80;

    /// Returns whether the connection counts as new: no frame has been received.
    pub(super) const fn is_new(self) -> bool {
        self.0 & Self::FLAG != 0
    }

    /// Records that a frame was received.
    pub(super) const fn mark_seen(&mut self) {
        self.0 &= !Self::FLAG;
    }

    /// Returns the size of the receive buffer that is counted, in bytes; 0 without one.
    pub(super) fn buffer(self) -> usize {
        let class = usize::from(self.0 & !Self::FLAG);
        let class = class.checked_sub(1);
        class.map_or(0, |class| CLASSES.get(class).copied().unwrap_or(0))
    }

    /// Counts a buffer of this size in place of the one before.
    pub(super) fn set_buffer(&mut self, size: usize) {
        let class = CLASSES.iter().position(|class| *class == size);
        let class = class.map_or(0, |class| u8::try_from(class + 1).unwrap_or(0));
        self.0 = self.0 & Self::FLAG | class;
    }
}

/// What the kernel has reported that lies ahead in the stream. Urgent data and the end of file
/// make a read short, and no further event reports them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Ahead {
    /// Data, if anything.
    Open,
    /// Urgent data, and perhaps more.
    Urgent,
    /// The end of file.
    EndOfFile,
    /// An error: the connection is broken in both directions.
    Broken,
}

/// A connection as tests and the simulator see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionView {
    /// The agent's address.
    pub peer: SocketAddr,
    /// Its phase.
    pub phase: ConnectionPhase,
    /// Why it is not read from; `None` while it is.
    pub stopped: Option<StopReason>,
    /// Whether it is in the run queue.
    pub queued: bool,
    /// Whether it is paused by store back-pressure.
    pub paused: bool,
    /// Whether it is in a queue for a receive buffer.
    pub waits_for_buffer: bool,
    /// Bytes received and not consumed.
    pub buffered: usize,
    /// Whether some of them were not decoded.
    pub undecoded: bool,
    /// Bytes of its receive buffer; 0 without one.
    pub buffer: usize,
    /// Bytes of unsent replies.
    pub unsent: usize,
    /// Frames received.
    pub frames: u64,
}

impl<S> Connection<S> {
    pub(super) fn new(socket: S, session: Session, generation: u32) -> Self {
        Self {
            socket,
            session,
            input: Input::default(),
            generation,
            queued: false,
            paused: false,
            readable: false,
            // A new socket's send buffer is empty.
            writable: true,
            ahead: Ahead::Open,
            counted: Counted::NEW,
            write_failed: false,
            undecoded: false,
            phase: PhaseCell::default(),
        }
    }

    pub(super) fn address(&self) -> IpAddr {
        self.session.sender().peer.ip()
    }

    pub(super) fn network(&self) -> Network {
        Network::of(self.address())
    }

    pub(super) fn view(&self) -> ConnectionView {
        ConnectionView {
            peer: self.session.sender().peer,
            phase: self.phase.get(),
            stopped: self.session.stopped(),
            queued: self.queued,
            paused: self.paused,
            waits_for_buffer: self.phase.waits(),
            buffered: self.input.window().len(),
            undecoded: self.undecoded,
            buffer: self.input.capacity(),
            unsent: self.session.unsent().len(),
            frames: self.session.frames().into(),
        }
    }

    /// Records an event; returns whether the connection needs a turn.
    pub(super) fn mark_ready(&mut self, event: Readiness) -> bool {
        let ahead = match event {
            _ if event.broken => Ahead::Broken,
            _ if event.end_of_file => Ahead::EndOfFile,
            _ if event.urgent => Ahead::Urgent,
            _ => Ahead::Open,
        };
        self.ahead = self.ahead.max(ahead);
        self.readable |= event.readable || self.ahead > Ahead::Open;
        self.writable |= event.writable;
        let slowed = self.session.stopped() == Some(StopReason::Rate);
        let reads = self.readable && !self.phase.waits() && !slowed;
        reads || self.is_broken() || (self.writable && !self.session.unsent().is_empty())
    }

    fn is_broken(&self) -> bool {
        self.ahead == Ahead::Broken
    }

    /// Returns when [`expire`](Self::expire) is to be called; `None` without a deadline.
    pub(super) fn deadline(&self, limits: &Limits) -> Option<Moment> {
        match self.phase.get().ending() {
            None => self.session.deadline(limits),
            Some((_, until)) => Some(until),
        }
    }

    /// Returns whether all replies were written.
    fn is_answered(&self) -> bool {
        self.session.unsent().is_empty() && !self.session.has_pending_replies()
    }
}

impl<S: Socket> Connection<S> {
    /// Runs one turn: writes, decodes and reads, up to its budget.
    pub(super) fn serve<H: Handler>(&mut self, cx: &mut LoopContext<H>) -> ServeOutcome {
        debug_assert!(
            cx.sessions.replies.is_empty(),
            "replies of another connection"
        );
        let looks = self.readable;
        let outcome = match self.phase.is_ending() {
            false => self.serve_open(cx, None),
            true => self.serve_closing(cx),
        };
        let outcome = self.end_turn(outcome);
        if looks {
            self.enforce_deadline(outcome, cx)
        } else {
            outcome
        }
    }

    /// Like [`serve`](Self::serve), for a connection at the front of its queue for a buffer.
    /// Returns `None` if the pool has no buffer.
    pub(super) fn serve_waiting<H: Handler>(
        &mut self,
        from: From,
        cx: &mut LoopContext<H>,
    ) -> Option<ServeOutcome> {
        let Some(ticket) = self.phase.take_ticket() else {
            return Some(ServeOutcome::Idle);
        };
        match ticket.redeem_from(from) {
            Ok(buffer) => {
                self.resume_reading(cx);
                let outcome = self.serve_open(cx, Some(buffer));
                let outcome = self.end_turn(outcome);
                Some(self.enforce_deadline(outcome, cx))
            }
            Err(ticket) => {
                self.phase.wait(ticket);
                None
            }
        }
    }

    /// Writes `replies` of a commit that ended as `fate` says. All other work waits for a turn of
    /// its own, so that the replies of every connection are written before any input is read.
    pub(super) fn complete<H: Handler>(
        &mut self,
        replies: &[Reply],
        fate: Fate,
        cx: &mut LoopContext<H>,
    ) -> ServeOutcome {
        for reply in replies {
            cx.sessions.answer(final_reply(*reply, fate));
        }
        let count = u32::try_from(replies.len()).unwrap_or(u32::MAX);
        self.session.complete_replies(count, cx.now);
        self.flush(cx);
        match self.readable || self.undecoded || !self.phase.is_open() {
            true => ServeOutcome::Again,
            false => ServeOutcome::Idle,
        }
    }

    /// Handles its timer, which may be early.
    ///
    /// Before a timeout the socket is read once more: if the server is late, the frame that
    /// the deadline waits for may be in the kernel. That read may have to wait for a buffer or
    /// for the store; the deadline is [enforced](Self::enforce_deadline) after it.
    pub(super) fn expire<H: Handler>(&mut self, cx: &mut LoopContext<H>) -> ServeOutcome {
        match self.phase.get().ending() {
            None => {
                match self.session.expire(cx.now, &cx.limits) {
                    Expiry::NotYet => return ServeOutcome::Idle,
                    Expiry::Resume => {}
                    Expiry::DropCandidate | Expiry::Close(_) => self.readable = true,
                }
                self.serve(cx)
            }
            Some((cause, until)) if until <= cx.now => ServeOutcome::Ended(cause),
            Some(_) => ServeOutcome::Idle,
        }
    }

    /// Drops the candidate or closes the connection, if its deadline is over and the read that
    /// ended with `outcome` found no more input.
    fn enforce_deadline<H: Handler>(
        &mut self,
        outcome: ServeOutcome,
        cx: &mut LoopContext<H>,
    ) -> ServeOutcome {
        if self.phase.is_ending() || !matches!(outcome, ServeOutcome::Idle) {
            return outcome;
        }
        match self.session.expire(cx.now, &cx.limits) {
            Expiry::NotYet | Expiry::Resume => ServeOutcome::Idle,
            Expiry::DropCandidate => {
                self.flush(cx);
                let window = self.input.window();
                let dropped = self
                    .session
                    .drop_candidate(window, &mut cx.sessions.counters);
                self.input.consume(dropped);
                self.undecoded = true;
                self.serve(cx)
            }
            Expiry::Close(timeout) => self.close(timeout.into(), cx),
        }
    }

    /// Writes, decodes and reads in turn, until there is no more work or the budget is spent.
    fn serve_open<H: Handler>(
        &mut self,
        cx: &mut LoopContext<H>,
        mut granted: Option<Buffer>,
    ) -> ServeOutcome {
        let mut bytes = cx.work.share;
        let mut frames = TURN_FRAMES;
        // While other connections queue for a buffer, a connection that holds a partial frame
        // reads only the rest of that frame, then releases its buffer and requeues.
        let frame_only =
            granted.is_none() && !self.input.window().is_empty() && cx.pool.has_waiters();
        loop {
            if self.may_defer(cx) {
                self.resume_reading(cx);
                return ServeOutcome::Idle;
            }
            self.flush(cx);
            if self.phase.waits() {
                return match self.is_broken() {
                    true => ServeOutcome::Ended(Cause::ConnectionLost),
                    false => ServeOutcome::Idle,
                };
            }
            // Input in the buffer is decoded in any case: its replies take less memory than
            // the buffer, which other connections may wait for.
            let room = cx.output_room();
            if !self.undecoded && self.session.output_is_full(room) {
                self.stop_reading(StopReason::Output, cx);
                return ServeOutcome::Idle;
            }
            self.resume_reading(cx);
            // After the end of the agent's stream there is nothing left to read.
            let has_input =
                self.undecoded || (self.readable && self.phase.get() != ConnectionPhase::Finishing);
            if has_input && !cx.sessions.handler.is_ready() {
                self.stop_reading(StopReason::Store, cx);
                return ServeOutcome::WaitForStore;
            }
            let left = self.frames_left(cx);
            if has_input && left == 0 {
                if self.is_broken() || self.write_failed {
                    // The agent cannot receive replies, and sends its reports again.
                    return ServeOutcome::Ended(Cause::ConnectionLost);
                }
                self.pause_for_rate(cx);
                return ServeOutcome::Idle;
            }
            if self.undecoded {
                let budget = frames.min(left);
                let mut unused = budget;
                let progress = self.decode(&mut unused, cx);
                frames -= budget - unused;
                match progress {
                    Progress::NeedsInput => self.undecoded = false,
                    Progress::BudgetSpent => {
                        self.flush(cx);
                        return ServeOutcome::Again;
                    }
                    Progress::JunkLimit => return self.close(Cause::JunkLimit, cx),
                }
                continue;
            }
            if self.phase.get() == ConnectionPhase::Finishing {
                return match self.write_failed {
                    true => ServeOutcome::Ended(Cause::ConnectionLost),
                    false if self.is_answered() => ServeOutcome::Ended(Cause::AgentClosed),
                    false => ServeOutcome::Idle,
                };
            }
            let allowance = self.phase.allowance();
            if allowance == Some(0) || (allowance.is_some() && !self.readable) {
                return self.close(Cause::Shutdown, cx);
            }
            if !self.readable {
                return ServeOutcome::Idle;
            }
            if self.session.has_too_many_pending(room) {
                self.stop_reading(StopReason::Store, cx);
                return ServeOutcome::Idle;
            }
            if bytes == 0 {
                return ServeOutcome::Again;
            }
            let missing = match frame_only {
                true => hawk_wire::missing(self.input.window()),
                false => usize::MAX,
            };
            if frame_only && self.input.window().is_empty() {
                self.input.clear();
            }
            // A broken connection is read to its end at once, above the share of its network.
            let address = || self.address();
            let may_take_buffer =
                self.is_broken() || cx.buffers.has_room(address, self.counted.buffer());
            let pool = may_take_buffer.then_some(&cx.pool);
            if !self.input.make_room(pool, granted.take()) {
                if self.is_broken() {
                    // No further event would end the wait.
                    return ServeOutcome::Ended(Cause::ConnectionLost);
                }
                self.stop_reading(StopReason::Buffer, cx);
                self.phase.wait(cx.pool.wait());
                return ServeOutcome::WaitForBuffer;
            }
            let wanted = match room {
                OutputRoom::Enough => (left as usize)
                    .saturating_mul(BYTES_PER_FRAME)
                    .max(MIN_READ),
                OutputRoom::None => MIN_READ,
            };
            match self.read(wanted.min(bytes).min(missing), cx) {
                Ok(read) => bytes = bytes.saturating_sub(read),
                Err(_) => return ServeOutcome::Ended(Cause::ConnectionLost),
            }
        }
    }

    /// Shrinks its buffer to its input. The reserve is the exception: there may be no room for
    /// a smaller buffer.
    fn end_turn(&mut self, outcome: ServeOutcome) -> ServeOutcome {
        self.input.shrink();
        outcome
    }
}

/// From the socket to the session.
impl<S: Socket> Connection<S> {
    /// Calls read(2) once for up to `most` bytes; returns how many were read.
    fn read<H>(&mut self, most: usize, cx: &mut LoopContext<H>) -> io::Result<usize> {
        let allowance = self.phase.allowance();
        let most = most.min(allowance.map_or(usize::MAX, |left| left as usize));
        let space = self.input.space();
        let room = most.min(space.len());
        match self.socket.read(&mut space[..room]) {
            Ok(0) => {
                self.readable = false;
                self.phase.enter(ConnectionPhase::Finishing);
                self.undecoded = true;
                Ok(0)
            }
            Ok(read) => {
                // A short read has drained the socket, unless the end of file was queued
                // behind the data, or the read stopped at urgent data (tcp(7)): there is no
                // event for either.
                if read < room && self.ahead == Ahead::Open {
                    self.readable = false;
                }
                self.input.filled(read);
                self.undecoded = true;
                count_read(read, cx);
                self.phase.use_up(read);
                Ok(read)
            }
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock => {
                    self.readable = false;
                    Ok(0)
                }
                io::ErrorKind::Interrupted => Ok(0),
                _ => Err(error),
            },
        }
    }

    /// Passes the input to the session, for up to `frames` frames; subtracts those decoded.
    fn decode<H: Handler>(&mut self, frames: &mut u32, cx: &mut LoopContext<H>) -> Progress {
        let input = match self.phase.is_open() {
            true => hawk_wire::Input::Open,
            false => hawk_wire::Input::Ended,
        };
        let window = self.input.window();
        let before = *frames;
        let received = self
            .session
            .receive(window, input, cx.now, frames, &mut cx.sessions);
        self.input.consume(received.consumed);
        let decoded = before - *frames;
        cx.work.decoded(decoded);
        if let Some(rate) = cx.limits.rate {
            self.session.count_frames(decoded, cx.now, &cx.limits);
            cx.rates.take(self.network(), decoded, rate, cx.now);
        }
        if received.junk > 0 {
            log_limited!(warn, cx.junk_log, cx.now, left_out =>
                "junk: bytes that are no frame peer={} bytes={} left_out={left_out}",
                self.session.sender().peer,
                received.junk);
        }
        received.progress
    }

    /// Returns how many frames may be answered now, by the rate limits of the connection and
    /// of its network. A stop answers all input that has arrived.
    fn frames_left<H>(&self, cx: &mut LoopContext<H>) -> u32 {
        match cx.limits.rate {
            Some(rate) if self.phase.allowance().is_none() => {
                let of_network = cx.rates.left(self.network(), rate, cx.now);
                let left = self.session.frames_left(cx.now, &cx.limits);
                left.min(of_network)
            }
            _ => u32::MAX,
        }
    }

    /// Pauses reading until the rate limits allow the next frame.
    fn pause_for_rate<H: Handler>(&mut self, cx: &mut LoopContext<H>) {
        if let Some(rate) = cx.limits.rate
            && self.session.frames_left(cx.now, &cx.limits) > 0
            && let Some(next) = cx.rates.next(self.network(), rate, cx.now)
        {
            self.session.hold_until(next, &cx.limits);
        }
        self.stop_reading(StopReason::Rate, cx);
        cx.counters.rate_limited += 1;
        log_limited!(warn, cx.rate_log, cx.now, left_out =>
            "rate limit: read more slowly peer={} limit={} left_out={left_out}",
            self.session.sender().peer,
            cx.limits.rate.map_or(0, Rate::get));
    }

    /// Pauses reading and notifies the handler.
    fn stop_reading<H: Handler>(&mut self, reason: StopReason, cx: &mut LoopContext<H>) {
        let was_stopped = self.session.stopped().is_some();
        self.session.stop_reading(reason, cx.now);
        if !was_stopped && let Some(tag) = self.session.tag() {
            cx.sessions.handler.paused(tag);
        }
    }

    /// Resumes reading if it was paused, and notifies the handler.
    #[inline]
    fn resume_reading<H: Handler>(&mut self, cx: &mut LoopContext<H>) {
        if self.session.resume_reading(cx.now)
            && let Some(tag) = self.session.tag()
        {
            cx.sessions.handler.resumed(tag);
        }
    }
}

/// From the session to the socket.
impl<S: Socket> Connection<S> {
    /// Writes the unsent replies and those of this batch, and keeps what the socket does not
    /// take.
    ///
    /// An agent that closes after its last report breaks the connection with the first reply.
    /// Its reports are still in the kernel, and are read all the same.
    fn flush<H>(&mut self, cx: &mut LoopContext<H>) {
        let SessionContext {
            replies, unsent, ..
        } = &mut cx.sessions;
        self.send(replies, unsent, &mut cx.counters);
        replies.clear();
    }

    /// Returns whether the only work left is to write this batch, and the socket is likely to
    /// take it: then [`deliver`](Self::deliver) may write it after the turn.
    fn may_defer<H>(&self, cx: &LoopContext<H>) -> bool {
        let done = !self.undecoded && !self.readable && self.phase.is_plain_open();
        let takes = self.writable && !self.write_failed && self.session.unsent().is_empty();
        !cx.sessions.replies.is_empty() && done && takes
    }

    /// Writes deferred replies; returns whether the socket took them all. If not, the
    /// connection needs a turn.
    pub(super) fn deliver<H>(&mut self, replies: &[u8], cx: &mut LoopContext<H>) -> bool {
        self.send(replies, &cx.sessions.unsent, &mut cx.counters);
        !self.write_failed && self.session.unsent().is_empty()
    }

    fn send(&mut self, mut replies: &[u8], unsent: &UnsentTotal, counters: &mut ReactorCounters) {
        if self.write_failed {
            return;
        }
        if !self.session.unsent().is_empty() {
            self.session.queue(replies, unsent);
            replies = &[];
        }
        while self.writable {
            let is_fresh = !replies.is_empty();
            let bytes = if is_fresh {
                replies
            } else {
                self.session.unsent()
            };
            if bytes.is_empty() {
                break;
            }
            match self.socket.write(bytes) {
                Ok(written) if written > 0 => {
                    counters.bytes_out += written as u64;
                    counters.writes += 1;
                    match is_fresh {
                        true => replies = &replies[written..],
                        false => self.session.dequeue(written),
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.writable = false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(_) | Err(_) => {
                    self.write_failed = true;
                    self.readable = true;
                    self.session.dequeue(self.session.unsent().len());
                    return;
                }
            }
        }
        if !replies.is_empty() {
            self.session.queue(replies, unsent);
        }
    }
}

/// The end.
impl<S: Socket> Connection<S> {
    /// Begins to close the connection: writes the unsent replies, reads no more packets.
    pub(super) fn close<H: Handler>(
        &mut self,
        cause: Cause,
        cx: &mut LoopContext<H>,
    ) -> ServeOutcome {
        let patience = match cause {
            // Unsent replies may be the very reason for the timeout.
            Cause::IdleTimeout | Cause::FrameTimeout | Cause::OutputTimeout
                if !self.session.has_pending_replies() =>
            {
                LINGER
            }
            // As long as an agent may take to read its replies.
            _ => cx.limits.idle,
        };
        self.phase.enter(ConnectionPhase::Closing {
            cause,
            until: cx.now.after(patience),
        });
        // No more input is read: find the whole frames that an unfinished candidate hides.
        let mut frames = u32::MAX;
        if cause != Cause::JunkLimit && !self.input.window().is_empty() {
            self.decode(&mut frames, cx);
        }
        self.input.clear();
        self.session.stop_receiving();
        let outcome = self.serve_closing(cx);
        self.end_turn(outcome)
    }

    /// Limits reading to the input that has arrived: the server stops.
    pub(super) fn finish_arrived(&mut self) {
        if self.phase.is_open() {
            let arrived = self.socket.arrived().unwrap_or(0);
            self.phase.set_allowance(arrived);
            self.readable = true;
        }
    }

    /// Ends the connection for every process that has its socket.
    pub(super) fn shut_down(&mut self) {
        // An error means that the connection has ended.
        let _ended = self.socket.end_both();
    }

    /// Runs one turn of a closing connection: writes the unsent replies, sends the end of
    /// file, and discards input until the agent's end of file.
    fn serve_closing<H: Handler>(&mut self, cx: &mut LoopContext<H>) -> ServeOutcome {
        let Some((cause, _)) = self.phase.get().ending() else {
            return ServeOutcome::Idle;
        };
        self.flush(cx);
        if self.write_failed {
            return ServeOutcome::Ended(cause);
        }
        if !self.lingers() && self.is_answered() {
            if self.socket.end_output().is_err() {
                return ServeOutcome::Ended(cause);
            }
            self.phase.enter(ConnectionPhase::Lingering {
                cause,
                until: cx.now.after(LINGER),
            });
        }
        let mut bytes = cx.work.share;
        while self.readable {
            if bytes == 0 {
                return ServeOutcome::Again;
            }
            match self.socket.read(&mut cx.discard) {
                Ok(0) => {
                    self.readable = false;
                    if self.lingers() {
                        return ServeOutcome::Ended(cause);
                    }
                }
                Ok(read) => {
                    bytes = bytes.saturating_sub(read);
                    count_read(read, cx);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.readable = false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return ServeOutcome::Ended(cause),
            }
        }
        ServeOutcome::Idle
    }

    fn lingers(&self) -> bool {
        matches!(self.phase.get(), ConnectionPhase::Lingering { .. })
    }
}

/// To another process and from it.
impl<S> Connection<S> {
    /// Returns its state, without replies that wait for a commit.
    pub(super) fn export(&self) -> ConnectionState {
        debug_assert!(
            self.phase.allowance().is_none(),
            "a server that stops hands nothing over"
        );
        ConnectionState {
            session: self.session.export(self.input.window()),
            phase: self.phase.get(),
            write_failed: self.write_failed,
            undecoded: self.undecoded,
        }
    }

    /// Takes over `state`; returns its input, to be [stored](Input::begin_with) once there is a
    /// buffer.
    pub(super) fn restore<H: Handler>(
        &mut self,
        state: ConnectionState,
        context: &mut SessionContext<H>,
    ) -> Vec<u8> {
        let (session, bytes) = Session::rebuild(state.session, context);
        self.session = session;
        self.input.clear();
        self.phase = PhaseCell::default();
        if state.phase != ConnectionPhase::Open {
            self.phase.enter(state.phase);
        }
        // The socket is read once before a deadline is enforced.
        self.readable = state.write_failed || self.session.stopped().is_some();
        self.write_failed = state.write_failed;
        self.undecoded = state.undecoded;
        bytes
    }

    /// Returns whether it has work that no event and no timer reports.
    pub(super) fn has_work(&self, limits: &Limits) -> bool {
        let waits = match self.session.stopped() {
            None => false,
            // It has a timer, unless this process has no rate limit.
            Some(StopReason::Rate) => self.session.deadline(limits).is_none(),
            Some(_) => true,
        };
        let unfinished = self.undecoded || self.write_failed || !self.session.unsent().is_empty();
        waits || unfinished || !self.phase.is_open()
    }
}

/// Counts the bytes of one read, discarded or not.
fn count_read<H>(bytes: usize, cx: &mut LoopContext<H>) {
    cx.work.read(bytes);
    cx.counters.bytes_in += bytes as u64;
    cx.counters.reads += 1;
}

#[cfg(test)]
mod tests;
