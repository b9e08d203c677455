//! The items of a table that changed since they were last copied to another process.
//!
//! The table keeps its items in slots. Connections and agents are copied while they are in
//! use, and copied again after a change; this set records what has to be copied again.

use std::collections::VecDeque;

/// Items that changed since their last copy, in FIFO order, each slot at most once. It may
/// contain items that have been removed from the table since.
#[derive(Debug)]
pub(crate) struct DirtySet<T> {
    /// By slot.
    marks: Vec<Mark>,
    queue: VecDeque<T>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mark {
    /// Not copied yet: its changes are not recorded.
    Untracked,
    /// The copy is up to date.
    Clean,
    /// In the queue.
    Dirty,
}

impl<T> Default for DirtySet<T> {
    fn default() -> Self {
        Self {
            marks: Vec::new(),
            queue: VecDeque::new(),
        }
    }
}

impl<T> DirtySet<T> {
    /// Records that the item in `slot` was copied just now.
    pub(crate) fn set_clean(&mut self, slot: usize) {
        if slot >= self.marks.len() {
            self.marks.resize(slot + 1, Mark::Untracked);
        }
        self.marks[slot] = Mark::Clean;
    }

    /// Appends `item`, which has changed, unless its slot was never copied or is in the queue.
    pub(crate) fn set_dirty(&mut self, slot: usize, item: T) {
        if let Some(mark @ Mark::Clean) = self.marks.get_mut(slot) {
            *mark = Mark::Dirty;
            self.queue.push_back(item);
        }
    }

    /// Stops tracking `slot`; returns whether its item had been copied. The item stays in the
    /// queue if it is there.
    pub(crate) fn untrack(&mut self, slot: usize) -> bool {
        let mark = self.marks.get_mut(slot);
        mark.is_some_and(|mark| std::mem::replace(mark, Mark::Untracked) != Mark::Untracked)
    }

    /// Removes and returns up to `most` items, the oldest change first. Each slot is to be
    /// [set clean](Self::set_clean) by the caller once its item is copied.
    pub(crate) fn take(&mut self, most: usize) -> Vec<T> {
        let taken = most.min(self.queue.len());
        self.queue.drain(..taken).collect()
    }

    /// Returns the length of the queue.
    pub(crate) fn len(&self) -> usize {
        self.queue.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn copied(slots: usize) -> DirtySet<usize> {
        let mut set = DirtySet::default();
        (0..slots).for_each(|slot| set.set_clean(slot));
        set
    }

    #[test]
    fn an_item_that_was_never_copied_is_not_recorded() {
        let mut set = copied(1);
        set.set_dirty(1, 1);
        assert_eq!(set.len(), 0);
        assert!(!set.untrack(1) && set.untrack(0));
        set.set_dirty(0, 0);
        assert_eq!(set.len(), 0);
    }

    #[test]
    fn an_item_that_changes_often_is_recorded_once_until_it_is_copied_again() {
        let mut set = copied(2);
        (0..3).for_each(|_| set.set_dirty(1, 1));
        assert_eq!((set.len(), set.take(9)), (1, vec![1]));
        set.set_dirty(1, 1);
        assert_eq!(set.len(), 0);
        set.set_clean(1);
        set.set_dirty(1, 1);
        assert_eq!(set.take(9), [1]);
    }

    #[test]
    fn the_oldest_change_is_taken_first() {
        let mut set = copied(3);
        for slot in [2, 0, 1, 2] {
            set.set_dirty(slot, slot);
        }
        assert_eq!(set.take(2), [2, 0]);
        set.set_clean(2);
        set.set_dirty(2, 2);
        assert_eq!((set.len(), set.take(1)), (2, vec![1]));
        assert_eq!(set.take(1), [2]);
    }
}
