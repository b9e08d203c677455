//! How long an agent waits before it connects again: full jitter, as
//! `docs/agents.md` asks of every agent.

use std::time::Duration;

use rand::Rng;
use rand::RngExt as _;

/// Waits that may grow from failure to failure.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
}

/// The shortest wait. Never zero: agents that come back at once are a storm.
const LEAST: Duration = Duration::from_millis(100);

/// The longest wait before the first attempt anew, doubled by each failure.
const FIRST: Duration = Duration::from_secs(1);

/// The longest wait of all.
const MOST: Duration = Duration::from_secs(60);

impl Backoff {
    /// How long to wait now, drawn evenly over the whole span.
    pub(super) fn next(&mut self, random: &mut impl Rng) -> Duration {
        // The exponent is bounded, so that the power cannot overflow.
        let longest = FIRST * 2_u32.pow(self.failures.min(16));
        self.failures = self.failures.saturating_add(1);
        random.random_range(LEAST..=longest.min(MOST))
    }

    /// The server took us.
    pub(super) fn succeeded(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;
    use rand::rngs::StdRng;

    use super::*;

    #[test]
    fn waits_spread_over_a_span_that_grows_and_has_an_end() {
        let mut random = StdRng::seed_from_u64(1);
        let mut longest = [Duration::ZERO; 100];
        for _ in 0..200 {
            let mut backoff = Backoff::default();
            for (failures, longest) in longest.iter_mut().enumerate() {
                let wait = backoff.next(&mut random);
                let span = Duration::from_secs(1 << failures.min(6)).min(MOST);
                assert!((LEAST..=span).contains(&wait), "{failures}: {wait:?}");
                *longest = wait.max(*longest);
            }
            backoff.succeeded();
            assert!(backoff.next(&mut random) <= FIRST);
        }
        // Of 200 draws one is in the last third: all but surely.
        assert!(longest[0] > FIRST * 2 / 3 && longest[99] > MOST * 2 / 3);
    }
}
