//! One connection: a socket, its session, and the bytes between them.

mod closing;
mod output;

use std::io::{self, Read as _};

use hawk_pool::{Buffer, Pool, WaitTicket};
use mio::event::Event;
use mio::net::TcpStream;

use super::input::Input;
use crate::session::{Desk, Expiry, Fate, Handler, Limits, Progress, Rate, Session, StopReason};
use crate::stats::{Cause, Counters};
use crate::throttle::Throttle;
use crate::time::Moment;
use crate::wire::{self, Busy, Reply};

/// How many bytes a connection may read in a turn before others have theirs:
/// one full read of the longest buffer.
const TURN_BYTES: usize = 64 * 1024;

/// How many frames a connection may have answered in a turn. 64 KiB can hold
/// 8,000 frames without data; this also bounds the replies of one write.
const TURN_FRAMES: u32 = 1024;

/// Bytes that an agent under a rate limit is read for each frame that it may send,
/// and the least and the most of it: what lies beyond its limit stays with the
/// kernel, and not in a receive buffer that others are waiting for.
const BYTES_PER_FRAME: usize = 256;
const LEAST_READ: usize = 1024;

/// What all connections use while it is their turn.
#[derive(Debug)]
pub(super) struct Shop<H> {
    pub(super) desk: Desk<H>,
    pub(super) pool: Pool,
    pub(super) limits: Limits,
    pub(super) counters: Counters,
    /// Tells of junk at a limited rate.
    pub(super) junk_log: Throttle,
    /// Tells of agents that send more than they may.
    pub(super) rate_log: Throttle,
    /// The time of this turn; read once, used by all.
    pub(super) now: Moment,
    /// Where unwanted input goes.
    pub(super) discard: Box<[u8]>,
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
pub(super) struct Connection {
    socket: TcpStream,
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
    /// The kernel says that the agent's end of file is in, or urgent data:
    /// either ends a read early, and no further event will tell.
    end_in_sight: bool,
    /// The kernel says that the agent will send no more.
    complete: bool,
    /// The kernel says that the connection is broken.
    broken: bool,
    /// A write has failed: what is still to be read is taken, but nobody hears
    /// the replies.
    unheard: bool,
    /// The window holds bytes that the decoder has not seen to the end.
    undecoded: bool,
    /// How many more bytes may be read; `None` while the server is not stopping.
    allowance: Option<u32>,
    /// Its place in the queue for a receive buffer.
    ticket: Option<WaitTicket>,
    phase: Phase,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Packets come and replies go.
    Open,
    /// The agent's end of file is read; its last replies go out.
    Finishing,
    /// We close it: what is unsent goes out, what comes in is discarded.
    Closing(Cause, Moment),
    /// As before, and our end of file is sent.
    Lingering(Cause, Moment),
}

impl Connection {
    pub(super) fn new(socket: TcpStream, session: Session, generation: u32) -> Self {
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
            end_in_sight: false,
            complete: false,
            broken: false,
            unheard: false,
            undecoded: false,
            allowance: None,
            ticket: None,
            phase: Phase::Open,
        }
    }

    pub(super) fn session(&self) -> &Session {
        &self.session
    }

    /// Notes what the kernel said; whether that makes a turn worth while.
    pub(super) fn mark_ready(&mut self, event: &Event) -> bool {
        self.end_in_sight |= event.is_read_closed() || event.is_priority();
        self.broken |= event.is_error();
        self.readable |= event.is_readable() || self.end_in_sight || self.broken;
        self.writable |= event.is_writable();
        self.complete |= event.is_read_closed();
        let slowed = self.session.stopped() == Some(StopReason::Rate) && !self.complete;
        let reads = self.readable && self.ticket.is_none() && !slowed;
        reads || self.broken || (self.writable && !self.session.unsent().is_empty())
    }

    /// Has its turn: reads, decodes, answers, up to its budget.
    pub(super) fn serve<H: Handler>(&mut self, shop: &mut Shop<H>) -> Outcome {
        debug_assert!(shop.desk.replies.is_empty(), "somebody else's replies");
        let outcome = match self.phase {
            Phase::Open | Phase::Finishing => self.converse(shop, None),
            Phase::Closing(..) | Phase::Lingering(..) => self.wind_down(shop),
        };
        self.end_turn(outcome)
    }

    /// As [`serve`](Self::serve), for a connection that waits for a buffer and
    /// whose turn in that queue has come. `None`: the pool still has none.
    pub(super) fn serve_waiting<H: Handler>(&mut self, shop: &mut Shop<H>) -> Option<Outcome> {
        let Some(ticket) = self.ticket.take() else {
            return Some(Outcome::Idle);
        };
        match ticket.redeem() {
            Ok(buffer) => {
                self.session.resume_reading(shop.now);
                let outcome = self.converse(shop, Some(buffer));
                Some(self.end_turn(outcome))
            }
            Err(ticket) => {
                self.ticket = Some(ticket);
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
            shop.desk.answer(settled(*reply, fate));
        }
        let count = u32::try_from(replies.len()).unwrap_or(u32::MAX);
        self.session.settle(count, shop.now);
        self.flush(shop);
        let more = self.readable || self.undecoded || self.phase != Phase::Open;
        if more { Outcome::Again } else { Outcome::Idle }
    }

    /// When [`expire`](Self::expire) is to be called, if ever.
    pub(super) fn deadline(&self, limits: &Limits) -> Option<Moment> {
        match self.phase {
            Phase::Open | Phase::Finishing => self.session.deadline(limits),
            Phase::Closing(_, deadline) | Phase::Lingering(_, deadline) => Some(deadline),
        }
    }

    /// Its deadline may have come.
    ///
    /// Before an agent is given up there is a last look at its socket: when we
    /// are behind, what would have saved it may lie there, and that we have not
    /// come to it is our fault.
    pub(super) fn expire<H: Handler>(&mut self, shop: &mut Shop<H>) -> Outcome {
        match self.phase {
            Phase::Open | Phase::Finishing => {
                match self.session.expire(shop.now, &shop.limits) {
                    Expiry::NotYet => return Outcome::Idle,
                    Expiry::GoOn => {}
                    Expiry::DropCandidate | Expiry::Close(_) => self.readable = true,
                }
                let outcome = self.serve(shop);
                let open = matches!(self.phase, Phase::Open | Phase::Finishing);
                match outcome {
                    Outcome::Idle if open => self.enforce(shop),
                    _ => outcome,
                }
            }
            Phase::Closing(cause, deadline) | Phase::Lingering(cause, deadline) => {
                if deadline <= shop.now {
                    Outcome::Ended(cause)
                } else {
                    Outcome::Idle
                }
            }
        }
    }

    /// Does what its deadline, if it has come, demands.
    fn enforce<H: Handler>(&mut self, shop: &mut Shop<H>) -> Outcome {
        match self.session.expire(shop.now, &shop.limits) {
            Expiry::NotYet | Expiry::GoOn => Outcome::Idle,
            Expiry::DropCandidate => {
                let window = self.input.window();
                let dropped = self.session.drop_candidate(window, &mut shop.desk.tally);
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
        let mut bytes = TURN_BYTES;
        let mut frames = TURN_FRAMES;
        loop {
            self.flush(shop);
            if self.ticket.is_some() {
                return match self.broken {
                    // Nobody is there any more to keep a place for.
                    true => Outcome::Ended(Cause::ConnectionLost),
                    false => Outcome::Idle,
                };
            }
            // What was read is decoded in any case: its replies take less
            // memory than a receive buffer, which others may be waiting for.
            if !self.undecoded && self.session.output_is_full() {
                self.session.stop_reading(StopReason::Output, shop.now);
                return Outcome::Idle;
            }
            self.session.resume_reading(shop.now);
            if (self.undecoded || self.readable) && !shop.desk.handler.is_ready() {
                self.session.stop_reading(StopReason::Store, shop.now);
                return Outcome::WaitForStore;
            }
            let left = self.frames_left(shop);
            if (self.undecoded || self.readable) && left == 0 {
                self.slow_down(shop);
                return Outcome::Idle;
            }
            if self.undecoded {
                let budget = frames.min(left);
                let mut unused = budget;
                let progress = self.decode(&mut unused, shop);
                frames -= budget - unused;
                match progress {
                    Progress::Settled => self.undecoded = false,
                    Progress::BudgetSpent => {
                        self.flush(shop);
                        return Outcome::Again;
                    }
                    Progress::GiveUp => return self.close(Cause::JunkLimit, shop),
                }
                continue;
            }
            if self.phase == Phase::Finishing {
                return if self.unheard {
                    Outcome::Ended(Cause::ConnectionLost)
                } else if self.session.unsent().is_empty() && !self.session.is_owed() {
                    Outcome::Ended(Cause::AgentClosed)
                } else {
                    Outcome::Idle
                };
            }
            if self.allowance == Some(0) || (self.allowance.is_some() && !self.readable) {
                return self.close(Cause::Shutdown, shop);
            }
            if !self.readable {
                return Outcome::Idle;
            }
            if self.session.is_owed_much() {
                self.session.stop_reading(StopReason::Store, shop.now);
                return Outcome::Idle;
            }
            if bytes == 0 {
                return Outcome::Again;
            }
            if !self.input.make_room(&shop.pool, granted.take()) {
                self.session.stop_reading(StopReason::Buffer, shop.now);
                self.ticket = Some(shop.pool.wait());
                return Outcome::WaitForBuffer;
            }
            match self.read(left, shop) {
                Ok(read) => bytes = bytes.saturating_sub(read),
                Err(_) => return Outcome::Ended(Cause::ConnectionLost),
            }
        }
    }

    /// How many frames the agent may still have answered, by its rate. What is all
    /// there, because it sends no more or because the server stops, is answered at
    /// once: it is little, and the sooner the place is free.
    fn frames_left<H>(&self, shop: &Shop<H>) -> u32 {
        if self.complete || self.allowance.is_some() {
            return u32::MAX;
        }
        self.session.frames_left(shop.now, &shop.limits)
    }

    /// It has sent more than it may: it is read again when it may send more.
    fn slow_down<H>(&mut self, shop: &mut Shop<H>) {
        self.session.stop_reading(StopReason::Rate, shop.now);
        shop.counters.rate_limited += 1;
        if let Some(left_out) = shop.rate_log.allow(shop.now) {
            let peer = self.session.sender().peer;
            let limit = shop.limits.rate.map_or(0, Rate::get);
            log::warn!(
                "rate limit: read more slowly peer={peer} limit={limit} left_out={left_out}"
            );
        }
    }

    /// One call of read, of no more than `frames` may take; how many bytes it
    /// brought.
    fn read<H>(&mut self, frames: u32, shop: &mut Shop<H>) -> io::Result<usize> {
        let mut space = self.input.space();
        let wanted = (frames as usize).saturating_mul(BYTES_PER_FRAME);
        let wanted = wanted.max(LEAST_READ).min(space.len());
        space = &mut space[..wanted];
        if let Some(allowance) = self.allowance {
            let allowed = space.len().min(allowance as usize);
            space = &mut space[..allowed];
        }
        let room = space.len();
        match self.socket.read(space) {
            Ok(0) => {
                self.readable = false;
                self.phase = Phase::Finishing;
                self.undecoded = true;
                Ok(0)
            }
            Ok(read) => {
                // A short read has drained the socket, unless the end of file
                // was already queued behind the data, or the read stopped at
                // urgent data (tcp(7)): there is no event for either.
                if read < room && !self.end_in_sight {
                    self.readable = false;
                }
                self.input.filled(read);
                self.undecoded = true;
                self.took_in(read, &mut shop.counters);
                if let Some(allowance) = &mut self.allowance {
                    *allowance = allowance.saturating_sub(u32::try_from(read).unwrap_or(u32::MAX));
                }
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
    fn took_in(&mut self, bytes: usize, counters: &mut Counters) {
        self.session.count_input(bytes);
        counters.bytes_in += bytes as u64;
        counters.reads += 1;
    }

    /// Has the session take what is in the window.
    fn decode<H: Handler>(&mut self, frames: &mut u32, shop: &mut Shop<H>) -> Progress {
        let input = match self.phase {
            Phase::Open => wire::Input::Open,
            _ => wire::Input::Ended,
        };
        let window = self.input.window();
        let before = *frames;
        let received = self
            .session
            .receive(window, input, shop.now, frames, &mut shop.desk);
        self.input.consume(received.consumed);
        self.session
            .count_frames(before - *frames, shop.now, &shop.limits);
        if received.junk > 0
            && let Some(left_out) = shop.junk_log.allow(shop.now)
        {
            let peer = self.session.sender().peer;
            let bytes = received.junk;
            log::warn!(
                "junk: bytes that are no frame peer={peer} bytes={bytes} left_out={left_out}"
            );
        }
        received.progress
    }

    /// No turn ends with more buffer than the bytes held need.
    fn end_turn(&mut self, outcome: Outcome) -> Outcome {
        self.input.settle();
        outcome
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
