//! The listening socket, and how it takes what comes.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use rustix::io::Errno;

use super::kernel::Accept;
use hawk_time::{Moment, Throttle, log_limited};

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
