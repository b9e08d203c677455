//! Replies of several connections, to be written one after the other.
//!
//! A write to somebody who sleeps has the kernel wake them, or the network card, on which
//! an eighth of the server's time went with 128 frames in flight. Where a few are answered
//! in one go, all but the first are likely to find them awake.

use super::connections::ConnectionId;

/// Connections whose replies are written together: few, so that none waits long for its
/// own. With 16 nearly all is gained that can be, see docs/performance.md.
const MOST_CONNECTIONS: usize = 16;

/// Bytes of replies that are put off, save the last connection's: the processor's nearest
/// cache holds them.
const MOST_BYTES: usize = 32 * 1024;

/// Replies that were put off, in the order in which they are to be written.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    lines: Vec<u8>,
    /// Whose, and where in `lines` they end.
    ends: Vec<(ConnectionId, usize)>,
}

impl Outbox {
    /// Takes the replies to a connection, if there are any.
    pub(super) fn enter(&mut self, id: ConnectionId, replies: &mut Vec<u8>) {
        if !replies.is_empty() {
            self.lines.append(replies);
            self.ends.push((id, self.lines.len()));
        }
    }

    /// Whether they are to be written now.
    pub(super) fn is_full(&self) -> bool {
        self.ends.len() >= MOST_CONNECTIONS || self.lines.len() >= MOST_BYTES
    }

    pub(super) fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// All of them, each connection's.
    pub(super) fn iter(&self) -> impl Iterator<Item = (ConnectionId, &[u8])> {
        let mut start = 0;
        self.ends.iter().map(move |&(id, end)| {
            let replies = &self.lines[start..end];
            start = end;
            (id, replies)
        })
    }

    /// Forgets all and keeps their memory.
    pub(super) fn clear(&mut self) {
        self.lines.clear();
        self.ends.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reactor::kernel::SocketToken;

    fn id(number: u64) -> ConnectionId {
        ConnectionId::from_token(SocketToken(number))
    }

    #[test]
    fn everybody_gets_their_own_replies_in_the_order_of_their_turns() {
        let mut outbox = Outbox::default();
        for (number, replies) in [(1, "one\n"), (2, ""), (3, "three\nthree\n")] {
            let mut replies = replies.into();
            outbox.enter(id(number), &mut replies);
            assert!(replies.is_empty());
        }
        let all: Vec<_> = outbox.iter().collect();
        let expected: [(_, &[u8]); 2] = [(id(1), b"one\n"), (id(3), b"three\nthree\n")];
        assert_eq!(all, expected);
        outbox.clear();
        assert!(outbox.is_empty());
    }

    #[test]
    fn few_connections_or_many_replies_fill_it() {
        let mut outbox = Outbox::default();
        for number in 1..=16 {
            assert!(!outbox.is_full());
            outbox.enter(id(number), &mut b"one\n".to_vec());
        }
        assert!(outbox.is_full());
        outbox.clear();
        outbox.enter(id(1), &mut vec![b'\n'; 32 * 1024]);
        assert!(outbox.is_full());
    }
}
