//! Listeners, and connections on their way in: accepted, turned away at a limit, or closed.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use rustix::io::Errno;

use super::Reactor;
use super::connection::{Connection, ServeOutcome};
use super::connections::ConnectionId;
use super::kernel::{Accept, Kernel, ListenerTag};
use crate::admission::{Share, Verdict};
use crate::network::Network;
use crate::session::{Handler, Session};
use crate::stats::Cause;
use hawk_time::{Moment, Throttle, log_limited};
use hawk_wire::{Busy, Reply};

/// Turned-away connections that linger until the agent has read its line. Each holds one of
/// the [`RESERVED_DESCRIPTORS`](super::RESERVED_DESCRIPTORS); the oldest is closed to make
/// room.
const TURNED_AWAY: usize = 32;

/// Time without an attempt to accept after a failure, unless a connection closes before.
const RETRY: Duration = Duration::from_millis(100);

impl<H: Handler, K: Kernel> Reactor<H, K> {
    /// Accepts up to `most` connections.
    pub(super) fn accept(&mut self, most: usize) {
        let now = self.cx.now;
        for _ in 0..most {
            let Some(listener) = self.listeners.next_ready(now) else {
                break;
            };
            let tag = listener.tag;
            match listener.accept(now) {
                Accepted::Connection(socket, peer) => self.accept_one(tag, socket, peer),
                Accepted::None => {}
                Accepted::Failed => self.cx.counters.accept_errors += 1,
            }
        }
    }

    fn accept_one(&mut self, tag: ListenerTag, mut socket: K::Socket, peer: SocketAddr) {
        let now = self.cx.now;
        // More than half of all connections are open.
        let crowded = self.population() > self.config.max_connections / 2;
        let is_full = self.population() >= self.config.max_connections;
        let refused = match self.admission.judge(peer.ip(), crowded) {
            Verdict::NotAllowed => {
                // Closed without a reply, which costs nothing and is clear enough.
                log_limited!(warn, self.refusals.not_allowed, now, left_out =>
                    "not allowed: closed peer={peer} left_out={left_out} (see --allow, --deny)");
                self.cx.counters.accepted += 1;
                self.cx.counters.closed(Cause::NotAllowed);
                return;
            }
            _ if is_full => {
                log_limited!(warn, self.refusals.full, now, left_out =>
                    "too many connections: turned away peer={peer} limit={} left_out={left_out} \
                     (raise --max-connections, or the limit of open files that bounds it)",
                    self.config.max_connections);
                Some(Busy::TooManyConnections)
            }
            Verdict::TooMany(share, limit) => {
                log_limited!(warn, self.refusals.from_address, now, left_out =>
                    "too many connections from one address: turned away peer={peer} share={} \
                     limit={limit} left_out={left_out} ({})",
                    share.name(),
                    remedy(share));
                Some(Busy::TooManyFromAddress)
            }
            Verdict::Accept => None,
        };
        let id = self.connections.next_id();
        if let Err(error) = self.kernel.watch(&mut socket, id.token()) {
            // The agent connects again; the backlog waits. The connection does not count as
            // accepted, because it is not closed for any cause that is counted.
            self.cx.counters.accept_errors += 1;
            if let Some(listener) = self.listeners.get_mut(tag) {
                listener.back_off(now, &error);
            }
            return;
        }
        self.cx.counters.accepted += 1;
        let mut session = Session::new(peer, now);
        if refused.is_none() && self.cx.limits.rate.is_some() {
            session.begin_rate(now, &self.cx.limits);
            self.cx.rates.opened(Network::of(peer.ip()), now);
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
                if let Some(nearing) = self.admission.add(peer.ip(), crowded) {
                    log_limited!(warn, self.refusals.nearing, now, left_out =>
                        "an address has 80 % of its share: address={} share={} used={} limit={} \
                         left_out={left_out} ({})",
                        nearing.holder,
                        nearing.share.name(),
                        nearing.used,
                        nearing.limit,
                        remedy(nearing.share));
                }
                self.after_serve(id, ServeOutcome::Idle);
            }
        }
    }

    /// Returns how many connections count for the limit: all that were not turned away.
    #[must_use]
    pub fn population(&self) -> usize {
        self.connections.len() - self.turned_away.len()
    }

    /// Replies that the server is busy, and closes the connection.
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
        if let Some(connection) = self.connections.get_mut(id) {
            self.cx.sessions.answer(Reply::Busy(why));
            let outcome = connection.close(cause, &mut self.cx);
            self.after_serve(id, outcome);
        }
    }
}

/// Returns what an operator can do about a share that is too small.
const fn remedy(share: Share) -> &'static str {
    match share {
        Share::Connections => "raise --max-connections-per-ip if these are agents behind one NAT",
        Share::Site => "raise --max-connections or --max-connections-per-ip",
        Share::NewConnections => {
            "none of these has sent a frame yet; raise --max-connections-per-ip if they are agents \
             that connect at the same time"
        }
    }
}

/// Rate limits of log lines about refused connections, and about addresses and networks that
/// have reached 80 % of a share.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    full: Throttle,
    from_address: Throttle,
    not_allowed: Throttle,
    nearing: Throttle,
    pub(super) nearing_pool: Throttle,
}

/// The listeners, each with its own tag. Empty once the server stops.
#[derive(Debug)]
pub(super) struct Listeners<L>(Vec<Listener<L>>);

impl<L> Default for Listeners<L> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<L: Accept> Listeners<L> {
    pub(super) fn push(&mut self, listener: Listener<L>) {
        self.0.push(listener);
    }

    /// Closes all listeners, which resets the connections in their backlogs.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    pub(super) fn get(&self, tag: ListenerTag) -> Option<&L> {
        let listener = self.0.iter().find(|listener| listener.tag == tag);
        listener.map(|listener| &listener.socket)
    }

    pub(super) fn get_mut(&mut self, tag: ListenerTag) -> Option<&mut Listener<L>> {
        self.0.iter_mut().find(|listener| listener.tag == tag)
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Listener<L>> {
        self.0.iter_mut()
    }

    /// Returns whether any listener is ready.
    pub(super) fn is_ready(&self, now: Moment) -> bool {
        self.0.iter().any(|listener| listener.is_ready(now))
    }

    /// Returns a listener that is ready; they take turns.
    fn next_ready(&mut self, now: Moment) -> Option<&mut Listener<L>> {
        let ready = self.0.iter().position(|listener| listener.is_ready(now))?;
        self.0[ready..].rotate_left(1);
        self.0.last_mut()
    }

    /// Returns when the first listener tries again after a failure.
    pub(super) fn retry_at(&self) -> Option<Moment> {
        self.0.iter().filter_map(Listener::retry_at).min()
    }

    /// Ends the wait after a failure: a descriptor was freed.
    pub(super) fn retry_now(&mut self) {
        for listener in &mut self.0 {
            listener.retry_at = None;
        }
    }
}

/// A listening socket with its readiness.
#[derive(Debug)]
pub(super) struct Listener<L> {
    tag: ListenerTag,
    socket: L,
    /// Whether the backlog may contain connections.
    ready: bool,
    /// When to try again; `None` unless the last attempt failed.
    retry_at: Option<Moment>,
    log: Throttle,
}

/// The result of an attempt to accept.
#[derive(Debug)]
enum Accepted<S> {
    Connection(S, SocketAddr),
    /// The backlog is empty, or its first connection was aborted.
    None,
    /// There is no descriptor or memory; the connection stays in the backlog.
    Failed,
}

impl<L: Accept> Listener<L> {
    /// A listener that may have a backlog: its event may have gone to another process.
    pub(super) fn new(tag: ListenerTag, socket: L) -> Self {
        Self {
            tag,
            socket,
            ready: true,
            retry_at: None,
            log: Throttle::default(),
        }
    }

    pub(super) fn mark_ready(&mut self) {
        self.ready = true;
    }

    /// Returns whether [`accept`](Self::accept) is worth calling.
    fn is_ready(&self, now: Moment) -> bool {
        self.ready && self.retry_at.is_none_or(|retry_at| retry_at <= now)
    }

    /// Returns when to try again after a failure.
    fn retry_at(&self) -> Option<Moment> {
        self.retry_at.filter(|_| self.ready)
    }

    /// Waits for a while after a failure of this machine.
    fn back_off(&mut self, now: Moment, error: &io::Error) {
        self.retry_at = Some(now.after(RETRY));
        log_limited!(error, self.log, now, left_out =>
            "cannot accept connections: {error}; waiting connections are retried (if open files \
             are used up, raise their limit or lower --max-connections) left_out={left_out}");
    }

    /// Accepts one connection. Stays ready after a failure, as the kernel reports a waiting
    /// connection only once.
    fn accept(&mut self, now: Moment) -> Accepted<L::Socket> {
        match self.socket.accept() {
            Ok((socket, peer)) => Accepted::Connection(socket, peer),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.ready = false;
                Accepted::None
            }
            Err(error) if is_peer_error(&error) => Accepted::None,
            Err(error) => {
                self.back_off(now, &error);
                Accepted::Failed
            }
        }
    }
}

/// Returns whether an error belongs to one connection, after which accept(2) says to continue
/// with the next. All other errors may last, so that continuing at once would spin.
fn is_peer_error(error: &io::Error) -> bool {
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

    /// An empty backlog.
    struct Empty;

    impl Accept for Empty {
        type Socket = ();

        fn accept(&mut self) -> io::Result<((), SocketAddr)> {
            Err(io::ErrorKind::WouldBlock.into())
        }

        fn local_addr(&self) -> io::Result<SocketAddr> {
            Err(io::ErrorKind::NotConnected.into())
        }
    }

    const NOW: Moment = Moment::from_nanos(1_000_000_000);

    #[test]
    fn after_a_failure_a_listener_waits_for_its_time_or_for_a_descriptor() {
        let mut listeners = Listeners::default();
        listeners.push(Listener::new(ListenerTag::AGENTS, Empty));
        let failure = io::Error::from(Errno::MFILE);
        let listener = listeners.next_ready(NOW).unwrap();
        assert!(matches!(listener.accept(NOW), Accepted::None));
        assert!(!listener.is_ready(NOW), "its backlog is empty");
        listener.mark_ready();
        assert!(listener.is_ready(NOW));
        listener.back_off(NOW, &failure);
        assert!(!listener.is_ready(NOW));
        // Another connection in the backlog changes nothing.
        listener.mark_ready();
        assert!(!listener.is_ready(NOW));
        let later = NOW.after(RETRY);
        assert_eq!(listener.retry_at(), Some(later));
        assert!(listener.is_ready(later));

        listener.back_off(later, &failure);
        assert!(!listeners.is_ready(later));
        listeners.retry_now();
        assert!(listeners.is_ready(later));
        assert_eq!(listeners.retry_at(), None);
    }

    #[test]
    fn listeners_take_turns() {
        let mut listeners = Listeners::default();
        for tag in [0, 1, 2].map(ListenerTag) {
            listeners.push(Listener::new(tag, Empty));
        }
        listeners.get_mut(ListenerTag(1)).unwrap().ready = false;
        let mut next = || listeners.next_ready(NOW).map(|listener| listener.tag.0);
        let first = next();
        let second = next();
        assert_eq!([first, second, next()], [Some(0), Some(2), Some(0)]);
        let listener = listeners.get_mut(ListenerTag(1)).unwrap();
        listener.mark_ready();
        let mut served: Vec<_> = (0..3)
            .filter_map(|_| listeners.next_ready(NOW).map(|listener| listener.tag.0))
            .collect();
        served.sort_unstable();
        assert_eq!(served, [0, 1, 2]);
    }
}
