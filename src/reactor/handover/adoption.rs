//! Taking connections over before the first turn.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::Duration;

use super::super::Reactor;
use super::super::connection::{Connection, Shop};
use super::super::connections::ConnectionId;
use super::super::input;
use super::super::kernel::Kernel;
use super::super::phase::ConnectionPhase;
use super::{AdoptError, ConnectionState};
use crate::network::Network;
use crate::session::{Handler, Session, StopReason};
use crate::stats::Cause;
use hawk_time::Moment;

/// How long the predecessor may have the sockets open after it has given them up: it closes
/// them when nobody else wants its core. Who ends meanwhile costs one system call more.
const SHARED: Duration = Duration::from_secs(60);

/// What is left to be done for those who were adopted.
#[derive(Debug, Default)]
pub(in crate::reactor) struct Adoption {
    /// Bytes for which the pool had no buffer yet. They are from different times, so
    /// that it may have to hold more of them for a while than ever at once before.
    /// By slot: in a pool that is full, there may be as many as connections.
    unplaced: BTreeMap<u32, Vec<u8>>,
    /// Until then the predecessor may have the sockets, too.
    shared_until: Option<Moment>,
}

impl Adoption {
    /// Whether nothing is left to be done.
    pub(in crate::reactor) fn is_over(&self) -> bool {
        self.unplaced.is_empty()
    }

    /// Whether closing a socket may not end its connection yet.
    pub(in crate::reactor) fn is_shared(&self, now: Moment) -> bool {
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

    pub(super) fn admit(
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

    pub(super) fn restore(
        &mut self,
        id: ConnectionId,
        state: ConnectionState,
    ) -> Result<(), AdoptError> {
        let held = state.session.buffered.len();
        if held > input::LONGEST {
            return Err(AdoptError::TooLong(held));
        }
        let connection = self.connections.get(id).ok_or(AdoptError::Unknown)?;
        // Those that it held when it was shown before.
        self.adoption.unplaced.remove(&id.slot);
        let bytes = connection.restore(state, &mut self.shop.desk);
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

    pub(super) fn let_go(&mut self, id: ConnectionId) {
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
