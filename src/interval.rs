//! The interval between an agent's packets, learnt from the gaps between them.
//!
//! A gap lengthens the interval at once. A shorter gap shortens it only by a part of the
//! time that has passed, so heartbeats that waited in a queue and arrive together do not
//! hide the interval. An agent is silent after [`TOLERANCE`] intervals.

use std::time::Duration;

/// Intervals after which an agent is silent: one heartbeat may be lost and one late.
pub const TOLERANCE: u32 = 3;

/// However slow its packets are, an agent is silent after this: an agent that sent two of
/// them a week apart is not to be missed for three weeks.
pub const MOST_SILENCE: Duration = Duration::from_secs(60 * 60);

/// Heartbeats nearer to the last counted one than this count as part of it.
pub const BURST: Duration = Duration::from_millis(100);

/// The same for reports: the lines of one call of `hawk send` come one by one where each
/// waits for the disk.
pub const REPORT_BURST: Duration = Duration::from_secs(1);

/// A learnt interval shrinks by one part in this many of the time that passes.
const SHRINKING: u32 = 8;

/// The longest interval that is learnt, in milliseconds: [`TOLERANCE`] of them are
/// [`MOST_SILENCE`].
const LONGEST: u32 = 20 * 60 * 1000;
const _: () = assert!((TOLERANCE * LONGEST) as u128 == MOST_SILENCE.as_millis());

/// A learnt interval in whole milliseconds; zero if none is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Interval(u32);

impl Interval {
    /// The interval of this length, or the longest that is learnt.
    #[must_use]
    pub fn of(length: Duration) -> Self {
        let millis = u32::try_from(length.as_millis()).unwrap_or(u32::MAX);
        Self::from_millis(millis)
    }

    /// The interval of so many milliseconds, or the longest that is learnt.
    #[must_use]
    pub const fn from_millis(millis: u32) -> Self {
        match millis {
            0..LONGEST => Self(millis),
            LONGEST.. => Self(LONGEST),
        }
    }

    /// Its length in milliseconds.
    #[must_use]
    pub const fn as_millis(self) -> u32 {
        self.0
    }

    /// Its length.
    #[must_use]
    pub const fn get(self) -> Duration {
        Duration::from_millis(self.0 as u64)
    }

    /// Whether one is known.
    #[must_use]
    pub const fn is_known(self) -> bool {
        self.0 > 0
    }

    /// The silence that an agent of this interval may keep.
    #[must_use]
    pub fn tolerance(self) -> Duration {
        TOLERANCE * self.get()
    }

    /// Whether it is within a factor of two of `other`.
    #[must_use]
    pub const fn is_like(self, other: Self) -> bool {
        self.0 <= 2 * other.0 && other.0 <= 2 * self.0
    }

    /// Learns from a gap between two packets of one session.
    pub fn learn(&mut self, gap: Duration) {
        self.shrink(gap);
        self.lengthen(gap);
    }

    /// Learns that a gap was this long: the interval is no shorter.
    pub fn lengthen(&mut self, gap: Duration) {
        *self = (*self).max(Self::of(gap));
    }

    /// Lets `elapsed` pass, within which no gap was as long as the interval.
    pub fn shrink(&mut self, elapsed: Duration) {
        let part = u32::try_from(elapsed.as_millis()).unwrap_or(u32::MAX) / SHRINKING;
        self.0 = self.0.saturating_sub(part);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn learnt(gaps: &[u64]) -> u32 {
        let mut interval = Interval::default();
        for gap in gaps {
            interval.learn(Duration::from_millis(*gap));
        }
        interval.as_millis()
    }

    #[test]
    fn a_long_gap_counts_at_once_and_is_outlived_slowly() {
        assert_eq!(learnt(&[2000, 2000, 2000]), 2000);
        assert_eq!(learnt(&[2000, 6000]), 6000);
        assert_eq!(learnt(&[2000, 6000, 2000, 2000]), 5500);
        let eight_times_the_difference = [&[6000], &[2000; 16][..]].concat();
        assert_eq!(learnt(&eight_times_the_difference), 2000);
    }

    #[test]
    fn a_burst_shortens_nothing() {
        assert_eq!(learnt(&[&[2000], &[0; 1000][..]].concat()), 2000);
    }

    #[test]
    fn three_of_the_longest_interval_are_an_hour() {
        assert_eq!(Interval::of(Duration::MAX).tolerance(), MOST_SILENCE);
    }
}
