//! The bound on the number of agents: which agent makes room for a new agent, and how many new
//! agents one network may bring.
//!
//! Agents make room if they are not established and have no session. Each operation costs
//! O(log n).

use std::collections::{BTreeSet, HashMap};
use std::ops::Bound;
use std::time::Duration;

use crate::network::Network;
use hawk_time::{Moment, UnixNanos};

/// The agents of one network may take one part in this many of the places that established
/// agents leave free.
const SHARES: usize = 4;

/// New agents that one network may bring at once: a site of thousands of machines behind one
/// address comes back from an outage whole.
const BURST: u32 = 5000;

/// Time in which a network may bring another new agent: 100 a second.
const INTERVAL: Duration = Duration::from_millis(10);

/// Time after which a network may bring a whole burst again.
const REFILL: Duration = Duration::from_millis(10 * BURST as u64);

/// Number of networks up to which [`Arrivals`] is not swept.
const FEW: usize = 1024;

/// Counts agents, and lists removable agents, longest silent first.
#[derive(Debug)]
pub(super) struct Places {
    capacity: usize,
    established: usize,
    others: usize,
    /// Agents that are not established, by the network that brought them.
    by_network: HashMap<Network, usize>,
    /// Agents that can make room, longest silent first.
    idle: BTreeSet<(UnixNanos, u32)>,
    /// The same agents, by network.
    idle_by_network: BTreeSet<(Network, UnixNanos, u32)>,
    arrivals: Arrivals,
}

/// What decides whether an agent makes room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tenant {
    pub(super) slot: u32,
    pub(super) established: bool,
    /// No session is attached to it.
    pub(super) idle: bool,
    pub(super) network: Network,
    pub(super) last_seen: UnixNanos,
}

/// Why a new agent gets no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoPlace {
    /// Its network brings too many new agents at once.
    TooFast,
    /// Its network has its share of the places, and none of its agents can make room.
    ShareTaken,
    /// The roster has its maximum of agents, and none of them can make room.
    Full,
}

impl Places {
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            capacity,
            established: 0,
            others: 0,
            by_network: HashMap::new(),
            idle: BTreeSet::new(),
            idle_by_network: BTreeSet::new(),
            arrivals: Arrivals::default(),
        }
    }

    /// Returns the number of agents that are established.
    pub(super) const fn established(&self) -> usize {
        self.established
    }

    /// Finds a place for a new agent from `network`. Returns the slot of the agent to remove
    /// first, if there is no free place.
    pub(super) fn find(&mut self, network: Network, now: Moment) -> Result<Option<u32>, NoPlace> {
        let is_full = self.established + self.others >= self.capacity;
        let taken = self.by_network.get(&network).copied().unwrap_or(0);
        let room = if taken >= self.share() {
            Some(self.idle_of(network).ok_or(NoPlace::ShareTaken)?)
        } else if is_full {
            let longest = self.idle.first().map(|(_, slot)| *slot);
            Some(longest.ok_or(NoPlace::Full)?)
        } else {
            None
        };
        if !self.arrivals.admit(network, now) {
            return Err(NoPlace::TooFast);
        }
        Ok(room)
    }

    /// Returns the number of places for agents of one network that are not established, at
    /// least 1.
    fn share(&self) -> usize {
        let left = self.capacity.saturating_sub(self.established);
        (left / SHARES).max(1)
    }

    /// Returns the removable agent of this network that is silent longest.
    fn idle_of(&self, network: Network) -> Option<u32> {
        let from = Bound::Included((network, UnixNanos::from_nanos(i64::MIN), 0));
        let mut agents = self.idle_by_network.range((from, Bound::Unbounded));
        let (found, _, slot) = agents.next()?;
        (*found == network).then_some(*slot)
    }

    pub(super) fn insert(&mut self, tenant: Tenant) {
        if tenant.established {
            self.established += 1;
            return;
        }
        self.others += 1;
        *self.by_network.entry(tenant.network).or_insert(0) += 1;
        if tenant.idle {
            self.idle.insert((tenant.last_seen, tenant.slot));
            let in_network = (tenant.network, tenant.last_seen, tenant.slot);
            self.idle_by_network.insert(in_network);
        }
    }

    /// Undoes [`insert`](Self::insert).
    pub(super) fn remove(&mut self, tenant: Tenant) {
        if tenant.established {
            self.established -= 1;
            return;
        }
        self.others -= 1;
        if let Some(count) = self.by_network.get_mut(&tenant.network) {
            *count -= 1;
            if *count == 0 {
                self.by_network.remove(&tenant.network);
            }
        }
        if tenant.idle {
            self.idle.remove(&(tenant.last_seen, tenant.slot));
            let in_network = (tenant.network, tenant.last_seen, tenant.slot);
            self.idle_by_network.remove(&in_network);
        }
    }
}

/// A token bucket for each network, stored as the moment at which it is full again.
#[derive(Debug, Default)]
struct Arrivals {
    full_at: HashMap<Network, Moment>,
    /// Number of networks after the last sweep. A sweep at twice as many costs O(1) for each
    /// arrival.
    left: usize,
}

impl Arrivals {
    /// Counts a new agent of `network` and returns true, if the network may bring one now.
    fn admit(&mut self, network: Network, now: Moment) -> bool {
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

    fn network(last: u8) -> Network {
        Network::V4([10, 0, 0, last])
    }

    fn tenant(slot: u32, last: u8) -> Tenant {
        Tenant {
            slot,
            established: false,
            idle: true,
            network: network(last),
            last_seen: UnixNanos::from_nanos(i64::from(1000 - slot)),
        }
    }

    const NOW: Moment = Moment::from_nanos(1);

    #[test]
    fn the_longest_silence_makes_room_and_established_agents_never_do() {
        let mut places = Places::new(8);
        (0..8).for_each(|slot| {
            places.insert(Tenant {
                established: slot > 5,
                idle: slot != 5,
                ..tenant(slot, u8::try_from(slot).unwrap())
            });
        });
        assert_eq!(places.established(), 2);
        for slot in [4, 3, 2, 1, 0] {
            assert_eq!(places.find(network(99), NOW), Ok(Some(slot)));
            places.remove(tenant(slot, u8::try_from(slot).unwrap()));
            places.insert(Tenant {
                idle: false,
                ..tenant(slot, 100 + u8::try_from(slot).unwrap())
            });
        }
        assert_eq!(places.find(network(99), NOW), Err(NoPlace::Full));
        places.remove(Tenant {
            established: true,
            ..tenant(7, 7)
        });
        assert_eq!(places.find(network(99), NOW), Ok(None));
    }

    #[test]
    fn a_network_has_a_quarter_of_the_places_that_established_agents_leave() {
        let mut places = Places::new(100);
        (0..20).for_each(|slot| {
            places.insert(Tenant {
                established: true,
                ..tenant(slot, 1)
            });
        });
        for slot in 20..40 {
            assert_eq!(places.find(network(1), NOW), Ok(None), "{slot}");
            places.insert(tenant(slot, 1));
        }
        assert_eq!(places.find(network(1), NOW), Ok(Some(39)), "its own oldest");
        assert_eq!(places.find(network(2), NOW), Ok(None));
        for slot in 20..40 {
            places.remove(tenant(slot, 1));
            places.insert(Tenant {
                idle: false,
                ..tenant(slot, 1)
            });
        }
        assert_eq!(places.find(network(1), NOW), Err(NoPlace::ShareTaken));
        (20..40).for_each(|slot| {
            places.remove(Tenant {
                idle: false,
                ..tenant(slot, 1)
            });
        });
        assert!(places.by_network.is_empty(), "nothing is left behind");
    }

    const SECOND: u64 = 1_000_000_000;

    fn admitted(arrivals: &mut Arrivals, last: u8, at: u64) -> usize {
        let (network, now) = (Network::V4([10, 0, 0, last]), Moment::from_nanos(at));
        (0..20_000).filter(|_| arrivals.admit(network, now)).count()
    }

    #[test]
    fn a_network_brings_a_burst_and_then_100_agents_a_second() {
        let mut arrivals = Arrivals::default();
        assert_eq!(admitted(&mut arrivals, 1, SECOND), 5000);
        assert_eq!(
            admitted(&mut arrivals, 2, SECOND),
            5000,
            "each network has its own"
        );
        assert_eq!(admitted(&mut arrivals, 1, 2 * SECOND), 100);
        assert_eq!(admitted(&mut arrivals, 1, 90 * SECOND), 5000);
    }

    #[test]
    fn full_buckets_are_removed() {
        let mut arrivals = Arrivals::default();
        for second in 1..200_000_u32 {
            let network = Network::V4(second.to_be_bytes());
            assert!(arrivals.admit(network, Moment::from_nanos(u64::from(second) * SECOND)));
        }
        assert!(arrivals.full_at.len() <= FEW);
    }
}
