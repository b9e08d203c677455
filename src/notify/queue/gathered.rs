//! Jobs of many events.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::{Backoff, Changes, Each, Event, Job, JobOutcome, MAX_AGE, Queue, Tally, WINDOW};
use crate::store::Lane;
use hawk_time::{Moment, UnixNanos};

/// Maximum number of events in a job.
pub(in crate::notify) const MAX_EVENTS: usize = 1000;

/// Maximum size of a job's events in memory, to the next event.
pub(super) const MAX_BYTES: usize = 1 << 20;

/// The first and the longest wait between two attempts of a lane.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// Makes one job at a time for each lane, of all events that arrived within the window.
///
/// After a failure, half as many events are tried, down to one; after a success, twice as many.
/// A single event that fails becomes a retry, with all later events of its agent: retries have
/// jobs of their own, one for each event, and the other agents' events pass them. So one event
/// that always fails costs some ten attempts and delays its own agent only.
pub struct Gathered {
    at_least_once: bool,
    window: Duration,
    lanes: [LaneState; 2],
    backoff: Backoff,
    next_job: u64,
    draining: bool,
    tally: Tally,
}

struct LaneState {
    waiting: VecDeque<Arc<Event>>,
    /// Size of the waiting events in memory.
    bytes: usize,
    /// Arrival of the first waiting event.
    since: Option<Moment>,
    batch: Option<Batch>,
    /// Events that failed alone, and later events of the same agents.
    retries: Each,
    running: Option<Running>,
    /// The next job is a retry, if one is due.
    prefers_retry: bool,
    /// Single events that have failed since the last success.
    failures: u32,
    /// No batch is tried before.
    not_before: Moment,
    read: i64,
}

/// The events of one window that are not done with.
struct Batch {
    events: VecDeque<Arc<Event>>,
    /// Number of events in the next job, from 1 to all.
    part: usize,
    /// All events have been in a job that failed.
    failed: bool,
}

/// The job of a lane.
#[derive(Clone, Copy)]
struct Running {
    number: u64,
    /// The job's number within the lane's retries; `None` for a part of the batch.
    retry: Option<u64>,
}

impl LaneState {
    fn new(read: i64, seed: u64) -> Self {
        Self {
            waiting: VecDeque::new(),
            bytes: 0,
            since: None,
            batch: None,
            retries: Each::new(true, [read; 2], seed),
            running: None,
            prefers_retry: false,
            failures: 0,
            not_before: Moment::from_nanos(0),
            read,
        }
    }

    /// Returns the time at which the waiting events become a batch.
    fn full_at(&self, window: Duration, now: Moment) -> Option<Moment> {
        let since = self.since?;
        let is_full = self.waiting.len() >= MAX_EVENTS || self.bytes >= MAX_BYTES;
        Some(if is_full { now } else { since.after(window) })
    }

    /// Makes a batch of the waiting events, up to its limits.
    fn gather(&mut self, now: Moment) -> Batch {
        let mut events = VecDeque::new();
        let mut bytes = 0;
        while events.len() < MAX_EVENTS
            && bytes < MAX_BYTES
            && let Some(event) = self.waiting.pop_front()
        {
            bytes += event.size();
            events.push_back(event);
        }
        self.bytes = self.bytes.saturating_sub(bytes);
        self.since = (!self.waiting.is_empty()).then_some(now);
        Batch {
            part: events.len(),
            events,
            failed: false,
        }
    }

    fn start_retry(&mut self, now: Moment, wall: UnixNanos) -> Option<(Vec<Arc<Event>>, Running)> {
        let job = self.retries.start(now, wall)?;
        let running = Running {
            number: 0,
            retry: Some(job.number),
        };
        Some((job.events, running))
    }

    /// Makes retries of an event that failed alone and of the later events of its agent.
    fn isolate(&mut self, event: Arc<Event>, now: Moment) {
        let agent = event.agent.clone();
        self.retries.put_failed(event, now);
        let batch = self.batch.as_mut().map(|batch| &mut batch.events);
        for queue in batch.into_iter().chain([&mut self.waiting]) {
            let is_later = |event: &Arc<Event>| event.agent == agent;
            let (later, others) = queue.drain(..).partition::<VecDeque<_>, _>(is_later);
            *queue = others;
            for event in later {
                self.retries.put(event, now);
            }
        }
        self.bytes = self.waiting.iter().map(|event| event.size()).sum();
        self.since = self.since.filter(|_| !self.waiting.is_empty());
    }
}

impl Gathered {
    /// Returns an empty queue; see [`Each::new`].
    pub fn new(at_least_once: bool, window: Duration, cursors: [i64; 2], seed: u64) -> Self {
        Self {
            at_least_once,
            window,
            lanes: cursors.map(|read| LaneState::new(read, seed)),
            backoff: Backoff::new(RETRY.0, RETRY.1, seed),
            next_job: 0,
            draining: false,
            tally: Tally::default(),
        }
    }

    fn start_lane(&mut self, index: usize, now: Moment, wall: UnixNanos) -> Option<Job> {
        let lane = &mut self.lanes[index];
        if lane.running.is_some() {
            return None;
        }
        let (events, mut running) = match lane.prefers_retry {
            true => match lane.start_retry(now, wall) {
                None => self.start_batch(index, now, wall),
                retry => retry,
            },
            false => match self.start_batch(index, now, wall) {
                None => self.lanes[index].start_retry(now, wall),
                part => part,
            },
        }?;
        let number = self.next_job;
        self.next_job += 1;
        running.number = number;
        let lane = &mut self.lanes[index];
        lane.prefers_retry = running.retry.is_none();
        lane.running = Some(running);
        Some(Job { number, events })
    }

    fn start_batch(
        &mut self,
        index: usize,
        now: Moment,
        wall: UnixNanos,
    ) -> Option<(Vec<Arc<Event>>, Running)> {
        let lane = &mut self.lanes[index];
        if lane.not_before > now && !self.draining {
            return None;
        }
        loop {
            if lane.batch.is_none() {
                let at = lane.full_at(self.window, now)?;
                if at > now && !self.draining {
                    return None;
                }
                lane.batch = Some(lane.gather(now));
            }
            let batch = lane.batch.as_mut()?;
            if batch.failed && self.draining {
                return None;
            }
            if self.at_least_once {
                let before = batch.events.len();
                batch.events.retain(|event| wall.since(event.at) <= MAX_AGE);
                self.tally.skipped += (before - batch.events.len()) as u64;
            }
            batch.part = batch.part.min(batch.events.len());
            if batch.events.is_empty() {
                lane.batch = None;
                continue;
            }
            self.tally.retried += u64::from(batch.failed);
            let events = batch.events.range(..batch.part).cloned().collect();
            let running = Running {
                number: 0,
                retry: None,
            };
            return Some((events, running));
        }
    }

    fn end_part(&mut self, index: usize, outcome: JobOutcome, now: Moment) {
        let lane = &mut self.lanes[index];
        let Some(batch) = &mut lane.batch else {
            return;
        };
        if outcome == JobOutcome::Failed && self.at_least_once {
            batch.failed = true;
            let failed_alone = match batch.part {
                1 => batch.events.pop_front(),
                part => {
                    batch.part = part / 2;
                    None
                }
            };
            if let Some(event) = failed_alone {
                lane.failures = lane.failures.saturating_add(1);
                lane.isolate(event, now);
            }
            lane.not_before = self.backoff.after(lane.failures.max(1), now);
        } else {
            self.tally.delivered += match outcome {
                JobOutcome::Delivered => batch.part as u64,
                JobOutcome::Failed => 0,
            };
            batch.events.drain(..batch.part);
            batch.part *= 2;
        }
        if let Some(batch) = &mut lane.batch {
            batch.part = batch.part.min(batch.events.len());
        }
        lane.batch.take_if(|batch| batch.events.is_empty());
    }
}

impl Queue for Gathered {
    fn room(&self, lane: Lane) -> usize {
        let state = &self.lanes[lane.index()];
        let room = WINDOW.saturating_sub(state.waiting.len());
        room.min(state.retries.room(lane))
    }

    fn put(&mut self, event: Arc<Event>, now: Moment) {
        let lane = &mut self.lanes[event.lane().index()];
        lane.read = lane.read.max(event.seq);
        if lane.retries.has(&event.agent) {
            return lane.retries.put(event, now);
        }
        lane.bytes += event.size();
        lane.since.get_or_insert(now);
        lane.waiting.push_back(event);
    }

    fn restore(&mut self, event: Arc<Event>, now: Moment) {
        let lane = &mut self.lanes[event.lane().index()];
        lane.retries.restore(event, now);
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
        let batch = lane.batch.as_ref().and_then(|batch| batch.events.front());
        let first = batch.or(lane.waiting.front());
        first.map_or(lane.read, |first| first.seq - 1)
    }

    fn take_changes(&mut self) -> Changes {
        let lanes = self.lanes.iter_mut();
        lanes.flat_map(|lane| lane.retries.take_changes()).collect()
    }

    fn start(&mut self, now: Moment, wall: UnixNanos) -> Option<Job> {
        (0..self.lanes.len()).find_map(|index| self.start_lane(index, now, wall))
    }

    fn end(&mut self, job: u64, outcome: JobOutcome, now: Moment) {
        for index in 0..self.lanes.len() {
            let lane = &mut self.lanes[index];
            let Some(running) = lane.running.take_if(|running| running.number == job) else {
                continue;
            };
            match running.retry {
                Some(retry) => lane.retries.end(retry, outcome, now),
                None => self.end_part(index, outcome, now),
            }
        }
        if outcome == JobOutcome::Delivered {
            // The command works: failures before came from it, or from single events.
            for lane in &mut self.lanes {
                lane.failures = 0;
                lane.not_before = now;
                lane.retries.command_succeeded(now);
            }
        }
    }

    fn next_at(&self, now: Moment) -> Option<Moment> {
        let idle = self.lanes.iter().filter(|lane| lane.running.is_none());
        let times = idle.flat_map(|lane| {
            let batch = match &lane.batch {
                Some(batch) if self.draining && batch.failed => None,
                Some(_) => Some(lane.not_before),
                None if self.draining => lane.since.map(|_| now),
                None => lane
                    .full_at(self.window, now)
                    .map(|full_at| full_at.max(lane.not_before)),
            };
            [batch, lane.retries.next_at(now)]
        });
        times.flatten().min()
    }

    fn drain(&mut self) {
        self.draining = true;
        self.lanes.iter_mut().for_each(|lane| lane.retries.drain());
    }

    fn waiting(&self) -> usize {
        let of_lane = |lane: &LaneState| {
            let running = lane.running.filter(|running| running.retry.is_none());
            let batch = lane.batch.as_ref().map_or(0, |batch| {
                batch.events.len() - running.map_or(0, |_| batch.part)
            });
            lane.waiting.len() + batch + lane.retries.waiting()
        };
        self.lanes.iter().map(of_lane).sum()
    }

    fn is_drained(&self) -> bool {
        self.lanes.iter().all(|lane| {
            let is_tried = match &lane.batch {
                None => lane.waiting.is_empty(),
                Some(batch) => batch.failed,
            };
            lane.running.is_none() && is_tried && lane.retries.is_drained()
        })
    }

    fn tally(&self) -> Tally {
        let retries = self.lanes.iter().map(|lane| lane.retries.tally());
        retries.fold(self.tally, Tally::plus)
    }
}
