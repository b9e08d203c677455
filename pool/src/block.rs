//! The memory of a buffer, in use or free.

use std::ops::Range;

use crate::{Pool, ledger::Origin};

/// The bytes of a buffer and all else that belongs to it, behind one pointer: a
/// [`Buffer`](crate::Buffer) sits in every connection, a block only where there are
/// bytes. It is allocated with its bytes and goes with them.
pub(crate) struct Block {
    /// As many as the class has.
    pub(crate) bytes: Box<[u8]>,
    /// Which of them its user holds. Half of a `Range<usize>`; no class is longer.
    pub(crate) used: Range<u32>,
    pub(crate) origin: Origin,
    /// Where it goes back to. `None` while it is there: free blocks would keep the
    /// pool alive, and the pool them.
    pub(crate) pool: Option<Pool>,
}

impl Block {
    /// A free one of `size` zeroes.
    pub(crate) fn new(size: usize) -> Box<Block> {
        Box::new(Block {
            bytes: vec![0; size].into_boxed_slice(),
            used: 0..0,
            origin: Origin::General,
            pool: None,
        })
    }
}
