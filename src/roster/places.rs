//! The places that agents take: how many there are, which agent makes room for a new
//! one, and how many new agents one network may bring.
//!
//! Only agents that are not established make room, and of these only agents that no
//! session speaks for. Each operation costs O(log n).

use std::collections::{BTreeSet, HashMap};
use std::ops::Bound;

use super::arrivals::Arrivals;
use crate::network::Network;
use hawk_time::{Moment, UnixNanos};

/// Of the places that established agents leave free, the part that the agents of one
/// network may take.
const SHARES: usize = 4;

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

/// What decides about an agent's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tenant {
    pub(super) slot: u32,
    pub(super) established: bool,
    /// No session speaks for it.
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
    /// There are as many agents as there may be, and none of them can make room.
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

    /// Agents that are established.
    pub(super) const fn established(&self) -> usize {
        self.established
    }

    /// Places for an agent that is not established from `network`. Returns the slot of
    /// the agent that is to be removed first, if one is.
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

    /// Agents that are not established and that one network may bring, at least 1.
    fn share(&self) -> usize {
        let left = self.capacity.saturating_sub(self.established);
        (left / SHARES).max(1)
    }

    /// The agent of this network that can make room and is silent longest.
    fn idle_of(&self, network: Network) -> Option<u32> {
        let from = Bound::Included((network, UnixNanos::from_nanos(i64::MIN), 0));
        let mut agents = self.idle_by_network.range((from, Bound::Unbounded));
        let (found, _, slot) = agents.next()?;
        (*found == network).then_some(*slot)
    }

    /// Counts an agent.
    pub(super) fn enter(&mut self, tenant: Tenant) {
        if tenant.established {
            self.established += 1;
            return;
        }
        self.others += 1;
        *self.by_network.entry(tenant.network).or_insert(0) += 1;
        if tenant.idle {
            let Tenant {
                slot,
                network,
                last_seen,
                ..
            } = tenant;
            self.idle.insert((last_seen, slot));
            self.idle_by_network.insert((network, last_seen, slot));
        }
    }

    /// Takes back what [`enter`](Self::enter) counted.
    pub(super) fn leave(&mut self, tenant: Tenant) {
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
            let Tenant {
                slot,
                network,
                last_seen,
                ..
            } = tenant;
            self.idle.remove(&(last_seen, slot));
            self.idle_by_network.remove(&(network, last_seen, slot));
        }
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
            places.enter(Tenant {
                established: slot > 5,
                idle: slot != 5,
                ..tenant(slot, u8::try_from(slot).unwrap())
            });
        });
        assert_eq!(places.established(), 2);
        for slot in [4, 3, 2, 1, 0] {
            assert_eq!(places.find(network(99), NOW), Ok(Some(slot)));
            places.leave(tenant(slot, u8::try_from(slot).unwrap()));
            places.enter(Tenant {
                idle: false,
                ..tenant(slot, 100 + u8::try_from(slot).unwrap())
            });
        }
        assert_eq!(places.find(network(99), NOW), Err(NoPlace::Full));
        places.leave(Tenant {
            established: true,
            ..tenant(7, 7)
        });
        assert_eq!(places.find(network(99), NOW), Ok(None));
    }

    #[test]
    fn a_network_has_a_quarter_of_what_established_agents_leave() {
        let mut places = Places::new(100);
        (0..20).for_each(|slot| {
            places.enter(Tenant {
                established: true,
                ..tenant(slot, 1)
            });
        });
        for slot in 20..40 {
            assert_eq!(places.find(network(1), NOW), Ok(None), "{slot}");
            places.enter(tenant(slot, 1));
        }
        assert_eq!(places.find(network(1), NOW), Ok(Some(39)), "its own oldest");
        assert_eq!(places.find(network(2), NOW), Ok(None));
        for slot in 20..40 {
            places.leave(tenant(slot, 1));
            places.enter(Tenant {
                idle: false,
                ..tenant(slot, 1)
            });
        }
        assert_eq!(places.find(network(1), NOW), Err(NoPlace::ShareTaken));
        (20..40).for_each(|slot| {
            places.leave(Tenant {
                idle: false,
                ..tenant(slot, 1)
            });
        });
        assert!(places.by_network.is_empty(), "nothing is left behind");
    }
}
