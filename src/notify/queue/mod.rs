//! The order of deliveries, without I/O: events come in, jobs go out, outcomes come in.
//!
//! A consumer of events has one [`Queue`]. [`Each`] makes a job of every event and keeps the
//! order of each agent; [`Gathered`] makes jobs of many events. The caller carries out the jobs.
//!
//! Promise of both, if `at_least_once`: an event is done with once a job that holds it has
//! succeeded, or once it is older than [`MAX_AGE`]. Among the jobs that succeed, those with
//! events of one agent succeed in the order of these events, so the last event that is
//! delivered for an agent is its last event. A [cursor](Queue::cursor) passes only events that
//! are done with or are listed as [retries](Changes).

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

/// Age beyond which an event is skipped.
pub const MAX_AGE: Duration = Duration::from_secs(24 * 60 * 60);

/// Maximum number of events that a lane reads ahead of its cursor.
pub(super) const WINDOW: usize = 1024;

/// Events to be delivered together.
#[derive(Clone, Debug)]
pub struct Job {
    /// Its number within its queue.
    pub number: u64,
    /// At least one, in order.
    pub events: Vec<Arc<Event>>,
}

/// How a job ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobOutcome {
    /// The command succeeded.
    Delivered,
    /// It failed, or could not be started.
    Failed,
}

/// Events that become retries (`true`) or are done with. Stored together with the cursors.
pub(super) type Changes = BTreeMap<i64, bool>;

/// Counts of events and jobs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Events in jobs that succeeded.
    pub delivered: u64,
    /// Jobs that repeat one that failed.
    pub retried: u64,
    /// Events that are not delivered: too old, or too many behind a failing event.
    pub skipped: u64,
}

/// The time between failing attempts: twice as long after each, up to a limit, and with jitter,
/// so that jobs that failed together are not repeated together.
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

    /// Returns the time of the next attempt after so many failures, at least one.
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

/// The events of one consumer that were read and are not done with.
pub trait Queue: Send {
    /// Returns how many more events of a lane may be put in.
    fn room(&self, lane: Lane) -> usize;

    /// Puts in the next event of its lane.
    fn put(&mut self, event: Arc<Event>, now: Moment);

    /// Puts in a retry of an earlier process. All retries are put in before other events, in
    /// order.
    fn restore(&mut self, event: Arc<Event>, now: Moment);

    /// Marks the lane as read up to this number.
    fn passed(&mut self, lane: Lane, seq: i64);

    /// Returns the number up to which a lane was read.
    fn read(&self, lane: Lane) -> i64;

    /// Returns the number up to which events of a lane are done with or listed as retries.
    fn cursor(&self, lane: Lane) -> i64;

    /// Returns the changes of retries since the last call.
    fn take_changes(&mut self) -> Changes;

    /// Returns the next job that may begin.
    fn start(&mut self, now: Moment, wall: UnixNanos) -> Option<Job>;

    /// Reports the end of a job.
    fn end(&mut self, job: u64, outcome: JobOutcome, now: Moment);

    /// Returns the time at which [`start`](Self::start) is to be called if nothing else happens
    /// before.
    fn next_at(&self, now: Moment) -> Option<Moment>;

    /// Stops waiting for more events and for the times of retries: each event that has not
    /// failed is tried once more.
    fn drain(&mut self);

    /// Returns the number of events that are neither in a job nor done with.
    fn waiting(&self) -> usize;

    /// Returns whether a drained queue has no job left to begin.
    fn is_drained(&self) -> bool;

    /// Returns the counts so far.
    fn tally(&self) -> Tally;
}

#[cfg(test)]
mod tests;
