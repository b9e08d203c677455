//! Receive buffers: the input of a connection, the share of each network, and the queues of
//! connections that wait for a buffer.
//!
//! A connection takes a buffer of the longest class for a read and returns it at the end of
//! its turn, or keeps the smallest that holds its partial frame. A connection without a buffer
//! waits in one of two queues: with the others, or, if its network or site holds its share of
//! the pool, with those of its network in [`Capped`].

use std::collections::{HashMap, VecDeque};
use std::mem;
use std::net::IpAddr;

use hawk_pool::{Buffer, From, Pool};

use super::Reactor;
use super::connection::ServeOutcome;
use super::connections::ConnectionId;
use super::kernel::Kernel;
use crate::network::{Network, Site};
use crate::session::Handler;
use hawk_time::log_limited;
use hawk_wire::MAX_FRAME;

/// Sizes of the pool's buffers, in bytes, each four times the one before.
///
/// The smallest holds the partial frame in which a busy agent's read usually ends (the
/// original's reports are 131 to 195 bytes). The longest holds a full read of 64 KiB behind a
/// partial frame of [`COPY_LIMIT`], and so also the longest frame, in whole pages.
pub(crate) const CLASSES: [usize; 5] = [256, 1024, 4096, 16 * 1024, LONGEST];

pub(super) const LONGEST: usize = 64 * 1024 + COPY_LIMIT;
const _: () = assert!(LONGEST >= MAX_FRAME);

/// The longest input that is copied in front of the next read, so that one large read takes
/// all that the kernel has. Longer input is appended to in place until its buffer is full: a
/// long frame that arrives byte by byte would be copied whole for every byte.
const COPY_LIMIT: usize = 4096;

/// The bytes that a connection has received and not consumed. Has a buffer only while there
/// are any, or while a read is in progress.
///
/// Every connection has one; the buffer itself stores where the window begins and ends.
#[derive(Debug, Default)]
pub(super) struct Input {
    buffer: Buffer,
}

impl Input {
    /// Returns the bytes received and not consumed.
    pub(super) fn window(&self) -> &[u8] {
        &self.buffer[self.buffer.used()]
    }

    /// Returns whether the buffer is the pool's reserve.
    pub(super) fn has_reserve(&self) -> bool {
        self.buffer.is_reserved()
    }

    /// Returns the size of the buffer, in bytes; 0 without one.
    pub(super) fn capacity(&self) -> usize {
        self.buffer.len()
    }

    /// Returns the size of the buffer, in bytes; 0 if it is the pool's reserve.
    pub(super) fn general_capacity(&self) -> usize {
        match self.has_reserve() {
            true => 0,
            false => self.capacity(),
        }
    }

    /// Shrinks the buffer; returns whether the pool's reserve is free now.
    fn return_reserve(&mut self) -> bool {
        let had_reserve = self.has_reserve();
        self.shrink();
        had_reserve && !self.has_reserve()
    }

    /// Consumes the first `bytes` of the window.
    pub(super) fn consume(&mut self, bytes: usize) {
        debug_assert!(bytes <= self.window().len());
        let used = self.buffer.used();
        let left = used.start + bytes..used.end;
        self.buffer
            .set_used(if left.is_empty() { 0..0 } else { left });
    }

    /// Begins with `bytes` from another process, which fit into `buffer`.
    pub(super) fn begin_with(&mut self, mut buffer: Buffer, bytes: &[u8]) {
        buffer[..bytes.len()].copy_from_slice(bytes);
        buffer.set_used(0..bytes.len());
        self.buffer = buffer;
    }

    /// Makes room in [`space`](Self::space): with the `granted` buffer, else in place, else
    /// with a buffer from `pool`. Returns false if there is no buffer.
    pub(super) fn make_room(&mut self, pool: Option<&Pool>, granted: Option<Buffer>) -> bool {
        if granted.is_none() && self.fits_in_place() {
            return true;
        }
        let longer = granted.or_else(|| pool.and_then(|pool| pool.checkout(LONGEST).ok()));
        match longer {
            Some(longer) => {
                self.move_to(longer);
                true
            }
            None => {
                self.compact();
                !self.space().is_empty()
            }
        }
    }

    /// Returns the space for the next read.
    pub(super) fn space(&mut self) -> &mut [u8] {
        let end = self.buffer.used().end;
        &mut self.buffer[end..]
    }

    /// Appends the first `bytes` of [`space`](Self::space) to the window.
    pub(super) fn filled(&mut self, bytes: usize) {
        let used = self.buffer.used();
        self.buffer.set_used(used.start..used.end + bytes);
    }

    /// Moves the window to the smallest buffer that holds it; returns the buffer to the pool
    /// if the window is empty.
    pub(super) fn shrink(&mut self) {
        if self.buffer.is_empty() {
            return;
        }
        let buffer = mem::take(&mut self.buffer);
        let used = buffer.used();
        if !used.is_empty() {
            self.buffer = buffer.shrink(used);
        }
    }

    /// Drops the window and returns the buffer to the pool.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Returns whether the present buffer is to be read into.
    fn fits_in_place(&mut self) -> bool {
        if self.buffer.is_empty() {
            return false;
        }
        let longest = self.buffer.len() == LONGEST;
        if longest {
            self.compact();
        }
        (longest || self.window().len() > COPY_LIMIT) && !self.space().is_empty()
    }

    /// Moves the window to the front of its buffer.
    fn compact(&mut self) {
        let used = self.buffer.used();
        if used.start > 0 {
            self.buffer.set_used(0..used.len());
            self.buffer.copy_within(used, 0);
        }
    }

    /// Moves the window into a longer buffer.
    pub(super) fn move_to(&mut self, mut longer: Buffer) {
        let window = self.window();
        if !window.is_empty() {
            longer[..window.len()].copy_from_slice(window);
            longer.set_used(0..window.len());
        }
        self.buffer = longer;
    }
}

/// Buffers granted to connections of other networks before a connection in [`Capped`] gets
/// the reserve.
const TURNS: u32 = 4;

/// Bytes of receive buffers in use between turns, by network, without the pool's reserve.
///
/// A network may use half of the pool without the reserve and an IPv6 site three quarters, and
/// at least one buffer of the longest class. Beyond that its connections take no buffer of
/// that class from the pool but wait for the reserve, behind the connections of others.
#[derive(Debug)]
pub(super) struct BufferShares {
    /// What a network may use.
    share: usize,
    /// What a site may use.
    site_share: usize,
    /// What all networks use.
    total: usize,
    networks: HashMap<Network, usize>,
    sites: HashMap<Site, usize>,
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

    /// Returns whether the network of `address` may use another buffer of the longest class,
    /// in place of one of `instead_of` bytes.
    pub(super) fn has_room(&self, address: impl Fn() -> IpAddr, instead_of: usize) -> bool {
        let more = LONGEST - instead_of.min(LONGEST);
        // The common case: all networks together use less than one may.
        self.total + more <= self.share || self.network_has_room(Network::of(address()), more)
    }

    /// Returns whether `network` may use `more` bytes.
    fn network_has_room(&self, network: Network, more: usize) -> bool {
        let used = self.networks.get(&network).copied().unwrap_or(0);
        let of_site = network.site().and_then(|site| self.sites.get(&site));
        used + more <= self.share && of_site.copied().unwrap_or(0) + more <= self.site_share
    }

    /// Counts a buffer of `now` bytes instead of one of `before` for `network`. Returns what it
    /// uses and its share, in bytes, if this change makes its use reach 80 %.
    pub(super) fn change(
        &mut self,
        network: Network,
        before: usize,
        now: usize,
    ) -> Option<(usize, usize)> {
        let replace = |used: usize| (used + now).saturating_sub(before);
        self.total = replace(self.total);
        let used = self.networks.entry(network).or_insert(0);
        let old = *used;
        *used = replace(*used);
        let used = *used;
        if used == 0 {
            self.networks.remove(&network);
        }
        if let Some(site) = network.site() {
            let used = self.sites.entry(site).or_insert(0);
            *used = replace(*used);
            if *used == 0 {
                self.sites.remove(&site);
            }
        }
        let mark = self.share - self.share / 5;
        (old < mark && used >= mark).then_some((used, self.share))
    }
}

/// Connections that wait for a buffer while their network or site uses all of its share. Each
/// network has its own queue; the networks take turns.
#[derive(Debug, Default)]
pub(super) struct Capped {
    queues: HashMap<Network, VecDeque<ConnectionId>>,
    /// The networks that have a queue.
    order: VecDeque<Network>,
    len: usize,
    /// Connections put into a queue, so far.
    pushed: u64,
    /// Buffers granted to other connections since one of these had one.
    passed_over: u32,
}

impl Capped {
    /// Returns how many connections were put into a queue so far.
    pub(super) const fn pushed(&self) -> u64 {
        self.pushed
    }

    /// Returns how many connections wait, closed ones included.
    pub(super) const fn len(&self) -> usize {
        self.len
    }

    /// Returns whether enough other connections were granted a buffer.
    const fn is_due(&self) -> bool {
        self.len > 0 && self.passed_over >= TURNS
    }

    /// Counts a buffer granted to another connection.
    const fn pass_over(&mut self) {
        self.passed_over = self.passed_over.saturating_add(1);
    }

    /// Appends a connection of `network` to its queue.
    fn push(&mut self, network: Network, id: ConnectionId) {
        let queue = self.queues.entry(network).or_insert_with(|| {
            self.order.push_back(network);
            VecDeque::new()
        });
        queue.push_back(id);
        self.len += 1;
        self.pushed += 1;
    }

    /// Moves the first network that has room to the front.
    fn prefer(&mut self, has_room: impl Fn(Network) -> bool) {
        let first = self.order.iter().position(|network| has_room(*network));
        self.order.rotate_left(first.unwrap_or(0));
    }

    /// Returns the first connection of the network at the front.
    fn front(&self) -> Option<ConnectionId> {
        let queue = self.queues.get(self.order.front()?)?;
        queue.front().copied()
    }

    /// Removes [`front`](Self::front), which was granted a buffer or has closed; the next
    /// network has its turn.
    fn pop(&mut self) {
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

    /// Yields all connections that wait, network by network.
    pub(super) fn ids(&self) -> impl Iterator<Item = ConnectionId> {
        self.order
            .iter()
            .filter_map(|network| self.queues.get(network))
            .flat_map(|queue| queue.iter().copied())
    }

    /// Removes all connections for which `keep` is false.
    fn retain(&mut self, keep: impl Fn(ConnectionId) -> bool) {
        self.queues.retain(|_, queue| {
            queue.retain(|id| keep(*id));
            !queue.is_empty()
        });
        self.order
            .retain(|network| self.queues.contains_key(network));
        self.len = self.queues.values().map(VecDeque::len).sum();
    }
}

/// The queues for a buffer.
impl<H: Handler, K: Kernel> Reactor<H, K> {
    /// Serves the connections that wait, in FIFO order, as long as there are buffers. As each
    /// returns its buffer before the next one takes it, one buffer may do for all of them.
    ///
    /// Connections of a network that has used up its share are served with the reserve only,
    /// when no other connection waits, and after every few buffers for other connections.
    pub(super) fn serve_waiters(&mut self) {
        self.cx.work.begin(self.waiters.len() + self.capped.len());
        self.more_waiters = false;
        while !self.waiters.is_empty() || self.capped.len() > 0 {
            if !self.cx.work.allows_turn() {
                self.more_waiters = true;
                break;
            }
            self.move_capped_waiters();
            let capped_is_due = self.capped.is_due();
            let waiter = self.waiters.front().copied();
            let from = match capped_is_due {
                true => From::General,
                false => From::Either,
            };
            if let Some(id) = waiter
                && let Some(outcome) = self.serve_waiting(id, from)
            {
                self.waiters.pop_front();
                self.capped.pass_over();
                self.after_serve(id, outcome);
                continue;
            }
            if waiter.is_none() || capped_is_due {
                let buffers = &self.cx.buffers;
                self.capped
                    .prefer(|network| buffers.network_has_room(network, LONGEST));
                if let Some(id) = self.capped.front() {
                    let from = match self.has_room(id) {
                        true => From::Either,
                        false => From::Reserve,
                    };
                    if let Some(outcome) = self.serve_waiting(id, from) {
                        self.capped.pop();
                        self.after_serve(id, outcome);
                        continue;
                    }
                }
            }
            if !self.free_reserve() {
                break;
            }
        }
        self.deliver();
    }

    /// Serves a connection that waits; returns `None` if there is no buffer for it.
    fn serve_waiting(&mut self, id: ConnectionId, from: From) -> Option<ServeOutcome> {
        match self.connections.get_mut(id) {
            Some(connection) => connection.serve_waiting(from, &mut self.cx),
            None => Some(ServeOutcome::Idle),
        }
    }

    /// Moves connections from the front of the queue if their network has used up its share
    /// since they came.
    fn move_capped_waiters(&mut self) {
        while let Some(&id) = self.waiters.front()
            && !self.has_room(id)
        {
            self.waiters.pop_front();
            self.push_capped(id);
        }
    }

    /// Returns whether the network of a connection may use another buffer; true for a closed
    /// connection.
    fn has_room(&self, id: ConnectionId) -> bool {
        self.connections.get(id).is_none_or(|connection| {
            let address = || connection.address();
            let buffers = &self.cx.buffers;
            buffers.has_room(address, connection.counted.buffer())
        })
    }

    fn push_capped(&mut self, id: ConnectionId) {
        if let Some(connection) = self.connections.get(id) {
            self.capped.push(connection.network(), id);
        }
    }

    /// Shrinks the buffer of the connection that has the reserve: there may have been no room
    /// for a smaller one when its turn ended. Returns whether the reserve is free now.
    fn free_reserve(&mut self) -> bool {
        let holder = self.reserve_with;
        let connection = holder.and_then(|id| self.connections.get_mut(id));
        let freed = connection.is_some_and(|holder| holder.input.return_reserve());
        if let Some(id) = holder.filter(|_| freed) {
            self.count_buffer(id);
        }
        freed
    }

    /// Appends a connection to its queue for a buffer. Removes closed connections from the
    /// queues if they are many: otherwise the queues would grow with each connection that
    /// comes and goes while the first one waits.
    pub(super) fn queue_for_buffer(&mut self, id: ConnectionId) {
        let connections = &self.connections;
        if self.waiters.len() + self.capped.len() >= 2 * connections.len() {
            self.waiters.retain(|&id| connections.get(id).is_some());
            self.capped.retain(|id| connections.get(id).is_some());
        }
        // Connections of the same network that wait for its share came before.
        let has_capped_neighbours = self.capped.len() > 0
            && connections
                .get(id)
                .is_some_and(|new| self.capped.queues.contains_key(&new.network()));
        if self.has_room(id) && !has_capped_neighbours {
            self.waiters.push_back(id);
        } else {
            self.push_capped(id);
        }
    }

    /// Counts the buffer that a connection has after its turn for its network.
    pub(super) fn count_buffer(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.get_mut(id) else {
            return;
        };
        let (before, now) = (
            connection.counted.buffer(),
            connection.input.general_capacity(),
        );
        if before == now {
            return;
        }
        connection.counted.set_buffer(now);
        let network = connection.network();
        if let Some((used, limit)) = self.cx.buffers.change(network, before, now) {
            log_limited!(warn, self.refusals.nearing_pool, self.cx.now, left_out =>
                "an address has 80 % of its share: address={network} share=buffers used={used} \
                 limit={limit} left_out={left_out} (raise --pool-limit if these are agents that \
                 send long frames)");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reactor::kernel::SocketToken;

    fn pool() -> Pool {
        let config = hawk_pool::Config {
            classes: CLASSES.to_vec(),
            limit: 4 * LONGEST,
        };
        Pool::new(&config).unwrap()
    }

    fn read(input: &mut Input, pool: &Pool, bytes: &[u8]) {
        assert!(input.make_room(Some(pool), None));
        input.space()[..bytes.len()].copy_from_slice(bytes);
        input.filled(bytes.len());
    }

    fn in_use(pool: &Pool) -> Vec<usize> {
        pool.stats().classes.iter().map(|c| c.in_use).collect()
    }

    #[test]
    fn an_emptied_window_holds_no_buffer() {
        let pool = pool();
        let mut input = Input::default();
        read(&mut input, &pool, b"abc");
        assert_eq!(input.window(), b"abc");
        input.consume(3);
        input.shrink();
        assert_eq!(in_use(&pool), [0; 5]);
    }

    #[test]
    fn a_partial_frame_moves_to_the_smallest_class_and_back_in_front_of_the_next_read() {
        let pool = pool();
        let mut input = Input::default();
        read(&mut input, &pool, &[7; 1000]);
        input.consume(900);
        input.shrink();
        assert_eq!(in_use(&pool), [1, 0, 0, 0, 0]);
        assert_eq!(input.window(), [7; 100]);
        read(&mut input, &pool, &[8; 200]);
        assert_eq!(in_use(&pool), [0, 0, 0, 0, 1]);
        assert_eq!(input.window(), [[7; 100].as_slice(), &[8; 200]].concat());
    }

    #[test]
    fn a_long_partial_frame_is_appended_to_in_place_until_its_buffer_is_full() {
        let pool = pool();
        let mut input = Input::default();
        read(&mut input, &pool, &[7; 5000]);
        input.shrink();
        assert_eq!(in_use(&pool), [0, 0, 0, 1, 0]);
        assert!(input.make_room(Some(&pool), None));
        assert_eq!(in_use(&pool), [0, 0, 0, 1, 0]);
        let space = input.space().len();
        assert_eq!(space, 16 * 1024 - 5000);
        input.filled(space);
        assert!(input.make_room(Some(&pool), None));
        assert_eq!(in_use(&pool), [0, 0, 0, 0, 1]);
    }

    #[test]
    fn without_a_longer_buffer_what_is_left_of_a_short_one_is_used() {
        let pool = pool();
        let mut input = Input::default();
        read(&mut input, &pool, &[7; 200]);
        input.shrink();
        let all: Vec<Buffer> = std::iter::from_fn(|| pool.checkout(LONGEST).ok()).collect();
        assert!(!all.is_empty());
        assert!(input.make_room(Some(&pool), None));
        assert_eq!(input.space().len(), 56);
        input.filled(56);
        assert!(!input.make_room(Some(&pool), None));
        let Ok(reserved) = pool.wait().redeem() else {
            panic!("the reserve is there");
        };
        assert!(input.make_room(Some(&pool), Some(reserved)));
        assert_eq!(input.window().len(), 256);
    }

    #[test]
    fn a_short_buffer_that_was_consumed_from_has_room_again() {
        let pool = pool();
        let mut input = Input::default();
        read(&mut input, &pool, &[7; 200]);
        input.shrink();
        let _all: Vec<Buffer> = std::iter::from_fn(|| pool.checkout(LONGEST).ok()).collect();
        assert!(input.make_room(Some(&pool), None));
        input.filled(56);
        input.consume(226);
        assert!(input.make_room(Some(&pool), None));
        assert_eq!(input.space().len(), 226);
    }

    #[test]
    fn the_longest_frame_fits_however_it_comes() {
        for chunk in [1, 100, 5000, LONGEST] {
            let pool = pool();
            let mut input = Input::default();
            let mut received = 0;
            while received < MAX_FRAME {
                assert!(input.make_room(Some(&pool), None));
                let bytes = chunk.min(input.space().len()).min(MAX_FRAME - received);
                input.filled(bytes);
                received += bytes;
                input.shrink();
            }
            assert_eq!(input.window().len(), MAX_FRAME);
        }
    }

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
