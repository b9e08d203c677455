//! Log lines at a limited rate, for causes that agents can repeat at will.

use std::time::Duration;

use crate::time::Moment;

/// One line per cause in this time. Often enough to see that something goes
/// on; a flood of any kind makes no more than 8,640 lines a day.
const INTERVAL: Duration = Duration::from_secs(10);

/// Lets one line through per interval and counts what it holds back.
#[derive(Debug, Default)]
pub(super) struct Throttle {
    next: Option<Moment>,
    left_out: u64,
}

impl Throttle {
    /// Whether to log an occurrence now: how many were left out since the last
    /// line, if so.
    pub(super) fn allow(&mut self, now: Moment) -> Option<u64> {
        if self.next.is_some_and(|next| now < next) {
            self.left_out += 1;
            return None;
        }
        self.next = Some(now.after(INTERVAL));
        Some(std::mem::take(&mut self.left_out))
    }
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
}
