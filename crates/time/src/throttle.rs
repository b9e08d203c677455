//! Log lines at a limited rate, for causes that agents can repeat at will.

use std::time::Duration;

use crate::Moment;

/// A line per cause in this time, or a few. Often enough to see that something goes
/// on; a flood of any kind makes no more than 8,640 lines a day.
const INTERVAL: Duration = Duration::from_secs(10);

/// Lets a line through per interval, or a few, and counts what it holds back.
#[derive(Debug)]
pub struct Throttle {
    burst: u32,
    interval: Duration,
    /// The end of the interval at hand, and the lines that are left in it.
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
    /// Lets so many lines through in each interval.
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

    /// Lets one line through in each interval of this length.
    #[must_use]
    pub const fn every(interval: Duration) -> Self {
        let mut throttle = Self::bursts_of(1);
        throttle.interval = interval;
        throttle
    }

    /// Whether to log an occurrence now: how many were left out since the last
    /// line, if so.
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
    fn one_line_an_interval_tells_of_the_others() {
        let start = Moment::from_nanos(1);
        let mut throttle = Throttle::default();
        assert_eq!(throttle.allow(start), Some(0));
        assert_eq!(throttle.allow(start), None);
        assert_eq!(throttle.allow(start.after(INTERVAL / 2)), None);
        assert_eq!(throttle.allow(start.after(INTERVAL)), Some(2));
        assert_eq!(throttle.allow(start.after(2 * INTERVAL)), Some(0));
    }

    #[test]
    fn a_few_may_come_together() {
        let start = Moment::from_nanos(1);
        let mut throttle = Throttle::bursts_of(2);
        assert_eq!(throttle.allow(start), Some(0));
        assert_eq!(throttle.allow(start), Some(0));
        assert_eq!(throttle.allow(start), None);
        assert_eq!(throttle.allow(start.after(INTERVAL)), Some(1));
    }
}
