//! Newcomers: taken in, or turned away at the limit.

use std::net::SocketAddr;
use std::num::NonZeroU32;

use super::Reactor;
use super::connection::{Connection, Outcome};
use super::connections::ConnectionId;
use super::kernel::Kernel;
use super::listener::Accepted;
use crate::admission::{Nearing, Share, Verdict};
use crate::network::Network;
use crate::session::{Handler, Session};
use crate::stats::Cause;
use hawk_time::{Throttle, log_limited};
use hawk_wire::{Busy, Reply};

/// Newcomers that were turned away and still have their line to read. Each
/// holds a descriptor out of those that
/// [`RESERVED_DESCRIPTORS`](super::RESERVED_DESCRIPTORS) sets aside; if more
/// come, the oldest makes room.
const TURNED_AWAY: usize = 32;

impl<H: Handler, K: Kernel> Reactor<H, K> {
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

    fn welcome(&mut self, mut socket: K::Socket, peer: SocketAddr) {
        let crowded = self.is_crowded();
        let refused = match self.admission.judge(peer.ip(), crowded) {
            Verdict::NotAllowed => {
                // Without a word: closing costs us nothing, and tells it enough.
                self.log_not_allowed(peer);
                self.shop.counters.accepted += 1;
                self.shop.counters.closed(Cause::NotAllowed);
                return;
            }
            _ if self.is_full() => {
                self.log_full(peer);
                Some(Busy::TooManyConnections)
            }
            Verdict::TooMany(share, limit) => {
                self.log_too_many(peer, share, limit);
                Some(Busy::TooManyFromAddress)
            }
            Verdict::Welcome => None,
        };
        let id = self.connections.next_id();
        if let Err(error) = self.kernel.watch(&mut socket, id.token()) {
            // This newcomer is dropped, and connects again; others wait. It counts as
            // a failure alone: who is accepted ends for a cause that is counted.
            self.shop.counters.accept_errors += 1;
            if let Some(listener) = &mut self.listener {
                listener.back_off(self.shop.now, &error);
            }
            return;
        }
        self.shop.counters.accepted += 1;
        let mut session = Session::new(peer, self.shop.now);
        if refused.is_none() && self.shop.limits.rate.is_some() {
            session.begin_rate(self.shop.now, &self.shop.limits);
            let now = self.shop.now;
            self.shop.rates.opened(Network::of(peer.ip()), now);
        }
        self.connections
            .insert(|generation| Connection::new(socket, session, generation));
        if let Some(copying) = &mut self.copying {
            copying.opened(id);
        }
        match refused {
            Some(why) => self.turn_away(id, why),
            None => {
                log::debug!("connection opened peer={peer}");
                if let Some(nearing) = self.admission.enter(peer.ip(), crowded) {
                    self.log_nearing(&nearing);
                }
                self.conclude(id, Outcome::Idle);
            }
        }
    }

    /// Connections that count for the limit: those who are being turned away do not.
    #[must_use]
    pub fn population(&self) -> usize {
        self.connections.len() - self.turned_away.len()
    }

    fn is_full(&self) -> bool {
        self.population() >= self.config.max_connections
    }

    /// Whether more than half of all connections are in use.
    fn is_crowded(&self) -> bool {
        self.population() > self.config.max_connections / 2
    }

    fn turn_away(&mut self, id: ConnectionId, why: Busy) {
        let cause = match why {
            Busy::TooManyFromAddress => Cause::TooManyFromAddress,
            _ => Cause::TooManyConnections,
        };
        if self.turned_away.len() >= TURNED_AWAY
            && let Some(&(oldest, cause)) = self.turned_away.front()
        {
            self.reap(oldest, cause);
        }
        self.turned_away.push_back((id, cause));
        if let Some(connection) = self.connections.get(id) {
            let outcome = connection.turn_away(Reply::Busy(why), cause, &mut self.shop);
            self.conclude(id, outcome);
        }
    }

    fn log_not_allowed(&mut self, peer: SocketAddr) {
        log_limited!(warn, self.refusals.not_allowed, self.shop.now, left_out =>
            "not allowed: closed peer={peer} left_out={left_out} (see --allow, --deny)");
    }

    fn log_full(&mut self, peer: SocketAddr) {
        log_limited!(warn, self.refusals.full, self.shop.now, left_out =>
            "too many connections: turned away peer={peer} limit={} left_out={left_out} (raise \
             --max-connections, or the limit of open files that bounds it)",
            self.config.max_connections);
    }

    fn log_too_many(&mut self, peer: SocketAddr, share: Share, limit: NonZeroU32) {
        log_limited!(warn, self.refusals.from_address, self.shop.now, left_out =>
            "too many connections from one address: turned away peer={peer} share={} \
             limit={limit} left_out={left_out} ({})",
            share.name(),
            remedy(share));
    }

    fn log_nearing(&mut self, nearing: &Nearing) {
        let Nearing {
            share,
            whose,
            used,
            limit,
        } = nearing;
        log_limited!(warn, self.refusals.nearing, self.shop.now, left_out =>
            "an address has 80 % of its share: address={whose} share={} used={used} \
             limit={limit} left_out={left_out} ({})",
            share.name(),
            remedy(*share));
    }
}

/// What an operator can do about a share that is too small.
const fn remedy(share: Share) -> &'static str {
    match share {
        Share::Connections => "raise --max-connections-per-ip if these are agents behind one NAT",
        Share::Site => "raise --max-connections or --max-connections-per-ip",
        Share::Newcomers => {
            "none of these has sent a frame yet; raise --max-connections-per-ip if they are agents \
             that connect at the same time"
        }
    }
}

/// What is logged of connections that were refused, at a limited rate each, and of
/// addresses that come near one of their shares.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    full: Throttle,
    from_address: Throttle,
    not_allowed: Throttle,
    nearing: Throttle,
    /// Of networks that come near their share of the buffer pool.
    pub(super) nearing_pool: Throttle,
}
