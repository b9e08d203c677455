//! A place in the queue for a buffer of the longest class.

use crate::{Buffer, Pool};

/// A place in the queue, made by [`Pool::wait`]. Dropping it leaves the queue.
///
/// While there are tickets, every checkout of the longest class fails. Shorter classes are
/// still served, even from memory that the waiters could have used; the reserve ensures that
/// the head of the queue is served nevertheless.
#[derive(Debug)]
#[must_use = "dropping a ticket leaves the queue"]
pub struct WaitTicket {
    pool: Pool,
}

/// Where a buffer for a waiter may come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// The general budget only.
    General,
    /// The reserve only.
    Reserve,
    /// The general budget if it has room, otherwise the reserve.
    Either,
}

impl WaitTicket {
    pub(crate) fn new(pool: Pool) -> WaitTicket {
        pool.state().waiters += 1;
        WaitTicket { pool }
    }

    /// Exchanges the ticket for a buffer of the longest class: from the general budget if it
    /// has room, otherwise the reserve.
    ///
    /// The caller calls it for the head of the queue only: the pool does not track which ticket
    /// is the oldest.
    ///
    /// # Errors
    ///
    /// Returns the ticket, with its place, if there is no buffer. Try again when a buffer was
    /// given back.
    pub fn redeem(self) -> Result<Buffer, WaitTicket> {
        self.redeem_from(From::Either)
    }

    /// Like [`redeem`](Self::redeem), from the given source: for a caller with several queues
    /// that share the reserve.
    ///
    /// # Errors
    ///
    /// As [`redeem`](Self::redeem).
    pub fn redeem_from(self, from: From) -> Result<Buffer, WaitTicket> {
        let redeemed = self.pool.state().redeem(from);
        match redeemed {
            Some((block, origin)) => Ok(Buffer::new(self.pool.clone(), block, origin)),
            None => Err(self),
        }
    }
}

impl Drop for WaitTicket {
    fn drop(&mut self) {
        self.pool.state().waiters -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ClassStats, Config};

    const LONGEST: usize = 64;

    /// A pool with the reserve and one more buffer of the longest class.
    fn pool() -> Pool {
        let classes = vec![16, LONGEST];
        let limit = 2 * LONGEST;
        Pool::new(&Config { classes, limit }).unwrap()
    }

    fn longest(pool: &Pool) -> ClassStats {
        pool.stats().classes[1]
    }

    #[test]
    fn a_ticket_counts_until_it_is_dropped_or_redeemed() {
        let pool = pool();
        let (first, second) = (pool.wait(), pool.wait());
        assert_eq!(longest(&pool).waiters, 2);
        drop(second);
        assert_eq!(longest(&pool).waiters, 1);
        assert!(pool.has_waiters());
        let buffer = first.redeem().unwrap();
        assert_eq!(longest(&pool).waiters, 0);
        assert!(!pool.has_waiters());
        assert_eq!(buffer.len(), LONGEST);
    }

    #[test]
    fn the_general_budget_goes_before_the_reserve() {
        let pool = pool();
        let general = pool.wait().redeem().unwrap();
        let reserved = pool.wait().redeem().unwrap();
        assert!(!general.is_reserved());
        assert!(reserved.is_reserved());
        assert_eq!(pool.stats().allocated, pool.limit());
    }

    #[test]
    fn free_memory_of_other_classes_goes_before_the_reserve() {
        let pool = pool();
        drop(pool.checkout(1).unwrap());
        assert!(!pool.wait().redeem().unwrap().is_reserved());
        assert_eq!(pool.stats().classes[0].trimmed, 1);
    }

    #[test]
    fn a_ticket_that_finds_nothing_keeps_its_place() {
        let pool = pool();
        let held = [pool.wait().redeem().unwrap(), pool.wait().redeem().unwrap()];
        let ticket = pool.wait().redeem().unwrap_err();
        assert_eq!((longest(&pool).waiters, longest(&pool).refusals), (1, 0));
        drop(held);
        assert!(ticket.redeem().is_ok());
    }

    #[test]
    fn the_reserve_comes_back_and_only_a_ticket_gets_it() {
        let pool = pool();
        let general = pool.checkout(LONGEST).unwrap();
        let reserved = pool.wait().redeem().unwrap();
        let address = reserved.as_ptr();
        drop(reserved);
        assert!(pool.checkout(LONGEST).is_err());
        assert!(pool.checkout(1).is_err());
        let again = pool.wait().redeem().unwrap();
        assert!(again.is_reserved());
        assert_eq!(again.as_ptr(), address);
        assert_eq!(longest(&pool).in_use, 2);
        drop(general);
    }

    #[test]
    fn trimming_and_eviction_spare_the_reserve() {
        let pool = pool();
        drop([pool.wait().redeem(), pool.wait().redeem()]);
        assert_eq!(longest(&pool).free, 2);
        let small: Vec<_> = (0..4).map(|_| pool.checkout(1).unwrap()).collect();
        assert!(pool.checkout(1).is_err());
        assert_eq!((pool.trim(), pool.trim()), (0, 0));
        assert_eq!(longest(&pool).free, 1);
        drop(small);
    }

    #[test]
    fn a_waiter_may_leave_the_reserve_or_the_general_budget_to_others() {
        let pool = pool();
        let reserved = pool.wait().redeem_from(From::Reserve).unwrap();
        assert!(reserved.is_reserved());
        let ticket = pool.wait().redeem_from(From::Reserve).unwrap_err();
        let general = ticket.redeem_from(From::General).unwrap();
        assert!(!general.is_reserved());
        drop(reserved);
        let ticket = pool.wait().redeem_from(From::General).unwrap_err();
        assert!(ticket.redeem().unwrap().is_reserved());
        drop(general);
    }
}
