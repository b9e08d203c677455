//! The state of a pool: classes, budget, reserve and queue.

use std::{collections::VecDeque, mem, thread};

use crate::{CheckoutError, ClassStats, Config, From, Stats, buffer::Block};

pub(crate) struct PoolState {
    /// Never empty, in ascending order of size.
    classes: Box<[Class]>,
    pub(crate) limit: usize,
    /// Bytes allocated for everything but the reserve, in use and free.
    spent: usize,
    reserve: Reserve,
    pub(crate) waiters: usize,
}

/// The buffer of the longest class that is only for the head of the queue.
enum Reserve {
    /// Not allocated yet; its bytes count.
    Untouched,
    Idle(Box<Block>),
    InUse,
}

/// Where a buffer comes from and returns to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    General,
    Reserve,
}

impl PoolState {
    /// The state of an empty pool. `config` has been checked.
    pub(crate) fn new(config: &Config) -> PoolState {
        PoolState {
            classes: config
                .classes
                .iter()
                .map(|&size| Class::new(size))
                .collect(),
            limit: config.limit,
            spent: 0,
            reserve: Reserve::Untouched,
            waiters: 0,
        }
    }

    pub(crate) fn checkout(&mut self, at_least: usize) -> Result<Box<Block>, CheckoutError> {
        let index = self.class_for(at_least);
        if index == self.classes.len() {
            let longest = self.longest();
            return Err(CheckoutError::TooLong { at_least, longest });
        }
        let overtakes = self.waiters > 0 && index == self.last();
        let taken = if overtakes { None } else { self.take(index) };
        taken.ok_or_else(|| {
            self.classes[index].count_refusal();
            CheckoutError::Exhausted
        })
    }

    /// Takes a buffer of the longest class for a waiter.
    pub(crate) fn redeem(&mut self, from: From) -> Option<(Box<Block>, Origin)> {
        if from != From::Reserve
            && let Some(block) = self.take(self.last())
        {
            return Some((block, Origin::General));
        }
        if from == From::General {
            return None;
        }
        let block = self.take_reserve()?;
        Some((block, Origin::Reserve))
    }

    /// Takes a buffer of the smallest class that holds `at_least` bytes, if it is smaller than
    /// `than` bytes and there is room for it beside the larger one.
    pub(crate) fn take_smaller(&mut self, than: usize, at_least: usize) -> Option<Box<Block>> {
        let index = self.class_for(at_least);
        if self.classes[index].size < than {
            self.take(index)
        } else {
            None
        }
    }

    /// Cuts a buffer of the general budget to the smallest class that holds `at_least` bytes.
    /// Needs no room, and cannot fail.
    pub(crate) fn cut(&mut self, bytes: Box<[u8]>, at_least: usize) -> Box<[u8]> {
        let from = self.class_for(bytes.len());
        let to = self.class_for(at_least);
        if to == from {
            return bytes;
        }
        self.spent -= self.classes[from].size - self.classes[to].size;
        let (shorter, longer) = self.classes.split_at_mut(from);
        let bytes = shorter[to].cut_from(&mut longer[0], bytes);
        self.check_invariants();
        bytes
    }

    pub(crate) fn give_back(&mut self, block: Box<Block>) {
        let class = &mut self.classes[self.class_for(block.bytes.len())];
        match block.origin {
            Origin::General => class.give_back(block),
            Origin::Reserve => {
                class.count_in();
                self.reserve = Reserve::Idle(block);
            }
        }
        self.check_invariants();
    }

    pub(crate) fn trim(&mut self) -> usize {
        let released = self.classes.iter_mut().map(Class::trim).sum();
        self.spent -= released;
        self.check_invariants();
        released
    }

    pub(crate) fn longest(&self) -> usize {
        self.classes[self.last()].size
    }

    /// Returns the bytes allocated for all buffers, in use and free.
    pub(crate) fn allocated(&self) -> usize {
        match self.reserve {
            Reserve::Untouched => self.spent,
            Reserve::Idle(_) | Reserve::InUse => self.spent + self.longest(),
        }
    }

    pub(crate) fn read_stats(&self, stats: &mut Stats) {
        stats.limit = self.limit;
        stats.allocated = self.allocated();
        stats.classes.clear();
        stats.classes.extend(self.class_stats());
    }

    /// Yields the counters of every class, the shortest first. Waiters and reserve belong to
    /// the longest.
    fn class_stats(&self) -> impl Iterator<Item = ClassStats> {
        let longest = self.last();
        self.classes.iter().enumerate().map(move |(index, class)| {
            let mut stats = class.stats();
            if index == longest {
                stats.waiters = self.waiters;
                stats.free += usize::from(matches!(self.reserve, Reserve::Idle(_)));
            }
            stats
        })
    }

    /// Returns the general budget, in bytes.
    fn budget(&self) -> usize {
        self.limit - self.longest()
    }

    fn last(&self) -> usize {
        self.classes.len() - 1
    }

    /// Returns the index of the smallest class that holds `len` bytes, or the number of classes
    /// if none does. The length of a buffer gives its own class.
    fn class_for(&self, len: usize) -> usize {
        self.classes
            .iter()
            .take_while(|class| class.size < len)
            .count()
    }

    /// Takes a buffer of a class from the general budget: a free one, otherwise a new one.
    fn take(&mut self, index: usize) -> Option<Box<Block>> {
        if let Some(block) = self.classes[index].reuse() {
            return Some(block);
        }
        let size = self.classes[index].size;
        if !self.make_room(size) {
            return None;
        }
        self.spent += size;
        let block = self.classes[index].allocate();
        self.check_invariants();
        Some(block)
    }

    /// Makes room for `size` more bytes in the general budget, by releasing free buffers if
    /// necessary; changes nothing if that is not enough.
    fn make_room(&mut self, size: usize) -> bool {
        let free: usize = self.classes.iter().map(Class::free_bytes).sum();
        // No overflow: `spent` is at most the budget, `size` at most the longest class, and
        // these two add up to the limit.
        let budget = self.budget();
        if self.spent - free + size > budget {
            return false;
        }
        // Longest first, to release the fewest buffers.
        for class in self.classes.iter_mut().rev() {
            while self.spent + size > budget && class.release_coldest() {
                self.spent -= class.size;
            }
        }
        true
    }

    fn take_reserve(&mut self) -> Option<Box<Block>> {
        let last = self.last();
        let class = &mut self.classes[last];
        let block = match mem::replace(&mut self.reserve, Reserve::InUse) {
            Reserve::Untouched => Some(class.allocate()),
            Reserve::Idle(block) => {
                class.count_out();
                Some(block)
            }
            Reserve::InUse => None,
        };
        self.check_invariants();
        block
    }

    /// Checks the invariants, in debug builds. Allocates nothing, for tests that count
    /// allocations.
    fn check_invariants(&self) {
        // Buffers are also given back while a panic unwinds; a second panic would hide it.
        if !cfg!(debug_assertions) || thread::panicking() {
            return;
        }
        let mut held = 0;
        for class in self.class_stats() {
            let count = class.in_use + class.free;
            let kept = class.misses - class.trimmed;
            assert_eq!(kept, count as u64, "{class}: allocated less released");
            assert!(class.high_water >= class.in_use, "{class}");
            held += count * class.size;
        }
        assert_eq!(held, self.allocated(), "the classes' bytes");
        assert!(self.spent <= self.budget(), "the general budget");
    }
}

/// The buffers of one size: free list and counters.
struct Class {
    size: usize,
    /// Buffers are pushed and popped at the back, where they are warm in the cache; cold ones
    /// are released at the front.
    free: VecDeque<Box<Block>>,
    /// The shortest length of `free` since the last trim: so many were not needed.
    lowest_free: usize,
    in_use: usize,
    high_water: usize,
    checkouts: u64,
    misses: u64,
    refusals: u64,
    trimmed: u64,
}

impl Class {
    fn new(size: usize) -> Class {
        Class {
            size,
            free: VecDeque::new(),
            lowest_free: 0,
            in_use: 0,
            high_water: 0,
            checkouts: 0,
            misses: 0,
            refusals: 0,
            trimmed: 0,
        }
    }

    fn free_bytes(&self) -> usize {
        self.free.len() * self.size
    }

    /// Takes the free buffer given back last.
    fn reuse(&mut self) -> Option<Box<Block>> {
        let block = self.free.pop_back()?;
        self.lowest_free = self.lowest_free.min(self.free.len());
        self.count_out();
        Some(block)
    }

    /// Allocates a buffer. The caller has made room.
    fn allocate(&mut self) -> Box<Block> {
        self.count_miss();
        Block::new(self.size)
    }

    /// Cuts a buffer of a longer class to this class, in place.
    fn cut_from(&mut self, longer: &mut Class, bytes: Box<[u8]>) -> Box<[u8]> {
        longer.count_in();
        longer.trimmed += 1;
        self.count_miss();
        let mut bytes = bytes.into_vec();
        bytes.truncate(self.size);
        bytes.into_boxed_slice()
    }

    fn give_back(&mut self, block: Box<Block>) {
        debug_assert_eq!(block.bytes.len(), self.size);
        self.count_in();
        self.free.push_back(block);
    }

    /// Releases the coldest free buffer; returns whether there was one.
    fn release_coldest(&mut self) -> bool {
        let released = self.free.pop_front().is_some();
        self.trimmed += u64::from(released);
        self.lowest_free = self.lowest_free.min(self.free.len());
        released
    }

    /// Releases half of the buffers not needed since the last call, but never the last free
    /// buffer; returns the bytes released.
    fn trim(&mut self) -> usize {
        let spare = self.free.len().saturating_sub(1);
        let released = self.lowest_free.div_ceil(2).min(spare);
        for _ in 0..released {
            self.release_coldest();
        }
        self.lowest_free = self.free.len();
        released * self.size
    }

    /// Counts a checkout.
    fn count_out(&mut self) {
        self.checkouts += 1;
        self.in_use += 1;
        self.high_water = self.high_water.max(self.in_use);
    }

    /// Counts a buffer given back.
    fn count_in(&mut self) {
        self.in_use -= 1;
    }

    fn count_refusal(&mut self) {
        self.refusals += 1;
    }

    /// Counts a checkout that needed memory. Reserves its place in the free list now, so that
    /// giving it back never allocates.
    fn count_miss(&mut self) {
        self.misses += 1;
        self.count_out();
        self.free.reserve(self.in_use);
    }

    /// Returns the counters without waiters and without the idle reserve.
    fn stats(&self) -> ClassStats {
        ClassStats {
            size: self.size,
            in_use: self.in_use,
            free: self.free.len(),
            high_water: self.high_water,
            checkouts: self.checkouts,
            misses: self.misses,
            refusals: self.refusals,
            waiters: 0,
            trimmed: self.trimmed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A class with `count` free buffers, all of them needed until now.
    fn class_with_free(count: usize) -> Class {
        let mut class = Class::new(8);
        let held: Vec<_> = (0..count).map(|_| class.allocate()).collect();
        for block in held {
            class.give_back(block);
        }
        class
    }

    #[test]
    fn the_first_trim_after_a_peak_only_starts_the_count() {
        let mut class = class_with_free(5);
        assert_eq!(class.trim(), 0);
        assert_eq!(class.trim(), 3 * 8, "half of five, rounded up");
    }

    #[test]
    fn trim_keeps_buffers_needed_in_between() {
        let mut class = class_with_free(10);
        class.trim();
        let needed: Vec<_> = (0..6).map_while(|_| class.reuse()).collect();
        for block in needed {
            class.give_back(block);
        }
        assert_eq!(class.trim(), 2 * 8, "four were never needed");
        assert_eq!(class.trim(), 4 * 8, "eight were left, none was needed");
    }

    #[test]
    fn a_buffer_released_to_make_room_counts_as_needed() {
        let mut class = class_with_free(8);
        class.trim();
        for _ in 0..4 {
            class.release_coldest();
        }
        assert_eq!(class.trim(), 2 * 8, "half of the four left");
    }

    #[test]
    fn trim_keeps_the_last_free_buffer() {
        let mut class = class_with_free(1);
        assert_eq!((class.trim(), class.trim()), (0, 0));
        assert!(class.reuse().is_some());
        assert_eq!(class.trim(), 0);
    }

    #[test]
    fn the_coldest_buffer_is_released_first() {
        let mut class = class_with_free(2);
        let warm = class.free[1].bytes.as_ptr();
        assert!(class.release_coldest());
        let left = class.reuse().unwrap();
        assert_eq!(left.bytes.as_ptr(), warm);
        assert!(!class.release_coldest());
        assert_eq!(class.stats().trimmed, 1);
    }

    #[test]
    fn giving_back_never_allocates() {
        let mut class = Class::new(8);
        let held: Vec<_> = (0..100).map(|_| class.allocate()).collect();
        let capacity = class.free.capacity();
        for block in held {
            class.give_back(block);
        }
        assert_eq!(class.free.capacity(), capacity);
    }
}
