//! A job for many events.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::backoff::Backoff;
use super::{Changes, Event, Job, MAX_AGE, Outcome, Queue, Tally, WINDOW};
use crate::store::Lane;
use hawk_time::{Moment, UnixNanos};

/// Events in a job, at most.
pub(in crate::notify) const MAX_EVENTS: usize = 1000;

/// Their bytes in memory, at most, to the next event.
pub(super) const MAX_BYTES: usize = 1 << 20;

/// The first and the longest wait between two attempts.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// Makes one job at a time for each lane, of all events that came within the window.
///
/// A job that fails is tried again with the same events; later ones wait for it. So the jobs
/// of a lane succeed in the order of their events.
pub struct Gathered {
    at_least_once: bool,
    window: Duration,
    lanes: [LaneState; 2],
    backoff: Backoff,
    next_job: u64,
    draining: bool,
    tally: Tally,
}

#[derive(Default)]
struct LaneState {
    waiting: VecDeque<Arc<Event>>,
    bytes: usize,
    /// Arrival of the first waiting event.
    since: Option<Moment>,
    batch: Option<Batch>,
    read: i64,
}

struct Batch {
    events: Vec<Arc<Event>>,
    job: Option<u64>,
    failures: u32,
    /// When it may be tried.
    at: Moment,
}

impl LaneState {
    /// When what waits is to become a batch.
    fn full_at(&self, window: Duration, now: Moment) -> Option<Moment> {
        let since = self.since?;
        let is_full = self.waiting.len() >= MAX_EVENTS || self.bytes >= MAX_BYTES;
        Some(if is_full { now } else { since.after(window) })
    }

    /// Takes what waits, up to the limits of a batch.
    fn gather(&mut self, now: Moment) -> Batch {
        let mut events = Vec::new();
        let mut bytes = 0;
        while events.len() < MAX_EVENTS
            && bytes < MAX_BYTES
            && let Some(event) = self.waiting.pop_front()
        {
            bytes += event.size();
            events.push(event);
        }
        self.bytes = self.bytes.saturating_sub(bytes);
        self.since = (!self.waiting.is_empty()).then_some(now);
        Batch {
            events,
            job: None,
            failures: 0,
            at: now,
        }
    }
}

impl Gathered {
    /// An empty queue; see [`Each::new`](super::Each::new).
    pub fn new(at_least_once: bool, window: Duration, cursors: [i64; 2], seed: u64) -> Self {
        Self {
            at_least_once,
            window,
            lanes: cursors.map(|read| LaneState {
                read,
                ..LaneState::default()
            }),
            backoff: Backoff::new(RETRY.0, RETRY.1, seed),
            next_job: 0,
            draining: false,
            tally: Tally::default(),
        }
    }

    fn start_lane(&mut self, index: usize, now: Moment, wall: UnixNanos) -> Option<Job> {
        let lane = &mut self.lanes[index];
        loop {
            if lane.batch.is_none() {
                let at = lane.full_at(self.window, now)?;
                if at > now && !self.draining {
                    return None;
                }
                lane.batch = Some(lane.gather(now));
            }
            let batch = lane.batch.as_mut()?;
            let is_again = batch.failures > 0;
            if batch.job.is_some() || batch.at > now || (is_again && self.draining) {
                return None;
            }
            if self.at_least_once {
                let before = batch.events.len();
                batch.events.retain(|event| wall.since(event.at) <= MAX_AGE);
                self.tally.skipped += (before - batch.events.len()) as u64;
            }
            if batch.events.is_empty() {
                lane.batch = None;
                continue;
            }
            self.tally.retried += u64::from(is_again);
            let number = self.next_job;
            self.next_job += 1;
            batch.job = Some(number);
            return Some(Job {
                number,
                events: batch.events.clone(),
            });
        }
    }
}

impl Queue for Gathered {
    fn room(&self, lane: Lane) -> usize {
        WINDOW.saturating_sub(self.lanes[lane.index()].waiting.len())
    }

    fn put(&mut self, event: Arc<Event>, now: Moment) {
        let lane = &mut self.lanes[event.lane().index()];
        lane.read = lane.read.max(event.seq);
        lane.bytes += event.size();
        lane.since.get_or_insert(now);
        lane.waiting.push_back(event);
    }

    fn restore(&mut self, event: Arc<Event>, now: Moment) {
        // It lists none.
        self.put(event, now);
    }

    fn passed(&mut self, lane: Lane, seq: i64) {
        let lane = &mut self.lanes[lane.index()];
        lane.read = lane.read.max(seq);
    }

    fn read(&self, lane: Lane) -> i64 {
        self.lanes[lane.index()].read
    }

    fn cursor(&self, lane: Lane) -> i64 {
        let lane = &self.lanes[lane.index()];
        let batch = lane.batch.as_ref().and_then(|batch| batch.events.first());
        let first = batch.or(lane.waiting.front());
        first.map_or(lane.read, |first| first.seq - 1)
    }

    fn take_changes(&mut self) -> Changes {
        Changes::default()
    }

    fn start(&mut self, now: Moment, wall: UnixNanos) -> Option<Job> {
        (0..self.lanes.len()).find_map(|index| self.start_lane(index, now, wall))
    }

    fn end(&mut self, job: u64, outcome: Outcome, now: Moment) {
        for lane in &mut self.lanes {
            let Some(batch) = &mut lane.batch else {
                continue;
            };
            if batch.job != Some(job) {
                continue;
            }
            batch.job = None;
            if outcome == Outcome::Failed && self.at_least_once {
                batch.failures = batch.failures.saturating_add(1);
                batch.at = self.backoff.after(batch.failures, now);
            } else {
                let events = batch.events.len() as u64;
                self.tally.delivered += match outcome {
                    Outcome::Delivered => events,
                    Outcome::Failed => 0,
                };
                lane.batch = None;
            }
        }
    }

    fn next_at(&self, now: Moment) -> Option<Moment> {
        let times = self.lanes.iter().filter_map(|lane| match &lane.batch {
            Some(batch) if batch.job.is_some() => None,
            Some(batch) if self.draining && batch.failures > 0 => None,
            Some(batch) => Some(batch.at),
            None if self.draining => lane.since.map(|_| now),
            None => lane.full_at(self.window, now),
        });
        times.min()
    }

    fn drain(&mut self) {
        self.draining = true;
    }

    fn waiting(&self) -> usize {
        let of_lane = |lane: &LaneState| {
            let batch = lane.batch.as_ref().filter(|batch| batch.job.is_none());
            lane.waiting.len() + batch.map_or(0, |batch| batch.events.len())
        };
        self.lanes.iter().map(of_lane).sum()
    }

    fn is_drained(&self) -> bool {
        self.lanes.iter().all(|lane| match &lane.batch {
            None => lane.waiting.is_empty(),
            Some(batch) => batch.job.is_none() && batch.failures > 0,
        })
    }

    fn tally(&self) -> Tally {
        self.tally
    }
}
