//! A job for each event.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::{Backoff, Changes, Event, Job, JobOutcome, MAX_AGE, Queue, Tally, WINDOW};
use crate::notify::event::EventAgent;
use crate::store::Lane;
use hawk_time::{Moment, UnixNanos};

/// Maximum number of jobs at once: enough that a hanging job does not block the others, few
/// enough that a failed rack does not start a thousand mailers.
pub(in crate::notify) const AT_ONCE: usize = 4;

/// Maximum number of jobs at once for agents that are not established. The others are reserved
/// for established agents.
pub(super) const OTHERS_AT_ONCE: usize = 2;

/// Maximum number of retries of a lane. At this number the lane is not read, and its events stay
/// in the store.
pub(super) const MAX_RETRIES: usize = 2048;

/// Maximum number of events that wait behind a failing event of the same agent. Beyond it the
/// oldest is skipped: the last event is what counts.
pub(super) const MAX_BEHIND: usize = 64;

/// The first and the longest wait between two attempts for one agent.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));

/// The first and the longest wait between two attempts while every job fails.
const OUTAGE_RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// Number of failed jobs in a row, of different agents, that makes an outage of the command.
pub(super) const OUTAGE: usize = AT_ONCE;

/// Makes a job of each event, one at a time for each agent.
pub struct Each {
    at_least_once: bool,
    lanes: [LaneState; 2],
    /// The agents with events.
    lines: HashMap<EventAgent, Line>,
    /// Agents that wait for the time of their retry.
    sleeping: BTreeSet<(Moment, EventAgent)>,
    jobs: HashMap<u64, (EventAgent, Lane)>,
    next_job: u64,
    outage: Outage,
    backoff: Backoff,
    draining: bool,
    changes: Changes,
    tally: Tally,
}

#[derive(Default)]
struct LaneState {
    /// Agents with a next event that may be delivered.
    ready: VecDeque<EventAgent>,
    /// Events after the cursor that are not done with.
    pending: BTreeSet<i64>,
    /// Retries: events that are not done with and that the cursor passes.
    retries: BTreeSet<i64>,
    read: i64,
    running: usize,
}

/// The events of one agent in order.
#[derive(Default)]
struct Line {
    events: VecDeque<Arc<Event>>,
    /// The first event is in a job.
    running: bool,
    /// Failures of the first event.
    failures: u32,
    /// The events are retries.
    is_retry: bool,
}

/// Detects that the command itself is at fault, and not single events.
struct Outage {
    /// Different agents with a failed job since the last success.
    failed: HashSet<EventAgent>,
    failures: u32,
    /// No job begins before this moment.
    until: Option<Moment>,
    backoff: Backoff,
}

impl Outage {
    fn is_on(&self) -> bool {
        self.failed.len() >= OUTAGE
    }

    fn failed(&mut self, agent: &EventAgent, now: Moment) {
        if !self.is_on() {
            self.failed.insert(agent.clone());
        }
        // Jobs that began before the outage count once.
        if self.is_on() && self.until.is_none_or(|until| until <= now) {
            self.failures += 1;
            self.until = Some(self.backoff.after(self.failures, now));
        }
    }

    /// Resets after a success. Returns whether that ends an outage.
    fn succeeded(&mut self) -> bool {
        let was_on = self.is_on();
        self.failed.clear();
        self.failures = 0;
        self.until = None;
        was_on
    }
}

impl Each {
    /// Returns an empty queue, which repeats failed jobs if `at_least_once`. `cursors` are those
    /// of the lanes.
    pub fn new(at_least_once: bool, cursors: [i64; 2], seed: u64) -> Self {
        let lanes = cursors.map(|read| LaneState {
            read,
            ..LaneState::default()
        });
        let [(first, most), (outage_first, outage_most)] = [RETRY, OUTAGE_RETRY];
        Self {
            at_least_once,
            lanes,
            lines: HashMap::new(),
            sleeping: BTreeSet::new(),
            jobs: HashMap::new(),
            next_job: 0,
            outage: Outage {
                failed: HashSet::new(),
                failures: 0,
                until: None,
                backoff: Backoff::new(outage_first, outage_most, seed ^ 1),
            },
            backoff: Backoff::new(first, most, seed),
            draining: false,
            changes: Changes::default(),
            tally: Tally::default(),
        }
    }

    /// Returns whether the agent has events here.
    pub(super) fn has(&self, agent: &EventAgent) -> bool {
        self.lines.contains_key(agent)
    }

    /// Puts in an event that has failed once, of an agent without events here.
    pub(super) fn put_failed(&mut self, event: Arc<Event>, now: Moment) {
        let agent = event.agent.clone();
        let lane = &mut self.lanes[event.lane().index()];
        lane.retries.insert(event.seq);
        self.changes.insert(event.seq, true);
        let line = self.lines.entry(agent.clone()).or_default();
        line.events.push_back(event);
        line.is_retry = true;
        self.sleep(agent, now);
    }

    /// Lets an agent's first event, which has failed, wait for its next attempt.
    fn sleep(&mut self, agent: EventAgent, now: Moment) {
        self.outage.failed(&agent, now);
        if let Some(line) = self.lines.get_mut(&agent) {
            line.failures = line.failures.saturating_add(1);
            let at = self.backoff.after(line.failures, now);
            self.sleeping.insert((at, agent));
        }
    }

    /// Ends an outage, if there is one: the command works.
    pub(super) fn command_succeeded(&mut self, now: Moment) {
        if self.outage.succeeded() {
            // The others most likely failed for the same reason.
            self.wake(now, true);
        }
    }

    fn lane(&self, lane: Lane) -> &LaneState {
        &self.lanes[lane.index()]
    }

    fn lane_mut(&mut self, lane: Lane) -> &mut LaneState {
        &mut self.lanes[lane.index()]
    }

    fn add(&mut self, event: Arc<Event>) {
        let agent = event.agent.clone();
        let lane = event.lane();
        let line = self.lines.entry(agent.clone()).or_default();
        line.events.push_back(event);
        let is_new = line.events.len() == 1;
        let too_many = line.is_retry && line.events.len() > MAX_BEHIND;
        if is_new {
            self.lane_mut(lane).ready.push_back(agent);
        } else if too_many {
            self.skip_oldest(&agent);
        }
    }

    /// Skips the agent's oldest event that is not in a job.
    fn skip_oldest(&mut self, agent: &EventAgent) {
        let Some(line) = self.lines.get_mut(agent) else {
            return;
        };
        if let Some(event) = line.events.remove(usize::from(line.running)) {
            self.tally.skipped += 1;
            self.done(&event);
        }
    }

    /// Marks an event as done with.
    fn done(&mut self, event: &Event) {
        let lane = &mut self.lanes[event.lane().index()];
        if lane.retries.remove(&event.seq) {
            self.changes.insert(event.seq, false);
        } else {
            lane.pending.remove(&event.seq);
        }
    }

    /// Makes retries of all events of an agent, so that the cursors can pass them.
    fn make_retries(&mut self, agent: &EventAgent) {
        let Some(line) = self.lines.get_mut(agent) else {
            return;
        };
        if std::mem::replace(&mut line.is_retry, true) {
            return;
        }
        for event in &line.events {
            let lane = &mut self.lanes[event.lane().index()];
            if lane.pending.remove(&event.seq) {
                lane.retries.insert(event.seq);
                self.changes.insert(event.seq, true);
            }
        }
        let surplus = line.events.len().saturating_sub(MAX_BEHIND);
        (0..surplus).for_each(|_| self.skip_oldest(agent));
    }

    fn wake(&mut self, now: Moment, all: bool) {
        while let Some((at, _)) = self.sleeping.first()
            && (all || *at <= now)
            && let Some((_, agent)) = self.sleeping.pop_first()
        {
            let line = self.lines.get(&agent);
            if let Some(event) = line.and_then(|line| line.events.front()) {
                self.lanes[event.lane().index()].ready.push_back(agent);
            }
        }
    }

    /// Returns the next lane to serve, if any lane may begin a job.
    fn lane_to_serve(&self) -> Option<Lane> {
        let [established, others] = &self.lanes;
        let running = established.running + others.running;
        if running >= AT_ONCE || (self.outage.is_on() && running > 0) {
            return None;
        }
        let others_want = others.running > 0 || !others.ready.is_empty();
        let own = if others_want { AT_ONCE - 1 } else { AT_ONCE };
        if !established.ready.is_empty() && established.running < own {
            Some(Lane::Established)
        } else if !others.ready.is_empty() && others.running < OTHERS_AT_ONCE {
            Some(Lane::Others)
        } else {
            None
        }
    }

    fn is_in_outage(&self, now: Moment) -> bool {
        !self.draining && self.outage.until.is_some_and(|until| until > now)
    }
}

impl Queue for Each {
    fn room(&self, lane: Lane) -> usize {
        let lane = self.lane(lane);
        if lane.retries.len() >= MAX_RETRIES {
            return 0;
        }
        WINDOW.saturating_sub(lane.pending.len())
    }

    fn put(&mut self, event: Arc<Event>, _now: Moment) {
        let is_retry = self
            .lines
            .get(&event.agent)
            .is_some_and(|line| line.is_retry);
        let lane = &mut self.lanes[event.lane().index()];
        lane.read = lane.read.max(event.seq);
        if is_retry {
            lane.retries.insert(event.seq);
            self.changes.insert(event.seq, true);
        } else {
            lane.pending.insert(event.seq);
        }
        self.add(event);
    }

    fn restore(&mut self, event: Arc<Event>, _now: Moment) {
        let agent = event.agent.clone();
        let lane = &mut self.lanes[event.lane().index()];
        if event.seq > lane.read {
            // The event comes again in its order.
            self.changes.insert(event.seq, false);
            return;
        }
        lane.retries.insert(event.seq);
        self.lines.entry(agent).or_default().is_retry = true;
        self.add(event);
    }

    fn passed(&mut self, lane: Lane, seq: i64) {
        let lane = self.lane_mut(lane);
        lane.read = lane.read.max(seq);
    }

    fn read(&self, lane: Lane) -> i64 {
        self.lane(lane).read
    }

    fn cursor(&self, lane: Lane) -> i64 {
        let lane = self.lane(lane);
        lane.pending.first().map_or(lane.read, |first| first - 1)
    }

    fn take_changes(&mut self) -> Changes {
        std::mem::take(&mut self.changes)
    }

    fn start(&mut self, now: Moment, wall: UnixNanos) -> Option<Job> {
        if self.is_in_outage(now) {
            return None;
        }
        self.wake(now, false);
        loop {
            let lane = self.lane_to_serve()?;
            let agent = self.lane_mut(lane).ready.pop_front()?;
            let line = self.lines.get_mut(&agent)?;
            let Some(event) = line.events.front().cloned() else {
                self.lines.remove(&agent);
                continue;
            };
            if self.at_least_once && wall.since(event.at) > MAX_AGE {
                line.events.pop_front();
                line.failures = 0;
                self.tally.skipped += 1;
                self.done(&event);
                match self.lines.get(&agent).and_then(|line| line.events.front()) {
                    Some(next) => {
                        let lane = next.lane();
                        self.lane_mut(lane).ready.push_front(agent);
                    }
                    None => drop(self.lines.remove(&agent)),
                }
                continue;
            }
            line.running = true;
            self.tally.retried += u64::from(line.failures > 0);
            self.lane_mut(lane).running += 1;
            let number = self.next_job;
            self.next_job += 1;
            self.jobs.insert(number, (agent, lane));
            return Some(Job {
                number,
                events: vec![event],
            });
        }
    }

    fn end(&mut self, job: u64, outcome: JobOutcome, now: Moment) {
        let Some((agent, lane)) = self.jobs.remove(&job) else {
            return;
        };
        self.lane_mut(lane).running -= 1;
        let Some(line) = self.lines.get_mut(&agent) else {
            return;
        };
        line.running = false;
        if outcome == JobOutcome::Failed && self.at_least_once {
            self.make_retries(&agent);
            return self.sleep(agent, now);
        }
        line.failures = 0;
        let event = line.events.pop_front();
        let next = line.events.front().map(|next| next.lane());
        if let Some(event) = event {
            self.tally.delivered += u64::from(outcome == JobOutcome::Delivered);
            self.done(&event);
        }
        match next {
            Some(lane) => self.lane_mut(lane).ready.push_back(agent),
            None => drop(self.lines.remove(&agent)),
        }
        if outcome == JobOutcome::Delivered {
            self.command_succeeded(now);
        }
    }

    fn next_at(&self, now: Moment) -> Option<Moment> {
        let is_ready = self.lane_to_serve().is_some();
        if self.draining {
            return is_ready.then_some(now);
        }
        let due = self.sleeping.first().map(|(at, _)| *at);
        let next = if is_ready { Some(now) } else { due }?;
        if self.outage.is_on() && !self.jobs.is_empty() {
            return None;
        }
        Some(self.outage.until.map_or(next, |until| next.max(until)))
    }

    fn drain(&mut self) {
        self.draining = true;
    }

    fn waiting(&self) -> usize {
        let [established, others] = &self.lanes;
        let all = [established, others].map(|lane| lane.pending.len() + lane.retries.len());
        all.iter().sum::<usize>().saturating_sub(self.jobs.len())
    }

    fn is_drained(&self) -> bool {
        self.jobs.is_empty() && self.lanes.iter().all(|lane| lane.ready.is_empty())
    }

    fn tally(&self) -> Tally {
        self.tally
    }
}
