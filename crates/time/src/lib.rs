//! Time as plain numbers: points on the clocks ([`Moment`], [`UnixNanos`]), the clock itself
//! ([`Clock`]), a timer wheel ([`TimerWheel`]) and a limit of log lines ([`Throttle`]).
//!
//! No socket, no session, no thread: every function takes the time as an argument, except for
//! the `now` of each clock. Start reading at [`Moment`].

#![cfg_attr(not(test), deny(clippy::expect_used, clippy::unreachable))]

mod throttle;
mod wheel;

pub use throttle::Throttle;
pub use wheel::{TICK, TimerWheel};

use std::fmt;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A point on the machine's monotonic clock, in nanoseconds.
///
/// `std::time::Instant` cannot leave its process. This can: `CLOCK_MONOTONIC`
/// is one clock for all processes of a machine (`clock_gettime(2)`), so that a
/// deadline keeps its meaning when a session is handed to another process.
///
/// Never zero, so that an `Option<Moment>` takes no more room than a `Moment`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(NonZeroU64);

impl Moment {
    /// The present.
    #[must_use]
    pub fn now() -> Self {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        // The clock counts up from boot: neither part is ever negative.
        let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
        let nanoseconds = u64::try_from(now.tv_nsec).unwrap_or(0);
        Self::from_nanos(seconds * NANOS_PER_SEC + nanoseconds)
    }

    /// The moment at `nanoseconds` on the monotonic clock; its very first
    /// nanosecond stands for the second.
    #[must_use]
    pub const fn from_nanos(nanoseconds: u64) -> Self {
        match NonZeroU64::new(nanoseconds) {
            Some(nanoseconds) => Self(nanoseconds),
            None => Self(NonZeroU64::MIN),
        }
    }

    /// Nanoseconds on the monotonic clock.
    #[must_use]
    pub const fn as_nanos(self) -> u64 {
        self.0.get()
    }

    /// How long ago `earlier` was; nothing if it is in the future.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.as_nanos().saturating_sub(earlier.as_nanos()))
    }

    /// The moment `span` earlier, or the first one there is.
    #[must_use]
    pub fn before(self, span: Duration) -> Self {
        let span = u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
        Self::from_nanos(self.as_nanos().saturating_sub(span))
    }

    /// The moment `span` later, or the last one there is.
    #[must_use]
    pub fn after(self, span: Duration) -> Self {
        let span = u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(span))
    }
}

/// A point in calendar time, in nanoseconds since 1970 (UTC).
///
/// For what is written down. `CLOCK_REALTIME` may be set back and forth, so no
/// deadline is ever counted on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnixNanos(i64);

impl UnixNanos {
    /// The present.
    #[must_use]
    pub fn now() -> Self {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
        Self(
            now.tv_sec
                .saturating_mul(1_000_000_000)
                .saturating_add(now.tv_nsec),
        )
    }

    /// So many nanoseconds after the beginning of 1970.
    #[must_use]
    pub const fn from_nanos(nanoseconds: i64) -> Self {
        Self(nanoseconds)
    }

    /// Nanoseconds since the beginning of 1970.
    #[must_use]
    pub const fn as_nanos(self) -> i64 {
        self.0
    }

    /// How long ago `earlier` was; nothing if it is in the future.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        let nanoseconds = self.0.saturating_sub(earlier.0);
        Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(0))
    }

    /// As RFC 3339 writes it, to the second: `2016-09-30T15:27:00Z`.
    #[must_use]
    pub fn to_seconds(self) -> String {
        humantime::format_rfc3339_seconds(self.into()).to_string()
    }

    /// The point `span` earlier, or the first there is.
    #[must_use]
    pub fn before(self, span: Duration) -> Self {
        let span = i64::try_from(span.as_nanos()).unwrap_or(i64::MAX);
        Self(self.0.saturating_sub(span))
    }

    /// The point `span` later, or the last there is.
    #[must_use]
    pub fn after(self, span: Duration) -> Self {
        let span = i64::try_from(span.as_nanos()).unwrap_or(i64::MAX);
        Self(self.0.saturating_add(span))
    }
}

/// As RFC 3339 writes it, in UTC and to the nanosecond:
/// `2016-09-30T15:27:00.000000000Z`.
impl fmt::Display for UnixNanos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_rfc3339_nanos((*self).into()).fmt(f)
    }
}

/// A time before 1970 was never ours; it becomes the first.
impl From<UnixNanos> for SystemTime {
    fn from(time: UnixNanos) -> Self {
        UNIX_EPOCH + time.since(UnixNanos::from_nanos(0))
    }
}

/// The clocks that a part of the program reads: the machine's, or manual ones, which
/// tests and the simulator set.
#[derive(Clone, Debug, Default)]
pub enum Clock {
    /// `CLOCK_MONOTONIC` and `CLOCK_REALTIME`.
    #[default]
    System,
    /// Clocks that stand still between two settings.
    Manual(Arc<ManualClock>),
}

impl Clock {
    /// The present on the monotonic clock.
    #[must_use]
    pub fn now(&self) -> Moment {
        match self {
            Self::System => Moment::now(),
            Self::Manual(manual) => manual.now(),
        }
    }

    /// Returns the time since the machine was started. Unlike [`Clock::now`] it includes the
    /// time in which the machine was suspended (`CLOCK_BOOTTIME`).
    #[must_use]
    pub fn since_boot(&self) -> Duration {
        match self {
            Self::System => {
                let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
                Duration::try_from(now).unwrap_or_default()
            }
            Self::Manual(manual) => manual.since_boot(),
        }
    }

    /// The present on the wall clock.
    #[must_use]
    pub fn wall(&self) -> UnixNanos {
        match self {
            Self::System => UnixNanos::now(),
            Self::Manual(manual) => manual.wall(),
        }
    }
}

/// A monotonic clock and a wall clock that stand still between two settings.
#[derive(Debug)]
pub struct ManualClock {
    now: AtomicU64,
    wall: AtomicI64,
    /// Nanoseconds in which the machine was suspended.
    suspended: AtomicU64,
}

impl ManualClock {
    /// Clocks that show these times.
    #[must_use]
    pub const fn new(now: Moment, wall: UnixNanos) -> Self {
        Self {
            now: AtomicU64::new(now.as_nanos()),
            wall: AtomicI64::new(wall.as_nanos()),
            suspended: AtomicU64::new(0),
        }
    }

    /// The present on the monotonic clock.
    #[must_use]
    pub fn now(&self) -> Moment {
        Moment::from_nanos(self.now.load(Ordering::Relaxed))
    }

    /// The present on the wall clock.
    #[must_use]
    pub fn wall(&self) -> UnixNanos {
        UnixNanos::from_nanos(self.wall.load(Ordering::Relaxed))
    }

    /// Returns the monotonic time and the time in which the machine was suspended.
    #[must_use]
    pub fn since_boot(&self) -> Duration {
        let suspended = self.suspended.load(Ordering::Relaxed);
        Duration::from_nanos(self.now().as_nanos().saturating_add(suspended))
    }

    /// Suspends the machine for `span`: the wall clock moves on, the monotonic clock stands
    /// still.
    pub fn suspend(&self, span: Duration) {
        let nanos = u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
        self.suspended.fetch_add(nanos, Ordering::Relaxed);
        self.set(self.now(), self.wall().after(span));
    }

    /// Moves both clocks on by `span`.
    pub fn advance(&self, span: Duration) {
        self.set(self.now().after(span), self.wall().after(span));
    }

    /// Sets both clocks. Only the wall clock may be set back.
    pub fn set(&self, now: Moment, wall: UnixNanos) {
        self.now.fetch_max(now.as_nanos(), Ordering::Relaxed);
        self.wall.store(wall.as_nanos(), Ordering::Relaxed);
    }
}

const NANOS_PER_SEC: u64 = 1_000_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manual_clock_stands_still_until_it_is_set() {
        let second = Duration::from_secs(1);
        let (now, wall) = (Moment::from_nanos(5), UnixNanos::from_nanos(7));
        let manual = Arc::new(ManualClock::new(now, wall));
        let clock = Clock::Manual(Arc::clone(&manual));
        assert_eq!((clock.now(), clock.wall()), (now, wall));
        manual.advance(second);
        assert_eq!(
            (clock.now(), clock.wall()),
            (now.after(second), wall.after(second))
        );
        manual.set(now, wall.before(second));
        let (kept, stepped) = (now.after(second), wall.before(second));
        assert_eq!((clock.now(), clock.wall()), (kept, stepped));
    }

    #[test]
    fn the_clock_does_not_run_backwards() {
        let earlier = Moment::now();
        assert!(Moment::now() >= earlier);
        assert!(earlier.as_nanos() > 0);
    }

    #[test]
    fn times_are_written_as_rfc_3339_has_it() {
        let time = UnixNanos::from_nanos(1_475_249_220_000_000_007);
        assert_eq!(time.to_string(), "2016-09-30T15:27:00.000000007Z");
        assert_eq!(time.to_seconds(), "2016-09-30T15:27:00Z");
        let times = [i64::MIN, i64::MAX].map(|nanos| UnixNanos::from_nanos(nanos).to_seconds());
        assert_eq!(times, ["1970-01-01T00:00:00Z", "2262-04-11T23:47:16Z"]);
    }

    #[test]
    fn spans_saturate_at_both_ends() {
        let (early, late) = (Moment::from_nanos(5), Moment::from_nanos(9));
        assert_eq!(late.since(early), Duration::from_nanos(4));
        assert_eq!(early.since(late), Duration::ZERO);
        assert_eq!(early.after(Duration::MAX), Moment::from_nanos(u64::MAX));
    }
}
