//! A connection's received bytes, in whatever pool buffer fits them.

use std::mem;

use hawk_pool::{Buffer, Pool};

use hawk_wire::MAX_FRAME;

/// Sizes of the pool's buffers, in bytes, each four times the one before.
///
/// The smallest holds the partial frame that a busy agent's read usually ends
/// in (the original's reports are 131 to 195 bytes). The longest holds a full
/// read of 64 KiB behind a partial frame of [`COPY_LIMIT`], and so also the
/// longest frame, in whole pages.
pub(crate) const CLASSES: [usize; 5] = [256, 1024, 4096, 16 * 1024, LONGEST];

pub(super) const LONGEST: usize = 64 * 1024 + COPY_LIMIT;
const _: () = assert!(LONGEST >= MAX_FRAME);

/// Up to this many held bytes are copied in front of the next read, so that
/// one large read takes everything the kernel has. Longer ones are appended to
/// where they lie until their buffer is full: a long frame that trickles in byte
/// by byte would otherwise be copied whole for every byte.
const COPY_LIMIT: usize = 4096;

/// What was received and not yet consumed; holds a buffer only while there is
/// something, or while a read is under way.
///
/// There is one in every connection: where the window begins and ends is kept with
/// the buffer.
#[derive(Debug, Default)]
pub(super) struct Input {
    buffer: Buffer,
}

impl Input {
    /// The bytes received and not yet consumed.
    pub(super) fn window(&self) -> &[u8] {
        &self.buffer[self.buffer.held()]
    }

    /// Whether it holds the pool's reserve.
    pub(super) fn has_reserve(&self) -> bool {
        self.buffer.is_reserved()
    }

    /// Bytes of the buffer that it holds.
    pub(super) fn capacity(&self) -> usize {
        self.buffer.len()
    }

    /// Marks the first `bytes` of the window as done with.
    pub(super) fn consume(&mut self, bytes: usize) {
        debug_assert!(bytes <= self.window().len());
        let held = self.buffer.held();
        let left = held.start + bytes..held.end;
        self.buffer.hold(if left.is_empty() { 0..0 } else { left });
    }

    /// Begins with these bytes, which were received elsewhere and fit into `buffer`.
    pub(super) fn begin_with(&mut self, mut buffer: Buffer, bytes: &[u8]) {
        buffer[..bytes.len()].copy_from_slice(bytes);
        buffer.hold(0..bytes.len());
        self.buffer = buffer;
    }

    /// Makes sure that [`space`](Self::space) is not empty, with the `granted`
    /// buffer if there is one, else from the pool if there is one to take from. Returns
    /// false when there is no buffer.
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

    /// Where the next read may write.
    pub(super) fn space(&mut self) -> &mut [u8] {
        let end = self.buffer.held().end;
        &mut self.buffer[end..]
    }

    /// Notes that a read wrote `bytes` into [`space`](Self::space).
    pub(super) fn filled(&mut self, bytes: usize) {
        let held = self.buffer.held();
        self.buffer.hold(held.start..held.end + bytes);
    }

    /// Ends a turn: nothing held, no buffer; else the smallest that holds it.
    pub(super) fn settle(&mut self) {
        if self.buffer.is_empty() {
            return;
        }
        let buffer = mem::take(&mut self.buffer);
        let held = buffer.held();
        if !held.is_empty() {
            self.buffer = buffer.shrink(held);
        }
    }

    /// Gives everything up.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Whether the buffer at hand is the right one to read into.
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

    /// Moves what is held to the front of its buffer.
    fn compact(&mut self) {
        let held = self.buffer.held();
        if held.start > 0 {
            self.buffer.hold(0..held.len());
            self.buffer.copy_within(held, 0);
        }
    }

    /// Moves what is held into a longer buffer.
    pub(super) fn move_to(&mut self, mut longer: Buffer) {
        let held = self.window();
        if !held.is_empty() {
            longer[..held.len()].copy_from_slice(held);
            longer.hold(0..held.len());
        }
        self.buffer = longer;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        input.settle();
        assert_eq!(in_use(&pool), [0; 5]);
    }

    #[test]
    fn a_partial_frame_moves_to_the_smallest_class_and_back_in_front_of_the_next_read() {
        let pool = pool();
        let mut input = Input::default();
        read(&mut input, &pool, &[7; 1000]);
        input.consume(900);
        input.settle();
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
        input.settle();
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
        input.settle();
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
        input.settle();
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
                input.settle();
            }
            assert_eq!(input.window().len(), MAX_FRAME);
        }
    }
}
