//! Connections on their way to another reactor, in another process.
//!
//! The *predecessor* copies its connections to the *successor* while it serves them, some at
//! a time, and records from then on which of them change. After its last turn it copies the
//! changes: no connection is served only during that. The successor adopts each connection as
//! it is copied, and does not read, write, accept or wait until the predecessor commits. Until
//! then either process can drop its connections: the predecessor has lost nothing and
//! continues.
//!
//! Both processes have every socket open meanwhile. A connection that was copied and ends is
//! therefore shut down: closing one of two descriptors ends nothing.
//!
//! Readiness does not move: the successor registers each socket anew and receives its events
//! again, for data, the end of file, urgent data and room to write. All other work is in
//! [`ConnectionState`]: bytes not decoded, replies not written, deadlines and waits. What the
//! connections of a network have used of their common rate limit does not move
//! (`network_rates.rs`): it begins anew, which is lenient for some seconds.
//!
//! Listeners are named by a [`ListenerTag`](super::kernel::ListenerTag) in the reactor. The
//! messages between the processes carry descriptors without names, and the first one is the
//! listener for agents; a second kind of listener needs a new version of these messages.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io;
use std::time::Duration;

use super::buffers::LONGEST;
use super::connection::Connection;
use super::connections::ConnectionId;
use super::kernel::{Kernel, ListenerTag, SocketToken};
use super::{ConnectionPhase, LoopContext, Reactor};
use crate::dirty_set::DirtySet;
use crate::network::Network;
use crate::session::{Handler, Session, SessionState, StopReason};
use crate::stats::{Cause, ReactorCounters, SessionCounters};
use crate::transfer::{Transfer, Visit};
use hawk_time::Moment;

/// The name of a connection in the predecessor, never used for another one there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MovedId(pub u64);

/// The state of a connection that moves to another process of the same machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionState {
    /// The session, with the bytes of a partial frame and the unsent replies.
    pub session: SessionState,
    /// Its phase.
    pub phase: ConnectionPhase,
    /// Whether a write has failed: input is still read and handled, but replies are dropped.
    pub write_failed: bool,
    /// Whether some bytes of the input were not decoded.
    pub undecoded: bool,
}

/// How a connection with a socket `S` has changed since the last copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change<S> {
    /// It was not copied before.
    Opened(S, ConnectionState),
    /// Its state has changed.
    Changed(ConnectionState),
    /// It has ended.
    Closed,
}

/// Why a connection cannot be adopted. Any of these ends the hand-over.
#[derive(Debug, thiserror::Error)]
pub enum AdoptError {
    /// The kernel refused to watch its socket.
    #[error("cannot watch the socket of a connection")]
    Watch(#[source] io::Error),
    /// The pool is too small for the partial frames.
    #[error(
        "the partial frames do not fit into a pool of {limit} bytes; set --pool-limit to that of \
         the running server or more"
    )]
    PoolTooSmall {
        /// The pool's limit, in bytes.
        limit: usize,
    },
    /// The input is longer than the longest buffer.
    #[error("the input of a connection has {0} bytes, more than any buffer")]
    TooLong(usize),
    /// The connection was adopted before.
    #[error("a connection is opened twice")]
    Twice,
    /// The connection was not adopted, or has been discarded.
    #[error("there is no such connection")]
    Unknown,
}

/// Progress of a copy of all connections to a successor.
#[derive(Debug)]
pub(super) struct Copying {
    /// Connections that were never copied, oldest first; may contain closed ids.
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

    /// Records that a connection was copied. Its pending replies were not: with those it has
    /// to be copied again.
    fn copied(&mut self, id: ConnectionId, has_pending: bool) {
        self.dirty.set_clean(id.slot as usize);
        if has_pending {
            self.touched(id);
        }
    }

    /// Returns how many connections there are to copy, at most.
    fn len(&self) -> usize {
        self.unseen.len() + self.dirty.len() + self.closed.len()
    }
}

impl<H: Handler + 'static, K: Kernel + 'static> Transfer for Reactor<H, K> {
    type Id = MovedId;
    type Exported<'a> = Change<&'a K::Socket>;
    type Imported = Change<K::Socket>;
    type Error = AdoptError;

    /// A connection that was copied is from now on shut down when it ends.
    fn begin_copy(&mut self) {
        self.copying = Some(Box::new(Copying::new(self.connections.ids())));
    }

    /// Pending replies are not copied. A connection with any stays among the
    /// [changes](Self::changes).
    fn copy_some(&mut self, most: usize, visit: Visit<'_, Self>) -> bool {
        let Some(copying) = &mut self.copying else {
            return true;
        };
        let mut copied = 0;
        while copied < most {
            let Some(id) = copying.unseen.pop_front() else {
                return true;
            };
            if let Some(connection) = self.connections.get(id) {
                let state = connection.export();
                visit(moved(id), Change::Opened(&connection.socket, state));
                copying.copied(id, connection.session.has_pending_replies());
                copied += 1;
            }
        }
        copying.unseen.is_empty()
    }

    fn changes(&self) -> usize {
        self.copying.as_ref().map_or(0, |copying| copying.len())
    }

    /// Copies all connections that have ended, then up to `most` of those that changed, then all
    /// that were never copied. May be called again and again. A connection with pending replies
    /// stays among the [changes](Self::changes) until it has none.
    fn take_changes(&mut self, most: usize, visit: Visit<'_, Self>) {
        self.take_closed(&mut |id| visit(id, Change::Closed));
        let Some(copying) = &mut self.copying else {
            return;
        };
        for id in copying.dirty.take(most) {
            if let Some(connection) = self.connections.get(id) {
                visit(moved(id), Change::Changed(connection.export()));
                copying.copied(id, connection.session.has_pending_replies());
            }
        }
        self.copy_some(usize::MAX, visit);
    }

    /// No other process may have the sockets any more, nor may any be in transit.
    fn end_copy(&mut self) {
        self.copying = None;
    }

    fn import(&mut self, id: MovedId, change: Change<K::Socket>) -> Result<(), AdoptError> {
        let known = self.adoption.ids.get(&id).copied();
        match (change, known) {
            (Change::Opened(socket, state), None) => {
                let adopted = self.adopt(socket, state)?;
                self.adoption.ids.insert(id, adopted);
            }
            (Change::Opened(..), Some(_)) => return Err(AdoptError::Twice),
            (Change::Changed(state), Some(known)) => self.replace(known, state)?,
            (Change::Closed, Some(known)) => {
                self.adoption.ids.remove(&id);
                self.discard(known);
            }
            (_, None) => return Err(AdoptError::Unknown),
        }
        Ok(())
    }
}

/// The predecessor's half.
impl<H: Handler, K: Kernel> Reactor<H, K> {
    /// Returns how many connections were never copied, at most: each has a socket to send.
    #[must_use]
    pub fn never_copied(&self) -> usize {
        let copying = self.copying.as_ref();
        copying.map_or(0, |copying| copying.unseen.len())
    }

    /// Returns how many connections have ended since they were copied.
    #[must_use]
    pub fn closed_since_copy(&self) -> usize {
        let copying = self.copying.as_ref();
        copying.map_or(0, |copying| copying.closed.len())
    }

    /// Visits the connections that have ended since they were copied, and removes them from
    /// the [changes](Transfer::changes).
    pub fn take_closed(&mut self, visit: &mut dyn FnMut(MovedId)) {
        if let Some(copying) = &mut self.copying {
            copying.closed.drain(..).map(moved).for_each(visit);
        }
    }

    /// Returns whether no reply waits for a commit, so that
    /// [`take_changes`](Transfer::take_changes) of as many as there are copies everything.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.cx.pending.len() == 0
    }

    /// Returns the socket of a connection that was copied; `None` if it has ended.
    #[must_use]
    pub fn socket(&self, MovedId(id): MovedId) -> Option<&K::Socket> {
        let id = ConnectionId::from_token(SocketToken(id));
        self.connections
            .get(id)
            .map(|connection| &connection.socket)
    }

    /// Returns a listener; `None` once the server stops.
    pub fn listener(&self, tag: ListenerTag) -> Option<&K::Listener> {
        self.listeners.get(tag)
    }

    /// Returns the counts so far, for [`resume_counts`](Self::resume_counts).
    #[must_use]
    pub const fn counts(&self) -> (ReactorCounters, SessionCounters) {
        (self.cx.counters, self.cx.sessions.counters)
    }

    /// Closes the listeners; returns the handler, and the poll with the connections, which
    /// take a while to close if they are many.
    #[must_use]
    pub fn into_parts(self) -> (H, impl Sized + use<H, K>) {
        let Self {
            kernel,
            listeners,
            connections,
            cx,
            ..
        } = self;
        drop(listeners);
        // Dropped in this order.
        (cx.sessions.handler, (kernel, connections))
    }
}

/// Time that the predecessor may need to close its descriptors after the commit: it does so at
/// minimum priority. A connection that closes in this window needs an extra `shutdown(2)`.
const SHARED: Duration = Duration::from_secs(60);

/// Progress of an adoption.
#[derive(Debug, Default)]
pub(super) struct Adoption {
    /// The connections that the predecessor has copied and not closed since, by its name.
    ids: HashMap<MovedId, ConnectionId>,
    /// Input without a buffer yet, by slot. Copies are of different moments, so that the pool
    /// may need more buffers for a while than it ever had in use at once. There may be as
    /// many entries as connections.
    unplaced: BTreeMap<u32, Vec<u8>>,
    /// Until when the predecessor may have the sockets too; `None` without a predecessor.
    shared_until: Option<Moment>,
}

impl Adoption {
    /// Returns whether all input has a buffer.
    pub(super) fn is_over(&self) -> bool {
        self.unplaced.is_empty()
    }

    /// Returns whether another process may have the sockets.
    pub(super) fn is_shared(&self, now: Moment) -> bool {
        self.shared_until.is_some_and(|until| now < until)
    }
}

/// The successor's half, before its first turn.
impl<H: Handler, K: Kernel> Reactor<H, K> {
    /// Inserts a connection of the predecessor.
    ///
    /// The limits of this process for connections and addresses do not close it, but it counts
    /// for new connections. Timeouts and rates are those of this process from the first turn
    /// on. After an error the socket is closed, which does not end the connection.
    pub(super) fn adopt(
        &mut self,
        mut socket: K::Socket,
        state: ConnectionState,
    ) -> Result<ConnectionId, AdoptError> {
        let id = self.connections.next_id();
        self.kernel
            .watch(&mut socket, id.token())
            .map_err(AdoptError::Watch)?;
        let (peer, now) = (state.session.peer, self.cx.now);
        match refusal(state.phase) {
            Some(cause) => self.turned_away.push_back((id, cause)),
            None => {
                // The predecessor has logged an address near its share.
                drop(self.admission.add(peer.ip(), false));
                if self.cx.limits.rate.is_some() {
                    self.cx.rates.opened(Network::of(peer.ip()), now);
                }
            }
        }
        let session = Session::new(peer, now);
        self.connections
            .insert(|generation| Connection::new(socket, session, generation));
        let replaced = self.replace(id, state);
        if replaced.is_err() {
            self.discard(id);
        }
        replaced.map(|()| id)
    }

    /// Replaces the state of an adopted connection.
    pub(super) fn replace(
        &mut self,
        id: ConnectionId,
        state: ConnectionState,
    ) -> Result<(), AdoptError> {
        let length = state.session.buffered.len();
        if length > LONGEST {
            return Err(AdoptError::TooLong(length));
        }
        let connection = self.connections.get_mut(id).ok_or(AdoptError::Unknown)?;
        // The input of an earlier copy.
        self.adoption.unplaced.remove(&id.slot);
        let bytes = connection.restore(state, &mut self.cx.sessions);
        if connection.counted.is_new() && connection.session.frames() > 0 {
            connection.counted.mark_seen();
            self.admission.first_frame_passed(connection.address());
        }
        if let Some(deadline) = connection.deadline(&self.cx.limits) {
            self.wheel.arm(id.slot, deadline);
        }
        if connection.has_work(&self.cx.limits) && !connection.queued {
            connection.queued = true;
            self.run_queue.push_back(id);
        }
        if !bytes.is_empty() {
            match self.cx.pool.checkout(bytes.len()) {
                Ok(buffer) => connection.input.begin_with(buffer, &bytes),
                Err(_) => drop(self.adoption.unplaced.insert(id.slot, bytes)),
            }
        }
        Ok(())
    }

    /// Removes an adopted connection that has ended; the predecessor has counted its end.
    pub(super) fn discard(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.remove(id) else {
            return;
        };
        self.adoption.unplaced.remove(&id.slot);
        self.wheel.disarm(id.slot);
        self.uncount(id, connection.address(), connection.counted);
    }

    /// Continues the counts of the predecessor.
    pub fn resume_counts(&mut self, reactor: ReactorCounters, sessions: SessionCounters) {
        self.stats.resume(&reactor, &sessions);
        self.cx.counters = reactor;
        self.cx.sessions.counters = sessions;
    }

    /// Completes the adoption, once the last changes are copied and before the predecessor
    /// commits: sorts the queues and finds a buffer for all input. A pool of the size that the
    /// predecessor had is large enough. Returns the number of imported connections.
    ///
    /// # Errors
    /// [`AdoptError::PoolTooSmall`].
    pub fn complete_adoption(&mut self) -> Result<usize, AdoptError> {
        self.place_input()?;
        for id in self.connections.ids() {
            self.count_buffer(id);
        }
        self.drop_idle();
        self.sort_queues();
        self.adoption.shared_until = Some(self.kernel.now().after(SHARED));
        Ok(std::mem::take(&mut self.adoption.ids).len())
    }

    /// Moves all input into buffers. If the general buffers are not enough, the longest input
    /// gets the reserve: one connection of the predecessor had it.
    fn place_input(&mut self) -> Result<(), AdoptError> {
        let pool = self.cx.pool.clone();
        let limit = pool.limit();
        let mut unplaced = Vec::from_iter(std::mem::take(&mut self.adoption.unplaced));
        unplaced.sort_by_key(|(_, bytes)| Reverse(bytes.len()));
        for (slot, bytes) in unplaced {
            let mut buffer = pool.checkout(bytes.len()).ok();
            if buffer.is_none() {
                let too_small = AdoptError::PoolTooSmall { limit };
                let reserve = pool.wait().redeem().map_err(|_| too_small)?;
                buffer = match self.longest_with_room(bytes.len()) {
                    Some(longest) => {
                        longest.input.move_to(reserve);
                        pool.checkout(bytes.len()).ok()
                    }
                    None => Some(reserve),
                };
            }
            let id = self.connections.at(slot);
            let connection = id.and_then(|id| self.connections.get_mut(id));
            let (Some(buffer), Some(connection)) = (buffer, connection) else {
                return Err(AdoptError::PoolTooSmall { limit });
            };
            connection.input.begin_with(buffer, &bytes);
        }
        let mut all = self.connections.ids().into_iter();
        self.reserve_with = all.find(|id| {
            let connection = self.connections.get(*id);
            connection.is_some_and(|connection| connection.input.has_reserve())
        });
        Ok(())
    }

    /// Returns the connection with the longest buffer, if its input is longer than `bytes`.
    fn longest_with_room(&mut self, bytes: usize) -> Option<&mut Connection<K::Socket>> {
        let longest = self
            .connections
            .iter_mut()
            .max_by_key(|c| c.input.capacity())?;
        (longest.input.window().len() > bytes).then_some(longest)
    }

    /// Removes connections from the run queue that had work at an earlier copy, and have none
    /// or have ended.
    fn drop_idle(&mut self) {
        let LoopContext { limits, .. } = &self.cx;
        let connections = &mut self.connections;
        self.run_queue.retain(|id| {
            let Some(connection) = connections.get_mut(*id) else {
                return false;
            };
            connection.queued = connection.has_work(limits);
            connection.queued
        });
    }

    /// Sorts the run queue: first the connections that waited for a buffer, in FIFO order,
    /// because the others read only the rest of their frames meanwhile; then those paused by
    /// store back-pressure, then the rest. Sorts the turned-away connections by age.
    fn sort_queues(&mut self) {
        let connections = &self.connections;
        let waits = |id: &ConnectionId| match connections.get(*id)?.session.clocks().stopped? {
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
            let connection = connections.get(*id);
            connection.map(|connection| connection.session.clocks().last_passed)
        });
    }
}

fn moved(id: ConnectionId) -> MovedId {
    let SocketToken(token) = id.token();
    MovedId(token)
}

/// Returns the cause for which a connection in `phase` was turned away; `None` if it was not.
fn refusal(phase: ConnectionPhase) -> Option<Cause> {
    let (cause, _) = phase.ending()?;
    let refused = matches!(cause, Cause::TooManyConnections | Cause::TooManyFromAddress);
    refused.then_some(cause)
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
