//! Log lines at a limited rate, for events that agents can repeat at will.

use std::time::Duration;

use crate::Moment;

/// The default interval: at most 8,640 lines a day of each kind.
const INTERVAL: Duration = Duration::from_secs(10);

/// Allows a number of log lines per interval, and counts the lines left out.
#[derive(Debug)]
pub struct Throttle {
    burst: u32,
    interval: Duration,
    /// The end of the current interval, and the lines still allowed in it.
    until: Option<Moment>,
    left: u32,
    left_out: u64,
}

impl Default for Throttle {
    fn default() -> Self {
        Self::bursts_of(1)
    }
}

impl Throttle {
    /// Returns a throttle that allows so many lines in each interval.
    #[must_use]
    pub const fn bursts_of(burst: u32) -> Self {
        Self {
            burst,
            interval: INTERVAL,
            until: None,
            left: 0,
            left_out: 0,
        }
    }

    /// Returns a throttle that allows one line in each interval of this length.
    #[must_use]
    pub const fn every(interval: Duration) -> Self {
        let mut throttle = Self::bursts_of(1);
        throttle.interval = interval;
        throttle
    }

    /// Returns the number of lines left out since the last one, if a line may be logged now.
    pub fn allow(&mut self, now: Moment) -> Option<u64> {
        if self.until.is_none_or(|until| until <= now) {
            self.until = Some(now.after(self.interval));
            self.left = self.burst;
        }
        if self.left == 0 {
            self.left_out += 1;
            return None;
        }
        self.left -= 1;
        Some(std::mem::take(&mut self.left_out))
    }
}

/// Logs at a level of the `log` crate (`error`, `warn`, `info`) if a [`Throttle`] allows it.
/// The name before `=>` stands in the message for the number of lines left out since the last.
///
/// ```text
/// log_limited!(warn, self.throttle, now, left_out => "junk peer={peer} left_out={left_out}");
/// ```
#[macro_export]
macro_rules! log_limited {
    ($level:ident, $throttle:expr, $now:expr, $left_out:ident => $($message:tt)+) => {
        if let Some($left_out) = $throttle.allow($now) {
            ::log::$level!($($message)+);
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_an_interval_counts_the_others() {
        let start = Moment::from_nanos(1);
        let mut throttle = Throttle::default();
        assert_eq!(throttle.allow(start), Some(0));
        assert_eq!(throttle.allow(start), None);
        assert_eq!(throttle.allow(start.after(INTERVAL / 2)), None);
        assert_eq!(throttle.allow(start.after(INTERVAL)), Some(2));
        assert_eq!(throttle.allow(start.after(2 * INTERVAL)), Some(0));
    }

    #[test]
    fn a_burst_is_allowed() {
        let start = Moment::from_nanos(1);
        let mut throttle = Throttle::bursts_of(2);
        assert_eq!(throttle.allow(start), Some(0));
        assert_eq!(throttle.allow(start), Some(0));
        assert_eq!(throttle.allow(start), None);
        assert_eq!(throttle.allow(start.after(INTERVAL)), Some(1));
    }
}
