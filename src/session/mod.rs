//! One agent's conversation, without its socket.
//!
//! A [`Session`] takes bytes and the time as arguments, hands packets to a
//! [`Handler`] and collects reply lines. It does no I/O, owns no receive buffer
//! and reads no clock, so a test can drive it step by step, and all of it can be
//! written down as [`SessionState`] and rebuilt in another process.

mod clocks;
mod context;
mod peer;
mod rate;
mod restraint;
mod state;
mod unsent;

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

pub use clocks::{Clocks, StopReason, Timeout};
pub use context::{
    Answer, CommitId, CompletedCommit, Fate, Handler, Sender, SessionContext, Tag, Wake,
};
pub use rate::{Bucket, Rate};
pub use state::SessionState;
pub use unsent::UnsentTotal;

use self::clocks::Marks;
use self::peer::Peer;
use self::restraint::Restraint;
use crate::stats::SessionCounters;
use hawk_time::Moment;
use hawk_wire::{
    Decoder, FRAME_OVERHEAD, Heartbeat, Input, MAX_REPLY_LINE, Packet, Refusal, Reply, Step,
};

/// Unsent bytes above which no more is read from an agent: some 2,800 replies
/// to reports, so that a slow reader is noticed early and a fleet of them costs
/// little. What was read by then is still answered, which adds less than 280 KiB
/// even for the shortest frames.
pub const OUTPUT_HIGH_WATER: usize = 64 * 1024;

/// Unsent bytes at which reading goes on: low enough that it is not switched
/// on and off for every packet the kernel takes.
pub const OUTPUT_LOW_WATER: usize = OUTPUT_HIGH_WATER / 4;

/// Whether there is room for more replies that agents do not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputRoom {
    /// There is.
    Enough,
    /// All sessions together have too many: one that has any at all is to get
    /// no more. One that has none goes on.
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

/// How long a session may take over what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Between two frames that pass; also for the unsent replies of an agent
    /// that does not read them.
    pub idle: Duration,
    /// Between the first and the last byte of a frame.
    pub frame: Duration,
    /// How many frames an agent may send; as many as it likes, if there is none.
    pub rate: Option<Rate>,
}

/// What became of the bytes that a session was shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// Bytes at the front of the window that are done with.
    pub consumed: usize,
    /// Those among them that belonged to no frame that passed.
    pub junk: u64,
    /// What is to happen next.
    pub progress: Progress,
}

/// How far a session got through its window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// All is decided; the rest, if any, is a frame begun.
    NeedsInput,
    /// The frame budget is spent; there may be whole frames left.
    BudgetSpent,
    /// Too much junk: answer nothing more and close.
    JunkLimit,
}

/// What a session wants done when its deadline has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expiry {
    /// Nothing yet: the deadline has moved.
    NotYet,
    /// Read from it again: it may send another frame.
    Resume,
    /// Drop the candidate at the front of the window
    /// ([`Session::drop_candidate`]) and go on with the search.
    DropCandidate,
    /// Close the connection.
    Close(Timeout),
}

/// One agent's conversation.
#[derive(Debug)]
pub struct Session {
    peer: Peer,
    agent: Option<Rc<str>>,
    /// What the handler knows this session by.
    tag: Option<Tag>,
    decoder: Decoder,
    marks: Marks,
    restraint: Restraint,
    /// Replies that wait for a commit, and for which: its latest.
    pending: u32,
    last_pending: Option<CommitId>,
    /// Frames that passed; it stays at the greatest number there is.
    frames: u32,
}

/// There are as many sessions as connections, and nearly all of them are idle: what
/// few have at a time is to be in their [`Restraint`].
const _: () = assert!(size_of::<Session>() == 112);

impl Session {
    /// The session of a connection that was accepted from `peer` just now.
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

    /// Takes what `window` holds: everything that has arrived and was not
    /// consumed before. Replies are appended to `context.replies`, or to `context.pending`
    /// from the first that waits for a commit; at most `frames` frames are
    /// recognised, and `frames` is lowered by those that were.
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

    /// Drops the candidate at the front of `window`; returns how many bytes are
    /// consumed. To be followed by [`receive`](Self::receive) with the rest.
    pub fn drop_candidate(&mut self, window: &[u8], counters: &mut SessionCounters) -> usize {
        let dropped = self.decoder.abandon(window);
        self.marks.drop_candidate();
        counters.junk_bytes += dropped as u64;
        counters.candidates_dropped += 1;
        dropped
    }

    /// Nothing more is [received](Self::receive), and what is left of the window is
    /// dropped: what was known of it goes as well.
    pub fn stop_receiving(&mut self) {
        self.decoder = Decoder::default();
    }

    /// Keeps reply bytes that the socket does not take now; they are in `total`
    /// from now on, which is the same one always.
    pub fn queue(&mut self, replies: &[u8], total: &UnsentTotal) {
        self.restraint.queue(replies, total);
    }

    /// Reply bytes that wait for the socket.
    #[must_use]
    pub fn unsent(&self) -> &[u8] {
        self.restraint.unsent()
    }

    /// Notes that the socket took the first `bytes` of [`unsent`](Self::unsent).
    pub fn dequeue(&mut self, bytes: usize) {
        self.restraint.dequeue(bytes);
    }

    /// Whether replies wait for a commit.
    #[must_use]
    pub const fn has_pending_replies(&self) -> bool {
        self.pending > 0
    }

    /// Whether so many replies wait for a commit that together with the unsent
    /// ones they reach the high-water mark.
    #[must_use]
    pub fn has_too_many_pending(&self, room: OutputRoom) -> bool {
        self.has_pending_replies()
            && self.unsent().len() + self.pending as usize * MAX_REPLY_LINE > room.high_water()
    }

    /// `replies` of those that waited for `commit` are given out now.
    pub fn complete_replies(&mut self, replies: u32, now: Moment) {
        self.pending = self.pending.saturating_sub(replies);
        if self.pending == 0 {
            self.last_pending = None;
            // Until now it was the agent that waited.
            self.passed(now);
        }
    }

    /// Whether the agent must read replies before more is read from it.
    #[must_use]
    pub fn output_is_full(&self, room: OutputRoom) -> bool {
        let limit = match self.stopped() {
            Some(StopReason::Output) => room.low_water(),
            _ => room.high_water(),
        };
        self.unsent().len() > limit
    }

    /// Begins to limit the rate of a connection that was accepted just now.
    pub fn begin_rate(&mut self, now: Moment, limits: &Limits) {
        if let Some(rate) = limits.rate {
            self.restraint.set_bucket(Bucket::of_newcomer(rate, now));
        }
    }

    /// Takes no frame before `next`, because the connections of its network have sent as many
    /// as they may together.
    pub fn hold_until(&mut self, next: Moment, limits: &Limits) {
        if let Some(rate) = limits.rate {
            let mut bucket = self.restraint.bucket();
            bucket.empty_until(next, rate);
            self.restraint.set_bucket(bucket);
        }
    }

    /// How many frames the agent may still send now.
    #[must_use]
    pub fn frames_left(&self, now: Moment, limits: &Limits) -> u32 {
        let left = limits
            .rate
            .map(|rate| self.restraint.bucket().left(rate, now));
        left.unwrap_or(u32::MAX)
    }

    /// It has sent `frames`.
    pub fn count_frames(&mut self, frames: u32, now: Moment, limits: &Limits) {
        if let Some(rate) = limits.rate {
            self.restraint.use_up(frames, rate, now);
        }
    }

    /// When [`expire`](Self::expire) is to be asked next, if ever.
    #[must_use]
    pub fn deadline(&self, limits: &Limits) -> Option<Moment> {
        if self.stopped() == Some(StopReason::Rate) {
            let bucket = self.restraint.bucket();
            return limits.rate.and_then(|rate| bucket.next(rate));
        }
        let deadline = self.clock(limits);
        deadline.map(|(deadline, _)| deadline)
    }

    /// What is to be done at `now`, if anything.
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

    /// Who this session's packets come from.
    #[must_use]
    pub fn sender(&self) -> Sender<'_> {
        Sender {
            peer: self.peer.into(),
            agent: self.agent.as_ref(),
            gap: None,
        }
    }

    /// What the handler knows this session by, if it has met it.
    #[must_use]
    pub const fn tag(&self) -> Option<Tag> {
        self.tag
    }

    /// Frames that passed so far; `u32::MAX` stands for as many and more.
    #[must_use]
    pub const fn frames(&self) -> u32 {
        self.frames
    }

    /// Decodes a frame that passed and has it handled.
    fn take<H: Handler>(
        &mut self,
        data: &[u8],
        now: Moment,
        context: &mut SessionContext<H>,
    ) -> Answer {
        self.frames = self.frames.saturating_add(1);
        self.passed(now);
        // Looked at where it is: moving it would cost as much as reading it did.
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

    /// Puts an answer in its place: nothing overtakes a reply that waits.
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

/// Apart, because it is rare: the way of every other packet is to stay short.
#[cold]
fn rename<H: Handler>(agent: &mut Option<Rc<str>>, name: &str, handler: &mut H) {
    *agent = Some(handler.name(name));
}

#[cfg(test)]
mod tests;
