//! The interval between an agent's packets, learnt from the gaps between them.
//!
//! A longer gap lengthens the interval at once. A shorter gap shortens it only by a part of the
//! time that has passed, so delayed heartbeats that arrive together do not hide the interval.
//! An agent is silent after [`TOLERANCE`] intervals.

use std::time::Duration;

/// Number of intervals after which an agent is silent: one heartbeat may be lost, one late.
pub const TOLERANCE: u32 = 3;

/// Time after which every agent is silent, however slow its packets are: otherwise an agent that
/// sent two packets a week apart could be silent for three weeks.
pub const MOST_SILENCE: Duration = Duration::from_secs(60 * 60);

/// Time after a heartbeat that counts in which further heartbeats do not count.
pub const BURST: Duration = Duration::from_millis(100);

/// The same for reports, in which the lines of one call of `hawk send` arrive, each of which
/// waits for the disk.
pub const REPORT_BURST: Duration = Duration::from_secs(1);

/// A learnt interval shrinks by one part in this many of the time that has passed.
const SHRINKING: u32 = 8;

/// The longest interval that is learnt, in milliseconds: [`MOST_SILENCE`] through [`TOLERANCE`].
const LONGEST: u32 = 20 * 60 * 1000;
const _: () = assert!((TOLERANCE * LONGEST) as u128 == MOST_SILENCE.as_millis());

/// A learnt interval in whole milliseconds; zero if none is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Interval(u32);

impl Interval {
    /// Returns the interval of this length, at most 20 minutes.
    #[must_use]
    pub fn of(length: Duration) -> Self {
        let millis = u32::try_from(length.as_millis()).unwrap_or(u32::MAX);
        Self::from_millis(millis)
    }

    /// Returns the interval of so many milliseconds, at most 20 minutes.
    #[must_use]
    pub const fn from_millis(millis: u32) -> Self {
        match millis {
            0..LONGEST => Self(millis),
            LONGEST.. => Self(LONGEST),
        }
    }

    /// Returns its length in milliseconds.
    #[must_use]
    pub const fn as_millis(self) -> u32 {
        self.0
    }

    /// Returns its length.
    #[must_use]
    pub const fn get(self) -> Duration {
        Duration::from_millis(self.0 as u64)
    }

    /// Returns whether an interval is known.
    #[must_use]
    pub const fn is_known(self) -> bool {
        self.0 > 0
    }

    /// Returns the longest silence of an agent with this interval that is online.
    #[must_use]
    pub fn tolerance(self) -> Duration {
        TOLERANCE * self.get()
    }

    /// Returns whether it is within a factor of two of `other`.
    #[must_use]
    pub const fn is_like(self, other: Self) -> bool {
        self.0 <= 2 * other.0 && other.0 <= 2 * self.0
    }

    /// Learns from a gap between two packets of one session.
    pub fn learn(&mut self, gap: Duration) {
        self.shrink(gap);
        self.lengthen(gap);
    }

    /// Learns from a long gap: raises the interval to it.
    pub fn lengthen(&mut self, gap: Duration) {
        *self = (*self).max(Self::of(gap));
    }

    /// Learns from `elapsed` without a gap as long as the interval: lowers the interval.
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
    fn a_long_gap_counts_at_once_and_decays_slowly() {
        assert_eq!(learnt(&[2000, 2000, 2000]), 2000);
        assert_eq!(learnt(&[2000, 6000]), 6000);
        assert_eq!(learnt(&[2000, 6000, 2000, 2000]), 5500);
        let eight_times_the_difference = [&[6000], &[2000; 16][..]].concat();
        assert_eq!(learnt(&eight_times_the_difference), 2000);
    }

    #[test]
    fn a_burst_does_not_shorten_the_interval() {
        assert_eq!(learnt(&[&[2000], &[0; 1000][..]].concat()), 2000);
    }

    #[test]
    fn three_of_the_longest_interval_are_an_hour() {
        assert_eq!(Interval::of(Duration::MAX).tolerance(), MOST_SILENCE);
    }
}
