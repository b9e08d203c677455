//! The counters of a pool.

use std::fmt;

/// The counters of a pool, as returned by [`Pool::stats`](crate::Pool::stats).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// The limit of `allocated`, in bytes.
    pub limit: usize,
    /// Bytes of all buffers, in use and free. The reserve counts from its first use on.
    pub allocated: usize,
    /// Every class, the shortest first.
    pub classes: Vec<ClassStats>,
}

/// The counters of one class. The reserve belongs to the longest class.
///
/// Displayed as one line of `key=value` pairs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClassStats {
    /// The size of the class's buffers, in bytes.
    pub size: usize,
    /// Buffers checked out now.
    pub in_use: usize,
    /// Buffers allocated and not in use, the idle reserve among them.
    pub free: usize,
    /// The most buffers ever in use at once.
    pub high_water: usize,
    /// Checkouts so far: direct, by ticket, or by a shrink into this class.
    pub checkouts: u64,
    /// Checkouts for which memory had to be allocated.
    pub misses: u64,
    /// Checkouts refused so far. A ticket not redeemed yet is no refusal.
    pub refusals: u64,
    /// Tickets not redeemed now. Only the longest class has waiters.
    pub waiters: usize,
    /// Buffers released so far: trimmed, or to make room for others.
    pub trimmed: u64,
}

impl fmt::Display for ClassStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Names every field, so that the compiler reports a missing one.
        let Self {
            size,
            in_use,
            free,
            high_water,
            checkouts,
            misses,
            refusals,
            waiters,
            trimmed,
        } = self;
        write!(
            f,
            "class={size} in_use={in_use} free={free} high_water={high_water} \
             checkouts={checkouts} misses={misses} refusals={refusals} \
             waiters={waiters} trimmed={trimmed}"
        )
    }
}

#[cfg(test)]
mod tests {
    use crate::{Config, Pool};

    #[test]
    fn a_class_is_displayed_as_one_line() {
        let classes = vec![4096];
        let limit = 8192;
        let pool = Pool::new(&Config { classes, limit }).unwrap();
        for _ in 0..10 {
            drop(pool.checkout(1).unwrap());
        }
        assert_eq!(
            pool.stats().classes[0].to_string(),
            "class=4096 in_use=0 free=1 high_water=1 checkouts=10 misses=1 refusals=0 waiters=0 trimmed=0"
        );
    }
}
