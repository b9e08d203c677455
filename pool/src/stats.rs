//! What a pool tells about itself.

use std::fmt;

/// A moment of a whole pool, as of [`Pool::stats`](crate::Pool::stats).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// The bound on `allocated`, in bytes.
    pub limit: usize,
    /// The bytes of all buffers, in use and free. The reserve counts from its
    /// first use on.
    pub allocated: usize,
    /// Every class, the shortest first.
    pub classes: Vec<ClassStats>,
}

/// A moment of one class. The reserve belongs to the longest class.
///
/// Its text is one line of `key=value` pairs, for people and programs alike.
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
    /// Buffers handed out so far: by checkout, by ticket, by a shrink into this
    /// class.
    pub checkouts: u64,
    /// Checkouts for which memory had to be allocated.
    pub misses: u64,
    /// Checkouts refused so far. A ticket not redeemed yet is no refusal.
    pub refusals: u64,
    /// Tickets held now. Only the longest class has waiters.
    pub waiters: usize,
    /// Buffers released so far: trimmed, or given up to make room for others.
    pub trimmed: u64,
}

impl fmt::Display for ClassStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Naming every field makes the compiler notice one that is left out.
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
    fn a_class_writes_itself_as_one_line() {
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
