//! Replies that waited for a commit, and agents that wait for the store.

use super::Reactor;
use super::connection::{Outcome, settled};
use super::connections::ConnectionId;
use super::kernel::Kernel;
use crate::session::Handler;

impl<H: Handler, K: Kernel> Reactor<H, K> {
    /// Gives out the replies of every commit that is over. That needs no budget: there
    /// are no more than five batches, of 16,384 reports each, and what stands behind
    /// reports is bounded by the output limit.
    pub(super) fn settle_commits(&mut self) {
        while let Some(commit) = self.shop.desk.handler.settled() {
            let Some(page) = self.shop.ledger.take(commit.commit) else {
                continue;
            };
            for (id, replies) in page.runs() {
                if let Some(connection) = self.connections.get(id) {
                    let outcome = connection.settle(replies, commit.fate, &mut self.shop);
                    self.conclude(id, outcome);
                } else {
                    // Nobody hears them any more, but what is kept is kept.
                    let tally = &mut self.shop.desk.tally;
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
        if self.held.is_empty() || !self.shop.desk.handler.is_ready() {
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
