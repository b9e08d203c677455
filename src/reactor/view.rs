//! What can be seen from outside between two turns, so that a test can check
//! after each of them what must hold always.

use std::net::SocketAddr;

use super::connection::{Connection, ConnectionView, Shop};
use super::connections::Connections;
use super::kernel::Kernel;
use super::{Config, Reactor};
use crate::session::Handler;
use crate::stats::Figures;

impl<H: Handler, K: Kernel> Reactor<H, K> {
    /// What it has counted so far.
    #[must_use]
    pub fn figures(&self) -> Figures<'_> {
        figures(&self.connections, &self.shop, &self.config)
    }

    /// Every connection, in no particular order.
    pub fn connections(&self) -> impl Iterator<Item = ConnectionView> {
        self.connections.iter().map(Connection::view)
    }

    /// Who waits for a receive buffer, first come first served.
    pub fn waiters(&self) -> impl Iterator<Item = SocketAddr> {
        let ids = self.waiters.iter().copied();
        let present = ids.filter_map(|id| self.connections.look(id));
        present.map(|connection| connection.view().peer)
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
