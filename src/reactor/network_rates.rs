//! The rate limit of all connections of one network together.
//!
//! `--rate-limit` applies to each connection. Without a limit for the network, an agent that
//! reconnects for every frame would not be limited at all.
//!
//! These rates do not move with a hand-over: the new process counts the connections that it
//! adopts and begins with full buckets.

use std::collections::HashMap;
use std::time::Duration;

use crate::network::Network;
use crate::session::{Bucket, Rate};
use hawk_time::Moment;

/// Half of the time for which a closed connection still counts.
const SLOT: Duration = Duration::from_secs(5);

/// Networks with live or recently ended connections. Empty while there is no limit.
#[derive(Debug, Default)]
pub(super) struct NetworkRates(HashMap<Network, Entry>);

#[derive(Clone, Copy, Debug)]
struct Entry {
    /// Open connections.
    open: u32,
    /// The most open connections in this slot.
    peak: u32,
    /// The most open connections in the slot before.
    last_peak: u32,
    /// The beginning of this slot.
    since: Moment,
    bucket: Bucket,
}

impl Entry {
    fn new(now: Moment) -> Self {
        Self {
            open: 0,
            peak: 0,
            last_peak: 0,
            since: now,
            bucket: Bucket::default(),
        }
    }

    /// Begins a new slot if this one is over. The connections open now were open in any slot
    /// since.
    fn pass(&mut self, now: Moment) {
        let passed = now.since(self.since);
        if passed >= SLOT {
            self.last_peak = if passed < 2 * SLOT {
                self.peak
            } else {
                self.open
            };
            self.peak = self.open;
            self.since = now;
        }
    }

    /// Returns the limit of the network: `rate` for each of the most connections that were open
    /// at the same time in the last 5 to 10 s.
    fn rate(&mut self, rate: Rate, now: Moment) -> Rate {
        self.pass(now);
        rate.times(self.peak.max(self.last_peak))
    }
}

impl NetworkRates {
    /// Counts a connection that was accepted or adopted.
    pub(super) fn opened(&mut self, network: Network, now: Moment) {
        let entry = self.0.entry(network).or_insert_with(|| Entry::new(now));
        entry.pass(now);
        entry.open += 1;
        entry.peak = entry.peak.max(entry.open);
    }

    /// Counts a connection that was closed.
    pub(super) fn closed(&mut self, network: Network, now: Moment) {
        if let Some(entry) = self.0.get_mut(&network) {
            entry.pass(now);
            entry.open = entry.open.saturating_sub(1);
        }
    }

    /// Returns how many frames the connections of `network` may send now.
    pub(super) fn left(&mut self, network: Network, rate: Rate, now: Moment) -> u32 {
        self.0.get_mut(&network).map_or(u32::MAX, |entry| {
            let rate = entry.rate(rate, now);
            entry.bucket.left(rate, now)
        })
    }

    /// Subtracts `frames` that they have sent.
    pub(super) fn take(&mut self, network: Network, frames: u32, rate: Rate, now: Moment) {
        if let Some(entry) = self.0.get_mut(&network) {
            let rate = entry.rate(rate, now);
            entry.bucket.take(frames, rate, now);
        }
    }

    /// Returns when they may send the next frame, once none is left.
    pub(super) fn next(&mut self, network: Network, rate: Rate, now: Moment) -> Option<Moment> {
        let entry = self.0.get_mut(&network)?;
        let rate = entry.rate(rate, now);
        entry.bucket.next(rate)
    }

    /// Removes networks with a full bucket and no connection in the last 10 s.
    pub(super) fn tidy(&mut self, now: Moment) {
        self.0.retain(|_, entry| {
            entry.pass(now);
            let counts = entry.open.max(entry.peak).max(entry.last_peak) > 0;
            counts || entry.bucket.full_at().is_some_and(|full| full > now)
        });
        if self.0.len() < self.0.capacity() / 8 {
            self.0.shrink_to(2 * self.0.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;

    const ONE: Network = Network::V4([10, 0, 0, 7]);

    fn at(millis: u64) -> Moment {
        Moment::from_nanos(1_000_000_000_000 + 1_000_000 * millis)
    }

    fn rate(frames: u32) -> Rate {
        Rate::per_second(NonZeroU32::new(frames).unwrap())
    }

    /// Opens a connection every 10 ms for 30 s, sends all that is allowed and closes it.
    /// Returns the frames that were taken.
    fn reconnect(rates: &mut NetworkRates, rate: Rate) -> u32 {
        let mut taken = 0;
        for turn in 0..3_000 {
            let now = at(10 * turn);
            rates.opened(ONE, now);
            let left = rates.left(ONE, rate, now);
            rates.take(ONE, left, rate, now);
            taken += left;
            rates.closed(ONE, now);
            rates.tidy(now);
        }
        taken
    }

    #[test]
    fn reconnecting_gains_nothing() {
        let mut rates = NetworkRates::default();
        let taken = reconnect(&mut rates, rate(2));
        assert!((60..=62).contains(&taken), "{taken}");
    }

    #[test]
    fn each_connection_that_was_open_in_the_last_seconds_counts() {
        let (mut rates, rate) = (NetworkRates::default(), rate(2));
        (0..10).for_each(|_| rates.opened(ONE, at(0)));
        assert_eq!(rates.left(ONE, rate, at(0)), 20);
        (0..9).for_each(|_| rates.closed(ONE, at(1000)));
        assert_eq!(rates.left(ONE, rate, at(4900)), 20);
        assert_eq!(rates.left(ONE, rate, at(6000)), 20);
        assert_eq!(rates.left(ONE, rate, at(12_000)), 2);
        rates.take(ONE, 2, rate, at(12_000));
        assert_eq!(rates.left(ONE, rate, at(12_000)), 0);
        assert_eq!(rates.next(ONE, rate, at(12_000)), Some(at(12_500)));
    }

    #[test]
    fn a_network_without_connections_is_removed() {
        let (mut rates, rate) = (NetworkRates::default(), rate(1));
        assert_eq!(rates.left(ONE, rate, at(0)), u32::MAX);
        rates.opened(ONE, at(0));
        rates.take(ONE, 1, rate, at(0));
        rates.closed(ONE, at(0));
        rates.tidy(at(9_000));
        assert_eq!(rates.0.len(), 1, "it may come again");
        rates.tidy(at(20_000));
        assert!(rates.0.is_empty());
    }
}
