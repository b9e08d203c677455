//! A bounded, single-threaded pool of reusable byte buffers in size classes.
//!
//! It suits a server with many connections of which few have bytes in flight: a connection
//! checks a buffer out when bytes arrive, and has none while it is idle. Guarantees:
//!
//! * **Bounded.** [`Config::limit`] bounds the bytes of all buffers together, in use and
//!   free, without the pool's own state of some 60 bytes a buffer. Above the limit a checkout
//!   is refused; it never panics and never blocks.
//! * **Fair and free of starvation.** A refused caller joins a queue with [`Pool::wait`].
//!   While the queue is not empty, no checkout of the longest class overtakes it, and one
//!   buffer of that class, the *reserve*, is only for the queue.
//! * **Cheap.** Checking out a free buffer and giving it back allocates nothing and takes
//!   some ten nanoseconds together. After a peak, [`Pool::trim`] releases the memory step by
//!   step.
//!
//! It knows nothing of connections, networks or frames. Start reading at [`Pool::checkout`];
//! `state.rs` decides, `buffer.rs` is what the caller gets.
//!
//! # Example
//!
//! ```
//! use hawk_pool::{CheckoutError, Config, Pool};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let pool = Pool::new(&Config { classes: vec![1024, 16_384], limit: 32_768 })?;
//!
//! // Half a frame has arrived: keep it in the smallest buffer that holds it.
//! let mut buffer = pool.checkout(16_384)?;
//! buffer[..9].copy_from_slice(b"skip,half");
//! let half = buffer.shrink(5..9);
//! assert_eq!(half.len(), 1024);
//! assert_eq!(&half[..4], b"half");
//!
//! // One long buffer is the reserve, and part of the other's room is in use: the pool is
//! // exhausted. The head of the queue gets the reserve.
//! assert_eq!(pool.checkout(16_384).unwrap_err(), CheckoutError::Exhausted);
//! let ticket = pool.wait();
//! let buffer = ticket.redeem().expect("the reserve is idle");
//!
//! drop((half, buffer)); // both are given back
//! assert_eq!(
//!     pool.stats().classes[1].to_string(),
//!     "class=16384 in_use=0 free=1 high_water=1 checkouts=2 misses=2 refusals=1 waiters=0 trimmed=1",
//! );
//! # Ok(())
//! # }
//! ```
//!
//! # Terms
//!
//! | term            | meaning                                                         |
//! |-----------------|-----------------------------------------------------------------|
//! | checkout        | a buffer is handed out; dropping it *gives it back*             |
//! | class           | all buffers of one size                                         |
//! | high-water mark | the most buffers of a class that were ever in use at once       |
//! | miss            | a checkout for which memory had to be allocated                 |
//! | refusal         | a checkout the pool could not or, for fairness, would not serve |
//! | waiter          | a [`WaitTicket`] that was not redeemed                          |
//! | reserve         | one buffer of the longest class, for the head of the queue only |
//! | general budget  | the limit without the reserve                                   |
//! | trim            | release free memory: after a peak, or to make room elsewhere    |

#![cfg_attr(not(test), deny(clippy::expect_used, clippy::unreachable))]

mod buffer;
mod config;
mod state;
mod stats;
mod ticket;

use std::{
    cell::{RefCell, RefMut},
    error::Error,
    fmt,
    rc::Rc,
};

pub use buffer::Buffer;
pub use config::{Config, ConfigError};
pub use stats::{ClassStats, Stats};
pub use ticket::{From, WaitTicket};

use state::{Origin, PoolState};

/// A handle to the pool; clones share the same buffers.
///
/// Buffers and tickets may outlive every handle.
#[derive(Clone)]
pub struct Pool(Rc<RefCell<PoolState>>);

impl Pool {
    /// Makes an empty pool; memory is allocated at the first checkout.
    ///
    /// # Errors
    ///
    /// If there is no class, a class is zero, the classes do not ascend, or the
    /// limit is below two buffers of the longest class.
    pub fn new(config: &Config) -> Result<Pool, ConfigError> {
        config.check()?;
        Ok(Pool(Rc::new(RefCell::new(PoolState::new(config)))))
    }

    /// Checks out a buffer of the smallest class that holds `at_least` bytes.
    ///
    /// The buffer may contain old data: buffers are zeroed when they are allocated, not when
    /// they are reused.
    ///
    /// Free buffers of other classes are released if their memory is needed: only bytes *in
    /// use* lead to a refusal.
    ///
    /// # Errors
    ///
    /// [`CheckoutError::TooLong`] if no class holds `at_least` bytes;
    /// [`CheckoutError::Exhausted`] if the limit is reached, or if there is a queue for the
    /// class.
    pub fn checkout(&self, at_least: usize) -> Result<Buffer, CheckoutError> {
        let block = self.state().checkout(at_least)?;
        Ok(Buffer::new(self.clone(), block, Origin::General))
    }

    /// Joins the queue for a buffer of the longest class.
    ///
    /// The pool only counts the waiters. The caller keeps the tickets in order and redeems the
    /// oldest first.
    pub fn wait(&self) -> WaitTicket {
        WaitTicket::new(self.clone())
    }

    /// Returns whether there are waiters. Users of a buffer of the longest class should then
    /// give it back early, above all the reserve, which does not shrink in a full pool.
    #[must_use]
    pub fn has_waiters(&self) -> bool {
        self.state().waiters > 0
    }

    /// Returns the size of the longest class, in bytes.
    #[must_use]
    pub fn longest(&self) -> usize {
        self.state().longest()
    }

    /// Returns the limit of the bytes of all buffers, in use and free, with the reserve.
    #[must_use]
    pub fn limit(&self) -> usize {
        self.state().limit
    }

    /// Releases free buffers that were not needed since the previous call; returns the bytes
    /// released.
    ///
    /// The lowest number of free buffers of a class since then was not needed. Half of it is
    /// released, rounded up, but never the last free buffer. Called at intervals, this
    /// releases the memory of a peak geometrically, and keeps some over a quiet moment.
    pub fn trim(&self) -> usize {
        self.state().trim()
    }

    /// Returns the counters.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let mut stats = Stats::default();
        self.read_stats(&mut stats);
        stats
    }

    /// Like [`Pool::stats`], but refills `stats`: allocates nothing from the second call on.
    pub fn read_stats(&self, stats: &mut Stats) {
        self.state().read_stats(stats);
    }

    /// Borrows the state for one call. It makes no callbacks, so that borrows never overlap.
    fn state(&self) -> RefMut<'_, PoolState> {
        self.0.borrow_mut()
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state();
        f.debug_struct("Pool")
            .field("limit", &state.limit)
            .field("allocated", &state.allocated())
            .finish_non_exhaustive()
    }
}

/// Why a checkout gave no buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckoutError {
    /// The limit is reached, or there is a queue for this class. Temporary: wait for a buffer.
    Exhausted,
    /// No class holds that many bytes. Permanent, and not counted as a refusal.
    TooLong {
        /// The requested length, in bytes.
        at_least: usize,
        /// The length of the longest class, in bytes.
        longest: usize,
    },
}

impl fmt::Display for CheckoutError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exhausted => f.write_str("the buffer pool is exhausted"),
            Self::TooLong { at_least, longest } => write!(
                f,
                "{at_least} bytes do not fit the longest buffer of {longest} bytes"
            ),
        }
    }
}

impl Error for CheckoutError {}

#[cfg(test)]
mod tests {
    use super::*;

    const CLASSES: [usize; 3] = [16, 64, 256];

    /// A pool with a general budget of `budget` bytes.
    fn pool(budget: usize) -> Pool {
        let limit = budget + CLASSES[2];
        let classes = CLASSES.to_vec();
        Pool::new(&Config { classes, limit }).unwrap()
    }

    #[test]
    fn checkout_returns_the_smallest_class_that_is_long_enough() {
        let pool = pool(4096);
        for (at_least, size) in [(0, 16), (16, 16), (17, 64), (64, 64), (65, 256), (256, 256)] {
            assert_eq!(pool.checkout(at_least).unwrap().len(), size);
        }
    }

    #[test]
    fn a_checkout_longer_than_every_class_is_an_error() {
        let pool = pool(4096);
        for at_least in [257, usize::MAX] {
            let error = pool.checkout(at_least).unwrap_err();
            let longest = 256;
            assert_eq!(error, CheckoutError::TooLong { at_least, longest });
        }
        assert_eq!(pool.stats().allocated, 0);
    }

    #[test]
    fn new_buffers_are_zeroed_and_reused_ones_are_not() {
        let pool = pool(4096);
        let mut buffer = pool.checkout(16).unwrap();
        assert_eq!(*buffer, [0; 16]);
        buffer.fill(7);
        drop(buffer);
        assert_eq!(*pool.checkout(16).unwrap(), [7; 16]);
    }

    #[test]
    fn the_last_given_back_is_the_first_reused() {
        let pool = pool(4096);
        let (a, b) = (pool.checkout(64).unwrap(), pool.checkout(64).unwrap());
        let (address_a, address_b) = (a.as_ptr(), b.as_ptr());
        drop(b);
        drop(a);
        let first = pool.checkout(64).unwrap();
        let second = pool.checkout(64).unwrap();
        assert_eq!((first.as_ptr(), second.as_ptr()), (address_a, address_b));
        assert_eq!(pool.stats().classes[1].misses, 2);
    }

    #[test]
    fn the_general_budget_is_the_limit_less_the_reserve() {
        let pool = pool(512);
        let held = [pool.checkout(256).unwrap(), pool.checkout(256).unwrap()];
        assert_eq!(pool.checkout(1).unwrap_err(), CheckoutError::Exhausted);
        assert_eq!(pool.stats().classes[0].refusals, 1);
        drop(held);
        assert!(pool.checkout(1).is_ok());
    }

    #[test]
    fn free_buffers_of_other_classes_make_room_from_the_longest_down() {
        let pool = pool(256 + 64);
        drop((pool.checkout(256), pool.checkout(64)));
        let small: Vec<_> = (0..4).map(|_| pool.checkout(16).unwrap()).collect();
        let classes = pool.stats().classes;
        assert_eq!((classes[2].trimmed, classes[2].free), (1, 0));
        assert_eq!((classes[1].trimmed, classes[1].free), (0, 1));
        drop(small);
        drop(pool.checkout(256).unwrap());
        assert!(pool.stats().allocated <= 256 + 64);
    }

    #[test]
    fn free_buffers_stay_while_there_is_just_enough_room() {
        let pool = pool(256 + 64);
        drop(pool.checkout(256).unwrap());
        let _held = pool.checkout(64).unwrap();
        assert_eq!(pool.stats().classes[2].free, 1);
    }

    #[test]
    fn nothing_is_evicted_for_a_checkout_that_is_refused_all_the_same() {
        let pool = pool(256);
        let held = pool.checkout(64).unwrap();
        drop(pool.checkout(16).unwrap());
        assert_eq!(pool.checkout(256).unwrap_err(), CheckoutError::Exhausted);
        assert_eq!(pool.stats().classes[0].free, 1);
        assert_eq!(pool.stats().classes[0].trimmed, 0);
        drop(held);
    }

    #[test]
    fn a_checkout_does_not_overtake_a_waiter() {
        let pool = pool(512);
        let ticket = pool.wait();
        assert_eq!(pool.checkout(256).unwrap_err(), CheckoutError::Exhausted);
        assert_eq!(pool.stats().classes[2].refusals, 1);
        assert!(
            pool.checkout(64).is_ok(),
            "there is no queue for this class"
        );
        drop(ticket);
        assert!(pool.checkout(256).is_ok());
    }

    #[test]
    fn trim_keeps_needed_buffers_and_halves_the_rest() {
        let pool = pool(16 * 16);
        let peak: Vec<_> = (0..16).map(|_| pool.checkout(16).unwrap()).collect();
        drop(peak);
        let released: Vec<_> = (0..6).map(|_| pool.trim()).collect();
        assert_eq!(released, [0, 8 * 16, 4 * 16, 2 * 16, 16, 0]);
        assert_eq!(pool.stats().classes[0].trimmed, 15);
        assert_eq!(pool.stats().allocated, 16);
    }

    #[test]
    fn a_refilled_stats_equals_a_new_one() {
        let pool = pool(4096);
        let mut stats = pool.stats();
        let _held = pool.checkout(1).unwrap();
        pool.read_stats(&mut stats);
        assert_eq!(stats, pool.stats());
        assert_eq!((stats.limit, stats.allocated), (4096 + 256, 16));
    }
}
