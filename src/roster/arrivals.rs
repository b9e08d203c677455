//! How fast one network may bring new agents.

use std::collections::HashMap;
use std::time::Duration;

use crate::network::Network;
use hawk_time::Moment;

/// New agents of one network at once: a site of thousands of machines behind one
/// address comes back from an outage whole.
const BURST: u32 = 5000;

/// The time in which a network may bring another new agent: 100 a second.
const INTERVAL: Duration = Duration::from_millis(10);

/// The time after which a network may bring a whole burst again.
const REFILL: Duration = Duration::from_millis(10 * BURST as u64);

/// A map of this many networks is not swept.
const FEW: usize = 1024;

/// A token bucket for each network, kept as the moment at which it is full again.
#[derive(Debug, Default)]
pub(super) struct Arrivals {
    full_at: HashMap<Network, Moment>,
    /// Networks that the last sweep left. Sweeping at twice as many costs O(1) an arrival.
    left: usize,
}

impl Arrivals {
    /// Counts a new agent of `network`, if it may bring one now.
    pub(super) fn admit(&mut self, network: Network, now: Moment) -> bool {
        if self.full_at.len() >= FEW.max(2 * self.left) {
            self.full_at.retain(|_, full_at| *full_at > now);
            self.left = self.full_at.len();
        }
        let full_at = self.full_at.entry(network).or_insert(now);
        let next = now.max(*full_at).after(INTERVAL);
        let fits = next.since(now) <= REFILL;
        if fits {
            *full_at = next;
        }
        fits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn admitted(arrivals: &mut Arrivals, last: u8, at: u64) -> usize {
        let (network, now) = (Network::V4([10, 0, 0, last]), Moment::from_nanos(at));
        (0..20_000).filter(|_| arrivals.admit(network, now)).count()
    }

    #[test]
    fn a_network_brings_a_burst_and_then_so_many_a_second() {
        let mut arrivals = Arrivals::default();
        assert_eq!(admitted(&mut arrivals, 1, SECOND), 5000);
        assert_eq!(admitted(&mut arrivals, 2, SECOND), 5000, "of its own");
        assert_eq!(admitted(&mut arrivals, 1, 2 * SECOND), 100);
        assert_eq!(admitted(&mut arrivals, 1, 90 * SECOND), 5000);
    }

    #[test]
    fn networks_that_bring_no_more_are_forgotten() {
        let mut arrivals = Arrivals::default();
        for second in 1..200_000_u32 {
            let network = Network::V4(second.to_be_bytes());
            assert!(arrivals.admit(network, Moment::from_nanos(u64::from(second) * SECOND)));
        }
        assert!(arrivals.full_at.len() <= FEW);
    }
}
