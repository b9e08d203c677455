//! The queue for a receive buffer.

use super::Reactor;
use super::connection::{Connection, Outcome};
use super::connections::ConnectionId;
use super::kernel::Kernel;
use crate::session::Handler;

impl<H: Handler, K: Kernel> Reactor<H, K> {
    /// Gives buffers that came back to those who wait, in their order. As each gives
    /// its own back before the next has it, one buffer may do for all of them.
    pub(super) fn serve_waiters(&mut self) {
        self.shop.work.begin(self.waiters.len());
        self.waiters_go_on = false;
        while let Some(&id) = self.waiters.front() {
            if !self.shop.work.goes_on() {
                self.waiters_go_on = true;
                break;
            }
            let outcome = match self.connections.get(id) {
                Some(connection) => connection.serve_waiting(&mut self.shop),
                None => Some(Outcome::Idle),
            };
            let Some(outcome) = outcome else {
                if self.free_reserve() {
                    continue;
                }
                break;
            };
            self.waiters.pop_front();
            self.conclude(id, outcome);
        }
        self.deliver();
    }

    /// Whoever has the reserve may need less, and have found no room for a smaller buffer
    /// when its turn ended. It may have none before its agent reads; whether there is room
    /// now.
    fn free_reserve(&mut self) -> bool {
        let holder = self.reserve_with;
        let connection = holder.and_then(|id| self.connections.get(id));
        connection.is_some_and(Connection::give_reserve_back)
    }

    /// Has a connection wait for a buffer behind the others. Those that have ended
    /// meanwhile leave their places now and then: as long as the first has to wait,
    /// there would be one more for each that comes and goes.
    pub(super) fn line_up(&mut self, id: ConnectionId) {
        if self.waiters.len() >= 2 * self.connections.len() {
            let connections = &self.connections;
            self.waiters.retain(|&id| connections.look(id).is_some());
        }
        self.waiters.push_back(id);
    }
}
