//! How a part of the server's state moves to another process.

/// Called with each copied item.
pub type Visit<'v, T> = &'v mut dyn FnMut(<T as Transfer>::Id, <T as Transfer>::Exported<'_>);

/// A table of connections or agents that moves to another process while it is in use.
///
/// The predecessor begins a copy, copies a bounded number of items between two turns, and records
/// which copied items change. Once it serves no longer, it copies the changes. The successor
/// imports each item as it arrives; the last state of an item is right.
pub trait Transfer: 'static {
    /// Names an item for both processes.
    type Id;
    /// The state of an item in the predecessor, or its end.
    type Exported<'a>;
    /// The same in the successor.
    type Imported;
    /// The reason why the successor cannot continue with an item.
    type Error;

    /// Begins a copy. From now on changes of copied items are recorded.
    fn begin_copy(&mut self);

    /// Copies up to `most` items that were never copied, new ones included. Returns whether none
    /// is left. Needs a copy that [has begun](Self::begin_copy).
    fn copy_some(&mut self, most: usize, visit: Visit<'_, Self>) -> bool;

    /// Returns how many items [`take_changes`](Self::take_changes) would copy, at most.
    fn changes(&self) -> usize;

    /// Copies up to `most` items that changed since they were copied, the oldest change first.
    fn take_changes(&mut self, most: usize, visit: Visit<'_, Self>);

    /// Ends a copy that failed. Changes are not recorded any more.
    fn end_copy(&mut self);

    /// Takes over an item, for the first time or again, or its end. In the successor, before its
    /// first turn.
    ///
    /// # Errors
    /// The hand-over cannot succeed.
    fn import(&mut self, id: Self::Id, state: Self::Imported) -> Result<(), Self::Error>;
}
