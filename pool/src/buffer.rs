//! A buffer in use.

use std::{
    fmt, mem,
    ops::{Deref, DerefMut, Range},
};

use crate::{Pool, state::Origin};

/// A buffer checked out of a [`Pool`]; dropping it gives it back.
///
/// It is a slice of bytes as long as its class, and may contain old data. It stores the
/// [range in use](Self::set_used), so that a user without a buffer needs only one pointer.
///
/// The default has no bytes and no pool, as an empty `Vec` has no memory.
#[derive(Default)]
#[must_use = "dropping a buffer gives it back"]
pub struct Buffer(Option<Box<Block>>);

// Every connection has one, and few have bytes in it.
const _: () = assert!(size_of::<Buffer>() == size_of::<usize>());

impl Buffer {
    pub(crate) fn new(pool: Pool, mut block: Box<Block>, origin: Origin) -> Buffer {
        block.pool = Some(pool);
        block.origin = origin;
        block.used = 0..0;
        Buffer(Some(block))
    }

    /// Returns the range in use; empty in a new buffer.
    #[inline]
    #[must_use]
    pub fn used(&self) -> Range<usize> {
        match &self.0 {
            Some(block) => block.used.start as usize..block.used.end as usize,
            None => 0..0,
        }
    }

    /// Sets the range in use.
    #[inline]
    pub fn set_used(&mut self, used: Range<usize>) {
        debug_assert!(used.start <= used.end && used.end <= self.len());
        if let Some(block) = &mut self.0 {
            block.used = offset(used.start)..offset(used.end);
        }
    }

    /// Moves the bytes `keep` to the front of a buffer of the smallest class that holds them,
    /// and gives the larger buffer back. They are [in use](Self::used) then; the bytes after
    /// them are zeroes or old data.
    ///
    /// Never refused. If the pool is full, a buffer of the general budget is cut in place; the
    /// reserve stays as long as it is, until a later `shrink` finds room for a smaller buffer.
    ///
    /// # Panics
    ///
    /// If `keep` is not a range within the buffer, as when slicing.
    pub fn shrink(mut self, keep: Range<usize>) -> Buffer {
        // Slice first, so that a wrong range panics before anything moves.
        let kept = self[keep.clone()].len();
        let Some((block, pool)) = self.in_use() else {
            return self;
        };
        let smaller = pool.state().take_smaller(block.bytes.len(), kept);
        if let Some(smaller) = smaller {
            let mut small = Buffer::new(pool, smaller, Origin::General);
            small[..kept].copy_from_slice(&self[keep]);
            small.set_used(0..kept);
            return small;
        }
        block.bytes.copy_within(keep, 0);
        if block.origin == Origin::General {
            let bytes = mem::take(&mut block.bytes);
            block.bytes = pool.state().cut(bytes, kept);
        }
        self.set_used(0..kept);
        self
    }

    /// Returns whether this is the pool's reserve, which the head of the queue may need.
    #[must_use]
    pub fn is_reserved(&self) -> bool {
        let block = self.0.as_ref();
        block.is_some_and(|block| block.origin == Origin::Reserve)
    }

    /// Returns its block and its pool.
    fn in_use(&mut self) -> Option<(&mut Block, Pool)> {
        let block = self.0.as_mut()?;
        let pool = block.pool.clone()?;
        Some((block, pool))
    }
}

/// The memory of a buffer, in use or free: its bytes and its fields, behind one pointer.
pub(crate) struct Block {
    /// As long as the class.
    pub(crate) bytes: Box<[u8]>,
    /// The range in use.
    pub(crate) used: Range<u32>,
    pub(crate) origin: Origin,
    /// The pool that it returns to. `None` while it is free: the pool owns free blocks, and
    /// must not own itself.
    pub(crate) pool: Option<Pool>,
}

impl Block {
    /// A free block of `size` zeroes.
    pub(crate) fn new(size: usize) -> Box<Block> {
        Box::new(Block {
            bytes: vec![0; size].into_boxed_slice(),
            used: 0..0,
            origin: Origin::General,
            pool: None,
        })
    }
}

/// Converts an offset: `Config::check` refuses longer classes.
#[allow(clippy::cast_possible_truncation)]
const fn offset(bytes: usize) -> u32 {
    bytes as u32
}

impl Deref for Buffer {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        match &self.0 {
            Some(block) => &block.bytes,
            None => &[],
        }
    }
}

impl DerefMut for Buffer {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        match &mut self.0 {
            Some(block) => &mut block.bytes,
            None => &mut [],
        }
    }
}

impl Drop for Buffer {
    #[inline]
    fn drop(&mut self) {
        if let Some(block) = self.0.take() {
            give_back(block);
        }
    }
}

fn give_back(mut block: Box<Block>) {
    if let Some(pool) = block.pool.take() {
        pool.state().give_back(block);
    }
}

/// Shows the size and not the bytes, which may be confidential or old.
impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Buffer")
            .field("len", &self.len())
            .field("is_reserved", &self.is_reserved())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Config;

    /// A pool with the reserve of 64 bytes and a general budget of `budget`.
    fn pool(budget: usize) -> Pool {
        let classes = vec![8, 16, 64];
        let limit = budget + 64;
        Pool::new(&Config { classes, limit }).unwrap()
    }

    /// Writes 0, 1, 2 ... into a buffer, so that moved bytes show their origin.
    fn numbered(mut buffer: Buffer) -> Buffer {
        for (number, byte) in (0..).zip(buffer.iter_mut()) {
            *byte = number;
        }
        buffer
    }

    #[test]
    fn a_buffer_stores_the_range_in_use() {
        let pool = pool(1024);
        let mut buffer = pool.checkout(64).unwrap();
        assert_eq!(buffer.used(), 0..0);
        buffer.set_used(30..40);
        assert_eq!(buffer.used(), 30..40);
        assert_eq!(buffer.shrink(30..40).used(), 0..10);
        assert_eq!(pool.checkout(64).unwrap().used(), 0..0);
    }

    #[test]
    fn no_buffer_has_no_bytes_and_is_of_no_pool() {
        let mut none = Buffer::default();
        assert!(none.is_empty() && !none.is_reserved());
        none.set_used(0..0);
        assert_eq!(none.shrink(0..0).used(), 0..0);
    }

    #[test]
    fn shrink_moves_the_bytes_to_the_smallest_class() {
        let pool = pool(1024);
        let buffer = numbered(pool.checkout(64).unwrap()).shrink(30..40);
        assert_eq!(buffer.len(), 16);
        assert_eq!(buffer[..10], [30, 31, 32, 33, 34, 35, 36, 37, 38, 39]);
        let classes = pool.stats().classes;
        assert_eq!((classes[1].in_use, classes[1].checkouts), (1, 1));
        assert_eq!((classes[2].in_use, classes[2].free), (0, 1));
    }

    #[test]
    fn shrink_within_the_class_moves_the_bytes_in_place() {
        let pool = pool(1024);
        let buffer = numbered(pool.checkout(16).unwrap());
        let address = buffer.as_ptr();
        let buffer = buffer.shrink(4..14);
        assert_eq!(buffer.as_ptr(), address);
        assert_eq!(buffer[..10], [4, 5, 6, 7, 8, 9, 10, 11, 12, 13]);
        assert_eq!(pool.stats().classes[1].checkouts, 1);
    }

    #[test]
    fn shrink_to_nothing_is_the_smallest_class() {
        let pool = pool(1024);
        assert_eq!(pool.checkout(64).unwrap().shrink(64..64).len(), 8);
    }

    #[test]
    fn shrink_in_a_full_pool_cuts_the_buffer_in_its_place() {
        let pool = pool(64);
        let buffer = numbered(pool.checkout(64).unwrap()).shrink(61..64);
        assert_eq!((buffer.len(), &buffer[..3]), (8, &[61, 62, 63][..]));
        assert!(!buffer.is_reserved());
        let stats = pool.stats();
        assert_eq!(stats.allocated, 8);
        assert_eq!((stats.classes[0].misses, stats.classes[2].trimmed), (1, 1));
        assert!(pool.checkout(16).is_ok(), "the rest is free for others");
    }

    #[test]
    fn shrinking_the_reserve_waits_for_room() {
        let pool = pool(64);
        let general = pool.checkout(64).unwrap();
        let reserved = numbered(pool.wait().redeem().unwrap()).shrink(8..12);
        assert!(reserved.is_reserved());
        assert_eq!(reserved[..4], [8, 9, 10, 11]);

        drop(general);
        let small = reserved.shrink(1..4);
        assert!(!small.is_reserved());
        assert_eq!((small.len(), &small[..3]), (8, &[9, 10, 11][..]));
        assert_eq!(pool.stats().classes[2].in_use, 0);
        let refusals = pool
            .stats()
            .classes
            .iter()
            .map(|class| class.refusals)
            .sum::<u64>();
        assert_eq!(refusals, 0, "a shrink is never refused");
    }

    #[test]
    fn a_wrong_range_panics_and_the_buffer_still_comes_back() {
        let pool = pool(1024);
        let buffer = pool.checkout(8).unwrap();
        let shrunk = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| buffer.shrink(4..9)));
        assert!(shrunk.is_err());
        let class = pool.stats().classes[0];
        assert_eq!((class.in_use, class.free), (0, 1));
    }

    #[test]
    fn a_buffer_may_outlive_the_pool() {
        let pool = pool(64);
        let general = pool.checkout(64).unwrap();
        let mut reserved = pool.wait().redeem().unwrap();
        drop(pool);
        reserved.fill(1);
        assert_eq!(general.shrink(0..4).len(), 8);
        assert_eq!(reserved.shrink(0..4)[..4], [1; 4]);
    }

    #[test]
    fn debug_shows_the_size_and_not_the_bytes() {
        let buffer = pool(1024).checkout(5).unwrap();
        assert_eq!(
            format!("{buffer:?}"),
            "Buffer { len: 8, is_reserved: false, .. }"
        );
    }
}
