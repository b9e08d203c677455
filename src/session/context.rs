//! The interface between sessions and the handler of their packets.

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

/// Handles packets, and answers them at once or after a commit.
///
/// The reactor calls it in turns: [`begin_turn`](Self::begin_turn), then any
/// number of packets and detachments, then [`end_turn`](Self::end_turn).
pub trait Handler {
    /// Handles one packet; replies keep the order of the packets. `tag` is the handler's, kept
    /// with the session.
    fn handle(&mut self, sender: Sender<'_>, tag: &mut Option<Tag>, packet: &Packet<'_>) -> Answer;

    /// Returns an agent's name for the session to keep; a handler that keeps names shares its
    /// own.
    fn name(&mut self, name: &str) -> Rc<str> {
        name.into()
    }

    /// Starts the handler, before all other calls. Other threads call `wake` when a commit is
    /// [complete](Self::next_completed).
    fn start(&mut self, wake: Wake) {
        let _unused = wake;
    }

    /// Begins a turn of the event loop at `now`.
    fn begin_turn(&mut self, now: Moment) {
        let _unused = now;
    }

    /// Detaches the session of `tag`, which has ended.
    fn detach(&mut self, tag: Tag) {
        let _unused = tag;
    }

    /// Notes that the session of `tag` is not read from: its silence means nothing.
    fn paused(&mut self, tag: Tag) {
        let _unused = tag;
    }

    /// Notes that the session is read from again, or is about to [detach](Self::detach).
    fn resumed(&mut self, tag: Tag) {
        let _unused = tag;
    }

    /// Returns whether packets can be taken now. While they cannot, no socket is read.
    fn is_ready(&self) -> bool {
        true
    }

    /// Returns the next completed commit, in their order.
    fn next_completed(&mut self) -> Option<CompletedCommit> {
        None
    }

    /// Ends a turn: all its packets are handled.
    fn end_turn(&mut self) {}

    /// Returns when the handler needs a turn without a packet.
    fn deadline(&self) -> Option<Moment> {
        None
    }

    /// Fills in the statistics of the agents, the store and the commands.
    fn statistics(&self, statistics: &mut Statistics) {
        let _unused = statistics;
    }
}

/// The origin of a packet.
#[derive(Clone, Copy, Debug)]
pub struct Sender<'a> {
    /// The address the connection comes from.
    pub peer: SocketAddr,
    /// The name that the agent sent last; `None` if it never did.
    pub agent: Option<&'a Rc<str>>,
    /// The time since the session's last packet of the same kind, without the time for which
    /// reading was stopped. `None` for the first one and within a burst; for reports, always
    /// once the session has sent a heartbeat.
    pub gap: Option<Duration>,
}

/// The handler's number for the agent of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tag(pub NonZeroU32);

/// The number of a commit; later ones have greater numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CommitId(pub NonZeroU64);

/// The reply to a packet, and its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// This one, behind the replies that are pending.
    Now(Reply),
    /// After this commit: that the report was taken, or that the store is unavailable.
    AfterCommit(CommitId),
}

/// The outcome of a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// All of the batch is on disk.
    Kept,
    /// The batch was discarded.
    Discarded,
}

/// A completed commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompletedCommit {
    /// Its number.
    pub commit: CommitId,
    /// Its outcome.
    pub fate: Fate,
}

/// Wakes the event loop from another thread.
#[derive(Clone)]
pub struct Wake(Arc<dyn Fn() + Send + Sync>);

impl Wake {
    /// Returns a handle that calls `wake`.
    pub fn new(wake: impl Fn() + Send + Sync + 'static) -> Self {
        Self(Arc::new(wake))
    }

    /// Wakes the event loop; many calls may have one effect.
    pub fn wake(&self) {
        (self.0)();
    }
}

impl fmt::Debug for Wake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Wake")
    }
}

/// What all sessions of a reactor share.
#[derive(Debug)]
pub struct SessionContext<H> {
    /// The handler of packets.
    pub handler: H,
    /// The decoder of packets, with its scratch space.
    pub packets: PacketDecoder,
    /// The counters of all sessions.
    pub counters: SessionCounters,
    /// Reply lines of the connection being served, to be written at once.
    pub replies: Vec<u8>,
    /// Bytes queued behind slow sockets, over all sessions.
    pub unsent: UnsentTotal,
    /// Replies behind them that wait for a commit each.
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

    /// Appends a reply line and counts it.
    pub fn answer(&mut self, reply: Reply) {
        self.counters.answered(reply);
        self.replies.extend_from_slice(reply.line());
    }
}
