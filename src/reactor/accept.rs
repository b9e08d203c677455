//! Newcomers: taken in, or turned away at the limit.

use std::net::SocketAddr;

use mio::Interest;
use mio::net::TcpStream;

use super::Reactor;
use super::connection::{Connection, Outcome};
use super::connections::ConnectionId;
use super::listener::Accepted;
use crate::session::{Handler, Session};
use crate::stats::Cause;
use crate::wire::{Busy, Reply};

/// Newcomers that were turned away and still have their line to read. Each
/// holds a descriptor out of those that
/// [`RESERVED_DESCRIPTORS`](super::RESERVED_DESCRIPTORS) sets aside; if more
/// come, the oldest makes room.
const TURNED_AWAY: usize = 32;

impl<H: Handler> Reactor<H> {
    /// Takes in at most so many of those who wait.
    pub(super) fn accept(&mut self, most: usize) {
        let now = self.shop.now;
        for _ in 0..most {
            let Some(listener) = self.listener.as_mut().filter(|l| l.is_ready(now)) else {
                break;
            };
            match listener.accept(now) {
                Accepted::Newcomer(socket, peer) => self.welcome(socket, peer),
                Accepted::Gone => {}
                Accepted::Failed => self.shop.counters.accept_errors += 1,
                Accepted::Nobody => break,
            }
        }
    }

    fn welcome(&mut self, mut socket: TcpStream, peer: SocketAddr) {
        self.shop.counters.accepted += 1;
        let served = self.connections.len() - self.turned_away.len();
        let full = served >= self.config.max_connections;
        let id = self.connections.next_id();
        let both = Interest::READABLE | Interest::WRITABLE | Interest::PRIORITY;
        if let Err(error) = self.poll.registry().register(&mut socket, id.token(), both) {
            // This newcomer is dropped, and connects again; others wait.
            self.shop.counters.accept_errors += 1;
            if let Some(listener) = &mut self.listener {
                listener.back_off(self.shop.now, &error);
            }
            return;
        }
        let session = Session::new(peer, self.shop.now);
        self.connections
            .insert(|generation| Connection::new(socket, session, generation));
        if full {
            self.turn_away(id, peer);
        } else {
            log::debug!("connection opened peer={peer}");
            self.conclude(id, Outcome::Idle);
        }
    }

    fn turn_away(&mut self, id: ConnectionId, peer: SocketAddr) {
        let now = self.shop.now;
        if let Some(left_out) = self.refusals.allow(now) {
            let limit = self.config.max_connections;
            log::warn!(
                "too many connections: turned away peer={peer} limit={limit} left_out={left_out} \
                 (raise --max-connections if there is memory for more)"
            );
        }
        if self.turned_away.len() >= TURNED_AWAY
            && let Some(oldest) = self.turned_away.pop_front()
        {
            self.reap(oldest, Cause::TooManyConnections);
        }
        self.turned_away.push_back(id);
        if let Some(connection) = self.connections.get(id) {
            let reply = Reply::Busy(Busy::TooManyConnections);
            let outcome = connection.turn_away(reply, Cause::TooManyConnections, &mut self.shop);
            self.conclude(id, outcome);
        }
    }
}
