//! What a successor has seen of the connections, and what has changed since.

use std::collections::VecDeque;

use super::super::connections::ConnectionId;

/// The notes of one copy. A slot's mark tells whether there is something to note at
/// all, so that a busy connection is noted once and not for every turn it has.
#[derive(Debug)]
pub(in crate::reactor) struct Notes {
    marks: Vec<Mark>,
    /// Who was not shown yet, oldest first; and some who are gone.
    unseen: VecDeque<ConnectionId>,
    /// Who is not as it was shown, in the order in which they changed, and some who are
    /// gone.
    changed: VecDeque<ConnectionId>,
    /// Who was shown and has ended.
    closed: Vec<ConnectionId>,
}

/// What is known of the connection in a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mark {
    Nobody,
    Unseen,
    Shown,
    Changed,
}

impl Notes {
    /// Nobody of `all` was shown yet.
    pub(super) fn new(all: Vec<ConnectionId>) -> Self {
        let mut notes = Self {
            marks: Vec::new(),
            unseen: all.into(),
            changed: VecDeque::new(),
            closed: Vec::new(),
        };
        for place in 0..notes.unseen.len() {
            let id = notes.unseen[place];
            *notes.mark(id) = Mark::Unseen;
        }
        notes
    }

    /// Something may have happened to this one, who may be new.
    pub(in crate::reactor) fn touched(&mut self, id: ConnectionId) {
        let mark = self.mark(id);
        match *mark {
            Mark::Shown => {
                *mark = Mark::Changed;
                self.changed.push_back(id);
            }
            Mark::Nobody => {
                *mark = Mark::Unseen;
                self.unseen.push_back(id);
            }
            Mark::Unseen | Mark::Changed => {}
        }
    }

    /// This one has ended; whether it was shown.
    pub(in crate::reactor) fn ended(&mut self, id: ConnectionId) -> bool {
        let before = std::mem::replace(self.mark(id), Mark::Nobody);
        let was_shown = matches!(before, Mark::Shown | Mark::Changed);
        if was_shown {
            self.closed.push(id);
        }
        was_shown
    }

    /// The next who was not shown; it may be gone.
    pub(super) fn next_unseen(&mut self) -> Option<ConnectionId> {
        self.unseen.pop_front()
    }

    /// How many were not shown, at most.
    pub(super) fn unseen(&self) -> usize {
        self.unseen.len()
    }

    /// This one was shown just now; not all of it, if it is `owed` something.
    pub(super) fn shown(&mut self, id: ConnectionId, owed: bool) {
        *self.mark(id) = Mark::Shown;
        if owed {
            self.touched(id);
        }
    }

    /// How many were shown and are gone.
    pub(super) fn closed(&self) -> usize {
        self.closed.len()
    }

    pub(super) fn take_closed(&mut self) -> Vec<ConnectionId> {
        std::mem::take(&mut self.closed)
    }

    /// Up to `most` of those who are not as they were shown; each may be gone.
    pub(super) fn take_changed(&mut self, most: usize) -> Vec<ConnectionId> {
        let taken = most.min(self.changed.len());
        self.changed.drain(..taken).collect()
    }

    /// How many there are to be shown, at most.
    pub(super) fn len(&self) -> usize {
        self.unseen.len() + self.changed.len() + self.closed.len()
    }

    fn mark(&mut self, id: ConnectionId) -> &mut Mark {
        let slot = id.slot as usize;
        if slot >= self.marks.len() {
            self.marks.resize(slot + 1, Mark::Nobody);
        }
        &mut self.marks[slot]
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::kernel::SocketToken;
    use super::*;

    fn id(slot: u64, generation: u64) -> ConnectionId {
        ConnectionId::from_token(SocketToken(generation << 32 | slot))
    }

    #[test]
    fn who_has_many_turns_is_noted_once_until_it_is_shown_again() {
        let mut notes = Notes::new(vec![id(0, 0), id(1, 1)]);
        notes.touched(id(0, 0));
        assert_eq!(notes.len(), 2);
        for all in [id(0, 0), id(1, 1)] {
            assert_eq!(notes.next_unseen(), Some(all));
            notes.shown(all, false);
        }
        assert_eq!(notes.len(), 0);
        for _ in 0..3 {
            notes.touched(id(1, 1));
        }
        assert_eq!((notes.len(), notes.take_changed(9)), (1, vec![id(1, 1)]));
        notes.shown(id(1, 1), false);
        notes.touched(id(1, 1));
        assert_eq!(notes.take_changed(9), [id(1, 1)]);
    }

    #[test]
    fn who_has_changed_longest_is_taken_first() {
        let ids = [id(0, 0), id(1, 1), id(2, 2)];
        let mut notes = Notes::new(ids.to_vec());
        while let Some(next) = notes.next_unseen() {
            notes.shown(next, false);
        }
        for changed in [ids[2], ids[0], ids[1], ids[2]] {
            notes.touched(changed);
        }
        assert_eq!(notes.take_changed(2), [ids[2], ids[0]]);
        notes.shown(ids[2], false);
        notes.touched(ids[2]);
        assert_eq!((notes.len(), notes.take_changed(1)), (2, vec![ids[1]]));
        notes.shown(ids[1], false);
        assert_eq!(notes.take_changed(1), [ids[2]]);
        assert_eq!(notes.len(), 0);
    }

    #[test]
    fn who_is_owed_a_reply_is_to_be_shown_again() {
        let mut notes = Notes::new(vec![id(0, 0)]);
        assert_eq!(notes.next_unseen(), Some(id(0, 0)));
        notes.shown(id(0, 0), true);
        assert_eq!(notes.take_changed(9), [id(0, 0)]);
        notes.shown(id(0, 0), false);
        assert_eq!(notes.len(), 0);
    }

    #[test]
    fn a_place_that_is_filled_again_is_another_connection() {
        let mut notes = Notes::new(vec![id(0, 0), id(1, 1)]);
        assert_eq!(notes.next_unseen(), Some(id(0, 0)));
        notes.shown(id(0, 0), false);
        assert!(notes.ended(id(0, 0)), "it was shown");
        assert!(!notes.ended(id(1, 1)), "it was not");
        notes.touched(id(0, 2));
        assert_eq!(notes.take_closed(), [id(0, 0)]);
        assert_eq!(notes.next_unseen(), Some(id(1, 1)), "and is gone");
        assert_eq!(notes.next_unseen(), Some(id(0, 2)));
        assert_eq!(notes.unseen(), 0);
    }
}
