//! Newcomers: taken in, or turned away at the limit.

use std::net::SocketAddr;
use std::num::NonZeroU32;

use super::Reactor;
use super::connection::{Connection, Outcome};
use super::connections::ConnectionId;
use super::kernel::Kernel;
use super::listener::Accepted;
use crate::admission::Verdict;
use crate::session::{Handler, Session};
use crate::stats::Cause;
use crate::throttle::Throttle;
use crate::wire::{Busy, Reply};

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
        let refused = match self.admission.judge(peer.ip()) {
            Verdict::NotAllowed => {
                // Without a word: closing costs us nothing, and tells it enough.
                self.tell_refusal(peer, Cause::NotAllowed);
                self.shop.counters.accepted += 1;
                self.shop.counters.closed(Cause::NotAllowed);
                return;
            }
            _ if self.is_full() => Some(Busy::TooManyConnections),
            Verdict::TooMany => Some(Busy::TooManyFromAddress),
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
        let session = Session::new(peer, self.shop.now);
        self.connections
            .insert(|generation| Connection::new(socket, session, generation));
        match refused {
            Some(why) => self.turn_away(id, peer, why),
            None => {
                log::debug!("connection opened peer={peer}");
                self.admission.enter(peer.ip());
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

    fn turn_away(&mut self, id: ConnectionId, peer: SocketAddr, why: Busy) {
        let cause = match why {
            Busy::TooManyFromAddress => Cause::TooManyFromAddress,
            _ => Cause::TooManyConnections,
        };
        self.tell_refusal(peer, cause);
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

    /// One line for each cause, now and then: strangers can knock as often as they
    /// like.
    fn tell_refusal(&mut self, peer: SocketAddr, cause: Cause) {
        let now = self.shop.now;
        match cause {
            Cause::NotAllowed => {
                if let Some(left_out) = self.refusals.not_allowed.allow(now) {
                    log::warn!(
                        "not allowed: closed peer={peer} left_out={left_out} (see --allow, --deny)"
                    );
                }
            }
            Cause::TooManyFromAddress => {
                let limit = self.admission.per_ip().map_or(0, NonZeroU32::get);
                if let Some(left_out) = self.refusals.from_address.allow(now) {
                    log::warn!(
                        "too many connections from one address: turned away peer={peer} \
                         limit={limit} left_out={left_out} (see --max-connections-per-ip)"
                    );
                }
            }
            _ => {
                let limit = self.config.max_connections;
                if let Some(left_out) = self.refusals.full.allow(now) {
                    log::warn!(
                        "too many connections: turned away peer={peer} limit={limit} \
                         left_out={left_out} (raise --max-connections, or the limit of open \
                         files that bounds it)"
                    );
                }
            }
        }
    }
}

/// What is logged of those who were refused, at a limited rate each.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    full: Throttle,
    from_address: Throttle,
    not_allowed: Throttle,
}
