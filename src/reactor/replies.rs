//! Replies on their way to sockets: pending a commit, batched for a write, unsent.
//!
//! A reply to a report is *pending* until the commit of its batch ends, and no later reply of
//! the same connection overtakes it ([`PendingReplies`]). Replies that can be written go
//! into the [`Outbox`], which writes those of a few connections one after the other. What a
//! socket does not take is *unsent* and stays with the session. [`OutputLimit`] bounds the
//! sum of unsent and pending replies.

use std::collections::VecDeque;

use super::connection::ServeOutcome;
use super::connections::ConnectionId;
use super::kernel::Kernel;
use super::{Config, LoopContext, Reactor};
use crate::session::{CommitId, Fate, Handler, OutputRoom};
use crate::stats::ReactorCounters;
use hawk_time::{Moment, Throttle, log_limited};
use hawk_wire::{Busy, FRAME_OVERHEAD, MAX_REPLY_LINE, Reply};

impl<H: Handler, K: Kernel> Reactor<H, K> {
    /// Writes the replies of every commit that has ended. Needs no budget: there are at most
    /// five batches of 16,384 reports each, and the replies behind reports are bounded by the
    /// output limit.
    pub(super) fn complete_commits(&mut self) {
        while let Some(commit) = self.cx.sessions.handler.next_completed() {
            let Some(ended) = self.cx.pending.take(commit.commit) else {
                continue;
            };
            for (id, replies) in ended.runs() {
                if let Some(connection) = self.connections.get_mut(id) {
                    let outcome = connection.complete(replies, commit.fate, &mut self.cx);
                    self.after_serve(id, outcome);
                } else {
                    // The connection is closed, but the reports count all the same.
                    for reply in replies {
                        let reply = final_reply(*reply, commit.fate);
                        self.cx.sessions.counters.answered(reply);
                    }
                }
            }
            self.cx.pending.recycle(ended);
        }
    }

    /// Moves what the last connection produced to the pending replies and the outbox.
    pub(super) fn collect_replies(&mut self, id: ConnectionId) {
        let LoopContext {
            pending, sessions, ..
        } = &mut self.cx;
        pending.append(id, &mut sessions.pending);
        self.outbox.append(id, &mut sessions.replies);
    }

    /// Writes the replies in the outbox. It is empty at the end of every phase.
    pub(super) fn deliver(&mut self) {
        if self.outbox.ends.is_empty() {
            return;
        }
        let mut outbox = std::mem::take(&mut self.outbox);
        for (id, replies) in outbox.iter() {
            if let Some(connection) = self.connections.get_mut(id)
                && !connection.deliver(replies, &mut self.cx)
            {
                self.after_serve(id, ServeOutcome::Again);
            }
        }
        outbox.clear();
        self.outbox = outbox;
    }
}

/// Returns what `reply` becomes when the commit that it waited for ends.
pub(super) fn final_reply(reply: Reply, fate: Fate) -> Reply {
    match (reply, fate) {
        (Reply::Report, Fate::Discarded) => Reply::Busy(Busy::StoreUnavailable),
        _ => reply,
    }
}

/// Replies that wait for a commit, of all connections.
///
/// At most five batches of 16,384 reports are not committed. The replies behind them, to
/// heartbeats and refused packets, are bounded for each connection by
/// `Session::has_too_many_pending` and over all connections by the output limit.
#[derive(Debug, Default)]
pub(super) struct PendingReplies {
    /// One entry for each commit, in their order.
    commits: VecDeque<CommitReplies>,
    /// Replies in all entries.
    len: usize,
    /// Empty entries, kept for their memory.
    spare: Vec<CommitReplies>,
}

/// The replies that wait for one commit.
#[derive(Debug)]
pub(super) struct CommitReplies {
    commit: CommitId,
    runs: Vec<Run>,
    replies: Vec<Reply>,
}

/// Adjacent replies to one connection.
#[derive(Clone, Copy, Debug)]
struct Run {
    connection: ConnectionId,
    length: u32,
}

impl PendingReplies {
    /// Appends the pending replies of `connection` and clears `pending`.
    pub(super) fn append(
        &mut self,
        connection: ConnectionId,
        pending: &mut Vec<(CommitId, Reply)>,
    ) {
        self.len += pending.len();
        for (commit, reply) in pending.drain(..) {
            let entry = self.entry(commit);
            entry.replies.push(reply);
            match entry.runs.last_mut() {
                Some(run) if run.connection == connection => run.length += 1,
                _ => entry.runs.push(Run {
                    connection,
                    length: 1,
                }),
            }
        }
    }

    /// Takes the replies that waited for `commit`, if there are any. The caller
    /// [recycles](Self::recycle) the entry.
    pub(super) fn take(&mut self, commit: CommitId) -> Option<CommitReplies> {
        let first = self.commits.front()?;
        debug_assert!(first.commit >= commit, "commits end in their order");
        if first.commit != commit {
            return None;
        }
        let ended = self.commits.pop_front();
        self.len -= ended.as_ref().map_or(0, |ended| ended.replies.len());
        ended
    }

    /// Returns how many replies wait for a commit.
    pub(super) const fn len(&self) -> usize {
        self.len
    }

    /// Keeps the memory of an entry.
    pub(super) fn recycle(&mut self, mut ended: CommitReplies) {
        ended.runs.clear();
        ended.replies.clear();
        self.spare.push(ended);
    }

    /// Returns the entry of `commit`: the last one, or a new one behind it, as the replies of
    /// a session never wait for an earlier commit than its last.
    fn entry(&mut self, commit: CommitId) -> &mut CommitReplies {
        let before = self
            .commits
            .iter()
            .rposition(|entry| entry.commit <= commit);
        let at = match before {
            Some(at) if self.commits[at].commit == commit => at,
            before => {
                let spare = self.spare.pop().unwrap_or(CommitReplies {
                    commit,
                    runs: Vec::new(),
                    replies: Vec::new(),
                });
                let at = before.map_or(0, |before| before + 1);
                self.commits.insert(at, CommitReplies { commit, ..spare });
                at
            }
        };
        &mut self.commits[at]
    }
}

impl CommitReplies {
    /// Yields the replies of each connection, in the order in which they were appended.
    fn runs(&self) -> impl Iterator<Item = (ConnectionId, &[Reply])> {
        let mut rest = self.replies.as_slice();
        self.runs.iter().map(move |run| {
            let (replies, behind) = rest.split_at(run.length as usize);
            rest = behind;
            (run.connection, replies)
        })
    }
}

/// Connections in the outbox: few, so that no reply waits long. 16 connections gain nearly all
/// that can be gained, see docs/performance.md.
const OUTBOX_CONNECTIONS: usize = 16;

/// Bytes of replies after which the outbox is written, so that they stay in the L1 cache.
const OUTBOX_BYTES: usize = 32 * 1024;

/// Reply lines of several connections, to be written one after the other.
///
/// A write wakes a sleeping reader or the network card, which took an eighth of the server's
/// time with 128 frames in flight. When a few replies are written in a row, all readers but the
/// first are likely to be awake.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    lines: Vec<u8>,
    /// Each connection, and where its replies end in `lines`.
    ends: Vec<(ConnectionId, usize)>,
}

impl Outbox {
    /// Appends the replies of a connection and clears `replies`.
    fn append(&mut self, id: ConnectionId, replies: &mut Vec<u8>) {
        if !replies.is_empty() {
            self.lines.append(replies);
            self.ends.push((id, self.lines.len()));
        }
    }

    /// Returns whether the replies are to be written now.
    pub(super) fn is_full(&self) -> bool {
        self.ends.len() >= OUTBOX_CONNECTIONS || self.lines.len() >= OUTBOX_BYTES
    }

    /// Yields the replies of each connection.
    fn iter(&self) -> impl Iterator<Item = (ConnectionId, &[u8])> {
        let mut start = 0;
        self.ends.iter().map(move |&(id, end)| {
            let replies = &self.lines[start..end];
            start = end;
            (id, replies)
        })
    }

    /// Removes all replies and keeps their memory.
    fn clear(&mut self) {
        self.lines.clear();
        self.ends.clear();
    }
}

/// Bytes of one read while the output limit is reached, and the smallest read under a rate
/// limit: several frames of the usual size, and few replies.
pub(super) const MIN_READ: usize = 1024;

/// The most reply bytes for one byte of input: the longest line for the shortest frame.
const REPLY_RATIO: usize = MAX_REPLY_LINE / FRAME_OVERHEAD;

/// Bytes by which one connection can exceed the output limit: the replies to one read of the
/// least size, plus a candidate from before that passes or hides one more frame.
const OVERSHOOT: usize = (MIN_READ / FRAME_OVERHEAD + 2) * MAX_REPLY_LINE;

impl Config {
    /// Returns the most bytes of unsent and pending replies over all connections: the limit,
    /// the replies to the input that was in receive buffers when the limit was reached, and
    /// the overshoot of each connection. Memory for them grows in steps, up to twice that.
    #[must_use]
    pub const fn most_output(&self) -> usize {
        self.output_limit + REPLY_RATIO * self.pool_limit + self.max_connections * OVERSHOOT
    }
}

/// The limit of unsent and pending replies over all connections.
#[derive(Debug)]
pub(super) struct OutputLimit {
    limit: usize,
    reached: bool,
    log: Throttle,
}

impl OutputLimit {
    /// A limit of `limit` bytes.
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit,
            reached: false,
            log: Throttle::default(),
        }
    }

    /// Returns whether there is room for more replies, given `unsent` bytes and `pending`
    /// replies. Once reached, the limit stays so until a quarter is written, to avoid a
    /// change with every packet. Logs and counts each time that it is reached.
    pub(super) fn check(
        &mut self,
        unsent: usize,
        pending: usize,
        now: Moment,
        counters: &mut ReactorCounters,
    ) -> OutputRoom {
        let mark = if self.reached {
            self.limit / 4 * 3
        } else {
            self.limit
        };
        let is_reached = unsent + pending * MAX_REPLY_LINE > mark;
        let was_reached = std::mem::replace(&mut self.reached, is_reached);
        if is_reached && !was_reached {
            counters.output_limited += 1;
            log_limited!(warn, self.log, now, left_out =>
                "output limit: agents do not read their replies unsent={unsent} owed={pending} \
                 limit={} left_out={left_out} (connections with unread replies are paused)",
                self.limit);
        }
        match is_reached {
            true => OutputRoom::None,
            false => OutputRoom::Enough,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;

    use super::*;
    use crate::reactor::kernel::SocketToken;

    fn commit(number: u64) -> CommitId {
        CommitId(NonZeroU64::new(number).unwrap())
    }

    fn id(number: u64) -> ConnectionId {
        ConnectionId::from_token(SocketToken(number))
    }

    fn runs(ended: &CommitReplies) -> Vec<(u64, Vec<Reply>)> {
        let runs = ended.runs();
        runs.map(|(connection, replies)| (connection.token().0, replies.to_vec()))
            .collect()
    }

    #[test]
    fn replies_wait_for_their_commit_in_fifo_order() {
        let [one, two] = [1, 2].map(id);
        let mut pending = PendingReplies::default();
        let report = Reply::Report;
        pending.append(
            one,
            &mut vec![(commit(1), report), (commit(1), Reply::Heartbeat)],
        );
        pending.append(two, &mut vec![(commit(1), report)]);
        pending.append(two, &mut vec![(commit(2), report)]);
        // A heartbeat behind a report of the first commit, when the second has begun.
        pending.append(
            one,
            &mut vec![(commit(1), Reply::Heartbeat), (commit(2), report)],
        );

        assert_eq!(pending.len(), 6);
        let ended = pending.take(commit(1)).unwrap();
        assert_eq!(pending.len(), 2);
        let expected = vec![
            (1, vec![report, Reply::Heartbeat]),
            (2, vec![report]),
            (1, vec![Reply::Heartbeat]),
        ];
        assert_eq!(runs(&ended), expected);
        pending.recycle(ended);
        assert!(pending.take(commit(1)).is_none());
        let ended = pending.take(commit(2)).unwrap();
        assert_eq!(runs(&ended), vec![(2, vec![report]), (1, vec![report])]);
        assert!(pending.take(commit(3)).is_none());
        assert_eq!(pending.len(), 0);
    }

    #[test]
    fn the_outbox_keeps_the_replies_of_each_connection_in_the_order_of_turns() {
        let mut outbox = Outbox::default();
        for (number, replies) in [(1, "one\n"), (2, ""), (3, "three\nthree\n")] {
            let mut replies = replies.into();
            outbox.append(id(number), &mut replies);
            assert!(replies.is_empty());
        }
        let all: Vec<_> = outbox.iter().collect();
        let expected: [(_, &[u8]); 2] = [(id(1), b"one\n"), (id(3), b"three\nthree\n")];
        assert_eq!(all, expected);
        outbox.clear();
        assert!(outbox.ends.is_empty());
    }

    #[test]
    fn few_connections_or_many_replies_fill_the_outbox() {
        let mut outbox = Outbox::default();
        for number in 1..=16 {
            assert!(!outbox.is_full());
            outbox.append(id(number), &mut b"one\n".to_vec());
        }
        assert!(outbox.is_full());
        outbox.clear();
        outbox.append(id(1), &mut vec![b'\n'; 32 * 1024]);
        assert!(outbox.is_full());
    }

    #[test]
    fn the_output_limit_stays_reached_until_a_quarter_is_written() {
        let (mut limit, mut counters) = (OutputLimit::new(4000), ReactorCounters::default());
        let now = Moment::from_nanos(1);
        let mut has_room = |unsent, pending| {
            let room = limit.check(unsent, pending, now, &mut counters);
            (room == OutputRoom::Enough, counters.output_limited)
        };
        assert_eq!(has_room(4000, 0), (true, 0));
        assert_eq!(has_room(4001, 0), (false, 1));
        assert_eq!(has_room(3001, 0), (false, 1));
        assert_eq!(has_room(3000, 0), (true, 1));
        assert_eq!(has_room(3001, 0), (true, 1));
        // Pending replies count as the longest.
        assert_eq!(has_room(0, 126), (false, 2));
    }
}
