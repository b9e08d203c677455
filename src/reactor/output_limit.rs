//! The limit of what all agents together have not read.

use super::config::Config;
use hawk_time::Moment;
use hawk_time::{Throttle, log_limited};
use hawk_wire::{FRAME_OVERHEAD, MAX_REPLY_LINE};

/// Bytes that a connection is read at once while they are short, and the least
/// that one under a rate limit is read: several frames of the usual size, and few
/// replies.
pub(super) const LEAST_READ: usize = 1024;

/// Bytes of replies to a byte of input, at most: the longest line to the shortest
/// frame.
const REPLY_RATIO: usize = MAX_REPLY_LINE / FRAME_OVERHEAD;

/// Bytes of replies by which a connection can take the sum beyond its limit: those
/// to one read of the least size, with a candidate that was there before, which
/// may pass or hide one more frame behind it.
const OVERSHOOT: usize = (LEAST_READ / FRAME_OVERHEAD + 2) * MAX_REPLY_LINE;

impl Config {
    /// The most bytes of replies that may wait to be read or to be committed, over
    /// all connections: the limit; the replies to all that had been read when it was
    /// reached, and is in receive buffers; and what each connection may add.
    /// Memory for them is set aside in steps, and may come to twice that.
    #[must_use]
    pub const fn most_output(&self) -> usize {
        self.output_limit + REPLY_RATIO * self.pool_limit + self.max_connections * OVERSHOOT
    }
}

/// Whether the limit is reached, and who was told.
#[derive(Debug)]
pub(super) struct OutputLimit {
    limit: usize,
    reached: bool,
    log: Throttle,
}

impl OutputLimit {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit,
            reached: false,
            log: Throttle::default(),
        }
    }

    /// Whether the limit is reached, given that replies of `unsent` bytes wait to be
    /// read and `owed` replies for a commit. It stays so until a quarter is gone, so
    /// that it does not come and go with every packet.
    pub(super) fn check(&mut self, unsent: usize, owed: usize) -> Reached {
        let sum = unsent + owed * MAX_REPLY_LINE;
        let mark = if self.reached {
            self.limit / 4 * 3
        } else {
            self.limit
        };
        match (std::mem::replace(&mut self.reached, sum > mark), sum > mark) {
            (_, false) => Reached::No,
            (true, true) => Reached::Still,
            (false, true) => Reached::Now,
        }
    }

    /// Tells of it, now and then.
    pub(super) fn tell(&mut self, unsent: usize, owed: usize, now: Moment) {
        log_limited!(warn, self.log, now, left_out =>
            "output limit: agents do not read their replies unsent={unsent} owed={owed} \
             limit={} left_out={left_out} (whoever has unread ones is not read from)",
            self.limit);
    }
}

/// What [`OutputLimit::check`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reached {
    /// There is room.
    No,
    /// There is none from now on.
    Now,
    /// There was none before.
    Still,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_reached_above_the_limit_and_until_a_quarter_is_gone() {
        let mut limit = OutputLimit::new(4000);
        assert_eq!(limit.check(4000, 0), Reached::No);
        assert_eq!(limit.check(4001, 0), Reached::Now);
        assert_eq!(limit.check(3001, 0), Reached::Still);
        assert_eq!(limit.check(3000, 0), Reached::No);
        assert_eq!(limit.check(3001, 0), Reached::No);
        // Replies that wait for a commit count as the longest.
        assert_eq!(limit.check(0, 126), Reached::Now);
    }
}
