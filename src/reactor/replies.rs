//! Replies on their way to sockets.

use std::collections::VecDeque;

use super::connection::{Outcome, settled};
use super::connections::ConnectionId;
use super::kernel::Kernel;
use super::{Config, Reactor};
use crate::session::{CommitId, Handler};
use hawk_time::Moment;
use hawk_time::{Throttle, log_limited};
use hawk_wire::{FRAME_OVERHEAD, MAX_REPLY_LINE, Reply};

impl<H: Handler, K: Kernel> Reactor<H, K> {
    /// Gives out the replies of every commit that is over. That needs no budget: there
    /// are no more than five batches, of 16,384 reports each, and what stands behind
    /// reports is bounded by the output limit.
    pub(super) fn settle_commits(&mut self) {
        while let Some(commit) = self.shop.sessions.handler.next_completed() {
            let Some(page) = self.shop.ledger.take(commit.commit) else {
                continue;
            };
            for (id, replies) in page.runs() {
                if let Some(connection) = self.connections.get(id) {
                    let outcome = connection.settle(replies, commit.fate, &mut self.shop);
                    self.conclude(id, outcome);
                } else {
                    // Nobody hears them any more, but what is kept is kept.
                    let tally = &mut self.shop.sessions.tally;
                    replies
                        .iter()
                        .for_each(|reply| tally.answered(settled(*reply, commit.fate)));
                }
            }
            self.shop.ledger.recycle(page);
        }
    }

    /// Sets a connection aside until packets are taken again.
    pub(super) fn hold(&mut self, id: ConnectionId) {
        if let Some(connection) = self.connections.get(id)
            && !connection.held
        {
            connection.held = true;
            self.held.push_back(id);
            self.shop.counters.held += 1;
        }
    }

    /// Lets everyone on who waited for the store, if it takes packets again.
    /// Those for whom there is no room come back in the same order. No more is done
    /// here than to put them into the run queue.
    pub(super) fn release_held(&mut self) {
        if self.held.is_empty() || !self.shop.sessions.handler.is_ready() {
            return;
        }
        for _ in 0..self.held.len() {
            let Some(id) = self.held.pop_front() else {
                break;
            };
            if let Some(connection) = self.connections.get(id) {
                connection.held = false;
                self.conclude(id, Outcome::Again);
            }
        }
    }
}

/// What was promised, by commit, in the order in which it was promised.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    pages: VecDeque<Page>,
    /// Replies on them.
    owed: usize,
    /// Pages that are settled, kept for their memory.
    blank: Vec<Page>,
}

/// All that waits for one commit.
#[derive(Debug)]
pub(super) struct Page {
    commit: CommitId,
    runs: Vec<Run>,
    replies: Vec<Reply>,
}

/// Replies to one connection that stand together.
#[derive(Clone, Copy, Debug)]
struct Run {
    connection: ConnectionId,
    length: u32,
}

impl Ledger {
    /// Enters what the session of `connection` is owed; `owed` is empty then.
    pub(super) fn enter(&mut self, connection: ConnectionId, owed: &mut Vec<(CommitId, Reply)>) {
        self.owed += owed.len();
        for (commit, reply) in owed.drain(..) {
            let page = self.page(commit);
            page.replies.push(reply);
            match page.runs.last_mut() {
                Some(run) if run.connection == connection => run.length += 1,
                _ => page.runs.push(Run {
                    connection,
                    length: 1,
                }),
            }
        }
    }

    /// Takes out the page of `commit`, if anybody waits for it. To be given back
    /// with [`recycle`](Self::recycle).
    pub(super) fn take(&mut self, commit: CommitId) -> Option<Page> {
        let first = self.pages.front()?;
        debug_assert!(first.commit >= commit, "commits settle in their order");
        if first.commit != commit {
            return None;
        }
        let page = self.pages.pop_front();
        self.owed -= page.as_ref().map_or(0, |page| page.replies.len());
        page
    }

    /// How many replies wait for a commit, whosever they are.
    pub(super) const fn owed(&self) -> usize {
        self.owed
    }

    /// Keeps the memory of a page whose replies are given out.
    pub(super) fn recycle(&mut self, mut page: Page) {
        page.runs.clear();
        page.replies.clear();
        self.blank.push(page);
    }

    /// The page of `commit`, which is the last one or a new one behind it: a
    /// session's replies never wait for an earlier commit than its last.
    fn page(&mut self, commit: CommitId) -> &mut Page {
        let at = self.pages.iter().rposition(|page| page.commit <= commit);
        let at = match at {
            Some(at) if self.pages[at].commit == commit => at,
            other => {
                let mut page = self.blank.pop().unwrap_or_else(|| Page::new(commit));
                page.commit = commit;
                let at = other.map_or(0, |before| before + 1);
                self.pages.insert(at, page);
                at
            }
        };
        &mut self.pages[at]
    }
}

impl Page {
    const fn new(commit: CommitId) -> Self {
        Self {
            commit,
            runs: Vec::new(),
            replies: Vec::new(),
        }
    }

    /// Each connection's replies, in the order in which they were promised.
    pub(super) fn runs(&self) -> impl Iterator<Item = (ConnectionId, &[Reply])> {
        let mut rest = self.replies.as_slice();
        self.runs.iter().map(move |run| {
            let (replies, behind) = rest.split_at(run.length as usize);
            rest = behind;
            (run.connection, replies)
        })
    }
}

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

/// Bytes that a connection is read at once while they are short, and the least
/// that one under a rate limit is read: several frames of the usual size, and few
/// replies.
pub(super) const LEAST_READ: usize = 1024;

/// Bytes of replies to a byte of input, at most: the longest line to the shortest
/// frame.
const REPLY_RATIO: usize = MAX_REPLY_LINE / FRAME_OVERHEAD;

/// Bytes of replies by which a connection can take the sum beyond its limit: those
/// to one read of the least size, with a candidate that was there before, which
/// may pass or hide one more frame behind it.
const OVERSHOOT: usize = (LEAST_READ / FRAME_OVERHEAD + 2) * MAX_REPLY_LINE;

impl Config {
    /// The most bytes of replies that may wait to be read or to be committed, over
    /// all connections: the limit; the replies to all that had been read when it was
    /// reached, and is in receive buffers; and what each connection may add.
    /// Memory for them is set aside in steps, and may come to twice that.
    #[must_use]
    pub const fn most_output(&self) -> usize {
        self.output_limit + REPLY_RATIO * self.pool_limit + self.max_connections * OVERSHOOT
    }
}

/// Whether the limit is reached, and who was told.
#[derive(Debug)]
pub(super) struct OutputLimit {
    limit: usize,
    reached: bool,
    log: Throttle,
}

impl OutputLimit {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit,
            reached: false,
            log: Throttle::default(),
        }
    }

    /// Whether the limit is reached, given that replies of `unsent` bytes wait to be
    /// read and `owed` replies for a commit. It stays so until a quarter is gone, so
    /// that it does not come and go with every packet.
    pub(super) fn check(&mut self, unsent: usize, owed: usize) -> Reached {
        let sum = unsent + owed * MAX_REPLY_LINE;
        let mark = if self.reached {
            self.limit / 4 * 3
        } else {
            self.limit
        };
        match (std::mem::replace(&mut self.reached, sum > mark), sum > mark) {
            (_, false) => Reached::No,
            (true, true) => Reached::Still,
            (false, true) => Reached::Now,
        }
    }

    /// Tells of it, now and then.
    pub(super) fn tell(&mut self, unsent: usize, owed: usize, now: Moment) {
        log_limited!(warn, self.log, now, left_out =>
            "output limit: agents do not read their replies unsent={unsent} owed={owed} \
             limit={} left_out={left_out} (whoever has unread ones is not read from)",
            self.limit);
    }
}

/// What [`OutputLimit::check`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reached {
    /// There is room.
    No,
    /// There is none from now on.
    Now,
    /// There was none before.
    Still,
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;

    use super::*;
    use crate::reactor::kernel::SocketToken;

    fn commit(number: u64) -> CommitId {
        CommitId(NonZeroU64::new(number).unwrap())
    }

    fn runs(page: &Page) -> Vec<(u64, Vec<Reply>)> {
        let runs = page.runs();
        runs.map(|(connection, replies)| (connection.token().0, replies.to_vec()))
            .collect()
    }

    #[test]
    fn replies_stand_with_their_commit_in_the_order_of_promise() {
        let [one, two] = [1, 2].map(|token| ConnectionId::from_token(SocketToken(token)));
        let mut ledger = Ledger::default();
        let report = Reply::Report;
        ledger.enter(
            one,
            &mut vec![(commit(1), report), (commit(1), Reply::Heartbeat)],
        );
        ledger.enter(two, &mut vec![(commit(1), report)]);
        ledger.enter(two, &mut vec![(commit(2), report)]);
        // One of them has only now a heartbeat behind what waits for the first.
        ledger.enter(
            one,
            &mut vec![(commit(1), Reply::Heartbeat), (commit(2), report)],
        );

        assert_eq!(ledger.owed(), 6);
        let page = ledger.take(commit(1)).unwrap();
        assert_eq!(ledger.owed(), 2);
        let expected = vec![
            (1, vec![report, Reply::Heartbeat]),
            (2, vec![report]),
            (1, vec![Reply::Heartbeat]),
        ];
        assert_eq!(runs(&page), expected);
        ledger.recycle(page);
        assert!(ledger.take(commit(1)).is_none());
        let page = ledger.take(commit(2)).unwrap();
        assert_eq!(runs(&page), vec![(2, vec![report]), (1, vec![report])]);
        assert!(ledger.take(commit(3)).is_none());
        assert_eq!(ledger.owed(), 0);
    }

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

    #[test]
    fn it_is_reached_above_the_limit_and_until_a_quarter_is_gone() {
        let mut limit = OutputLimit::new(4000);
        assert_eq!(limit.check(4000, 0), Reached::No);
        assert_eq!(limit.check(4001, 0), Reached::Now);
        assert_eq!(limit.check(3001, 0), Reached::Still);
        assert_eq!(limit.check(3000, 0), Reached::No);
        assert_eq!(limit.check(3001, 0), Reached::No);
        // Replies that wait for a commit count as the longest.
        assert_eq!(limit.check(0, 126), Reached::Now);
    }
}
