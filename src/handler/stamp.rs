//! When reports were received: no two at the same time.

use std::time::Duration;

use crate::time::UnixNanos;

/// The clock is behind the last stamp by more than this only if it was set back.
/// Small corrections are bridged: stamps go on from the last one.
const SET_BACK: Duration = Duration::from_secs(1);

/// Gives out points in time, each after the last.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stamps {
    last: UnixNanos,
}

impl Stamps {
    /// The last one was given out at `last`, perhaps by another process.
    pub(super) const fn after(last: Option<UnixNanos>) -> Self {
        let last = match last {
            Some(last) => last,
            None => UnixNanos::from_nanos(0),
        };
        Self { last }
    }

    /// The last one, if one was given out.
    pub(super) fn last(self) -> Option<UnixNanos> {
        (self.last > UnixNanos::from_nanos(0)).then_some(self.last)
    }

    /// The next, at `wall` or as little behind it as needs be. If the clock was
    /// set back for good, it goes back too: the server's clock is the truth.
    pub(super) fn next(&mut self, wall: UnixNanos) -> UnixNanos {
        let next = self.last.after(Duration::from_nanos(1));
        self.last = if next <= wall || wall.after(SET_BACK) < self.last {
            wall
        } else {
            next
        };
        self.last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(nanos: i64) -> UnixNanos {
        UnixNanos::from_nanos(nanos)
    }

    #[test]
    fn no_two_are_the_same() {
        let mut stamps = Stamps::after(Some(at(100)));
        assert_eq!(stamps.next(at(50)), at(101));
        assert_eq!(stamps.next(at(200)), at(200));
        assert_eq!(Stamps::after(None).last(), None);
        // Another goes on from there.
        let mut stamps = Stamps::after(stamps.last());
        assert_eq!(stamps.next(at(200)), at(201));
        assert_eq!(stamps.next(at(202)), at(202));
    }

    #[test]
    fn a_clock_that_was_set_back_is_believed() {
        let late = 5_000_000_000;
        let mut stamps = Stamps::after(Some(at(late)));
        assert_eq!(stamps.next(at(late - 1_000_000_000)), at(late + 1));
        assert_eq!(stamps.next(at(100)), at(100));
        assert_eq!(stamps.next(at(100)), at(101));
    }
}
