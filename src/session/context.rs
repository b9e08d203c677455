//! Where packets are handed in and replies come out.

use std::fmt;
use std::net::SocketAddr;
use std::num::{NonZeroU32, NonZeroU64};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::UnsentTotal;
use crate::stats::{SessionCounters, Statistics};
use hawk_time::Moment;
use hawk_wire::{Packet, PacketDecoder, Reply};

/// Takes packets and says what to answer: at once, or once they are kept.
///
/// The reactor calls it in turns: [`begin_turn`](Self::begin_turn), then any
/// number of packets and departures, then [`end_turn`](Self::end_turn).
pub trait Handler {
    /// Takes one packet; its reply goes out in the order of arrival. `tag` is
    /// the handler's own to keep with the session.
    fn handle(&mut self, sender: Sender<'_>, tag: &mut Option<Tag>, packet: &Packet<'_>) -> Answer;

    /// A name that an agent gives itself, as its session is to keep it: a handler that
    /// keeps names has the session share its own.
    fn name(&mut self, name: &str) -> Rc<str> {
        name.into()
    }

    /// Called once, before anything else: whatever goes on in other threads is
    /// to call `wake` when there is something to [`settle`](Self::next_completed).
    fn start(&mut self, wake: Wake) {
        let _unused = wake;
    }

    /// A turn of the event loop begins at `now`.
    fn begin_turn(&mut self, now: Moment) {
        let _unused = now;
    }

    /// The session that `tag` was kept with has ended.
    fn detach(&mut self, tag: Tag) {
        let _unused = tag;
    }

    /// The session that `tag` was kept with is not read from, from now on: its silence
    /// means nothing.
    fn paused(&mut self, tag: Tag) {
        let _unused = tag;
    }

    /// The session is read from again, or is about to [detach](Self::detach).
    fn resumed(&mut self, tag: Tag) {
        let _unused = tag;
    }

    /// Whether packets can be taken now. While they cannot, no socket is read.
    fn is_ready(&self) -> bool {
        true
    }

    /// The next commit that has come to its end, in their order.
    fn next_completed(&mut self) -> Option<CompletedCommit> {
        None
    }

    /// All packets of the turn are handed in.
    fn end_turn(&mut self) {}

    /// When there is something to do even if no packet comes.
    fn deadline(&self) -> Option<Moment> {
        None
    }

    /// Fills in the statistics of the agents, the store and the commands.
    fn statistics(&self, statistics: &mut Statistics) {
        let _unused = statistics;
    }
}

/// Who sent a packet.
#[derive(Clone, Copy, Debug)]
pub struct Sender<'a> {
    /// The address the connection comes from.
    pub peer: SocketAddr,
    /// The name the agent gave itself last, if it ever did.
    pub agent: Option<&'a Rc<str>>,
    /// The time since the packet of its session before this one, of the same kind, without
    /// the time for which it was not read from. `None`: there was none, or this one is part
    /// of the same burst. For reports always `None` once the session has sent a heartbeat.
    pub gap: Option<Duration>,
}

/// A number by which a handler knows a session again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tag(pub NonZeroU32);

/// Names a commit; later ones have greater numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CommitId(pub NonZeroU64);

/// What is answered to a packet, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// This, as soon as what waits before it is answered.
    Now(Reply),
    /// That the report was taken if this commit keeps it, otherwise that the
    /// store is unavailable.
    AfterCommit(CommitId),
}

/// How a commit ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// All of it is on disk.
    Kept,
    /// Nothing of it is.
    Discarded,
}

/// A commit that has come to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompletedCommit {
    /// Which.
    pub commit: CommitId,
    /// How.
    pub fate: Fate,
}

/// Wakes the event loop from another thread.
#[derive(Clone)]
pub struct Wake(Arc<dyn Fn() + Send + Sync>);

impl Wake {
    /// What calls `wake`.
    pub fn new(wake: impl Fn() + Send + Sync + 'static) -> Self {
        Self(Arc::new(wake))
    }

    /// Wakes it; many calls may have one effect.
    pub fn wake(&self) {
        (self.0)();
    }
}

impl fmt::Debug for Wake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Wake")
    }
}

/// What all sessions of a reactor share while they take bytes.
#[derive(Debug)]
pub struct SessionContext<H> {
    /// Takes the packets.
    pub handler: H,
    /// Decodes them; holds the scratch space.
    pub packets: PacketDecoder,
    /// Counts what came in.
    pub counters: SessionCounters,
    /// Reply lines of the batch at hand, to be written at once.
    pub replies: Vec<u8>,
    /// What of them waits for sockets.
    pub unsent: UnsentTotal,
    /// Replies behind them that wait for a commit each. That a report was taken
    /// is true only if its commit keeps it.
    pub pending: Vec<(CommitId, Reply)>,
}

impl<H> SessionContext<H> {
    /// Returns the context of a new reactor: no session yet, all counts zero.
    pub fn new(handler: H) -> Self {
        Self {
            handler,
            packets: PacketDecoder::default(),
            counters: SessionCounters::default(),
            replies: Vec::new(),
            unsent: UnsentTotal::default(),
            pending: Vec::new(),
        }
    }

    /// Puts a reply behind those of the batch at hand, and counts it.
    pub fn answer(&mut self, reply: Reply) {
        self.counters.answered(reply);
        self.replies.extend_from_slice(reply.line());
    }
}
