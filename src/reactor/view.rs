//! What can be seen from outside between two turns, so that a test can check
//! after each of them what must hold always.

use std::net::SocketAddr;

use super::connection::{Connection, ConnectionView, Shop};
use super::connections::Connections;
use super::kernel::Kernel;
use super::{Config, Reactor};
use crate::session::Handler;
use crate::stats::{Figures, Statistics};

impl<H: Handler, K: Kernel> Reactor<H, K> {
    /// What it has counted so far.
    #[must_use]
    pub fn figures(&self) -> Figures<'_> {
        figures(&self.connections, &self.shop, &self.config)
    }

    /// The statistics now, as they are logged. The log is not changed by it.
    pub fn statistics(&mut self) -> Statistics {
        let handler_lines = self.handler_lines();
        let now = self.kernel.now();
        let stats = &self.housekeeping.stats;
        stats.look(now, &self.figures(), handler_lines)
    }

    /// From now on tells `line` as well: what whoever drives the loop has counted.
    pub fn tell_with_statistics(&mut self, line: String) {
        self.driver_line = Some(line);
    }

    /// The lines of the handler, and of whoever drives the loop.
    pub(super) fn handler_lines(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        self.shop.desk.handler.statistics(&mut lines);
        lines.extend(self.driver_line.clone());
        lines
    }

    /// Every connection, in no particular order.
    pub fn connections(&self) -> impl Iterator<Item = ConnectionView> {
        self.connections.iter().map(Connection::view)
    }

    /// Connections that wait for a receive buffer, in their order; connections of networks that
    /// have used up their share come last, by network.
    pub fn waiters(&self) -> impl Iterator<Item = SocketAddr> {
        let ids = self.waiters.iter().copied().chain(self.capped.ids());
        let present = ids.filter_map(|id| self.connections.look(id));
        present.map(|connection| connection.view().peer)
    }

    /// How many of them wait behind the others because their network has used up its share,
    /// some of which may have ended; and how many have, so far.
    pub const fn capped(&self) -> (usize, u64) {
        (self.capped.len(), self.capped.pushed())
    }
}

pub(super) fn figures<'a, H, S>(
    connections: &Connections<S>,
    shop: &'a Shop<H>,
    config: &Config,
) -> Figures<'a> {
    debug_assert_eq!(
        connections.iter().map(Connection::unsent).sum::<usize>(),
        shop.desk.unsent.get(),
        "replies that are nobody's"
    );
    Figures {
        connections: connections.len(),
        unsent: shop.desk.unsent.get(),
        owed: shop.ledger.owed(),
        log_left_out: config.log_left_out.get(),
        counters: &shop.counters,
        tally: &shop.desk.tally,
        pool: &shop.pool,
    }
}
