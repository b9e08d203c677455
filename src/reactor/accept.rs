//! Newcomers: taken in, or turned away at the limit.

use std::io;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use rustix::io::Errno;

use super::Reactor;
use super::connection::{Connection, Outcome};
use super::connections::ConnectionId;
use super::kernel::{Accept, Kernel};
use crate::admission::{Nearing, Share, Verdict};
use crate::network::Network;
use crate::session::{Handler, Session};
use crate::stats::Cause;
use hawk_time::Moment;
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

/// How long to leave the listener alone when there was no descriptor for a
/// newcomer, unless a connection ends before.
const RETRY: Duration = Duration::from_millis(100);

/// A listening socket with readiness kept in software.
#[derive(Debug)]
pub(super) struct Listener<L> {
    socket: L,
    ready: bool,
    retry_at: Option<Moment>,
    log: Throttle,
}

/// What became of an attempt to accept.
#[derive(Debug)]
pub(super) enum Accepted<S> {
    /// A newcomer.
    Newcomer(S, SocketAddr),
    /// This newcomer was gone again; there may be others.
    Gone,
    /// Nobody waits, or nobody can be taken now.
    Nobody,
    /// There is no descriptor or memory for a newcomer, who goes on waiting.
    Failed,
}

impl<L: Accept> Listener<L> {
    pub(super) fn new(socket: L) -> Self {
        Self {
            socket,
            ready: false,
            retry_at: None,
            log: Throttle::default(),
        }
    }

    pub(super) const fn socket(&self) -> &L {
        &self.socket
    }

    pub(super) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    pub(super) fn mark_ready(&mut self) {
        self.ready = true;
    }

    /// Whether [`accept`](Self::accept) is worth calling.
    pub(super) fn is_ready(&self, now: Moment) -> bool {
        self.ready && self.retry_at.is_none_or(|retry_at| retry_at <= now)
    }

    /// When to try again after a failure.
    pub(super) fn retry_at(&self) -> Option<Moment> {
        self.retry_at.filter(|_| self.ready)
    }

    /// A descriptor was freed: a newcomer may fit now.
    pub(super) fn retry_now(&mut self) {
        self.retry_at = None;
    }

    /// Leaves those who wait alone for a while, after a failure of ours.
    pub(super) fn back_off(&mut self, now: Moment, error: &io::Error) {
        self.retry_at = Some(now.after(RETRY));
        log_limited!(error, self.log, now, left_out =>
            "cannot accept connections: {error}; those that wait are tried again (for want of \
             open files, raise their limit or lower --max-connections) left_out={left_out}");
    }

    /// Takes one newcomer. After a failure it stays ready: the kernel reports
    /// a connection that waits only once.
    pub(super) fn accept(&mut self, now: Moment) -> Accepted<L::Socket> {
        match self.socket.accept() {
            Ok((socket, peer)) => Accepted::Newcomer(socket, peer),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.ready = false;
                Accepted::Nobody
            }
            Err(error) if !is_the_newcomers(&error) => {
                self.back_off(now, &error);
                Accepted::Failed
            }
            Err(_) => Accepted::Gone,
        }
    }
}

/// Whether it is this newcomer's own trouble, after which accept(2) says to go
/// on with the next. All else may last, so that going on at once would spin.
fn is_the_newcomers(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(
            Errno::CONNABORTED
                | Errno::HOSTDOWN
                | Errno::HOSTUNREACH
                | Errno::INTR
                | Errno::NETDOWN
                | Errno::NETUNREACH
                | Errno::NONET
                | Errno::NOPROTOOPT
                | Errno::OPNOTSUPP
                | Errno::PERM
                | Errno::PROTO
        )
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A backlog into which nobody ever comes.
    struct Nobody;

    impl Accept for Nobody {
        type Socket = ();

        fn accept(&mut self) -> io::Result<((), SocketAddr)> {
            Err(io::ErrorKind::WouldBlock.into())
        }

        fn local_addr(&self) -> io::Result<SocketAddr> {
            Err(io::ErrorKind::NotConnected.into())
        }
    }

    #[test]
    fn after_a_failure_it_rests_until_it_is_time_or_a_descriptor_is_freed() {
        let mut listener = Listener::new(Nobody);
        let now = Moment::from_nanos(1_000_000_000);
        let failure = io::Error::from(Errno::MFILE);
        assert!(!listener.is_ready(now), "nobody has come");
        listener.mark_ready();
        assert!(listener.is_ready(now));
        listener.back_off(now, &failure);
        assert!(!listener.is_ready(now));
        // Another newcomer changes nothing.
        listener.mark_ready();
        assert!(!listener.is_ready(now));
        let later = now.after(RETRY);
        assert_eq!(listener.retry_at(), Some(later));
        assert!(listener.is_ready(later));

        listener.back_off(later, &failure);
        assert!(!listener.is_ready(later));
        listener.retry_now();
        assert!(listener.is_ready(later));
        assert_eq!(listener.retry_at(), None);
    }
}
