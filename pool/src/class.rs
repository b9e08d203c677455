//! One size class: its free list and its counters.

use std::collections::VecDeque;

use crate::{ClassStats, block::Block};

pub(crate) struct Class {
    size: usize,
    /// Buffers come and go at the back, where they are warm in the cache; the
    /// cold ones at the front are the first released.
    free: VecDeque<Box<Block>>,
    /// The shortest `free` has been since the last trim: so many were not needed.
    lowest_free: usize,
    in_use: usize,
    high_water: usize,
    checkouts: u64,
    misses: u64,
    refusals: u64,
    trimmed: u64,
}

impl Class {
    pub(crate) fn new(size: usize) -> Class {
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

    pub(crate) fn size(&self) -> usize {
        self.size
    }

    pub(crate) fn free_bytes(&self) -> usize {
        self.free.len() * self.size
    }

    /// Hands out the free buffer given back last.
    pub(crate) fn reuse(&mut self) -> Option<Box<Block>> {
        let block = self.free.pop_back()?;
        self.lowest_free = self.lowest_free.min(self.free.len());
        self.count_out();
        Some(block)
    }

    /// Hands out a new buffer. The caller has made sure of the room.
    pub(crate) fn allocate(&mut self) -> Box<Block> {
        self.count_miss();
        Block::new(self.size)
    }

    /// Hands out the front of a longer class's buffer, cut off in its place.
    pub(crate) fn cut_from(&mut self, longer: &mut Class, bytes: Box<[u8]>) -> Box<[u8]> {
        longer.count_in();
        longer.trimmed += 1;
        self.count_miss();
        let mut bytes = bytes.into_vec();
        bytes.truncate(self.size);
        bytes.into_boxed_slice()
    }

    pub(crate) fn give_back(&mut self, block: Box<Block>) {
        debug_assert_eq!(block.bytes.len(), self.size);
        self.count_in();
        self.free.push_back(block);
    }

    /// Releases the coldest free buffer; says whether there was one.
    pub(crate) fn release_coldest(&mut self) -> bool {
        let released = self.free.pop_front().is_some();
        self.trimmed += u64::from(released);
        self.lowest_free = self.lowest_free.min(self.free.len());
        released
    }

    /// Releases half of what was not needed since the last call, but never the
    /// last free buffer; returns the bytes released.
    pub(crate) fn trim(&mut self) -> usize {
        let spare = self.free.len().saturating_sub(1);
        let released = self.lowest_free.div_ceil(2).min(spare);
        for _ in 0..released {
            self.release_coldest();
        }
        self.lowest_free = self.free.len();
        released * self.size
    }

    /// A buffer goes out.
    pub(crate) fn count_out(&mut self) {
        self.checkouts += 1;
        self.in_use += 1;
        self.high_water = self.high_water.max(self.in_use);
    }

    /// A buffer comes in.
    pub(crate) fn count_in(&mut self) {
        self.in_use -= 1;
    }

    pub(crate) fn count_refusal(&mut self) {
        self.refusals += 1;
    }

    /// A buffer goes out whose memory is new to the class. Its place in the free
    /// list is made now, while we allocate anyway: giving back never allocates.
    fn count_miss(&mut self) {
        self.misses += 1;
        self.count_out();
        self.free.reserve(self.in_use);
    }

    /// The counters as far as the class knows them: it has no waiters, and does
    /// not see the idle reserve.
    pub(crate) fn stats(&self) -> ClassStats {
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
    fn trim_spares_what_was_needed_in_between() {
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
    fn a_buffer_released_to_make_room_was_needed() {
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
    fn the_coldest_goes_first() {
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
