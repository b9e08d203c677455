//! The queue for a receive buffer.

use hawk_pool::From;

use super::Reactor;
use super::buffer_shares::NearingShare;
use super::connection::{Connection, Outcome};
use super::connections::ConnectionId;
use super::kernel::Kernel;
use crate::network::Network;
use crate::session::Handler;
use hawk_time::log_limited;

impl<H: Handler, K: Kernel> Reactor<H, K> {
    /// Gives buffers that came back to the connections that wait, in their order. As each
    /// gives its own back before the next has it, one buffer may do for all of them.
    ///
    /// Connections of a network that has used up its share of the pool wait in separate queues:
    /// they get the reserve only, when no other connection waits, and after every few buffers
    /// for other connections.
    pub(super) fn serve_waiters(&mut self) {
        self.shop.work.begin(self.waiters.len() + self.capped.len());
        self.waiters_go_on = false;
        while !self.waiters.is_empty() || self.capped.len() > 0 {
            if !self.shop.work.goes_on() {
                self.waiters_go_on = true;
                break;
            }
            self.set_capped_aside();
            let capped_is_due = self.capped.is_due();
            let waiter = self.waiters.front().copied();
            let from = match capped_is_due {
                true => From::General,
                false => From::Either,
            };
            if let Some(id) = waiter
                && let Some(outcome) = self.serve_waiting(id, from)
            {
                self.waiters.pop_front();
                self.capped.pass_over();
                self.conclude(id, outcome);
                continue;
            }
            if waiter.is_none() || capped_is_due {
                let buffers = &self.shop.buffers;
                self.capped
                    .prefer(|network| buffers.network_has_room(network, 0));
                if let Some(id) = self.capped.front() {
                    let from = match self.has_room(id) {
                        true => From::Either,
                        false => From::Reserve,
                    };
                    if let Some(outcome) = self.serve_waiting(id, from) {
                        self.capped.pop();
                        self.conclude(id, outcome);
                        continue;
                    }
                }
            }
            if !self.free_reserve() {
                break;
            }
        }
        self.deliver();
    }

    /// Serves the connection that waits, if there is a buffer for it where it may have one
    /// from.
    fn serve_waiting(&mut self, id: ConnectionId, from: From) -> Option<Outcome> {
        match self.connections.get(id) {
            Some(connection) => connection.serve_waiting(from, &mut self.shop),
            None => Some(Outcome::Idle),
        }
    }

    /// Moves connections at the front of the queue whose network has used up its share since
    /// they came.
    fn set_capped_aside(&mut self) {
        while let Some(&id) = self.waiters.front()
            && !self.has_room(id)
        {
            self.waiters.pop_front();
            self.push_capped(id);
        }
    }

    /// Whether the network of a connection may hold another buffer; of a connection that has
    /// ended there is nothing to be said against it.
    fn has_room(&self, id: ConnectionId) -> bool {
        self.connections.look(id).is_none_or(|connection| {
            let address = || connection.sender().peer.ip();
            let buffers = &self.shop.buffers;
            buffers.has_room(address, connection.counted.buffer())
        })
    }

    fn push_capped(&mut self, id: ConnectionId) {
        if let Some(connection) = self.connections.look(id) {
            let network = Network::of(connection.sender().peer.ip());
            self.capped.push(network, id);
        }
    }

    /// The connection that has the reserve may need less, and have found no room for a
    /// smaller buffer when its turn ended. It may have none before its agent reads; returns
    /// whether there is room now.
    fn free_reserve(&mut self) -> bool {
        let holder = self.reserve_with;
        let connection = holder.and_then(|id| self.connections.get(id));
        let freed = connection.is_some_and(Connection::give_reserve_back);
        if let Some(id) = holder.filter(|_| freed) {
            self.count_buffer(id);
        }
        freed
    }

    /// Puts a connection at the end of its queue for a buffer. Removes ended connections from
    /// the queues now and then: otherwise the queues would grow with each connection that
    /// comes and goes while the first one waits.
    pub(super) fn line_up(&mut self, id: ConnectionId) {
        if self.waiters.len() + self.capped.len() >= 2 * self.connections.len() {
            let connections = &self.connections;
            self.waiters.retain(|&id| connections.look(id).is_some());
            self.capped.retain(|id| connections.look(id).is_some());
        }
        if self.has_room(id) && !self.has_capped_neighbours(id) {
            self.waiters.push_back(id);
        } else {
            self.push_capped(id);
        }
    }

    /// Whether other connections of the same network wait for its share: they came before.
    fn has_capped_neighbours(&self, id: ConnectionId) -> bool {
        self.capped.len() > 0
            && self.connections.look(id).is_some_and(|connection| {
                let network = Network::of(connection.sender().peer.ip());
                self.capped.has_queue(network)
            })
    }

    /// Counts the buffer that a connection holds after its turn for its network.
    pub(super) fn count_buffer(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.get(id) else {
            return;
        };
        let (before, now) = (connection.counted.buffer(), connection.general_capacity());
        if before == now {
            return;
        }
        connection.counted.set_buffer(now);
        let network = Network::of(connection.sender().peer.ip());
        if let Some(nearing) = self.shop.buffers.change(network, before, now) {
            self.log_nearing_pool(nearing);
        }
    }

    fn log_nearing_pool(&mut self, nearing: NearingShare) {
        let NearingShare {
            network,
            used,
            limit,
        } = nearing;
        log_limited!(warn, self.refusals.nearing_pool, self.shop.now, left_out =>
            "an address has 80 % of its share: address={network} share=buffers used={used} \
             limit={limit} left_out={left_out} (raise --pool-limit if these are agents that \
             send long frames)");
    }
}
