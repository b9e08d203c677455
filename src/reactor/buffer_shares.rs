//! How much of the buffer pool the connections of each network hold, and the queues of the
//! networks that have used up their share.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;

use super::connections::ConnectionId;
use super::input::LONGEST;
use crate::network::{Network, Site};

/// Buffers granted to connections of other networks before a connection in [`Capped`] gets
/// the reserve.
const TURNS: u32 = 4;

/// Bytes of receive buffers that are held between turns, by network. The pool's reserve does
/// not count: it is for one connection at a time.
///
/// A network may hold half of what the pool has besides the reserve and an IPv6 site three
/// quarters, at least one buffer of the longest class. Beyond that its connections take no
/// buffer of that class from the pool but wait for the reserve, after the connections of
/// others.
#[derive(Debug)]
pub(super) struct BufferShares {
    /// What a network may hold.
    share: usize,
    /// What a site may hold.
    site_share: usize,
    /// What all networks hold.
    total: usize,
    networks: HashMap<Network, usize>,
    sites: HashMap<Site, usize>,
}

/// A network that has just reached 80 % of its share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NearingShare {
    pub(super) network: Network,
    pub(super) used: usize,
    pub(super) limit: usize,
}

impl BufferShares {
    /// The shares of a pool of `limit` bytes.
    pub(super) fn new(limit: usize) -> Self {
        let general = limit.saturating_sub(LONGEST);
        let share = (general / 2).max(LONGEST);
        Self {
            share,
            site_share: share.max(general - general / 4),
            total: 0,
            networks: HashMap::new(),
            sites: HashMap::new(),
        }
    }

    /// Whether the network of `address` may hold another buffer of the longest class, if a
    /// connection gives one of `instead_of` bytes back.
    pub(super) fn has_room(&self, address: impl Fn() -> IpAddr, instead_of: usize) -> bool {
        let more = LONGEST - instead_of.min(LONGEST);
        // All together hold little, as a rule: then no network holds much.
        if self.total + more <= self.share {
            return true;
        }
        self.network_has_room(Network::of(address()), instead_of)
    }

    /// The same of a network.
    pub(super) fn network_has_room(&self, network: Network, instead_of: usize) -> bool {
        let more = LONGEST - instead_of.min(LONGEST);
        let held = self.networks.get(&network).copied().unwrap_or(0);
        let of_site = network.site().and_then(|site| self.sites.get(&site));
        held + more <= self.share && of_site.copied().unwrap_or(0) + more <= self.site_share
    }

    /// A connection of `network` holds a buffer of `now` bytes instead of one of `before`.
    /// Returns a share if this change makes its use reach 80 %.
    pub(super) fn change(
        &mut self,
        network: Network,
        before: usize,
        now: usize,
    ) -> Option<NearingShare> {
        let replace = |held: usize| (held + now).saturating_sub(before);
        self.total = replace(self.total);
        let held = self.networks.entry(network).or_insert(0);
        let old = *held;
        *held = replace(*held);
        let used = *held;
        if used == 0 {
            self.networks.remove(&network);
        }
        if let Some(site) = network.site() {
            let held = self.sites.entry(site).or_insert(0);
            *held = replace(*held);
            if *held == 0 {
                self.sites.remove(&site);
            }
        }
        let limit = self.share;
        let mark = limit - limit / 5;
        (old < mark && used >= mark).then_some(NearingShare {
            network,
            used,
            limit,
        })
    }
}

/// Connections that wait for a buffer although their network or site holds all that it may.
/// Each network has its own queue; the networks take turns.
#[derive(Debug, Default)]
pub(super) struct Capped {
    queues: HashMap<Network, VecDeque<ConnectionId>>,
    /// The networks that have a queue.
    order: VecDeque<Network>,
    len: usize,
    /// Connections that were put into a queue, so far.
    pushed: u64,
    /// Buffers that others were given since one of these had one.
    passed_over: u32,
}

impl Capped {
    /// How many were put into a queue so far.
    pub(super) const fn pushed(&self) -> u64 {
        self.pushed
    }

    /// How many wait, some of which may have ended.
    pub(super) const fn len(&self) -> usize {
        self.len
    }

    /// Whether connections of `network` wait here.
    pub(super) fn has_queue(&self, network: Network) -> bool {
        self.queues.contains_key(&network)
    }

    /// Whether enough others were given a buffer.
    pub(super) const fn is_due(&self) -> bool {
        self.len > 0 && self.passed_over >= TURNS
    }

    /// Another connection was given a buffer.
    pub(super) const fn pass_over(&mut self) {
        self.passed_over = self.passed_over.saturating_add(1);
    }

    /// Puts a connection of `network` at the end of its queue.
    pub(super) fn push(&mut self, network: Network, id: ConnectionId) {
        let queue = self.queues.entry(network).or_insert_with(|| {
            self.order.push_back(network);
            VecDeque::new()
        });
        queue.push_back(id);
        self.len += 1;
        self.pushed += 1;
    }

    /// Moves the first network that has room to the front.
    pub(super) fn prefer(&mut self, has_room: impl Fn(Network) -> bool) {
        let first = self.order.iter().position(|network| has_room(*network));
        self.order.rotate_left(first.unwrap_or(0));
    }

    /// Returns the first connection of the network at the front.
    pub(super) fn front(&self) -> Option<ConnectionId> {
        let queue = self.queues.get(self.order.front()?)?;
        queue.front().copied()
    }

    /// Removes [`front`](Self::front), which was given a buffer or has ended; the next
    /// network has its turn.
    pub(super) fn pop(&mut self) {
        self.passed_over = 0;
        let Some(network) = self.order.pop_front() else {
            return;
        };
        let Some(queue) = self.queues.get_mut(&network) else {
            return;
        };
        self.len -= usize::from(queue.pop_front().is_some());
        if queue.is_empty() {
            self.queues.remove(&network);
        } else {
            self.order.push_back(network);
        }
    }

    /// All that wait, network by network.
    pub(super) fn ids(&self) -> impl Iterator<Item = ConnectionId> {
        self.order
            .iter()
            .filter_map(|network| self.queues.get(network))
            .flat_map(|queue| queue.iter().copied())
    }

    /// Removes all connections for which `keep` is false.
    pub(super) fn retain(&mut self, keep: impl Fn(ConnectionId) -> bool) {
        self.queues.retain(|_, queue| {
            queue.retain(|id| keep(*id));
            !queue.is_empty()
        });
        self.order
            .retain(|network| self.queues.contains_key(network));
        self.len = self.queues.values().map(VecDeque::len).sum();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reactor::kernel::SocketToken;

    const ONE: Network = Network::V4([10, 0, 0, 7]);
    const OTHER: Network = Network::V4([10, 0, 0, 8]);

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_network_holds_half_of_the_pool_and_others_have_theirs() {
        let mut shares = BufferShares::new(9 * LONGEST);
        let has_room = |shares: &BufferShares, text: &str| shares.has_room(|| address(text), 0);
        for number in 0..4 {
            assert!(has_room(&shares, "10.0.0.7"), "{number}");
            let nearing = shares.change(ONE, 0, LONGEST);
            assert_eq!(nearing.is_some(), number == 3, "80 % are more than 3 of 4");
        }
        assert!(!has_room(&shares, "10.0.0.7") && !has_room(&shares, "::ffff:10.0.0.7"));
        assert!(has_room(&shares, "10.0.0.8"));
        assert!(shares.has_room(|| address("10.0.0.7"), LONGEST));
        shares.change(OTHER, 0, LONGEST);
        shares.change(ONE, LONGEST, 256);
        assert!(!has_room(&shares, "10.0.0.7"));
        shares.change(ONE, LONGEST, 0);
        assert!(has_room(&shares, "10.0.0.7"));
        shares.change(ONE, LONGEST + 256, 0);
        shares.change(ONE, LONGEST, 0);
        shares.change(OTHER, LONGEST, 0);
        assert!(shares.networks.is_empty() && shares.total == 0);
    }

    #[test]
    fn an_ipv6_site_holds_three_quarters_of_the_pool() {
        let mut shares = BufferShares::new(9 * LONGEST);
        for number in 0..6 {
            let address = address(&format!("fd00:0:0:{number}::7"));
            assert!(shares.has_room(|| address, 0), "{number}");
            shares.change(Network::of(address), 0, LONGEST);
        }
        assert!(!shares.has_room(|| address("fd00:0:0:7::7"), 0));
        assert!(shares.has_room(|| address("fd00:0:1:7::7"), 0));
    }

    #[test]
    fn networks_in_the_queue_take_turns() {
        let id = |token| ConnectionId::from_token(SocketToken(token));
        let mut capped = Capped::default();
        for (network, token) in [(ONE, 1), (ONE, 2), (OTHER, 3), (ONE, 4)] {
            capped.push(network, id(token));
        }
        capped.retain(|kept| kept != id(2));
        assert_eq!(capped.len(), 3);
        (0..TURNS).for_each(|_| capped.pass_over());
        assert!(capped.is_due());
        for token in [1, 3, 4] {
            assert_eq!(capped.front(), Some(id(token)));
            capped.pop();
            assert!(!capped.is_due());
        }
        assert_eq!((capped.front(), capped.len()), (None, 0));
    }
}
