//! The time between two attempts.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use hawk_time::Moment;

/// Draws the times between attempts that fail: twice as long after each, up to a limit, and
/// with jitter, so that what failed together is not tried again together.
pub(super) struct Backoff {
    first: Duration,
    most: Duration,
    random: StdRng,
}

impl Backoff {
    pub(super) fn new(first: Duration, most: Duration, seed: u64) -> Self {
        Self {
            first,
            most,
            random: StdRng::seed_from_u64(seed),
        }
    }

    /// When to try again after so many failures, at least one.
    pub(super) fn after(&mut self, failures: u32, now: Moment) -> Moment {
        let doublings = failures.saturating_sub(1).min(20);
        let longest = self.first.saturating_mul(1 << doublings).min(self.most);
        now.after(self.random.random_range(longest / 2..=longest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_wait_is_up_to_twice_as_long_until_the_limit() {
        let (first, most) = (Duration::from_secs(1), Duration::from_secs(60));
        let now = Moment::from_nanos(1);
        let mut backoff = Backoff::new(first, most, 1);
        for failures in 1..100_u32 {
            let longest = (first * (1 << (failures - 1).min(10))).min(most);
            let wait = backoff.after(failures, now).since(now);
            assert!(
                (longest / 2..=longest).contains(&wait),
                "{failures} {wait:?}"
            );
        }
        backoff.after(u32::MAX, now);
    }
}
