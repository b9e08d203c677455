//! Handing all connections over to another reactor, in another process.
//!
//! The *predecessor* shows its connections while it serves them, some at a time, and
//! notes from then on what changes. Once it turns no more, it shows what has changed
//! since: that is all that has to be done while nobody is served. The *successor* adopts
//! each connection as it is shown, and does not read, write, accept or wait before the
//! predecessor has given them up for good. Until then either side can let go of it
//! all: the predecessor has lost nothing, and goes on.
//!
//! Both have every socket open meanwhile. So a connection that was shown and ends is
//! shut down: to close a descriptor of which there are two ends nothing.
//!
//! What the kernel has said of a socket does not move. Whoever registers it anew is told
//! what is there to be read, that the end of file or urgent data is in, and whether a
//! write would take something. Everything else that is to be done is remembered here:
//! bytes that are not decoded, replies that are not written, deadlines, and who waited.

use std::cmp::Reverse;
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::time::Duration;

use super::Reactor;
use super::accept::Listener;
use super::buffers::LONGEST;
use super::connection::{Connection, Shop};
use super::connections::ConnectionId;
use super::kernel::{Kernel, SocketToken};
use super::phase::ConnectionPhase;
use crate::dirty_set::DirtySet;
use crate::network::Network;
use crate::session::{Handler, Session, SessionState, StopReason, Tally};
use crate::stats::{Cause, Counters};
use hawk_time::Moment;

/// The name of a connection in the process that hands it over: no other has had it or
/// will have it there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MovedId(pub u64);

/// The name of a connection in the process that adopted it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AdoptedId(ConnectionId);

/// A connection as it can go on in another process of the same machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionState {
    /// Its agent's conversation, with the bytes of a frame begun and the replies that
    /// the socket did not take.
    pub session: SessionState,
    /// Its phase.
    pub phase: ConnectionPhase,
    /// Whether a write has failed: what is still to be read is taken, but nobody hears
    /// the replies.
    pub unheard: bool,
    /// Whether the decoder has not seen all bytes to the end.
    pub undecoded: bool,
}

/// What has become of a connection since it was shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change<'a, S> {
    /// It was not shown before.
    Opened(&'a S, ConnectionState),
    /// It is not as it was.
    Changed(ConnectionState),
    /// It has ended.
    Closed,
}

/// Why a connection cannot be adopted. Whatever it is, the hand-over cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum AdoptError {
    /// The kernel refused to watch its socket.
    #[error("cannot watch the socket of a connection")]
    Watch(#[source] io::Error),
    /// There is no room for the frames that agents have begun.
    #[error(
        "the frames that agents have begun do not fit into a pool of {limit} bytes; give \
         --pool-limit as much as the running server has"
    )]
    PoolTooSmall {
        /// The pool's limit, in bytes.
        limit: usize,
    },
    /// More bytes than any connection can hold.
    #[error("a connection is said to hold {0} bytes, more than any can")]
    TooLong(usize),
    /// Nobody was adopted under this name, or is gone again.
    #[error("there is no such connection")]
    Unknown,
}

/// Progress of a copy of all connections to a successor.
#[derive(Debug)]
pub(super) struct Copying {
    /// Connections that were never copied, oldest first; may contain ids that have been closed.
    unseen: VecDeque<ConnectionId>,
    /// Connections changed since the last copy.
    dirty: DirtySet<ConnectionId>,
    /// Connections that were copied and have been closed since.
    closed: Vec<ConnectionId>,
}

impl Copying {
    fn new(all: Vec<ConnectionId>) -> Self {
        Self {
            unseen: all.into(),
            dirty: DirtySet::default(),
            closed: Vec::new(),
        }
    }

    /// Records a new connection.
    pub(super) fn opened(&mut self, id: ConnectionId) {
        self.unseen.push_back(id);
    }

    /// Records that a live connection may have changed.
    pub(super) fn touched(&mut self, id: ConnectionId) {
        self.dirty.set_dirty(id.slot as usize, id);
    }

    /// Records that a connection was closed; returns whether it had been copied.
    pub(super) fn ended(&mut self, id: ConnectionId) -> bool {
        let was_copied = self.dirty.untrack(id.slot as usize);
        if was_copied {
            self.closed.push(id);
        }
        was_copied
    }

    /// Records that a connection was copied just now, but for its pending replies: with
    /// those it has to be copied again.
    fn copied(&mut self, id: ConnectionId, has_pending: bool) {
        self.dirty.set_clean(id.slot as usize);
        if has_pending {
            self.touched(id);
        }
    }

    /// Returns how many connections there are to be copied, at most.
    fn len(&self) -> usize {
        self.unseen.len() + self.dirty.len() + self.closed.len()
    }
}

/// The predecessor's half.
impl<H: Handler, K: Kernel> Reactor<H, K> {
    /// Begins to show all connections to a successor. From now on what changes is
    /// noted, and a connection that was shown is shut down when it ends.
    pub fn begin_copy(&mut self) {
        self.copying = Some(Box::new(Copying::new(self.connections.ids())));
    }

    /// Shows at most so many connections that were not shown yet, those included that
    /// were accepted since; whether there are none left. Nothing is shown unless a
    /// copy [has begun](Self::begin_copy).
    ///
    /// A reply that waits for a commit is no part of what is shown. Whoever is owed one
    /// stays among the [changes](Self::changes).
    pub fn copy_some(
        &mut self,
        most: usize,
        see: &mut dyn FnMut(MovedId, &K::Socket, ConnectionState),
    ) -> bool {
        let Some(copying) = &mut self.copying else {
            return true;
        };
        let mut shown = 0;
        while shown < most {
            let Some(id) = copying.unseen.pop_front() else {
                return true;
            };
            if let Some(connection) = self.connections.look(id) {
                see(moved(id), connection.socket(), connection.export());
                copying.copied(id, connection.session().has_pending_replies());
                shown += 1;
            }
        }
        copying.unseen.is_empty()
    }

    /// How many connections [`take_changes`](Self::take_changes) would show, at most.
    #[must_use]
    pub fn changes(&self) -> usize {
        self.copying.as_ref().map_or(0, |copying| copying.len())
    }

    /// How many of these were never shown, at most: each has a socket to be handed over.
    #[must_use]
    pub fn unseen(&self) -> usize {
        self.copying
            .as_ref()
            .map_or(0, |copying| copying.unseen.len())
    }

    /// How many of these have ended since they were shown.
    #[must_use]
    pub fn closed_untold(&self) -> usize {
        self.copying
            .as_ref()
            .map_or(0, |copying| copying.closed.len())
    }

    /// Shows who has ended since they were shown; these are no [changes](Self::changes)
    /// any more.
    pub fn take_closed(&mut self, see: &mut dyn FnMut(MovedId)) {
        if let Some(copying) = &mut self.copying {
            copying.closed.drain(..).map(moved).for_each(see);
        }
    }

    /// Shows what has changed since it was shown: first who has ended, then up to `most`
    /// of those who are not as they were, longest first, then who was never shown. It
    /// counts as shown then, so that this can be called again and again; only who is owed a
    /// reply stays among the [changes](Self::changes), and has to be shown once it is not.
    pub fn take_changes(
        &mut self,
        most: usize,
        see: &mut dyn FnMut(MovedId, Change<'_, K::Socket>),
    ) {
        let Some(copying) = &mut self.copying else {
            return;
        };
        for id in copying.closed.drain(..) {
            see(moved(id), Change::Closed);
        }
        for id in copying.dirty.take(most) {
            if let Some(connection) = self.connections.look(id) {
                see(moved(id), Change::Changed(connection.export()));
                copying.copied(id, connection.session().has_pending_replies());
            }
        }
        while let Some(id) = copying.unseen.pop_front() {
            if let Some(connection) = self.connections.look(id) {
                let state = connection.export();
                see(moved(id), Change::Opened(connection.socket(), state));
                copying.copied(id, connection.session().has_pending_replies());
            }
        }
    }

    /// There will be no successor this time: forgets the notes. To be called when no
    /// other process has the sockets any more, nor has them under way.
    pub fn end_copy(&mut self) {
        self.copying = None;
    }

    /// Whether no reply waits for a commit, so that [`take_changes`](Self::take_changes)
    /// of as many as there are shows all there is.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.shop.ledger.owed() == 0
    }

    /// The socket of a connection that was shown, unless it has ended.
    #[must_use]
    pub fn socket(&self, MovedId(id): MovedId) -> Option<&K::Socket> {
        let id = ConnectionId::from_token(SocketToken(id));
        self.connections.look(id).map(Connection::socket)
    }

    /// The listening socket, unless the server stops.
    pub fn listener(&self) -> Option<&K::Listener> {
        self.listener.as_ref().map(Listener::socket)
    }

    /// What it has counted so far, for [`resume_counts`](Self::resume_counts).
    #[must_use]
    pub const fn counts(&self) -> (Counters, Tally) {
        (self.shop.counters, self.shop.sessions.tally)
    }

    /// The handler, and the poll with the connections, which take a while to close where
    /// there are many. The listener is gone.
    #[must_use]
    pub fn into_parts(self) -> (H, impl Sized + use<H, K>) {
        let Self {
            kernel,
            listener,
            connections,
            shop,
            ..
        } = self;
        drop(listener);
        // Dropped in this order.
        (shop.sessions.handler, (kernel, connections))
    }
}

/// The successor's half, all of it before its first turn.
impl<H: Handler, K: Kernel> Reactor<H, K> {
    /// Takes over a connection that is shown by the predecessor.
    ///
    /// It stays although the limits may be others here: those of connections, and who
    /// may connect, are for newcomers, who are counted together with it. Timeouts and
    /// rates are those of this process from the first turn on.
    ///
    /// # Errors
    /// [`AdoptError`]; the socket is closed then, which ends no connection.
    pub fn adopt(
        &mut self,
        socket: K::Socket,
        state: ConnectionState,
    ) -> Result<AdoptedId, AdoptError> {
        self.admit(socket, state).map(AdoptedId)
    }

    /// What was adopted is not as it was.
    ///
    /// # Errors
    /// [`AdoptError`].
    pub fn replace(
        &mut self,
        AdoptedId(id): AdoptedId,
        state: ConnectionState,
    ) -> Result<(), AdoptError> {
        self.restore(id, state)
    }

    /// What was adopted has ended meanwhile, and was counted by the predecessor.
    pub fn discard(&mut self, AdoptedId(id): AdoptedId) {
        self.let_go(id);
    }

    /// Goes on with what the predecessor has counted.
    pub fn resume_counts(&mut self, counters: Counters, tally: Tally) {
        self.housekeeping.stats.go_on_from(&counters, &tally);
        self.shop.counters = counters;
        self.shop.sessions.tally = tally;
    }
}

/// How long the predecessor may have the sockets open after it has given them up: it closes
/// them when nobody else wants its core. Who ends meanwhile costs one system call more.
const SHARED: Duration = Duration::from_secs(60);

/// What is left to be done for those who were adopted.
#[derive(Debug, Default)]
pub(super) struct Adoption {
    /// Bytes for which the pool had no buffer yet. They are from different times, so
    /// that it may have to hold more of them for a while than ever at once before.
    /// By slot: in a pool that is full, there may be as many as connections.
    unplaced: BTreeMap<u32, Vec<u8>>,
    /// Until then the predecessor may have the sockets, too.
    shared_until: Option<Moment>,
}

impl Adoption {
    /// Whether nothing is left to be done.
    pub(super) fn is_over(&self) -> bool {
        self.unplaced.is_empty()
    }

    /// Whether closing a socket may not end its connection yet.
    pub(super) fn is_shared(&self, now: Moment) -> bool {
        self.shared_until.is_some_and(|until| now < until)
    }
}

impl<H: Handler, K: Kernel> Reactor<H, K> {
    /// Makes itself at home, once all are as they are to go on, and before the
    /// predecessor gives them up: puts them into the order in which they waited, and
    /// all bytes into buffers. A pool that held them in the predecessor holds them here.
    ///
    /// # Errors
    /// [`AdoptError::PoolTooSmall`].
    pub fn settle_in(&mut self) -> Result<(), AdoptError> {
        self.place_all()?;
        for id in self.connections.ids() {
            self.count_buffer(id);
        }
        self.drop_idle();
        self.keep_order();
        self.adoption.shared_until = Some(self.kernel.now().after(SHARED));
        Ok(())
    }

    fn admit(
        &mut self,
        mut socket: K::Socket,
        state: ConnectionState,
    ) -> Result<ConnectionId, AdoptError> {
        let id = self.connections.next_id();
        self.kernel
            .watch(&mut socket, id.token())
            .map_err(AdoptError::Watch)?;
        let peer = state.session.peer;
        match refusal(state.phase) {
            Some(cause) => self.turned_away.push_back((id, cause)),
            // What was logged of its address was logged by the predecessor.
            None => {
                drop(self.admission.enter(peer.ip(), false));
                if self.shop.limits.rate.is_some() {
                    let now = self.shop.now;
                    self.shop.rates.opened(Network::of(peer.ip()), now);
                }
            }
        }
        let session = Session::new(peer, self.shop.now);
        self.connections
            .insert(|generation| Connection::new(socket, session, generation));
        match self.restore(id, state) {
            Ok(()) => Ok(id),
            Err(error) => {
                self.let_go(id);
                Err(error)
            }
        }
    }

    fn restore(&mut self, id: ConnectionId, state: ConnectionState) -> Result<(), AdoptError> {
        let held = state.session.buffered.len();
        if held > LONGEST {
            return Err(AdoptError::TooLong(held));
        }
        let connection = self.connections.get(id).ok_or(AdoptError::Unknown)?;
        // Those that it held when it was shown before.
        self.adoption.unplaced.remove(&id.slot);
        let bytes = connection.restore(state, &mut self.shop.sessions);
        if connection.counted.is_newcomer() && connection.session().frames() > 0 {
            connection.counted.heard();
            self.admission.heard(connection.sender().peer.ip());
        }
        if let Some(deadline) = connection.deadline(&self.shop.limits) {
            self.wheel.arm(id.slot, deadline);
        }
        if connection.wants_a_turn(&self.shop.limits) && !connection.queued {
            connection.queued = true;
            self.run_queue.push_back(id);
        }
        if !bytes.is_empty() {
            match self.shop.pool.checkout(bytes.len()) {
                Ok(buffer) => connection.hold(buffer, &bytes),
                Err(_) => drop(self.adoption.unplaced.insert(id.slot, bytes)),
            }
        }
        Ok(())
    }

    fn let_go(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.remove(id) else {
            return;
        };
        self.adoption.unplaced.remove(&id.slot);
        self.wheel.disarm(id.slot);
        self.leave(id, connection.sender().peer.ip(), connection.counted);
    }

    /// Puts all bytes into buffers. If they do not all fit, the reserve is for the
    /// longest: in the predecessor it was one of them that had it.
    fn place_all(&mut self) -> Result<(), AdoptError> {
        let unplaced = std::mem::take(&mut self.adoption.unplaced);
        let mut unplaced = Vec::from_iter(unplaced);
        unplaced.sort_by_key(|(_, bytes)| Reverse(bytes.len()));
        for (slot, bytes) in unplaced {
            let pool = self.shop.pool.clone();
            let mut buffer = pool.checkout(bytes.len()).ok();
            if buffer.is_none() {
                let too_small = AdoptError::PoolTooSmall {
                    limit: pool.limit(),
                };
                let reserve = pool.wait().redeem().map_err(|_| too_small)?;
                buffer = match self.longest_placed(bytes.len()) {
                    Some(longest) => {
                        longest.hold_in(reserve);
                        pool.checkout(bytes.len()).ok()
                    }
                    None => Some(reserve),
                };
            }
            let id = self.connections.at(slot);
            let connection = id.and_then(|id| self.connections.get(id));
            let (Some(buffer), Some(connection)) = (buffer, connection) else {
                return Err(AdoptError::PoolTooSmall {
                    limit: pool.limit(),
                });
            };
            connection.hold(buffer, &bytes);
        }
        let mut all = self.connections.ids().into_iter();
        self.reserve_with = all.find(|id| {
            let connection = self.connections.look(*id);
            connection.is_some_and(Connection::has_reserve)
        });
        Ok(())
    }

    /// Who has the longest buffer, if there is one that is too long for `bytes`.
    fn longest_placed(&mut self, bytes: usize) -> Option<&mut Connection<K::Socket>> {
        let longest = self.connections.iter_mut().max_by_key(|c| c.capacity())?;
        (longest.window() > bytes).then_some(longest)
    }

    /// Takes those out of the run queue who had something to do as they were shown first,
    /// and have not as they are now, or are gone.
    fn drop_idle(&mut self) {
        let Shop { limits, .. } = &self.shop;
        let connections = &mut self.connections;
        self.run_queue.retain(|id| {
            let Some(connection) = connections.get(*id) else {
                return false;
            };
            connection.queued = connection.wants_a_turn(limits);
            connection.queued
        });
    }

    /// Who waited for a buffer is served first, as it came, for others read no further than
    /// to the end of their frames while somebody does; then who waited for the store, and
    /// then the others. Who was turned away first is the first to make room.
    fn keep_order(&mut self) {
        let connections = &self.connections;
        let waits = |id: &ConnectionId| match connections.look(*id)?.session().clocks().stopped? {
            (StopReason::Buffer, since) => Some((0, since)),
            (StopReason::Store, since) => Some((1, since)),
            _ => None,
        };
        let (mut waiters, others): (Vec<_>, Vec<_>) =
            self.run_queue.drain(..).partition(|id| waits(id).is_some());
        waiters.sort_by_key(waits);
        self.run_queue.extend(waiters);
        self.run_queue.extend(others);
        self.turned_away.make_contiguous().sort_by_key(|(id, _)| {
            let connection = connections.look(*id);
            connection.map(|connection| connection.session().clocks().last_passed)
        });
    }
}

/// Returns the cause for which a connection in `phase` was turned away, if it was.
fn refusal(phase: ConnectionPhase) -> Option<Cause> {
    let (cause, _) = phase.ending()?;
    let refused = matches!(cause, Cause::TooManyConnections | Cause::TooManyFromAddress);
    refused.then_some(cause)
}

fn moved(id: ConnectionId) -> MovedId {
    let SocketToken(token) = id.token();
    MovedId(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(slot: u64, generation: u64) -> ConnectionId {
        ConnectionId::from_token(SocketToken(generation << 32 | slot))
    }

    #[test]
    fn a_connection_with_pending_replies_is_copied_again() {
        let mut copying = Copying::new(vec![id(0, 0)]);
        assert_eq!(copying.unseen.pop_front(), Some(id(0, 0)));
        copying.copied(id(0, 0), true);
        assert_eq!(copying.dirty.take(9), [id(0, 0)]);
        copying.copied(id(0, 0), false);
        assert_eq!(copying.len(), 0);
    }

    #[test]
    fn a_reused_slot_is_another_connection() {
        let mut copying = Copying::new(vec![id(0, 0), id(1, 1)]);
        assert_eq!(copying.unseen.pop_front(), Some(id(0, 0)));
        copying.copied(id(0, 0), false);
        assert!(copying.ended(id(0, 0)), "it was copied");
        assert!(!copying.ended(id(1, 1)), "it was not");
        copying.opened(id(0, 2));
        copying.touched(id(0, 2));
        assert_eq!((copying.dirty.len(), copying.unseen.len()), (0, 2));
        assert_eq!(copying.closed, [id(0, 0)]);
        assert_eq!(copying.unseen, [id(1, 1), id(0, 2)], "the first is closed");
    }
}
