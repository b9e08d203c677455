//! Sessions: the protocol of one connection, without its socket.
//!
//! Owns a connection's decoder, its agent's name, its deadlines, its rate, its unsent and its
//! pending replies. A [`Session`] takes bytes and the time as arguments, passes packets to a
//! [`Handler`] and collects reply lines. It must not know sockets, receive buffers and clocks:
//! so a test can drive it step by step, and [`SessionState`] holds all of it for another
//! process.
//!
//! Start at [`Session::receive`].

mod clocks;
mod context;
mod rate;
mod restraint;
mod state;

use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

pub use clocks::{Clocks, StopReason, Timeout};
pub use context::{
    Answer, CommitId, CompletedCommit, Fate, Handler, Sender, SessionContext, Tag, Wake,
};
pub use rate::{Bucket, Rate};
pub use restraint::UnsentTotal;
pub use state::SessionState;

use self::clocks::Marks;
use self::restraint::Restraint;
use crate::stats::SessionCounters;
use hawk_time::Moment;
use hawk_wire::{
    Decoder, FRAME_OVERHEAD, Heartbeat, Input, MAX_REPLY_LINE, Packet, Refusal, Reply, Step,
};

/// Unsent bytes above which an agent is not read from: 2,800 replies to reports, so that a
/// slow reader is noticed early and many of them cost little memory. Input read before that is
/// still answered, which adds at most 280 KiB with the shortest frames.
pub const OUTPUT_HIGH_WATER: usize = 64 * 1024;

/// Unsent bytes at which reading resumes: low enough that it does not alternate with every
/// packet the kernel takes.
pub const OUTPUT_LOW_WATER: usize = OUTPUT_HIGH_WATER / 4;

/// Whether sessions may queue more unsent replies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputRoom {
    /// They may, up to the high-water mark.
    Enough,
    /// All sessions together are at their limit: a session with unsent replies is not read
    /// from.
    None,
}

impl OutputRoom {
    const fn high_water(self) -> usize {
        match self {
            Self::Enough => OUTPUT_HIGH_WATER,
            Self::None => 0,
        }
    }

    const fn low_water(self) -> usize {
        match self {
            Self::Enough => OUTPUT_LOW_WATER,
            Self::None => 0,
        }
    }
}

/// The limits of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The longest time between two frames that pass, and for which unsent replies may wait
    /// for an agent that does not read.
    pub idle: Duration,
    /// The longest time between the first and the last byte of a frame.
    pub frame: Duration,
    /// Frames per second that an agent may send; `None`: unlimited.
    pub rate: Option<Rate>,
}

/// The result of [`Session::receive`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// Bytes at the front of the window that are processed.
    pub consumed: usize,
    /// Of these, bytes that belonged to no frame that passed.
    pub junk: u64,
    /// What comes next.
    pub progress: Progress,
}

/// How far a session got through its window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The rest of the window, if any, is a partial frame.
    NeedsInput,
    /// The frame budget is spent; whole frames may be left.
    BudgetSpent,
    /// Too much junk: the connection is closed without more replies.
    JunkLimit,
}

/// What a session needs at its deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expiry {
    /// Nothing: the deadline has moved.
    NotYet,
    /// To be read from again: its rate allows a frame.
    Resume,
    /// Drop the candidate at the front of the window
    /// ([`Session::drop_candidate`]) and continue the search.
    DropCandidate,
    /// Close the connection.
    Close(Timeout),
}

/// The protocol of one connection.
#[derive(Debug)]
pub struct Session {
    peer: Peer,
    agent: Option<Rc<str>>,
    /// The handler's tag of this session.
    tag: Option<Tag>,
    decoder: Decoder,
    marks: Marks,
    restraint: Restraint,
    /// Replies that wait for a commit, and the latest of their commits.
    pending: u32,
    last_pending: Option<CommitId>,
    /// Frames that passed; saturates.
    frames: u32,
}

/// Every connection has a session, and nearly all are idle: rare state belongs into
/// [`Restraint`].
const _: () = assert!(size_of::<Session>() == 112);

impl Session {
    /// Returns the session of a connection accepted from `peer` at `now`.
    #[must_use]
    pub fn new(peer: SocketAddr, now: Moment) -> Self {
        Self {
            peer: peer.into(),
            agent: None,
            tag: None,
            decoder: Decoder::default(),
            marks: Marks::new(now),
            restraint: Restraint::default(),
            pending: 0,
            last_pending: None,
            frames: 0,
        }
    }

    /// Processes `window`: the input that was not consumed before. Appends replies to
    /// `context.replies`, and to `context.pending` from the first that waits for a commit.
    /// Recognizes at most `frames` frames, and lowers `frames` by their number.
    pub fn receive<H: Handler>(
        &mut self,
        window: &[u8],
        input: Input,
        now: Moment,
        frames: &mut u32,
        context: &mut SessionContext<H>,
    ) -> Received {
        let mut consumed = 0;
        let mut junk = 0;
        let progress = loop {
            if *frames == 0 {
                break Progress::BudgetSpent;
            }
            let decoded = self.decoder.decode(&window[consumed..], input);
            consumed += decoded.consumed;
            match decoded.step {
                Step::Frame(data) => {
                    *frames -= 1;
                    junk += (decoded.consumed - data.len() - FRAME_OVERHEAD) as u64;
                    let answer = self.take(data, now, context);
                    self.answer(answer, context);
                }
                Step::ChecksumMismatch => {
                    *frames -= 1;
                    junk += decoded.consumed as u64;
                    let refusal = Reply::Error(Refusal::ChecksumMismatch);
                    self.answer(Answer::Now(refusal), context);
                }
                step @ (Step::Incomplete | Step::JunkLimit) => {
                    junk += decoded.consumed as u64;
                    break match step {
                        Step::JunkLimit => Progress::JunkLimit,
                        _ => Progress::NeedsInput,
                    };
                }
            }
        };
        let begun = progress == Progress::NeedsInput && consumed < window.len();
        self.marks.candidate(begun, consumed > 0, now);
        context.counters.junk_bytes += junk;
        Received {
            consumed,
            junk,
            progress,
        }
    }

    /// Drops the candidate at the front of `window`, and returns the bytes consumed.
    /// [`receive`](Self::receive) follows with the rest.
    pub fn drop_candidate(&mut self, window: &[u8], counters: &mut SessionCounters) -> usize {
        let dropped = self.decoder.abandon(window);
        self.marks.drop_candidate();
        counters.junk_bytes += dropped as u64;
        counters.candidates_dropped += 1;
        dropped
    }

    /// Resets the decoder: the rest of the window is dropped, and nothing more is
    /// [received](Self::receive).
    pub fn stop_receiving(&mut self) {
        self.decoder = Decoder::default();
    }

    /// Queues reply bytes that the socket does not take now, and counts them in `total`, which
    /// is always the same.
    pub fn queue(&mut self, replies: &[u8], total: &UnsentTotal) {
        self.restraint.queue(replies, total);
    }

    /// Returns the reply bytes that wait for the socket.
    #[must_use]
    pub fn unsent(&self) -> &[u8] {
        self.restraint.unsent()
    }

    /// Removes the first `bytes`, which the socket took, of [`unsent`](Self::unsent).
    pub fn dequeue(&mut self, bytes: usize) {
        self.restraint.dequeue(bytes);
    }

    /// Returns whether replies wait for a commit.
    #[must_use]
    pub const fn has_pending_replies(&self) -> bool {
        self.pending > 0
    }

    /// Returns whether the pending replies exceed the high-water mark together with the unsent
    /// ones.
    #[must_use]
    pub fn has_too_many_pending(&self, room: OutputRoom) -> bool {
        self.has_pending_replies()
            && self.unsent().len() + self.pending as usize * MAX_REPLY_LINE > room.high_water()
    }

    /// Completes `replies` pending replies after their commit.
    pub fn complete_replies(&mut self, replies: u32, now: Moment) {
        self.pending = self.pending.saturating_sub(replies);
        if self.pending == 0 {
            self.last_pending = None;
            // Until now the agent waited for the server.
            self.passed(now);
        }
    }

    /// Returns whether the agent must read replies before it is read from.
    #[must_use]
    pub fn output_is_full(&self, room: OutputRoom) -> bool {
        let limit = match self.stopped() {
            Some(StopReason::Output) => room.low_water(),
            _ => room.high_water(),
        };
        self.unsent().len() > limit
    }

    /// Begins to limit the rate of a new connection.
    pub fn begin_rate(&mut self, now: Moment, limits: &Limits) {
        if let Some(rate) = limits.rate {
            self.restraint
                .set_bucket(Bucket::of_new_connection(rate, now));
        }
    }

    /// Takes no frame before `next`, because the connections of its network have used up the
    /// rate that they share.
    pub fn hold_until(&mut self, next: Moment, limits: &Limits) {
        if let Some(rate) = limits.rate {
            let mut bucket = self.restraint.bucket();
            bucket.empty_until(next, rate);
            self.restraint.set_bucket(bucket);
        }
    }

    /// Returns how many frames the agent may send now.
    #[must_use]
    pub fn frames_left(&self, now: Moment, limits: &Limits) -> u32 {
        let left = limits
            .rate
            .map(|rate| self.restraint.bucket().left(rate, now));
        left.unwrap_or(u32::MAX)
    }

    /// Counts `frames` against the rate.
    pub fn count_frames(&mut self, frames: u32, now: Moment, limits: &Limits) {
        if let Some(rate) = limits.rate {
            self.restraint.use_up(frames, rate, now);
        }
    }

    /// Returns when to call [`expire`](Self::expire) next; `None` until the session changes.
    #[must_use]
    pub fn deadline(&self, limits: &Limits) -> Option<Moment> {
        if self.stopped() == Some(StopReason::Rate) {
            let bucket = self.restraint.bucket();
            return limits.rate.and_then(|rate| bucket.next(rate));
        }
        let deadline = self.clock(limits);
        deadline.map(|(deadline, _)| deadline)
    }

    /// Returns what the session needs at `now`.
    #[must_use]
    pub fn expire(&self, now: Moment, limits: &Limits) -> Expiry {
        if self.stopped() == Some(StopReason::Rate) && self.frames_left(now, limits) > 0 {
            return Expiry::Resume;
        }
        match self.clock(limits) {
            Some((deadline, timeout)) if deadline <= now => {
                if timeout == Timeout::Frame && !self.decoder.at_boundary() {
                    Expiry::DropCandidate
                } else {
                    Expiry::Close(timeout)
                }
            }
            _ => Expiry::NotYet,
        }
    }

    /// Returns the origin of this session's packets.
    #[must_use]
    pub fn sender(&self) -> Sender<'_> {
        Sender {
            peer: self.peer.into(),
            agent: self.agent.as_ref(),
            gap: None,
        }
    }

    /// Returns the handler's tag; `None` before the first packet.
    #[must_use]
    pub const fn tag(&self) -> Option<Tag> {
        self.tag
    }

    /// Returns the frames that passed so far; saturates at `u32::MAX`.
    #[must_use]
    pub const fn frames(&self) -> u32 {
        self.frames
    }

    /// Decodes a frame that passed, and passes its packet to the handler.
    fn take<H: Handler>(
        &mut self,
        data: &[u8],
        now: Moment,
        context: &mut SessionContext<H>,
    ) -> Answer {
        self.frames = self.frames.saturating_add(1);
        self.passed(now);
        // By reference: a move would cost as much as the decoding.
        match &context.packets.decode(data) {
            Ok(packet) => {
                if let Some(name) = packet.agent()
                    && !packet.is_probe()
                    && self.agent.as_deref() != Some(name.as_str())
                {
                    rename(&mut self.agent, name.as_str(), &mut context.handler);
                }
                let gap = match packet {
                    Packet::Heartbeat(Heartbeat { probe: true, .. }) => None,
                    Packet::Heartbeat(_) => self.marks.heartbeat(now),
                    Packet::Report(_) => self.marks.report(now),
                };
                let sender = Sender {
                    peer: self.peer.into(),
                    agent: self.agent.as_ref(),
                    gap,
                };
                context.handler.handle(sender, &mut self.tag, packet)
            }
            Err(refusal) => Answer::Now(Reply::Error(*refusal)),
        }
    }

    /// Queues an answer behind pending replies, so that replies keep their order.
    fn answer<H>(&mut self, answer: Answer, context: &mut SessionContext<H>) {
        let (commit, reply) = match (answer, self.last_pending) {
            (Answer::Now(reply), None) => return context.answer(reply),
            (Answer::Now(reply), Some(last)) => (last, reply),
            (Answer::AfterCommit(commit), _) => (commit, Reply::Report),
        };
        self.pending += 1;
        self.last_pending = Some(commit);
        context.pending.push((commit, reply));
    }
}

/// The address and port of a [`SocketAddr`] in 24 bytes instead of 32, without the flow label
/// of IPv6, which the kernel reports only on request (`IPV6_FLOWINFO_SEND`, `ipv6(7)`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Peer {
    ip: IpAddr,
    port: u16,
    /// The scope of an IPv6 address (RFC 4007, section 6); 0 if it needs none.
    scope: u32,
}

const _: () = assert!(size_of::<Peer>() == 24);

impl From<SocketAddr> for Peer {
    fn from(address: SocketAddr) -> Self {
        Self {
            ip: address.ip(),
            port: address.port(),
            scope: match address {
                SocketAddr::V4(_) => 0,
                SocketAddr::V6(address) => address.scope_id(),
            },
        }
    }
}

impl From<Peer> for SocketAddr {
    #[inline]
    fn from(Peer { ip, port, scope }: Peer) -> Self {
        let mut address = Self::new(ip, port);
        if let Self::V6(address) = &mut address {
            address.set_scope_id(scope);
        }
        address
    }
}

/// Replaces the name; apart from the path of every packet because it is rare.
#[cold]
fn rename<H: Handler>(agent: &mut Option<Rc<str>>, name: &str, handler: &mut H) {
    *agent = Some(handler.name(name));
}

#[cfg(test)]
mod tests;
