//! Reply lines that sockets do not take yet: one session's, and how many bytes
//! that is over all of them.

use std::cell::Cell;
use std::rc::Rc;

use bytes::{Buf as _, BytesMut};

/// Bytes of replies that wait for their sockets, over all sessions that keep
/// theirs under the same total. A session's share leaves with the session,
/// however that ends, so that the sum cannot drift.
#[derive(Clone, Debug, Default)]
pub struct UnsentTotal(Rc<Cell<usize>>);

impl UnsentTotal {
    /// How many bytes that is now.
    #[must_use]
    pub fn get(&self) -> usize {
        self.0.get()
    }
}

/// One session's share.
#[derive(Debug)]
pub(super) struct Unsent {
    bytes: BytesMut,
    total: UnsentTotal,
}

impl Unsent {
    pub(super) fn new(total: &UnsentTotal) -> Self {
        Self {
            bytes: BytesMut::new(),
            total: total.clone(),
        }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(super) fn push(&mut self, replies: &[u8]) {
        self.bytes.extend_from_slice(replies);
        self.total.0.set(self.total.get() + replies.len());
    }

    /// Takes the first `bytes` out.
    pub(super) fn advance(&mut self, bytes: usize) {
        self.bytes.advance(bytes);
        self.total.0.set(self.total.get() - bytes);
    }
}

impl Drop for Unsent {
    fn drop(&mut self) {
        self.total.0.set(self.total.get() - self.bytes.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_in_the_sum_as_long_as_it_is_there() {
        let total = UnsentTotal::default();
        let mut one = Unsent::new(&total);
        let mut two = Unsent::new(&total);
        one.push(b"heartBeat\n");
        two.push(b"heartBeat\nheartBeat\n");
        assert_eq!(total.get(), 30);
        two.advance(4);
        assert_eq!(total.get(), 26);
        drop(two);
        assert_eq!((total.get(), one.bytes().len()), (10, 10));
        drop(one);
        assert_eq!(total.get(), 0);
    }
}
