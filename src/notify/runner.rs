//! The thread that runs commands for events.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::command::{Environment, Failure, Running, Shell};
use super::event::word;
use super::queue::{Each, Gathered, Job, JobOutcome, Queue, Tally};
use super::shared::{Orders, Shared};
use super::source::{EventSource, Unreadable};
use super::{Calls, Config, Predecessor};
use crate::stats::HookCounters;
use crate::store::{Lane, Opening, Progress};
use hawk_time::{Moment, UnixNanos};
use hawk_time::{Throttle, log_limited};

/// Time between two attempts to read events.
const READ_AGAIN: Duration = Duration::from_secs(1);

/// Delivers the events of a source to all consumers.
pub(super) struct Runner {
    shared: Arc<Shared>,
    source: Box<dyn EventSource>,
    consumers: Vec<Consumer>,
    /// The number of the sequence; 0 before the first.
    opening: u64,
    /// After an error, the time of the next attempt to read.
    read_again_at: Option<Moment>,
    unreadable: Throttle,
    /// The predecessor, with the end of the wait for it; `None` once it has ended.
    predecessor: Option<(Predecessor, Moment)>,
}

/// A command with its queue and its running calls.
struct Consumer {
    calls: Calls,
    shell: Shell,
    queue: Box<dyn Queue>,
    running: Vec<Call>,
    /// The progress that was published last.
    published: Progress,
    /// The counts of its queues for earlier sequences.
    before: Tally,
    /// Number of retries that the store had removed.
    gone: u64,
    counters: HookCounters,
    complaints: Complaints,
}

/// A running call of the command.
struct Call {
    running: Running,
    /// `None` if it belongs to an earlier sequence.
    job: Option<u64>,
    subject: Subject,
}

/// What a call delivers, for log lines.
enum Subject {
    Event(String),
    Events(usize),
}

/// Failures come as often as agents come and go: a line now and then, for each
/// kind of them.
#[derive(Default)]
struct Complaints {
    start: Throttle,
    status: Throttle,
    timed_out: Throttle,
    skipped: Throttle,
    missed: Throttle,
}

impl std::fmt::Display for Subject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Event(text) => f.write_str(text),
            Self::Events(number) => write!(f, "events={number}"),
        }
    }
}

impl Subject {
    fn of(calls: Calls, job: &Job) -> Self {
        match (calls, job.events.first()) {
            (Calls::Each, Some(event)) => {
                let state = word(event.online);
                Self::Event(format!("agent={} state={state}", event.agent))
            }
            _ => Self::Events(job.events.len()),
        }
    }
}

impl Runner {
    pub(super) fn new(
        config: Config,
        environment: &Arc<Environment>,
        shared: Arc<Shared>,
        source: Box<dyn EventSource>,
    ) -> Self {
        let timeout = config.timeout;
        let keeps_events = source.keeps_events();
        let consumer = |one: super::Consumer| Consumer {
            calls: one.calls,
            shell: Shell {
                command: one.command,
                timeout,
                environment: Arc::clone(environment),
            },
            queue: queue(one.calls, keeps_events, [0; 2]),
            running: Vec::new(),
            published: Progress::default(),
            before: Tally::default(),
            gone: 0,
            counters: HookCounters::default(),
            complaints: Complaints::default(),
        };
        let until = |predecessor: Predecessor| {
            let until = Moment::now().after(predecessor.patience);
            (predecessor, until)
        };
        Self {
            shared,
            source,
            consumers: config.consumers.into_iter().map(consumer).collect(),
            opening: 0,
            read_again_at: None,
            unreadable: Throttle::default(),
            predecessor: config.predecessor.map(until),
        }
    }

    /// Delivers until a stop is ordered.
    pub(super) fn run(mut self) {
        if let Err(error) = self.serve() {
            log::error!("cannot wait for commands, no event is delivered any more: {error}");
        }
        self.kill_all();
    }

    fn serve(&mut self) -> io::Result<()> {
        loop {
            let orders = self.shared.orders();
            let (now, wall) = (Moment::now(), UnixNanos::now());
            for consumer in &mut self.consumers {
                consumer.reap(now);
                consumer.kill_late(now);
            }
            let delivers = !orders.pause && orders.stop.is_none_or(|stop| stop.deliver);
            if orders.stop.is_some_and(|stop| !stop.deliver) {
                self.source.close();
            }
            match delivers {
                true => self.read(now),
                // The next attempt is due when events are delivered again.
                false => self.read_again_at = None,
            }
            if orders.stop.is_some() && delivers {
                self.consumers.iter_mut().for_each(|one| one.queue.drain());
            }
            self.check_predecessor(now);
            let may_start = delivers && self.predecessor.is_none();
            if orders.stop.is_some_and(|stop| stop.by <= now) {
                return Ok(());
            }
            let keeps_events = self.source.keeps_events();
            for consumer in &mut self.consumers {
                if may_start {
                    consumer.start_some(keeps_events, now, wall);
                }
            }
            self.publish();
            self.publish_counters(now);
            if orders.stop.is_some() && self.is_done(delivers) {
                return Ok(());
            }
            self.wait(orders, may_start, now)?;
        }
    }

    fn is_done(&self, delivers: bool) -> bool {
        let nothing_runs = self.consumers.iter().all(|one| one.running.is_empty());
        let is_drained = |one: &Consumer| one.queue.is_drained();
        nothing_runs && (!delivers || self.consumers.iter().all(is_drained))
    }

    /// Reads events until the queues are full.
    fn read(&mut self, now: Moment) {
        if self.read_again_at.is_some_and(|at| at > now) {
            return;
        }
        self.read_again_at = None;
        if let Err(error) = self.try_to_read(now) {
            self.read_again_at = Some(now.after(READ_AGAIN));
            log_limited!(warn, self.unreadable, now, left_out =>
                "cannot read events to deliver: {error} left_out={left_out}");
        }
    }

    fn try_to_read(&mut self, now: Moment) -> Result<(), Unreadable> {
        if let Some(opening) = self.source.opening(self.opening) {
            self.begin(&opening, now)?;
        }
        if self.opening == 0 {
            return Ok(());
        }
        for consumer in &mut self.consumers {
            for lane in Lane::ALL {
                loop {
                    let most = consumer.queue.room(lane);
                    if most == 0 {
                        break;
                    }
                    let after = consumer.queue.read(lane);
                    let found = self.source.read(lane, after, most)?;
                    let count = found.events.len();
                    for event in found.events {
                        consumer.queue.put(event, now);
                    }
                    consumer.queue.passed(lane, found.upto);
                    if count < most {
                        break;
                    }
                }
            }
        }
        Ok(())
    }

    /// Continues with another sequence of events.
    fn begin(&mut self, opening: &Opening, now: Moment) -> Result<(), Unreadable> {
        let keeps_events = self.source.keeps_events();
        let mut queues = Vec::new();
        for (consumer, (cursors, retries)) in self.consumers.iter().zip(&opening.consumers) {
            let mut queue = queue(consumer.calls, keeps_events, *cursors);
            let found = self.source.fetch(retries)?;
            let there: Vec<_> = found.iter().map(|event| event.seq).collect();
            for event in found {
                queue.restore(event, now);
            }
            let is_gone = |seq: &&i64| there.binary_search(seq).is_err();
            let gone: Vec<_> = retries.iter().filter(is_gone).copied().collect();
            queues.push((queue, gone));
        }
        self.opening = opening.number;
        for (index, (queue, gone)) in queues.into_iter().enumerate() {
            let consumer = &mut self.consumers[index];
            consumer.before = consumer.tally();
            consumer.queue = queue;
            // Running calls belong to the earlier sequence.
            consumer.running.iter_mut().for_each(|call| call.job = None);
            let (cursors, _) = &opening.consumers[index];
            consumer.published = Progress {
                cursors: *cursors,
                read: *cursors,
                ..Progress::default()
            };
            if !gone.is_empty() {
                consumer.gone += gone.len() as u64;
                let progress = Progress {
                    retries: gone.into_iter().map(|seq| (seq, false)).collect(),
                    ..consumer.published.clone()
                };
                self.source.publish(self.opening, index, &progress);
            }
        }
        Ok(())
    }

    fn publish(&mut self) {
        for (index, consumer) in self.consumers.iter_mut().enumerate() {
            let progress = Progress {
                cursors: Lane::ALL.map(|lane| consumer.queue.cursor(lane)),
                read: Lane::ALL.map(|lane| consumer.queue.read(lane)),
                retries: consumer.queue.take_changes(),
            };
            if progress != consumer.published {
                self.source.publish(self.opening, index, &progress);
                consumer.published = Progress {
                    retries: BTreeMap::new(),
                    ..progress
                };
            }
        }
    }

    fn publish_counters(&mut self, now: Moment) {
        let missed = self.source.missed();
        let mut counters = Vec::with_capacity(self.consumers.len());
        for (consumer, missed) in self.consumers.iter_mut().zip(missed) {
            let read = Lane::ALL.map(|lane| consumer.queue.read(lane));
            let behind = self.source.behind(read);
            counters.push(consumer.count(behind, missed, now));
        }
        self.shared.publish(&counters);
    }

    /// Checks whether the predecessor has ended, so that commands of this process do not
    /// overtake its commands.
    fn check_predecessor(&mut self, now: Moment) {
        let Some((predecessor, until)) = &self.predecessor else {
            return;
        };
        let mut sources = [PollFd::new(&predecessor.end, PollFlags::IN)];
        let has_ended = poll(&mut sources, Some(&Timespec::default())).unwrap_or(1) > 0;
        if !has_ended && now < *until {
            return;
        }
        if !has_ended {
            log::warn!(
                "the process before this one has not ended; commands of this process may \
                 overtake its commands"
            );
        }
        self.predecessor = None;
    }

    /// Waits until an event comes, a command ends, or a deadline passes.
    fn wait(&self, orders: Orders, may_start: bool, now: Moment) -> io::Result<()> {
        let calls = self.consumers.iter().flat_map(|one| &one.running);
        let kills = calls.clone().filter_map(|call| call.running.kill_at());
        let queues = self.consumers.iter().filter(|_| may_start);
        let starts = queues.filter_map(|one| one.next_at(now));
        let predecessor = self.predecessor.as_ref();
        let next = kills
            .chain(starts)
            .chain(orders.stop.map(|stop| stop.by))
            .chain(self.read_again_at)
            .chain(predecessor.map(|(_, until)| *until))
            .min();
        // A timeout beyond the kernel's range means no timeout.
        let timeout = next.and_then(|next| Timespec::try_from(next.since(Moment::now())).ok());
        let mut sources: Vec<_> = std::iter::once(self.shared.bell())
            .chain(calls.map(|call| call.running.end()))
            .chain(predecessor.map(|(predecessor, _)| predecessor.end.as_fd()))
            .map(|source| PollFd::from_borrowed_fd(source, PollFlags::IN))
            .collect();
        match poll(&mut sources, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Kills running commands and leaves waiting events.
    fn kill_all(&mut self) {
        let keeps_events = self.source.keeps_events();
        let mut counters = Vec::new();
        for consumer in &mut self.consumers {
            for call in &mut consumer.running {
                // The process ends without waiting for it.
                call.running.kill().ok();
            }
            let killed = consumer.running.len();
            let read = Lane::ALL.map(|lane| consumer.queue.read(lane));
            let waiting = consumer.queue.waiting() + self.source.behind(read);
            let name = consumer.calls.name();
            if keeps_events && killed > 0 {
                log::warn!(
                    "{name} commands given up: {killed} are killed; their events are delivered \
                     again after the next start"
                );
            } else if !keeps_events && killed + waiting > 0 {
                log::warn!(
                    "{name} commands given up: {killed} are killed, for {waiting} events more \
                     none is run"
                );
            }
            counters.push(HookCounters {
                running: 0,
                ..consumer.counters
            });
        }
        self.shared.publish(&counters);
        self.source.close();
    }
}

impl Consumer {
    fn tally(&self) -> Tally {
        self.before.plus(self.queue.tally())
    }

    fn next_at(&self, now: Moment) -> Option<Moment> {
        match self.has_strays() {
            true => None,
            false => self.queue.next_at(now),
        }
    }

    /// Returns whether calls run for an earlier sequence. Both sequences may have events of the
    /// same agent.
    fn has_strays(&self) -> bool {
        self.running.iter().any(|call| call.job.is_none())
    }

    /// Starts all jobs that may begin.
    fn start_some(&mut self, keeps_events: bool, now: Moment, wall: UnixNanos) {
        while !self.has_strays()
            && let Some(job) = self.queue.start(now, wall)
        {
            let mut input = Vec::new();
            for event in &job.events {
                event.write_line(keeps_events, &mut input);
            }
            let subject = Subject::of(self.calls, &job);
            match Running::start(&self.shell, &input, now) {
                Ok(running) => self.running.push(Call {
                    running,
                    job: Some(job.number),
                    subject,
                }),
                Err(failure) => self.end(Some(job.number), &subject, Err(failure), now),
            }
        }
    }

    /// Waits for the calls that have ended.
    fn reap(&mut self, now: Moment) {
        let mut index = 0;
        while let Some(call) = self.running.get_mut(index) {
            match call.running.outcome(self.shell.timeout) {
                None => index += 1,
                Some(outcome) => {
                    let Call { job, subject, .. } = self.running.swap_remove(index);
                    self.end(job, &subject, outcome, now);
                }
            }
        }
    }

    /// Kills calls that exceed their timeout.
    fn kill_late(&mut self, now: Moment) {
        for call in &mut self.running {
            if call.running.kill_at().is_some_and(|kill_at| kill_at <= now)
                && let Err(error) = call.running.kill()
            {
                log_limited!(warn, self.complaints.timed_out, now, left_out =>
                    "the {} command takes too long and cannot be killed: {error} {} \
                     left_out={left_out}",
                    self.calls.name(),
                    call.subject);
            }
        }
    }

    /// Counts and logs the end of a call, or a failed start, and reports it to the queue.
    fn end(
        &mut self,
        job: Option<u64>,
        subject: &Subject,
        ended: Result<(), Failure>,
        now: Moment,
    ) {
        self.counters.run += 1;
        let outcome = match &ended {
            Ok(()) => JobOutcome::Delivered,
            Err(Failure::TimedOut(_)) => {
                self.counters.timed_out += 1;
                JobOutcome::Failed
            }
            Err(_) => {
                self.counters.failed += 1;
                JobOutcome::Failed
            }
        };
        if let Err(failure) = ended {
            log_limited!(warn, self.complaints.about(&failure), now, left_out =>
                "the {} command {failure} {subject} left_out={left_out}",
                self.calls.name());
        }
        if let Some(job) = job {
            self.queue.end(job, outcome, now);
        }
    }

    /// Returns its counters, with `behind` unread events and `missed` events. Logs events that
    /// are not delivered.
    fn count(&mut self, behind: usize, missed: u64, now: Moment) -> HookCounters {
        let Tally {
            delivered,
            retried,
            skipped,
        } = self.tally();
        let name = self.calls.name();
        let newly_skipped = skipped.saturating_sub(self.counters.skipped);
        if newly_skipped > 0 {
            log_limited!(warn, self.complaints.skipped, now, left_out =>
                "events skipped, the {name} command has failed for too long: {newly_skipped} \
                 left_out={left_out}");
        }
        let missed = missed + self.gone;
        let newly_missed = missed.saturating_sub(self.counters.missed);
        if newly_missed > 0 {
            log_limited!(warn, self.complaints.missed, now, left_out =>
                "events were removed from the store before the {name} command was run for them: \
                 {newly_missed} left_out={left_out}");
        }
        self.counters = HookCounters {
            running: self.running.len(),
            waiting: self.queue.waiting() + behind,
            delivered,
            retried,
            skipped,
            missed,
            ..self.counters
        };
        self.counters
    }
}

impl Complaints {
    /// Returns the throttle of log lines about failures of this kind.
    const fn about(&mut self, failure: &Failure) -> &mut Throttle {
        match failure {
            Failure::Start(_) => &mut self.start,
            Failure::Status(_) | Failure::Lost(_) => &mut self.status,
            Failure::TimedOut(_) => &mut self.timed_out,
        }
    }
}

/// Returns an empty queue.
fn queue(calls: Calls, at_least_once: bool, cursors: [i64; 2]) -> Box<dyn Queue> {
    let seed = Moment::now().as_nanos();
    match calls {
        Calls::Each => Box::new(Each::new(at_least_once, cursors, seed)),
        Calls::Gathered(window) => Box::new(Gathered::new(at_least_once, window, cursors, seed)),
    }
}
