//! The pool's books: who may have memory, and where it comes from.

use std::{mem, thread};

use crate::{CheckoutError, ClassStats, Config, From, Stats, block::Block, class::Class};

pub(crate) struct Ledger {
    /// Never empty, in ascending order of size.
    classes: Box<[Class]>,
    limit: usize,
    /// Bytes allocated for everything but the reserve, in use and free.
    spent: usize,
    reserve: Reserve,
    waiters: usize,
}

/// The one buffer of the longest class that is set aside for the queue's head.
enum Reserve {
    /// Its bytes are set aside, but not allocated yet.
    Untouched,
    Idle(Box<Block>),
    InUse,
}

/// Where a buffer's memory comes from, and has to go back to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    General,
    Reserve,
}

impl Ledger {
    /// The books of an empty pool. `config` has been checked.
    pub(crate) fn new(config: &Config) -> Ledger {
        Ledger {
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

    /// A buffer of the longest class for a waiter, from where it may come from.
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

    /// A buffer of the smallest class that holds `at_least` bytes, provided it is
    /// smaller than `than` bytes and there is room for it beside the larger one.
    pub(crate) fn take_smaller(&mut self, than: usize, at_least: usize) -> Option<Box<Block>> {
        let index = self.class_for(at_least);
        if self.classes[index].size() < than {
            self.take(index)
        } else {
            None
        }
    }

    /// Cuts a buffer of the general budget down to the smallest class that holds
    /// `at_least` bytes. This needs no room, hence cannot fail.
    pub(crate) fn cut(&mut self, bytes: Box<[u8]>, at_least: usize) -> Box<[u8]> {
        let from = self.class_for(bytes.len());
        let to = self.class_for(at_least);
        if to == from {
            return bytes;
        }
        self.spent -= self.classes[from].size() - self.classes[to].size();
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

    pub(crate) fn join_queue(&mut self) {
        self.waiters += 1;
    }

    pub(crate) fn leave_queue(&mut self) {
        self.waiters -= 1;
    }

    pub(crate) fn has_waiters(&self) -> bool {
        self.waiters > 0
    }

    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    pub(crate) fn longest(&self) -> usize {
        self.classes[self.last()].size()
    }

    /// Bytes allocated for all buffers, in use and free.
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

    /// Every class, the shortest first; waiters and reserve belong to the longest.
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

    /// What everybody but the queue's head shares, in bytes.
    fn budget(&self) -> usize {
        self.limit - self.longest()
    }

    fn last(&self) -> usize {
        self.classes.len() - 1
    }

    /// The index of the smallest class that holds `len` bytes; the number of
    /// classes if none does. A buffer's length leads back to its own class.
    fn class_for(&self, len: usize) -> usize {
        self.classes
            .iter()
            .take_while(|class| class.size() < len)
            .count()
    }

    /// A buffer of a class from the general budget: a free one, else a new one.
    fn take(&mut self, index: usize) -> Option<Box<Block>> {
        if let Some(block) = self.classes[index].reuse() {
            return Some(block);
        }
        let size = self.classes[index].size();
        if !self.make_room(size) {
            return None;
        }
        self.spent += size;
        let block = self.classes[index].allocate();
        self.check_invariants();
        Some(block)
    }

    /// Makes the general budget have room for `size` more bytes, at the cost of
    /// free buffers if need be; leaves all as it is if even that is not enough.
    fn make_room(&mut self, size: usize) -> bool {
        let free: usize = self.classes.iter().map(Class::free_bytes).sum();
        // No sum here overflows: `spent` is within the budget, `size` is at most
        // the longest class, and the two bounds add up to the limit.
        let budget = self.budget();
        if self.spent - free + size > budget {
            return false;
        }
        // Longest first, so that the fewest buffers go.
        for class in self.classes.iter_mut().rev() {
            while self.spent + size > budget && class.release_coldest() {
                self.spent -= class.size();
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

    /// The rules of bookkeeping, checked in debug builds wherever they could
    /// break. Allocates nothing, so that users who allocate nothing can be tested.
    fn check_invariants(&self) {
        // While a panic unwinds, buffers still come back; a second one would hide it.
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
