//! One connection: a socket, its session, and the bytes between them.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::Duration;

use hawk_pool::{Buffer, From, Pool};

use super::Work;
use super::buffers::{BufferShares, CLASSES, Input};
use super::handover::ConnectionState;
use super::kernel::{Readiness, Socket};
use super::network_rates::NetworkRates;
use super::phase::{ConnectionPhase, PhaseCell};
use super::replies::{LEAST_READ, Ledger, OutputLimit, Reached};
use crate::network::Network;
use crate::session::{
    Expiry, Fate, Handler, Limits, OutputRoom, Progress, Rate, Sender, Session, SessionContext,
    StopReason, UnsentTotal,
};
use crate::stats::{Cause, Counters};
use hawk_time::Moment;
use hawk_time::{Throttle, log_limited};
use hawk_wire::{self, Busy, Reply};

/// How many frames a connection may have answered in a turn. 64 KiB can hold
/// 8,000 frames without data; this also bounds the replies of one write.
const TURN_FRAMES: u32 = 1024;

/// What all connections use while it is their turn.
#[derive(Debug)]
pub(super) struct Shop<H> {
    pub(super) sessions: SessionContext<H>,
    pub(super) pool: Pool,
    /// How much of the pool the connections of each network hold.
    pub(super) buffers: BufferShares,
    pub(super) limits: Limits,
    /// Frames that the connections of each network may send together.
    pub(super) rates: NetworkRates,
    pub(super) counters: Counters,
    /// What was promised to whom.
    pub(super) ledger: Ledger,
    pub(super) output_limit: OutputLimit,
    /// What is left to be done in this phase.
    pub(super) work: Work,
    /// Tells of junk at a limited rate.
    pub(super) junk_log: Throttle,
    /// Tells of agents that send more than they may.
    pub(super) rate_log: Throttle,
    /// The time of this turn; read once, used by all.
    pub(super) now: Moment,
    /// Where unwanted input goes.
    pub(super) discard: Box<[u8]>,
}

impl<H> Shop<H> {
    /// Whether agents may leave more replies unread than they do. Those that wait
    /// for a commit count as well: they are to be written, all at once.
    fn output_room(&mut self) -> OutputRoom {
        let (unsent, owed) = (self.sessions.unsent.get(), self.ledger.owed());
        match self.output_limit.check(unsent, owed) {
            Reached::No => return OutputRoom::Enough,
            Reached::Still => {}
            Reached::Now => {
                self.counters.output_limited += 1;
                self.output_limit.tell(unsent, owed, self.now);
            }
        }
        OutputRoom::None
    }
}

/// What a connection wants after its turn.
#[derive(Clone, Copy, Debug)]
pub(super) enum Outcome {
    /// To be woken when its socket is ready or its deadline has come.
    Idle,
    /// Another turn, behind the others: its budget is spent.
    Again,
    /// A receive buffer; the pool has none.
    WaitForBuffer,
    /// The store to be done with what it has: no packet can be taken.
    WaitForStore,
    /// To be taken out: it has ended.
    Ended(Cause),
}

/// A connection and where it stands.
#[derive(Debug)]
pub(super) struct Connection<S> {
    socket: S,
    session: Session,
    input: Input,
    /// Tells this connection from others that had the same slot.
    pub(super) generation: u32,
    /// Whether it is in the run queue.
    pub(super) queued: bool,
    /// Whether it is among those that wait for the store.
    pub(super) held: bool,
    readable: bool,
    writable: bool,
    ahead: Ahead,
    /// What the reactor counts it for.
    pub(super) counted: Counted,
    /// A write has failed: what is still to be read is taken, but nobody hears
    /// the replies.
    unheard: bool,
    /// The window holds bytes that the decoder has not seen to the end.
    undecoded: bool,
    phase: PhaseCell,
}

/// What an idle connection costs, with its alarm in the wheel (12 bytes): it has
/// nothing else once its agent has spoken, but for the agent's name. A socket is a
/// descriptor; a debug build's has another 8 bytes.
const _: () = assert!(size_of::<Connection<OwnedFd>>() == 144);

/// What a connection counts for among the connections of its network, in one byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Counted(u8);

impl Counted {
    /// A newcomer without a receive buffer.
    const NEWCOMER: Self = Self(Self::FLAG);
    const FLAG: u8 = 0x80;

    /// Whether no frame had passed when it was counted.
    pub(super) const fn is_newcomer(self) -> bool {
        self.0 & Self::FLAG != 0
    }

    /// It is a newcomer no more.
    pub(super) const fn heard(&mut self) {
        self.0 &= !Self::FLAG;
    }

    /// The size of the receive buffer that is counted, in bytes; 0 without one.
    pub(super) fn buffer(self) -> usize {
        let class = usize::from(self.0 & !Self::FLAG);
        let class = class.checked_sub(1);
        class.map_or(0, |class| CLASSES.get(class).copied().unwrap_or(0))
    }

    /// From now on a buffer of this size is counted.
    pub(super) fn set_buffer(&mut self, size: usize) {
        let class = CLASSES.iter().position(|class| *class == size);
        let class = class.map_or(0, |class| u8::try_from(class + 1).unwrap_or(0));
        self.0 = self.0 & Self::FLAG | class;
    }
}

/// What the kernel has said of what lies ahead in the stream. Urgent data and the
/// end of file each end a read early, and no further event will tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Ahead {
    /// Nothing: more may come.
    Open,
    /// Urgent data, and more may come.
    Urgent,
    /// The end of file: the agent will send no more.
    EndOfFile,
    /// Nothing can be sent or received any more: the connection is broken.
    Broken,
}

impl<S> Connection<S> {
    pub(super) fn new(socket: S, session: Session, generation: u32) -> Self {
        Self {
            socket,
            session,
            input: Input::default(),
            generation,
            queued: false,
            held: false,
            readable: false,
            // A new socket's send buffer is empty.
            writable: true,
            ahead: Ahead::Open,
            counted: Counted::NEWCOMER,
            unheard: false,
            undecoded: false,
            phase: PhaseCell::default(),
        }
    }

    pub(super) fn session(&self) -> &Session {
        &self.session
    }

    /// The kernel has reported that the connection is broken.
    fn is_broken(&self) -> bool {
        self.ahead == Ahead::Broken
    }

    /// Notes what the kernel said; whether that makes a turn worth while.
    pub(super) fn mark_ready(&mut self, said: Readiness) -> bool {
        let ahead = match said {
            _ if said.broken => Ahead::Broken,
            _ if said.end_of_file => Ahead::EndOfFile,
            _ if said.urgent => Ahead::Urgent,
            _ => Ahead::Open,
        };
        self.ahead = self.ahead.max(ahead);
        self.readable |= said.readable || self.ahead > Ahead::Open;
        self.writable |= said.writable;
        let slowed = self.session.stopped() == Some(StopReason::Rate);
        let reads = self.readable && !self.phase.waits() && !slowed;
        reads || self.is_broken() || (self.writable && !self.session.unsent().is_empty())
    }
}

impl<S: Socket> Connection<S> {
    /// Has its turn: reads, decodes, answers, up to its budget.
    pub(super) fn serve<H: Handler>(&mut self, shop: &mut Shop<H>) -> Outcome {
        debug_assert!(shop.sessions.replies.is_empty(), "somebody else's replies");
        let looks = self.readable;
        let outcome = match self.phase.is_ending() {
            false => self.converse(shop, None),
            true => self.wind_down(shop),
        };
        let outcome = self.end_turn(outcome);
        if looks {
            self.enforce(outcome, shop)
        } else {
            outcome
        }
    }

    /// As [`serve`](Self::serve), for a connection at the front of its queue for a buffer.
    /// `None`: the pool still has no buffer for it.
    pub(super) fn serve_waiting<H: Handler>(
        &mut self,
        from: From,
        shop: &mut Shop<H>,
    ) -> Option<Outcome> {
        let Some(ticket) = self.phase.take_ticket() else {
            return Some(Outcome::Idle);
        };
        match ticket.redeem_from(from) {
            Ok(buffer) => {
                self.resume_reading(shop);
                let outcome = self.converse(shop, Some(buffer));
                let outcome = self.end_turn(outcome);
                Some(self.enforce(outcome, shop))
            }
            Err(ticket) => {
                self.phase.wait(ticket);
                None
            }
        }
    }

    /// Gives out `replies` that waited for a commit, which ended as `fate` says.
    /// What else there is to do has its own turn, so that everybody who waited
    /// has an answer before anybody is read from.
    pub(super) fn settle<H: Handler>(
        &mut self,
        replies: &[Reply],
        fate: Fate,
        shop: &mut Shop<H>,
    ) -> Outcome {
        for reply in replies {
            shop.sessions.answer(settled(*reply, fate));
        }
        let count = u32::try_from(replies.len()).unwrap_or(u32::MAX);
        self.session.complete_replies(count, shop.now);
        self.flush(shop);
        let more = self.readable || self.undecoded || !self.phase.is_open();
        if more { Outcome::Again } else { Outcome::Idle }
    }

    /// When [`expire`](Self::expire) is to be called, if ever.
    pub(super) fn deadline(&self, limits: &Limits) -> Option<Moment> {
        match self.phase.get().ending() {
            None => self.session.deadline(limits),
            Some((_, until)) => Some(until),
        }
    }

    /// Its deadline may have come.
    ///
    /// Before an agent is given up there is a last look at its socket: when we
    /// are behind, what would have saved it may lie there, and that we have not
    /// come to it is our fault. That look may have to wait, for a buffer or for the
    /// store; the deadline is [enforced](Self::enforce) once it was had.
    pub(super) fn expire<H: Handler>(&mut self, shop: &mut Shop<H>) -> Outcome {
        match self.phase.get().ending() {
            None => {
                match self.session.expire(shop.now, &shop.limits) {
                    Expiry::NotYet => return Outcome::Idle,
                    Expiry::Resume => {}
                    Expiry::DropCandidate | Expiry::Close(_) => self.readable = true,
                }
                self.serve(shop)
            }
            Some((cause, until)) if until <= shop.now => Outcome::Ended(cause),
            Some(_) => Outcome::Idle,
        }
    }

    /// Does what its deadline demands, if that has come and a look at the socket
    /// brought nothing more: its outcome is `looked`.
    fn enforce<H: Handler>(&mut self, looked: Outcome, shop: &mut Shop<H>) -> Outcome {
        if self.phase.is_ending() || !matches!(looked, Outcome::Idle) {
            return looked;
        }
        match self.session.expire(shop.now, &shop.limits) {
            Expiry::NotYet | Expiry::Resume => Outcome::Idle,
            Expiry::DropCandidate => {
                self.flush(shop);
                let window = self.input.window();
                let dropped = self
                    .session
                    .drop_candidate(window, &mut shop.sessions.tally);
                self.input.consume(dropped);
                self.undecoded = true;
                self.serve(shop)
            }
            Expiry::Close(timeout) => self.close(timeout.into(), shop),
        }
    }

    /// The heart of it: flush, decode, read, in turn, as long as there is
    /// something to do and the budget lasts.
    fn converse<H: Handler>(&mut self, shop: &mut Shop<H>, mut granted: Option<Buffer>) -> Outcome {
        let mut bytes = shop.work.share();
        let mut frames = TURN_FRAMES;
        // Who holds a frame begun while others wait for a buffer reads to its end
        // and no further: then it gives its own up, and waits behind them.
        let to_its_end =
            granted.is_none() && !self.input.window().is_empty() && shop.pool.has_waiters();
        loop {
            if self.may_put_off(shop) {
                self.resume_reading(shop);
                return Outcome::Idle;
            }
            self.flush(shop);
            if self.phase.waits() {
                return match self.is_broken() {
                    // Nobody is there any more to keep a place for.
                    true => Outcome::Ended(Cause::ConnectionLost),
                    false => Outcome::Idle,
                };
            }
            // What was read is decoded in any case: its replies take less
            // memory than a receive buffer, which others may be waiting for.
            let room = shop.output_room();
            if !self.undecoded && self.session.output_is_full(room) {
                self.stop_reading(StopReason::Output, shop);
                return Outcome::Idle;
            }
            self.resume_reading(shop);
            if (self.undecoded || self.readable) && !shop.sessions.handler.is_ready() {
                self.stop_reading(StopReason::Store, shop);
                return Outcome::WaitForStore;
            }
            let left = self.frames_left(shop);
            if (self.undecoded || self.readable) && left == 0 {
                if self.is_broken() || self.unheard {
                    // The agent gets no reply any more, and sends again what has none.
                    return Outcome::Ended(Cause::ConnectionLost);
                }
                self.slow_down(shop);
                return Outcome::Idle;
            }
            if self.undecoded {
                let budget = frames.min(left);
                let mut unused = budget;
                let progress = self.decode(&mut unused, shop);
                frames -= budget - unused;
                match progress {
                    Progress::NeedsInput => self.undecoded = false,
                    Progress::BudgetSpent => {
                        self.flush(shop);
                        return Outcome::Again;
                    }
                    Progress::JunkLimit => return self.close(Cause::JunkLimit, shop),
                }
                continue;
            }
            if self.phase.get() == ConnectionPhase::Finishing {
                return if self.unheard {
                    Outcome::Ended(Cause::ConnectionLost)
                } else if self.is_answered() {
                    Outcome::Ended(Cause::AgentClosed)
                } else {
                    Outcome::Idle
                };
            }
            let allowance = self.phase.allowance();
            if allowance == Some(0) || (allowance.is_some() && !self.readable) {
                return self.close(Cause::Shutdown, shop);
            }
            if !self.readable {
                return Outcome::Idle;
            }
            if self.session.has_too_many_pending(room) {
                self.stop_reading(StopReason::Store, shop);
                return Outcome::Idle;
            }
            if bytes == 0 {
                return Outcome::Again;
            }
            let lacks = match to_its_end {
                true => hawk_wire::missing(self.input.window()),
                false => usize::MAX,
            };
            if to_its_end && self.input.window().is_empty() {
                self.input.clear();
            }
            let pool = self.may_take_buffer(shop).then_some(&shop.pool);
            if !self.input.make_room(pool, granted.take()) {
                if self.is_broken() {
                    // Nobody is there to keep a place for, and nothing would tell again.
                    return Outcome::Ended(Cause::ConnectionLost);
                }
                self.stop_reading(StopReason::Buffer, shop);
                self.phase.wait(shop.pool.wait());
                return Outcome::WaitForBuffer;
            }
            let most = Self::wanted(left, room).min(bytes);
            match self.read(most.min(lacks), shop) {
                Ok(read) => bytes = bytes.saturating_sub(read),
                Err(_) => return Outcome::Ended(Cause::ConnectionLost),
            }
        }
    }

    /// Pauses reading and notifies the handler.
    fn stop_reading<H: Handler>(&mut self, reason: StopReason, shop: &mut Shop<H>) {
        let was_stopped = self.session.stopped().is_some();
        self.session.stop_reading(reason, shop.now);
        if !was_stopped && let Some(tag) = self.session.tag() {
            shop.sessions.handler.paused(tag);
        }
    }

    /// Resumes reading if it was paused, and notifies the handler.
    #[inline]
    fn resume_reading<H: Handler>(&mut self, shop: &mut Shop<H>) {
        if self.session.resume_reading(shop.now)
            && let Some(tag) = self.session.tag()
        {
            shop.sessions.handler.resumed(tag);
        }
    }

    /// Whether its network may hold another buffer of the longest class instead of the one
    /// that it has. A broken connection is read to its end at once and holds none after that.
    fn may_take_buffer<H>(&self, shop: &Shop<H>) -> bool {
        let address = || self.session.sender().peer.ip();
        self.is_broken() || shop.buffers.has_room(address, self.counted.buffer())
    }

    /// Whether it has the pool's reserve, although its turn is over: it holds that many
    /// bytes, or there was no room for a smaller buffer.
    pub(super) fn has_reserve(&self) -> bool {
        self.input.has_reserve()
    }

    /// Takes no more buffer than it needs, between two turns; whether it gives the reserve
    /// back.
    pub(super) fn give_reserve_back(&mut self) -> bool {
        let had_reserve = self.input.has_reserve();
        self.input.settle();
        had_reserve && !self.input.has_reserve()
    }

    /// No turn ends with more buffer than the bytes held need, unless it is the reserve.
    fn end_turn(&mut self, outcome: Outcome) -> Outcome {
        self.input.settle();
        outcome
    }
}

/// Bytes that an agent under a rate limit is read for each frame that it may send:
/// what lies beyond its limit stays with the kernel, and not in a receive buffer
/// that others are waiting for.
const BYTES_PER_FRAME: usize = 256;

impl<S: Socket> Connection<S> {
    /// How many frames the agent may still have answered, by its rate and by that of its
    /// network. When the server stops, what has arrived is answered at once.
    fn frames_left<H>(&self, shop: &mut Shop<H>) -> u32 {
        match shop.limits.rate {
            Some(rate) if self.phase.allowance().is_none() => {
                let of_network = shop.rates.left(self.network(), rate, shop.now);
                let left = self.session.frames_left(shop.now, &shop.limits);
                left.min(of_network)
            }
            _ => u32::MAX,
        }
    }

    /// The agent has sent more than it may: it is read again when it may send more.
    fn slow_down<H: Handler>(&mut self, shop: &mut Shop<H>) {
        if let Some(rate) = shop.limits.rate
            && self.session.frames_left(shop.now, &shop.limits) > 0
            && let Some(next) = shop.rates.next(self.network(), rate, shop.now)
        {
            self.session.hold_until(next, &shop.limits);
        }
        self.stop_reading(StopReason::Rate, shop);
        shop.counters.rate_limited += 1;
        log_limited!(warn, shop.rate_log, shop.now, left_out =>
            "rate limit: read more slowly peer={} limit={} left_out={left_out}",
            self.session.sender().peer,
            shop.limits.rate.map_or(0, Rate::get));
    }

    fn network(&self) -> Network {
        Network::of(self.session.sender().peer.ip())
    }

    /// How much to read at once: no more than `frames` may take, and little if there
    /// is no `room` for their replies.
    fn wanted(frames: u32, room: OutputRoom) -> usize {
        match room {
            OutputRoom::Enough => (frames as usize)
                .saturating_mul(BYTES_PER_FRAME)
                .max(LEAST_READ),
            OutputRoom::None => LEAST_READ,
        }
    }

    /// One call of read, for at most so many bytes; how many it brought.
    fn read<H>(&mut self, most: usize, shop: &mut Shop<H>) -> io::Result<usize> {
        let mut space = self.input.space();
        let wanted = most.min(space.len());
        space = &mut space[..wanted];
        if let Some(allowance) = self.phase.allowance() {
            let allowed = space.len().min(allowance as usize);
            space = &mut space[..allowed];
        }
        let room = space.len();
        match self.socket.read(space) {
            Ok(0) => {
                self.readable = false;
                self.phase.enter(ConnectionPhase::Finishing);
                self.undecoded = true;
                Ok(0)
            }
            Ok(read) => {
                // A short read has drained the socket, unless the end of file
                // was already queued behind the data, or the read stopped at
                // urgent data (tcp(7)): there is no event for either.
                if read < room && self.ahead == Ahead::Open {
                    self.readable = false;
                }
                self.input.filled(read);
                self.undecoded = true;
                self.took_in(read, shop);
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

    /// Counts what a read brought, wanted or not.
    fn took_in<H>(&mut self, bytes: usize, shop: &mut Shop<H>) {
        shop.work.read(bytes);
        shop.counters.bytes_in += bytes as u64;
        shop.counters.reads += 1;
    }

    /// Has the session take what is in the window.
    fn decode<H: Handler>(&mut self, frames: &mut u32, shop: &mut Shop<H>) -> Progress {
        let input = match self.phase.is_open() {
            true => hawk_wire::Input::Open,
            false => hawk_wire::Input::Ended,
        };
        let window = self.input.window();
        let before = *frames;
        let received = self
            .session
            .receive(window, input, shop.now, frames, &mut shop.sessions);
        self.input.consume(received.consumed);
        let recognised = before - *frames;
        shop.work.recognised(recognised);
        if let Some(rate) = shop.limits.rate {
            self.session
                .count_frames(recognised, shop.now, &shop.limits);
            let network = self.network();
            shop.rates.take(network, recognised, rate, shop.now);
        }
        if received.junk > 0 {
            log_limited!(warn, shop.junk_log, shop.now, left_out =>
                "junk: bytes that are no frame peer={} bytes={} left_out={left_out}",
                self.session.sender().peer,
                received.junk);
        }
        received.progress
    }
}

impl<S: Socket> Connection<S> {
    /// Writes what is unsent and the replies of this batch: at once if the
    /// socket takes them, otherwise they are kept.
    ///
    /// An agent that has sent its reports and is gone breaks the connection with
    /// the first reply it does not take. What it sent is in the kernel still, and
    /// is read all the same.
    fn flush<H>(&mut self, shop: &mut Shop<H>) {
        let SessionContext {
            replies, unsent, ..
        } = &mut shop.sessions;
        self.send(replies, unsent, &mut shop.counters);
        // Whatever came of it: they are nobody else's.
        replies.clear();
    }

    /// Whether nothing but the replies at hand is left to do, and the socket is likely to
    /// take them all: then they may be [written](Self::deliver) after the turn.
    fn may_put_off<H>(&self, shop: &Shop<H>) -> bool {
        let done = !self.undecoded && !self.readable && self.phase.is_plain_open();
        let takes = self.writable && !self.unheard && self.session.unsent().is_empty();
        !shop.sessions.replies.is_empty() && done && takes
    }

    /// Writes replies that were put off; whether the socket took them all. If not, what
    /// is to be done about it has its own turn.
    pub(super) fn deliver<H>(&mut self, replies: &[u8], shop: &mut Shop<H>) -> bool {
        self.send(replies, &shop.sessions.unsent, &mut shop.counters);
        !self.unheard && self.session.unsent().is_empty()
    }

    fn send(&mut self, replies: &[u8], unsent: &UnsentTotal, counters: &mut Counters) {
        if self.unheard {
            return;
        }
        let written = if self.session.unsent().is_empty() {
            self.write_fresh(replies, unsent, counters)
        } else {
            self.session.queue(replies, unsent);
            self.write_unsent(counters)
        };
        if written.is_err() {
            self.unheard = true;
            self.readable = true;
            self.session.dequeue(self.session.unsent().len());
        }
    }

    fn write_fresh(
        &mut self,
        mut replies: &[u8],
        unsent: &UnsentTotal,
        counters: &mut Counters,
    ) -> io::Result<()> {
        while self.writable && !replies.is_empty() {
            let written = write(&mut self.socket, replies)?;
            self.wrote(written, counters);
            replies = &replies[written.unwrap_or(0)..];
        }
        if !replies.is_empty() {
            self.session.queue(replies, unsent);
        }
        Ok(())
    }

    fn write_unsent(&mut self, counters: &mut Counters) -> io::Result<()> {
        while self.writable && !self.session.unsent().is_empty() {
            let written = write(&mut self.socket, self.session.unsent())?;
            self.wrote(written, counters);
            self.session.dequeue(written.unwrap_or(0));
        }
        Ok(())
    }

    /// Notes what a write came to.
    fn wrote(&mut self, written: Option<usize>, counters: &mut Counters) {
        match written {
            Some(written) => {
                counters.bytes_out += written as u64;
                counters.writes += 1;
            }
            None => self.writable = false,
        }
    }
}

/// One call of write: how many bytes the socket took; `None` when it is full.
fn write<S: Socket>(socket: &mut S, bytes: &[u8]) -> io::Result<Option<usize>> {
    loop {
        match socket.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => return Ok(Some(written)),
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock => return Ok(None),
                io::ErrorKind::Interrupted => {}
                _ => return Err(error),
            },
        }
    }
}

/// How long a connection that we close may go on sending before it is cut
/// off. Closing with unread input would reset it and destroy replies that the
/// agent has not read yet.
const LINGER: Duration = Duration::from_secs(2);

impl<S: Socket> Connection<S> {
    /// Begins to close it from our side, for `cause`, with what is unsent and
    /// without reading anything more.
    pub(super) fn close<H: Handler>(&mut self, cause: Cause, shop: &mut Shop<H>) -> Outcome {
        let patience = match cause {
            // Its time is over: that replies are unsent may be the very reason.
            Cause::IdleTimeout | Cause::FrameTimeout | Cause::OutputTimeout
                if !self.session.has_pending_replies() =>
            {
                LINGER
            }
            // Replies have as long to get out as an agent may take to read them.
            _ => shop.limits.idle,
        };
        self.phase.enter(ConnectionPhase::Closing {
            cause,
            until: shop.now.after(patience),
        });
        // Whatever else comes is not read: a whole frame that an unfinished
        // candidate hides is found now or never.
        let mut frames = u32::MAX;
        if cause != Cause::JunkLimit && !self.input.window().is_empty() {
            self.decode(&mut frames, shop);
        }
        self.input.clear();
        self.session.stop_receiving();
        let outcome = self.wind_down(shop);
        self.end_turn(outcome)
    }

    /// Says `line`, and nothing else, before it closes for `cause`.
    pub(super) fn turn_away<H: Handler>(
        &mut self,
        reply: hawk_wire::Reply,
        cause: Cause,
        shop: &mut Shop<H>,
    ) -> Outcome {
        shop.sessions.answer(reply);
        self.close(cause, shop)
    }

    /// Ends it for everybody who has its socket: in another process it is open too.
    pub(super) fn shut_down(&mut self) {
        // It fails only if it has ended already.
        let _ended = self.socket.end_both();
    }

    /// The server stops: what has arrived by now is still read and answered.
    pub(super) fn finish_arrived(&mut self) {
        if self.phase.is_open() {
            let arrived = self.socket.arrived().unwrap_or(0);
            self.phase.set_allowance(arrived);
            self.readable = true;
        }
    }

    /// Returns whether all replies were written.
    fn is_answered(&self) -> bool {
        self.session.unsent().is_empty() && !self.session.has_pending_replies()
    }

    fn lingers(&self) -> bool {
        matches!(self.phase.get(), ConnectionPhase::Lingering { .. })
    }

    /// The way out once we close: flush, end our side, discard what comes.
    fn wind_down<H: Handler>(&mut self, shop: &mut Shop<H>) -> Outcome {
        let Some((cause, _)) = self.phase.get().ending() else {
            return Outcome::Idle;
        };
        self.flush(shop);
        if self.unheard {
            return Outcome::Ended(cause);
        }
        if !self.lingers() && self.is_answered() {
            if self.socket.end_output().is_err() {
                return Outcome::Ended(cause);
            }
            self.phase.enter(ConnectionPhase::Lingering {
                cause,
                until: shop.now.after(LINGER),
            });
        }
        let mut bytes = shop.work.share();
        while self.readable {
            if bytes == 0 {
                return Outcome::Again;
            }
            match self.socket.read(&mut shop.discard) {
                Ok(0) => {
                    self.readable = false;
                    if self.lingers() {
                        return Outcome::Ended(cause);
                    }
                }
                Ok(read) => {
                    bytes = bytes.saturating_sub(read);
                    self.took_in(read, shop);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.readable = false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Outcome::Ended(cause),
            }
        }
        Outcome::Idle
    }
}

/// One connection, as it is seen from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionView {
    /// The address it comes from.
    pub peer: SocketAddr,
    /// Its phase.
    pub phase: ConnectionPhase,
    /// Why nothing is read from it at present, if so.
    pub stopped: Option<StopReason>,
    /// Whether it has a turn without anything happening to it.
    pub queued: bool,
    /// Whether it is among those that wait for the store.
    pub held: bool,
    /// Whether it has a place in the queue for a receive buffer.
    pub waits_for_buffer: bool,
    /// Bytes read and not yet consumed.
    pub buffered: usize,
    /// Whether the decoder has not seen all of them to the end.
    pub undecoded: bool,
    /// Bytes of the receive buffer that it holds; 0 if it holds none.
    pub buffer: usize,
    /// Reply bytes that the socket did not take yet.
    pub unsent: usize,
    /// Frames that passed.
    pub frames: u64,
}

impl<S> Connection<S> {
    /// Reply bytes that the socket did not take yet.
    pub(super) fn unsent(&self) -> usize {
        self.session.unsent().len()
    }

    pub(super) fn view(&self) -> ConnectionView {
        ConnectionView {
            peer: self.session.sender().peer,
            phase: self.phase.get(),
            stopped: self.session.stopped(),
            queued: self.queued,
            held: self.held,
            waits_for_buffer: self.phase.waits(),
            buffered: self.input.window().len(),
            undecoded: self.undecoded,
            buffer: self.input.capacity(),
            unsent: self.unsent(),
            frames: self.session.frames().into(),
        }
    }
}

impl<S> Connection<S> {
    pub(super) fn socket(&self) -> &S {
        &self.socket
    }

    pub(super) fn sender(&self) -> Sender<'_> {
        self.session.sender()
    }

    /// As it stands, but for replies that wait for a commit.
    pub(super) fn export(&self) -> ConnectionState {
        debug_assert!(
            self.phase.allowance().is_none(),
            "who stops hands nothing over"
        );
        ConnectionState {
            session: self.session.export(self.input.window()),
            phase: self.phase.get(),
            unheard: self.unheard,
            undecoded: self.undecoded,
        }
    }

    /// Goes on as `state` says; the bytes that it is to [hold](Self::hold).
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
        // Who was not read from, or has nobody to hear the replies, is looked at once
        // before its deadline is enforced.
        self.readable = state.unheard || self.session.stopped().is_some();
        self.unheard = state.unheard;
        self.undecoded = state.undecoded;
        bytes
    }

    /// Whether it has something to do of which no event and no alarm will tell.
    pub(super) fn wants_a_turn(&self, limits: &Limits) -> bool {
        let waits = match self.session.stopped() {
            None => false,
            // It has an alarm, unless there is no such limit any more.
            Some(StopReason::Rate) => self.session.deadline(limits).is_none(),
            Some(_) => true,
        };
        let goes_on = self.undecoded || self.unheard || !self.session.unsent().is_empty();
        waits || goes_on || !self.phase.is_open()
    }

    /// Holds these bytes, in `buffer`.
    pub(super) fn hold(&mut self, buffer: Buffer, bytes: &[u8]) {
        self.input.begin_with(buffer, bytes);
    }

    /// Holds what it holds in this buffer, which is the longest there is.
    pub(super) fn hold_in(&mut self, longest: Buffer) {
        self.input.move_to(longest);
    }

    /// Bytes held, and bytes of the buffer they are in.
    pub(super) fn window(&self) -> usize {
        self.input.window().len()
    }

    /// The same, 0 if it is the pool's reserve.
    pub(super) fn general_capacity(&self) -> usize {
        match self.input.has_reserve() {
            true => 0,
            false => self.input.capacity(),
        }
    }

    pub(super) fn capacity(&self) -> usize {
        self.input.capacity()
    }
}

/// What `reply` has become now that the commit it waited for is over.
pub(super) fn settled(reply: Reply, fate: Fate) -> Reply {
    match (reply, fate) {
        (Reply::Report, Fate::Discarded) => Reply::Busy(Busy::StoreUnavailable),
        _ => reply,
    }
}

#[cfg(test)]
mod tests;
