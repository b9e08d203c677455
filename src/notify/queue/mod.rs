//! The order of deliveries, without I/O: events come in, jobs go out, outcomes come in.
//!
//! A consumer of events has one [`Queue`]. [`Each`] makes a job of every event and keeps the
//! order of each agent; [`Gathered`] makes jobs of many events. What carries a job out (a
//! command today) is the caller's business.
//!
//! Promise of both, if `at_least_once`: an event is done with once a job that holds it has
//! succeeded, or once it is older than [`MAX_AGE`]. Among the jobs that succeed, those with
//! events of one agent succeed in the order of these events, so the last event that is
//! delivered for an agent is its last event. A [cursor](Queue::cursor) is passed only by
//! events that are done with or are listed as [retries](Changes).

mod each;
mod gathered;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::Event;
use crate::store::Lane;
pub use each::Each;
pub use gathered::Gathered;
use hawk_time::{Moment, UnixNanos};

/// An event that is older is not delivered any more.
pub const MAX_AGE: Duration = Duration::from_secs(24 * 60 * 60);

/// Events that a lane reads ahead of its cursor, at most.
pub const WINDOW: usize = 1024;

/// What is to be delivered at once.
#[derive(Clone, Debug)]
pub struct Job {
    /// Its number within its queue.
    pub number: u64,
    /// In their order; at least one.
    pub events: Vec<Arc<Event>>,
}

/// How the deliveries of a job ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The command succeeded.
    Delivered,
    /// It failed, or could not be started.
    Failed,
}

/// Events behind a cursor: whether they are still to be delivered (`true`) or done with. To be
/// written down together with the cursors.
pub type Changes = BTreeMap<i64, bool>;

/// What became of events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Events in jobs that succeeded.
    pub delivered: u64,
    /// Jobs that repeat one that failed.
    pub retried: u64,
    /// Events that are not delivered any more: too old, or too many behind a failing one.
    pub skipped: u64,
}

/// Draws the times between attempts that fail: twice as long after each, up to a limit, and
/// with jitter, so that what failed together is not tried again together.
pub(super) struct Backoff {
    first: Duration,
    most: Duration,
    random: StdRng,
}

impl Backoff {
    pub(super) fn new(first: Duration, most: Duration, seed: u64) -> Self {
        Self {
            first,
            most,
            random: StdRng::seed_from_u64(seed),
        }
    }

    /// When to try again after so many failures, at least one.
    pub(super) fn after(&mut self, failures: u32, now: Moment) -> Moment {
        let doublings = failures.saturating_sub(1).min(20);
        let longest = self.first.saturating_mul(1 << doublings).min(self.most);
        now.after(self.random.random_range(longest / 2..=longest))
    }
}

impl Tally {
    /// Returns the sum of both.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self {
            delivered: self.delivered + other.delivered,
            retried: self.retried + other.retried,
            skipped: self.skipped + other.skipped,
        }
    }
}

/// The events of one consumer that are read and not done with.
pub trait Queue: Send {
    /// How many more events of a lane may be put in now.
    fn room(&self, lane: Lane) -> usize;

    /// Puts in the next event of its lane.
    fn put(&mut self, event: Arc<Event>, now: Moment);

    /// Puts in an event that an earlier process listed as a retry. All of them come before
    /// any other event, in their order.
    fn restore(&mut self, event: Arc<Event>, now: Moment);

    /// Notes that the lane has no other events up to this number.
    fn passed(&mut self, lane: Lane, seq: i64);

    /// The number up to which events of a lane were put in.
    fn read(&self, lane: Lane) -> i64;

    /// The number up to which events of a lane are done with or listed as retries.
    fn cursor(&self, lane: Lane) -> i64;

    /// What has changed since the last call.
    fn take_changes(&mut self) -> Changes;

    /// The next job that may begin.
    fn start(&mut self, now: Moment, wall: UnixNanos) -> Option<Job>;

    /// A job has ended.
    fn end(&mut self, job: u64, outcome: Outcome, now: Moment);

    /// When [`start`](Self::start) is to be called again at the latest, if nothing else
    /// happens before.
    fn next_at(&self, now: Moment) -> Option<Moment>;

    /// Stops waiting for more events or for a retry's time: what is left is tried once more or
    /// not at all.
    fn drain(&mut self);

    /// Events that are neither in a job nor done with.
    fn waiting(&self) -> usize;

    /// Whether a drained queue has nothing left to begin.
    fn is_drained(&self) -> bool;

    /// What became of events so far.
    fn tally(&self) -> Tally;
}

#[cfg(test)]
mod tests;
