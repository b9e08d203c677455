//! Replies that wait for a commit, and whose they are.
//!
//! There are at most as many reports on its pages as the batches take that are not
//! settled (five of 16,384). What stands behind them, heartbeats and refusals, is
//! bounded for each connection (`Session::is_owed_much`) and over all of them, as
//! what they are owed counts towards the output limit.

use std::collections::VecDeque;

use super::connections::ConnectionId;
use crate::session::CommitId;
use hawk_wire::Reply;

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
}
